//! Runner processes: one per namespace, started when its first guest comes, ended when it had none for a while.
//! Routes what they say to the pods' owner tasks and logs, and answers their guests' name lookups.

use crate::{clock, logs::RunLog};
use async_trait::async_trait;
use coracle_net::{NameError, Names};
use coracle_runner::{
    process::{RunnerConfig, RunnerProcess},
    protocol::{Exit, ExitCause, FromRunner, LookupFailure, LookupResult, RunId, StartGuest, ToRunner},
};
use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// A runner without guests lives so long.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// Instances that a runner's pool is sized for.
const INSTANCES_MAX: u32 = 1000;
/// Lookups that wait to be answered.
const ANSWERS_MAX: usize = 1024;
/// A runner that has not ended a killed run for so long hangs: the run is taken for ended and the runner killed.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Exit code of what was ended from outside.
pub(crate) const KILLED: i32 = 137;

/// What a runner says about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunEvent {
    Started,
    StartFailed(String),
    Exited(Exit),
}

/// A guest to run, and who hears of it.
pub(crate) struct Launch {
    pub(crate) namespace: String,
    pub(crate) namespace_uid: String,
    pub(crate) guest: StartGuest,
    /// Must be emptied promptly: one pod that does not would hold up its whole namespace.
    pub(crate) events: mpsc::Sender<(RunId, RunEvent)>,
    pub(crate) log: Arc<RunLog>,
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

    /// Ends a run, and the whole runner if it does not obey; returns once that is sure.
    async fn kill(&self, namespace_uid: &str, run: &RunId);
}

/// The cluster's names as this node knows them; `None` until they were learnt.
pub(crate) type SharedNames = Arc<RwLock<Option<Arc<Names>>>>;

struct Run {
    events: mpsc::Sender<(RunId, RunEvent)>,
    log: Arc<RunLog>,
}

#[derive(Default)]
struct Runs {
    by_id: HashMap<RunId, Run>,
    /// The runner ends or has ended; nothing may be added.
    closed: bool,
}

struct Runner {
    namespace: String,
    process: RunnerProcess,
    runs: Mutex<Runs>,
}

impl Runner {
    fn runs(&self) -> std::sync::MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Runner>>>>;

/// [`Guests`] over real processes.
pub(crate) struct Runners {
    command: Vec<OsString>,
    namespaces: PathBuf,
    names: SharedNames,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Runners {
    /// `program` is the command line to which `runner` is appended.
    pub(crate) fn new(data_dir: &Path, program: &[OsString], names: SharedNames) -> Arc<Self> {
        let command = program.iter().cloned().chain([OsString::from("runner")]).collect();
        Arc::new(Self { command, namespaces: data_dir.join("ns"), names, slots: Mutex::default() })
    }

    fn slot(&self, namespace_uid: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(namespace_uid.to_owned()).or_default().clone()
    }

    async fn current(&self, namespace_uid: &str) -> Option<Arc<Runner>> {
        self.slot(namespace_uid).lock().await.clone()
    }

    async fn spawn(&self, launch: &Launch) -> Result<Arc<Runner>, String> {
        let root = self.namespaces.join(&launch.namespace_uid);
        for part in ["volumes", "code"] {
            fs::create_dir_all(root.join(part))
                .map_err(|error| format!("cannot make the runner's directory: {error}"))?;
        }
        let config = RunnerConfig { command: self.command.clone(), root, max_instances: INSTANCES_MAX };
        let (process, frames, _network) = RunnerProcess::spawn(config).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}")
        })?;
        info!(namespace = launch.namespace, pid = process.pid(), "runner started");
        let runner = Arc::new(Runner { namespace: launch.namespace.clone(), process, runs: Mutex::default() });
        let (answers, asked) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(answer(runner.clone(), asked));
        tokio::spawn(route(runner.clone(), frames, self.names.clone(), answers, self.slot(&launch.namespace_uid)));
        Ok(runner)
    }

    async fn tell(&self, namespace_uid: &str, frame: ToRunner) {
        if let Some(runner) = self.current(namespace_uid).await
            && let Err(error) = runner.process.send(frame).await
        {
            debug!(%error, "the runner is not there to be told");
        }
    }
}

#[async_trait]
impl Guests for Runners {
    async fn launch(&self, launch: Launch) -> Result<(), String> {
        let slot = self.slot(&launch.namespace_uid);
        // Held while a runner starts, so that a namespace never gets two.
        let mut slot = slot.lock().await;
        let alive = slot.take().filter(|runner| !runner.runs().closed);
        let runner = match alive {
            Some(runner) => runner,
            None => self.spawn(&launch).await?,
        };
        *slot = Some(runner.clone());
        drop(slot);
        let run = launch.guest.run.clone();
        {
            let mut runs = runner.runs();
            if runs.closed {
                return Err("the runner process has just ended".to_owned());
            }
            runs.by_id.insert(run.clone(), Run { events: launch.events, log: launch.log });
        }
        if let Err(error) = runner.process.send(ToRunner::Start(Box::new(launch.guest))).await {
            // If it is not there any more, its end was reported to the run already.
            if runner.runs().by_id.remove(&run).is_some() {
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    async fn stop(&self, namespace_uid: &str, run: &RunId) {
        self.tell(namespace_uid, ToRunner::Stop(run.clone())).await;
    }

    async fn kill(&self, namespace_uid: &str, run: &RunId) {
        let Some(runner) = self.current(namespace_uid).await else { return };
        let told = runner.process.send(ToRunner::Kill(run.clone()));
        if tokio::time::timeout(KILL_PATIENCE, told).await.is_ok() {
            tokio::time::sleep(KILL_PATIENCE).await;
        }
        // The pod is taken for ended by now, so its guest must not live on.
        if runner.runs().by_id.contains_key(run) {
            warn!(namespace = runner.namespace, pid = runner.process.pid(), "the runner does not obey and is killed");
            runner.process.kill();
        }
    }
}

/// Sends answers beside the reader: while the runner is busy talking, the reader must go on listening.
async fn answer(runner: Arc<Runner>, mut asked: mpsc::Receiver<(u64, LookupResult)>) {
    while let Some((question, result)) = asked.recv().await {
        if runner.process.send(ToRunner::LookupAnswer { question, result }).await.is_err() {
            return;
        }
    }
}

/// Reads one runner's frames until it ends or was idle for long enough.
async fn route(
    runner: Arc<Runner>,
    mut frames: mpsc::Receiver<FromRunner>,
    names: SharedNames,
    answers: mpsc::Sender<(u64, LookupResult)>,
    slot: Slot,
) {
    let died = loop {
        match tokio::time::timeout(IDLE_MAX, frames.recv()).await {
            Ok(None) => break true,
            Ok(Some(frame)) => handle(&runner, frame, &names, &answers).await,
            Err(_) => {
                let mut runs = runner.runs();
                if runs.by_id.is_empty() {
                    runs.closed = true;
                    break false;
                }
            }
        }
    };
    let lost: Vec<(RunId, Run)> = {
        let mut runs = runner.runs();
        runs.closed = true;
        runs.by_id.drain().collect()
    };
    if died {
        warn!(namespace = runner.namespace, guests = lost.len(), "runner ended");
    } else {
        info!(namespace = runner.namespace, "runner had nothing to do and was ended");
    }
    {
        // Whoever holds the slot has started a successor, or will when it finds this one closed.
        let mut current = slot.lock().await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &runner)) {
            *current = None;
        }
    }
    for (run, entry) in lost {
        entry.log.end(clock::now());
        let message = "the runner process ended unexpectedly".to_owned();
        let exit = Exit { code: KILLED, cause: ExitCause::Killed, message };
        let _ = entry.events.send((run, RunEvent::Exited(exit))).await;
    }
}

async fn handle(runner: &Runner, frame: FromRunner, names: &SharedNames, answers: &mpsc::Sender<(u64, LookupResult)>) {
    let (run, event) = match frame {
        FromRunner::Ready => return,
        FromRunner::Log { run, stream, bytes } => {
            let log = runner.runs().by_id.get(&run).map(|entry| entry.log.clone());
            if let Some(log) = log {
                log.append(stream, &bytes, clock::now());
            }
            return;
        }
        FromRunner::Lookup { question, name, .. } => {
            let result = look_up(names, &runner.namespace, &name);
            let _ = answers.send((question, result)).await;
            return;
        }
        FromRunner::Started(run) => (run, RunEvent::Started),
        FromRunner::StartFailed { run, message } => (run, RunEvent::StartFailed(message)),
        FromRunner::Exited { run, exit } => (run, RunEvent::Exited(exit)),
    };
    let events = {
        let mut runs = runner.runs();
        if event == RunEvent::Started {
            runs.by_id.get(&run).map(|entry| entry.events.clone())
        } else {
            runs.by_id.remove(&run).map(|entry| {
                entry.log.end(clock::now());
                entry.events
            })
        }
    };
    if let Some(events) = events {
        let _ = events.send((run, event)).await;
    }
}

fn look_up(names: &SharedNames, namespace: &str, name: &str) -> LookupResult {
    let names = names.read().unwrap_or_else(PoisonError::into_inner).clone();
    match names.ok_or(LookupFailure::Temporary)?.resolve(namespace, name) {
        Ok(addresses) => Ok(addresses),
        Err(NameError::NotFound) => Err(LookupFailure::NotFound),
        Err(NameError::Invalid) => Err(LookupFailure::Invalid),
        Err(NameError::Temporary) => Err(LookupFailure::Temporary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unknown_before_they_are_absent() {
        let names: SharedNames = Arc::default();
        assert_eq!(look_up(&names, "default", "web"), Err(LookupFailure::Temporary));
        *names.write().unwrap() = Some(Arc::default());
        assert_eq!(look_up(&names, "default", "web"), Err(LookupFailure::NotFound));
        assert_eq!(look_up(&names, "default", "a b"), Err(LookupFailure::Invalid));
        assert_eq!(look_up(&names, "default", "localhost"), Ok(vec!["127.0.0.1".parse().unwrap()]));
    }
}
