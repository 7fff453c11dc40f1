//! Cordoned nodes take no new pods, except those that tolerate the taint that stands for it.

use super::{Refusal, Tally};
use crate::{
    node::{Node, Offer},
    pod::PendingPod,
};
use coracle_objects::{
    nodes::TAINT_UNSCHEDULABLE,
    taints::{self, Effect, Taint},
};

pub(super) fn passes(_: &Node, offer: &Offer, pod: &PendingPod, tally: &mut Tally) -> bool {
    if !offer.is_unschedulable {
        return true;
    }
    let cordoned = Taint { key: TAINT_UNSCHEDULABLE.into(), value: "".into(), effect: Effect::NoSchedule };
    let passes = taints::is_tolerated(&cordoned, &pod.tolerations);
    if !passes {
        tally.add(Refusal::Unschedulable);
    }
    passes
}
