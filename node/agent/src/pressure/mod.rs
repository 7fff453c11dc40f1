//! When the machine runs short: says so in the node's conditions, and ends pods one by one until there is enough again.
//! Pods that use more of the disk than they may go whether anything is short or not. Images that nothing uses go first.

pub(crate) mod images;
mod order;
pub(crate) mod thresholds;

use crate::{
    machine,
    pod::{manager::Registry, status::EVICTED, worker::ending::Eviction},
    stats::{Stats, summary::MachineUse, usage::PodUse},
};
use coracle_objects::meta;
use images::RoomOnDisk;
use order::{Victim, has_storage_limit, over_its_storage, victims};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use thresholds::{Resource, Shortage, Thresholds, shortages};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the machine is looked at, and the disk use of pods that have a limit for it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a condition stays after its resource was last short, so that it does not flutter.
const CALM_AFTER: Duration = Duration::from_mins(5);
/// How long one pod's end is waited for before the next one goes.
const END_MAX: Duration = Duration::from_secs(30);
/// Grace of a pod that has to go: the machine cannot wait.
const GRACE: Duration = Duration::from_secs(1);

/// What is, or was a moment ago, under pressure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) processes: bool,
}

/// When each resource was last short.
#[derive(Debug, Default)]
struct Conditions {
    last: HashMap<Resource, Instant>,
}

impl Conditions {
    fn note(&mut self, short: &[Shortage], now: Instant) -> Pressure {
        for shortage in short {
            self.last.insert(shortage.resource, now);
        }
        let holds = |resource| self.last.get(&resource).is_some_and(|last| now - *last < CALM_AFTER);
        Pressure {
            memory: holds(Resource::Memory),
            disk: holds(Resource::Disk) || holds(Resource::Inodes),
            processes: holds(Resource::Processes),
        }
    }
}

/// See the module.
pub(crate) struct Keeper {
    pub(crate) stats: Arc<Stats>,
    pub(crate) registry: Registry,
    pub(crate) thresholds: Thresholds,
    pub(crate) data_dir: PathBuf,
    pub(crate) pressure: watch::Sender<Pressure>,
    pub(crate) room_on_disk: RoomOnDisk,
}

impl Keeper {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut conditions = Conditions::default();
        let mut collected = None;
        loop {
            self.room_on_disk.keep(&mut collected).await;
            let mut short = self.look(&mut conditions);
            let is_of_disk = |one: &Shortage| matches!(one.resource, Resource::Disk | Resource::Inodes);
            if short.iter().any(is_of_disk) && self.room_on_disk.reclaim().await {
                // Perhaps no pod has to go.
                short = self.look(&mut conditions);
            }
            if let Some(first) = short.first() {
                self.relieve(first).await;
            }
            self.hold_to_limits().await;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn look(&self, conditions: &mut Conditions) -> Vec<Shortage> {
        let machine: MachineUse = machine::in_use(&self.data_dir);
        let short = shortages(&self.thresholds, &machine, machine::processes());
        let pressure = conditions.note(&short, Instant::now());
        self.pressure.send_if_modified(|known| std::mem::replace(known, pressure) != pressure);
        short
    }

    /// Ends one pod, if there is one that may go.
    async fn relieve(&self, shortage: &Shortage) {
        let Shortage { resource, threshold, available } = shortage;
        warn!(%resource, threshold, available, "the node runs short");
        let snapshot = self.stats.snapshot().await;
        for victim in victims(shortage, &snapshot.pods) {
            if self.evict(&victim).await {
                return;
            }
        }
    }

    async fn hold_to_limits(&self) {
        if !self.registry.all().iter().any(|pod| has_storage_limit(pod)) {
            return;
        }
        let snapshot = self.stats.snapshot().await;
        let over = snapshot.pods.iter().filter_map(|used: &PodUse| {
            let message = over_its_storage(used)?;
            Some(Victim { uid: meta::uid(&used.pod).to_owned(), message })
        });
        for victim in over.collect::<Vec<_>>() {
            self.evict(&victim).await;
        }
    }

    /// Answers whether there was such a pod; it has ended then, or could not in time.
    async fn evict(&self, victim: &Victim) -> bool {
        let Victim { uid, message } = victim;
        let eviction = Eviction { reason: EVICTED, message: message.clone(), grace: GRACE };
        if !self.registry.evict(uid, eviction) {
            return false;
        }
        info!(uid, message, "a pod is evicted");
        if tokio::time::timeout(END_MAX, self.registry.ended(uid)).await.is_err() {
            warn!(uid, "an evicted pod does not end");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_do_not_flutter() {
        let mut conditions = Conditions::default();
        let start = Instant::now();
        let short = |resource| [Shortage { resource, threshold: 2, available: 1 }];
        assert_eq!(conditions.note(&[], start), Pressure::default());
        let disk = Pressure { disk: true, ..Pressure::default() };
        assert_eq!(conditions.note(&short(Resource::Inodes), start), disk);
        assert_eq!(conditions.note(&[], start + CALM_AFTER / 2), disk);
        assert_eq!(conditions.note(&[], start + CALM_AFTER), Pressure::default());
    }
}
