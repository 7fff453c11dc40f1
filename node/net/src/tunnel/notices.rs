//! What people should hear of the tunnel: each thing once in a while, however often it happens.

use super::peers::Notice;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The same is said again after so long.
const SAID_AGAIN: Duration = Duration::from_mins(1);
/// Different things about peers that are remembered as said. With more, new ones are not said.
const REMEMBERED_MAX: usize = 4096;
/// Different things about strangers: whoever comes from many addresses must not silence what is said of peers.
const STRANGERS_MAX: usize = 64;
/// Notices that wait to be read; more are lost.
const QUEUE: usize = 256;

#[derive(Debug)]
pub(super) struct Reporter {
    sender: mpsc::Sender<Notice>,
    /// By peer and kind: never by what a peer may choose.
    peers: Mutex<HashMap<(String, &'static str), Instant>>,
    /// By address and reason.
    strangers: Mutex<HashMap<(IpAddr, String), Instant>>,
}

/// What no peer is refused for.
const UNREACHABLE: &str = "unreachable";

impl Reporter {
    pub(super) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { sender, peers: Mutex::default(), strangers: Mutex::default() }, receiver)
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
        if is_new(&mut self.peers.lock(), (node.to_owned(), UNREACHABLE), REMEMBERED_MAX, Instant::now()) {
            tracing::warn!(node, why, "a node cannot be reached");
            let notice = Notice::Unreachable { node: node.to_owned(), why: why.to_owned() };
            let _unread = self.sender.try_send(notice);
        }
    }

    /// A peer was turned away, or something that it did. Kinds are few; `why` may say more.
    pub(super) fn refused(&self, node: &str, kind: &'static str, address: SocketAddr, why: &str) {
        if is_new(&mut self.peers.lock(), (node.to_owned(), kind), REMEMBERED_MAX, Instant::now()) {
            self.say_refused(Some(node), address, why);
        }
    }

    /// Somebody was turned away who is no peer.
    pub(super) fn refused_stranger(&self, address: SocketAddr, why: &str) {
        if is_new(&mut self.strangers.lock(), (address.ip(), why.to_owned()), STRANGERS_MAX, Instant::now()) {
            self.say_refused(None, address, why);
        }
    }

    fn say_refused(&self, node: Option<&str>, address: SocketAddr, why: &str) {
        tracing::warn!(node, %address, why, "somebody was turned away from the tunnel");
        let notice = Notice::Refused { node: node.map(str::to_owned), address, why: why.to_owned() };
        let _unread = self.sender.try_send(notice);
    }
}

/// Whether it was not said lately; then it counts as said. Where too much was said, nothing is new.
fn is_new<What: Hash + Eq>(said: &mut HashMap<What, Instant>, what: What, max: usize, now: Instant) -> bool {
    let is_recent = |at: &Instant| now.saturating_duration_since(*at) < SAID_AGAIN;
    if said.get(&what).is_some_and(is_recent) {
        return false;
    }
    if said.len() >= max {
        said.retain(|_, at| is_recent(at));
        if said.len() >= max {
            return false;
        }
    }
    said.insert(what, now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_said_once_and_silences_nobody_else() {
        let (reporter, mut heard) = Reporter::new();
        for number in 0..10_000_u32 {
            let address = SocketAddr::from((number.to_be_bytes(), 1));
            reporter.refused("bad", "kind", address, &format!("traffic from {address}"));
            reporter.refused_stranger(address, &format!("reason {number}"));
        }
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        reporter.refused("good", "kind", address, "something else");
        reporter.unreachable("bad", "no answer");
        let all: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        let of = |wanted: Option<&str>| {
            all.iter()
                .filter(|notice| matches!(notice, Notice::Refused { node, .. } if node.as_deref() == wanted))
                .count()
        };
        assert_eq!([of(Some("bad")), of(None), of(Some("good"))], [1, STRANGERS_MAX, 1]);
        assert!(matches!(all.last(), Some(Notice::Unreachable { .. })));
    }

    #[test]
    fn the_same_is_said_again_after_a_while() {
        let (mut said, now) = (HashMap::new(), Instant::now());
        assert!(is_new(&mut said, 1, 2, now) && !is_new(&mut said, 1, 2, now + SAID_AGAIN / 2));
        assert!(is_new(&mut said, 2, 2, now) && !is_new(&mut said, 3, 2, now));
        assert!(is_new(&mut said, 3, 2, now + SAID_AGAIN) && is_new(&mut said, 1, 2, now + SAID_AGAIN));
    }
}
