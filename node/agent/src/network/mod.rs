//! The pod network at the agent: which pod has which address, how connections and datagrams travel between runners and
//! the fabric, and what people hear of it.
//!
//! ```text
//!  runner A ──Dial──▶ line A ──▶ exchange ──▶ fabric (addresses, services, outside)
//!  runner B ◀──Offer── line B ◀── routes ◀──────┘ │ notices ──▶ events
//!  pods' owner tasks ── attach, detach ──▶ addresses, fabric
//! ```
//!
//! It must never let a runner speak for a pod that does not run in it, and never let one connection that is slow to be
//! made hold another.

pub(crate) mod addresses;
pub(crate) mod ca_bundle;
pub(crate) mod exchange;
mod limits;
pub(crate) mod line;
pub(crate) mod notices;
mod rests;
pub(crate) mod routes;
#[cfg(test)]
mod tests;

pub(crate) use limits::raise_descriptor_limit;

use addresses::{Addresses, NoAddress};
use coracle_objects::meta;
use serde_json::Value;
use std::{net::Ipv4Addr, sync::Arc};

/// Where pods are known by their addresses.
pub(crate) trait Switch: Send + Sync + 'static {
    /// The pod has this address from now on.
    fn add(&self, pod: &Value, address: Ipv4Addr);
    /// The pod's connections end and nothing reaches it any more.
    fn remove(&self, uid: &str);
}

/// What a pod's owner task needs of the network.
pub(crate) struct Network {
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) switch: Arc<dyn Switch>,
}

impl Network {
    /// Gives a pod its address, the one that it has already if it has one, and lets it be reached.
    ///
    /// # Errors
    /// When there is no address to be had now.
    pub(crate) async fn attach(&self, pod: &Value) -> Result<Ipv4Addr, NoAddress> {
        let address = self.addresses.take(meta::uid(pod)).await?;
        self.switch.add(pod, address);
        Ok(address)
    }

    /// Takes a pod off the network, if it is on it, and lets its address rest.
    pub(crate) fn detach(&self, uid: &str) {
        self.switch.remove(uid);
        self.addresses.release(uid);
    }
}
