//! The MVCC state machine: commands in, revisions, history and watch events out.
//!
//! Nothing here reads a clock or a random number; `apply` of the same commands gives the same bytes everywhere. Time, uid and
//! generated names are stamped by the API before a command is proposed.
//!
//! ```text
//! Command ──▶ Machine::apply ──▶ staged ──▶ Machine::commit ──▶ one Backend batch ──▶ current state, watch hub ──▶ Store
//!             (one log entry)               (applied index, objects, history, counters, unique keys)
//! ```

pub mod backend;
pub mod codec;
pub mod command;
mod hub;
pub mod machine;
pub mod read;
mod record;
mod state;
pub mod testing;
pub mod watch;

pub use codec::Payload;
pub use command::{Command, CounterChange, Expect, Key, Op, Outcome, Rejection, Revision, UniqueChange};
pub use machine::{Limits, Machine, MachineError};
pub use read::{Entry, EventKind, Page, ReadError, Store, StoreEvent, Watched};
pub use watch::Watch;

use async_trait::async_trait;
use thiserror::Error;

/// Whoever can get a command committed and applied: the raft replica; tests may apply directly.
#[async_trait]
pub trait Proposer: Send + Sync + 'static {
    /// Proposes `command` and waits until a majority has it on disk and it is applied here.
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError>;

    /// Returns once everything acknowledged before the call is applied here (`ReadIndex`).
    async fn read_barrier(&self) -> Result<(), ProposeError>;
}

/// Why a proposal was not applied.
#[derive(Debug, Clone, Error)]
pub enum ProposeError {
    /// No leader, shutting down, or leadership was lost: it may or may not be applied later.
    #[error("the control plane has no leader at the moment: {0}")]
    Unavailable(String),
    /// The command itself is larger than the log takes.
    #[error("a change of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// What the log takes.
        limit: usize,
    },
}
