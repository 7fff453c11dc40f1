//! Packets between nodes whose hosts do not reach each other. Each node holds one stream; what it sends goes to the stream of
//! the node that it names, with its own name on it, which its certificate says and not its message.
//!
//! Nothing is looked into (packets are encrypted from node to node), nothing is kept, and nothing waits: what a node does not
//! read, what goes to a node that is not there and what is beyond a node's share is lost, as packets are. The stream ends
//! with the node's connection, and so when the node is removed.

use super::bounds::{Bucket, Rate};
use coracle_wire::v1::RelayedPackets;
use futures::{StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Bytes of one message: as many as the kernel takes at once.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Messages to a node that wait for it to read them.
pub(super) const QUEUE: usize = 64;
/// Of these, what one sender may hold: no node keeps the others from a node that reads slowly.
pub(super) const QUEUE_OF_SENDER: usize = QUEUE / 4;
/// What a node may send at once, in bytes.
pub(super) const BURST_BYTES: u32 = 8 * 1024 * 1024;
/// What it may send on the average, in bytes a second, and at once.
const SHARE: Rate = Rate { per_second: 32.0 * 1024.0 * 1024.0, burst: BURST_BYTES as f64 };
/// How often it is said that a node sends more than its share.
const SAID_EVERY: Duration = Duration::from_mins(1);

type ToNode = mpsc::Sender<(Result<RelayedPackets, Status>, Option<Place>)>;
/// How many messages of each sender wait for one node. Has no more senders than places in a queue.
type Waiting = Arc<Mutex<HashMap<String, usize>>>;

/// A sender's place in a queue, until this is dropped.
struct Place {
    waiting: Waiting,
    sender: String,
}

impl Place {
    /// `None` where the sender has its part of the queue.
    fn take(waiting: &Waiting, sender: &str) -> Option<Self> {
        let mut counts = waiting.lock();
        let count = counts.entry(sender.to_owned()).or_default();
        (*count < QUEUE_OF_SENDER).then(|| {
            *count += 1;
            Self { waiting: Arc::clone(waiting), sender: sender.to_owned() }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.waiting.lock();
        if let Some(count) = counts.get_mut(&self.sender) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.sender);
            }
        }
    }
}

/// Where what goes to one node goes.
struct Target {
    generation: u64,
    to_node: ToNode,
    waiting: Waiting,
    ended: CancellationToken,
}

/// The nodes that hold a stream.
#[derive(Default)]
pub(super) struct Relays {
    routes: Mutex<HashMap<String, Target>>,
    /// Of each node, over all of its streams. Those that rest are forgotten.
    shares: Mutex<HashMap<String, Bucket>>,
    generations: AtomicU64,
}

/// One node's stream. Dropping it ends it.
pub(super) struct Route {
    relays: Arc<Relays>,
    node: String,
    generation: u64,
    to_node: ToNode,
    ended: CancellationToken,
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut routes = self.relays.routes.lock();
        if routes.get(&self.node).is_some_and(|target| target.generation == self.generation) {
            routes.remove(&self.node);
        }
    }
}

impl Relays {
    /// A node's stream, which takes the place of an earlier one of the same node, and what goes to the node.
    pub(super) fn enter(
        self: &Arc<Self>,
        node: &str,
        closing: &CancellationToken,
    ) -> (Route, BoxStream<'static, Result<RelayedPackets, Status>>) {
        let now = Instant::now();
        self.shares.lock().retain(|_, share| !share.is_full(now));
        let (to_node, receiver) = mpsc::channel(QUEUE);
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let ended = closing.child_token();
        let waiting = Waiting::default();
        let target = Target { generation, to_node: to_node.clone(), waiting, ended: ended.clone() };
        if let Some(old) = self.routes.lock().insert(node.to_owned(), target) {
            old.ended.cancel();
        }
        // What is taken out has left its place.
        let messages = ReceiverStream::new(receiver).map(|(message, _place)| message).boxed();
        (Route { relays: Arc::clone(self), node: node.to_owned(), generation, to_node, ended }, messages)
    }

    /// Takes so many bytes from what `node` may send, if there is as much.
    fn takes(&self, node: &str, bytes: usize, now: Instant) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.shares.lock().entry(node.to_owned()).or_insert_with(|| Bucket::new(SHARE)).take_many(bytes, now)
    }

    /// Passes packets on, if there is room where they go.
    fn pass_on(&self, from: &str, packets: RelayedPackets) {
        let target =
            self.routes.lock().get(&packets.node).map(|target| (target.to_node.clone(), target.waiting.clone()));
        let Some((to_node, waiting)) = target else { return };
        // Full, or full of what this sender sent: lost.
        if let Some(place) = Place::take(&waiting, from) {
            to_node.try_send((Ok(RelayedPackets { node: from.to_owned(), ..packets }), Some(place))).ok();
        }
    }
}

impl Route {
    /// Carries what the node sends until it, or the server, ends.
    pub(super) async fn carry(self, mut from_node: Streaming<RelayedPackets>) {
        let mut said: Option<Instant> = None;
        let status = loop {
            let message = tokio::select! {
                () = self.ended.cancelled() => {
                    break Status::aborted("a newer connection of this node has taken over, or the server stops");
                }
                // Who no longer reads has gone; its stream may not know yet.
                () = self.to_node.closed() => return,
                message = from_node.message() => message,
            };
            let packets = match message {
                Ok(Some(packets)) => packets,
                Ok(None) => return,
                Err(status) => break status,
            };
            let length = packets.packets.len();
            if length == 0 || length > MESSAGE_BYTES_MAX || packets.segment_bytes == 0 {
                break Status::invalid_argument(format!("a message has 1 to {MESSAGE_BYTES_MAX} bytes of packets"));
            }
            let now = Instant::now();
            if self.relays.takes(&self.node, length, now) {
                self.relays.pass_on(&self.node, packets);
            } else if said.is_none_or(|at| now.saturating_duration_since(at) >= SAID_EVERY) {
                said = Some(now);
                tracing::warn!(node = self.node, "a node sends more to other nodes through this server than its share");
            }
        };
        tracing::debug!(node = self.node, status = status.message(), "a node's relay ended");
        self.to_node.try_send((Err(status), None)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn one_sender_holds_a_part_of_a_queue_and_others_get_through() {
        let (relays, closing) = (Arc::new(Relays::default()), CancellationToken::new());
        let (_route, mut two) = relays.enter("two", &closing);
        let send = |from: &str| relays.pass_on(from, RelayedPackets { node: "two".to_owned(), ..Default::default() });
        let mut received = || {
            let mut from = Vec::new();
            while let Some(Some(Ok(packets))) = two.next().now_or_never() {
                from.push(packets.node);
            }
            from
        };
        for round in 0..2 {
            for _ in 0..QUEUE * 2 {
                send("one");
            }
            send("three");
            let from = received();
            let count = |name| from.iter().filter(|from| *from == name).count();
            assert_eq!((count("one"), count("three")), (QUEUE_OF_SENDER, 1), "round {round}");
        }
    }

    #[test]
    fn a_new_stream_is_no_new_share() {
        let (relays, closing, now) = (Arc::new(Relays::default()), CancellationToken::new(), Instant::now());
        // However slow the machine is, nothing is earned meanwhile.
        let ahead = now + Duration::from_hours(1);
        let burst = usize::try_from(BURST_BYTES).unwrap();
        let (first, _messages) = relays.enter("one", &closing);
        assert!(relays.takes("one", burst, ahead));
        drop(first);
        let (_second, _messages) = relays.enter("one", &closing);
        assert!(!relays.takes("one", burst, now) && relays.takes("two", burst, now));
    }

    #[test]
    fn a_share_is_used_up_and_comes_back() {
        let (relays, start) = (Relays::default(), Instant::now());
        let takes = |bytes, after| relays.takes("one", bytes, start + after);
        let burst = usize::try_from(BURST_BYTES).unwrap();
        assert!(takes(burst, Duration::ZERO) && !takes(1, Duration::ZERO));
        let soon = Duration::from_millis(10);
        assert!(!takes(burst, soon) && takes(300_000, soon));
        let later = Duration::from_hours(1);
        assert!(takes(burst, later) && !takes(1, later), "no more than the burst is saved up");
    }
}
