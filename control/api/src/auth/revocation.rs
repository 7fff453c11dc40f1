//! Which certificates of nodes no longer count, and what becomes of the connections that showed them.
//!
//! ```text
//!  certificate: its serial begins with the store's revision when it was issued
//!  Node deleted: the same command writes a record of the name with the time; its revision is the command's
//!  new machine let in under the name: the record is written before its certificate is issued, with that revision
//!  a certificate counts if no record of its name is younger than it
//! ```
//!
//! So a deleted node is out with the very command that deletes it, on every server, and one of the same name that joins
//! later is not. A connection of a revoked certificate ends as soon as the command has been applied here.

use crate::door::{Door, read_error};
use coracle_objects::{ApiError, Reason};
use coracle_store::{Command, Expect, Key, Op, Outcome, ReadError, Store, StoreEvent, Watched};
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

fn key(node: &str) -> Key {
    Key::object(GROUP, PLURAL, "", node)
}

/// The revision from which on certificates of `node` count; 0: all do.
///
/// # Errors
/// When the store cannot be read.
pub fn since(store: &Store, node: &str) -> Result<u64, ReadError> {
    Ok(store.get(&key(node))?.map_or(0, |entry| entry.revision.0))
}

/// What, in a command, takes all certificates of `node` that were issued so far out of use.
pub(crate) fn revoke(store: &Store, node: &str, now_seconds: i64) -> Result<Op, ReadError> {
    let expect = match store.get(&key(node))? {
        Some(entry) => Expect::Revision(entry.revision),
        None => Expect::Absent,
    };
    Ok(Op::Put { key: key(node), value: now_seconds.to_string().into(), splice_at: None, expect })
}

/// Takes all certificates of `node` that were issued so far out of use without its Node being deleted: a new machine is
/// let in under its name. Answers the revision from which on certificates count.
///
/// # Errors
/// When the store cannot be read or written; 409 when another server was faster.
pub async fn begin_anew(door: &Door, node: &str) -> Result<u64, ApiError> {
    let store = door.store();
    // The time of the last deletion stays: how long its range rests hangs on it.
    let deleted_at = deleted_at(store, node).map_err(|error| read_error(&error))?;
    let op = revoke(store, node, deleted_at).map_err(|error| read_error(&error))?;
    match door.propose(Command { ops: vec![op], ..Command::default() }).await? {
        Outcome::Applied(revision) => Ok(revision.0),
        Outcome::Rejected(_) => Err(ApiError::new(Reason::Conflict, format!("node {node} was deleted just now"))),
    }
}

/// When a Node of this name was last deleted, in seconds since 1970; 0: never, as far as is known.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn deleted_at(store: &Store, node: &str) -> Result<i64, ReadError> {
    let entry = store.get(&key(node))?;
    Ok(entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()).unwrap_or(0))
}

/// [`since`], with the check that it still is so when a command applies.
pub(crate) fn since_and_check(store: &Store, node: &str) -> Result<(u64, Op), ReadError> {
    let entry = store.get(&key(node))?;
    let expect = entry.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
    Ok((entry.map_or(0, |entry| entry.revision.0), Op::Check { key: key(node), expect }))
}

/// 401 for a certificate that no longer counts.
pub(super) fn refusal(node: &str) -> ApiError {
    let message = format!(
        "the credentials of node \"{node}\" ended when the node was deleted, or when another machine joined as it; it has to \
         join again"
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
        let Some(node) = event.entry.key.0.rsplit('/').next() else { return };
        self.end(node, event.entry.revision.0);
    }

    fn end_revoked(&self) {
        let names: Vec<String> = self.open.lock().keys().cloned().collect();
        for node in names {
            if let Ok(since) = since(&self.store, &node) {
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
