//! The runners of one namespace. Mostly there is one; when it is full, the next is started.
//!
//! A pod's runs are all in one of them, so that commands can join containers and its network has one end.

use super::{
    Runner,
    placement::{self, Offer},
};
use coracle_runner::protocol::RunId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Default)]
pub(super) struct Fleet {
    /// Held from the choice of a runner until the run is in it, also while one starts: whatever comes at once shares it.
    pub(super) choosing: tokio::sync::Mutex<()>,
    runners: Mutex<Vec<Arc<Runner>>>,
}

impl Fleet {
    fn runners(&self) -> MutexGuard<'_, Vec<Arc<Runner>>> {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<Arc<Runner>> {
        self.runners().clone()
    }

    pub(super) fn add(&self, runner: &Arc<Runner>) {
        self.runners().push(runner.clone());
    }

    /// It ends or has ended.
    pub(super) fn remove(&self, runner: &Arc<Runner>) {
        self.runners().retain(|known| !Arc::ptr_eq(known, runner));
    }

    /// The runner in which this run is.
    pub(super) fn of_run(&self, run: &RunId) -> Option<Arc<Runner>> {
        self.all().into_iter().find(|runner| runner.runs().by_id.contains_key(run))
    }

    /// The runner for a pod that takes `wanted` of the `places` of each; `None` when it needs a new one.
    pub(super) fn for_pod(&self, pod_uid: &str, wanted: u32, places: u32) -> Option<Arc<Runner>> {
        let offer = |runner: Arc<Runner>| -> Option<(Arc<Runner>, Offer)> {
            let offer = {
                let runs = runner.runs();
                (!runs.closed).then(|| runs.residents.offer(pod_uid))
            };
            Some((runner, offer?))
        };
        placement::choose(self.all().into_iter().filter_map(offer), wanted, places)
    }
}
