//! `nodeSelector` and required `nodeAffinity`.

use super::{Refusal, Tally};
use crate::{
    node::{Node, Offer},
    pod::PendingPod,
};

pub(super) fn passes(node: &Node, offer: &Offer, pod: &PendingPod, tally: &mut Tally) -> bool {
    let passes = pod.requirements.match_node(&node.name, &offer.labels);
    if !passes {
        tally.add(Refusal::Affinity);
    }
    passes
}
