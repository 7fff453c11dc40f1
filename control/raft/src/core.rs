//! The pure core: a raft node and the state machine as one step function, without threads, clocks or sockets.
//!
//! ```text
//! propose/read/step/tick ──▶ RawNode ──ready──▶ 1. append: entries and hard state, one synced batch
//!                                               2. messages that promise what was just written
//!                                               3. apply: committed entries, one batch with the applied index
//!                                               4. answers to proposers and readers
//! ```
//!
//! Invariants: an answer leaves only after step 3 of its entry; step 3 carries the commit index, so that on disk
//! `truncated ≤ applied ≤ commit ≤ last` always holds; after any error the core must be dropped, and reopening replays. It
//! runs over any [`Backend`], in simulation over the one that can be crashed.

use crate::error::OpenError;
use crate::identity::Identity;
use crate::log::{LogLimits, LogStore};
use crate::logger::logger;
use crate::reads::Reads;
use bytes::Bytes;
use coracle_store::backend::{Backend, BackendError, Batch};
use coracle_store::{Limits, Machine, MachineError, Outcome, ProposeError, Store};
use protobuf::Message as _;
use raft::prelude::{ConfChange, ConfChangeSingle, ConfChangeV2, Entry, EntryType, Message, MessageType};
use raft::{Config, LightReady, RawNode, Ready, StateRole};
use std::collections::VecDeque;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Ticks without hearing from a leader before an election, at least and less than.
const ELECTION_TICKS: (usize, usize) = (10, 20);
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Entries sent to a peer in one message at most.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages on their way to a peer.
const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Entries applied in one batch at most.
const APPLY_BYTES_MAX: u64 = 16 << 20;

/// How a core is opened.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// Raft id of this server.
    pub server_id: u64,
    /// The cluster that the database must belong to; `None`: any.
    pub cluster_id: Option<String>,
    /// Name of the cluster if the database is empty and has to be founded.
    pub new_cluster_id: String,
    /// Its members if it has to be founded, this server among them. All founders must be given the same.
    pub founders: Vec<u64>,
    /// Ticks without a leader before an election: at least, and less than. The library draws from this range at random;
    /// simulation gives each server a range of one.
    pub election_ticks: (usize, usize),
    /// Bounds of history and watches.
    pub limits: Limits,
    /// Bounds of the log.
    pub log_limits: LogLimits,
}

impl CoreConfig {
    /// A server by itself, of whichever cluster its database says or else of a new one called `new_cluster_id`.
    #[must_use]
    pub fn single(server_id: u64, new_cluster_id: impl Into<String>) -> Self {
        Self {
            server_id,
            cluster_id: None,
            new_cluster_id: new_cluster_id.into(),
            founders: vec![server_id],
            election_ticks: ELECTION_TICKS,
            limits: Limits::default(),
            log_limits: LogLimits::default(),
        }
    }
}

/// Why the core cannot go on.
#[derive(Debug, Error)]
pub enum CoreError {
    /// The disk.
    #[error("raft's log could not be written")]
    Backend(#[from] BackendError),
    /// The state machine.
    #[error("a committed entry could not be applied")]
    Machine(#[from] MachineError),
    /// The raft library refused.
    #[error("raft failed")]
    Raft(#[from] raft::Error),
    /// A snapshot came in; nobody sends one yet.
    #[error("snapshots from peers are not supported yet")]
    Snapshot,
}

/// A command on its way: the encoded payload and who waits for the outcome.
pub struct Proposal {
    /// An encoded [`coracle_store::Payload`].
    pub data: Vec<u8>,
    /// Answered once, unless the core is dropped.
    pub waiter: Waiter<Outcome>,
}

/// Somebody who waits for an answer.
pub struct Waiter<T> {
    reply: oneshot::Sender<Result<T, ProposeError>>,
    /// The room that the request takes, given back with the answer: this is what bounds all that waits here.
    _room: Option<OwnedSemaphorePermit>,
}

impl<T> Waiter<T> {
    /// A waiter and where its answer arrives.
    #[must_use]
    pub fn new(room: Option<OwnedSemaphorePermit>, reply: oneshot::Sender<Result<T, ProposeError>>) -> Self {
        Self { reply, _room: room }
    }

    /// Answers. Who no longer waits needs no answer; a change is made all the same.
    pub(crate) fn answer(self, answer: Result<T, ProposeError>) {
        let _ = self.reply.send(answer);
    }

    /// Answers that it cannot be done now.
    pub(crate) fn refuse(self, reason: &str) {
        self.answer(Err(ProposeError::Unavailable(reason.to_owned())));
    }
}

/// A proposal that is in the log and not yet applied.
struct Pending {
    index: u64,
    term: u64,
    waiter: Waiter<Outcome>,
}

/// Raft node and state machine.
pub struct Core {
    node: RawNode<LogStore>,
    machine: Machine,
    backend: Arc<dyn Backend>,
    log_limits: LogLimits,
    cluster_id: String,
    batch: Batch,
    /// In log order.
    pending: VecDeque<Pending>,
    reads: Reads,
    outbox: Vec<Message>,
}

impl Core {
    /// Opens the state in `backend`, founding a cluster of one if it is empty. A sole voter stands for election at once; the
    /// next [`Core::ready`] makes it the leader and applies what was committed.
    ///
    /// # Errors
    /// When the state is damaged, or belongs to another server or cluster.
    pub fn open(backend: Arc<dyn Backend>, config: &CoreConfig) -> Result<Self, OpenError> {
        let mut machine = Machine::open(Arc::clone(&backend), config.limits)?;
        let identity = Identity::load(backend.as_ref())?;
        let (log, cluster_id) = if let Some(identity) = identity {
            identity.check(config)?;
            (LogStore::open(Arc::clone(&backend))?, identity.cluster_id)
        } else {
            let identity = Identity::found(config);
            let log = found(&backend, &mut machine, &identity, &config.founders)?;
            (log, identity.cluster_id)
        };
        validate(&log, machine.applied())?;
        let sole_voter = log.conf_state().voters == [config.server_id];
        let mut node = RawNode::new(&raft_config(config, machine.applied()), log, &logger())?;
        if sole_voter {
            node.campaign()?;
        }
        Ok(Self {
            node,
            machine,
            backend,
            log_limits: config.log_limits,
            cluster_id,
            batch: Batch::default(),
            pending: VecDeque::new(),
            reads: Reads::default(),
            outbox: Vec::new(),
        })
    }

    /// The reading side.
    #[must_use]
    pub fn store(&self) -> Store {
        self.machine.store()
    }

    /// The cluster this server belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Whether this server leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.machine.applied()
    }

    /// Passes time: elections, heartbeats, retries of reads.
    pub fn tick(&mut self) {
        self.node.tick();
        let node = &mut self.node;
        self.reads.tick(|context| node.read_index(context));
    }

    /// Takes a message from a peer; what makes no sense is dropped, as the network might have done.
    pub fn step(&mut self, message: Message) {
        let (from, kind) = (message.from, message.get_msg_type());
        if let Err(error) = self.node.step(message) {
            tracing::debug!(from, ?kind, %error, "message from a peer dropped");
        }
    }

    /// Tells raft that a message to `peer` could not be delivered.
    pub fn unreachable(&mut self, peer: u64) {
        self.node.report_unreachable(peer);
    }

    /// Appends `proposals` to the log, in order, all with one fsync at the next [`Core::ready`].
    pub fn propose(&mut self, proposals: impl IntoIterator<Item = Proposal>) {
        if !self.is_leader() {
            for proposal in proposals {
                proposal.waiter.refuse("another server leads");
            }
            return;
        }
        let mut message = Message { from: self.node.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let term = self.node.raft.term;
        let next = self.node.raft.raft_log.last_index() + 1;
        let before = self.pending.len();
        for (index, Proposal { data, waiter }) in (next..).zip(proposals) {
            message.entries.push(Entry { data, ..Entry::default() });
            self.pending.push_back(Pending { index, term, waiter });
        }
        if message.entries.is_empty() {
            return;
        }
        if let Err(error) = self.node.step(message) {
            for pending in self.pending.drain(before..) {
                pending.waiter.refuse(&error.to_string());
            }
        }
    }

    /// Answers `waiting` once everything acknowledged before now is applied here (`ReadIndex`).
    pub fn read(&mut self, waiting: Vec<Waiter<()>>) {
        if let Some(context) = self.reads.begin(waiting) {
            self.node.read_index(context);
        }
    }

    /// Works off everything that is to be written, applied and answered. Returns messages to peers.
    ///
    /// # Errors
    /// When the disk fails or a committed entry cannot be applied; the core must then be dropped.
    pub fn ready(&mut self) -> Result<Vec<Message>, CoreError> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.outbox.append(&mut ready.take_messages());
            self.append(&mut ready)?;
            self.outbox.append(&mut ready.take_persisted_messages());
            let lost = ready.ss().is_some_and(|state| state.raft_state != StateRole::Leader);
            let mut read_states = ready.take_read_states();
            let mut committed = ready.take_committed_entries();
            let mut light: LightReady = self.node.advance_append(ready);
            self.outbox.append(&mut light.take_messages());
            committed.append(&mut light.take_committed_entries());
            if lost {
                // Before anything that another leader put in their place is applied.
                self.lose_pending();
            }
            if !committed.is_empty() {
                self.apply(committed)?;
                self.node.advance_apply();
            }
            for state in read_states.drain(..) {
                self.reads.found(&state.request_ctx, state.index);
            }
            self.reads.answer(self.machine.applied());
        }
        Ok(std::mem::take(&mut self.outbox))
    }

    /// Step 1: entries and hard state, one batch.
    fn append(&mut self, ready: &mut Ready) -> Result<(), CoreError> {
        if !ready.snapshot().is_empty() {
            return Err(CoreError::Snapshot);
        }
        let sync = ready.must_sync();
        let log = self.node.mut_store();
        self.batch.clear();
        log.append(&mut self.batch, ready.take_entries())?;
        if let Some(hard_state) = ready.hs() {
            log.set_hard_state(&mut self.batch, hard_state.clone());
        }
        if !self.batch.is_empty() {
            self.backend.write(&self.batch, sync)?;
        }
        Ok(())
    }

    /// Steps 3 and 4. The commit index goes into the same batch as the applied index.
    fn apply(&mut self, committed: Vec<Entry>) -> Result<(), CoreError> {
        let mut answers = Vec::with_capacity(committed.len());
        for entry in committed {
            let (index, term) = (entry.index, entry.term);
            let outcome = self.apply_entry(entry)?;
            if let (Some(pending), Some(outcome)) = (self.take_pending(index, term), outcome) {
                answers.push((pending.waiter, outcome));
            }
        }
        let applied = self.machine.applied();
        let hard_state = self.node.raft.hard_state();
        let log = self.node.mut_store();
        log.set_hard_state(self.machine.batch_mut(), hard_state);
        log.truncate(self.machine.batch_mut(), applied, &self.log_limits);
        self.machine.commit(false)?;
        for (waiter, outcome) in answers {
            waiter.answer(Ok(outcome));
        }
        Ok(())
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Option<Outcome>, CoreError> {
        let index = entry.index;
        match entry.get_entry_type() {
            // A new leader's first entry is empty.
            EntryType::EntryNormal if entry.data.is_empty() => self.machine.skip(index)?,
            EntryType::EntryNormal => {
                return Ok(Some(self.machine.apply_entry(index, &Bytes::from(entry.data))?));
            }
            EntryType::EntryConfChange => {
                let mut change = ConfChange::default();
                change.merge_from_bytes(&entry.data).map_err(raft::Error::from)?;
                self.change_members(index, &several(change))?;
            }
            EntryType::EntryConfChangeV2 => {
                let mut change = ConfChangeV2::default();
                change.merge_from_bytes(&entry.data).map_err(raft::Error::from)?;
                self.change_members(index, &change)?;
            }
        }
        Ok(None)
    }

    fn change_members(&mut self, index: u64, change: &ConfChangeV2) -> Result<(), CoreError> {
        let conf_state = self.node.apply_conf_change(change)?;
        self.machine.skip(index)?;
        self.node.mut_store().set_conf_state(self.machine.batch_mut(), conf_state)?;
        Ok(())
    }

    /// The proposal that became the entry at `index`, if it is ours. Those before it were replaced by another leader's.
    fn take_pending(&mut self, index: u64, term: u64) -> Option<Pending> {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.index <= index) {
            if pending.index == index && pending.term == term {
                return Some(pending);
            }
            pending.waiter.refuse("another leader's change took its place");
        }
        None
    }

    fn lose_pending(&mut self) {
        for pending in self.pending.drain(..) {
            pending.waiter.refuse("leadership was lost; the change may or may not be applied");
        }
    }
}

/// A change of one member in the form for several.
fn several(change: ConfChange) -> ConfChangeV2 {
    let single = ConfChangeSingle { change_type: change.change_type, node_id: change.node_id };
    ConfChangeV2 { changes: vec![single], context: change.context, ..ConfChangeV2::default() }
}

/// Writes the first state of a new cluster, in one synced batch.
fn found(
    backend: &Arc<dyn Backend>,
    machine: &mut Machine,
    identity: &Identity,
    founders: &[u64],
) -> Result<LogStore, OpenError> {
    if machine.applied() != 0 {
        return Err(BackendError::Damaged("it has state but says not whose".into()).into());
    }
    let log = LogStore::bootstrap(Arc::clone(backend), founders.to_vec(), machine.batch_mut())?;
    machine.start_at(log.truncated_index());
    identity.put(machine.batch_mut());
    machine.commit(true)?;
    Ok(log)
}

/// What the raft library takes for granted and would panic over.
fn validate(log: &LogStore, applied: u64) -> Result<(), OpenError> {
    let (truncated, commit, last) = (log.truncated_index(), log.hard_state().commit, log.last());
    if truncated <= applied && applied <= commit && commit <= last {
        return Ok(());
    }
    let what = format!("the log begins behind {truncated} and ends at {last}, committed {commit}, applied {applied}");
    Err(BackendError::Damaged(what).into())
}

fn raft_config(config: &CoreConfig, applied: u64) -> Config {
    Config {
        id: config.server_id,
        applied,
        election_tick: ELECTION_TICKS.0,
        min_election_tick: config.election_ticks.0,
        max_election_tick: config.election_ticks.1,
        heartbeat_tick: HEARTBEAT_TICKS,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
        max_committed_size_per_ready: APPLY_BYTES_MAX,
        check_quorum: true,
        pre_vote: true,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests;
