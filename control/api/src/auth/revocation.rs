//! Which certificates of nodes no longer count, and what becomes of the connections that showed them.
//!
//! ```text
//!  certificate: its serial begins with the store's revision when it was issued
//!  Node deleted: the same command writes a record of the name with the time; its revision is the command's
//!  new machine let in under the name: the record is written, then its Node says so to other nodes, then a certificate is issued
//!  a certificate counts if no record of its name is younger than it, and it is not from below the floor
//! ```
//!
//! So a deleted node is out with the very command that deletes it, on every server, and one of the same name that joins
//! later is not. A connection of a revoked certificate ends as soon as the command has been applied here. Records go when
//! [`floor`] stands in for them.

pub mod floor;

use crate::{
    door::{Door, Target, WriteOptions, read_error},
    identity::Identity,
};
use coracle_objects::{ApiError, Reason, catalogue, nodes, patch::PatchType};
use coracle_store::{Command, Entry, EventKind, Expect, Key, Op, Outcome, ReadError, Store, StoreEvent, Watched};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Where the records lie; no kind of the catalogue is there.
const GROUP: &str = "coracle.dev";
const PLURAL: &str = "noderevocations";
/// Pause before the records are watched anew after that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a record is written anew when others have changed it meanwhile.
const ATTEMPTS: usize = 16;

fn key(node: &str) -> Key {
    Key::object(GROUP, PLURAL, "", node)
}

/// The revision from which on certificates of `node` count; 0: all do.
///
/// # Errors
/// When the store cannot be read.
pub fn since(store: &Store, node: &str) -> Result<u64, ReadError> {
    // In this order: a record goes only when the floor has been raised above it.
    let recorded = recorded(store, node)?;
    Ok(recorded.max(floor::of(store)?))
}

/// The same by the record of this name alone.
fn recorded(store: &Store, node: &str) -> Result<u64, ReadError> {
    Ok(store.get(&key(node))?.map_or(0, |entry| entry.revision.0))
}

/// What, in a command, takes all certificates of `node` that were issued so far out of use.
pub(crate) fn revoke(store: &Store, node: &str, now_seconds: i64) -> Result<Op, ReadError> {
    let expect = expectation(store.get(&key(node))?.as_ref());
    Ok(Op::Put { key: key(node), value: now_seconds.to_string().into(), splice_at: None, expect })
}

/// Takes all certificates of `node` that were issued so far out of use without its Node being deleted: a new machine is
/// let in under its name. Answers the revision from which on certificates count. Then servers have refused the old ones
/// since that revision, and other nodes have been told to.
///
/// # Errors
/// When the store cannot be read or written; 409 when others do not stop changing the record.
pub async fn begin_anew(door: &Door, node: &str) -> Result<u64, ApiError> {
    let store = door.store();
    for _ in 0..ATTEMPTS {
        // The time of the last deletion stays: how long its range rests hangs on it.
        let deleted_at = deleted_at(store, node).map_err(|error| read_error(&error))?;
        let op = revoke(store, node, deleted_at).map_err(|error| read_error(&error))?;
        if let Outcome::Applied(revision) = door.propose(Command { ops: vec![op], ..Command::default() }).await? {
            tell_nodes(door, node).await?;
            return Ok(revision.0);
        }
    }
    Err(ApiError::new(Reason::Conflict, format!("node {node} is deleted or joins elsewhere at the same time")))
}

/// Has the Node of this name, if there is one, say to other nodes what is recorded of the name: admission writes it into
/// every change of it.
async fn tell_nodes(door: &Door, node: &str) -> Result<(), ApiError> {
    let target = Target::object(catalogue::nodes(), "", node);
    let (nothing, options) = (serde_json::json!({}), WriteOptions::default());
    match door.patch(&Identity::signer(), &target, &nothing, PatchType::Merge, options).await {
        // One that is made later says so from its beginning.
        Err(error) if error.reason == Reason::NotFound => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Since when credentials count by what a Node says.
fn said_by(node: &serde_json::Value) -> u64 {
    let said = node["metadata"]["annotations"][nodes::CREDENTIALS_SINCE_ANNOTATION].as_str();
    said.and_then(|said| said.parse().ok()).unwrap_or(0)
}

/// When a Node of this name was last deleted, in seconds since 1970; 0: never, as far as is known.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn deleted_at(store: &Store, node: &str) -> Result<i64, ReadError> {
    let entry = store.get(&key(node))?;
    Ok(entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()).unwrap_or(0))
}

/// What a Node of this name, which `old` is if there is one, has to say that it does not yet: the revision from which on
/// credentials count, with the check that it still is so when a command applies. A Node that is there is told of what was
/// recorded of its name; the floor alone is no news that all Nodes would have to be written for.
pub(crate) fn news_for(
    store: &Store,
    node: &str,
    old: Option<&serde_json::Value>,
) -> Result<Option<(u64, Op)>, ReadError> {
    let entry = store.get(&key(node))?;
    let recorded = entry.as_ref().map_or(0, |entry| entry.revision.0);
    let (since, said) = match old {
        Some(old) => (recorded, said_by(old)),
        None => (recorded.max(floor::of(store)?), 0),
    };
    let is_news = old.is_none() || since > said;
    Ok(is_news.then(|| (since, Op::Check { key: key(node), expect: expectation(entry.as_ref()) })))
}

fn expectation(entry: Option<&Entry>) -> Expect {
    entry.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision))
}

/// 401 for a certificate that no longer counts.
pub(super) fn refusal(node: &str) -> ApiError {
    let message = format!(
        "the credentials of node \"{node}\" ended when the node was deleted, when another machine joined as it, or with their \
         time; it has to join again"
    );
    ApiError::new(Reason::Unauthorized, message)
}

/// The open connections of nodes, and what ends those whose certificate is revoked.
pub struct NodeConnections {
    store: Store,
    open: Mutex<HashMap<String, HashMap<u64, Open>>>,
    next: AtomicU64,
}

struct Open {
    issued_at: u64,
    end: CancellationToken,
}

/// A connection that ends when `revoked` is cancelled; dropping it forgets the connection.
pub(crate) struct Entered {
    connections: Arc<NodeConnections>,
    node: String,
    number: u64,
    issued_at: u64,
    pub(crate) revoked: CancellationToken,
}

impl Entered {
    /// Whether the certificate that the connection has shown counts now; where that cannot be read it does not.
    pub(crate) fn counts(&self) -> bool {
        self.connections.counts(&self.node, self.issued_at).unwrap_or(false)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        if let Some(of_node) = open.get_mut(&self.node) {
            of_node.remove(&self.number);
            if of_node.is_empty() {
                open.remove(&self.node);
            }
        }
    }
}

impl NodeConnections {
    /// None is open; `store` has the records.
    #[must_use]
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self { store, open: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Whether a certificate of `node`, issued at this revision, counts.
    ///
    /// # Errors
    /// When the store cannot be read: nobody is let in then, but nobody is told that they are out for good either.
    pub(super) fn counts(&self, node: &str, issued_at: u64) -> Result<bool, ReadError> {
        let since = since(&self.store, node).inspect_err(|error| {
            tracing::error!(%error, node, "cannot read whether a node's credentials count");
        })?;
        Ok(issued_at >= since)
    }

    /// The store with the records.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Notes a connection, until it is dropped.
    pub(crate) fn enter(self: &Arc<Self>, node: &str, issued_at: u64) -> Entered {
        let (number, end) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let open = Open { issued_at, end: end.clone() };
        self.open.lock().entry(node.to_owned()).or_default().insert(number, open);
        Entered { connections: Arc::clone(self), node: node.to_owned(), number, issued_at, revoked: end }
    }

    /// Ends connections as their certificates are revoked, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let prefix = Key::prefix(GROUP, PLURAL, None);
        let follow = async {
            loop {
                // Watched from before the look at what is open, so that nothing falls between the two.
                let watch = self.store.watch(&prefix, self.store.revision());
                self.end_revoked();
                if let Ok(mut watch) = watch {
                    while let Ok(watched) = watch.next().await {
                        if let Watched::Event(event) = watched {
                            self.end_older(&event);
                        }
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = stop.cancelled() => {}
        }
    }

    fn end_older(&self, event: &StoreEvent) {
        // A record that goes revokes nothing.
        if event.kind == EventKind::Deleted {
            return;
        }
        let Some(node) = event.entry.key.0.rsplit('/').next() else { return };
        self.end(node, event.entry.revision.0);
    }

    fn end_revoked(&self) {
        let names: Vec<String> = self.open.lock().keys().cloned().collect();
        for node in names {
            if let Ok(since) = recorded(&self.store, &node) {
                self.end(&node, since);
            }
        }
    }

    fn end(&self, node: &str, since: u64) {
        let open = self.open.lock();
        for one in open.get(node).into_iter().flat_map(HashMap::values).filter(|one| one.issued_at < since) {
            tracing::info!(node, "a connection ends: the node's credentials do not count any more");
            one.end.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_store::testing::LocalProposer;

    #[tokio::test]
    async fn what_was_issued_before_the_record_does_not_count_and_its_connections_end() {
        let proposer = LocalProposer::new().unwrap();
        let store = proposer.store().clone();
        let connections = NodeConnections::new(store.clone());
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&connections).run(stop.clone()));
        let (one, two) = (connections.enter("one", 0), connections.enter("two", 0));
        assert!(connections.counts("one", 0).unwrap());
        for _ in 0..2 {
            let ops = vec![revoke(&store, "one", 7).unwrap()];
            coracle_store::Proposer::propose(&proposer, Command { ops, ..Command::default() }).await.unwrap();
        }
        one.revoked.cancelled().await;
        let since = since(&store, "one").unwrap();
        assert!(since > 0);
        assert!(!connections.counts("one", since - 1).unwrap() && connections.counts("one", since).unwrap());
        assert_eq!((deleted_at(&store, "one").unwrap(), deleted_at(&store, "two").unwrap()), (7, 0));
        let later = connections.enter("one", since);
        assert!(!two.revoked.is_cancelled() && !later.revoked.is_cancelled());
        drop((one, later));
        assert_eq!(connections.open.lock().keys().collect::<Vec<_>>(), ["two"]);
        stop.cancel();
    }

    #[tokio::test]
    async fn who_joins_anew_ends_what_was_issued_before_and_deletes_nothing() {
        let (door, _) = crate::testing::door().await;
        let first = begin_anew(&door, "one").await.unwrap();
        let second = begin_anew(&door, "one").await.unwrap();
        assert!(0 < first && first < second);
        assert_eq!((since(door.store(), "one").unwrap(), deleted_at(door.store(), "one").unwrap()), (second, 0));
        let op = revoke(door.store(), "one", 7).unwrap();
        door.propose(Command { ops: vec![op], ..Command::default() }).await.unwrap();
        begin_anew(&door, "one").await.unwrap();
        assert_eq!(deleted_at(door.store(), "one").unwrap(), 7);
    }
}
