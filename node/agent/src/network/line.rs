//! One runner's network: dials that its guests make, offers that are made to them, datagrams both ways.
//!
//! ```text
//!  Dial      ──▶ a task of its own ──▶ Connected        Withdraw ──▶ ends that task
//!  Offer     ──▶ waits for its Answer, for a time       the runner's end fails all that wait
//! ```
//!
//! A runner speaks only for pods that run in it. One that names another pod breaks the protocol and is killed. What comes
//! late, for a pod whose runs have ended meanwhile, is dropped.

use super::exchange::Exchange;
use bytes::Bytes;
use coracle_net::fabric::DialFailure;
use coracle_runner::network::{self as wire, Bound, ChannelError, FromRunnerNet, NetworkChannel, ToRunnerNet};
use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map},
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
};
use tracing::{debug, warn};

/// Dials of one runner that are under way; more are refused for now.
pub(super) const DIALS_MAX: usize = 1024;
/// Refusals that wait until a runner reads them, beside its dials; more are lost.
pub(super) const REFUSALS_MAX: usize = 1024;
/// Offers to one runner that wait for their answer; more are refused for now.
const OFFERS_MAX: usize = 4096;
/// How long a runner may take to answer an offer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pods whose runs have ended in a runner, from which something may still be on its way.
const FORMER_MAX: usize = 1024;

/// What a runner may say about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Something of it runs there.
    Present,
    /// It did.
    Former,
    /// It never did.
    Stranger,
}

/// The pods of a runner.
#[derive(Default)]
struct Tenants {
    /// How many runs each has.
    present: HashMap<String, usize>,
    former: HashSet<String>,
    /// The former ones, the oldest first.
    order: VecDeque<String>,
}

impl Tenants {
    fn standing(&self, uid: &str) -> Standing {
        if self.present.contains_key(uid) {
            Standing::Present
        } else if self.former.contains(uid) {
            Standing::Former
        } else {
            Standing::Stranger
        }
    }
}

type Answer = oneshot::Sender<Result<(), DialFailure>>;

/// See the module.
pub(crate) struct Line {
    channel: NetworkChannel,
    tenants: Mutex<Tenants>,
    offers: Mutex<HashMap<u64, Answer>>,
    next_offer: AtomicU64,
    /// Messages for pods that had gone.
    late: AtomicU64,
}

/// Takes an offer off the list when nobody waits for its answer any more.
struct Waiting<'a> {
    line: &'a Line,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.line.offers().remove(&self.id);
    }
}

impl Line {
    /// The agent's end of a runner's channel.
    pub(crate) fn new(channel: NetworkChannel) -> Arc<Self> {
        Arc::new(Self {
            channel,
            tenants: Mutex::default(),
            offers: Mutex::default(),
            next_offer: AtomicU64::new(1),
            late: AtomicU64::new(0),
        })
    }

    fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offers(&self) -> MutexGuard<'_, HashMap<u64, Answer>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run of the pod begins.
    pub(super) fn enter(&self, uid: &str) {
        *self.tenants().present.entry(uid.to_owned()).or_default() += 1;
    }

    /// A run of the pod has ended; answers whether it was the last one.
    pub(super) fn leave(&self, uid: &str) -> bool {
        let mut tenants = self.tenants();
        let hash_map::Entry::Occupied(mut runs) = tenants.present.entry(uid.to_owned()) else { return false };
        *runs.get_mut() -= 1;
        if *runs.get() > 0 {
            return false;
        }
        runs.remove();
        if tenants.former.insert(uid.to_owned()) {
            tenants.order.push_back(uid.to_owned());
        }
        if tenants.order.len() > FORMER_MAX
            && let Some(oldest) = tenants.order.pop_front()
        {
            tenants.former.remove(&oldest);
        }
        true
    }

    /// Hands a connection to a pod; done when its runner has taken or refused it.
    pub(super) async fn offer(
        &self,
        pod_uid: &str,
        to: SocketAddr,
        from: SocketAddr,
        stream: OwnedFd,
    ) -> Result<(), DialFailure> {
        let id = self.next_offer.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut offers = self.offers();
            if offers.len() >= OFFERS_MAX {
                return Err(DialFailure::TooMany);
            }
            offers.insert(id, answer);
        }
        let _waiting = Waiting { line: self, id };
        let offer = ToRunnerNet::Offer { id, pod_uid: pod_uid.to_owned(), to, from };
        let exchange = async {
            self.channel.send(offer, Some(stream)).await.map_err(|error| {
                debug!(%error, "a connection cannot be handed to the runner");
                DialFailure::Refused
            })?;
            // Nobody answers any more when the runner has ended.
            answered.await.unwrap_or(Err(DialFailure::Refused))
        };
        tokio::time::timeout(OFFER_TIMEOUT, exchange).await.unwrap_or(Err(DialFailure::TimedOut))
    }

    /// Hands a datagram to a pod; lost when the runner is busy.
    pub(super) fn deliver(&self, pod_uid: &str, to: SocketAddr, from: SocketAddr, bytes: Bytes) {
        let datagram = ToRunnerNet::Datagram { pod_uid: pod_uid.to_owned(), to, from, bytes: bytes.into() };
        if let Err(error) = self.channel.try_send(&datagram) {
            debug!(%error, "a datagram is lost");
        }
    }

    /// A datagram of the pod reached nobody.
    pub(super) fn datagram_refused(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr) {
        // Like any datagram it may be lost.
        let _ = self.channel.try_send(&ToRunnerNet::DatagramRefused { pod_uid: pod_uid.to_owned(), from, to });
    }

    /// Serves the runner until its channel ends. `false`: it has broken the protocol and must be killed.
    pub(crate) async fn serve(self: &Arc<Self>, exchange: &Arc<Exchange>) -> bool {
        let mut dials = Dials::default();
        let keeps_protocol = loop {
            let message = tokio::select! {
                message = self.channel.recv() => message,
                Some(done) = dials.tasks.join_next_with_id(), if !dials.tasks.is_empty() => {
                    dials.done(&done);
                    continue;
                }
            };
            match message {
                Ok(Some((message, _))) => {
                    if let Err(breach) = self.handle(message, exchange, &mut dials) {
                        warn!(breach, "a runner does not keep to the network protocol");
                        break false;
                    }
                }
                Ok(None) => break true,
                Err(error) => {
                    warn!(%error, "a runner's network channel broke");
                    break false;
                }
            }
        };
        // Dropping the senders answers everybody who waits.
        self.offers().clear();
        keeps_protocol
    }

    fn handle(
        self: &Arc<Self>,
        message: FromRunnerNet,
        exchange: &Arc<Exchange>,
        dials: &mut Dials,
    ) -> Result<(), &'static str> {
        match message {
            FromRunnerNet::Dial { id, pod_uid, from, to } => {
                if self.admit(&pod_uid)? {
                    self.dial(exchange, dials, id, (pod_uid, from, to))?;
                } else {
                    self.answer(dials, id, DialFailure::Unreachable);
                }
            }
            FromRunnerNet::Withdraw { id } => dials.withdraw(id),
            FromRunnerNet::Answer { id, result } => {
                // Nobody waits where it took too long.
                if let Some(answer) = self.offers().remove(&id) {
                    let _ = answer.send(result.map_err(from_wire));
                }
            }
            FromRunnerNet::Datagram { pod_uid, from, to, bytes } => {
                if self.admit(&pod_uid)? {
                    exchange.datagram(&pod_uid, from, to, bytes.into());
                }
            }
            FromRunnerNet::Refused { pod_uid, what } => {
                if self.admit(&pod_uid)? {
                    exchange.notices.bound(&pod_uid, &what.to_string());
                }
            }
        }
        Ok(())
    }

    /// Whether something that a runner says about a pod counts.
    pub(crate) fn admit(&self, uid: &str) -> Result<bool, &'static str> {
        match self.tenants().standing(uid) {
            Standing::Present => Ok(true),
            Standing::Former => {
                let late = self.late.fetch_add(1, Ordering::Relaxed) + 1;
                debug!(uid, late, "a message of a pod that has ended is dropped");
                Ok(false)
            }
            Standing::Stranger => Err("it speaks for a pod that does not run in it"),
        }
    }

    fn dial(
        self: &Arc<Self>,
        exchange: &Arc<Exchange>,
        dials: &mut Dials,
        id: u64,
        (pod_uid, from, to): (String, SocketAddr, SocketAddr),
    ) -> Result<(), &'static str> {
        if dials.by_id.contains_key(&id) {
            return Err("it uses the number of a dial that is under way");
        }
        if dials.by_id.len() >= DIALS_MAX {
            exchange.notices.bound(&pod_uid, &Bound::RunnerConnections.to_string());
            self.answer(dials, id, DialFailure::TooMany);
            return Ok(());
        }
        let (line, exchange) = (self.clone(), exchange.clone());
        dials.begin(id, async move {
            let (result, stream) = match exchange.dial(&pod_uid, from, to).await {
                Ok(stream) => (Ok(()), Some(stream)),
                Err(failure) => (Err(to_wire(failure)), None),
            };
            if let Err(error) = line.channel.send(ToRunnerNet::Connected { id, result }, stream).await {
                debug!(%error, "a connection cannot be handed to the runner");
            }
        });
        Ok(())
    }

    /// Refuses a dial at once, or as soon as its runner reads. One that never does waits for its own answers in vain.
    fn answer(self: &Arc<Self>, dials: &mut Dials, id: u64, failure: DialFailure) {
        let refusal = ToRunnerNet::Connected { id, result: Err(to_wire(failure)) };
        match self.channel.try_send(&refusal) {
            Err(ChannelError::Full) if dials.tasks.len() < DIALS_MAX + REFUSALS_MAX => {
                let line = self.clone();
                dials.tasks.spawn(async move {
                    if let Err(error) = line.channel.send(refusal, None).await {
                        debug!(%error, "a refusal cannot be handed to the runner");
                    }
                });
            }
            Err(error) => debug!(%error, "a refusal is lost"),
            Ok(()) => {}
        }
    }
}

/// The dials of one runner that are under way. Dropping it ends them.
#[derive(Default)]
struct Dials {
    /// Dials, and refusals that wait for room.
    tasks: JoinSet<()>,
    by_id: HashMap<u64, AbortHandle>,
    by_task: HashMap<tokio::task::Id, u64>,
}

impl Dials {
    fn begin(&mut self, id: u64, dial: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(dial);
        self.by_task.insert(handle.id(), id);
        self.by_id.insert(id, handle);
    }

    /// The dial's number is free again when its task is gone.
    fn withdraw(&mut self, id: u64) {
        if let Some(handle) = self.by_id.get(&id) {
            handle.abort();
        }
    }

    fn done(&mut self, done: &Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let task = match done {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        if let Some(id) = self.by_task.remove(&task) {
            self.by_id.remove(&id);
        }
    }
}

fn to_wire(failure: DialFailure) -> wire::DialFailure {
    match failure {
        DialFailure::Refused => wire::DialFailure::Refused,
        DialFailure::Unreachable => wire::DialFailure::Unreachable,
        DialFailure::TimedOut => wire::DialFailure::TimedOut,
        DialFailure::Denied => wire::DialFailure::Denied,
        DialFailure::TooMany => wire::DialFailure::TooMany,
    }
}

fn from_wire(failure: wire::DialFailure) -> DialFailure {
    match failure {
        wire::DialFailure::Refused => DialFailure::Refused,
        wire::DialFailure::Unreachable => DialFailure::Unreachable,
        wire::DialFailure::TimedOut => DialFailure::TimedOut,
        wire::DialFailure::Denied => DialFailure::Denied,
        wire::DialFailure::TooMany => DialFailure::TooMany,
    }
}
