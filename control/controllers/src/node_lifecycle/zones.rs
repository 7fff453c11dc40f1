//! How many nodes of each zone are ready, what that says of the zone, and at which pace pods may be removed from its nodes.
//! Pure. When much of a zone is silent, the network is more likely broken than the machines: then pods stay longer, or all.

use super::{Settings, readiness};
use coracle_objects::meta;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// So few nodes that are not ready are no disruption, whatever part of the zone they are.
const ALWAYS_BEARABLE: usize = 2;

/// A region and a zone, as a node's labels say; both may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ZoneName(String, String);

/// The zone of a node.
#[must_use]
pub fn of_node(node: &Value) -> ZoneName {
    let label = |name| meta::label(node, name).unwrap_or_default().to_owned();
    ZoneName(label(REGION), label(ZONE))
}

/// How a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it should be, or nearly.
    Normal,
    /// Much of it is not ready.
    Partial,
    /// None of it is ready.
    Full,
}

/// The nodes of a zone, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Ready ones.
    pub ready: usize,
    /// All others.
    pub not_ready: usize,
}

impl Count {
    /// What the numbers say.
    #[must_use]
    pub fn state(self, settings: &Settings) -> State {
        let (all, lost) = (self.ready + self.not_ready, self.not_ready);
        if self.ready == 0 && lost > 0 {
            State::Full
        } else if lost > ALWAYS_BEARABLE && lost * 100 >= settings.unhealthy_percent * all {
            State::Partial
        } else {
            State::Normal
        }
    }

    /// How much time lies between two nodes whose pods begin to go; `None`: none go. A zone that is lost as a whole, while
    /// others are not, is emptied at the usual pace.
    #[must_use]
    pub fn interval(self, settings: &Settings) -> Option<Duration> {
        match self.state(settings) {
            State::Normal | State::Full => settings.eviction_interval,
            State::Partial if self.ready + self.not_ready > settings.large_zone_nodes => {
                settings.secondary_eviction_interval
            }
            State::Partial => None,
        }
    }
}

/// Counts the nodes of each zone.
pub fn count<'a>(nodes: impl IntoIterator<Item = &'a Value>) -> BTreeMap<ZoneName, Count> {
    let mut counts: BTreeMap<ZoneName, Count> = BTreeMap::new();
    for node in nodes {
        let count = counts.entry(of_node(node)).or_default();
        if readiness(node) == "True" {
            count.ready += 1;
        } else {
            count.not_ready += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_zones_state_and_pace_follow_its_numbers() {
        let (usual, slow) = (Some(Duration::from_secs(10)), Some(Duration::from_secs(100)));
        let table = [
            ((0, 0), State::Normal, usual),
            ((2, 1), State::Normal, usual),
            ((1, 2), State::Normal, usual),
            ((0, 1), State::Full, usual),
            ((0, 60), State::Full, usual),
            ((2, 3), State::Partial, None),
            ((3, 3), State::Normal, usual),
            ((22, 28), State::Partial, None),
            ((22, 29), State::Partial, slow),
            ((46, 55), State::Normal, usual),
            ((45, 55), State::Partial, slow),
        ];
        for ((ready, not_ready), state, interval) in table {
            let (count, settings) = (Count { ready, not_ready }, Settings::default());
            assert_eq!((count.state(&settings), count.interval(&settings)), (state, interval), "{count:?}");
        }
    }

    #[test]
    fn nodes_are_counted_by_zone() {
        let node = |zone: &str, status: &str| {
            json!({
                "metadata": {"labels": {ZONE: zone}},
                "status": {"conditions": [{"type": "Ready", "status": status}]},
            })
        };
        let nodes = [node("a", "True"), node("a", "Unknown"), node("b", "False"), json!({})];
        let counts: Vec<_> =
            count(&nodes).into_iter().map(|(zone, count)| (zone.1, count.ready, count.not_ready)).collect();
        assert_eq!(counts, [(String::new(), 0, 1), ("a".to_owned(), 1, 1), ("b".to_owned(), 0, 1)]);
    }
}
