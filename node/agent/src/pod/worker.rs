//! The owner task of one pod: turns what [`PodState`] plans into attempts, runs and reports, and tells it what
//! happened. Nobody else touches the pod's state. It never waits for anything but its own ledger entry, so that
//! runners are never held up by a pod.

mod absence;
mod checking;
pub(crate) mod ending;
mod work;

use crate::{
    clock::{self, Pace},
    context::Context,
    events::Severity,
    guests::RunEvent,
    homes::Stay,
    ledger::{Entry, Remembered},
    network::place,
    pod::{
        admission::Refusal,
        attempt::Prepared,
        hooks::HookFailure,
        probes::Verdict,
        restore, spec,
        state::{Failure, Notice, PodState},
        status::{self, OWN_CONDITIONS},
    },
    reports::Report,
    static_pods::manifest::is_static_uid,
};
use coracle_objects::{ApiError, meta, nodes};
use coracle_runner::protocol::{Exit, RunId};
use ending::Eviction;
use serde_json::Value;
use std::{
    any::Any,
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

/// Grace at most when the pod's object is gone already.
const GONE_GRACE_MAX: Duration = Duration::from_secs(2);
/// Waiting time between tries to write the ledger.
const SAVE_RETRY: Duration = Duration::from_secs(5);
/// Waiting times between tries to set volumes up.
const SET_UP_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What the control plane wants of a pod.
#[derive(Debug, Clone)]
pub(crate) enum Desired {
    /// The newest object.
    Present(Arc<Value>),
    /// There is no such object any more.
    Gone,
}

/// Why nothing is started any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The object has a deletion timestamp.
    Deleted,
    /// The object is gone.
    Gone,
    /// The pod as a whole failed; it stays until it is deleted.
    Failed,
    /// Its app containers have ended for good, and so its sidecars have to; it stays until it is deleted.
    Over,
    /// This agent ends.
    Shutdown,
}

/// How the task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The pod is gone: what it left may be removed.
    Gone,
    /// The agent ends: the pod comes back with it.
    Shutdown,
}

/// What a piece of work beside the owner task came to.
enum Done {
    SetUp(Result<Premises, SetUpFailure>),
    Refused(Refusal),
    Prepared(usize, RunId, Result<Box<Prepared>, Failure>),
    Launched(usize, RunId, Result<(), String>),
    PostStarted(usize, RunId, Result<(), HookFailure>),
    PreStopped(usize, RunId, Result<(), HookFailure>),
    /// The run's end, with the message that it left.
    Read(usize, RunId, Exit),
    /// Whether the server still wants the pod.
    Asked(Result<bool, ApiError>),
}

/// One piece of work, to know whose it was if it broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    SetUp,
    Prepare(usize),
    Launch(usize),
    PostStart(usize),
    PreStop(usize),
    Message(usize),
    Ask,
}

/// Why a pod's containers cannot start yet: an event's reason, and what people read.
#[derive(Debug)]
struct SetUpFailure {
    reason: &'static str,
    message: String,
}

/// What a pod that is set up has.
struct Premises {
    stay: Stay,
    address: Ipv4Addr,
}

/// The part of an entry whose change makes it worth writing.
type Saved = (Vec<Remembered>, Option<(String, String)>, Option<Ipv4Addr>, Arc<str>);

/// What a pod has on this node before its owner task begins.
pub(crate) struct Place<'a> {
    /// What the ledger remembers of it.
    pub(crate) entry: Option<&'a Entry>,
    /// Where everything is to be run that writes below its directory and cannot be broken off half-way.
    pub(crate) disk: TaskTracker,
}

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(crate) struct Worker {
    context: Arc<Context>,
    pod: Arc<Value>,
    desired: watch::Receiver<Desired>,
    view: watch::Sender<Arc<Value>>,
    state: PodState,
    /// In its namespace's directory, from when that is known.
    stay: Option<Stay>,
    disk: TaskTracker,
    said: mpsc::Sender<(RunId, RunEvent)>,
    heard: mpsc::Receiver<(RunId, RunEvent)>,
    work: JoinSet<Done>,
    works: HashMap<Id, (Work, tokio::task::AbortHandle)>,
    set_up: (Option<Instant>, Duration),
    ending: Option<Ending>,
    evicted: Arc<OnceLock<Eviction>>,
    /// What probes say; there where anything is probed.
    verdicts: Option<(mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>)>,
    /// Ends the probing of a container's run when it is dropped.
    probing: HashMap<usize, Box<dyn Any + Send + Sync>>,
    saved: Option<Saved>,
    reported_end: bool,
    /// Others have said of the pod what only this node can know: it says it again.
    contradicted: bool,
    /// It had finished before this agent knew it: its status stays as it is.
    frozen: bool,
    /// It never ran here.
    is_new: bool,
    /// Told when the node has another address.
    moved: watch::Receiver<place::Place>,
    /// Told when the control plane is heard again.
    news: watch::Receiver<u64>,
    /// When the server is asked again whether the pod is wanted.
    ask_at: Option<Instant>,
}

impl Worker {
    /// A pod that is new here, or that the ledger remembers. `view` shows the pod with its newest status to others;
    /// `evicted` is looked at whenever `desired` is touched.
    pub(crate) fn new(
        context: Arc<Context>,
        pod: Arc<Value>,
        Place { entry, disk }: Place<'_>,
        desired: watch::Receiver<Desired>,
        view: watch::Sender<Arc<Value>>,
        evicted: Arc<OnceLock<Eviction>>,
    ) -> Self {
        let now = context.pace.now();
        let start = || pod["status"]["startTime"].as_str().map_or_else(|| clock::seconds(clock::now()), str::to_owned);
        let frozen = entry.is_none() && spec::is_finished(&pod);
        let told = if entry.is_none() && !frozen { restore::from_status(&pod) } else { None };
        let entry = entry.or(told.as_ref());
        let state = match entry {
            Some(entry) => restore::restore(&pod, entry, &clock::seconds(clock::now()), now),
            None => PodState::new(&pod, start()),
        };
        if let Some(address) = state.address.filter(|_| !state.is_finished()) {
            context.network.addresses.reserve(meta::uid(&pod), address);
        }
        let known = entry.map(|entry| &entry.namespace_uid).filter(|uid| !uid.is_empty());
        let stay = known.map(|namespace_uid| context.homes.stay(namespace_uid));
        let (said, heard) = mpsc::channel(4 * state.containers.len() + 4);
        if entry.is_none() && !frozen {
            for (reason, message) in spec::unsupported(&pod) {
                context.recorder.record(&pod, "", Severity::Warning, reason, &message);
            }
        }
        let (news, moved) = (context.contact.news(), context.place.clone());
        Self {
            context,
            pod,
            desired,
            view,
            state,
            stay,
            disk,
            said,
            heard,
            work: JoinSet::new(),
            works: HashMap::new(),
            set_up: (Some(now), SET_UP_RETRY.0),
            ending: None,
            evicted,
            verdicts: None,
            probing: HashMap::new(),
            saved: None,
            reported_end: false,
            contradicted: false,
            frozen,
            is_new: entry.is_none() && !frozen,
            moved,
            news,
            ask_at: None,
        }
    }

    /// The node does not take the pod: it fails, and nothing of it is set up.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.context.recorder.record(&self.pod, "", Severity::Warning, refusal.reason, &refusal.message);
        self.state.failed = Some((refusal.reason.to_owned(), refusal.told()));
        self.state.refused = Some(refusal);
        self.end(Ending::Failed, Duration::ZERO);
    }

    /// Owns the pod until it is gone or `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Outcome {
        self.look();
        let pace = self.context.pace;
        loop {
            let wake = self.advance().await;
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            tokio::select! {
                // A closed channel would only mean that the manager is gone, which ends with the same token.
                Ok(()) = self.desired.changed() => self.look(),
                Some((run, event)) = self.heard.recv() => self.hear(&run, event),
                Some(done) = self.work.join_next_with_id() => self.done(done),
                Ok(()) = self.news.changed() => {}
                Ok(()) = self.moved.changed() => {}
                Some(verdict) = checking::next_verdict(&mut self.verdicts) => self.judge(&verdict),
                () = sleep_until(pace, wake) => {}
                () = shutdown.cancelled(), if !matches!(self.ending, Some(Ending::Shutdown | Ending::Gone)) => {
                    self.report_shutdown();
                    self.end(Ending::Shutdown, spec::grace(&self.pod).min(self.context.shutdown_grace));
                }
            }
        }
    }

    /// Empty until it is known.
    fn namespace_uid(&self) -> String {
        self.stay.as_ref().map(|stay| stay.namespace_uid().to_owned()).unwrap_or_default()
    }

    fn outcome(&self) -> Option<Outcome> {
        // What was aborted may still be at it: it would attach the pod's address, or make files, after those were taken away.
        let makes = self.works.values().any(|(work, _)| matches!(work, Work::SetUp | Work::Prepare(_)));
        let idle = !self.state.is_busy() && !makes;
        match self.ending {
            Some(Ending::Gone) if idle => Some(Outcome::Gone),
            Some(Ending::Shutdown) if idle => Some(Outcome::Shutdown),
            _ => None,
        }
    }

    /// Reads what is desired now.
    fn look(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        let new = match desired {
            Desired::Gone => {
                if self.ending != Some(Ending::Gone) {
                    let grace = spec::grace(&self.pod);
                    // The file of a static pod goes before the pod does, and not behind its back.
                    let most = if is_static_uid(meta::uid(&self.pod)) { grace } else { GONE_GRACE_MAX };
                    self.end(Ending::Gone, grace.min(most));
                }
                return;
            }
            Desired::Present(new) => new,
        };
        let images: Vec<String> = spec::containers(&new).map(|one| spec::text(one, "image").to_owned()).collect();
        for (index, image) in images.iter().enumerate().take(self.state.containers.len()) {
            if self.state.containers[index].image != *image {
                self.replace_image(index, image);
            }
        }
        let status = self.shown_status(&new);
        self.contradicted |= nodes::is_pod_marked(&new) && !nodes::is_pod_marked(&self.pod);
        // Mostly it is what this agent wrote before: then one copy does for all.
        self.pod = if status == new["status"] { new.clone() } else { Arc::new(with_status(&new, status)) };
        // Also what does not change the status, such as a label, is for others to see.
        self.view.send_replace(self.pod.clone());
        if meta::is_terminating(&self.pod) {
            match self.ending {
                Some(Ending::Shutdown | Ending::Gone) => {}
                Some(Ending::Deleted) => self.hurry(&new),
                Some(Ending::Failed | Ending::Over) | None => self.end(Ending::Deleted, spec::grace(&self.pod)),
            }
        }
        self.evict();
    }

    /// Our own newest status, with the conditions that others wrote to the object since.
    fn shown_status(&self, new: &Value) -> Value {
        let ours = &self.pod["status"];
        let theirs = &new["status"];
        if self.frozen || ours.is_null() {
            return theirs.clone();
        }
        let mut status = ours.clone();
        if let Some(conditions) = status["conditions"].as_array_mut() {
            let is_own = |condition: &Value| OWN_CONDITIONS.iter().any(|kind| condition["type"] == *kind);
            conditions.retain(is_own);
            conditions.extend(spec::items(theirs, "conditions").iter().filter(|one| !is_own(one)).cloned());
        }
        status
    }

    fn tell(&self, index: usize, severity: Severity, reason: &'static str, message: &str) {
        let container = &self.state.containers[index];
        let path = spec::field_path(&container.name, container.is_init());
        self.context.recorder.record(&self.pod, &path, severity, reason, message);
    }

    /// Does whatever can be done now; answers when to look again.
    async fn advance(&mut self) -> Option<Instant> {
        let now = self.context.pace.now();
        let mut wakes = vec![self.absence(now), self.deadline(now), self.begin_set_up(now)];
        loop {
            let plan = self.state.plan(now);
            for notice in plan.notices {
                self.tell_notice(&notice);
            }
            for (index, act) in plan.acts {
                self.act(index, act);
            }
            for index in plan.start {
                self.prepare(index);
            }
            wakes.push(plan.wake);
            if !plan.close {
                break;
            }
            self.end(Ending::Over, spec::grace(&self.pod));
        }
        self.detach_finished();
        wakes.push(self.save(now).await);
        self.report();
        wakes.into_iter().flatten().min()
    }

    /// A pod that will not run again needs no room and no network; its status goes on showing the address that it had.
    fn detach_finished(&self) {
        if self.state.is_finished() && !self.state.is_busy() {
            self.context.room.leave(meta::uid(&self.pod));
            self.context.network.detach(meta::uid(&self.pod));
        }
    }

    /// A runner said something about one of our runs.
    fn hear(&mut self, run: &RunId, event: RunEvent) {
        let Some(index) = self.state.index_of(run) else { return };
        match event {
            RunEvent::Started => {
                let has_hook = self.state.started(index, checking::id(run), clock::seconds(clock::now()));
                let message = format!("Started container {}", self.state.containers[index].name);
                self.tell(index, Severity::Normal, "Started", &message);
                self.begun(index, run.clone(), has_hook);
            }
            RunEvent::StartFailed(message) => self.not_started(index, run, message),
            RunEvent::Exited(exit) => self.exited(index, run.clone(), exit),
            RunEvent::Lost(exit) => {
                self.tell(index, Severity::Warning, "RunnerDied", &exit.message);
                self.exited(index, run.clone(), exit);
            }
        }
    }

    fn tell_notice(&self, notice: &Notice) {
        match notice {
            Notice::PullBackOff { container: index } => {
                let image = &self.state.containers[*index].image;
                self.tell(*index, Severity::Normal, "BackOff", &format!("Back-off pulling image \"{image}\""));
                self.tell(*index, Severity::Warning, "Failed", "Error: ImagePullBackOff");
            }
            Notice::CrashBackOff { container: index } => {
                let name = &self.state.containers[*index].name;
                let pod = spec::describe(&self.pod);
                let message = format!("Back-off restarting failed container {name} in pod {pod}");
                self.tell(*index, Severity::Warning, "BackOff", &message);
            }
        }
    }

    /// Writes the ledger if something worth it changed. Before the report: what others know, we remember. Answers when
    /// to try again, on a disk that is full.
    async fn save(&mut self, now: Instant) -> Option<Instant> {
        // Before its set-up a pod has nothing that could be lost.
        if self.frozen || self.stay.is_none() || self.ending == Some(Ending::Gone) {
            return None;
        }
        let containers = restore::remember(&self.state);
        let namespace_uid = self.namespace_uid().into();
        let saved: Saved = (containers.clone(), self.state.failed.clone(), self.state.address, namespace_uid);
        if self.saved.as_ref() == Some(&saved) {
            return None;
        }
        // What ended because this agent ends counts as interrupted when it comes back, not as over.
        if self.ending != Some(Ending::Shutdown) {
            let entry = Entry {
                pod: self.pod.clone(),
                namespace_uid: self.namespace_uid(),
                start_time: self.state.start_time.clone(),
                failed: self.state.failed.clone(),
                address: self.state.address,
                containers,
            };
            if let Err(error) = self.context.ledger.save(entry).await {
                warn!(pod = meta::name(&self.pod), %error, "cannot write the ledger");
                return Some(now + SAVE_RETRY);
            }
        }
        self.saved = Some(saved);
        None
    }

    fn report(&mut self) {
        if matches!(self.ending, Some(Ending::Gone | Ending::Shutdown)) {
            return;
        }
        let previous = &self.pod["status"];
        let status = if self.frozen {
            previous.clone()
        } else {
            status::derive(&self.pod, &self.state, &self.context.host_ip(), previous, clock::now())
        };
        let then_delete = self.ending == Some(Ending::Deleted) && !self.state.is_busy();
        if status == *previous && then_delete == self.reported_end && !self.contradicted {
            return;
        }
        self.contradicted = false;
        self.reported_end = then_delete;
        self.pod = Arc::new(with_status(&self.pod, status.clone()));
        self.view.send_replace(self.pod.clone());
        self.context.reports.submit(Report { pod: self.pod.clone(), status, then_delete });
    }

    /// This agent ends, and the pod will be back with it: nothing is said of how its containers end, only that it serves
    /// nobody meanwhile.
    fn report_shutdown(&mut self) {
        if self.frozen || self.ending.is_some() {
            return;
        }
        let Some(status) = status::withdrawn(&self.pod["status"], clock::now()) else { return };
        self.pod = Arc::new(with_status(&self.pod, status.clone()));
        self.view.send_replace(self.pod.clone());
        self.context.reports.submit(Report { pod: self.pod.clone(), status, then_delete: false });
    }
}

/// A copy of the pod with this status instead of its own.
fn with_status(pod: &Value, status: Value) -> Value {
    let mut pod = pod.clone();
    pod["status"] = status;
    pod
}

async fn sleep_until(pace: Pace, at: Option<Instant>) {
    match at {
        Some(at) => pace.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
