//! The way out to other servers.
//!
//! Messages are opaque bytes to whoever carries them. With one voter there are none; the carrier over gRPC takes this
//! place when there are more: it implements [`Transport`], and hands what comes in to [`crate::Replica::receive`].

/// Carries raft messages to peers.
pub trait Transport: Send + 'static {
    /// Sends `message` to server `to`. Must not block; may lose, repeat or reorder messages, as raft copes with all of that, and
    /// should report a peer that cannot be reached by [`crate::Replica::report_unreachable`].
    fn send(&mut self, to: u64, message: Vec<u8>);
}

/// For a cluster of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, to: u64, _message: Vec<u8>) {
        tracing::debug!(to, "message to a peer dropped: there is no transport");
    }
}
