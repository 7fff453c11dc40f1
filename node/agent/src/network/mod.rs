//! The pod network at the agent: which pod has which address, how connections and datagrams travel between runners and
//! the fabric, and what people hear of it.
//!
//! ```text
//!  runner A ──Dial──▶ line A ──▶ exchange ──▶ fabric (addresses, services, outside)
//!  runner B ◀──Offer── line B ◀── routes ◀──────┘ │ notices ──▶ events
//!  pods' owner tasks ── attach, detach ──▶ addresses, fabric ◀──▶ between ◀── QUIC ──▶ other nodes
//! ```
//!
//! It must never let a runner speak for a pod that does not run in it, and never let one connection that is slow to be
//! made hold another.

pub(crate) mod addresses;
pub(crate) mod between;
pub(crate) mod ca_bundle;
pub(crate) mod detours;
pub(crate) mod exchange;
pub(crate) mod into_pod;
mod limits;
pub(crate) mod line;
pub(crate) mod notices;
pub(crate) mod peers;
pub(crate) mod place;
mod relay;
mod rests;
pub(crate) mod routes;
#[cfg(test)]
mod tests;

pub(crate) use limits::raise_descriptor_limit;

use addresses::{Addresses, NoAddress};
use async_trait::async_trait;
use coracle_net::fabric::DialFailure;
use coracle_objects::meta;
use serde_json::Value;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};
use tokio::net::UnixStream;

/// Where pods are known by their addresses.
#[async_trait]
pub(crate) trait Switch: Send + Sync + 'static {
    /// The pod has this address from now on.
    fn add(&self, pod: &Value, address: Ipv4Addr);
    /// The pod's connections end and nothing reaches it any more.
    fn remove(&self, uid: &str);
    /// Connects the node to a pod of its own: one of its addresses, or its loopback address. See [`Network::dial_pod`].
    async fn dial_into(&self, uid: &str, to: SocketAddr) -> Result<OwnedFd, DialFailure>;
    /// Connects to a host as the pod itself would: by its names, its policies and within its bounds.
    async fn dial_for(&self, uid: &str, host: &str, port: u16) -> Result<OwnedFd, DialFailure>;
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

    /// Connects the node to a pod: to an address of its own, where the guest sees the gateway of the node's range, or to
    /// `127.0.0.1`, where it sees itself. Done when the pod's runner has taken the connection, whatever the guest does.
    /// Dropping the future gives it up.
    ///
    /// # Errors
    /// `ConnectionRefused` where nobody listens, `HostUnreachable` for a pod that is not there, `TimedOut` when its runner
    /// does not answer (seconds), `WouldBlock` over a bound, `PermissionDenied` for an address that is not the pod's.
    pub(crate) async fn dial_pod(&self, pod_uid: &str, to: SocketAddr) -> io::Result<UnixStream> {
        let stream = self.switch.dial_into(pod_uid, to).await.map_err(into_pod::error)?;
        UnixStream::from_std(stream.into())
    }

    /// Connects to a host as the pod itself would.
    ///
    /// # Errors
    /// As [`Self::dial_pod`] has them; `HostUnreachable` also for a name that nobody has.
    pub(crate) async fn dial_for(&self, pod_uid: &str, host: &str, port: u16) -> io::Result<Box<dyn into_pod::Stream>> {
        into_pod::stream(self.switch.dial_for(pod_uid, host, port).await.map_err(into_pod::error)?)
    }

    /// Takes a pod off the network, if it is on it, and lets its address rest.
    pub(crate) fn detach(&self, uid: &str) {
        self.switch.remove(uid);
        self.addresses.release(uid);
    }
}
