//! For tests: a control plane in memory whose watches can be broken and whose history can be lost, a runner that
//! does what the test says, and images out of thin air.

use crate::{
    context::Context,
    guests::{Guests, Launch, RunEvent},
    link::{Change, FOLLOWED, Link, PODS, Position, Resource, Update, Updates},
    network::{Network, Switch, addresses::Addresses},
    output::{Attached, Output, Screen},
    pod::{
        admission::Offer,
        checks::Checks,
        hooks::{Hook, HookFailure},
        probes::{Kind, Verdict},
        subject::Subject,
    },
    terminal::Typed,
    workloads::{
        Code, Workloads,
        collect::{Goal, Wanted},
    },
};
use async_trait::async_trait;
use coracle_images::{Image, ImageModule, Local, PullError, PullPolicy};
use coracle_net::fabric::DialFailure;
use coracle_objects::{ApiError, ObjectKey, Reason, meta, node_affinity::Labels, registry_auth::Keyring};
use coracle_runner::{
    compile::CompileError,
    protocol::{Exit, ExitCause, GuestKind, LogStream, RunId, RunSample, StartGuest},
};
use futures::StreamExt;
use serde_json::Value;
use std::{
    any::Any,
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{broadcast, mpsc},
};
use tokio_stream::wrappers::BroadcastStream;

/// A test that waits longer has failed.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Waits until `check` holds of what nobody announces.
pub(crate) async fn eventually(what: &str, check: impl Fn() -> bool) {
    let wait = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// A node that has room for everything.
pub(crate) fn offer() -> Offer {
    let all = 1 << 40;
    Offer {
        name: "n".to_owned(),
        labels: Labels::default(),
        cpu_milli: all,
        memory_bytes: all,
        storage_bytes: all,
        pods_max: 1000,
    }
}

type Place = (&'static str, ObjectKey);

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    history: Vec<(u64, Change)>,
    revision: u64,
    first_kept: u64,
    down: bool,
    refused: usize,
    wholes: usize,
}

/// See the module.
pub(crate) struct FakeLink {
    state: Mutex<State>,
    changes: Mutex<broadcast::Sender<(u64, Change)>>,
    touched: tokio::sync::watch::Sender<u64>,
}

fn key_of(object: &Value) -> ObjectKey {
    meta::key(object)
}

impl FakeLink {
    pub(crate) fn new() -> Arc<Self> {
        let changes = Mutex::new(broadcast::channel(1024).0);
        Arc::new(Self { state: Mutex::default(), changes, touched: tokio::sync::watch::Sender::new(0) })
    }

    fn record(&self, state: &mut State, change: Change) {
        let revision = state.revision;
        state.history.push((revision, change.clone()));
        let _ = self.changes.lock().unwrap().send((revision, change));
        self.touched.send_modify(|count| *count += 1);
    }

    /// Stores an object as anybody might.
    pub(crate) fn put(&self, resource: Resource, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.objects.insert((resource.plural, key_of(&object)), object.clone());
        self.record(&mut state, Change::Applied(resource, object.clone()));
        object
    }

    /// Removes an object at once.
    pub(crate) fn remove(&self, resource: Resource, key: &ObjectKey) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        if let Some(object) = state.objects.remove(&(resource.plural, key.clone())) {
            let uid = meta::uid(&object).to_owned();
            self.record(&mut state, Change::Gone(resource, key.clone(), uid));
        }
    }

    /// What is stored.
    pub(crate) fn stored(&self, resource: Resource, key: &ObjectKey) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&(resource.plural, key.clone())).cloned()
    }

    /// All stored objects of a kind.
    pub(crate) fn all(&self, resource: Resource) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|(place, _)| place.0 == resource.plural).map(|(_, object)| object.clone()).collect()
    }

    /// Ends all watches.
    pub(crate) fn break_watches(&self) {
        *self.changes.lock().unwrap() = broadcast::channel(1024).0;
    }

    /// Ends all watches and forgets everything they could go on from.
    pub(crate) fn forget_history(&self) {
        {
            let mut state = self.state.lock().unwrap();
            state.revision += 1;
            state.first_kept = state.revision;
            state.history.clear();
        }
        self.break_watches();
    }

    /// How often everything was told.
    pub(crate) fn wholes(&self) -> usize {
        self.state.lock().unwrap().wholes
    }

    /// How many calls did not get through since it went down.
    pub(crate) fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// Whether the server can be reached.
    pub(crate) fn set_down(&self, down: bool) {
        {
            let mut state = self.state.lock().unwrap();
            state.down = down;
            state.refused = 0;
        }
        if down {
            self.break_watches();
        }
    }

    /// Waits until `check` holds of what is stored.
    pub(crate) async fn wait(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let mut touched = self.touched.subscribe();
        let wait = async {
            while !check(self) {
                touched.changed().await.unwrap();
            }
        };
        tokio::time::timeout(WAIT_MAX, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
    }

    fn reachable(&self) -> Result<std::sync::MutexGuard<'_, State>, ApiError> {
        let mut state = self.state.lock().unwrap();
        if state.down {
            state.refused += 1;
            self.touched.send_modify(|count| *count += 1);
            return Err(ApiError::new(Reason::ServiceUnavailable, "connection refused"));
        }
        Ok(state)
    }
}

#[async_trait]
impl Link for FakeLink {
    async fn get(&self, resource: Resource, key: &ObjectKey) -> Result<Value, ApiError> {
        let state = self.reachable()?;
        let found = state.objects.get(&(resource.plural, key.clone())).cloned();
        found.ok_or_else(|| ApiError::not_found(resource.group, resource.plural, &key.name))
    }

    async fn follow(&self, position: &Position) -> Result<Updates, ApiError> {
        let mut state = self.reachable()?;
        let update = |revision: u64, changes| Update { changes, revision, ..Update::default() };
        let objects = |only: Option<Resource>| {
            let wanted = FOLLOWED.into_iter().filter(move |resource| only.is_none_or(|only| only == *resource));
            let all = wanted.flat_map(|resource| {
                let of_kind = state.objects.iter().filter(move |(place, _)| place.0 == resource.plural);
                of_kind.map(move |(_, object)| Change::Applied(resource, object.clone()))
            });
            all.collect::<Vec<_>>()
        };
        let mut missed = Vec::new();
        if position.revision == 0 || position.revision < state.first_kept || position.history != "fake" {
            // In two parts, as large ones come.
            missed.push(Update { whole: true, ..update(0, objects(None)) });
            missed.push(Update { history: "fake".to_owned(), ..update(state.revision.max(1), Vec::new()) });
            state.wholes += 1;
        } else {
            let since = state.history.iter().filter(|entry| entry.0 > position.revision);
            missed.extend(since.map(|(revision, change)| update(*revision, vec![change.clone()])));
            if !position.has_pods {
                let pods = objects(Some(PODS));
                missed.push(Update { all_pods: true, ..update(state.revision, pods) });
            }
        }
        let live = BroadcastStream::new(self.changes.lock().unwrap().subscribe()).filter_map(async |event| event.ok());
        let live = live.map(move |(revision, change)| update(revision, vec![change]));
        Ok(futures::stream::iter(missed).chain(live).map(Ok).boxed())
    }

    async fn create(&self, resource: Resource, object: &Value) -> Result<Value, ApiError> {
        if self.reachable()?.objects.contains_key(&(resource.plural, key_of(object))) {
            return Err(ApiError::already_exists(resource.group, resource.plural, meta::name(object)));
        }
        Ok(self.put(resource, object.clone()))
    }

    async fn update(&self, resource: Resource, subresource: &str, object: &Value) -> Result<Value, ApiError> {
        let place = (resource.plural, key_of(object));
        let mut stored = {
            let state = self.reachable()?;
            let found = state.objects.get(&place).cloned();
            found.ok_or_else(|| ApiError::not_found(resource.group, resource.plural, meta::name(object)))?
        };
        if meta::resource_version(&stored) != meta::resource_version(object) {
            return Err(ApiError::conflict(resource.group, resource.plural, meta::name(object), "it was changed"));
        }
        if subresource == "status" {
            stored["status"] = object["status"].clone();
        } else {
            stored = object.clone();
        }
        Ok(self.put(resource, stored))
    }

    async fn delete(&self, resource: Resource, key: &ObjectKey, _grace: i64, uid: &str) -> Result<(), ApiError> {
        let stored = self.reachable()?.objects.get(&(resource.plural, key.clone())).cloned();
        match stored {
            None => Err(ApiError::not_found(resource.group, resource.plural, &key.name)),
            Some(stored) if meta::uid(&stored) != uid => {
                Err(ApiError::conflict(resource.group, resource.plural, &key.name, "the uid differs"))
            }
            Some(_) => {
                self.remove(resource, key);
                Ok(())
            }
        }
    }
}

struct Guest {
    container: String,
    start: StartGuest,
    events: mpsc::Sender<(RunId, RunEvent)>,
    screen: Screen,
}

#[derive(Default)]
struct GuestsState {
    running: Vec<Guest>,
    stopped: Vec<String>,
    obedient: bool,
    dismissed: Vec<String>,
    start_failure: Option<String>,
    /// By run: what was written to it, and whether that has ended.
    input: BTreeMap<RunId, (Vec<u8>, bool)>,
    /// By run: how much of its output was passed on.
    taken: BTreeMap<RunId, usize>,
}

/// What [`FakeGuests`] calls a command's run instead of a container's name.
pub(crate) const COMMAND: &str = "a command";

/// A runner that starts everything, unless told otherwise, and ends what it is told to.
#[derive(Default)]
pub(crate) struct FakeGuests {
    state: Mutex<GuestsState>,
}

impl FakeGuests {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on guests end by themselves when they are asked to stop.
    pub(crate) fn obedient(&self) {
        self.state.lock().unwrap().obedient = true;
    }

    /// From now on nothing can be started, for this reason.
    pub(crate) fn fail_start(&self, message: Option<&str>) {
        self.state.lock().unwrap().start_failure = message.map(str::to_owned);
    }

    /// What runs in a container.
    pub(crate) fn running(&self, container: &str) -> Option<StartGuest> {
        let state = self.state.lock().unwrap();
        state.running.iter().find(|guest| guest.container == container).map(|guest| guest.start.clone())
    }

    /// Containers that were asked to stop, in order.
    pub(crate) fn stopped(&self) -> Vec<String> {
        self.state.lock().unwrap().stopped.clone()
    }

    /// Namespaces whose runners had to end, in order.
    pub(crate) fn dismissed(&self) -> Vec<String> {
        self.state.lock().unwrap().dismissed.clone()
    }

    /// The guest in a container writes something.
    pub(crate) fn write(&self, container: &str, stream: LogStream, text: &str) {
        let state = self.state.lock().unwrap();
        let guest = state.running.iter().find(|guest| guest.container == container).unwrap();
        guest.screen.show(stream, text.into()).unwrap();
    }

    /// What was written to a run, and whether that has ended.
    pub(crate) fn input_of(&self, run: &RunId) -> (String, bool) {
        let (bytes, ended) = self.state.lock().unwrap().input.get(run).cloned().unwrap_or_default();
        (String::from_utf8(bytes).unwrap(), ended)
    }

    /// How much of a run's output was passed on.
    pub(crate) fn taken_of(&self, run: &RunId) -> usize {
        self.state.lock().unwrap().taken.get(run).copied().unwrap_or_default()
    }

    /// The guest in a container ends by itself.
    pub(crate) fn exit(&self, container: &str, code: i32) {
        self.end(|guest| guest.container == container, code, ExitCause::Exited);
    }

    /// The runner process dies with everything in it.
    pub(crate) fn die(&self) {
        self.end(|_| true, 137, ExitCause::Killed);
    }

    fn end(&self, which: impl Fn(&Guest) -> bool, code: i32, cause: ExitCause) {
        let mut state = self.state.lock().unwrap();
        let (ended, running) = std::mem::take(&mut state.running).into_iter().partition(which);
        state.running = running;
        for guest in ended {
            let guest: Guest = guest;
            guest.screen.output.end(crate::clock::now());
            let exit = Exit { code, cause, message: String::new() };
            let told = guest.events.try_send((guest.start.run, RunEvent::Exited(exit)));
            assert!(told.is_ok() || guest.container == COMMAND, "somebody waits for a container's end");
        }
    }
}

#[async_trait]
impl Guests for FakeGuests {
    async fn launch(&self, launch: Launch) -> Result<(), String> {
        if let Some(message) = self.state.lock().unwrap().start_failure.clone() {
            launch.events.try_send((launch.guest.run.clone(), RunEvent::StartFailed(message))).unwrap();
            return Ok(());
        }
        launch.events.try_send((launch.guest.run.clone(), RunEvent::Started)).unwrap();
        let container = match &launch.output {
            Output::Log(log) => log.container(),
            Output::Reader(_) => COMMAND.to_owned(),
        };
        let Launch { guest: start, events, output, .. } = launch;
        let terminal = Screen::terminal(&start, &output);
        let screen = Screen { output: Arc::new(output), audience: Some(Arc::default()), terminal };
        let guest = Guest { container, start, events, screen };
        self.state.lock().unwrap().running.push(guest);
        Ok(())
    }

    async fn stop(&self, _namespace_uid: &str, run: &RunId) {
        let obedient = {
            let mut state = self.state.lock().unwrap();
            let found = state.running.iter().find(|guest| guest.start.run == *run).map(|guest| guest.container.clone());
            state.stopped.extend(found);
            state.obedient
        };
        if obedient {
            self.end(|guest| guest.start.run == *run, 0, ExitCause::Exited);
        }
    }

    async fn kill(&self, _namespace_uid: &str, run: &RunId) {
        self.end(|guest| guest.start.run == *run, 137, ExitCause::Killed);
    }

    fn dismiss(&self, namespace_uid: &str) {
        self.state.lock().unwrap().dismissed.push(namespace_uid.to_owned());
    }

    async fn interrupt(&self, _namespace_uid: &str, run: &RunId, signal: u8) {
        self.end(|guest| guest.start.run == *run, 128 + i32::from(signal), ExitCause::Exited);
    }

    async fn sample(&self) -> Vec<RunSample> {
        let sample = |guest: &Guest| RunSample {
            run: guest.start.run.clone(),
            cpu_nanos: 0,
            memory_bytes: 0,
            pod_received_bytes: 0,
            pod_sent_bytes: 0,
        };
        self.state.lock().unwrap().running.iter().map(sample).collect()
    }

    async fn input(&self, _namespace_uid: &str, run: &RunId, bytes: &[u8], end: bool) -> bool {
        let mut state = self.state.lock().unwrap();
        let entry = state.input.entry(run.clone()).or_default();
        entry.0.extend(bytes);
        entry.1 |= end;
        state.running.iter().any(|guest| guest.start.run == *run)
    }

    async fn output_taken(&self, _namespace_uid: &str, run: &RunId, bytes: usize) {
        *self.state.lock().unwrap().taken.entry(run.clone()).or_default() += bytes;
    }

    async fn attach(&self, _namespace_uid: &str, run: &RunId) -> Option<Attached> {
        let state = self.state.lock().unwrap();
        state.running.iter().find(|guest| guest.start.run == *run)?.screen.audience.as_ref()?.join()
    }

    async fn type_in(&self, _namespace_uid: &str, run: &RunId, keys: &[u8]) -> Option<Typed> {
        let state = self.state.lock().unwrap();
        state.running.iter().find(|guest| guest.start.run == *run)?.screen.typed(keys)
    }
}

type Results = BTreeMap<(String, &'static str), Result<(), String>>;

/// Probes that say what the test says, and hooks that end as it says.
#[derive(Default)]
pub(crate) struct FakeChecks {
    probed: Mutex<Vec<(Subject, mpsc::Sender<Verdict>)>>,
    hooks: Mutex<Vec<(String, Hook)>>,
    /// What hooks come to, by container and name; a hook that is not among them never ends.
    results: Mutex<Results>,
    changed: tokio::sync::Notify,
}

impl FakeChecks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A probe of the run that a container was last probed in comes to this.
    pub(crate) fn say(&self, container: &str, kind: Kind, healthy: bool) {
        let probed = self.probed.lock().unwrap();
        let (subject, said) = probed.iter().rev().find(|one| one.0.name() == container).expect("it is not probed");
        let (index, run) = (subject.index, subject.run.clone());
        let verdict = Verdict { index, run, kind, healthy, message: String::new(), grace: None };
        said.try_send(verdict).unwrap();
    }

    /// How often a container was begun to be probed.
    pub(crate) fn probed(&self, container: &str) -> usize {
        self.probed.lock().unwrap().iter().filter(|one| one.0.name() == container).count()
    }

    /// A hook of a container, running or not yet, comes to this.
    pub(crate) fn answer(&self, container: &str, hook: Hook, result: Result<(), &str>) {
        let key = (container.to_owned(), name(hook));
        self.results.lock().unwrap().insert(key, result.map_err(str::to_owned));
        self.changed.notify_waiters();
    }

    /// Hooks that were begun, in order.
    pub(crate) fn hooks(&self) -> Vec<(String, Hook)> {
        self.hooks.lock().unwrap().clone()
    }
}

fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::PostStart => "postStart",
        Hook::PreStop => "preStop",
    }
}

#[async_trait]
impl Checks for FakeChecks {
    fn probe(&self, _: &Arc<Context>, subject: Subject, said: mpsc::Sender<Verdict>) -> Box<dyn Any + Send + Sync> {
        self.probed.lock().unwrap().push((subject, said));
        Box::new(())
    }

    async fn hook(&self, _: &Arc<Context>, subject: &Subject, hook: Hook, _: Duration) -> Result<(), HookFailure> {
        self.hooks.lock().unwrap().push((subject.name().to_owned(), hook));
        let key = (subject.name().to_owned(), name(hook));
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(result) = self.results.lock().unwrap().get(&key) {
                return result.clone().map_err(|message| HookFailure { message });
            }
            changed.await;
        }
    }
}

/// Images that are always a pull away, and a compiler that takes everything, unless told otherwise.
#[derive(Default)]
pub(crate) struct FakeWorkloads {
    pull_failure: Mutex<Option<String>>,
    compile_failure: Mutex<Option<String>>,
}

impl FakeWorkloads {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn fail_pull(&self, detail: Option<&str>) {
        *self.pull_failure.lock().unwrap() = detail.map(str::to_owned);
    }

    pub(crate) fn fail_compile(&self, detail: Option<&str>) {
        *self.compile_failure.lock().unwrap() = detail.map(str::to_owned);
    }
}

fn image(reference: &str) -> Image {
    let name = reference.split(':').next().unwrap().to_owned();
    let module = ImageModule { name, digest: "sha256:1".to_owned(), path: "/module".into() };
    Image { id: format!("registry/{reference}@sha256:1"), modules: vec![module], size_bytes: 1, pulled: true }
}

#[async_trait]
impl Workloads for FakeWorkloads {
    fn local(&self, _reference: &str, _keyring: &Keyring) -> Result<Local, PullError> {
        Ok(Local::Absent)
    }

    /// What was pulled is found by its id, and by nothing else.
    fn held(&self, id: &str) -> Option<Image> {
        id.strip_prefix("registry/").and_then(|id| id.strip_suffix("@sha256:1")).map(image)
    }

    fn tool(&self, name: &str, _command: &[String]) -> Option<ImageModule> {
        (name == "tar").then(|| ImageModule { name: name.to_owned(), digest: String::new(), path: "/".into() })
    }

    async fn pull(&self, reference: &str, _policy: PullPolicy, _keyring: &Keyring) -> Result<Image, PullError> {
        if let Some(detail) = self.pull_failure.lock().unwrap().clone() {
            return Err(PullError::Pull { reference: reference.to_owned(), detail });
        }
        Ok(image(reference))
    }

    async fn collect(&self, _wanted: Wanted, goal: Goal) -> std::io::Result<u64> {
        Ok(goal.bytes)
    }

    async fn code(&self, _namespace_uid: &str, _module: &ImageModule) -> Result<Code, CompileError> {
        match self.compile_failure.lock().unwrap().clone() {
            Some(detail) => Err(CompileError::Rejected(detail)),
            None => Ok(Code { path: "code/module".into(), kind: GuestKind::Module }),
        }
    }
}

/// How long [`FakeSwitch::slow`] makes it take.
const SLOW: Duration = Duration::from_millis(300);

/// Which pods are on the network, and nothing behind it.
#[derive(Default)]
pub(crate) struct FakeSwitch {
    pods: Mutex<BTreeMap<String, Ipv4Addr>>,
    /// How adding the next pod is held up: whom to tell, and what lets it go on.
    hold: Mutex<Option<(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>)>>,
    removals: Mutex<Option<std::sync::mpsc::Sender<()>>>,
    /// Real listeners that stand for what pods listen on, by the pod's address, or a host, and port.
    listeners: Mutex<BTreeMap<String, SocketAddr>>,
}

impl FakeSwitch {
    /// A network with addresses from `range`.
    pub(crate) fn network(data_dir: &Path, range: &str) -> (Network, Arc<Self>) {
        let addresses = Arc::new(Addresses::open(data_dir, WAIT_MAX));
        addresses.set_range(range);
        let switch = Arc::new(Self::default());
        (Network { addresses, switch: switch.clone() }, switch)
    }

    /// Makes the next pod's adding slow: it takes until a pod is removed, or for a while. Tells when it begins and ends.
    pub(crate) fn slow(&self) -> std::sync::mpsc::Receiver<()> {
        let (tell, told) = std::sync::mpsc::channel();
        let (removed, is_removed) = std::sync::mpsc::channel();
        *self.hold.lock().unwrap() = Some((tell, is_removed));
        *self.removals.lock().unwrap() = Some(removed);
        told
    }

    /// Whoever connects to `at` (`ADDRESS:PORT` of a pod, `HOST:PORT` of anybody) reaches a real listener. One at port 0
    /// never answers.
    pub(crate) fn listen(&self, at: &str, listener: SocketAddr) {
        self.listeners.lock().unwrap().insert(at.to_owned(), listener);
    }

    async fn connect(&self, at: String) -> Result<OwnedFd, DialFailure> {
        let listener = self.listeners.lock().unwrap().get(&at).copied().ok_or(DialFailure::Refused)?;
        if listener.port() == 0 {
            return std::future::pending().await;
        }
        let mut outer = TcpStream::connect(listener).await.map_err(|_| DialFailure::Refused)?;
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        for end in [&near, &far] {
            end.set_nonblocking(true).unwrap();
        }
        let mut far = tokio::net::UnixStream::from_std(far).unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut outer, &mut far).await });
        Ok(near.into())
    }

    /// The address under which a pod is reached.
    pub(crate) fn address(&self, uid: &str) -> Option<Ipv4Addr> {
        self.pods.lock().unwrap().get(uid).copied()
    }
}

#[async_trait]
impl Switch for FakeSwitch {
    fn add(&self, pod: &Value, address: Ipv4Addr) {
        let hold = self.hold.lock().unwrap().take();
        if let Some((tell, removed)) = &hold {
            tell.send(()).unwrap();
            // Nobody should remove what is being added: then the time is up.
            let _ = removed.recv_timeout(SLOW);
        }
        self.pods.lock().unwrap().insert(meta::uid(pod).to_owned(), address);
        if let Some((tell, _)) = hold {
            tell.send(()).unwrap();
        }
    }

    fn remove(&self, uid: &str) {
        self.pods.lock().unwrap().remove(uid);
        if let Some(removed) = self.removals.lock().unwrap().take() {
            let _ = removed.send(());
        }
    }

    async fn dial_into(&self, _uid: &str, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        self.connect(to.to_string()).await
    }

    async fn dial_for(&self, _uid: &str, host: &str, port: u16) -> Result<OwnedFd, DialFailure> {
        self.connect(format!("{host}:{port}")).await
    }
}
