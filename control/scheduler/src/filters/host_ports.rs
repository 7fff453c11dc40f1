//! Host ports that are taken.

use super::{Refusal, Tally};
use crate::{
    node::{Node, Offer},
    pod::PendingPod,
};

pub(super) fn passes(node: &Node, _: &Offer, pod: &PendingPod, tally: &mut Tally) -> bool {
    let wanted = &pod.usage.host_ports;
    let passes = !wanted.iter().any(|port| node.host_ports.iter().any(|taken| taken.conflicts_with(port)));
    if !passes {
        tally.add(Refusal::HostPorts);
    }
    passes
}
