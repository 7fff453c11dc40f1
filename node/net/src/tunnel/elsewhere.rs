//! What the fabric and the tunnel are to each other, as traits, so that each is tested without the other. Nothing here acts.

use crate::fabric::DialFailure;
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};

/// The pods of other nodes, as the fabric reaches them. `from` is an address of this node's ranges, `to` one of the other's.
#[async_trait]
pub trait Elsewhere: Send + Sync + 'static {
    /// The node in whose ranges an address lies; `None` for addresses of this node and of no node.
    fn node_of(&self, address: IpAddr) -> Option<Arc<str>>;

    /// Asks a node to connect `from` to its pod's `to`: answered when the pod took or refused it. Bounded in time; dropping
    /// the future withdraws the dial.
    ///
    /// # Errors
    /// What the other node answered, or [`DialFailure::Unreachable`] where there is no way to it.
    async fn connect(&self, node: &str, from: SocketAddr, to: SocketAddr) -> Result<Box<dyn Carrier>, DialFailure>;

    /// Sends a datagram. Never blocks; it may be lost. At most [`crate::fabric::DATAGRAM_BYTES_MAX`] bytes.
    fn send(&self, node: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes);

    /// Tells a node that nobody takes the datagrams that its pod sends from `from` to `to`. Never blocks; it may be lost.
    fn say_refused(&self, node: &str, from: SocketAddr, to: SocketAddr);

    /// Whether the node does not answer at the moment, so that flows had better go elsewhere. `false` for a node that nobody
    /// has tried to reach.
    fn seems_gone(&self, node: &str) -> bool;
}

/// A connection to another node's pod that the pod has taken, and that nobody has on this side yet. Dropping it resets it.
pub trait Carrier: Send {
    /// One end for a pod of this node. It does not block, and tells a broken connection (`ECONNRESET`) from a closed one,
    /// which a socket pair whose other end is just closed does not.
    ///
    /// # Errors
    /// When the system gives no descriptors.
    fn stream(self: Box<Self>) -> io::Result<OwnedFd>;

    /// Joins it with a connected socket, from a client outside. Bytes, half-closes and resets pass both ways, and whoever is
    /// slow holds the other back.
    fn carry(self: Box<Self>, socket: OwnedFd);
}

/// This node's pods, as other nodes reach them. The tunnel has checked that `from` is an address of the node called `node`;
/// whether `to` is a pod's here and who may talk to it is for the fabric to say.
#[async_trait]
pub trait Arrivals: Send + Sync + 'static {
    /// Offers a pod a connection: `stream` is its end, which does not block. Ends when the pod took or refused it; bounded in
    /// time; may be dropped before that.
    ///
    /// # Errors
    /// Why the pod does not take it; the other node hears it.
    async fn connect(&self, node: &str, from: SocketAddr, to: SocketAddr, stream: OwnedFd) -> Result<(), DialFailure>;

    /// A datagram for a pod. Never blocks.
    fn datagram(&self, node: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes);

    /// The other node says that nobody takes what the pod with the address `from` sends to `to`. Never blocks.
    fn datagram_refused(&self, node: &str, from: SocketAddr, to: SocketAddr);
}

/// A way for packets through the control plane, for pairs of nodes between which there is no other. What it carries is
/// encrypted from node to node. Packets that come this way are given to the tunnel as they come.
pub trait Relay: Send + Sync + 'static {
    /// Sends packets of `segment_bytes` each (the last may be shorter) to a node. Never blocks; they may be lost.
    fn send(&self, node: &str, segment_bytes: usize, packets: Bytes);
}
