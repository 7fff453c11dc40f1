//! Requests against what is left. Several resources may be short at once: each counts.

use super::{Refusal, Tally};
use crate::{
    node::{Node, Offer},
    pod::PendingPod,
};

pub(super) fn passes(node: &Node, offer: &Offer, pod: &PendingPod, tally: &mut Tally) -> bool {
    let (wanted, has, taken) = (&pod.usage.requests, &offer.allocatable, &node.requested);
    let mut passes = true;
    let mut refuse = |refusal| {
        tally.add(refusal);
        passes = false;
    };
    if node.pods >= offer.pods_max {
        refuse(Refusal::TooManyPods);
    }
    // What is not asked for is never short, even where more is taken than there is.
    let is_short = |wanted: i64, has: i64, taken: i64| wanted > 0 && wanted > has.saturating_sub(taken);
    for (name, wanted, has, taken) in [
        ("cpu", wanted.cpu_milli, has.cpu_milli, taken.cpu_milli),
        ("memory", wanted.memory, has.memory, taken.memory),
        ("ephemeral-storage", wanted.ephemeral_storage, has.ephemeral_storage, taken.ephemeral_storage),
    ] {
        if is_short(wanted, has, taken) {
            refuse(Refusal::Insufficient(name.into()));
        }
    }
    for (name, wanted) in &wanted.extended {
        if is_short(*wanted, has.extended(name), taken.extended(name)) {
            refuse(Refusal::Insufficient(name.clone()));
        }
    }
    passes
}
