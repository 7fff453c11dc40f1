//! Which nodes are connected, and which sessions wait for their node.

use super::{
    MAX_FORWARDS_PER_NODE, MAX_SESSIONS_PER_NODE,
    relay::Relays,
    session::{Opened, Session},
};
use coracle_objects::{ApiError, Reason};
use coracle_wire::v1::{OpenSession, ServerSignal, open_session::Purpose, server_signal::Signal};
use parking_lot::Mutex;
use rand::TryRngCore as _;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How long a node may take to open a session that it was asked for.
const SESSION_OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Signals that wait for a node to read its control stream.
const SIGNAL_QUEUE: usize = MAX_SESSIONS_PER_NODE + MAX_FORWARDS_PER_NODE;

/// Where a control stream's signals go.
pub(super) type Signals = mpsc::Sender<Result<ServerSignal, Status>>;

/// All connected nodes.
#[derive(Default)]
pub struct NodeLinks {
    state: Mutex<State>,
    generations: AtomicU64,
    closing: CancellationToken,
    /// Nodes that take packets through this server.
    pub(super) relays: Arc<Relays>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<String, Link>,
    waiting: HashMap<String, Waiting>,
}

/// One node's control stream.
#[derive(Clone)]
struct Link {
    /// Tells a node's second connection from its first.
    generation: u64,
    signals: Signals,
    sessions: Arc<Semaphore>,
    /// Forwarded connections have bounds of their own: a browser opens dozens, and logs shall go on.
    forwards: Arc<Semaphore>,
    /// Cancelled when this link is replaced or has ended.
    ended: CancellationToken,
}

/// A session that was asked for and not opened yet.
struct Waiting {
    node: String,
    opened: oneshot::Sender<Opened>,
}

/// A connected node as its control stream's task holds it. Dropping it disconnects the node.
pub(super) struct Connected {
    links: Arc<NodeLinks>,
    node: String,
    generation: u64,
    /// Cancelled when another connection of the same node has taken over, or the server stops.
    pub(super) ended: CancellationToken,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut state = self.links.state.lock();
        if state.nodes.get(&self.node).is_some_and(|link| link.generation == self.generation) {
            state.nodes.remove(&self.node);
        }
        drop(state);
        self.ended.cancel();
    }
}

impl NodeLinks {
    /// No node is connected yet; all links end when `closing` is cancelled.
    #[must_use]
    pub fn new(closing: CancellationToken) -> Arc<Self> {
        Arc::new(Self { closing, ..Self::default() })
    }

    /// Cancelled when the server stops.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// A channel for a control stream's signals.
    pub(super) fn signal_channel() -> (Signals, mpsc::Receiver<Result<ServerSignal, Status>>) {
        mpsc::channel(SIGNAL_QUEUE)
    }

    /// Registers a node's control stream. An earlier one of the same node ends: after a network failure the old
    /// connection may look alive for long, and the newest is the one that works.
    pub(super) fn connect(self: &Arc<Self>, node: &str, signals: Signals) -> Connected {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let ended = self.closing.child_token();
        let sessions = Arc::new(Semaphore::new(MAX_SESSIONS_PER_NODE));
        let forwards = Arc::new(Semaphore::new(MAX_FORWARDS_PER_NODE));
        let link = Link { generation, signals, sessions, forwards, ended: ended.clone() };
        if let Some(old) = self.state.lock().nodes.insert(node.to_owned(), link) {
            old.ended.cancel();
        }
        Connected { links: Arc::clone(self), node: node.to_owned(), generation, ended }
    }

    /// Whether the node holds a control stream.
    #[must_use]
    pub fn is_connected(&self, node: &str) -> bool {
        self.state.lock().nodes.contains_key(node)
    }

    /// Refuses when the node holds no control stream.
    ///
    /// # Errors
    /// 503.
    pub(crate) fn require_connected(&self, node: &str) -> Result<(), ApiError> {
        if self.is_connected(node) { Ok(()) } else { Err(not_connected(node)) }
    }

    /// Asks a node to open a session and waits until it has.
    ///
    /// # Errors
    /// 503 when the node is not connected, does not answer in time or the connection breaks; 429 when it serves as
    /// many sessions as it may.
    pub async fn open_session(&self, node: &str, purpose: Purpose) -> Result<Session, ApiError> {
        let link = self.state.lock().nodes.get(node).cloned().ok_or_else(|| not_connected(node))?;
        let (bound, slots, what) = match &purpose {
            Purpose::PortForward(_) => (MAX_FORWARDS_PER_NODE, &link.forwards, "forwarded connections"),
            _ => (MAX_SESSIONS_PER_NODE, &link.sessions, "sessions"),
        };
        let permit = Arc::clone(slots).try_acquire_owned().map_err(|_| {
            let message = format!("node \"{node}\" serves {bound} {what} already; end one and try again");
            ApiError::new(Reason::TooManyRequests, message)
        })?;
        let session_id = session_id()?;
        let (opened, answer) = oneshot::channel();
        self.state.lock().waiting.insert(session_id.clone(), Waiting { node: node.to_owned(), opened });
        let _forget = Forget { links: self, session_id: &session_id };
        let open = OpenSession { session_id: session_id.clone(), purpose: Some(purpose) };
        let signal = ServerSignal { signal: Some(Signal::OpenSession(open)) };
        link.signals.try_send(Ok(signal)).map_err(|_| not_connected(node))?;
        tokio::select! {
            opened = tokio::time::timeout(SESSION_OPEN_TIMEOUT, answer) => match opened {
                Ok(Ok(opened)) => Ok(Session::new(node, opened, link.ended.clone(), permit)),
                Ok(Err(_)) => Err(lost(node)),
                Err(_) => {
                    let seconds = SESSION_OPEN_TIMEOUT.as_secs();
                    let message = format!("node \"{node}\" did not open the session within {seconds} seconds");
                    Err(ApiError::new(Reason::ServiceUnavailable, message))
                }
            },
            () = link.ended.cancelled() => Err(lost(node)),
        }
    }

    /// Hands a node's Session call to whoever waits for it.
    pub(super) fn opened(&self, node: &str, session_id: &str, opened: Opened) -> Result<(), Status> {
        let unknown = || Status::not_found("nobody waits for this session");
        let mut state = self.state.lock();
        // Another node's guess must not even use the id up.
        if state.waiting.get(session_id).is_none_or(|waiting| waiting.node != node) {
            return Err(unknown());
        }
        let waiting = state.waiting.remove(session_id).ok_or_else(unknown)?;
        drop(state);
        waiting.opened.send(opened).map_err(|_| unknown())
    }
}

/// Forgets a session that nobody waits for any more.
struct Forget<'a> {
    links: &'a NodeLinks,
    session_id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.links.state.lock().waiting.remove(self.session_id);
    }
}

fn session_id() -> Result<String, ApiError> {
    let mut bytes = [0_u8; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        ApiError::internal("the server cannot make a session id")
    })?;
    Ok(hex::encode(bytes))
}

fn not_connected(node: &str) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, format!("node \"{node}\" is not connected to the control plane"))
}

/// 503 for a connection that broke.
pub(super) fn lost(node: &str) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, format!("the connection to node \"{node}\" was lost"))
}
