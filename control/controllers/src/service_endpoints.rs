//! Keeps endpoints and endpoint slices of every service with a selector in line with its pods, and the slices of the
//! others in line with Endpoints that somebody wrote.

use crate::{
    Context,
    caches::Caches,
    endpoint_mirror, endpoint_slices, endpoints,
    runtime::{self, Controller, Keys, Next},
    service_backends,
};
use async_trait::async_trait;
use coracle_client::changes::Changed;
use coracle_objects::{ApiError, ObjectKey, meta};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};
use tokio::task::JoinHandle;

struct ServiceEndpoints {
    context: Context,
}

#[async_trait]
impl Controller for ServiceEndpoints {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let caches = &self.context.caches;
        let namespace = caches.namespaces.get(&ObjectKey::cluster(&*key.namespace));
        if namespace.is_some_and(|namespace| meta::is_terminating(&namespace)) {
            // Nothing can be created there any more, and everything goes anyway.
            return Ok(Next::Done);
        }
        let service = caches.services.get(key);
        let pods = if service.is_some() { caches.pods.in_namespace(&key.namespace) } else { Vec::new() };
        let (mut slices, mut mirrors) = (caches.endpoint_slices.in_namespace(&key.namespace), Vec::new());
        slices.retain(|slice| {
            if endpoint_mirror::is_mirror(slice, &key.name) {
                mirrors.push(Arc::clone(slice));
            }
            endpoint_slices::is_ours(slice, &key.name)
        });
        let endpoints = caches.endpoints.get(key);
        let mut writes = endpoint_slices::plan(service.as_deref(), &pods, &slices);
        writes.extend(endpoints::plan(service.as_deref(), &pods, endpoints.as_deref()));
        writes.extend(endpoint_mirror::plan(service.as_deref(), endpoints.as_deref(), &mirrors));
        runtime::write_all(&self.context, writes).await?;
        Ok(Next::Done)
    }
}

/// Services that select, or selected, a pod that changed.
fn by_pods(caches: &Caches) -> Keys<ObjectKey> {
    let services = caches.services.clone();
    // As they were when they were looked at last: who selected a pod that is gone?
    let mut seen: HashMap<ObjectKey, Arc<Value>> = HashMap::new();
    runtime::keys_from(&caches.pods, move |pods, changed| {
        let keys = match changed {
            Changed::Keys(keys) => keys,
            Changed::Everything => {
                seen = pods.all().into_iter().map(|pod| (meta::key(&pod), pod)).collect();
                return services.keys();
            }
        };
        let mut affected = BTreeSet::new();
        for key in keys {
            let now = pods.get(&key);
            let before = match &now {
                Some(pod) => seen.insert(key.clone(), Arc::clone(pod)),
                None => seen.remove(&key),
            };
            let part = |pod: &Option<Arc<Value>>| {
                pod.as_ref().map(|pod| service_backends::relevant_part(pod).map(Value::clone))
            };
            if part(&before) == part(&now) {
                continue;
            }
            let pods = [before, now];
            for service in services.in_namespace(&key.namespace) {
                if pods.iter().flatten().any(|pod| service_backends::selects(&service, pod)) {
                    affected.insert(meta::key(&service));
                }
            }
        }
        affected.into_iter().collect()
    })
}

/// Services of slices that changed, so that what somebody else changed or left behind is put right.
fn by_slices(caches: &Caches) -> Keys<ObjectKey> {
    let services = caches.services.clone();
    runtime::keys_from(&caches.endpoint_slices, move |slices, changed| {
        let mut affected = BTreeSet::new();
        for key in runtime::changed_keys(slices, changed) {
            if let Some(slice) = slices.get(&key) {
                let service = meta::label(&slice, endpoint_slices::SERVICE_NAME);
                affected.extend(service.map(|name| ObjectKey::namespaced(&*key.namespace, name)));
                continue;
            }
            // Whose it was is no longer known, but its name begins with the service's.
            let of_namespace = services.in_namespace(&key.namespace);
            let named = of_namespace.iter().filter(|service| key.name.starts_with(meta::name(service)));
            affected.extend(named.map(|service| meta::key(service)));
        }
        affected.into_iter().collect()
    })
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    runtime::spawn("service endpoints", context, |context| {
        let caches = &context.caches;
        let sources = vec![
            runtime::same_keys(&caches.services),
            runtime::same_keys(&caches.endpoints),
            by_slices(caches),
            by_pods(caches),
        ];
        (ServiceEndpoints { context: context.clone() }, sources)
    })
}

#[cfg(test)]
mod tests;
