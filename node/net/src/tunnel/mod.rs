//! The tunnel: one mutually authenticated QUIC connection for each pair of nodes that have something to say to each other,
//! opened on demand. A stream is a TCP connection between two pods, a datagram one of UDP.
//!
//! It must never take anything from who is no node of this cluster, nor from a node in the name of another's pods.

mod elsewhere;
mod peers;

pub use elsewhere::{Arrivals, Carrier, Elsewhere, Relay};
pub use peers::{Notice, Path, Peer, PeerState};
