//! The tunnel: one mutually authenticated QUIC connection for each pair of nodes that have something to say to each other,
//! opened on demand. A stream is a TCP connection between two pods, a datagram one of UDP. Where hosts do not reach each other,
//! QUIC's packets go through the control plane, which cannot read them.
//!
//! It must never take anything from who is no node of this cluster, nor from a node in the name of another's pods.
//!
//! ```text
//! fabric ─▶ Elsewhere ─▶ record of the peer ─▶ link ─▶ QUIC ─▶ paths ─▶ UDP, or relay ─▶ the other node's tunnel ─▶ Arrivals ─▶ fabric
//! ```

mod arrivals;
mod care;
mod dial;
mod directory;
mod elsewhere;
mod endpoint;
mod frames;
mod identity;
mod limits;
mod link;
mod marked;
mod notices;
mod paths;
mod peers;
mod pump;
mod reassembly;
mod record;
mod stalls;
#[cfg(test)]
pub(crate) mod tests;

pub use elsewhere::{Arrivals, Carrier, Elsewhere, Relay};
pub use identity::Credentials;
pub use limits::TunnelLimits;
pub use peers::{Detour, Notice, Path, Peer, PeerState};

use crate::fabric::shares::Shares;
use bytes::Bytes;
use directory::Directory;
use identity::Identity;
use link::Link;
use notices::Reporter;
use parking_lot::{Mutex, RwLock};
use paths::{Paths, Relayed};
use pump::Patience;
use quinn::{Endpoint, TokioRuntime, VarInt};
use record::Record;
use stalls::Stalls;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The node shuts down.
const CLOSED_SHUTDOWN: VarInt = VarInt::from_u32(1);
/// Nobody uses the connection.
const CLOSED_UNUSED: VarInt = VarInt::from_u32(2);
/// The other node is none of the cluster, or none any more.
const CLOSED_STRANGER: VarInt = VarInt::from_u32(3);
/// There are too many connections of the pair.
const CLOSED_SURPLUS: VarInt = VarInt::from_u32(4);
/// How long peers are given to hear of a shutdown.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a tunnel is made of.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// The node's name.
    pub node_name: String,
    /// Where it listens (UDP). Port 0 takes any.
    pub listen: SocketAddr,
    /// What it may use.
    pub limits: TunnelLimits,
}

/// Why there is no tunnel.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// The address cannot be used.
    #[error("cannot listen on {0} (UDP)")]
    Listen(SocketAddr, #[source] io::Error),
    /// The credentials cannot be used.
    #[error("the node's certificate or key cannot be used")]
    Credentials(#[from] rustls::Error),
    /// The CA's certificates cannot be used.
    #[error("the certificates of the cluster's CA cannot be used: {0}")]
    Authority(String),
    /// The cryptography lacks what QUIC needs.
    #[error("no cipher for QUIC")]
    Cipher,
}

/// Peers and what is kept of them, changed together.
#[derive(Debug, Default)]
struct Table {
    directory: Directory,
    records: HashMap<Arc<str>, Arc<Record>>,
}

struct Shared {
    config: TunnelConfig,
    endpoint: Endpoint,
    server: quinn::ServerConfig,
    identity: Arc<Identity>,
    table: Arc<RwLock<Table>>,
    relayed: Arc<Relayed>,
    arrivals: Arc<dyn Arrivals>,
    reporter: Reporter,
    /// By address.
    handshakes: Arc<Shares>,
    /// There is a connection to look after.
    has_links: Notify,
    stalls: Arc<Stalls>,
    /// Cancelled when it has been told of its peers for the first time.
    introduced: CancellationToken,
    /// Held while peers change, so that the last ones are those that stay.
    changing: Mutex<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One node's end of all its connections with other nodes. Clones are the same tunnel.
#[derive(Clone)]
pub struct Tunnel(Arc<Shared>);

impl Tunnel {
    /// Opens it, without peers. Within a tokio runtime; its tasks end with [`Tunnel::shutdown`]. Beside it comes what people
    /// should hear of.
    ///
    /// # Errors
    /// When the address or the credentials cannot be used.
    pub fn open(
        config: TunnelConfig,
        credentials: Credentials,
        arrivals: Arc<dyn Arrivals>,
        relay: Option<Arc<dyn Relay>>,
    ) -> Result<(Self, mpsc::Receiver<Notice>), TunnelError> {
        let table = Arc::new(RwLock::new(Table::default()));
        // Connections have the identity, and the table has connections: a strong reference would keep all of them for ever.
        let peers = Arc::downgrade(&table);
        let look_up = move |node: &str| peers.upgrade()?.read().directory.get(node).map(|(_, peer)| Peer::clone(peer));
        let settings = endpoint::endpoint(credentials.key.secret_der())?;
        let identity = Arc::new(Identity::new(credentials, Arc::new(look_up))?);
        let server = endpoint::server(&identity)?;
        let relayed = Arc::new(Relayed::new(relay));
        let listen = |error| TunnelError::Listen(config.listen, error);
        let paths = Arc::new(Paths::open(config.listen, Arc::clone(&relayed)).map_err(listen)?);
        let endpoint =
            Endpoint::new_with_abstract_socket(settings, Some(server.clone()), paths, Arc::new(TokioRuntime))
                .map_err(listen)?;
        let (reporter, notices) = Reporter::new();
        let stalls = Stalls::new(config.limits.stalled_max());
        let shared = Arc::new(Shared {
            config,
            endpoint,
            server,
            identity,
            table,
            relayed,
            arrivals,
            reporter,
            handshakes: Shares::new(limits::HANDSHAKES_MAX),
            has_links: Notify::new(),
            stalls,
            introduced: CancellationToken::new(),
            changing: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.tasks.spawn(arrivals::accept(Arc::clone(&shared)));
        shared.tasks.spawn(care::look_after(Arc::clone(&shared)));
        Ok((Self(shared), notices))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.endpoint.local_addr()
    }

    /// The other nodes of the cluster, all of them; the node itself may be among them. Connections of those that are none any
    /// more, or whose certificate does not count any more, end at once.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        self.0.set_peers(peers);
    }

    /// What the node proves with who it is, from now on. Connections that are there stay.
    ///
    /// # Errors
    /// When they cannot be used; then the old ones stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), TunnelError> {
        self.0.identity.replace(credentials)
    }

    /// Listens elsewhere, after the node's address has changed. Connections that this node has dialled move along.
    ///
    /// # Errors
    /// When the address cannot be used; then the old one stays.
    pub fn rebind(&self, listen: SocketAddr) -> Result<(), TunnelError> {
        let paths = Paths::open(listen, Arc::clone(&self.0.relayed));
        let moved = paths.and_then(|paths| self.0.endpoint.rebind_abstract(Arc::new(paths)));
        moved.map_err(|error| TunnelError::Listen(listen, error))
    }

    /// How each peer is reached at the moment, by name.
    #[must_use]
    pub fn states(&self) -> Vec<PeerState> {
        let records: Vec<_> = self.0.table.read().records.values().cloned().collect();
        let mut states: Vec<_> = records.iter().map(|record| state_of(record)).collect();
        states.sort_by(|one, other| one.node.cmp(&other.node));
        states
    }

    /// Peers whose traffic goes through the control plane, by name: from its notice on until that of the direct way, also
    /// while there is no connection.
    #[must_use]
    pub fn detours(&self) -> Vec<Detour> {
        let why = |record: &Record| record.state.lock().detour.clone();
        let table = self.0.table.read();
        let relayed = table.records.values().filter_map(|record| Some((record.node.to_string(), why(record)?)));
        let mut detours: Vec<_> = relayed.map(|(node, why)| Detour { node, why }).collect();
        drop(table);
        detours.sort_by(|one, other| one.node.cmp(&other.node));
        detours
    }

    /// Packets of `segment_bytes` each (the last may be shorter) that the control plane says it got from a node. Never blocks;
    /// they may be lost.
    pub fn relayed(&self, node: &str, segment_bytes: usize, packets: Bytes) {
        let known = self.0.table.read().directory.get(node).map(|(name, _)| Arc::clone(name));
        if let Some(name) = known {
            self.0.relayed.take(&name, segment_bytes, packets);
        }
    }

    /// Closes all connections and waits until all tasks have ended.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.endpoint.close(CLOSED_SHUTDOWN, b"the node shuts down");
        // Who does not hear of it notices by silence.
        let _unheard = tokio::time::timeout(FAREWELL, self.0.endpoint.wait_idle()).await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

fn state_of(record: &Record) -> PeerState {
    let state = record.state.lock();
    let link = record.best(&state);
    let path = link.as_ref().map_or(Path::None, |link| link.path());
    let address = link.as_ref().filter(|_| path == Path::Direct).map(|link| link.connection.remote_address());
    PeerState {
        node: record.node.to_string(),
        path,
        address,
        rtt: link.as_ref().map(|link| link.connection.rtt()),
        since: link.as_ref().map(|link| link.since),
        why: state.why.as_ref().map(|(why, _)| why.clone()),
    }
}

impl Shared {
    fn set_peers(&self, peers: Vec<Peer>) {
        let _changing = self.changing.lock();
        let directory = Directory::new(&self.config.node_name, peers);
        let mut over = Vec::new();
        let mut table = self.table.write();
        for (name, record) in &table.records {
            let peer = directory.get(name).map(|(_, peer)| peer);
            let links = record.state.lock().links.clone();
            let is_over = |link: &Arc<Link>| identity::is_current(&link.known, peer.map(|peer| &**peer)).is_err();
            over.extend(links.into_iter().filter(is_over));
            if peer.is_none() {
                self.relayed.forget(name);
            } else if table
                .directory
                .get(name)
                .is_none_or(|(_, old)| Some(&old.addresses) != peer.map(|peer| &peer.addresses))
            {
                record.state.lock().try_anew();
            }
        }
        table.records.retain(|name, _| directory.get(name).is_some());
        for name in directory.names() {
            let streams = usize::try_from(self.config.limits.streams_per_peer).unwrap_or(usize::MAX);
            let new = || Arc::new(Record::new(&self.config.node_name, Arc::clone(name), streams));
            table.records.entry(Arc::clone(name)).or_insert_with(new);
        }
        table.directory = directory;
        drop(table);
        self.introduced.cancel();
        for link in over {
            link.close(CLOSED_STRANGER, "the node is none of this cluster any more");
        }
    }

    fn peer(&self, node: &str) -> Option<(Arc<Record>, Arc<Peer>)> {
        let table = self.table.read();
        let (_, peer) = table.directory.get(node)?;
        Some((Arc::clone(table.records.get(node)?), Arc::clone(peer)))
    }

    /// Takes a connection with a peer into use, if the peer is still one.
    fn register(self: &Arc<Self>, link: Link) -> Result<Arc<Link>, &'static str> {
        let (record, peer) = self.peer(&link.known.node).ok_or(identity::UNKNOWN)?;
        identity::is_current(&link.known, Some(&peer))?;
        let link = Arc::new(link);
        let mut state = record.state.lock();
        let over = state.add(Arc::clone(&link));
        let pending = state.take_pending();
        self.tell(&record, &mut state);
        drop(state);
        if let Some(old) = over {
            old.close(CLOSED_SURPLUS, "there are too many connections");
        }
        for frame in pending {
            link.send_datagram(&frame);
        }
        self.tasks.spawn(arrivals::serve(Arc::clone(self), Arc::clone(&record), Arc::clone(&link)));
        // A peer that was removed between the look at it and now has had its links closed without this one.
        if self.peer(&link.known.node).is_none_or(|(_, peer)| identity::is_current(&link.known, Some(&peer)).is_err()) {
            link.close(CLOSED_STRANGER, "the node is none of this cluster any more");
        }
        record.changed.notify_waiters();
        self.has_links.notify_one();
        Ok(link)
    }

    /// For a connection of the pod with this address.
    fn patience(&self, pod: IpAddr) -> Patience {
        Patience { stall: self.config.limits.stall, stalls: Arc::clone(&self.stalls), pod }
    }

    /// A connection is over.
    fn forget(&self, record: &Record, link: &Arc<Link>) {
        let mut state = record.state.lock();
        state.links.retain(|one| !Arc::ptr_eq(one, link));
        self.tell(record, &mut state);
        drop(state);
        record.changed.notify_waiters();
    }

    /// Says when the way to a peer is another one.
    fn tell(&self, record: &Record, state: &mut record::State) {
        let Some(path) = record.best(state).map(|link| link.path()) else { return };
        let node = record.node.to_string();
        match (state.told.replace(path), path) {
            (Some(Path::Relayed), Path::Direct) => {
                state.detour = None;
                self.reporter.changed(Notice::Direct { node });
            }
            (None | Some(Path::Direct), Path::Relayed) => {
                let unknown = || "the other node could not connect directly".to_owned();
                let why = state.why.as_ref().map_or_else(unknown, |(why, _)| why.clone());
                state.detour = Some(why.clone());
                self.reporter.changed(Notice::Relayed { node, why });
            }
            _ => {}
        }
    }
}
