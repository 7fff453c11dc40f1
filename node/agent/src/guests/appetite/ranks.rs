//! Which container goes first when memory is short. Pure.
//!
//! Kubelet tells the kernel by how much each process is to be preferred (`oom_score_adj`), and the kernel adds what it
//! uses, in thousandths of the machine. The same sum is made here. A container counts what it may touch, and the runner
//! takes what was touched, so each is taken to use its part of what its runner takes.

use crate::pod::admission::{SYSTEM_CRITICAL_PRIORITY, priority};
use coracle_objects::{
    quantity::Quantity,
    rules::pod::{QosClass, qos_class},
};
use coracle_runner::protocol::RunId;
use serde_json::Value;

/// Of containers with a promise for all they may have, of system pods, and of those without any promise.
const SAFE: i64 = -997;
const FREE: i64 = 1000;

/// What a container was promised of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// All that it may have.
    All,
    /// So many bytes; those without a request have 0.
    Some(u64),
    /// Nothing, as its whole pod.
    None,
}

impl Promise {
    /// By the pod's class and the container's request.
    pub(crate) fn of(pod: &Value, container: &Value) -> Self {
        if priority(pod) >= SYSTEM_CRITICAL_PRIORITY {
            return Self::All;
        }
        match qos_class(pod) {
            QosClass::Guaranteed => Self::All,
            QosClass::BestEffort => Self::None,
            QosClass::Burstable => {
                let request = Quantity::from_value(&container["resources"]["requests"]["memory"]).unwrap_or_default();
                Self::Some(u64::try_from(request.ceil()).unwrap_or(0))
            }
        }
    }

    /// Kubelet's number, on a machine with so much memory.
    fn adjustment(self, whole_bytes: u64) -> i64 {
        match self {
            Self::All => SAFE,
            Self::None => FREE,
            Self::Some(bytes) => (FREE - thousandths(bytes, whole_bytes)).clamp(FREE + SAFE, FREE - 1),
        }
    }
}

fn thousandths(bytes: u64, whole_bytes: u64) -> i64 {
    i64::try_from(u128::from(bytes) * 1000 / u128::from(whole_bytes.max(1))).unwrap_or(i64::MAX)
}

/// A run that could go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) run: RunId,
    /// What counts against its limit.
    pub(super) counted_bytes: u64,
    pub(super) promise: Promise,
}

/// A runner: what it takes, and what it says of its guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Household {
    pub(super) taken_bytes: u64,
    pub(super) candidates: Vec<Candidate>,
}

impl Household {
    fn counted_bytes(&self) -> u64 {
        self.candidates.iter().map(|candidate| candidate.counted_bytes).fold(0, u64::saturating_add)
    }

    /// What a guest uses, at most what it counts.
    fn used_bytes(&self, candidate: &Candidate) -> u64 {
        let counted = u128::from(self.counted_bytes().max(1));
        let part = u128::from(self.taken_bytes) * u128::from(candidate.counted_bytes) / counted;
        u64::try_from(part).unwrap_or(u64::MAX).min(candidate.counted_bytes)
    }
}

/// The run of the highest rank, and the number of its runner; of equals, the one that uses more.
pub(super) fn first(households: &[Household], whole_bytes: u64) -> Option<(usize, RunId)> {
    let all = households.iter().enumerate().flat_map(|(index, household)| {
        household.candidates.iter().map(move |candidate| (index, household.used_bytes(candidate), candidate))
    });
    let rank = |(_, used, candidate): &(usize, u64, &Candidate)| {
        (candidate.promise.adjustment(whole_bytes) + thousandths(*used, whole_bytes), *used)
    };
    all.max_by_key(rank).map(|(index, _, candidate)| (index, candidate.run.clone()))
}

/// A runner of whose memory most, and a quarter of what all may have, belongs to no guest that it speaks of: ending guests
/// would not help.
pub(super) fn unaccounted(households: &[Household], ceiling_bytes: u64) -> Option<usize> {
    households.iter().position(|household| {
        let rest = household.taken_bytes.saturating_sub(household.counted_bytes());
        rest > household.taken_bytes / 2 && rest > ceiling_bytes / 4
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WHOLE: u64 = 100_000;

    fn candidate(name: &str, counted_bytes: u64, promise: Promise) -> Candidate {
        Candidate { run: RunId(name.to_owned()), counted_bytes, promise }
    }

    fn chosen(households: &[Household]) -> String {
        first(households, WHOLE).map(|(index, run)| format!("{index}{}", run.0)).unwrap_or_default()
    }

    #[test]
    fn who_was_promised_less_goes_first() {
        let household = |candidates: Vec<Candidate>| Household {
            taken_bytes: candidates.iter().map(|one| one.counted_bytes).sum(),
            candidates,
        };
        let safe = candidate("safe", 60_000, Promise::All);
        let modest = candidate("modest", 10_000, Promise::Some(20_000));
        let greedy = candidate("greedy", 20_000, Promise::Some(5_000));
        let free = candidate("free", 3_000, Promise::None);
        let large = candidate("large", 4_000, Promise::None);
        for (households, expected) in [
            (vec![household(vec![safe.clone(), modest.clone()]), household(vec![free.clone(), large])], "1large"),
            (vec![household(vec![safe.clone()]), household(vec![modest.clone(), greedy.clone()])], "1greedy"),
            // Far beyond what it was promised is worse than to have been promised nothing.
            (vec![household(vec![greedy]), household(vec![free])], "0greedy"),
            (vec![household(vec![safe.clone(), modest])], "0modest"),
            (vec![household(vec![safe])], "0safe"),
            (vec![household(Vec::new())], ""),
        ] {
            assert_eq!(chosen(&households), expected, "{households:?}");
        }
    }

    #[test]
    fn what_was_never_touched_is_not_used() {
        let sleeper = Household { taken_bytes: 1_000, candidates: vec![candidate("sleeper", 90_000, Promise::None)] };
        let busy = Household { taken_bytes: 50_000, candidates: vec![candidate("busy", 50_000, Promise::None)] };
        assert_eq!(chosen(&[sleeper, busy]), "1busy");
    }

    #[test]
    fn who_lies_is_found() {
        let honest = Household { taken_bytes: 40_000, candidates: vec![candidate("a", 60_000, Promise::None)] };
        let small = Household { taken_bytes: 5_000, candidates: Vec::new() };
        let liar = Household { taken_bytes: 30_000, candidates: vec![candidate("b", 10, Promise::All)] };
        assert_eq!(unaccounted(&[honest.clone(), small.clone()], 75_000), None);
        assert_eq!(unaccounted(&[honest, small, liar], 75_000), Some(2));
    }

    #[test]
    fn promises_are_kubelets() {
        let resources = |resources: Value| json!({"name": "c", "resources": resources});
        let equal = json!({"limits": {"cpu": "1", "memory": "1Ki"}, "requests": {"cpu": "1", "memory": "1Ki"}});
        for (container, priority, expected, adjustment) in [
            (resources(equal), 0, Promise::All, -997),
            (resources(json!({"requests": {"memory": "10k"}})), 0, Promise::Some(10_000), 900),
            (resources(json!({"requests": {"memory": "1M"}})), 0, Promise::Some(1_000_000), 3),
            (resources(json!({"requests": {"cpu": "1"}})), 0, Promise::Some(0), 999),
            (resources(json!({})), 0, Promise::None, 1000),
            (resources(json!({})), SYSTEM_CRITICAL_PRIORITY, Promise::All, -997),
        ] {
            let pod = json!({"spec": {"priority": priority, "containers": [container]}});
            let promise = Promise::of(&pod, &pod["spec"]["containers"][0]);
            assert_eq!((promise, promise.adjustment(WHOLE)), (expected, adjustment), "{pod}");
        }
    }
}
