//! Connections of users to pods: commands in containers, attaching, forwarded ports.
//!
//! What is asked is checked here once for HTTP and gRPC ([`request`]); the protocols that `kubectl` speaks (WebSocket and
//! SPDY/3.1) are joined to a session of the node's link ([`bridge`], [`forward`]). Nothing is kept that one side has
//! sent and the other does not take: every queue is bounded, and whoever does not read holds the other side back.
//! A client that goes away ends what it began on the node; what a client sends makes nothing fail but its own session.

mod bounds;
mod bridge;
mod forward;
mod forward_channels;
mod request;
mod spdy;
mod streams;
#[cfg(test)]
mod tests;
mod upgrade;
mod websocket;

pub(crate) use bounds::{SessionSlot, SessionSlots};
pub(crate) use forward::Opener as ForwardOpener;
pub(crate) use request::{Placed, Wanted, open, place};
pub(crate) use streams::Directions;
pub(crate) use upgrade::{Upgrade, serve_container, serve_forward};

use std::time::Duration;
use tokio::time::Instant;

/// A session in which nothing was said for so long is ended.
const IDLE_MAX: Duration = Duration::from_hours(4);

/// The client has gone, or does not want to hear more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// When something was said last.
struct Idle {
    last: parking_lot::Mutex<Instant>,
}

impl Idle {
    fn new() -> Self {
        Self { last: parking_lot::Mutex::new(Instant::now()) }
    }

    /// Something was said.
    fn touch(&self) {
        *self.last.lock() = Instant::now();
    }

    /// Waits until nothing was said for too long.
    async fn expired(&self) {
        loop {
            let until = *self.last.lock() + IDLE_MAX;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
