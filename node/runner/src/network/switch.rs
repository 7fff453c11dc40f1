//! The pods of a runner, and what passes between them and the agent.
//!
//! Nothing waits here on behalf of a guest but its own dial, and nothing is kept for a pod that has no run any more.

use super::{
    Bound, DialFailure, FromRunnerNet, ToRunnerNet,
    channel::{ChannelError, RunnerEnd},
    error::SocketError,
    pod::{Pod, PodNetwork},
};
use crate::{child, memory::MemoryAccount, protocol};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time,
};
use tokio_util::sync::CancellationToken;

/// Connections of all pods of a runner. One that stays inside a pod counts twice: it has two descriptors.
pub(crate) const MAX_CONNECTIONS: usize = 32 << 10;
/// Bytes of datagrams, of all pods, that wait to be received.
pub(crate) const MAX_QUEUED_BYTES: usize = 32 << 20;
/// How long a guest's connect waits for the agent, or for room in a listener's backlog.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection counts against.
#[derive(Debug)]
pub(crate) struct Permits {
    pub(crate) _pod: OwnedSemaphorePermit,
    pub(crate) _runner: OwnedSemaphorePermit,
}

/// A dial's answer: the descriptor may be missing when this process has too many.
type Dialled = Result<Option<OwnedFd>, DialFailure>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Switch {
    channel: RunnerEnd,
    pods: Mutex<HashMap<String, Weak<Pod>>>,
    /// `None` once the agent has closed the channel.
    dials: Mutex<Option<HashMap<u64, oneshot::Sender<Dialled>>>>,
    next_dial: AtomicU64,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) queued: Arc<Semaphore>,
    pub(crate) patience: Duration,
}

impl Switch {
    pub(crate) fn new(channel: RunnerEnd, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            channel,
            pods: Mutex::default(),
            dials: Mutex::new(Some(HashMap::new())),
            next_dial: AtomicU64::new(0),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            queued: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            patience,
        })
    }

    /// The network of a run's pod, which all runs of the pod share. `stop` closes the run's listeners to what is new,
    /// `memory` pays for what waits to be received.
    pub(crate) fn open(
        self: &Arc<Self>,
        pod_uid: &str,
        network: &protocol::PodNetwork,
        stop: CancellationToken,
        memory: Arc<MemoryAccount>,
    ) -> PodNetwork {
        let mut pods = self.pods.lock();
        let pod = pods.get(pod_uid).and_then(Weak::upgrade);
        let pod = pod.unwrap_or_else(|| {
            let pod = Pod::new(Arc::clone(self), pod_uid.to_owned());
            pods.insert(pod_uid.to_owned(), Arc::downgrade(&pod));
            pod
        });
        drop(pods);
        pod.set_addresses(&network.addresses);
        PodNetwork::new(pod, stop, memory)
    }

    /// A pod has gone.
    pub(crate) fn forget(&self, pod_uid: &str) {
        let mut pods = self.pods.lock();
        // Unless it is back already.
        if pods.get(pod_uid).is_some_and(|pod| pod.strong_count() == 0) {
            pods.remove(pod_uid);
        }
    }

    /// Bytes that a pod has received and sent while it was there.
    pub(crate) fn traffic(&self, pod_uid: &str) -> (u64, u64) {
        self.pod(pod_uid).map_or((0, 0), |pod| pod.traffic().bytes())
    }

    fn pod(&self, pod_uid: &str) -> Option<Arc<Pod>> {
        self.pods.lock().get(pod_uid).and_then(Weak::upgrade)
    }

    /// Has the agent make a connection.
    pub(crate) async fn dial(&self, pod: &Pod, from: SocketAddr, to: SocketAddr) -> Result<OwnedFd, SocketError> {
        let id = self.next_dial.fetch_add(1, Relaxed);
        let (sender, answer) = oneshot::channel();
        self.dials.lock().as_mut().ok_or(SocketError::Unreachable)?.insert(id, sender);
        let _open = OpenDial { switch: self, id };
        let dialled = async {
            let dial = FromRunnerNet::Dial { id, pod_uid: pod.uid().to_owned(), from, to };
            self.channel.send(dial, None).await.map_err(|_| DialFailure::Unreachable)?;
            answer.await.unwrap_or(Err(DialFailure::Unreachable))
        };
        let dialled = time::timeout(self.patience, dialled).await.unwrap_or(Err(DialFailure::TimedOut));
        dialled?.ok_or_else(|| {
            pod.hit(Bound::Descriptors);
            SocketError::TooMany
        })
    }

    /// Passes something to the agent if there is room.
    pub(crate) fn pass(&self, message: &FromRunnerNet) -> Result<(), ChannelError> {
        self.channel.try_send(message)
    }

    /// Acts on what the agent sends, until it closes the channel. Connections work on without it.
    pub(crate) async fn serve(&self) {
        loop {
            match self.channel.recv().await {
                Ok(Some((message, descriptor))) => self.handle(message, descriptor).await,
                Ok(None) => break,
                Err(error) => {
                    child::complain(&format!("cannot read from the agent: {error}"));
                    break;
                }
            }
        }
        // Whoever waits for an answer learns that there will be none.
        self.dials.lock().take();
    }

    async fn handle(&self, message: ToRunnerNet, descriptor: Option<OwnedFd>) {
        match message {
            ToRunnerNet::Connected { id, result } => {
                let asker = self.dials.lock().as_mut().and_then(|dials| dials.remove(&id));
                // A connection that nobody waits for any more is closed here.
                if let Some(asker) = asker {
                    let _ = asker.send(result.map(|()| descriptor));
                }
            }
            ToRunnerNet::Offer { id, pod_uid, to, from } => {
                let result = match (self.pod(&pod_uid), descriptor) {
                    (Some(pod), Some(descriptor)) => pod.offer(to, from, descriptor),
                    (Some(pod), None) => {
                        pod.hit(Bound::Descriptors);
                        Err(DialFailure::TooMany)
                    }
                    (None, _) => Err(DialFailure::Refused),
                };
                let _ = self.channel.send(FromRunnerNet::Answer { id, result }, None).await;
            }
            ToRunnerNet::Datagram { pod_uid, to, from, bytes } => {
                if let Some(pod) = self.pod(&pod_uid) {
                    pod.traffic().receive(bytes.len());
                    let _ = pod.deliver(to, from, bytes);
                }
            }
            ToRunnerNet::DatagramRefused { pod_uid, from, to } => {
                if let Some(pod) = self.pod(&pod_uid) {
                    pod.datagram_refused(from, to);
                }
            }
        }
    }
}

/// Forgets a dial, and tells the agent if it was not answered: its guest gave up or was killed.
struct OpenDial<'a> {
    switch: &'a Switch,
    id: u64,
}

impl Drop for OpenDial<'_> {
    fn drop(&mut self) {
        let open = self.switch.dials.lock().as_mut().is_some_and(|dials| dials.remove(&self.id).is_some());
        if open {
            // If there is no room, the agent dials for nothing: its answer is closed when it comes.
            let _ = self.switch.pass(&FromRunnerNet::Withdraw { id: self.id });
        }
    }
}
