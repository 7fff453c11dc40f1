//! Everybody else on the network: clients of a runner's pod, and servers that it dials.

use crate::fixture::Runner;
use coracle_runner::{
    network::{DialFailure, FromRunnerNet, NetworkChannel, ToRunnerNet},
    protocol::{PodNetwork, StartGuest},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    net::UnixStream,
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

pub(crate) const POD: [u8; 4] = [10, 244, 0, 2];
const CLIENT: [u8; 4] = [10, 244, 0, 9];

/// Puts a guest into a pod that has an address, and gives its container TCP ports.
pub(crate) fn with_ports(mut start: StartGuest, ports: &[u16]) -> StartGuest {
    start.network = PodNetwork { addresses: vec![POD.into()], hostname: "pod".into(), listen: ports.to_vec() };
    start
}

type Answers = Mutex<HashMap<u64, oneshot::Sender<Result<(), DialFailure>>>>;

/// See the module. The other pods' side of one runner's channel.
pub(crate) struct Neighbours {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    network: Arc<NetworkChannel>,
    answers: Answers,
    next: AtomicU64,
    servers: Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<UnixStream>>>,
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Neighbours {
    pub(crate) fn new(runner: &Runner) -> Self {
        let shared = Arc::new(Shared {
            network: Arc::clone(&runner.network),
            answers: Mutex::default(),
            next: AtomicU64::new(1),
            servers: Mutex::default(),
        });
        Self { task: tokio::spawn(Arc::clone(&shared).run()), shared }
    }

    /// Connects to a port of the pod.
    pub(crate) async fn connect(&self, port: u16) -> Result<UnixStream, DialFailure> {
        let (ours, theirs) = pair();
        let id = self.shared.next.fetch_add(1, Relaxed);
        let (answer, answered) = oneshot::channel();
        self.shared.answers.lock().await.insert(id, answer);
        let from = SocketAddr::from((CLIENT, 40_000));
        let offer = ToRunnerNet::Offer { id, pod_uid: "pod-1".into(), to: SocketAddr::from((POD, port)), from };
        self.shared.network.send(offer, Some(theirs)).await.unwrap();
        answered.await.unwrap().map(|()| ours)
    }

    /// What is dialled to `address` comes out here from now on.
    pub(crate) async fn listen(&self, address: SocketAddr) -> mpsc::UnboundedReceiver<UnixStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.servers.lock().await.insert(address, sender);
        receiver
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        while let Ok(Some((message, _))) = self.network.recv().await {
            match message {
                FromRunnerNet::Answer { id, result } => {
                    if let Some(answer) = self.answers.lock().await.remove(&id) {
                        let _ = answer.send(result);
                    }
                }
                FromRunnerNet::Dial { id, to, .. } => {
                    let servers = self.servers.lock().await;
                    let (result, theirs) = match servers.get(&to) {
                        Some(server) => {
                            let (ours, theirs) = pair();
                            server.send(ours).unwrap();
                            (Ok(()), Some(theirs))
                        }
                        None => (Err(DialFailure::Refused), None),
                    };
                    self.network.send(ToRunnerNet::Connected { id, result }, theirs).await.unwrap();
                }
                _ => {}
            }
        }
    }
}

fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).unwrap();
    }
    (UnixStream::from_std(ours).unwrap(), theirs.into())
}
