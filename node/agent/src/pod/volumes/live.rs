//! Keeps the files of config maps, secrets and the downward API as they are in the control plane, while pods run.
//!
//! As soon as the node is told of a change of a config map or secret, and every [`PERIOD`] for what pods say of themselves,
//! what differs is put in place all at once. What is not known or does not fit any more leaves the files as they are. Parts
//! mounted by `subPath` stay what they were when their container started, as in Kubernetes.

use super::{
    content::{Content, content, is_made_of_objects, needed},
    fetch, payload,
};
use crate::{
    context::Context,
    events::Severity,
    ledger::is_file_name,
    pod::{env::NodeFacts, manager::Registry, spec},
};
use coracle_objects::meta;
use serde_json::Value;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Between two looks where nothing is heard of a change.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);
/// Between two looks at least: what changes in one go is looked at once.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Refresher {
    context: Arc<Context>,
    registry: Registry,
}

impl Refresher {
    pub(crate) fn new(context: Arc<Context>, registry: Registry) -> Self {
        Self { context, registry }
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let pace = self.context.pace;
        let caches = &self.context.caches;
        let (mut config_maps, mut secrets) = (caches.config_maps.version(), caches.secrets.version());
        let look = async {
            loop {
                tokio::select! {
                    () = pace.sleep(PERIOD) => {}
                    Ok(()) = config_maps.changed() => {}
                    Ok(()) = secrets.changed() => {}
                }
                pace.sleep(PAUSE).await;
                config_maps.mark_unchanged();
                secrets.mark_unchanged();
                for pod in self.registry.all().into_iter().filter(|pod| follows(pod)) {
                    self.refresh(&pod).await;
                }
            }
        };
        tokio::select! {
            () = look => {}
            () = stop.cancelled() => {}
        }
    }

    async fn refresh(&self, pod: &Arc<Value>) {
        let Ok(namespace_uid) = self.context.namespace_uid(pod) else { return };
        let Some(writing) = self.registry.writing(meta::uid(pod)) else { return };
        let Ok(owner) = self.context.owner(&namespace_uid) else { return };
        let directory = self.context.volumes(&namespace_uid, meta::uid(pod));
        let host_ip = self.context.host_ip();
        let node = NodeFacts { host_ip: &host_ip, offer: self.context.room.offer() };
        let mut changes: Vec<(String, PathBuf, Vec<payload::VolumeFile>)> = Vec::new();
        for volume in spec::items(&pod["spec"], "volumes").iter().filter(|volume| is_made_of_objects(volume)) {
            let name = spec::text(volume, "name");
            let target = directory.join(name);
            // What has not been set up yet is the pod's owner task's.
            if !is_file_name(name) || payload::current(&target).is_err() {
                continue;
            }
            let (config_maps, secrets) = needed(volume);
            let known = fetch(&self.context.caches, meta::namespace(pod), config_maps, secrets);
            let Ok(sources) = known else { continue };
            match content(volume, pod, node, &sources) {
                Ok(Content::Files(files)) => changes.push((name.to_owned(), target, files)),
                Ok(Content::Empty) => {}
                Err(detail) => {
                    let message = format!("MountVolume.SetUp failed for volume \"{name}\" : {detail}");
                    self.context.recorder.record(pod, "", Severity::Warning, "FailedMount", &message);
                }
            }
        }
        let named = meta::name(pod).to_owned();
        let written = tokio::task::spawn_blocking(move || {
            for (name, target, files) in changes {
                match payload::put(&target, &files, owner) {
                    Ok(true) => debug!(pod = named, volume = name, "its files changed"),
                    Ok(false) => {}
                    // The pod may be on its way out.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => warn!(pod = named, volume = name, %error, "cannot change its files"),
                }
            }
            drop(writing);
        });
        if written.await.is_err() {
            warn!(pod = meta::name(pod), "changing its files was interrupted");
        }
    }
}

/// Whether a pod's files are still to follow.
fn follows(pod: &Value) -> bool {
    let ends = pod["metadata"]["deletionTimestamp"].is_string() || spec::is_finished(pod);
    !ends && spec::items(&pod["spec"], "volumes").iter().any(is_made_of_objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"volumes": [
            {"name": "a", "configMap": {"name": "cm"}},
            {"name": "b", "projected": {"sources": [{"secret": {"name": "sec"}}, {"configMap": {"name": "cm"}}]}},
            {"name": "c", "emptyDir": {}},
        ]}})
    }

    #[test]
    fn only_pods_that_go_on_are_followed() {
        for (pointer, value, expected) in [
            ("/spec/none", json!(1), true),
            ("/metadata/deletionTimestamp", json!("t"), false),
            ("/status", json!({"phase": "Failed"}), false),
            ("/spec/volumes", json!([{"name": "c", "emptyDir": {}}]), false),
        ] {
            let mut pod = pod();
            let (above, field) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(above).unwrap()[field] = value;
            assert_eq!(follows(&pod), expected, "{pointer}");
        }
    }
}
