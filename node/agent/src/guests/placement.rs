//! Which runner of its namespace a pod goes to: where it is already, else the fullest one that has room for all of it, so
//! that the emptier ones get a chance to end. Pure.
//!
//! Counted are containers that can run at once, each as one instance. What else takes instances of a runner (commands
//! beside a container, requests beyond the first, components of several memories) lives from what is left free for it.

use crate::pod::spec;
use serde_json::Value;
use std::collections::HashMap;

/// Of a runner's instances, in quarters, how many containers may take before the next runner is started.
const CONTAINERS_QUARTERS: u32 = 3;

/// Containers that a runner with a pool of `instances` gets.
pub(super) fn places(instances: u32) -> u32 {
    (u64::from(instances) * u64::from(CONTAINERS_QUARTERS) / 4).try_into().unwrap_or(instances).max(1)
}

/// Containers of the pod that can run at once: all but init containers, which run when those do not.
pub(crate) fn places_of(pod: &Value) -> u32 {
    let sidecars = spec::init_containers(pod).iter().filter(|container| container["restartPolicy"] == "Always").count();
    u32::try_from(sidecars + spec::app_containers(pod).len()).unwrap_or(u32::MAX).max(1)
}

/// The pods of one runner.
#[derive(Debug, Default)]
pub(super) struct Residents {
    pods: HashMap<String, Resident>,
    taken: u32,
}

#[derive(Debug)]
struct Resident {
    places: u32,
    runs: usize,
}

impl Residents {
    /// One run more of the pod. It has `places` from its first one on.
    pub(super) fn enter(&mut self, pod_uid: &str, places: u32) {
        let taken = &mut self.taken;
        let resident = self.pods.entry(pod_uid.to_owned()).or_insert_with(|| {
            *taken = taken.saturating_add(places);
            Resident { places, runs: 0 }
        });
        resident.runs += 1;
    }

    /// One run less.
    pub(super) fn leave(&mut self, pod_uid: &str) {
        let Some(resident) = self.pods.get_mut(pod_uid) else { return };
        resident.runs -= 1;
        if resident.runs == 0 {
            self.taken = self.taken.saturating_sub(resident.places);
            self.pods.remove(pod_uid);
        }
    }

    /// What the pod would find here.
    pub(super) fn offer(&self, pod_uid: &str) -> Offer {
        if self.pods.contains_key(pod_uid) { Offer::Home } else { Offer::Taken(self.taken) }
    }
}

/// What a runner is to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// Something of the pod runs there.
    Home,
    /// So many places are taken by others.
    Taken(u32),
}

/// The runner, of those that make these offers, for a pod of `wanted` places; `None` when it needs a new one. Each has
/// `places`; a pod that wants more has a runner of its own.
pub(super) fn choose<R>(offers: impl IntoIterator<Item = (R, Offer)>, wanted: u32, places: u32) -> Option<R> {
    let mut fullest: Option<(R, u32)> = None;
    for (runner, offer) in offers {
        match offer {
            Offer::Home => return Some(runner),
            Offer::Taken(taken) => {
                let fits = taken == 0 || taken.saturating_add(wanted) <= places;
                if fits && fullest.as_ref().is_none_or(|(_, most)| taken > *most) {
                    fullest = Some((runner, taken));
                }
            }
        }
    }
    fullest.map(|(runner, _)| runner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_stays_or_goes_to_the_fullest_that_has_room() {
        use Offer::{Home, Taken};
        for (offers, wanted, expected, why) in [
            (vec![], 1, None, "there is none"),
            (vec![Taken(3), Taken(5), Taken(4)], 1, Some(1), "the fullest"),
            (vec![Taken(3), Taken(10), Taken(9)], 1, Some(2), "a full one has no room"),
            (vec![Taken(3), Taken(10), Taken(9)], 2, Some(0), "room for all of the pod"),
            (vec![Taken(10), Taken(9)], 2, None, "no room"),
            (vec![Taken(3), Home, Taken(4)], 20, Some(1), "it stays"),
            (vec![Taken(1)], 11, None, "too large to share a runner"),
            (vec![Taken(1), Taken(0)], 11, Some(1), "but not for an empty one"),
            (vec![Taken(u32::MAX)], u32::MAX, None, "sums do not wrap"),
        ] {
            assert_eq!(choose(offers.into_iter().enumerate(), wanted, 10), expected, "{why}");
        }
    }

    #[test]
    fn a_pod_has_its_places_from_its_first_run_to_its_last() {
        let mut residents = Residents::default();
        residents.enter("a", 3);
        residents.enter("a", 3);
        residents.enter("b", 1);
        assert_eq!((residents.offer("a"), residents.offer("c")), (Offer::Home, Offer::Taken(4)));
        residents.leave("a");
        assert_eq!((residents.offer("a"), residents.offer("c")), (Offer::Home, Offer::Taken(4)));
        residents.leave("a");
        assert_eq!((residents.offer("a"), residents.offer("b")), (Offer::Taken(1), Offer::Home));
        residents.leave("a");
        residents.leave("b");
        assert_eq!(residents.offer("b"), Offer::Taken(0));
    }

    #[test]
    fn what_runs_at_once_is_counted() {
        let pod =
            |init: Value, app: usize| json!({"spec": {"initContainers": init, "containers": vec![json!({}); app]}});
        assert_eq!(places_of(&pod(json!([]), 1)), 1);
        assert_eq!(places_of(&pod(json!([{}, {"restartPolicy": "Always"}, {}]), 2)), 3);
        assert_eq!(places_of(&json!({})), 1);
        assert_eq!([1, 2, 8, 1000, u32::MAX].map(places), [1, 1, 6, 750, 3_221_225_471]);
    }
}
