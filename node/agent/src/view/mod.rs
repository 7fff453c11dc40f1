//! What the node is told of its cluster: one stream that feeds everybody here who has to know, from where it broke off, and
//! from the disk before any server was reached.
//!
//! ```text
//!  server ──updates──▶ View ──▶ caches (namespaces, nodes, config maps, secrets, services, slices), then pods
//!                       │ ▲
//!                       ▼ └── what it knew, at a start
//!                      disk
//! ```
//!
//! Pods are not on this disk: the ledger has them. Nothing is acted on in halves: an update is taken in when all of it has come.

mod disk;

use crate::{
    context::Caches,
    link::{
        CONFIG_MAPS, Change, ENDPOINT_SLICES, FOLLOWED, Link, NAMESPACES, NODES, PODS, Position, Resource, SECRETS,
        SERVICES, Update,
    },
    reflector::Sink,
    retry::Reconnect,
};
use coracle_objects::ApiError;
use disk::Disk;
use futures::StreamExt;
use serde_json::Value;
use std::{collections::HashMap, path::Path, sync::Arc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// See the module.
pub(crate) struct View {
    link: Arc<dyn Link>,
    caches: Caches,
    pods: Box<dyn Sink>,
    position: Position,
    disk: Option<Disk>,
    /// Updates that were taken in.
    taken: u64,
}

impl View {
    /// Takes in what `directory` remembers, if it is given; what cannot be read is as if it were not there.
    pub(crate) fn open(link: Arc<dyn Link>, caches: Caches, pods: Box<dyn Sink>, directory: Option<&Path>) -> Self {
        let mut this = Self { link, caches, pods, position: Position::default(), disk: None, taken: 0 };
        let Some(directory) = directory else { return this };
        match Disk::open(directory) {
            Ok((disk, remembered)) => {
                this.disk = Some(disk);
                if let Some(mut remembered) = remembered {
                    info!(revision = remembered.revision, "the node knows its cluster from before");
                    this.position =
                        Position { history: remembered.history, revision: remembered.revision, has_pods: false };
                    remembered.objects.iter_mut().for_each(|(_, object)| date(object, 0));
                    this.replace(remembered.objects, false);
                }
            }
            Err(error) => warn!(%error, "what the node is told cannot be kept on disk"),
        }
        this
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut reconnect = Reconnect::new();
        let follow = async {
            loop {
                match self.follow(&mut reconnect).await {
                    Ok(()) => debug!("the node's view ended"),
                    Err(error) if reconnect.is_news(&error) => warn!(%error, "the node is told of no changes"),
                    Err(error) => debug!(%error, "the node is still told of no changes"),
                }
                tokio::time::sleep(reconnect.delay()).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow(&mut self, reconnect: &mut Reconnect) -> Result<(), ApiError> {
        let mut updates = self.link.follow(&self.position).await?;
        let mut gathered = Update::default();
        while let Some(update) = updates.next().await {
            let Update { whole, all_pods, changes, revision, history } = update?;
            if whole {
                gathered = Update { whole, ..Update::default() };
            }
            gathered.all_pods |= all_pods;
            gathered.changes.extend(changes);
            if !history.is_empty() {
                gathered.history = history;
            }
            if revision > 0 {
                gathered.revision = revision;
                reconnect.reset();
                self.take(std::mem::take(&mut gathered)).await;
            }
        }
        Ok(())
    }

    /// Takes in what belongs together.
    async fn take(&mut self, update: Update) {
        let Update { whole, all_pods, mut changes, revision, history } = update;
        if !history.is_empty() {
            self.position.history = history;
        }
        self.position.revision = revision;
        self.position.has_pods = true;
        if let Some(disk) = self.disk.take() {
            self.disk = disk.note(whole, &changes, &self.position).await;
        }
        self.taken += 1;
        for change in &mut changes {
            if let Change::Applied(_, object) = change {
                date(object, self.taken);
            }
        }
        if whole {
            let objects = changes.into_iter().filter_map(|change| match change {
                Change::Applied(resource, object) => Some((resource, object)),
                Change::Gone(..) => None,
            });
            self.replace(objects.collect(), true);
            return;
        }
        let mut pods = Vec::new();
        for change in changes {
            match change {
                Change::Applied(PODS, pod) if all_pods => pods.push(pod),
                Change::Gone(PODS, ..) if all_pods => {}
                Change::Applied(resource, object) => {
                    if let Some(sink) = self.sink(resource) {
                        sink.apply(object);
                    }
                }
                Change::Gone(resource, key, uid) => {
                    if let Some(sink) = self.sink(resource) {
                        sink.delete(&key, &uid);
                    }
                }
            }
        }
        if all_pods {
            self.pods.replace(pods);
        }
    }

    /// There are these objects and no others.
    fn replace(&mut self, objects: Vec<(Resource, Value)>, with_pods: bool) {
        let mut by_resource: HashMap<Resource, Vec<Value>> = HashMap::new();
        for (resource, object) in objects {
            by_resource.entry(resource).or_default().push(object);
        }
        for resource in FOLLOWED.into_iter().filter(|resource| with_pods || *resource != PODS) {
            if let Some(sink) = self.sink(resource) {
                sink.replace(by_resource.remove(&resource).unwrap_or_default());
            }
        }
    }

    fn sink(&mut self, resource: Resource) -> Option<&mut dyn Sink> {
        let caches = &mut self.caches;
        match resource {
            NAMESPACES => Some(&mut caches.namespaces),
            NODES => Some(&mut caches.nodes),
            CONFIG_MAPS => Some(&mut caches.config_maps),
            SECRETS => Some(&mut caches.secrets),
            SERVICES => Some(&mut caches.services),
            ENDPOINT_SLICES => Some(&mut caches.slices),
            PODS => Some(&mut *self.pods),
            _ => None,
        }
    }
}

/// Gives an object that is told without its version one by which who has read it knows that it is another one now.
fn date(object: &mut Value, taken: u64) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.entry("resourceVersion").or_insert_with(|| format!("view-{taken}").into());
    }
}

#[cfg(test)]
mod tests;
