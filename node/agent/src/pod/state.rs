//! A pod's state machine, pure: what happened so far, and what has to happen next.
//!
//! ```text
//!  pod:        volumes, network ──▶ init containers, one by one ──▶ app containers, together ──▶ finished
//!                 │                │ fails, policy Never ──────────────────────────────────▲
//!                 └──────┬─────────┴── deletion or shutdown at any point: every run is stopped
//!
//!  container:  Waiting ──attempt──▶ Running ──exit──▶ Ended ──(policy: no)──▶ stays
//!                ▲ ▲ │ fails: ErrImagePull ↔ ImagePullBackOff,   │
//!                │ └─┘ CreateContainer(Config)Error, RunContainerError (each with its back-off)
//!                └──────────── CrashLoopBackOff ◀──(policy: yes, back-off)
//! ```
//!
//! - *Waiting*: nothing runs; `retry_at` says when the next attempt may begin (absent: as soon as its turn comes).
//! - *an attempt* pulls, compiles, resolves the environment and starts; the stage shown meanwhile is the old one.
//! - *Running*: a runner said that the first instruction is about to run.
//! - *Ended*: the last run is over. Whether there is another is the restart policy's decision alone.

use crate::{
    pod::spec::{self, RestartPolicy},
    retry::{Backoff, go_duration},
};
use coracle_runner::protocol::{Exit, ExitCause, RunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{net::Ipv4Addr, time::Duration};
use tokio::time::Instant;

/// How long a failed pull shows as `ErrImagePull` before it shows as `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// How long an ended container shows its end before it shows as `CrashLoopBackOff`.
const END_SHOWN: Duration = Duration::from_secs(1);
/// How soon a container whose config maps or secrets are missing looks again.
const CONFIG_RETRY: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    /// `Completed`, `Error` or `OOMKilled`.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) container_id: String,
}

/// Where a container stands; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting {
        /// `None`: the pod's ordinary reason (`ContainerCreating`, `PodInitializing`).
        reason: Option<&'static str>,
        message: String,
        retry_at: Option<Instant>,
        /// When `ErrImagePull` turns into `ImagePullBackOff`.
        back_off_shown_at: Option<Instant>,
    },
    Running {
        started_at: String,
    },
    Ended {
        end: Ended,
        at: Instant,
    },
}

impl Stage {
    /// Waiting for its turn and nothing else.
    pub(crate) fn ordinary() -> Self {
        Self::Waiting { reason: None, message: String::new(), retry_at: None, back_off_shown_at: None }
    }
}

/// Why an attempt did not lead to a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    InvalidImageName(String),
    ErrImageNeverPull(String),
    ErrImagePull(String),
    RegistryUnavailable(String),
    CreateContainerConfigError(String),
    CreateContainerError(String),
    RunContainerError(String),
}

impl Failure {
    /// The waiting reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::InvalidImageName(_) => "InvalidImageName",
            Self::ErrImageNeverPull(_) => "ErrImageNeverPull",
            Self::ErrImagePull(_) => "ErrImagePull",
            Self::RegistryUnavailable(_) => "RegistryUnavailable",
            Self::CreateContainerConfigError(_) => "CreateContainerConfigError",
            Self::CreateContainerError(_) => "CreateContainerError",
            Self::RunContainerError(_) => "RunContainerError",
        }
    }

    /// For people.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::InvalidImageName(message)
            | Self::ErrImageNeverPull(message)
            | Self::ErrImagePull(message)
            | Self::RegistryUnavailable(message)
            | Self::CreateContainerConfigError(message)
            | Self::CreateContainerError(message)
            | Self::RunContainerError(message) => message,
        }
    }
}

/// One container of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) init: bool,
    /// As the spec names it.
    pub(crate) image: String,
    pub(crate) stage: Stage,
    /// An attempt to start it is under way.
    pub(crate) attempting: bool,
    /// The run that was handed to a runner and has not ended.
    pub(crate) run: Option<RunId>,
    /// `coracle://…` of the newest run; empty before the first.
    pub(crate) id: String,
    pub(crate) image_id: String,
    pub(crate) restarts: u32,
    /// The end before the one that `stage` shows.
    pub(crate) last: Option<Ended>,
    /// Its image was changed in the spec: run it again whatever the restart policy says.
    pub(crate) replaced: bool,
    crash: Backoff,
    attempts: Backoff,
}

impl Container {
    fn new(spec: &Value, init: bool) -> Self {
        Self {
            name: spec::text(spec, "name").to_owned(),
            init,
            image: spec::text(spec, "image").to_owned(),
            stage: Stage::ordinary(),
            attempting: false,
            run: None,
            id: String::new(),
            image_id: String::new(),
            restarts: 0,
            last: None,
            replaced: false,
            crash: Backoff::default(),
            attempts: Backoff::default(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Number of the run that an attempt begun now leads to.
    pub(crate) fn next_run(&self) -> u32 {
        if self.id.is_empty() { 0 } else { self.restarts + 1 }
    }

    fn restarts_after(&self, end: &Ended, policy: RestartPolicy) -> bool {
        match policy {
            _ if self.replaced => true,
            _ if self.init && end.exit_code == 0 => false,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => end.exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

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
    pub(crate) notices: Vec<Notice>,
    /// When to look again if nothing happens before.
    pub(crate) wake: Option<Instant>,
}

impl Plan {
    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// The whole pod.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The pod as a whole failed: reason and message.
    pub(crate) failed: Option<(String, String)>,
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
            failed: None,
            describe: spec::describe(pod),
        }
    }

    /// What to do at `now`. Also moves containers on whose shown state has run out.
    pub(crate) fn plan(&mut self, now: Instant) -> Plan {
        let mut plan = Plan::default();
        if self.stopping || self.failed.is_some() || !self.prepared {
            return plan;
        }
        for index in self.turn() {
            self.plan_container(index, now, &mut plan);
        }
        plan
    }

    /// The containers whose turn it is: the first init container that has not succeeded, or else all app containers.
    fn turn(&self) -> Vec<usize> {
        let succeeded =
            |container: &Container| matches!(&container.stage, Stage::Ended { end, .. } if end.exit_code == 0);
        let pending = self.containers.iter().position(|container| container.init && !succeeded(container));
        match pending {
            Some(index) => vec![index],
            None => (0..self.containers.len()).filter(|index| !self.containers[*index].init).collect(),
        }
    }

    fn plan_container(&mut self, index: usize, now: Instant, plan: &mut Plan) {
        let policy = self.restart_policy;
        let container = &mut self.containers[index];
        if container.attempting || container.run.is_some() {
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
        self.containers[index].attempting = true;
    }

    /// The attempt got as far as handing a run to a runner.
    pub(crate) fn launching(&mut self, index: usize, run: RunId, image_id: String) {
        let container = &mut self.containers[index];
        container.run = Some(run);
        container.image_id = image_id;
    }

    /// The spec names another image by now: a running container is to run again with it, a waiting one need not wait.
    /// Answers the run that has to end for it.
    pub(crate) fn image_changed(&mut self, index: usize, image: &str) -> Option<RunId> {
        let container = &mut self.containers[index];
        image.clone_into(&mut container.image);
        container.attempts = Backoff::default();
        match &mut container.stage {
            Stage::Waiting { retry_at, .. } => *retry_at = None,
            Stage::Running { .. } => container.replaced = true,
            Stage::Ended { .. } => {}
        }
        container.run.clone()
    }

    /// The run has begun.
    pub(crate) fn started(&mut self, index: usize, id: String, at: String) {
        let container = &mut self.containers[index];
        container.restarts = container.next_run();
        container.id = id;
        container.attempting = false;
        container.replaced = false;
        container.attempts = Backoff::default();
        let old = std::mem::replace(&mut container.stage, Stage::Running { started_at: at });
        if let Stage::Ended { end, .. } = old {
            container.last = Some(end);
        }
    }

    /// The attempt ended without a running container.
    pub(crate) fn attempt_failed(&mut self, index: usize, failure: &Failure, now: Instant) {
        let container = &mut self.containers[index];
        container.attempting = false;
        container.run = None;
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
        let container = &mut self.containers[index];
        let started_at = match &container.stage {
            Stage::Running { started_at } => started_at.clone(),
            _ => finished_at.clone(),
        };
        let reason = match exit.cause {
            ExitCause::OutOfMemory => "OOMKilled",
            ExitCause::Exited if exit.code == 0 => "Completed",
            ExitCause::Exited | ExitCause::Trapped | ExitCause::Killed => "Error",
        };
        let end = Ended {
            exit_code: exit.code,
            reason: reason.to_owned(),
            message: exit.message.clone(),
            started_at,
            finished_at,
            container_id: container.id.clone(),
        };
        container.run = None;
        container.attempting = false;
        container.stage = Stage::Ended { end, at: now };
    }

    /// Which container a run belongs to.
    pub(crate) fn index_of(&self, run: &RunId) -> Option<usize> {
        self.containers.iter().position(|container| container.run.as_ref() == Some(run))
    }

    /// Whether anything runs or is about to.
    pub(crate) fn is_busy(&self) -> bool {
        self.containers.iter().any(|container| container.run.is_some() || container.attempting)
    }

    /// Whether nothing will ever run again by the restart policy.
    pub(crate) fn is_finished(&self) -> bool {
        if self.failed.is_some() {
            return !self.is_busy();
        }
        let over = |container: &Container| {
            container.run.is_none()
                && !container.attempting
                && matches!(&container.stage, Stage::Ended { end, .. } if !container.restarts_after(end, self.restart_policy))
        };
        let init_failed = self.restart_policy == RestartPolicy::Never
            && self.containers.iter().any(|container| {
                container.init && matches!(&container.stage, Stage::Ended { end, .. } if end.exit_code != 0)
            });
        init_failed || self.containers.iter().filter(|container| !container.init).all(over)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
