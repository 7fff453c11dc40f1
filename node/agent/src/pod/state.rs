//! A pod's state machine, pure: what happened so far, and what has to happen next.
//!
//! ```text
//!  pod:   volumes, network ──▶ init containers in order ──▶ app containers, together ──▶ sidecars end ──▶ finished
//!            │           ▲      │ fails, policy Never ────────────────────────────────▲
//!            │           └──────┼── an init image changed: all runs are stopped, then it begins anew
//!            └──────────────────┴── deletion, eviction or shutdown at any point: all runs are stopped
//!
//!  container:  Waiting ──attempt──▶ Running ──exit──▶ Ended ──(policy: no)──▶ stays
//!                ▲ ▲ │ fails: ErrImagePull ↔ ImagePullBackOff,   │
//!                │ └─┘ CreateContainer(Config)Error (each with its back-off)
//!                └──────────── CrashLoopBackOff ◀──(policy: yes, back-off)
//! ```
//!
//! - *Waiting*: nothing runs; `retry_at` says when the next attempt may begin (absent: as soon as its turn comes).
//! - *an attempt* pulls, compiles, resolves the environment and starts; the stage shown meanwhile is the old one.
//! - *Running*: a runner said that the first instruction is about to run. It is *started* when its `postStart` hook has
//!   run and its startup probe has succeeded, and *ready* when its readiness probe succeeds as well.
//! - *Ended*: the last run is over. Whether there is another is decided by the restart policy, but for what probes and
//!   changed images ended.
//! - A run on its way to its end is in [`stopping`], whatever its stage.

pub(crate) mod container;
pub(crate) mod stopping;

pub(crate) use container::{Container, Ended, Failure, Kind, Stage};

use crate::{
    pod::{
        admission::Refusal,
        spec::{self, RestartPolicy},
    },
    retry::{Backoff, go_duration},
};
use container::Checked;
use coracle_runner::protocol::{Exit, ExitCause, RunId};
use serde_json::Value;
use std::{net::Ipv4Addr, time::Duration};
use stopping::{Act, Stopping};
use tokio::time::Instant;

/// How long a failed pull shows as `ErrImagePull` before it shows as `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// How long an ended container shows its end before it shows as `CrashLoopBackOff`.
const END_SHOWN: Duration = Duration::from_secs(1);
/// How soon a container whose config maps or secrets are missing looks again.
const CONFIG_RETRY: Duration = Duration::from_secs(5);

/// Exit code of what could not even be started.
const START_ERROR: i32 = 128;

/// Something that people should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// `Back-off pulling image …`.
    PullBackOff { container: usize },
    /// `Back-off restarting failed container …`.
    CrashBackOff { container: usize },
}

/// What has to happen next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Containers to begin an attempt for.
    pub(crate) start: Vec<usize>,
    /// What to do about runs that are on their way to their end.
    pub(crate) acts: Vec<(usize, Act)>,
    /// Nothing will run again by the restart policy, but sidecars still do: they are to be stopped.
    pub(crate) close: bool,
    pub(crate) notices: Vec<Notice>,
    /// When to look again if nothing happens before.
    pub(crate) wake: Option<Instant>,
}

impl Plan {
    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// What a changed image asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// Nothing: the next attempt uses it.
    None,
    /// The attempt under way is to be given up.
    Attempt,
    /// The container's run is to be stopped.
    Run,
    /// Every run is to be stopped: the pod begins anew.
    Pod,
}

/// The whole pod.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is decided by itself, by events that know nothing of each other"
)]
pub(crate) struct PodState {
    /// Init containers, then app containers.
    pub(crate) containers: Vec<Container>,
    pub(crate) restart_policy: RestartPolicy,
    /// When the agent took the pod on.
    pub(crate) start_time: String,
    /// Volumes and network are there: containers may start.
    pub(crate) prepared: bool,
    /// What its containers share; shown until the pod is gone, also when it has been given back.
    pub(crate) address: Option<Ipv4Addr>,
    /// Nothing is started any more.
    pub(crate) stopping: bool,
    /// Nothing is started until every run has ended; then the pod begins anew.
    pub(crate) renewing: bool,
    /// Nothing is started until the server says that the pod is still this node's.
    pub(crate) away: bool,
    /// The pod as a whole failed: reason and message.
    pub(crate) failed: Option<(String, String)>,
    /// Why the node did not take it on: it failed, and there is nothing of it here.
    pub(crate) refused: Option<Refusal>,
    describe: String,
}

impl PodState {
    /// A pod of which nothing has run yet.
    pub(crate) fn new(pod: &Value, start_time: String) -> Self {
        let init = spec::init_containers(pod).iter().map(|container| (container, true));
        let app = spec::app_containers(pod).iter().map(|container| (container, false));
        let containers = init.chain(app).map(|(container, init)| Container::new(container, init));
        Self {
            containers: containers.collect(),
            restart_policy: spec::restart_policy(pod),
            start_time,
            prepared: false,
            address: None,
            stopping: false,
            renewing: false,
            away: false,
            failed: None,
            refused: None,
            describe: spec::describe(pod),
        }
    }

    /// What to do at `now`. Also moves containers on whose shown state has run out.
    pub(crate) fn plan(&mut self, now: Instant) -> Plan {
        let mut plan = Plan::default();
        self.plan_stops(now, &mut plan);
        if self.renewing && !self.stopping && !self.away && !self.is_busy() {
            self.begin_anew();
        }
        if self.starts_nothing() || !self.prepared {
            return plan;
        }
        if self.is_finished() {
            plan.close = self.is_busy();
            return plan;
        }
        for index in self.turn() {
            self.plan_container(index, now, &mut plan);
        }
        plan
    }

    /// Whether no attempt may begin, and none that is under way may go on.
    pub(crate) fn starts_nothing(&self) -> bool {
        self.stopping || self.renewing || self.away || self.failed.is_some()
    }

    fn plan_stops(&mut self, now: Instant, plan: &mut Plan) {
        for index in 0..self.containers.len() {
            let turn = self.may_end(index);
            let Some(stopping) = &mut self.containers[index].stopping else { continue };
            let (act, wake) = stopping.advance(now, turn);
            plan.acts.extend(act.map(|act| (index, act)));
            plan.wake_at(wake);
        }
    }

    /// When a pod ends as a whole, its sidecars serve all others to their end, and then end in reverse order.
    fn may_end(&self, index: usize) -> bool {
        let whole = self.stopping || self.renewing || self.away;
        let before = |other: usize| self.containers[other].is_busy() && other > index;
        !whole || self.containers[index].kind != Kind::Sidecar || !(0..self.containers.len()).any(before)
    }

    /// The containers whose turn it is: the first init container that has not passed and the sidecars before it, or
    /// else all sidecars and app containers.
    fn turn(&self) -> Vec<usize> {
        let frontier = self.containers.iter().position(|container| container.is_init() && !container.passed);
        let lives = |index: &usize| self.containers[*index].kind != Kind::Init;
        match frontier {
            Some(index) => (0..index).filter(lives).chain([index]).collect(),
            None => (0..self.containers.len()).filter(lives).collect(),
        }
    }

    /// Whether all init containers have let the app containers begin.
    pub(crate) fn is_initialized(&self) -> bool {
        self.containers.iter().all(|container| !container.is_init() || container.passed)
    }

    /// Everything has ended, to begin with the init containers again. What had ended for good stays ended.
    pub(crate) fn begin_anew(&mut self) {
        self.renewing = false;
        let policy = self.restart_policy;
        for container in self.containers.iter_mut().filter(|one| one.is_init() || !one.is_over(policy)) {
            container.begin_anew();
        }
    }

    /// The pod may run elsewhere: its runs are about to be stopped, which is no end of theirs, and nothing is started.
    pub(crate) fn leave(&mut self) {
        self.away = true;
        // A pod that has not begun anything loses nothing.
        self.renewing |= self.is_busy() || self.has_run();
        for container in self.containers.iter_mut().filter(|container| container.is_busy()) {
            container.replaced = true;
        }
    }

    /// It is this node's after all.
    pub(crate) fn come_back(&mut self) {
        self.away = false;
    }

    fn plan_container(&mut self, index: usize, now: Instant, plan: &mut Plan) {
        let policy = self.restart_policy;
        let container = &mut self.containers[index];
        if container.is_busy() {
            return;
        }
        match &mut container.stage {
            Stage::Running { .. } => {}
            Stage::Waiting { reason, message, retry_at, back_off_shown_at } => {
                if let Some(at) = *back_off_shown_at {
                    if at > now {
                        plan.wake_at(at);
                    } else {
                        *back_off_shown_at = None;
                        let failure = reason.replace("ImagePullBackOff").unwrap_or_default();
                        *message = format!("Back-off pulling image \"{}\": {failure}: {message}", container.image);
                        plan.notices.push(Notice::PullBackOff { container: index });
                    }
                }
                match *retry_at {
                    Some(at) if at > now => plan.wake_at(at),
                    _ => plan.start.push(index),
                }
            }
            Stage::Ended { end, at } => {
                let (end, at) = (end.clone(), *at);
                if !container.restarts_after(&end, policy) {
                    return;
                }
                let until = container.crash.until(at).filter(|until| *until > now && !container.replaced);
                let Some(until) = until else {
                    container.crash.next(now);
                    plan.start.push(index);
                    return;
                };
                if at + END_SHOWN > now {
                    return plan.wake_at((at + END_SHOWN).min(until));
                }
                let message = format!(
                    "back-off {} restarting failed container={} pod={}",
                    go_duration(container.crash.current()),
                    container.name,
                    self.describe,
                );
                container.crash.next(until);
                container.last = Some(end);
                (container.failed_probe, container.mishap) = (false, None);
                container.stage = Stage::Waiting {
                    reason: Some("CrashLoopBackOff"),
                    message,
                    retry_at: Some(until),
                    back_off_shown_at: None,
                };
                plan.notices.push(Notice::CrashBackOff { container: index });
                plan.wake_at(until);
            }
        }
    }

    /// An attempt begins.
    pub(crate) fn attempt(&mut self, index: usize) {
        let container = &mut self.containers[index];
        container.attempting = true;
        // An end that was not shown as one must not be seen now.
        if container.replaced || container.failed_probe || container.mishap.is_some() {
            let passed = container.passed;
            container.begin_anew();
            container.passed = passed;
        }
    }

    /// The attempt got as far as handing a run to a runner.
    pub(crate) fn launching(&mut self, index: usize, run: RunId, image_id: String) {
        let container = &mut self.containers[index];
        container.run = Some(run);
        container.image_id = image_id;
    }

    /// The spec names another image by now. A container that waits need not wait any more; a running one runs again
    /// with it. An ordinary init container that has run already has the whole pod begin anew.
    pub(crate) fn image_changed(&mut self, index: usize, image: &str) -> Replacement {
        let settled = self.starts_nothing() || self.is_finished();
        let container = &mut self.containers[index];
        image.clone_into(&mut container.image);
        (container.attempts, container.crash) = (Backoff::default(), Backoff::default());
        if settled {
            return Replacement::None;
        }
        if container.kind == Kind::Init && (container.passed || container.run.is_some()) {
            self.renewing = true;
            for container in self.containers.iter_mut().filter(|container| container.is_busy()) {
                container.replaced = true;
            }
            return Replacement::Pod;
        }
        match &mut container.stage {
            _ if container.run.is_some() => {
                container.replaced = true;
                return Replacement::Run;
            }
            _ if container.attempting => return Replacement::Attempt,
            Stage::Waiting { retry_at, .. } => *retry_at = None,
            Stage::Running { .. } | Stage::Ended { .. } => {}
        }
        Replacement::None
    }

    /// Begins to end the run of a container, or shortens the grace of one that ends already. Whether it was begun.
    pub(crate) fn stop(&mut self, index: usize, now: Instant, grace: Duration) -> bool {
        let container = &mut self.containers[index];
        if let Some(stopping) = &mut container.stopping {
            stopping.shorten(now, grace);
            return false;
        }
        if container.run.is_none() {
            return false;
        }
        let has_hook = container.has_pre_stop && container.is_running();
        container.stopping = Some(Stopping::new(has_hook, now, grace));
        true
    }

    /// The run has begun. Whether its `postStart` hook is to be run now.
    pub(crate) fn started(&mut self, index: usize, id: String, at: String) -> bool {
        let container = &mut self.containers[index];
        container.restarts = container.next_run();
        container.id = id;
        container.attempting = false;
        container.checked = container.unchecked;
        container.attempts = Backoff::default();
        let old = std::mem::replace(&mut container.stage, Stage::Running { started_at: at });
        if let Stage::Ended { end, .. } = old {
            container.last = Some(end);
        }
        self.settle(index);
        !self.containers[index].checked.hooked
    }

    /// Its `postStart` hook has run.
    pub(crate) fn hooked(&mut self, index: usize) {
        self.containers[index].checked.hooked = true;
        self.settle(index);
    }

    /// Its startup probe has succeeded.
    pub(crate) fn startup_passed(&mut self, index: usize) {
        self.containers[index].checked.startup = true;
        self.settle(index);
    }

    /// What its readiness probe says now.
    pub(crate) fn readiness(&mut self, index: usize, ready: bool) {
        self.containers[index].checked.ready = ready;
    }

    /// Once started, a sidecar lets the next one begin, whatever becomes of it afterwards.
    fn settle(&mut self, index: usize) {
        let container = &mut self.containers[index];
        container.passed |= container.kind == Kind::Sidecar && container.is_started();
    }

    /// A probe wants its run to end: whether the container runs again after that.
    pub(crate) fn probe_failed(&mut self, index: usize) -> bool {
        let (policy, container) = (self.restart_policy, &mut self.containers[index]);
        container.failed_probe = true;
        container.kind == Kind::Sidecar || policy != RestartPolicy::Never
    }

    /// Its `postStart` hook failed: what is shown when the run has ended for it.
    pub(crate) fn hook_failed(&mut self, index: usize, message: String) {
        self.containers[index].mishap = Some(("PostStartHookError", message));
    }

    /// The runner could not start the run: it counts as one that ended at once.
    pub(crate) fn start_failed(&mut self, index: usize, id: String, message: String, at: &str, now: Instant) {
        let passed = self.containers[index].passed;
        self.started(index, id, at.to_owned());
        self.containers[index].passed = passed;
        self.containers[index].mishap = Some(("RunContainerError", message.clone()));
        self.ended(index, (START_ERROR, "StartError"), message, at.to_owned(), now);
    }

    /// The attempt ended without a running container.
    pub(crate) fn attempt_failed(&mut self, index: usize, failure: &Failure, now: Instant) {
        let container = &mut self.containers[index];
        container.attempting = false;
        container.run = None;
        container.stopping = None;
        let delay = match failure {
            Failure::CreateContainerConfigError(_) => CONFIG_RETRY,
            _ => container.attempts.next(now),
        };
        let pulls = matches!(failure, Failure::ErrImagePull(_) | Failure::RegistryUnavailable(_));
        let stage = Stage::Waiting {
            reason: Some(failure.reason()),
            message: failure.message().to_owned(),
            retry_at: Some(now + delay),
            back_off_shown_at: pulls.then(|| now + PULL_ERROR_SHOWN),
        };
        let old = std::mem::replace(&mut container.stage, stage);
        if let Stage::Ended { end, .. } = old {
            container.last = Some(end);
        }
    }

    /// An attempt was given up because the pod stops.
    pub(crate) fn attempt_dropped(&mut self, index: usize) {
        self.containers[index].attempting = false;
    }

    /// The run has ended.
    pub(crate) fn exited(&mut self, index: usize, exit: &Exit, finished_at: String, now: Instant) {
        let reason = match exit.cause {
            ExitCause::OutOfMemory => "OOMKilled",
            ExitCause::Exited if exit.code == 0 => "Completed",
            ExitCause::Exited | ExitCause::Trapped | ExitCause::Killed => "Error",
        };
        self.ended(index, (exit.code, reason), exit.message.clone(), finished_at, now);
    }

    fn ended(&mut self, index: usize, how: (i32, &str), message: String, finished_at: String, now: Instant) {
        let container = &mut self.containers[index];
        let started_at = match &container.stage {
            Stage::Running { started_at } => started_at.clone(),
            _ => finished_at.clone(),
        };
        let end = Ended {
            exit_code: how.0,
            reason: how.1.to_owned(),
            message,
            started_at,
            finished_at,
            container_id: container.id.clone(),
        };
        container.run = None;
        container.attempting = false;
        container.stopping = None;
        container.checked = Checked::default();
        container.passed |= container.kind == Kind::Init && end.exit_code == 0 && !container.replaced;
        container.stage = Stage::Ended { end, at: now };
    }

    /// Which container a run belongs to.
    pub(crate) fn index_of(&self, run: &RunId) -> Option<usize> {
        self.containers.iter().position(|container| container.run.as_ref() == Some(run))
    }

    /// Whether anything runs or is about to.
    pub(crate) fn is_busy(&self) -> bool {
        self.containers.iter().any(Container::is_busy)
    }

    /// Whether an app container has ever run.
    pub(crate) fn has_run(&self) -> bool {
        self.containers.iter().any(|container| !container.is_init() && !container.id.is_empty())
    }

    /// Whether the end of a container is not to be shown as one, since it is about to run again for another reason than
    /// its restart policy.
    pub(crate) fn hides_end(&self, container: &Container) -> bool {
        let special = container.replaced || container.failed_probe || container.mishap.is_some();
        special && !self.stopping && self.failed.is_none() && container.runs_again(self.restart_policy)
    }

    /// Whether nothing will ever run again by the restart policy; sidecars may still run.
    pub(crate) fn is_finished(&self) -> bool {
        if self.failed.is_some() {
            return !self.is_busy();
        }
        let policy = self.restart_policy;
        let failed = |container: &Container| {
            let code = |end: &Ended| end.exit_code != 0;
            container.kind == Kind::Init
                && !container.replaced
                && matches!(&container.stage, Stage::Ended { end, .. } if code(end))
        };
        policy == RestartPolicy::Never && self.containers.iter().any(failed)
            || self.containers.iter().filter(|one| !one.is_init()).all(|one| one.is_over(policy))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
