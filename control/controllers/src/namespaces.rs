//! Empties a namespace that is being deleted, then lets it go.

use crate::{
    Context,
    runtime::{self, Controller, Keys, Next},
};
use async_trait::async_trait;
use coracle_client::{DeleteOptions, Part, Query, Write};
use coracle_objects::{ApiError, Kind, ObjectKey, catalogue, kind::Verb, meta};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// The finalizer that stands for "not empty yet".
const FINALIZER: &str = "kubernetes";

/// What needs a node to end is looked after again at the latest after this time; usually the pod's end says so earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Deletes and looks again at once this often: most things are gone after the first time.
const ROUNDS: usize = 3;

/// What to do with a namespace.
#[derive(Debug)]
pub enum Plan {
    /// It is not being deleted, or not held by us.
    Leave,
    /// Delete these.
    Delete(Vec<Write>),
    /// All that is left is on its way out.
    Wait,
    /// Let it go.
    Finalize(Write),
}

/// What to do with a namespace that contains `contents`.
#[must_use]
pub fn plan(namespace: &Value, contents: &[(&'static Kind, Vec<Arc<Value>>)]) -> Plan {
    let finalizers = namespace["spec"]["finalizers"].as_array().map_or(&[][..], Vec::as_slice);
    if !meta::is_terminating(namespace) || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Plan::Leave;
    }
    let objects = || contents.iter().flat_map(|(kind, items)| items.iter().map(move |item| (*kind, item)));
    if objects().next().is_none() {
        let others = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).cloned();
        let mut released = namespace.clone();
        released["spec"]["finalizers"] = others.collect();
        return Plan::Finalize(Write::Update(catalogue::namespaces(), Part::Finalize, released));
    }
    let remaining = objects().filter(|(_, item)| !meta::is_terminating(item));
    let deletes: Vec<Write> = remaining
        .map(|(kind, item)| {
            let options = DeleteOptions { uid: Some(meta::uid(item).to_owned()), ..DeleteOptions::default() };
            Write::Delete(kind, meta::key(item), options)
        })
        .collect();
    if deletes.is_empty() { Plan::Wait } else { Plan::Delete(deletes) }
}

struct Namespaces {
    context: Context,
}

impl Namespaces {
    async fn contents(&self, namespace: &str) -> Result<Vec<(&'static Kind, Vec<Arc<Value>>)>, ApiError> {
        let query = Query { namespace: Some(namespace.to_owned()), ..Query::default() };
        let mut contents = Vec::new();
        for kind in catalogue::all() {
            if kind.namespaced && kind.allows(Verb::List) && kind.allows(Verb::Delete) {
                contents.push((*kind, self.context.client.list(kind, &query).await?.items));
            }
        }
        Ok(contents)
    }
}

#[async_trait]
impl Controller for Namespaces {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let terminating = self.context.caches.namespaces.get(key).filter(|namespace| meta::is_terminating(namespace));
        let Some(namespace) = terminating else { return Ok(Next::Done) };
        for _ in 0..ROUNDS {
            match plan(&namespace, &self.contents(&key.name).await?) {
                Plan::Leave => return Ok(Next::Done),
                Plan::Delete(writes) => runtime::write_all(&self.context, writes).await?,
                Plan::Wait => return Ok(Next::After(LOOK_AGAIN)),
                Plan::Finalize(write) => {
                    self.context.client.write(write).await?;
                    return Ok(Next::Done);
                }
            }
        }
        Ok(Next::After(LOOK_AGAIN))
    }
}

/// Namespaces that are being deleted and from which a pod may have gone.
fn left_by_pods(context: &Context) -> Keys<ObjectKey> {
    let namespaces = context.caches.namespaces.clone();
    runtime::keys_from(&context.caches.pods, move |pods, changed| {
        let mut names: Vec<String> =
            runtime::changed_keys(pods, changed).into_iter().map(|key| key.namespace).collect();
        names.dedup();
        let keys = names.into_iter().map(ObjectKey::cluster);
        keys.filter(|key| namespaces.get(key).is_some_and(|namespace| meta::is_terminating(&namespace))).collect()
    })
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    runtime::spawn("namespaces", context, |context| {
        let sources = vec![runtime::same_keys(&context.caches.namespaces), left_by_pods(context)];
        (Namespaces { context: context.clone() }, sources)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_client::fake::{Fake, ManualClock};
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    fn namespace(terminating: bool, finalizers: &[&str]) -> Value {
        let mut namespace = json!({"metadata": {"name": "team"}, "spec": {"finalizers": finalizers}});
        if terminating {
            namespace["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        namespace
    }

    fn object(name: &str, terminating: bool) -> Arc<Value> {
        let mut object = json!({"metadata": {"namespace": "team", "name": name, "uid": name}});
        if terminating {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Arc::new(object)
    }

    fn text(plan: &Plan) -> String {
        match plan {
            Plan::Leave => "leave".to_owned(),
            Plan::Wait => "wait".to_owned(),
            Plan::Finalize(Write::Update(_, Part::Finalize, object)) => {
                format!("finalize {}", object["spec"]["finalizers"])
            }
            Plan::Delete(writes) => {
                let text = |write: &Write| match write {
                    Write::Delete(kind, key, options) => format!("{}/{} {:?}", kind.plural, key.name, options.uid),
                    other => format!("{other:?}"),
                };
                writes.iter().map(text).collect::<Vec<_>>().join(", ")
            }
            Plan::Finalize(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn a_namespace_is_emptied_before_it_goes() {
        let (pods, secrets) = (catalogue::pods(), catalogue::secrets());
        let table = [
            (namespace(false, &["kubernetes"]), vec![(pods, vec![object("p", false)])], "leave"),
            (namespace(true, &["other"]), vec![], "leave"),
            (namespace(true, &["kubernetes"]), vec![(pods, vec![])], "finalize []"),
            (namespace(true, &["kubernetes", "other"]), vec![], "finalize [\"other\"]"),
            (
                namespace(true, &["kubernetes"]),
                vec![(pods, vec![object("p", true)]), (secrets, vec![object("s", false)])],
                "secrets/s Some(\"s\")",
            ),
            (namespace(true, &["kubernetes"]), vec![(pods, vec![object("p", true)])], "wait"),
        ];
        for (namespace, contents, expected) in table {
            assert_eq!(text(&plan(&namespace, &contents)), expected);
        }
    }

    #[tokio::test]
    async fn deletion_waits_for_pods_on_nodes_and_then_ends() {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let _ends = shutdown.clone().drop_guard();
        let fake = Fake::new(&clock);
        let key = ObjectKey::cluster("team");
        fake.put(catalogue::namespaces(), namespace(false, &["kubernetes"]));
        fake.put(
            catalogue::pods(),
            json!({"metadata": {"namespace": "team", "name": "bound"}, "spec": {"nodeName": "n"}}),
        );
        for (kind, name) in [(catalogue::pods(), "free"), (catalogue::secrets(), "s"), (catalogue::events(), "e")] {
            fake.put(kind, json!({"metadata": {"namespace": "team", "name": name}}));
        }
        fake.put(catalogue::secrets(), json!({"metadata": {"namespace": "other", "name": "s"}}));
        let context = Context::new(fake.client(), Arc::new(clock.clone()), shutdown);
        start(&context);
        clock.settle().await;
        assert!(fake.writes().is_empty());

        let client = fake.client();
        client.write(Write::Delete(catalogue::namespaces(), key.clone(), DeleteOptions::default())).await.unwrap();
        clock.settle().await;
        assert_eq!(fake.peek_all(catalogue::pods()).len(), 1, "only the bound pod is left");
        assert!(meta::is_terminating(&fake.peek_all(catalogue::pods())[0]));
        assert_eq!((fake.peek_all(catalogue::secrets()).len(), fake.peek_all(catalogue::events()).len()), (1, 0));
        clock.advance(Duration::from_mins(1)).await;
        assert!(fake.peek(catalogue::namespaces(), &key).is_some());

        fake.remove(catalogue::pods(), &ObjectKey::namespaced("team", "bound"));
        clock.settle().await;
        assert!(fake.peek(catalogue::namespaces(), &key).is_none(), "without waiting for the next look");
        assert_eq!(fake.peek_all(catalogue::secrets()).len(), 1);
    }
}
