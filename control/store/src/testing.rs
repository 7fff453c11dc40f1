//! A store for the tests of crates above: commands apply directly, on the memory backend, without raft.
//!
//! Not for production: nothing here is replicated or on disk.

use crate::backend::{Backend, MemoryBackend};
use crate::codec::Payload;
use crate::command::{Command, Outcome, Revision};
use crate::machine::{Limits, Machine, MachineError};
use crate::read::Store;
use crate::{ProposeError, Proposer};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// Applies every proposal at once.
pub struct LocalProposer {
    machine: Mutex<Machine>,
    store: Store,
}

impl LocalProposer {
    /// An empty store in memory.
    ///
    /// # Errors
    /// None in practice: the memory backend does not fail.
    pub fn new() -> Result<Self, MachineError> {
        Self::open(Arc::new(MemoryBackend::new()), Limits::default())
    }

    /// The store in `backend`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(backend: Arc<dyn Backend>, limits: Limits) -> Result<Self, MachineError> {
        let machine = Machine::open(backend, limits)?;
        let store = machine.store();
        Ok(Self { machine: Mutex::new(machine), store })
    }

    /// The reading side.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Forgets history before `to`.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn compact(&self, to: Revision) -> Result<(), MachineError> {
        let mut machine = self.machine.lock();
        let index = machine.applied() + 1;
        machine.compact(index, to)?;
        machine.commit(true)
    }

    /// Applies `command` now; it takes the way through the log's encoding.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn apply(&self, command: &Command) -> Result<Outcome, MachineError> {
        let mut machine = self.machine.lock();
        let index = machine.applied() + 1;
        let outcome = machine.apply_entry(index, &Bytes::from(Payload::encode_command(command)))?;
        machine.commit(true)?;
        Ok(outcome)
    }
}

#[async_trait]
impl Proposer for LocalProposer {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.apply(&command).map_err(|error| ProposeError::Unavailable(error.to_string()))
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expect, Key, Op, Watched};

    #[tokio::test]
    async fn proposals_apply_and_are_seen() {
        let local = LocalProposer::new().unwrap();
        let from = local.store().revision();
        let mut watch = local.store().watch("/pods/", from).unwrap();
        let key = Key::object("", "pods", "default", "a");
        let value = Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"}}");
        let op = Op::Put { key: key.clone(), value, splice_at: Some(13), expect: Expect::Absent };
        let outcome = local.propose(Command { ops: vec![op], ..Command::default() }).await.unwrap();
        assert_eq!(outcome, Outcome::Applied(Revision(2)));
        let entry = local.store().get(&key).unwrap().unwrap();
        assert_eq!(entry.value, "{\"metadata\":{\"resourceVersion\":\"2\",\"name\":\"a\"}}");
        let Watched::Event(event) = watch.next().await.unwrap() else { panic!("an event comes first") };
        assert_eq!(event.entry, entry);
    }
}
