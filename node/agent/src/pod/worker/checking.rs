//! What hooks and probes mean for a pod's containers, and what a run leaves to be read when it has ended.

use super::{Done, Work, Worker};
use crate::{
    clock,
    events::Severity,
    pod::{
        hooks::{Hook, HookFailure},
        message::{self, Source},
        probes::{Kind, Verdict},
        spec,
        state::Failure,
        subject::Subject,
    },
};
use coracle_runner::protocol::{Exit, RunId};
use std::{net::Ipv4Addr, time::Duration};
use tokio::sync::mpsc;

/// kubelet gives a `postStart` hook all the time that it takes; a container that has not started after this never will.
const POST_START_MAX: Duration = Duration::from_hours(24);
/// Verdicts that wait to be read, per pod.
const VERDICTS_MAX: usize = 16;

/// The next verdict; never, where nothing is probed.
pub(super) async fn next_verdict(
    verdicts: &mut Option<(mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>)>,
) -> Option<Verdict> {
    match verdicts {
        Some((_, receiver)) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

impl Worker {
    fn subject(&self, index: usize, run: RunId) -> Subject {
        Subject {
            pod: spec::with_address(&self.pod, self.state.address),
            namespace_uid: self.namespace_uid(),
            index,
            run,
            address: self.state.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        }
    }

    pub(super) fn run_hook(
        &self,
        index: usize,
        run: RunId,
        hook: Hook,
        limit: Duration,
    ) -> impl Future<Output = Result<(), HookFailure>> + Send + 'static {
        let (context, subject) = (self.context.clone(), self.subject(index, run));
        async move { context.checks.hook(&context, &subject, hook, limit).await }
    }

    /// The run has begun: its hook, or else its probes at once.
    pub(super) fn begun(&mut self, index: usize, run: RunId, has_hook: bool) {
        if self.state.containers[index].stopping.is_some() {
            return;
        }
        if !has_hook {
            return self.probe(index, run);
        }
        let hook = self.run_hook(index, run.clone(), Hook::PostStart, POST_START_MAX);
        self.spawn(Work::PostStart(index), async move { Done::PostStarted(index, run, hook.await) });
    }

    pub(super) fn post_started(&mut self, index: usize, run: RunId, result: Result<(), HookFailure>) {
        if self.state.index_of(&run) != Some(index) {
            return;
        }
        match result {
            Ok(()) => {
                self.state.hooked(index);
                self.probe(index, run);
            }
            Err(failure) => {
                // What the hook said may hold secrets; it is shown in the container's status, where the hook is too.
                self.tell(index, Severity::Warning, "FailedPostStartHook", "PostStartHook failed");
                self.state.hook_failed(index, failure.message);
                self.stop(index, spec::grace(&self.pod), "FailedPostStartHook");
            }
        }
    }

    pub(super) fn pre_stopped(&mut self, index: usize, run: &RunId, result: &Result<(), HookFailure>) {
        if self.state.index_of(run) != Some(index) {
            return;
        }
        if result.is_err() {
            self.tell(index, Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
        if let Some(stopping) = &mut self.state.containers[index].stopping {
            stopping.hook_done();
        }
    }

    fn probe(&mut self, index: usize, run: RunId) {
        let Some(container) = spec::containers(&self.pod).nth(index) else { return };
        let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
        if !probes.iter().any(|probe| container[*probe].is_object()) {
            return;
        }
        let (said, _) = self.verdicts.get_or_insert_with(|| mpsc::channel(VERDICTS_MAX));
        let said = said.clone();
        let subject = self.subject(index, run);
        let probing = self.context.checks.probe(&self.context, subject, said);
        self.probing.insert(index, probing);
    }

    /// A probe said something about one of our runs.
    pub(super) fn judge(&mut self, verdict: &Verdict) {
        let Some(index) = self.state.index_of(&verdict.run).filter(|index| *index == verdict.index) else { return };
        let kind = match (verdict.kind, verdict.healthy) {
            (Kind::Readiness, ready) => return self.state.readiness(index, ready),
            (Kind::Startup, true) => return self.state.startup_passed(index),
            (Kind::Liveness, true) => return,
            (Kind::Startup, false) => "startup",
            (Kind::Liveness, false) => "liveness",
        };
        if self.state.containers[index].stopping.is_some() {
            return;
        }
        let again = if self.state.probe_failed(index) { ", will be restarted" } else { "" };
        let message = format!("{} failed {kind} probe{again}", self.title(index));
        let of_pod = spec::grace(&self.pod);
        let is_deleted = self.pod["metadata"]["deletionGracePeriodSeconds"].is_u64();
        let grace = verdict.grace.filter(|_| !is_deleted).unwrap_or(of_pod);
        self.stop(index, grace, &message);
    }

    /// A run is over: nothing looks after it any more, and what it left to be read is read.
    pub(super) fn exited(&mut self, index: usize, run: RunId, mut exit: Exit) {
        self.probing.remove(&index);
        self.give_up(Work::PostStart(index));
        self.give_up(Work::PreStop(index));
        let Some(container) = spec::containers(&self.pod).nth(index) else { return };
        let own = &self.state.containers[index];
        let source = Source {
            context: self.context.clone(),
            pod: self.pod.clone(),
            namespace_uid: self.namespace_uid(),
            container: container.clone(),
            run: run.clone(),
            number: own.restarts,
            failed: exit.code != 0,
            bytes_max: message::share(self.state.containers.len()),
        };
        self.spawn(Work::Message(index), async move {
            exit.message = source.read(std::mem::take(&mut exit.message)).await;
            Done::Read(index, run, exit)
        });
    }

    /// The run has ended, and its message is there.
    pub(super) fn ended(&mut self, index: usize, run: &RunId, exit: &Exit) {
        if self.state.index_of(run) == Some(index) {
            self.state.exited(index, exit, clock::seconds(clock::now()), self.context.pace.now());
        }
    }

    /// The runner could not start the run.
    pub(super) fn not_started(&mut self, index: usize, run: &RunId, message: String) {
        let failure = Failure::RunContainerError(message);
        self.tell(index, Severity::Warning, "Failed", &format!("Error: {}", failure.message()));
        let (now, at) = (self.context.pace.now(), clock::seconds(clock::now()));
        self.state.start_failed(index, id(run), failure.message().to_owned(), &at, now);
    }
}

/// `status.containerStatuses[].containerID`.
pub(super) fn id(run: &RunId) -> String {
    format!("coracle://{}", run.0)
}
