//! What every pod's owner task shares.

use crate::{
    clock::Pace,
    contact::Contact,
    events::Recorder,
    guests::Guests,
    homes::Homes,
    ledger::Ledger,
    link::Link,
    logs::Logs,
    network::{Network, place::Place},
    pod::{admission::Room, checks::Checks, probes::Probes},
    pressure::Pressure,
    reflector::Cache,
    reports::Reports,
    sandbox::{Owner, Owners},
    static_pods::{self, manifest::is_static_uid},
    workloads::Workloads,
};
use coracle_objects::{ApiError, ObjectKey, Reason, meta};
use serde_json::Value;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Objects that the agent keeps up with.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) services: Cache,
    pub(crate) namespaces: Cache,
    /// All nodes of the cluster, this one too.
    pub(crate) nodes: Cache,
    pub(crate) slices: Cache,
    /// Those that this node's pods name.
    pub(crate) config_maps: Cache,
    /// Those that this node's pods name.
    pub(crate) secrets: Cache,
}

impl Caches {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self {
            services: Cache::new(),
            namespaces: Cache::new(),
            nodes: Cache::new(),
            slices: Cache::new(),
            config_maps: Cache::new(),
            secrets: Cache::new(),
        }
    }
}

/// The node has not been told of any `plural` yet.
pub(crate) fn not_told(plural: &str) -> ApiError {
    let message = format!("the node has not been told of its {plural} yet");
    ApiError::new(Reason::ServiceUnavailable, message)
}

/// See the module.
pub(crate) struct Context {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) workloads: Arc<dyn Workloads>,
    pub(crate) guests: Arc<dyn Guests>,
    pub(crate) checks: Arc<dyn Checks>,
    pub(crate) network: Network,
    pub(crate) recorder: Recorder,
    pub(crate) reports: Arc<Reports>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) homes: Arc<Homes>,
    pub(crate) ledger: Ledger,
    pub(crate) caches: Caches,
    pub(crate) room: Room,
    pub(crate) pressure: watch::Receiver<Pressure>,
    pub(crate) data_dir: PathBuf,
    /// Where the node is.
    pub(crate) place: watch::Receiver<Place>,
    pub(crate) pace: Pace,
    pub(crate) probes: Probes,
    /// With the control plane.
    pub(crate) contact: Arc<Contact>,
    /// Grace of pods at most when the agent itself ends.
    pub(crate) shutdown_grace: Duration,
}

impl Context {
    /// The uid of a pod's namespace, as far as the node was told. That of a static pod needs no server.
    pub(crate) fn namespace_uid(&self, pod: &Value) -> Result<String, ApiError> {
        let name = meta::namespace(pod);
        if is_static_uid(meta::uid(pod)) {
            return Ok(static_pods::namespace_uid(name));
        }
        let key = ObjectKey::cluster(name);
        let uid = match self.caches.namespaces.get(&key) {
            Some(namespace) => meta::uid(&namespace).to_owned(),
            None if self.caches.namespaces.is_known() => return Err(ApiError::not_found("", "namespaces", name)),
            None => return Err(not_told("namespaces")),
        };
        if crate::ledger::is_file_name(&uid) {
            Ok(uid)
        } else {
            Err(ApiError::internal(format!("namespace {name} has no usable uid")))
        }
    }

    /// The node's address now.
    pub(crate) fn host_ip(&self) -> String {
        self.place.borrow().address.clone()
    }

    /// Whom what guests of a namespace write belongs to.
    pub(crate) fn owner(&self, namespace_uid: &str) -> std::io::Result<Owner> {
        self.owners.of(namespace_uid)
    }

    /// Where a pod's volumes are.
    pub(crate) fn volumes(&self, namespace_uid: &str, pod_uid: &str) -> PathBuf {
        self.data_dir.join("ns").join(namespace_uid).join("volumes").join(pod_uid)
    }
}
