//! The other nodes of the cluster as the tunnel is told of them. Values only.

use crate::range::Ipv4Range;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Where its end of the tunnel listens (UDP), the one to try first in front. Empty where only it can dial.
    pub addresses: Vec<SocketAddr>,
    /// Its pods' addresses.
    pub ranges: Vec<Ipv4Range>,
    /// Certificates of its name count when they were issued at this store revision or later.
    pub credentials_since: u64,
}

impl Peer {
    /// Whether an address is one of its pods' (or stands for its clients from outside).
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ranges.iter().any(|range| range.contains(address)),
            IpAddr::V6(_) => false,
        }
    }
}

/// Which way traffic to a peer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// There is no connection: nobody wanted one, it was unused, or it cannot be made.
    None,
    /// From host to host.
    Direct,
    /// Through the control plane.
    Relayed,
}

/// How a peer is reached at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Its name.
    pub node: String,
    /// The way.
    pub path: Path,
    /// Its end of a direct connection.
    pub address: Option<SocketAddr>,
    /// What a packet needs there and back.
    pub rtt: Option<Duration>,
    /// Since when it is reached this way.
    pub since: Option<SystemTime>,
    /// Why there is no direct connection, where one was tried.
    pub why: Option<String>,
}

/// A peer that traffic goes to through the control plane, or went to when it was last in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detour {
    /// Its name.
    pub node: String,
    /// Why no direct connection could be made.
    pub why: String,
}

/// What people should hear of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Traffic to a peer goes through the control plane from now on.
    Relayed {
        /// The peer.
        node: String,
        /// Why no direct connection could be made.
        why: String,
    },
    /// Traffic to a peer that went through the control plane goes directly again.
    Direct {
        /// The peer.
        node: String,
    },
    /// A peer cannot be reached although somebody wants to.
    Unreachable {
        /// The peer.
        node: String,
        /// Why.
        why: String,
    },
    /// Somebody was turned away: a stranger, or a peer that does what it may not.
    Refused {
        /// The peer, where it was one.
        node: Option<String>,
        /// Where it came from.
        address: SocketAddr,
        /// What it did.
        why: String,
    },
}
