//! How much one node may ask of the servers, so that one that has gone wild takes nothing from the others. Whoever asks
//! more is refused with 429 (`RESOURCE_EXHAUSTED`), named in the log and in an event on its Node.

use crate::{
    Door,
    door::{Body, Target, WriteOptions, stamp},
    identity::Identity,
};
use coracle_objects::{ApiError, Reason, catalogue};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;
use tonic::Status;

/// Requests of a node, all connections together. An agent that comes back writes the status of each of its pods once.
const REQUEST_RATE: Rate = Rate { per_second: 500.0, burst: 10_000.0 };
/// Views that a node may begin to follow: a whole one costs the server about as much as ten thousand small requests.
const VIEW_RATE: Rate = Rate { per_second: 0.5, burst: 20.0 };
/// Connections of one node at a time: two while it changes its credentials, and some that are not known to be dead yet.
const CONNECTIONS_MAX: usize = 16;
/// How often a node that asks too much is told of.
const TELL_EVERY: Duration = Duration::from_mins(1);
/// Requests of one bootstrap token: of all machines that join with it at a time.
const JOIN_RATE: Rate = Rate { per_second: 50.0, burst: 2_000.0 };
/// Nodes that are remembered although they rest; more are forgotten.
const NODES_MAX: usize = 16 * 1024;
/// Where events about objects without a namespace are.
const EVENT_NAMESPACE: &str = "default";

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    /// In the long run.
    pub(crate) per_second: f64,
    /// At once, after rest.
    pub(crate) burst: f64,
}

/// Counts against a [`Rate`]. Pure.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    rate: Rate,
    left: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, left: rate.burst, at: None }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_many(1, now)
    }

    /// Takes so many, if there are as many.
    pub(crate) fn take_many(&mut self, many: u32, now: Instant) -> bool {
        self.earn(now);
        let there_are = self.left >= f64::from(many);
        if there_are {
            self.left -= f64::from(many);
        }
        there_are
    }

    /// Whether it has rested until now.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.earn(now);
        self.left >= self.rate.burst
    }

    fn earn(&mut self, now: Instant) {
        if let Some(at) = self.at {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            self.left = passed.mul_add(self.rate.per_second, self.left).min(self.rate.burst);
        }
        self.at = Some(now);
    }
}

/// What one node used.
struct Account {
    requests: Bucket,
    views: Bucket,
    connections: usize,
    refused: u64,
    told_at: Option<Instant>,
}

impl Account {
    fn new() -> Self {
        Self {
            requests: Bucket::new(REQUEST_RATE),
            views: Bucket::new(VIEW_RATE),
            connections: 0,
            refused: 0,
            told_at: None,
        }
    }
}

/// The accounts of all nodes.
pub struct NodeBounds {
    door: Weak<Door>,
    accounts: Mutex<HashMap<String, Account>>,
    /// By user, which is by token. There are no more than tokens.
    joining: Mutex<HashMap<String, Bucket>>,
}

/// A connection that counts, until this is dropped.
pub(crate) struct Counted {
    bounds: Arc<NodeBounds>,
    node: String,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(account) = self.bounds.accounts.lock().get_mut(&self.node) {
            account.connections -= 1;
        }
    }
}

impl NodeBounds {
    /// Nobody has asked for anything yet.
    #[must_use]
    pub fn new(door: &Arc<Door>) -> Arc<Self> {
        Arc::new(Self { door: Arc::downgrade(door), accounts: Mutex::default(), joining: Mutex::default() })
    }

    /// Counts a connection of `node`.
    ///
    /// # Errors
    /// 429 when it has too many.
    pub(crate) fn connection(self: &Arc<Self>, node: &str) -> Result<Counted, ApiError> {
        let what = format!("it has {CONNECTIONS_MAX} connections already");
        self.charge(node, &what, |account, _| {
            let there_is = account.connections < CONNECTIONS_MAX;
            account.connections += usize::from(there_is);
            there_is
        })?;
        Ok(Counted { bounds: Arc::clone(self), node: node.to_owned() })
    }

    /// Counts a request of `node`.
    ///
    /// # Errors
    /// 429 when there are too many.
    pub(crate) fn request(&self, node: &str) -> Result<(), ApiError> {
        let what = format!("it makes more than {} requests a second", REQUEST_RATE.per_second);
        self.charge(node, &what, |account, now| account.requests.take(now))
    }

    /// Counts a request of `user`, who has no more than a bootstrap token.
    ///
    /// # Errors
    /// 429 when there are too many.
    pub(crate) fn join_request(&self, user: &str) -> Result<(), ApiError> {
        let now = Instant::now();
        let mut joining = self.joining.lock();
        joining.retain(|of, bucket| of == user || !bucket.is_full(now));
        if joining.entry(user.to_owned()).or_insert_with(|| Bucket::new(JOIN_RATE)).take(now) {
            return Ok(());
        }
        let message =
            format!("user \"{user}\" makes more than {} requests a second; try again later", JOIN_RATE.per_second);
        Err(ApiError::new(Reason::TooManyRequests, message))
    }

    /// Counts that `node` begins to follow its view.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when it does so too often.
    pub(super) fn view(&self, node: &str) -> Result<(), Status> {
        let charged = self.charge(node, "it asks for its view too often", |account, now| account.views.take(now));
        charged.map_err(|error| Status::resource_exhausted(error.message))
    }

    fn charge(&self, node: &str, what: &str, take: impl FnOnce(&mut Account, Instant) -> bool) -> Result<(), ApiError> {
        let now = Instant::now();
        let mut accounts = self.accounts.lock();
        if accounts.len() >= NODES_MAX && !accounts.contains_key(node) {
            accounts.retain(|_, account| account.connections > 0);
        }
        let account = accounts.entry(node.to_owned()).or_insert_with(Account::new);
        if take(account, now) {
            return Ok(());
        }
        account.refused += 1;
        let is_due = account.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY);
        if is_due {
            account.told_at = Some(now);
            let refused = std::mem::take(&mut account.refused);
            drop(accounts);
            self.tell(node, what, refused);
        }
        let message = format!("node \"{node}\" asks too much: {what}; try again later");
        Err(ApiError::new(Reason::TooManyRequests, message))
    }

    /// For those who look after the node.
    fn tell(&self, node: &str, what: &str, refused: u64) {
        tracing::warn!(node, refused, "a node asks too much and is refused: {what}");
        let Some(door) = self.door.upgrade() else { return };
        let event = event(node, &format!("The server refuses what the node asks: {what} ({refused} refused)"));
        let node = node.to_owned();
        tokio::spawn(async move {
            let target = Target::collection(catalogue::events(), EVENT_NAMESPACE);
            let identity = Identity::controller_manager();
            if let Err(error) = door.create(&identity, &target, Body::Value(event), WriteOptions::default()).await {
                tracing::warn!(node, %error, "cannot write an event about the node");
            }
        });
    }
}

fn event(node: &str, message: &str) -> Value {
    let now = stamp::timestamp(stamp::now_seconds());
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"generateName": format!("{node}-"), "namespace": EVENT_NAMESPACE},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "type": "Warning", "reason": "NodeAsksTooMuch", "message": message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now, "source": {"component": "node-link"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(Rate { per_second: 2.0, burst: 3.0 });
        let start = Instant::now();
        let taken = |bucket: &mut Bucket, at| (0..10).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(1)), 2);
        assert_eq!(taken(&mut bucket, start + Duration::from_hours(1)), 3, "rest is worth no more than a burst");
    }

    #[tokio::test]
    async fn who_asks_too_much_is_named_once_and_others_go_on() {
        let (door, _proposer) = crate::testing::door().await;
        let bounds = NodeBounds::new(&door);
        let kept: Vec<_> = (0..CONNECTIONS_MAX).map(|_| bounds.connection("one").unwrap()).collect();
        for _ in 0..3 {
            let refused = bounds.connection("one").map(drop).unwrap_err();
            assert_eq!((refused.code(), refused.message.contains("16 connections")), (429, true), "{refused}");
        }
        assert!(bounds.connection("two").is_ok() && bounds.request("one").is_ok());
        // Time passes meanwhile, which earns some.
        let refused = (0..).find_map(|_| bounds.join_request("system:bootstrap:a").err());
        assert_eq!(refused.map(|error| error.code()), Some(429));
        assert!(bounds.join_request("system:bootstrap:b").is_ok(), "each token for itself");
        drop(kept);
        assert!(bounds.connection("one").is_ok(), "what has ended counts no more");
        let refused = (0..100).find_map(|_| bounds.view("two").err());
        assert_eq!(refused.map(|status| status.code()), Some(tonic::Code::ResourceExhausted));

        let events = Target::collection(catalogue::events(), EVENT_NAMESPACE);
        let deadline = Instant::now() + Duration::from_mins(1);
        let messages = loop {
            let options = crate::door::read::ListOptions::default();
            let listed = door.list(&Identity::admin(), &events, &options).await.unwrap().entries;
            let told: Vec<Value> = listed.iter().map(|entry| serde_json::from_slice(&entry.value).unwrap()).collect();
            if told.len() >= 2 || Instant::now() > deadline {
                break told;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let mut about: Vec<_> = messages.iter().map(|event| event["involvedObject"]["name"].to_string()).collect();
        about.sort();
        assert_eq!(about, ["\"one\"", "\"two\""]);
    }
}
