//! One container as the pod's state machine knows it: where it stands, why, and whether it runs again. Pure.

use crate::{
    pod::{
        spec::{self, RestartPolicy},
        state::stopping::Stopping,
    },
    retry::Backoff,
};
use coracle_runner::protocol::RunId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled` or `StartError`.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) container_id: String,
}

/// What of the pod's life a container takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs to its end before the next one begins.
    Init,
    /// An init container with `restartPolicy: Always`: the next one begins when it has started, and it runs as long as
    /// the app containers do.
    Sidecar,
    /// One of `spec.containers`.
    App,
}

/// Where a container stands; see [`super`].
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

/// What hooks and probes have said of a run; without a hook or probe it counts as passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// `postStart` has run.
    pub(crate) hooked: bool,
    /// The startup probe has succeeded.
    pub(crate) startup: bool,
    /// The readiness probe succeeds.
    pub(crate) ready: bool,
}

/// One container of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) kind: Kind,
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
    /// Its image was changed in the spec, or the pod begins anew: run it again whatever the restart policy says.
    pub(crate) replaced: bool,
    /// A probe had it ended: its exit code does not matter for whether it runs again.
    pub(crate) failed_probe: bool,
    /// As an init container it has let the next one begin; stays so while it restarts.
    pub(crate) passed: bool,
    pub(crate) checked: Checked,
    /// How its run is being ended.
    pub(crate) stopping: Option<Stopping>,
    /// Shown instead of the end while it waits to run again: reason and message.
    pub(crate) mishap: Option<(&'static str, String)>,
    /// What a new run starts with.
    pub(super) unchecked: Checked,
    pub(super) has_pre_stop: bool,
    pub(super) crash: Backoff,
    pub(super) attempts: Backoff,
}

impl Container {
    pub(super) fn new(spec: &Value, init: bool) -> Self {
        let kind = match init {
            true if spec["restartPolicy"] == "Always" => Kind::Sidecar,
            true => Kind::Init,
            false => Kind::App,
        };
        // What admission refuses on ordinary init containers does nothing if it is there all the same.
        let has = |value: &Value| kind != Kind::Init && value.is_object();
        Self {
            name: spec::text(spec, "name").to_owned(),
            kind,
            image: spec::text(spec, "image").to_owned(),
            stage: Stage::ordinary(),
            attempting: false,
            run: None,
            id: String::new(),
            image_id: String::new(),
            restarts: 0,
            last: None,
            replaced: false,
            failed_probe: false,
            passed: false,
            checked: Checked::default(),
            stopping: None,
            mishap: None,
            unchecked: Checked {
                hooked: !has(&spec["lifecycle"]["postStart"]),
                startup: !has(&spec["startupProbe"]),
                ready: !has(&spec["readinessProbe"]),
            },
            has_pre_stop: has(&spec["lifecycle"]["preStop"]),
            crash: Backoff::default(),
            attempts: Backoff::default(),
        }
    }

    /// Whether the spec lists it among the init containers.
    pub(crate) fn is_init(&self) -> bool {
        self.kind != Kind::App
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Whether it runs, its `postStart` hook has run and its startup probe has succeeded.
    pub(crate) fn is_started(&self) -> bool {
        self.is_running() && self.checked.hooked && self.checked.startup
    }

    /// As `status.containerStatuses[].ready`: an ordinary init container is ready once it has succeeded.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.stage {
            Stage::Running { .. } => self.kind != Kind::Init && self.is_started() && self.checked.ready,
            Stage::Ended { end, .. } => self.kind == Kind::Init && end.exit_code == 0,
            Stage::Waiting { .. } => false,
        }
    }

    /// Whether it runs or is about to.
    pub(crate) fn is_busy(&self) -> bool {
        self.run.is_some() || self.attempting
    }

    /// Number of the run that an attempt begun now leads to.
    pub(crate) fn next_run(&self) -> u32 {
        if self.id.is_empty() { 0 } else { self.restarts + 1 }
    }

    /// Whether its last run is over and there is none after it.
    pub(crate) fn is_over(&self, policy: RestartPolicy) -> bool {
        !self.is_busy() && matches!(&self.stage, Stage::Ended { end, .. } if !self.restarts_after(end, policy))
    }

    /// Whether its last run is over and there will be another, if the pod lives on.
    pub(crate) fn runs_again(&self, policy: RestartPolicy) -> bool {
        matches!(&self.stage, Stage::Ended { end, .. } if self.restarts_after(end, policy))
    }

    pub(super) fn restarts_after(&self, end: &Ended, policy: RestartPolicy) -> bool {
        if self.replaced || self.kind == Kind::Sidecar {
            return true;
        }
        match policy {
            RestartPolicy::Never => false,
            _ if self.failed_probe => true,
            _ if self.kind == Kind::Init => end.exit_code != 0,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => end.exit_code != 0,
        }
    }

    /// Keeps its end, if it has one, as the one before; it waits for its turn again.
    pub(crate) fn begin_anew(&mut self) {
        if let Stage::Ended { end, .. } = std::mem::replace(&mut self.stage, Stage::ordinary()) {
            self.last = Some(end);
        }
        (self.replaced, self.failed_probe, self.passed, self.mishap) = (false, false, false, None);
    }
}
