//! What can be asked of the state machine.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The cluster-wide revision; 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// Where a value is kept: `GROUP/PLURAL/NAMESPACE/NAME`, group and namespace possibly empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(pub String);

impl Key {
    /// The key of one object.
    #[must_use]
    pub fn object(group: &str, plural: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{group}/{plural}/{namespace}/{name}"))
    }

    /// The prefix of a kind, or of a kind in one namespace.
    #[must_use]
    pub fn prefix(group: &str, plural: &str, namespace: Option<&str>) -> String {
        namespace.map_or_else(|| format!("{group}/{plural}/"), |namespace| format!("{group}/{plural}/{namespace}/"))
    }
}

/// What must hold for an operation to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key's last change must be this revision.
    Revision(Revision),
    /// The key must exist, at whatever revision.
    Present,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Writes `value`. At byte `splice_at` (if any) `apply` inserts `"resourceVersion":"REVISION",`; another member must follow
    /// there, as the name always does in `metadata`.
    Put {
        /// Where.
        key: Key,
        /// JSON without a resource version, or any bytes when `splice_at` is `None`.
        value: Bytes,
        /// Offset just behind the `{` of `metadata`.
        splice_at: Option<u32>,
        /// Precondition.
        expect: Expect,
    },
    /// Removes the key. Watchers see the stored value with the deletion's revision spliced in.
    Delete {
        /// Where.
        key: Key,
        /// Precondition.
        expect: Expect,
    },
    /// Changes nothing, but the command applies only if this holds: for what a change relies on in another object.
    Check {
        /// Where.
        key: Key,
        /// Precondition.
        expect: Expect,
    },
}

/// A batch that applies as a whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Changes and checks, at most one per key.
    pub ops: Vec<Op>,
    /// Bounded counters: `(name, delta, limit)`; the sum may not exceed `limit` when `delta` is positive.
    pub counters: Vec<CounterChange>,
    /// Unique keys taken (`Some(holder)`) or released (`None`).
    pub uniques: Vec<UniqueChange>,
}

impl Command {
    /// Whether it only checks, if even that.
    #[must_use]
    pub fn is_without_effect(&self) -> bool {
        let only_checks = self.ops.iter().all(|op| matches!(op, Op::Check { .. }));
        only_checks && self.counters.is_empty() && self.uniques.is_empty()
    }
}

/// A change of a bounded counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterChange {
    /// Name of the counter.
    pub name: String,
    /// What to add; may be negative.
    pub delta: i64,
    /// Highest allowed value after a positive change.
    pub limit: Option<i64>,
}

/// Takes or releases a unique key such as `clusterip/10.96.0.1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueChange {
    /// The key.
    pub key: String,
    /// `Some`: take it for this holder (again by the same holder is fine); `None`: release it.
    pub holder: Option<String>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied; every changed object now has this revision. A command that changes nothing gets the current one.
    Applied(Revision),
    /// Nothing changed.
    Rejected(Rejection),
}

/// Why nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// `ops[index]`'s precondition failed; `actual` is the key's revision, `None` when it does not exist.
    Precondition {
        /// Which operation.
        index: usize,
        /// What is there.
        actual: Option<Revision>,
    },
    /// A counter would pass its limit.
    Counter {
        /// Its name.
        name: String,
        /// Its value now.
        value: i64,
    },
    /// A unique key is held by somebody else.
    Unique {
        /// The key.
        key: String,
        /// Its holder.
        holder: String,
    },
    /// The command makes no sense whatever the state: a defect of its author, never of a user.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}
