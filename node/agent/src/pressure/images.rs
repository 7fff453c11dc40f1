//! When the disk fills up, images that nothing uses go: before it is full by the node's thresholds, and before any pod
//! has to go for it.

use crate::{
    events::{Involved, Recorder, Severity},
    machine,
    pod::{manager::Registry, spec},
    stats::summary::DiskUse,
    workloads::{
        Workloads,
        collect::{Goal, Wanted},
    },
};
use serde_json::Value;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::Instant;
use tracing::{info, warn};

/// How long nothing is said or tried after there was too little to take away.
const RETRY_AFTER: Duration = Duration::from_mins(5);

/// When images that nothing uses go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// From this part of the disk in use on, in hundredths; 100: never, but when the node runs short.
    pub high_percent: u8,
    /// Until this part of the disk is in use, in hundredths.
    pub low_percent: u8,
    /// What was used within this time stays.
    pub unused_for: Duration,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, unused_for: Duration::from_mins(2) }
    }
}

impl ImageLimits {
    /// How many bytes are to go, if any.
    fn to_free(self, disk: DiskUse) -> Option<u64> {
        if self.high_percent >= 100 || disk.capacity_bytes == 0 {
            return None;
        }
        let (whole, free) = (u128::from(disk.capacity_bytes), u128::from(disk.available_bytes));
        let used_percent = 100_u128.saturating_sub(free * 100 / whole);
        let wanted = whole * u128::from(100_u8.saturating_sub(self.low_percent)) / 100;
        let missing = wanted.saturating_sub(free);
        (used_percent >= u128::from(self.high_percent) && missing > 0)
            .then(|| u64::try_from(missing).unwrap_or(u64::MAX))
    }
}

/// See the module.
pub(crate) struct RoomOnDisk {
    pub(crate) workloads: Arc<dyn Workloads>,
    pub(crate) registry: Registry,
    pub(crate) recorder: Recorder,
    pub(crate) node: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) limits: ImageLimits,
}

impl RoomOnDisk {
    /// Looks at the disk, and takes images away when it is time. `failed_at` is when there was last too little to take.
    pub(super) async fn keep(&self, failed_at: &mut Option<Instant>) {
        let disk = machine::disk(&self.data_dir);
        let Some(bytes) = disk.and_then(|disk| self.limits.to_free(disk)) else {
            *failed_at = None;
            return;
        };
        if failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return;
        }
        match self.collect(bytes).await {
            Some(freed) if freed >= bytes => {}
            Some(freed) => {
                *failed_at = Some(Instant::now());
                let message = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only \
                     found {freed} bytes eligible to free."
                );
                self.tell("FreeDiskSpaceFailed", &message);
            }
            None => *failed_at = Some(Instant::now()),
        }
    }

    /// Takes away all that nothing uses; whether that was anything.
    pub(super) async fn reclaim(&self) -> bool {
        self.collect(u64::MAX).await.is_some_and(|freed| freed > 0)
    }

    async fn collect(&self, bytes: u64) -> Option<u64> {
        let goal = Goal { bytes, unused_for: self.limits.unused_for };
        match self.workloads.collect(wanted(&self.registry.known()), goal).await {
            Ok(freed) => {
                if freed > 0 {
                    info!(freed_bytes = freed, "removed images and code that nothing uses");
                }
                Some(freed)
            }
            Err(error) => {
                warn!(%error, "cannot remove images that nothing uses");
                self.tell("ImageGCFailed", &format!("cannot remove images that nothing uses: {error}"));
                None
            }
        }
    }

    fn tell(&self, reason: &'static str, message: &str) {
        self.recorder.record_about(Involved::node(&self.node), Severity::Warning, reason, message);
    }
}

/// What the pods of the node want of images: those that have ended want none.
fn wanted(pods: &[Arc<Value>]) -> Wanted {
    let mut wanted = Wanted::default();
    for pod in pods.iter().filter(|pod| !spec::is_finished(pod)) {
        wanted.references.extend(spec::containers(pod).map(|container| spec::text(container, "image").to_owned()));
        for field in ["initContainerStatuses", "containerStatuses"] {
            wanted
                .ids
                .extend(spec::items(&pod["status"], field).iter().map(|one| spec::text(one, "imageID").to_owned()));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_go_between_the_high_and_the_low_threshold() {
        let limits = ImageLimits { high_percent: 85, low_percent: 80, ..ImageLimits::default() };
        let disk = |available_bytes| DiskUse { capacity_bytes: 1000, available_bytes, ..DiskUse::default() };
        for (available, expected) in [(1000, None), (160, None), (151, Some(49)), (150, Some(50)), (0, Some(200))] {
            assert_eq!(limits.to_free(disk(available)), expected, "{available}");
        }
        assert_eq!(ImageLimits { high_percent: 100, ..limits }.to_free(disk(0)), None, "switched off");
        assert_eq!(limits.to_free(DiskUse::default()), None, "nothing is known of the disk");
        let always = ImageLimits { high_percent: 0, low_percent: 0, ..limits };
        assert_eq!(always.to_free(disk(999)), Some(1));
    }

    #[test]
    fn what_pods_name_and_what_they_run_is_wanted() {
        let pod = |phase: &str, image: &str| {
            Arc::new(json!({
                "spec": {"initContainers": [{"image": format!("{image}-init")}], "containers": [{"image": image}]},
                "status": {"phase": phase, "containerStatuses": [{"imageID": format!("{image}@id")}]},
            }))
        };
        let wanted = wanted(&[pod("Running", "a"), pod("Succeeded", "b"), pod("Pending", "c")]);
        assert_eq!(wanted.references.into_iter().collect::<Vec<_>>(), ["a", "a-init", "c", "c-init"]);
        assert_eq!(wanted.ids.into_iter().collect::<Vec<_>>(), ["a@id", "c@id"]);
    }
}
