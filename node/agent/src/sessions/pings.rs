//! When the pings of one control stream were sent, until it is known with which of them the node's lease was renewed. What
//! is answered without that says nothing about the node.

use crate::contact::{Contact, Moment};
use coracle_wire::v1::ServerPong;
use std::collections::VecDeque;

/// Pings of one stream that are remembered; what is older is not worth to know.
const KEPT_MAX: usize = 64;

/// Pings, numbered from one, with which the lease was not yet renewed, as far as is known.
pub(super) struct Pings<T> {
    /// The one that was sent last.
    last: u64,
    /// The one that was answered last: one answer comes for each, in order.
    answered: u64,
    sent: VecDeque<(u64, T)>,
}

impl<T> Pings<T> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { last: 0, answered: 0, sent: VecDeque::new() }
    }

    /// One is sent now, at `at`.
    pub(super) fn send(&mut self, at: T) {
        self.last += 1;
        self.sent.push_back((self.last, at));
        if self.sent.len() > KEPT_MAX {
            self.sent.pop_front();
        }
    }

    /// The next one is answered: the lease was renewed with the one that was sent so many before it. When that was, where it
    /// is news.
    pub(super) fn answered(&mut self, behind: u64) -> Option<T> {
        self.answered += 1;
        let renewed = self.answered.saturating_sub(behind);
        let mut newest = None;
        while let Some((_, at)) = self.sent.pop_front_if(|(number, _)| *number <= renewed) {
            newest = Some(at);
        }
        newest
    }
}

impl Pings<Moment> {
    /// The server has answered the next one: so the contact was made when that was sent which renewed the lease.
    pub(super) fn hear(&mut self, pong: &ServerPong, contact: &Contact) {
        if let Some(sent) = self.answered(pong.behind) {
            contact.made(sent);
        }
        if pong.unrenewed {
            contact.missed();
        }
    }
}

#[cfg(test)]
mod tests;
