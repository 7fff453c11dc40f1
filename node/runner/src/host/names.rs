//! Name lookup: `wasi:sockets/ip-name-lookup` answered by the agent instead of the machine's resolver.

use super::state::GuestState;
use crate::protocol::{FromRunner, LookupFailure, LookupResult};
use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
    vec,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time,
};
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    WasiView,
    p2::{
        DynPollable, Pollable,
        bindings::sockets::network::{ErrorCode, IpAddress, Network},
        subscribe,
    },
};

/// Must be the version of the interface that `wasmtime-wasi` links, which this one replaces.
const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";
/// Questions that wait for the agent, over all guests.
const MAX_QUESTIONS: usize = 4096;
/// Questions that wait for the agent, per guest.
pub(crate) const MAX_QUESTIONS_PER_GUEST: usize = 16;
/// After this long without an answer the guest is told to try again.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A DNS name has at most 253 characters, and a dot at the end.
const MAX_NAME_BYTES: usize = 254;

/// The runner's open questions.
#[derive(Debug, Clone)]
pub(crate) struct Questions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    next: AtomicU64,
    open: Mutex<HashMap<u64, oneshot::Sender<LookupResult>>>,
    agent: mpsc::Sender<FromRunner>,
    patience: Duration,
}

impl Questions {
    /// Asks `agent` and waits that long for each answer.
    pub(crate) fn new(agent: mpsc::Sender<FromRunner>, patience: Duration) -> Self {
        Self(Arc::new(Inner { next: AtomicU64::new(0), open: Mutex::default(), agent, patience }))
    }

    /// Takes the agent's answer. One that nobody waits for any more is dropped.
    pub(crate) fn answer(&self, question: u64, result: LookupResult) {
        if let Some(asker) = self.0.open.lock().remove(&question) {
            let _ = asker.send(result);
        }
    }

    async fn ask(&self, pod_uid: String, name: String) -> LookupResult {
        let question = self.0.next.fetch_add(1, Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut open = self.0.open.lock();
            if open.len() >= MAX_QUESTIONS {
                return Err(LookupFailure::Temporary);
            }
            open.insert(question, sender);
        }
        let _open = OpenQuestion { questions: self, question };
        let asked = async {
            self.0.agent.send(FromRunner::Lookup { question, pod_uid, name }).await.ok()?;
            answer.await.ok()
        };
        time::timeout(self.0.patience, asked).await.ok().flatten().unwrap_or(Err(LookupFailure::Temporary))
    }
}

/// Forgets a question, also when its guest is killed while it waits.
struct OpenQuestion<'a> {
    questions: &'a Questions,
    question: u64,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.questions.0.open.lock().remove(&self.question);
    }
}

/// Asks on behalf of one guest.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    questions: Questions,
    pod_uid: String,
    permits: Arc<Semaphore>,
}

impl Resolver {
    pub(crate) fn new(questions: Questions, pod_uid: String) -> Self {
        Self { questions, pod_uid, permits: Arc::new(Semaphore::new(MAX_QUESTIONS_PER_GUEST)) }
    }

    /// All addresses of a name, at least one.
    pub(crate) async fn addresses(&self, name: String) -> LookupResult {
        let addresses = match self.resolve(name)? {
            Addresses::Known(addresses) => addresses.collect(),
            Addresses::Asked(answer) => answer.await?,
            Addresses::Failed(failure) => return Err(failure),
        };
        if addresses.is_empty() { Err(LookupFailure::NotFound) } else { Ok(addresses) }
    }

    fn resolve(&self, name: String) -> Result<Addresses, LookupFailure> {
        if let Some(address) = literal(&name) {
            return Ok(Addresses::Known(vec![address].into_iter()));
        }
        if name.is_empty()
            || name.len() > MAX_NAME_BYTES
            || name.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(LookupFailure::Invalid);
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| LookupFailure::Temporary)?;
        let (questions, pod_uid) = (self.questions.clone(), self.pod_uid.clone());
        let answer = async move {
            let _permit: OwnedSemaphorePermit = permit;
            questions.ask(pod_uid, name).await
        };
        Ok(Addresses::Asked(answer.boxed()))
    }
}

/// An address as a guest may write it, in brackets too.
fn literal(name: &str) -> Option<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse().ok()
}

/// The resource `resolve-address-stream`.
pub(super) enum Addresses {
    Asked(BoxFuture<'static, LookupResult>),
    Known(vec::IntoIter<IpAddr>),
    Failed(LookupFailure),
}

impl Addresses {
    fn settle(&mut self, result: LookupResult) {
        *self = match result {
            Ok(addresses) if addresses.is_empty() => Self::Failed(LookupFailure::NotFound),
            Ok(addresses) => Self::Known(addresses.into_iter()),
            Err(failure) => Self::Failed(failure),
        };
    }

    fn next(&mut self) -> Result<Option<IpAddress>, ErrorCode> {
        if let Self::Asked(answer) = self
            && let Some(result) = answer.now_or_never()
        {
            self.settle(result);
        }
        match self {
            Self::Asked(_) => Err(ErrorCode::WouldBlock),
            Self::Known(addresses) => Ok(addresses.next().map(|address| address.to_canonical().into())),
            Self::Failed(failure) => Err(error_code(*failure)),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {
        if let Self::Asked(answer) = self {
            let result = answer.await;
            self.settle(result);
        }
    }
}

fn error_code(failure: LookupFailure) -> ErrorCode {
    match failure {
        LookupFailure::NotFound => ErrorCode::NameUnresolvable,
        LookupFailure::Temporary => ErrorCode::TemporaryResolverFailure,
        LookupFailure::Invalid => ErrorCode::InvalidArgument,
    }
}

/// Puts this lookup in the place of the one that asks the machine's resolver. The linker must allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    type Store<'a> = StoreContextMut<'a, GuestState>;
    let mut interface = linker.instance(INTERFACE)?;
    interface.resource("resolve-address-stream", ResourceType::host::<Addresses>(), |mut store, rep| {
        store.data_mut().ctx().table.delete(Resource::<Addresses>::new_own(rep))?;
        Ok(())
    })?;
    interface.func_wrap(
        "resolve-addresses",
        |mut store: Store<'_>, (network, name): (Resource<Network>, String)| {
            let state = store.data_mut();
            // The network is the right to look up; there is one, and every guest has it.
            state.ctx().table.get(&network)?;
            let addresses = match state.resolver.resolve(name) {
                Ok(addresses) => Ok(state.ctx().table.push(addresses)?),
                Err(failure) => Err(error_code(failure)),
            };
            Ok((addresses,))
        },
    )?;
    interface.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: Store<'_>, (stream,): (Resource<Addresses>,)| {
            Ok((store.data_mut().ctx().table.get_mut(&stream)?.next(),))
        },
    )?;
    interface.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: Store<'_>, (stream,): (Resource<Addresses>,)| -> wasmtime::Result<(Resource<DynPollable>,)> {
            Ok((subscribe(store.data_mut().ctx().table, stream)?,))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(patience: Duration) -> (Questions, Resolver, mpsc::Receiver<FromRunner>) {
        let (agent, frames) = mpsc::channel(MAX_QUESTIONS_PER_GUEST * 2);
        let questions = Questions::new(agent, patience);
        (questions.clone(), Resolver::new(questions, "pod".into()), frames)
    }

    #[tokio::test]
    async fn an_answer_reaches_its_question() {
        let (questions, resolver, mut frames) = resolver(ANSWER_TIMEOUT);
        let mut addresses = resolver.resolve("myservice".into()).unwrap();
        assert!(matches!(addresses.next(), Err(ErrorCode::WouldBlock)));
        let Some(FromRunner::Lookup { question, pod_uid, name }) = frames.recv().await else { panic!("no question") };
        assert_eq!((pod_uid.as_str(), name.as_str()), ("pod", "myservice"));
        questions.answer(question, Ok(vec![[10, 96, 0, 7].into(), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)]));
        addresses.ready().await;
        assert!(matches!(addresses.next(), Ok(Some(IpAddress::Ipv4((10, 96, 0, 7))))));
        assert!(matches!(addresses.next(), Ok(Some(IpAddress::Ipv6((0, 0, 0, 0, 0, 0, 0, 1))))));
        assert!(matches!(addresses.next(), Ok(None)));
        assert!(questions.0.open.lock().is_empty());
    }

    #[tokio::test]
    async fn failures_have_their_codes_and_silence_is_temporary() {
        for (answer, expected) in [
            (Some(Err::<Vec<IpAddr>, _>(LookupFailure::NotFound)), ErrorCode::NameUnresolvable),
            (Some(Ok(Vec::new())), ErrorCode::NameUnresolvable),
            (Some(Err(LookupFailure::Temporary)), ErrorCode::TemporaryResolverFailure),
            (Some(Err(LookupFailure::Invalid)), ErrorCode::InvalidArgument),
            (None, ErrorCode::TemporaryResolverFailure),
        ] {
            let (questions, resolver, _frames) = resolver(answer.as_ref().map_or(Duration::ZERO, |_| ANSWER_TIMEOUT));
            let mut addresses = resolver.resolve("name".into()).unwrap();
            let _ = addresses.next();
            if let Some(answer) = answer {
                questions.answer(0, answer);
            }
            addresses.ready().await;
            assert_eq!(addresses.next().unwrap_err(), expected);
            assert!(questions.0.open.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn addresses_and_nonsense_are_answered_at_once() {
        let (_, resolver, mut frames) = resolver(ANSWER_TIMEOUT);
        for text in ["10.0.0.1", "::1", "[::1]"] {
            assert!(matches!(resolver.resolve(text.into()).unwrap().next(), Ok(Some(_))), "{text}");
        }
        let long = "a".repeat(300);
        for text in ["", "a b", "a\nb", &long] {
            assert_eq!(resolver.resolve(text.into()).err(), Some(LookupFailure::Invalid), "{text}");
        }
        assert!(frames.try_recv().is_err());
    }

    #[tokio::test]
    async fn questions_are_bounded_and_dropped_ones_forgotten() {
        let (questions, resolver, _frames) = resolver(ANSWER_TIMEOUT);
        let mut streams = Vec::new();
        for _ in 0..MAX_QUESTIONS_PER_GUEST {
            let mut addresses = resolver.resolve("name".into()).unwrap();
            assert!(addresses.next().is_err());
            streams.push(addresses);
        }
        assert_eq!(resolver.resolve("name".into()).err(), Some(LookupFailure::Temporary));
        assert_eq!(questions.0.open.lock().len(), MAX_QUESTIONS_PER_GUEST);
        streams.clear();
        assert!(questions.0.open.lock().is_empty());
        assert!(resolver.resolve("name".into()).is_ok());
    }
}
