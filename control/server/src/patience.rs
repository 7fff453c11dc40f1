//! How patient a cluster is with nodes that fall silent: every time in one place, and the two profiles.

use coracle_api::TolerationDefaults;
use coracle_controllers::{Settings, node_lifecycle};
use std::time::Duration;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patience {
    /// Of the controllers.
    pub controllers: Settings,
    /// For how long pods that do not say it themselves bear that their node is lost.
    pub tolerations: TolerationDefaults,
}

impl Patience {
    /// What [`Patience::default`], which has Kubernetes' times, does in minutes, in seconds: five until a node counts as lost,
    /// two more until its pods go. For nodes that beat every second.
    #[must_use]
    pub fn fast() -> Self {
        let nodes = node_lifecycle::Settings {
            grace: Duration::from_secs(5),
            startup_grace: Duration::from_secs(10),
            eviction_interval: Some(Duration::from_secs(1)),
            secondary_eviction_interval: Some(Duration::from_secs(10)),
            ..node_lifecycle::Settings::default()
        };
        Self {
            controllers: Settings { nodes, gone_node_grace: Duration::from_secs(5) },
            tolerations: TolerationDefaults { not_ready_seconds: 2, unreachable_seconds: 2 },
        }
    }
}
