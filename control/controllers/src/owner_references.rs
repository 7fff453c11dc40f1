//! Deletes what belonged to an object that is gone: background deletion by `metadata.ownerReferences`.

mod index;

use crate::{
    Context,
    runtime::{self, Controller, Keys, Next},
};
use async_trait::async_trait;
use coracle_client::{DeleteOptions, Write, cache::Cache};
use coracle_objects::{ApiError, ObjectKey, Reason, catalogue, meta};
use index::{Index, Item};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// There, with the uid that the reference names.
    Present,
    /// Not there, or another of the same name.
    Absent,
    /// Of a kind that we do not serve, or one that cannot own this: not ours to judge.
    Unknown,
}

/// Whether an object with these owners goes: when it has some and all of them are gone.
#[must_use]
pub fn is_orphan(owners: &[Presence]) -> bool {
    !owners.is_empty() && owners.iter().all(|owner| *owner == Presence::Absent)
}

/// One entry of `metadata.ownerReferences`: the owner, when it is of a kind that can own `dependent`, and its uid.
fn owner(dependent: &Item, reference: &Value) -> (Option<Item>, String) {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let kind = catalogue::by_kind(text("apiVersion"), text("kind"));
    let namespace = dependent.key.namespace.as_str();
    let item = kind.filter(|kind| !kind.namespaced || !namespace.is_empty()).map(|kind| {
        let namespace = if kind.namespaced { namespace } else { "" };
        Item { kind, key: ObjectKey::namespaced(namespace, text("name")) }
    });
    (item, text("uid").to_owned())
}

fn owners(dependent: &Item, object: &Value) -> Vec<(Option<Item>, String)> {
    let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    references.map(|reference| owner(dependent, reference)).collect()
}

struct OwnerReferences {
    context: Context,
}

impl OwnerReferences {
    async fn presence(&self, owner: Option<&Item>, uid: &str) -> Result<Presence, ApiError> {
        let Some(owner) = owner else { return Ok(Presence::Unknown) };
        let cached = self.context.caches.of(owner.kind).and_then(|cache| cache.get(&owner.key));
        if cached.is_some_and(|object| meta::uid(&object) == uid) {
            return Ok(Presence::Present);
        }
        // The cache of the owner's kind may lag behind that of the dependent's: nothing is deleted on its word alone.
        match self.context.client.get(owner.kind, &owner.key).await {
            Ok(object) if meta::uid(&object) == uid => Ok(Presence::Present),
            Ok(_) => Ok(Presence::Absent),
            Err(error) if error.reason == Reason::NotFound => Ok(Presence::Absent),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Controller for OwnerReferences {
    type Key = Item;

    async fn reconcile(&self, item: &Item) -> Result<Next, ApiError> {
        let cached = self.context.caches.of(item.kind).and_then(|cache| cache.get(&item.key));
        let Some(object) = cached.filter(|object| !meta::is_terminating(object)) else { return Ok(Next::Done) };
        let mut presences = Vec::new();
        for (owner, uid) in owners(item, &object) {
            presences.push(self.presence(owner.as_ref(), &uid).await?);
        }
        if is_orphan(&presences) {
            let options = DeleteOptions {
                grace_period_seconds: None,
                uid: Some(meta::uid(&object).to_owned()),
                // Its owners may have been changed meanwhile.
                resource_version: Some(meta::resource_version(&object).to_owned()),
            };
            tracing::info!(kind = item.kind.plural, object = %item.key, "deleting what belonged to something gone");
            runtime::write_all(&self.context, vec![Write::Delete(item.kind, item.key.clone(), options)]).await?;
        }
        Ok(Next::Done)
    }
}

/// Objects of one kind that have owners, when they change; and what they own, when they are gone.
fn affected(cache: &Cache, index: &Arc<Mutex<Index>>) -> Keys<Item> {
    let (kind, index) = (cache.kind(), Arc::clone(index));
    runtime::keys_from(cache, move |cache, changed| {
        let mut index = index.lock();
        let keys = match changed {
            coracle_client::changes::Changed::Keys(keys) => keys,
            coracle_client::changes::Changed::Everything => {
                let mut keys = index.keys_of(kind);
                keys.extend(cache.keys());
                keys
            }
        };
        let mut affected = Vec::new();
        for key in keys {
            let item = Item { kind, key };
            let object = cache.get(&item.key);
            affected.extend(index.orphaned_by(&item, object.as_deref().map(meta::uid)));
            let owners = object.map(|object| owners(&item, &object)).unwrap_or_default();
            if !owners.is_empty() {
                affected.push(item.clone());
            }
            index.set_owners(item, owners.into_iter().filter_map(|(owner, uid)| Some((owner?, uid))).collect());
        }
        affected
    })
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    runtime::spawn("owner references", context, |context| {
        let index = Arc::new(Mutex::new(Index::default()));
        // Events belong to nobody, expire on their own and are many.
        let owned = context.caches.every().iter().filter(|cache| cache.kind() != catalogue::events());
        let sources = owned.map(|cache| affected(cache, &index)).collect();
        (OwnerReferences { context: context.clone() }, sources)
    })
}

#[cfg(test)]
mod tests;
