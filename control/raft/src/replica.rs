//! The shell round the core: one thread that owns it, and handles by which tasks reach it.

use crate::core::{Core, CoreConfig, CoreError, Proposal, Waiter};
use crate::error::{OpenError, ReplicaError};
use crate::inbox::{Inbox, Refused};
use crate::transport::{NoPeers, Transport};
use coracle_store::backend::{Backend, RocksBackend};
use coracle_store::{Command, Outcome, Payload, ProposeError, Proposer, Revision, Store};
use protobuf::Message as _;
use raft::prelude::Message;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

/// Largest encoded command.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;
/// One tick of raft's clock.
const TICK: Duration = Duration::from_millis(100);
/// How long a request that the thread dropped waits to learn why.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);
/// After the thread was held up, so many ticks are made up for at most: more would only start needless elections.
const TICKS_CAUGHT_UP_MAX: u32 = 3;

/// How to open a replica.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Directory of the database.
    pub directory: PathBuf,
    /// This server's raft id, never reused.
    pub server_id: u64,
    /// The cluster that the database must belong to; `None`: whichever it says, or a new one.
    pub cluster_id: Option<String>,
}

impl ReplicaConfig {
    /// The replica of server `server_id` in `directory`, of whichever cluster it belongs to.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, server_id: u64) -> Self {
        Self { directory: directory.into(), server_id, cluster_id: None }
    }

    fn core(&self) -> CoreConfig {
        let new_cluster_id = uuid::Uuid::new_v4().to_string();
        CoreConfig { cluster_id: self.cluster_id.clone(), ..CoreConfig::single(self.server_id, new_cluster_id) }
    }
}

/// A running replica: one thread owns the raft state, others propose and read.
///
/// When the last handle is dropped the thread stops too.
#[derive(Clone)]
pub struct Replica {
    handle: Arc<Handle>,
}

struct Handle {
    inbox: Arc<Inbox<Request>>,
    store: Store,
    cluster_id: String,
    state: watch::Receiver<State>,
}

/// What the thread does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    Failed(String),
}

enum Request {
    Propose { data: Vec<u8>, reply: oneshot::Sender<Result<Outcome, ProposeError>> },
    Read(oneshot::Sender<Result<(), ProposeError>>),
    Receive(Box<Message>),
    Unreachable(u64),
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl Replica {
    /// Opens the database, replays what is committed but not applied, and starts the raft thread.
    ///
    /// # Errors
    /// When the database is locked, damaged, or belongs to another server.
    pub async fn open(config: ReplicaConfig) -> Result<Self, ReplicaError> {
        let core_config = config.core();
        let directory = config.directory;
        let result = Self::start(core_config, directory.clone(), NoPeers).await;
        result.map_err(|error| ReplicaError::Open { directory, source: Box::new(error) })
    }

    async fn start(config: CoreConfig, directory: PathBuf, transport: impl Transport) -> Result<Self, OpenError> {
        let open = move || -> Result<Self, OpenError> {
            let backend = open_backend(&directory)?;
            Self::open_with(backend, &config, transport)
        };
        let opened = tokio::task::spawn_blocking(open).await;
        opened.map_err(|error| OpenError::Thread(error.to_string()))?
    }

    /// A replica over any backend, with peers reached by `transport`. Blocks while the log is replayed.
    ///
    /// # Errors
    /// See [`Core::open`].
    pub fn open_with(
        backend: Arc<dyn Backend>,
        config: &CoreConfig,
        transport: impl Transport,
    ) -> Result<Self, OpenError> {
        let mut core = Core::open(backend, config)?;
        let mut transport = transport;
        send(&mut transport, core.ready()?);
        let (state_sender, state) = watch::channel(State::Running);
        let inbox = Arc::new(Inbox::new());
        let handle =
            Handle { inbox: Arc::clone(&inbox), store: core.store(), cluster_id: core.cluster_id().to_owned(), state };
        let thread = RaftThread { core, inbox, transport };
        std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || thread.run(&state_sender))
            .map_err(|error| OpenError::Thread(error.to_string()))?;
        Ok(Self { handle: Arc::new(handle) })
    }

    /// The reading side.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.handle.store
    }

    /// The cluster that this server belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.handle.cluster_id
    }

    /// Forgets history before `to`, on all servers.
    ///
    /// # Errors
    /// As a proposal.
    pub async fn compact(&self, to: Revision) -> Result<(), ProposeError> {
        self.propose_encoded(Payload::encode_compact(to)).await.map(|_| ())
    }

    /// Takes a message that a peer sent.
    ///
    /// # Errors
    /// When it is no raft message, or this replica has stopped.
    pub async fn receive(&self, message: &[u8]) -> Result<(), ProposeError> {
        let mut decoded = Message::default();
        decoded.merge_from_bytes(message).map_err(|error| ProposeError::Unavailable(error.to_string()))?;
        self.push(Request::Receive(Box::new(decoded)), message.len()).await
    }

    /// Tells raft that `peer` cannot be reached.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn report_unreachable(&self, peer: u64) -> Result<(), ProposeError> {
        self.push(Request::Unreachable(peer), 0).await
    }

    /// Stops the raft thread; everything acknowledged is on disk.
    pub async fn shutdown(&self) {
        self.handle.inbox.close();
        self.stopped().await;
    }

    /// Waits until the raft thread has ended: `None` after a shutdown, otherwise why it failed. The server must then exit, and
    /// a new start replays the log.
    pub async fn stopped(&self) -> Option<String> {
        let mut state = self.handle.state.clone();
        match state.wait_for(|state| *state != State::Running).await.as_deref() {
            Ok(State::Failed(reason)) => Some(reason.clone()),
            Ok(_) => None,
            Err(_) => Some("the raft thread has panicked".into()),
        }
    }

    async fn propose_encoded(&self, data: Vec<u8>) -> Result<Outcome, ProposeError> {
        if data.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: data.len(), limit: COMMAND_BYTES_MAX });
        }
        let (reply, answer) = oneshot::channel();
        let bytes = data.len();
        self.push(Request::Propose { data, reply }, bytes).await?;
        self.answered(answer).await
    }

    async fn push(&self, request: Request, bytes: usize) -> Result<(), ProposeError> {
        self.handle.inbox.push(request, bytes).await.map_err(|refused| match refused {
            Refused::Full => ProposeError::Unavailable("too many changes are waiting".into()),
            Refused::Closed => self.gone(),
        })
    }

    async fn answered<T>(&self, answer: oneshot::Receiver<Result<T, ProposeError>>) -> Result<T, ProposeError> {
        if let Ok(answer) = answer.await {
            return answer;
        }
        // The thread drops what it had not answered a moment before it says why it ends.
        let _ = tokio::time::timeout(REASON_TIMEOUT, self.stopped()).await;
        Err(self.gone())
    }

    fn gone(&self) -> ProposeError {
        let reason = match &*self.handle.state.borrow() {
            State::Failed(reason) => format!("this server's store has failed: {reason}"),
            State::Running | State::Stopped => "this server is shutting down".into(),
        };
        ProposeError::Unavailable(reason)
    }
}

#[async_trait::async_trait]
impl Proposer for Replica {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let data = Payload::encode_command(&command);
        drop(command);
        self.propose_encoded(data).await
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.push(Request::Read(reply), 0).await?;
        self.answered(answer).await
    }
}

fn open_backend(directory: &Path) -> Result<Arc<dyn Backend>, OpenError> {
    Ok(Arc::new(RocksBackend::open(directory)?))
}

struct RaftThread<T> {
    core: Core,
    inbox: Arc<Inbox<Request>>,
    transport: T,
}

impl<T: Transport> RaftThread<T> {
    fn run(self, state: &watch::Sender<State>) {
        let inbox = Arc::clone(&self.inbox);
        // Also when the library panics over an invariant, nobody may wait for an answer for ever.
        let guard = AbandonOnDrop(inbox);
        let ended = self.work();
        let next = match ended {
            Ok(()) => State::Stopped,
            Err(error) => {
                let reason = chain(&error);
                tracing::error!(%reason, "the raft thread has failed");
                State::Failed(reason)
            }
        };
        // The core is gone by now, and with it the database unless a reader still holds it.
        state.send_replace(next);
        drop(guard);
    }

    fn work(mut self) -> Result<(), CoreError> {
        let mut taken = Vec::new();
        let mut next_tick = Instant::now() + TICK;
        loop {
            let open = self.inbox.take(next_tick, &mut taken);
            self.tick(&mut next_tick);
            self.dispatch(&mut taken);
            send(&mut self.transport, self.core.ready()?);
            if !open {
                return Ok(());
            }
        }
    }

    fn tick(&mut self, next_tick: &mut Instant) {
        let now = Instant::now();
        let mut ticks = 0;
        while *next_tick <= now {
            *next_tick += TICK;
            ticks += 1;
            if ticks <= TICKS_CAUGHT_UP_MAX {
                self.core.tick();
            } else {
                *next_tick = now + TICK;
            }
        }
    }

    fn dispatch(&mut self, taken: &mut Vec<(Request, OwnedSemaphorePermit)>) {
        let mut proposals = Vec::with_capacity(taken.len());
        let mut reads = Vec::new();
        for (request, permit) in taken.drain(..) {
            match request {
                Request::Propose { data, reply } => {
                    proposals.push(Proposal { data, waiter: Waiter::new(Some(permit), reply) });
                }
                Request::Read(reply) => reads.push(Waiter::new(Some(permit), reply)),
                Request::Receive(message) => self.core.step(*message),
                Request::Unreachable(peer) => self.core.unreachable(peer),
            }
        }
        self.core.propose(proposals);
        self.core.read(reads);
    }
}

/// Closes the inbox for good when the thread ends, however it ends.
struct AbandonOnDrop(Arc<Inbox<Request>>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn send(transport: &mut impl Transport, messages: Vec<Message>) {
    for message in messages {
        match message.write_to_bytes() {
            Ok(bytes) => transport.send(message.to, bytes),
            Err(error) => tracing::warn!(to = message.to, %error, "message to a peer cannot be encoded"),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
