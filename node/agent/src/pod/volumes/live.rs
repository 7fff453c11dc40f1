//! Keeps the files of config maps, secrets and the downward API as they are in the control plane, while pods run.
//!
//! Every [`PERIOD`] the objects that running pods mount are asked for, each once, and what differs is put in place all at
//! once. So a change is seen by guests at most one period and the time of asking after it was made: with
//! [`PARALLEL_MAX`] questions at a time and a few milliseconds each, some seconds more for thousands of objects. What
//! cannot be asked for or does not fit any more leaves the files as they are. Parts mounted by `subPath` stay what they
//! were when their container started, as in Kubernetes.

use super::{
    content::{Content, content, is_made_of_objects, needed},
    data_of, payload,
};
use crate::{
    context::Context,
    events::Severity,
    ledger::is_file_name,
    link::{CONFIG_MAPS, SECRETS},
    pod::{
        env::{NodeFacts, Sources},
        manager::Registry,
        spec,
    },
};
use coracle_objects::{ObjectKey, Reason, meta};
use futures::{StreamExt, stream};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Between two looks.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);
/// Objects that are asked for at one time.
const PARALLEL_MAX: usize = 8;

/// A config map or a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Wanted {
    namespace: String,
    name: String,
    is_secret: bool,
}

/// What is known of it: its data, or that it does not exist.
type Data = Option<BTreeMap<String, Vec<u8>>>;

/// See the module.
pub(crate) struct Refresher {
    context: Arc<Context>,
    registry: Registry,
    /// Objects that never change are asked for once.
    immutable: HashMap<Wanted, Data>,
}

impl Refresher {
    pub(crate) fn new(context: Arc<Context>, registry: Registry) -> Self {
        Self { context, registry, immutable: HashMap::new() }
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let pace = self.context.pace;
        loop {
            tokio::select! {
                () = pace.sleep(PERIOD) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.look() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn look(&mut self) {
        let pods: Vec<Arc<Value>> = self.registry.all().into_iter().filter(|pod| follows(pod)).collect();
        let wanted: BTreeSet<Wanted> = pods.iter().flat_map(|pod| wanted(pod)).collect();
        self.immutable.retain(|known, _| wanted.contains(known));
        let mut known: HashMap<Wanted, Data> = self.immutable.clone();
        let asked = wanted.into_iter().filter(|wanted| !self.immutable.contains_key(wanted)).map(|wanted| {
            let link = self.context.link.clone();
            async move {
                let resource = if wanted.is_secret { SECRETS } else { CONFIG_MAPS };
                let answer = link.get(resource, &ObjectKey::namespaced(&wanted.namespace, &wanted.name)).await;
                (wanted, answer)
            }
        });
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(PARALLEL_MAX).collect().await;
        for (wanted, answer) in answers {
            match answer {
                Ok(mut object) => {
                    object["kind"] = if wanted.is_secret { "Secret" } else { "ConfigMap" }.into();
                    let data = Some(data_of(&object));
                    if object["immutable"] == true {
                        self.immutable.insert(wanted.clone(), data.clone());
                    }
                    known.insert(wanted, data);
                }
                Err(error) if error.reason == Reason::NotFound => {
                    known.insert(wanted, None);
                }
                Err(error) => debug!(?wanted, %error, "cannot see whether it changed"),
            }
        }
        for pod in pods {
            self.refresh(&pod, &known).await;
        }
    }

    async fn refresh(&self, pod: &Arc<Value>, known: &HashMap<Wanted, Data>) {
        let Ok(namespace_uid) = self.context.namespace_uid(pod).await else { return };
        let Some(writing) = self.registry.writing(meta::uid(pod)) else { return };
        let Ok(owner) = self.context.owner(&namespace_uid) else { return };
        let directory = self.context.volumes(&namespace_uid, meta::uid(pod));
        let node = NodeFacts { host_ip: &self.context.host_ip, offer: self.context.room.offer() };
        let mut changes: Vec<(String, PathBuf, Vec<payload::VolumeFile>)> = Vec::new();
        for volume in spec::items(&pod["spec"], "volumes").iter().filter(|volume| is_made_of_objects(volume)) {
            let name = spec::text(volume, "name");
            let target = directory.join(name);
            // What has not been set up yet is the pod's owner task's.
            if !is_file_name(name) || payload::current(&target).is_err() {
                continue;
            }
            let Some(sources) = sources(meta::namespace(pod), volume, known) else { continue };
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

fn wanted(pod: &Value) -> Vec<Wanted> {
    let namespace = meta::namespace(pod);
    let wanted = |name: &str, is_secret| Wanted { namespace: namespace.to_owned(), name: name.to_owned(), is_secret };
    let volumes = spec::items(&pod["spec"], "volumes").iter().map(needed);
    let all = volumes.flat_map(|(config_maps, secrets)| {
        let config_maps = config_maps.into_iter().map(|name| (name, false));
        config_maps.chain(secrets.into_iter().map(|name| (name, true)))
    });
    all.map(|(name, is_secret)| wanted(name, is_secret)).collect()
}

/// What a volume is made of, if all of it is known.
fn sources(namespace: &str, volume: &Value, known: &HashMap<Wanted, Data>) -> Option<Sources> {
    let mut sources = Sources::default();
    let (config_maps, secrets) = needed(volume);
    for (names, is_secret) in [(config_maps, false), (secrets, true)] {
        let into = if is_secret { &mut sources.secrets } else { &mut sources.config_maps };
        for name in names {
            let wanted = Wanted { namespace: namespace.to_owned(), name: name.to_owned(), is_secret };
            if let Some(data) = known.get(&wanted)? {
                into.insert(name.to_owned(), data.clone());
            }
        }
    }
    Some(sources)
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

    #[test]
    fn a_volume_changes_only_when_all_of_it_is_known() {
        let pod = pod();
        let wanted = wanted(&pod);
        assert_eq!(wanted.len(), 3);
        let volume = &pod["spec"]["volumes"][1];
        let data = BTreeMap::from([("k".to_owned(), b"v".to_vec())]);
        let mut known = HashMap::from([(wanted[0].clone(), Some(data.clone()))]);
        assert!(sources("ns", volume, &known).is_none(), "the secret could not be asked for");
        let secret = wanted.iter().find(|wanted| wanted.is_secret).unwrap();
        known.insert(secret.clone(), None);
        let sources = sources("ns", volume, &known).unwrap();
        assert_eq!((sources.config_maps.get("cm"), sources.secrets.get("sec")), (Some(&data), None));
    }
}
