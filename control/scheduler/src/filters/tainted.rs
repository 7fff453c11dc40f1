//! Taints that the pod does not bear; the first one counts.

use super::{Refusal, Tally};
use crate::{
    node::{Node, Offer},
    pod::PendingPod,
};
use coracle_objects::taints::{self, Effect};
use std::sync::Arc;

pub(super) fn passes(_: &Node, offer: &Offer, pod: &PendingPod, tally: &mut Tally) -> bool {
    let mut binding = offer.taints.iter().filter(|taint| taint.effect != Effect::PreferNoSchedule);
    let borne = |taint: &Arc<taints::Taint>| taints::is_tolerated(taint, &pod.tolerations);
    let Some(taint) = binding.find(|taint| !borne(taint)) else { return true };
    tally.add(Refusal::Taint(Arc::clone(taint)));
    false
}
