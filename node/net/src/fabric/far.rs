//! Other nodes as the fabric sees them: the way to them, and which of them did not answer a moment ago. What leads to a node
//! in trouble is tried last, and for a bounded time. Knows nothing of how bytes get there: see [`crate::tunnel`].

use super::{
    Shared,
    pods::{DialFailure, Pod},
};
use crate::tunnel::{Carrier, Elsewhere};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a node's endpoints come last after the first dial that it did not answer.
pub(crate) const TROUBLE_FIRST: Duration = Duration::from_secs(1);
/// The longest: the time doubles with each such dial in a row up to this.
pub(crate) const TROUBLE_MAX: Duration = Duration::from_secs(8);

/// Where a pod's address is.
pub(crate) enum Place {
    /// It is a pod of this node.
    Here(Arc<Pod>),
    /// It is in the range of the node with this name.
    There(Arc<str>),
}

#[derive(Debug, Clone, Copy)]
struct Trouble {
    /// Dials without an answer since the last sign of life.
    times: u32,
    until: Instant,
}

/// All nodes but this one.
#[derive(Default)]
pub(crate) struct OtherNodes {
    way: RwLock<Option<Arc<dyn Elsewhere>>>,
    troubles: Mutex<HashMap<Arc<str>, Trouble>>,
}

impl OtherNodes {
    /// Gives the way to other nodes, or takes it away.
    pub(crate) fn set_way(&self, way: Option<Arc<dyn Elsewhere>>) {
        *self.way.write() = way;
        self.troubles.lock().clear();
    }

    pub(crate) fn way(&self) -> Option<Arc<dyn Elsewhere>> {
        self.way.read().clone()
    }

    /// The node in whose range an address is.
    pub(crate) fn node_of(&self, address: IpAddr) -> Option<Arc<str>> {
        self.way.read().as_ref()?.node_of(address)
    }

    /// A dial to the node had no answer.
    pub(crate) fn silent(&self, node: &Arc<str>, now: Instant) {
        let mut troubles = self.troubles.lock();
        let times = match troubles.get(node) {
            // Dials that were under way together and fail together are one failure.
            Some(known) if now < known.until => return,
            Some(known) => known.times,
            None => 0,
        };
        let pause = TROUBLE_FIRST.saturating_mul(2_u32.saturating_pow(times)).min(TROUBLE_MAX);
        troubles.insert(Arc::clone(node), Trouble { times: times.saturating_add(1), until: now + pause });
    }

    /// Something came from the node.
    pub(crate) fn alive(&self, node: &str) {
        let mut troubles = self.troubles.lock();
        if !troubles.is_empty() {
            troubles.remove(node);
        }
    }

    /// Until when what is at the address is tried last; `None` where nothing speaks against it.
    pub(crate) fn put_off_until(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        let way = self.way()?;
        let node = way.node_of(address)?;
        if way.seems_gone(&node) {
            return Some(now + TROUBLE_MAX);
        }
        self.troubles.lock().get(&node).map(|trouble| trouble.until).filter(|until| now < *until)
    }
}

impl Shared {
    /// Where the pod with an address is.
    ///
    /// # Errors
    /// [`DialFailure::Refused`] for an address of this node that no pod has, [`DialFailure::Unreachable`] for one that is
    /// in no node's range.
    pub(crate) fn place_of(&self, address: IpAddr) -> Result<Place, DialFailure> {
        if let Some(pod) = self.pods.read().at(address) {
            return Ok(Place::Here(pod));
        }
        let IpAddr::V4(v4) = address else { return Err(DialFailure::Refused) };
        let ours = self.node_ranges.read();
        if ours.is_empty() || ours.iter().any(|range| range.contains(v4)) {
            return Err(DialFailure::Refused);
        }
        drop(ours);
        self.others.node_of(address).map(Place::There).ok_or(DialFailure::Unreachable)
    }

    /// A connection to a pod of another node. `is_last`: nobody else is left to try, so the longer patience applies.
    pub(crate) async fn connect_there(
        &self,
        node: &Arc<str>,
        from: SocketAddr,
        to: SocketAddr,
        is_last: bool,
    ) -> Result<Box<dyn Carrier>, DialFailure> {
        let way = self.others.way().ok_or(DialFailure::Unreachable)?;
        let limits = &self.config.limits;
        let patience = if is_last { limits.far_dial_timeout } else { limits.far_dial_patience };
        let answer = tokio::time::timeout(patience, way.connect(node, from, to)).await;
        match answer.unwrap_or(Err(DialFailure::TimedOut)) {
            Err(failure @ (DialFailure::Unreachable | DialFailure::TimedOut)) => {
                self.others.silent(node, Instant::now());
                Err(failure)
            }
            answer => {
                self.others.alive(node);
                answer
            }
        }
    }
}
