//! The network of one pod: its addresses, its ports, and what connects inside it.
//!
//! A pod lives as long as one of its runs, or a connection that still sends what a run has written. `localhost` and the
//! pod's own addresses never leave the runner. Everything is bounded; a guest that hits a bound gets an error, and the
//! agent hears of it now and then.

use super::{
    Bound, DialFailure, FromRunnerNet,
    datagrams::{Datagrams, Inbox},
    error::SocketError,
    listener::{Backlog, Listener},
    ports::Ports,
    stream::{Connection, Held, Stream},
    switch::{Permits, Switch},
    traffic::Traffic,
};
use crate::memory::MemoryAccount;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time,
};
use tokio_util::sync::CancellationToken;

/// Sockets of a pod that guests made and have not dropped; accepted connections are not among them.
pub(crate) const MAX_SOCKETS: usize = 10 << 10;
/// Connections of a pod, whoever made them, those that nobody has accepted yet included.
pub(crate) const MAX_CONNECTIONS: usize = 8 << 10;
/// Bytes of datagrams that wait in all sockets of a pod.
pub(crate) const MAX_QUEUED_BYTES: usize = 4 << 20;
/// How often the agent hears that one pod hits one bound.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// What the kernel buffers of what a guest sends, as it counts: for the first connections of a pod, and for each of the
/// others. It is kernel memory, and a peer that never reads holds it. What the agent has connected or offered keeps the
/// buffers that the agent gave it while there are few.
const ROOMY_BUFFER_BYTES: usize = 128 << 10;
const TIGHT_BUFFER_BYTES: usize = 16 << 10;
/// Connections of a pod that have roomy buffers.
const ROOMY_CONNECTIONS: usize = 512;

/// What the runs of a pod share.
#[derive(Debug)]
pub(crate) struct Pod {
    uid: String,
    switch: Arc<Switch>,
    addresses: RwLock<Vec<IpAddr>>,
    /// A port without a backlog is bound and does not listen.
    tcp: Mutex<Ports<Option<Arc<Backlog>>>>,
    udp: Mutex<Ports<Arc<Inbox>>>,
    sockets: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    queued: Arc<Semaphore>,
    reported: Mutex<HashMap<Bound, Instant>>,
    traffic: Arc<Traffic>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.switch.forget(&self.uid);
    }
}

/// One run's door to the network of its pod.
#[derive(Debug, Clone)]
pub(crate) struct PodNetwork {
    pod: Arc<Pod>,
    stop: CancellationToken,
    memory: Arc<MemoryAccount>,
}

/// A TCP port that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Binding {
    pod: Arc<Pod>,
    address: SocketAddr,
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.pod.tcp.lock().free(self.address);
    }
}

/// The right to have a socket.
#[derive(Debug)]
pub(crate) struct SocketPermit {
    _permit: OwnedSemaphorePermit,
}

impl Pod {
    pub(crate) fn new(switch: Arc<Switch>, uid: String) -> Arc<Self> {
        Arc::new(Self {
            uid,
            switch,
            addresses: RwLock::default(),
            tcp: Mutex::default(),
            udp: Mutex::default(),
            sockets: Arc::new(Semaphore::new(MAX_SOCKETS)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            queued: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            reported: Mutex::default(),
            traffic: Arc::default(),
        })
    }

    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    pub(crate) fn set_addresses(&self, addresses: &[IpAddr]) {
        addresses.clone_into(&mut self.addresses.write());
    }

    fn owns(&self, address: IpAddr) -> bool {
        is_loopback(address) || self.addresses.read().contains(&address)
    }

    /// Tells the agent, unless it has been told lately.
    pub(crate) fn hit(&self, what: Bound) {
        let now = Instant::now();
        let mut reported = self.reported.lock();
        if reported.get(&what).is_some_and(|last| now.duration_since(*last) < REPORT_INTERVAL) {
            return;
        }
        // If there is no room for it now, the next one will be told.
        if self.switch.pass(&FromRunnerNet::Refused { pod_uid: self.uid.clone(), what }).is_ok() {
            reported.insert(what, now);
        }
    }

    fn may_bind(&self, address: IpAddr) -> Result<(), SocketError> {
        if address.is_unspecified() || self.owns(address) { Ok(()) } else { Err(SocketError::AddressNotAvailable) }
    }

    /// The address that something sent to `to` comes from.
    fn source(&self, to: IpAddr) -> Result<IpAddr, SocketError> {
        match to {
            IpAddr::V4(to) if to.is_loopback() => Ok(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(to) if to.is_loopback() => Ok(Ipv6Addr::LOCALHOST.into()),
            to => {
                let addresses = self.addresses.read();
                let own = addresses.iter().find(|address| **address == to);
                let own = own.or_else(|| addresses.iter().find(|address| address.is_ipv4() == to.is_ipv4()));
                own.copied().ok_or(SocketError::Unreachable)
            }
        }
    }

    /// The address that a socket bound to `bound` sends to `to` from.
    pub(crate) fn source_of(&self, bound: SocketAddr, to: SocketAddr) -> Result<SocketAddr, SocketError> {
        if bound.is_ipv4() != to.is_ipv4() {
            return Err(SocketError::InvalidArgument);
        }
        if bound.ip().is_unspecified() {
            return Ok(SocketAddr::new(self.source(to.ip())?, bound.port()));
        }
        // Nothing from `localhost` leaves the pod.
        if is_loopback(bound.ip()) && !self.owns(to.ip()) { Err(SocketError::InvalidArgument) } else { Ok(bound) }
    }

    fn permits(&self) -> Result<Permits, SocketError> {
        let full = |what| {
            move |_: TryAcquireError| {
                self.hit(what);
                SocketError::TooMany
            }
        };
        let pod = Arc::clone(&self.connections).try_acquire_owned().map_err(full(Bound::PodConnections))?;
        let runner =
            Arc::clone(&self.switch.connections).try_acquire_owned().map_err(full(Bound::RunnerConnections))?;
        Ok(Permits { _pod: pod, _runner: runner })
    }

    fn backlog(&self, to: SocketAddr) -> Option<Arc<Backlog>> {
        let backlog = self.tcp.lock().reached(to).cloned().flatten();
        backlog.filter(|backlog| backlog.is_open())
    }

    /// Takes a connection from outside the pod.
    pub(crate) fn offer(&self, to: SocketAddr, from: SocketAddr, socket: OwnedFd) -> Result<(), DialFailure> {
        // The loopback address of this pod is nobody else's business, unless the node itself connects there: it comes from
        // loopback too, which nobody else seems to.
        let is_ours = !is_loopback(to.ip()) || is_loopback(from.ip());
        let backlog = self.backlog(to).filter(|_| is_ours).ok_or(DialFailure::Refused)?;
        let Some(room) = backlog.room() else {
            self.hit(Bound::Backlog);
            return Err(DialFailure::Refused);
        };
        let permits = self.permits().map_err(|_| DialFailure::Refused)?;
        self.bound_buffer(&socket);
        let traffic = Some(Arc::clone(&self.traffic));
        backlog.push(socket, to, from, Held { _permits: permits, _binding: None, traffic }, room);
        Ok(())
    }

    /// Connects to a listener of this pod; gives the connecting end.
    async fn connect_inside(&self, from: SocketAddr, to: SocketAddr) -> Result<OwnedFd, SocketError> {
        let backlog = self.backlog(to).ok_or(SocketError::Refused)?;
        let room = if let Some(room) = backlog.room() {
            room
        } else {
            self.hit(Bound::Backlog);
            let room = time::timeout(self.switch.patience, backlog.wait_for_room()).await;
            room.map_err(|_| SocketError::TimedOut)?.filter(|_| backlog.is_open()).ok_or(SocketError::Refused)?
        };
        let permits = self.permits()?;
        let (ours, theirs) = self.pair().map_err(|_| {
            self.hit(Bound::Descriptors);
            SocketError::TooMany
        })?;
        backlog.push(theirs, to, from, Held { _permits: permits, _binding: None, traffic: None }, room);
        Ok(ours)
    }

    fn pair(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (one, other) = UnixStream::pair()?;
        let (one, other) = (OwnedFd::from(one), OwnedFd::from(other));
        for end in [&one, &other] {
            set_buffer(end, ROOMY_BUFFER_BYTES)?;
            self.bound_buffer(end);
        }
        Ok((one, other))
    }

    /// Makes a connection of a pod that has many of them hold little.
    fn bound_buffer(&self, socket: &OwnedFd) {
        if MAX_CONNECTIONS - self.connections.available_permits() > ROOMY_CONNECTIONS {
            // It is a socket that is open; if it were not, writing to it would say so.
            let _ = set_buffer(socket, TIGHT_BUFFER_BYTES);
        }
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(crate) fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Room for a datagram in a queue of this pod.
    pub(crate) fn queue_permits(&self, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let count = u32::try_from(bytes).ok()?;
        let pod = Arc::clone(&self.queued).try_acquire_many_owned(count).ok()?;
        let runner = Arc::clone(&self.switch.queued).try_acquire_many_owned(count).ok()?;
        Some([pod, runner])
    }

    /// Puts a datagram into the socket that it is for; what does not fit is lost.
    ///
    /// # Errors
    /// `Refused` when there is no such socket.
    pub(crate) fn deliver(&self, to: SocketAddr, from: SocketAddr, bytes: Vec<u8>) -> Result<(), SocketError> {
        let inbox = self.udp.lock().reached(to).cloned().ok_or(SocketError::Refused)?;
        inbox.push(self, from, bytes)
    }

    /// What `from` sent to `to` reached nobody.
    pub(crate) fn datagram_refused(&self, from: SocketAddr, to: SocketAddr) {
        let inbox = self.udp.lock().reached(from).cloned();
        if let Some(inbox) = inbox {
            inbox.refused(to);
        }
    }

    /// Whether something sent to `address` stays here.
    pub(crate) fn is_inside(&self, address: IpAddr) -> bool {
        self.owns(address)
    }

    pub(crate) fn free_datagrams(&self, address: SocketAddr) {
        self.udp.lock().free(address);
    }
}

impl PodNetwork {
    pub(crate) fn new(pod: Arc<Pod>, stop: CancellationToken, memory: Arc<MemoryAccount>) -> Self {
        Self { pod, stop, memory }
    }

    /// What pays for what the runner holds of this run's connections and datagrams.
    pub(crate) fn memory(&self) -> &Arc<MemoryAccount> {
        &self.memory
    }

    /// The right to have one socket more.
    pub(crate) fn socket(&self) -> Result<SocketPermit, SocketError> {
        let permit = Arc::clone(&self.pod.sockets).try_acquire_owned().map_err(|_| {
            self.pod.hit(Bound::PodSockets);
            SocketError::TooMany
        })?;
        Ok(SocketPermit { _permit: permit })
    }

    /// Takes a TCP port; port 0 means an ephemeral one.
    pub(crate) fn bind(&self, address: SocketAddr) -> Result<Binding, SocketError> {
        self.pod.may_bind(address.ip())?;
        let address = self.pod.tcp.lock().claim(address, None).inspect_err(|_| {
            if address.port() == 0 {
                self.pod.hit(Bound::Ports);
            }
        })?;
        Ok(Binding { pod: Arc::clone(&self.pod), address })
    }

    /// Takes a TCP port and listens on it.
    pub(crate) fn listen(&self, address: SocketAddr, backlog: u32) -> Result<Listener, SocketError> {
        Ok(self.listen_on(self.bind(address)?, backlog))
    }

    /// Listens on a port that is taken already. Stops taking connections when the run is asked to stop.
    pub(crate) fn listen_on(&self, binding: Binding, backlog: u32) -> Listener {
        let backlog = Arc::new(Backlog::new(backlog, self.stop.clone(), Arc::clone(&self.memory)));
        if let Some(holder) = self.pod.tcp.lock().holder(binding.address) {
            *holder = Some(Arc::clone(&backlog));
        }
        Listener::new(backlog, binding)
    }

    /// Connects, from an ephemeral port unless one is given. Giving up the wait withdraws it.
    pub(crate) async fn connect(&self, from: Option<Binding>, to: SocketAddr) -> Result<Connection, SocketError> {
        let to = SocketAddr::new(to.ip(), to.port());
        let pod = &self.pod;
        if to.port() == 0 || to.ip().is_unspecified() || to.ip().is_multicast() {
            return Err(SocketError::InvalidArgument);
        }
        let permits = pod.permits()?;
        let binding = if let Some(binding) = from {
            binding
        } else {
            let any = SocketAddr::new(pod.source(to.ip())?, 0);
            // Linux's word for it differs from that of `bind`.
            self.bind(any).map_err(|_| SocketError::AddressNotAvailable)?
        };
        let local = pod.source_of(binding.address, to)?;
        let (socket, traffic) = if pod.owns(to.ip()) {
            (pod.connect_inside(local, to).await?, None)
        } else {
            let socket = pod.switch.dial(pod, local, to).await.inspect(|socket| pod.bound_buffer(socket))?;
            (socket, Some(Arc::clone(&pod.traffic)))
        };
        let stream = Stream::new(socket, Held { _permits: permits, _binding: Some(binding), traffic });
        let stream = stream.map_err(|_| SocketError::TooMany)?;
        Ok(Connection { stream, local, remote: to })
    }

    /// Takes a UDP port; port 0 means an ephemeral one.
    pub(crate) fn bind_datagrams(&self, address: SocketAddr) -> Result<Datagrams, SocketError> {
        self.pod.may_bind(address.ip())?;
        let inbox = Arc::new(Inbox::new(Arc::clone(&self.memory)));
        let address = self.pod.udp.lock().claim(address, Arc::clone(&inbox)).inspect_err(|_| {
            if address.port() == 0 {
                self.pod.hit(Bound::Ports);
            }
        })?;
        Ok(Datagrams::new(Arc::clone(&self.pod), inbox, address))
    }
}

impl Binding {
    /// What is taken; the port is not 0.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

fn set_buffer(socket: &OwnedFd, bytes: usize) -> io::Result<()> {
    // The kernel doubles what it is told.
    Ok(setsockopt(socket, SndBuf, &(bytes / 2))?)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;
