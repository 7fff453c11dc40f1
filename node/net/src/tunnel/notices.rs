//! What people should hear of the tunnel: each thing once in a while, however often it happens.

use super::peers::Notice;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The same is said again after so long.
const SAID_AGAIN: Duration = Duration::from_mins(1);
/// Different things that are remembered as said. With more, some are said more often.
const REMEMBERED_MAX: usize = 256;
/// Notices that wait to be read; more are lost.
const QUEUE: usize = 256;

#[derive(Debug)]
pub(super) struct Reporter {
    sender: mpsc::Sender<Notice>,
    said: Mutex<HashMap<String, Instant>>,
}

impl Reporter {
    pub(super) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { sender, said: Mutex::default() }, receiver)
    }

    /// How a peer is reached has changed.
    pub(super) fn changed(&self, notice: Notice) {
        match &notice {
            Notice::Relayed { node, why } => {
                tracing::warn!(node, why, "traffic to a node goes through the control plane");
            }
            Notice::Direct { node } => tracing::info!(node, "traffic to a node goes directly again"),
            Notice::Unreachable { .. } | Notice::Refused { .. } => {}
        }
        // Nobody reads: the log has it.
        let _unread = self.sender.try_send(notice);
    }

    /// A peer cannot be reached.
    pub(super) fn unreachable(&self, node: &str, why: &str) {
        if self.is_new(format!("unreachable {node}")) {
            tracing::warn!(node, why, "a node cannot be reached");
            let notice = Notice::Unreachable { node: node.to_owned(), why: why.to_owned() };
            let _unread = self.sender.try_send(notice);
        }
    }

    /// Somebody was turned away.
    pub(super) fn refused(&self, node: Option<&str>, address: SocketAddr, why: &str) {
        let who = node.map_or_else(|| address.ip().to_string(), str::to_owned);
        if self.is_new(format!("refused {who} {why}")) {
            tracing::warn!(node, %address, why, "somebody was turned away from the tunnel");
            let notice = Notice::Refused { node: node.map(str::to_owned), address, why: why.to_owned() };
            let _unread = self.sender.try_send(notice);
        }
    }

    fn is_new(&self, what: String) -> bool {
        let (mut said, now) = (self.said.lock(), Instant::now());
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < SAID_AGAIN;
        if said.get(&what).is_some_and(is_recent) {
            return false;
        }
        if said.len() >= REMEMBERED_MAX {
            said.retain(|_, at| is_recent(at));
            if said.len() >= REMEMBERED_MAX {
                said.clear();
            }
        }
        said.insert(what, now);
        true
    }
}
