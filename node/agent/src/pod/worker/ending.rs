//! How a pod's runs come to an end: which of them, within which grace, and what is done at each step of it. When a step
//! is due is decided by the state machine.

use super::{Done, Ending, Work, Worker};
use crate::{
    clock,
    events::Severity,
    guests::{KILLED, RunEvent},
    pod::{
        hooks::Hook,
        spec,
        state::{Kind, Replacement, stopping::Act},
    },
};
use coracle_objects::meta;
use coracle_runner::protocol::{Exit, ExitCause, RunId};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Why a pod has to leave its node although it did nothing wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// The pod's reason from then on.
    pub(crate) reason: &'static str,
    /// For people: what ran short.
    pub(crate) message: String,
    /// How long its containers get.
    pub(crate) grace: Duration,
}

impl Worker {
    /// Does what a changed image in the spec asks for.
    pub(super) fn replace_image(&mut self, index: usize, image: &str) {
        match self.state.image_changed(index, image) {
            Replacement::None => {}
            Replacement::Attempt => {
                self.give_up(Work::Prepare(index));
                self.state.attempt_dropped(index);
            }
            Replacement::Run => {
                let message = format!("{} definition changed, will be restarted", self.title(index));
                self.stop(index, spec::grace(&self.pod), &message);
            }
            Replacement::Pod => {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.context.recorder.record(&self.pod, "", Severity::Normal, "SandboxChanged", message);
                self.stop_all(spec::grace(&self.pod));
            }
        }
    }

    /// A container as kubelet's events call it.
    pub(super) fn title(&self, index: usize) -> String {
        let container = &self.state.containers[index];
        let kind = if container.kind == Kind::Sidecar { "Init container" } else { "Container" };
        format!("{kind} {}", container.name)
    }

    /// Starts nothing any more and asks everything to end within `grace`.
    pub(super) fn end(&mut self, ending: Ending, grace: Duration) {
        debug!(pod = meta::name(&self.pod), ?ending, ?grace, "ending a pod");
        self.ending = Some(ending);
        self.state.stopping = true;
        self.stop_all(grace);
    }

    /// Every run is to end within `grace`, and what would lead to another is given up.
    pub(super) fn stop_all(&mut self, grace: Duration) {
        for (work, handle) in self.works.values() {
            // What is being launched ends like any other run, and a message is soon read.
            if matches!(work, Work::SetUp | Work::Prepare(_)) {
                handle.abort();
            }
        }
        for index in 0..self.state.containers.len() {
            let message = format!("Stopping container {}", self.state.containers[index].name);
            self.stop(index, grace, &message);
        }
    }

    /// Begins to end the run of a container, if it has one, or shortens the grace of one that ends already.
    pub(super) fn stop(&mut self, index: usize, grace: Duration, message: &str) {
        if self.state.stop(index, self.context.pace.now(), grace) {
            self.tell(index, Severity::Normal, "Killing", message);
            self.give_up(Work::PostStart(index));
        }
    }

    /// The next step of a run that is on its way to its end.
    pub(super) fn act(&mut self, index: usize, act: Act) {
        let Some(run) = self.state.containers[index].run.clone() else { return };
        match act {
            Act::PreStop(limit) => self.pre_stop(index, run, limit),
            Act::Ask => {
                self.give_up(Work::PreStop(index));
                self.ask(run);
            }
            Act::Kill => self.kill(run),
            Act::GiveUp => {
                warn!(pod = meta::name(&self.pod), "the runner does not report the end of killed containers");
                let exit = Exit { code: KILLED, cause: ExitCause::Killed, message: String::new() };
                self.hear(&run, RunEvent::Exited(exit));
            }
        }
    }

    pub(super) fn ask(&self, run: RunId) {
        let (context, namespace_uid) = (self.context.clone(), self.namespace_uid());
        tokio::spawn(async move { context.guests.stop(&namespace_uid, &run).await });
    }

    pub(super) fn kill(&self, run: RunId) {
        let (context, namespace_uid) = (self.context.clone(), self.namespace_uid());
        tokio::spawn(async move { context.guests.kill(&namespace_uid, &run).await });
    }

    fn pre_stop(&mut self, index: usize, run: RunId, limit: Duration) {
        let hook = self.run_hook(index, run.clone(), Hook::PreStop, limit);
        self.spawn(Work::PreStop(index), async move { Done::PreStopped(index, run, hook.await) });
    }

    /// `spec.activeDeadlineSeconds`.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let seconds = self.pod["spec"]["activeDeadlineSeconds"].as_u64()?;
        if self.frozen || self.ending.is_some() || self.state.is_finished() {
            return None;
        }
        let active = clock::now() - clock::parse(&self.state.start_time)?;
        let left = Duration::from_secs(seconds).saturating_sub(active.try_into().unwrap_or_default());
        if !left.is_zero() {
            return Some(now + left);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.context.recorder.record(&self.pod, "", Severity::Normal, "DeadlineExceeded", &message);
        self.state.failed = Some(("DeadlineExceeded".to_owned(), message));
        self.end(Ending::Failed, spec::grace(&self.pod));
        None
    }

    /// Ends the pod if it was evicted; once, and only one that has not ended otherwise.
    pub(super) fn evict(&mut self) {
        let Some(Eviction { reason, message, grace }) = self.evicted.get().cloned() else { return };
        if self.frozen || self.state.failed.is_some() || self.state.is_finished() && !self.state.is_busy() {
            return;
        }
        self.context.recorder.record(&self.pod, "", Severity::Warning, reason, &message);
        self.state.failed = Some((reason.to_owned(), message));
        let ending = match self.ending {
            Some(ending @ (Ending::Deleted | Ending::Gone | Ending::Shutdown)) => ending,
            Some(Ending::Failed | Ending::Over) | None => Ending::Failed,
        };
        self.end(ending, grace);
    }

    /// The object's grace may be shortened while the pod is being deleted.
    pub(super) fn hurry(&mut self, pod: &Value) {
        let (now, grace) = (self.context.pace.now(), spec::grace(pod));
        for index in 0..self.state.containers.len() {
            self.state.stop(index, now, grace);
        }
    }
}
