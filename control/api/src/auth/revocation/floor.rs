//! The floor: a store revision below which no certificate of any node counts. It stands in for records of revocation that
//! are old enough, so that these can go.
//!
//! ```text
//!  mark:   all certificates from below its revision were issued before it was made
//!  so much time later as the longest of them lasted, and a quarter more: the floor rises to its revision, …
//!  … and with the same command go the records that are not above the floor
//! ```
//!
//! It must never let anybody in: what a record refuses of one name, the floor refuses of all, whatever any clock says. And it
//! must never put out whose certificate is good: time is what servers ran, counted by a clock that no step of the wall clock
//! changes. What passes while no server runs does not count, so records may stay for longer.

use super::{GROUP, PLURAL, expectation};
use crate::door::{Door, RANGE_REST, read_error};
use coracle_objects::{ApiError, catalogue};
use coracle_store::{Command, Entry, Expect, Key, Op, Outcome, ReadError, Store};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Where the floor lies, and what leads to the next one.
const FLOORS: &str = "noderevocationfloors";
/// Marks that there are within the time that certificates last.
const MARKS: u64 = 8;
/// Marks at most: beyond that the last one takes the place of new ones.
const MARKS_MAX: usize = 32;
/// Time is written down at least so often: what a server that crashes had not written does not count.
const INTERVAL_MAX: Duration = Duration::from_mins(10);
/// Records that one command removes.
const AT_ONCE: usize = 256;
/// How long certificates may last that were issued before there was a floor, where nobody said otherwise.
const LIFETIME_BEFORE: Duration = Duration::from_hours(365 * 24);

fn floor_key() -> Key {
    Key::object(GROUP, FLOORS, "", "floor")
}

fn marks_key() -> Key {
    Key::object(GROUP, FLOORS, "", "marks")
}

/// The revision from below which no certificate counts.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn of(store: &Store) -> Result<u64, ReadError> {
    let entry = store.get(&floor_key())?;
    Ok(entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()).unwrap_or(0))
}

/// What leads to the next floor. Times are seconds that servers have run since there is a floor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Marks {
    /// Now.
    now: u64,
    /// The longest lifetime of certificates that were issued since the last mark.
    longest: u64,
    /// When the last mark was made.
    marked: u64,
    /// Those that are not over, by revision.
    open: Vec<Mark>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    revision: u64,
    /// When all certificates from below the revision have expired.
    over: u64,
}

/// What certificates are issued for, in seconds.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// How long they last.
    lifetime: u64,
    /// How long records are needed all the same.
    least: u64,
}

impl Marks {
    /// `passed` seconds later, when the store is at `revision`: the new floor, where it rises.
    fn advance(&mut self, passed: u64, terms: Terms, revision: u64) -> Option<u64> {
        self.now = self.now.saturating_add(passed);
        self.longest = self.longest.max(terms.lifetime);
        let wait = wait(self.longest).max(terms.least);
        if self.open.is_empty() || self.now - self.marked >= wait / MARKS {
            self.mark(Mark { revision, over: self.now.saturating_add(wait) });
            (self.marked, self.longest) = (self.now, terms.lifetime);
        }
        let over = self.open.iter().take_while(|mark| mark.over <= self.now).count();
        self.open.drain(..over).next_back().map(|mark| mark.revision)
    }

    fn mark(&mut self, new: Mark) {
        let is_full = self.open.len() >= MARKS_MAX;
        match self.open.last_mut() {
            // Certificates from before the last mark last for longer than those since: they end together.
            Some(last) if is_full || last.over >= new.over => {
                *last = Mark { revision: new.revision, over: last.over.max(new.over) };
            }
            _ => self.open.push(new),
        }
    }
}

/// How long is waited for the end of certificates that last so long: they may be issued somewhat after they were asked for,
/// which is the revision that they bear.
fn wait(lifetime: u64) -> u64 {
    lifetime.saturating_add(lifetime / 4).saturating_add(1)
}

/// Raises the floor of a cluster whose certificates last so long, for one server.
#[derive(Debug)]
pub struct Raiser {
    terms: Terms,
    /// The revision of the marks as they were seen or written last, and when that was.
    seen: Option<(u64, Instant)>,
}

impl Raiser {
    /// For certificates of nodes that last for `lifetime` at most.
    #[must_use]
    pub fn new(door: &Door, lifetime: Duration) -> Self {
        // Whose range rests is read from the record.
        let least = u64::try_from(door.range_rest_seconds()).unwrap_or(RANGE_REST.as_secs());
        let terms = Terms { lifetime: lifetime.as_secs().saturating_add(1), least };
        Self { terms, seen: None }
    }

    /// How often [`Self::advance`] is to be called.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let wait = wait(self.terms.lifetime).max(self.terms.least);
        Duration::from_secs((wait / MARKS).max(1)).min(INTERVAL_MAX)
    }

    /// Counts the time since the last call, raises the floor where that is due, removes records that it stands in for, and
    /// has Nodes say what is recorded of their names, should that have failed before. To be called once before any
    /// certificate is issued.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn advance(&mut self, door: &Door, now: Instant) -> Result<(), ApiError> {
        let store = door.store();
        let entry = store.get(&marks_key()).map_err(|error| read_error(&error))?;
        let at = entry.as_ref().map(|entry| entry.revision.0);
        let read = entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let mut marks: Marks = match read {
            Some(marks) => marks,
            None => beginning(store, self.terms).map_err(|error| read_error(&error))?,
        };
        // Another server counts where the marks are not as this one left them: nobody counts the same time twice.
        let (passed, from) = match self.seen {
            Some((seen, since)) if at == Some(seen) => {
                let passed = now.saturating_duration_since(since).as_secs();
                (passed, since + Duration::from_secs(passed))
            }
            _ => (0, now),
        };
        self.seen = at.map(|at| (at, from));
        let before = marks.clone();
        let raised = marks.advance(passed, self.terms, store.revision().0);
        if marks != before || entry.is_none() {
            let written = write(door, entry.as_ref(), &marks, raised).await?;
            self.seen = written.map(|revision| (revision, from));
        }
        tidy(door).await
    }
}

/// The marks of a cluster that has none: what was issued before is not known where there are nodes.
fn beginning(store: &Store, terms: Terms) -> Result<Marks, ReadError> {
    let kinds = [catalogue::nodes(), catalogue::certificate_signing_requests()].map(|kind| (kind.group, kind.plural));
    for (group, plural) in kinds.into_iter().chain([(GROUP, PLURAL)]) {
        if !store.list(&Key::prefix(group, plural, None), None, 1, None)?.entries.is_empty() {
            return Ok(Marks { longest: terms.lifetime.max(LIFETIME_BEFORE.as_secs()), ..Marks::default() });
        }
    }
    Ok(Marks::default())
}

/// Writes marks and floor; answers the revision, or nothing where another server was faster.
async fn write(
    door: &Door,
    entry: Option<&Entry>,
    marks: &Marks,
    raised: Option<u64>,
) -> Result<Option<u64>, ApiError> {
    let value = serde_json::to_vec(marks).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut ops = vec![Op::Put { key: marks_key(), value: value.into(), splice_at: None, expect: expectation(entry) }];
    if let Some(floor) = raised {
        let known = door.store().get(&floor_key()).map_err(|error| read_error(&error))?;
        let expect = expectation(known.as_ref());
        let floor = floor.max(of(door.store()).map_err(|error| read_error(&error))?);
        tracing::info!(floor, "certificates of nodes from before this revision have expired: they count no more");
        ops.push(Op::Put { key: floor_key(), value: floor.to_string().into(), splice_at: None, expect });
    }
    match door.propose(Command { ops, ..Command::default() }).await? {
        Outcome::Applied(revision) => Ok(Some(revision.0)),
        Outcome::Rejected(_) => Ok(None),
    }
}

/// Removes what the floor stands in for, and has Nodes say what others say of them.
async fn tidy(door: &Door) -> Result<(), ApiError> {
    let store = door.store();
    let floor = of(store).map_err(|error| read_error(&error))?;
    let page = store.list(&Key::prefix(GROUP, PLURAL, None), None, 0, None).map_err(|error| read_error(&error))?;
    let mut superfluous = Vec::new();
    for entry in page.entries {
        let Some(node) = entry.key.0.rsplit('/').next() else { continue };
        if !has_been_told(store, node, entry.revision.0).map_err(|error| read_error(&error))? {
            // One Node that cannot be written keeps its own record, and nobody else's.
            if let Err(error) = super::tell_nodes(door, node).await {
                tracing::warn!(%error, node, "cannot tell other nodes that a certificate was revoked: it is tried again");
            }
        } else if entry.revision.0 <= floor {
            superfluous.push(Op::Delete { expect: Expect::Revision(entry.revision), key: entry.key });
        }
    }
    for ops in superfluous.chunks(AT_ONCE) {
        let count = ops.len();
        // Who is revoked anew at the same time is looked at the next time.
        if let Outcome::Applied(_) = door.propose(Command { ops: ops.to_vec(), ..Command::default() }).await? {
            tracing::info!(count, floor, "removed records of revoked certificates that have expired");
        }
    }
    Ok(())
}

/// Whether the Node of this name, if there is one, says what is recorded.
fn has_been_told(store: &Store, node: &str, recorded: u64) -> Result<bool, ReadError> {
    let kind = catalogue::nodes();
    let entry = store.get(&Key::object(kind.group, kind.plural, "", node))?;
    let object = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
    Ok(object.is_none_or(|object| super::said_by(&object) >= recorded))
}

#[cfg(test)]
mod tests;
