//! The pod network as a runner sees it: what it and its agent tell each other about connections and datagrams.
//!
//! The messages travel beside the frames of [`crate::protocol`], on a socket of their own ([`channel`]) that also
//! carries descriptors: a connection *is* a descriptor, one end of a stream that the agent made. A runner never opens a
//! socket to anything, and the agent sends it none that listens.

use crate::frame::octets;
use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr};

pub mod channel;
pub(crate) mod datagrams;
pub(crate) mod error;
pub(crate) mod listener;
pub(crate) mod pod;
mod ports;
pub(crate) mod stream;
pub(crate) mod switch;
mod traffic;

pub use channel::{ChannelError, NetworkChannel, RunnerEnd};

/// Most bytes of one datagram: what IPv4 leaves of 64 KiB behind its own header and UDP's.
pub const MAX_DATAGRAM_BYTES: usize = 65_507;

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DialFailure {
    /// Nobody listens there.
    Refused,
    /// No way leads there.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// A rule forbids it.
    Denied,
    /// A bound was hit; the connection could be made at another time.
    TooMany,
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Denied => "denied",
            Self::TooMany => "too many connections",
        })
    }
}

/// A bound that guests hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Bound {
    /// Sockets of one pod.
    PodSockets,
    /// Connections of one pod, accepted and pending ones included.
    PodConnections,
    /// Connections of all pods in a runner.
    RunnerConnections,
    /// Connections that a listener has not accepted yet.
    Backlog,
    /// Bytes of datagrams that wait to be received.
    QueuedDatagrams,
    /// Ports that are chosen for connections and sockets that did not choose one.
    Ports,
    /// Descriptors of the runner process.
    Descriptors,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodSockets => "the pod has as many sockets as it may have",
            Self::PodConnections => "the pod has as many connections as it may have",
            Self::RunnerConnections => "the pods of this namespace have as many connections as one runner may have",
            Self::Backlog => "a listener does not accept its connections fast enough",
            Self::QueuedDatagrams => "datagrams are not received fast enough",
            Self::Ports => "all ephemeral ports of the pod are in use",
            Self::Descriptors => "the runner has as many open descriptors as it may have",
        })
    }
}

/// Runner to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRunnerNet {
    /// A guest connects to what is not its own pod. Answered by [`ToRunnerNet::Connected`].
    Dial {
        /// To match the answer; unique within a runner's life.
        id: u64,
        /// Whose guest.
        pod_uid: String,
        /// Its end of the connection.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
    },
    /// Nobody waits for the answer to a dial any more. May cross with the answer.
    Withdraw {
        /// Of the dial.
        id: u64,
    },
    /// Answer to [`ToRunnerNet::Offer`].
    Answer {
        /// Of the offer.
        id: u64,
        /// Whether a listener took the connection.
        result: Result<(), DialFailure>,
    },
    /// A guest sends a datagram to what is not its own pod. It may be lost.
    Datagram {
        /// Whose guest.
        pod_uid: String,
        /// Its socket.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// At most [`MAX_DATAGRAM_BYTES`].
        #[serde(with = "octets")]
        bytes: Vec<u8>,
    },
    /// A bound was hit and something refused to a guest. Not sent for each time.
    Refused {
        /// Whose guest.
        pod_uid: String,
        /// Which bound.
        what: Bound,
    },
}

/// Agent to runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRunnerNet {
    /// Answer to [`FromRunnerNet::Dial`]; carries the connection's descriptor when it was made.
    Connected {
        /// Of the dial.
        id: u64,
        /// Whether there is a connection.
        result: Result<(), DialFailure>,
    },
    /// Somebody connects to a pod; carries the descriptor. Answered by [`FromRunnerNet::Answer`].
    Offer {
        /// To match the answer.
        id: u64,
        /// Which pod.
        pod_uid: String,
        /// The pod's end: one of its addresses and the port.
        to: SocketAddr,
        /// The other end.
        from: SocketAddr,
    },
    /// A datagram for a pod.
    Datagram {
        /// Which pod.
        pod_uid: String,
        /// One of its addresses and the port.
        to: SocketAddr,
        /// Who sent it.
        from: SocketAddr,
        /// At most [`MAX_DATAGRAM_BYTES`].
        #[serde(with = "octets")]
        bytes: Vec<u8>,
    },
    /// A datagram of a pod reached nobody.
    DatagramRefused {
        /// Which pod.
        pod_uid: String,
        /// The socket that sent it.
        from: SocketAddr,
        /// Where it went.
        to: SocketAddr,
    },
}
