//! Runner processes: one or more per namespace, each started when a guest comes that no other has room for, ended when it
//! had none for a while.
//! Routes what they say to the pods' owner tasks and logs, and answers their guests' name lookups.

mod appetite;
mod death;
mod fleet;
mod placement;
mod weights;

pub(crate) use appetite::{Allowance, Promise};
pub(crate) use placement::places_of;

use crate::{
    clock,
    confinement::Gate,
    network::{ca_bundle, exchange::Exchange, line::Line},
    output::{Attached, Output, Screen},
    pod::volumes,
    samples::Samples,
    sandbox::Owners,
    terminal::Typed,
};
use async_trait::async_trait;
use coracle_runner::{
    process::{CEILING_FLAG, RunnerConfig, RunnerProcess},
    protocol::{
        Exit, FromRunner, INPUT_WINDOW_BYTES, LookupFailure, LookupResult, RunId, RunSample, StartGuest, StdinMode,
        ToRunner, cpu_shares,
    },
};
use fleet::Fleet;
use placement::Residents;
use std::{
    collections::HashMap,
    error::Error,
    ffi::OsString,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use weights::{Told, Weights};

/// A runner without guests lives so long.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// Instances that a runner's pool is sized for, where nobody says otherwise. Such a pool costs 2,000 mappings of memory, and each
/// idle guest in it four more: full it has a tenth of what the kernel allows a process by default, so that guests with
/// many tables find room as well, and the death of one runner ends no more than these. A larger one would make every
/// namespace dearer.
pub(crate) const INSTANCES_DEFAULT: u32 = 1000;
/// Lookups of one runner that are under way; more fail for now.
const LOOKUPS_MAX: usize = 256;
/// Answers to lookups that wait to be sent.
const ANSWERS_MAX: usize = 1024;
/// A runner that has not ended a killed run for so long hangs: the run is taken for ended and the runner killed.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A runner that has not said for so long what its runs use is not waited for.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of input in one frame.
const INPUT_PIECE_BYTES: usize = 16 << 10;
/// How long a runner that has closed its stream may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Exit code of what was ended from outside.
pub(crate) const KILLED: i32 = 137;

/// Mode of the directories above what guests write.
pub(crate) const PASSABLE: u32 = 0o755;

/// What a runner says about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunEvent {
    Started,
    StartFailed(String),
    Exited(Exit),
    /// Its runner died, and the guest with it.
    Lost(Exit),
}

/// A guest to run, and who hears of it.
pub(crate) struct Launch {
    pub(crate) namespace: String,
    pub(crate) namespace_uid: String,
    pub(crate) guest: StartGuest,
    /// What the whole pod takes of a runner: [`places_of`].
    pub(crate) places: u32,
    /// What its container was promised of the memory.
    pub(crate) promise: Promise,
    /// Must be emptied promptly: one pod that does not would hold up its whole namespace.
    pub(crate) events: mpsc::Sender<(RunId, RunEvent)>,
    pub(crate) output: Output,
}

/// What a pod needs of runners.
#[async_trait]
pub(crate) trait Guests: Send + Sync + 'static {
    /// Runs a guest; `Started` or `StartFailed` follows, then `Exited` after `Started`.
    ///
    /// # Errors
    /// When no runner can be had; no event follows.
    async fn launch(&self, launch: Launch) -> Result<(), String>;

    /// Asks a run to end.
    async fn stop(&self, namespace_uid: &str, run: &RunId);

    /// Why nothing may run here, where that is known before anything is tried.
    fn refusal(&self) -> Option<String> {
        None
    }

    /// Ends a run, and the whole runner if it does not obey; returns once that is sure.
    async fn kill(&self, namespace_uid: &str, run: &RunId);

    /// Ends what runs for a namespace of which there is nothing here any more; returns at once.
    fn dismiss(&self, _namespace_uid: &str) {}

    /// Ends a run as a signal does that nobody handles; it exits with 128 and the signal's number.
    async fn interrupt(&self, namespace_uid: &str, run: &RunId, signal: u8);

    /// What all runs have used, in no order; those of a runner that does not answer in time are missing.
    async fn sample(&self) -> Vec<RunSample>;

    /// Writes to a run's standard input, waiting while the guest does not read; `end` closes it. False when the run has
    /// ended or reads none.
    async fn input(&self, namespace_uid: &str, run: &RunId, bytes: &[u8], end: bool) -> bool;

    /// So much of a command's output was passed on: it may write more.
    async fn output_taken(&self, namespace_uid: &str, run: &RunId, bytes: usize);

    /// What a run writes from now on; `None` when it does not run or too many are attached.
    async fn attach(&self, namespace_uid: &str, run: &RunId) -> Option<Attached>;

    /// Keys for a container's terminal, which shows them to all who are attached; what they come to is for the caller
    /// to do. `None` when the run has ended or has no terminal.
    async fn type_in(&self, namespace_uid: &str, run: &RunId, keys: &[u8]) -> Option<Typed>;
}

struct Run {
    pod_uid: String,
    promise: Promise,
    /// Its weight; none of its own where it joins another.
    shares: u64,
    events: mpsc::Sender<(RunId, RunEvent)>,
    /// Its audience is made when the first one is attached.
    screen: Screen,
    /// What may be written to its standard input; closed with the run.
    input: Option<Arc<Semaphore>>,
    /// Cancelled when it has ended.
    over: CancellationToken,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.over.cancel();
        if let Some(input) = &self.input {
            input.close();
        }
    }
}

#[derive(Default)]
struct Runs {
    by_id: HashMap<RunId, Run>,
    residents: Residents,
    /// Weights of all runs together.
    shares: u64,
    /// The runner ends or has ended; nothing may be added.
    closed: bool,
}

impl Runs {
    fn insert(&mut self, id: RunId, run: Run, places: u32) {
        self.residents.enter(&run.pod_uid, places);
        self.shares = self.shares.saturating_add(run.shares);
        self.by_id.insert(id, run);
    }

    fn remove(&mut self, id: &RunId) -> Option<Run> {
        let run = self.by_id.remove(id)?;
        self.residents.leave(&run.pod_uid);
        self.shares = self.shares.saturating_sub(run.shares);
        Some(run)
    }

    /// Takes all that are left and lets no more in.
    fn close(&mut self) -> Vec<(RunId, Run)> {
        self.closed = true;
        self.residents = Residents::default();
        self.shares = 0;
        self.by_id.drain().collect()
    }
}

struct Runner {
    namespace: String,
    process: RunnerProcess,
    line: Arc<Line>,
    lookups: Arc<Semaphore>,
    samples: Samples,
    runs: Mutex<Runs>,
    told: Told,
    /// What the agent killed it for.
    fault: OnceLock<String>,
}

impl Runner {
    fn kill_because(&self, fault: String) {
        // The first fault is the one that it is killed for.
        let _ = self.fault.set(fault);
        self.process.kill();
    }

    /// How its containers ended. It has no stream any more, so it will not be long.
    async fn death(&self) -> Exit {
        let end = if let Ok(end) = tokio::time::timeout(END_PATIENCE, self.process.ended()).await {
            end
        } else {
            self.kill_because("it closed its stream to the node agent".to_owned());
            self.process.ended().await
        };
        death::exit(&self.namespace, &end, self.fault.get().map(String::as_str))
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its runs have used; `None` when it does not say.
    async fn sample(&self) -> Option<Vec<RunSample>> {
        let (question, answered) = self.samples.ask()?;
        self.process.send(ToRunner::Sample { question }).await.ok()?;
        answered.await.ok()
    }
}

/// [`Guests`] over real processes.
pub(crate) struct Runners {
    command: Vec<OsString>,
    data_dir: PathBuf,
    owners: Arc<Owners>,
    exchange: Arc<Exchange>,
    gate: Arc<Gate>,
    /// A runner was started.
    started: Arc<Notify>,
    /// Instances of each runner's pool: as many as wanted, or as fit into the address space of a process.
    instances: AtomicU32,
    fleets: Mutex<HashMap<String, Arc<Fleet>>>,
    weights: Arc<Weights>,
}

impl Runners {
    /// `program` is the command line to which `runner` is appended; `instances` is the size of each one's pool, `memory`
    /// what all together may take. Within a runtime.
    pub(crate) fn new(
        data_dir: &Path,
        program: &[OsString],
        exchange: Arc<Exchange>,
        owners: Arc<Owners>,
        gate: Arc<Gate>,
        instances: u32,
        memory: Option<Allowance>,
    ) -> Arc<Self> {
        let mut command: Vec<OsString> = program.iter().cloned().chain([OsString::from("runner")]).collect();
        if let Some(memory) = memory {
            command.extend([CEILING_FLAG.into(), memory.runner_bytes().to_string().into()]);
        }
        let runners = Arc::new(Self {
            command,
            data_dir: data_dir.to_owned(),
            owners,
            exchange,
            gate,
            started: Arc::default(),
            instances: AtomicU32::new(instances),
            fleets: Mutex::default(),
            weights: Arc::default(),
        });
        if let Some(memory) = memory {
            tokio::spawn(appetite::watch(Arc::downgrade(&runners), memory));
        }
        runners
    }

    fn all(&self) -> Vec<Arc<Runner>> {
        let fleets: Vec<_> = self.fleets.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        fleets.iter().flat_map(|fleet| fleet.all()).collect()
    }

    fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed)
    }

    fn fleet(&self, namespace_uid: &str) -> Arc<Fleet> {
        let mut fleets = self.fleets.lock().unwrap_or_else(PoisonError::into_inner);
        fleets.entry(namespace_uid.to_owned()).or_default().clone()
    }

    fn runner_of(&self, namespace_uid: &str, run: &RunId) -> Option<Arc<Runner>> {
        let fleet = self.fleets.lock().unwrap_or_else(PoisonError::into_inner).get(namespace_uid).cloned();
        fleet?.of_run(run)
    }

    async fn spawn(&self, launch: &Launch, fleet: &Arc<Fleet>) -> Result<Arc<Runner>, String> {
        let root = self.data_dir.join("ns").join(&launch.namespace_uid);
        make_root(&root).map_err(|error| format!("cannot make the runner's directory: {error}"))?;
        if let Err(error) = ca_bundle::link(&self.data_dir, &root) {
            warn!(%error, "guests cannot tell whom to trust: their HTTPS requests will fail");
        }
        let owner = self.owners.of(&launch.namespace_uid);
        let owner = owner.map_err(|error| format!("cannot give the namespace a user of its own: {error}"))?;
        let config =
            RunnerConfig { command: self.command.clone(), root, max_instances: self.instances(), user: owner.id() };
        let (process, frames, channel) = RunnerProcess::spawn(config).await.map_err(|error| with_cause(&error))?;
        self.gate.admit(process.confinement())?;
        info!(namespace = launch.namespace, pid = process.pid(), "runner started");
        let runner = Arc::new(Runner {
            namespace: launch.namespace.clone(),
            process,
            line: Line::new(channel),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            samples: Samples::default(),
            runs: Mutex::default(),
            told: Told::default(),
            fault: OnceLock::new(),
        });
        fleet.add(&runner);
        self.started.notify_one();
        self.weights.add(&runner);
        let (answers, asked) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(answer(runner.clone(), asked));
        tokio::spawn(serve_network(Arc::downgrade(&runner), runner.line.clone(), self.exchange.clone()));
        let weights = self.weights.clone();
        let routing = Routing { exchange: self.exchange.clone(), answers, fleet: fleet.clone(), weights };
        tokio::spawn(routing.run(runner.clone(), frames));
        Ok(runner)
    }

    /// Starts a runner for nobody and hears what holds it in and how many instances it has room for, so that this is known
    /// before there are guests.
    pub(crate) async fn probe(&self) {
        let root = self.data_dir.join("probe");
        let spawned = async {
            make_root(&root).map_err(|error| format!("cannot make a directory for a runner: {error}"))?;
            let config = RunnerConfig {
                command: self.command.clone(),
                root: root.clone(),
                max_instances: self.instances(),
                user: self.owners.compiler().id(),
            };
            RunnerProcess::spawn(config).await.map_err(|error| with_cause(&error))
        };
        match spawned.await {
            Ok((process, ..)) => {
                if (1..self.instances()).contains(&process.pooled()) {
                    let (wanted, fit) = (self.instances(), process.pooled());
                    warn!(wanted, fit, "the address space of a process is small: runners have fewer instances");
                    self.instances.store(fit, Ordering::Relaxed);
                }
                if let Err(refusal) = self.gate.admit(process.confinement()) {
                    warn!(refusal, "no guests will run");
                }
            }
            Err(error) => {
                warn!(error, "cannot start a runner");
                self.gate.broken(error);
            }
        }
        if let Err(error) = volumes::remove(&root) {
            warn!(%error, "cannot remove what a trial runner left");
        }
    }

    async fn tell(&self, namespace_uid: &str, run: &RunId, frame: ToRunner) {
        if let Some(runner) = self.runner_of(namespace_uid, run)
            && let Err(error) = runner.process.send(frame).await
        {
            debug!(%error, "the runner is not there to be told");
        }
    }

    /// Finds or starts a runner for a guest, and makes the run known there.
    async fn seat(&self, launch: Launch) -> Result<(Arc<Runner>, StartGuest), String> {
        let fleet = self.fleet(&launch.namespace_uid);
        if let Some(target) = &launch.guest.joins {
            let runner = fleet.of_run(target).ok_or("the container is not running")?;
            return self.enter(runner, launch);
        }
        let _choosing = fleet.choosing.lock().await;
        let places = placement::places(self.instances());
        let runner = match fleet.for_pod(&launch.guest.pod_uid, launch.places, places) {
            Some(runner) => runner,
            None => self.spawn(&launch, &fleet).await?,
        };
        self.enter(runner, launch)
    }

    fn enter(&self, runner: Arc<Runner>, launch: Launch) -> Result<(Arc<Runner>, StartGuest), String> {
        let Launch { guest, places, promise, events, output, .. } = launch;
        let entry = Run {
            pod_uid: guest.pod_uid.clone(),
            promise,
            shares: if guest.joins.is_none() { cpu_shares(guest.cpu_request_millis) } else { 0 },
            events,
            over: CancellationToken::new(),
            screen: Screen { terminal: Screen::terminal(&guest, &output), output: Arc::new(output), audience: None },
            input: (guest.stdin == StdinMode::Open).then(|| Arc::new(Semaphore::new(INPUT_WINDOW_BYTES as usize))),
        };
        let mut runs = runner.runs();
        if runs.closed {
            return Err("the runner process has just ended".to_owned());
        }
        // Before the guest runs: it may dial at once.
        self.exchange.routes.open(&guest.pod_uid, &runner.line);
        runs.insert(guest.run.clone(), entry, places);
        drop(runs);
        self.weights.changed();
        Ok((runner, guest))
    }
}

#[async_trait]
impl Guests for Runners {
    async fn launch(&self, launch: Launch) -> Result<(), String> {
        let (runner, guest) = self.seat(launch).await?;
        let run = guest.run.clone();
        if let Err(error) = runner.process.send(ToRunner::Start(Box::new(guest))).await {
            // If it is not there any more, its end was reported to the run already.
            let entry = runner.runs().remove(&run);
            self.weights.changed();
            if let Some(entry) = entry {
                self.exchange.routes.close(&entry.pod_uid, &runner.line);
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    async fn stop(&self, namespace_uid: &str, run: &RunId) {
        self.tell(namespace_uid, run, ToRunner::Stop(run.clone())).await;
    }

    async fn kill(&self, namespace_uid: &str, run: &RunId) {
        let Some(runner) = self.runner_of(namespace_uid, run) else { return };
        let Some(over) = runner.runs().by_id.get(run).map(|entry| entry.over.clone()) else { return };
        let ended = async {
            // Where it cannot be told, it ends or has to be ended.
            let _ = runner.process.send(ToRunner::Kill(run.clone())).await;
            over.cancelled().await;
        };
        // Behind that the pod is taken for ended, so its guest must not live on.
        if tokio::time::timeout(KILL_PATIENCE, ended).await.is_err() {
            warn!(namespace = runner.namespace, pid = runner.process.pid(), "the runner does not obey and is killed");
            runner.kill_because("it did not end a container that was to be ended".to_owned());
        }
    }

    fn dismiss(&self, namespace_uid: &str) {
        let fleet = self.fleets.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace_uid);
        for runner in fleet.iter().flat_map(|fleet| fleet.all()) {
            runner.runs().closed = true;
            runner.process.kill();
        }
    }

    async fn interrupt(&self, namespace_uid: &str, run: &RunId, signal: u8) {
        self.tell(namespace_uid, run, ToRunner::Interrupt { run: run.clone(), signal }).await;
    }

    async fn sample(&self) -> Vec<RunSample> {
        let samples = self.all().into_iter().map(|runner| async move {
            tokio::time::timeout(SAMPLE_PATIENCE, runner.sample()).await.ok().flatten().unwrap_or_default()
        });
        futures::future::join_all(samples).await.into_iter().flatten().collect()
    }

    async fn input(&self, namespace_uid: &str, run: &RunId, bytes: &[u8], end: bool) -> bool {
        let Some(runner) = self.runner_of(namespace_uid, run) else { return false };
        let Some(credit) = runner.runs().by_id.get(run).and_then(|entry| entry.input.clone()) else { return false };
        for piece in bytes.chunks(INPUT_PIECE_BYTES) {
            let Ok(permits) = credit.acquire_many(u32::try_from(piece.len()).unwrap_or(u32::MAX)).await else {
                return false;
            };
            // They come back when the guest has read.
            permits.forget();
            let frame = ToRunner::Input { run: run.clone(), bytes: piece.to_vec(), end: false };
            if runner.process.send(frame).await.is_err() {
                return false;
            }
        }
        let last = ToRunner::Input { run: run.clone(), bytes: Vec::new(), end };
        !end || runner.process.send(last).await.is_ok()
    }

    async fn output_taken(&self, namespace_uid: &str, run: &RunId, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.tell(namespace_uid, run, ToRunner::OutputTaken { run: run.clone(), bytes }).await;
    }

    async fn attach(&self, namespace_uid: &str, run: &RunId) -> Option<Attached> {
        let runner = self.runner_of(namespace_uid, run)?;
        let mut runs = runner.runs();
        runs.by_id.get_mut(run)?.screen.audience.get_or_insert_default().join()
    }

    async fn type_in(&self, namespace_uid: &str, run: &RunId, keys: &[u8]) -> Option<Typed> {
        let runner = self.runner_of(namespace_uid, run)?;
        let screen = runner.runs().by_id.get(run).map(|entry| entry.screen.clone())?;
        screen.typed(keys)
    }

    fn refusal(&self) -> Option<String> {
        self.gate.refusal()
    }
}

fn with_cause(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// A runner's root and what is always in it. They stay the agent's, so that no guest can replace them; the runner, who is
/// somebody else, may pass.
fn make_root(root: &Path) -> io::Result<()> {
    for directory in [root.to_owned(), root.join("volumes"), root.join("code")] {
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, Permissions::from_mode(PASSABLE))?;
    }
    Ok(())
}

/// Sends answers beside the reader: while the runner is busy talking, the reader must go on listening.
async fn answer(runner: Arc<Runner>, mut asked: mpsc::Receiver<(u64, LookupResult)>) {
    while let Some((question, result)) = asked.recv().await {
        if runner.process.send(ToRunner::LookupAnswer { question, result }).await.is_err() {
            return;
        }
    }
}

/// Serves a runner's network as long as its process lives, and kills it when it breaks the protocol.
async fn serve_network(runner: Weak<Runner>, line: Arc<Line>, exchange: Arc<Exchange>) {
    if !line.serve(&exchange).await
        && let Some(runner) = runner.upgrade()
    {
        warn!(namespace = runner.namespace, pid = runner.process.pid(), "the runner is killed");
        runner.kill_because("it broke the rules of its network channel".to_owned());
    }
}

/// What happens to the frames of one runner.
struct Routing {
    exchange: Arc<Exchange>,
    answers: mpsc::Sender<(u64, LookupResult)>,
    fleet: Arc<Fleet>,
    weights: Arc<Weights>,
}

impl Routing {
    /// Reads frames until the runner ends or was idle for long enough.
    async fn run(self, runner: Arc<Runner>, mut frames: mpsc::Receiver<FromRunner>) {
        let died = loop {
            match tokio::time::timeout(IDLE_MAX, frames.recv()).await {
                Ok(None) => break true,
                Ok(Some(frame)) => self.handle(&runner, frame).await,
                Err(_) => {
                    let mut runs = runner.runs();
                    if runs.by_id.is_empty() {
                        runs.closed = true;
                        break false;
                    }
                }
            }
        };
        let (dismissed, lost) = {
            let mut runs = runner.runs();
            (runs.closed, runs.close())
        };
        self.weights.changed();
        self.fleet.remove(&runner);
        if died && !dismissed {
            warn!(namespace = runner.namespace, guests = lost.len(), "runner ended");
        } else {
            info!(namespace = runner.namespace, guests = lost.len(), "runner had nothing to do and was ended");
        }
        let exit = if lost.is_empty() { None } else { Some(runner.death().await) };
        for (run, entry) in lost {
            self.exchange.routes.close(&entry.pod_uid, &runner.line);
            entry.screen.output.end(clock::now());
            let Some(exit) = exit.clone() else { continue };
            let events = entry.events.clone();
            // Whoever is attached or writes to it learns first that it is over.
            drop(entry);
            let _ = events.send((run, RunEvent::Lost(exit))).await;
        }
    }

    async fn handle(&self, runner: &Runner, frame: FromRunner) {
        let (run, event) = match frame {
            FromRunner::Ready { .. } => return,
            FromRunner::Log { run, stream, bytes } => {
                let screen = runner.runs().by_id.get(&run).map(|entry| entry.screen.clone());
                if screen.is_some_and(|screen| screen.show(stream, bytes).is_err()) {
                    let breach = "it sends more output than it may";
                    warn!(namespace = runner.namespace, breach, "the runner is killed");
                    runner.process.kill();
                }
                return;
            }
            FromRunner::InputTaken { run, bytes } => {
                if let Some(credit) = runner.runs().by_id.get(&run).and_then(|entry| entry.input.as_ref()) {
                    let missing = (INPUT_WINDOW_BYTES as usize).saturating_sub(credit.available_permits());
                    credit.add_permits(missing.min(bytes as usize));
                }
                return;
            }
            FromRunner::Sampled { question, runs, more } => {
                let known = runner.runs();
                return runner.samples.answered(question, runs, more, |run| known.by_id.contains_key(run));
            }
            FromRunner::Lookup { question, pod_uid, name } => return self.look_up(runner, question, pod_uid, name),
            FromRunner::Started(run) => (run, RunEvent::Started),
            FromRunner::StartFailed { run, message } => (run, RunEvent::StartFailed(message)),
            FromRunner::Exited { run, exit } => (run, RunEvent::Exited(exit)),
        };
        let events = if event == RunEvent::Started {
            runner.runs().by_id.get(&run).map(|entry| entry.events.clone())
        } else {
            let ended = runner.runs().remove(&run);
            self.weights.changed();
            ended.map(|entry| {
                self.exchange.routes.close(&entry.pod_uid, &runner.line);
                entry.screen.output.end(clock::now());
                entry.events.clone()
            })
        };
        if let Some(events) = events {
            let _ = events.send((run, event)).await;
        }
    }

    /// Answers a guest's lookup in a task of its own: names outside the cluster may take long.
    fn look_up(&self, runner: &Runner, question: u64, pod_uid: String, name: String) {
        match runner.line.admit(&pod_uid) {
            Ok(true) => {}
            Ok(false) => return,
            Err(breach) => {
                warn!(namespace = runner.namespace, breach, "the runner is killed");
                return runner.kill_because(breach.to_owned());
            }
        }
        let (exchange, answers) = (self.exchange.clone(), self.answers.clone());
        let Ok(turn) = runner.lookups.clone().try_acquire_owned() else {
            // A runner that does not even read its answers gets none.
            let _ = answers.try_send((question, Err(LookupFailure::Temporary)));
            return;
        };
        tokio::spawn(async move {
            let result = exchange.look_up(&pod_uid, &name).await;
            let _ = answers.send((question, result)).await;
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests;
