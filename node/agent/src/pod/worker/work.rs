//! Work beside the owner task: setting up volumes, preparing and launching runs. What it comes to is handled in the
//! owner task again.

use super::{Done, Premises, SET_UP_RETRY, SetUpFailure, Work, Worker};
use crate::{
    context::Context,
    events::Severity,
    guests::{KILLED, Launch, PASSABLE, Promise, places_of},
    ledger::is_file_name,
    output::Output,
    pod::{
        admission,
        attempt::{Attempt, Prepared},
        env::NodeFacts,
        hooks::HookFailure,
        spec,
        state::Failure,
        volumes::{self, MountFailure},
    },
};
use coracle_objects::meta;
use coracle_runner::protocol::{Exit, ExitCause, RunId};
use serde_json::Value;
use std::{
    fmt::Write,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use tracing::warn;

impl Worker {
    pub(super) fn spawn(&mut self, work: Work, task: impl Future<Output = Done> + Send + 'static) {
        let handle = self.work.spawn(task);
        self.works.insert(handle.id(), (work, handle));
    }

    /// Ends a piece of work, if it is under way; what it came to is not heard any more.
    pub(super) fn give_up(&mut self, work: Work) {
        self.works.retain(|_, (one, handle)| {
            let given_up = *one == work;
            if given_up {
                handle.abort();
            }
            !given_up
        });
    }

    /// Namespace and volumes, before anything starts.
    pub(super) fn begin_set_up(&mut self, now: Instant) -> Option<Instant> {
        let at = self
            .set_up
            .0
            .filter(|_| !self.frozen && !self.state.stopping && !self.state.away && !self.state.is_finished())?;
        if now < at {
            return Some(at);
        }
        self.set_up.0 = None;
        let (context, pod, known) = (self.context.clone(), self.pod.clone(), self.namespace_uid());
        let disk = self.disk.clone();
        let is_new = self.is_new;
        self.spawn(Work::SetUp, async move {
            match if is_new { admission::wants_this_node(&context, &pod).await } else { Ok(true) } {
                Ok(true) => Done::SetUp(set_up(&context, &pod, known, &disk).await),
                Ok(false) => Done::Refused(admission::on_the_wrong_node()),
                Err(error) => Done::SetUp(Err(SetUpFailure {
                    reason: "FailedNodeAffinity",
                    message: format!("cannot see whether the pod may run on this node: {error}"),
                })),
            }
        });
        None
    }

    pub(super) fn prepare(&mut self, index: usize) {
        let Some(container) = spec::containers(&self.pod).nth(index).cloned() else { return };
        let own = &self.state.containers[index];
        let run = RunId(hex(&rand::random::<[u8; 32]>()));
        let attempt = Attempt {
            context: self.context.clone(),
            pod: spec::with_address(&self.pod, self.state.address),
            namespace_uid: self.namespace_uid(),
            field_path: spec::field_path(&own.name, own.is_init()),
            container,
            run: run.clone(),
            disk: self.disk.clone(),
        };
        self.state.attempt(index);
        self.spawn(
            Work::Prepare(index),
            async move { Done::Prepared(index, run, attempt.prepare().await.map(Box::new)) },
        );
    }

    pub(super) fn launch(&mut self, index: usize, run: RunId, prepared: Prepared) {
        let container = &self.state.containers[index];
        let (name, number) = (container.name.clone(), container.next_run());
        let log = match self.context.logs.begin(&self.pod, &name, number) {
            Ok(log) => log,
            Err(error) => {
                return self.failed(index, &Failure::CreateContainerError(format!("cannot write its log: {error}")));
            }
        };
        self.tell(index, Severity::Normal, "Created", &format!("Created container: {name}"));
        self.state.launching(index, run.clone(), prepared.image_id);
        let launch = Launch {
            namespace: meta::namespace(&self.pod).to_owned(),
            namespace_uid: self.namespace_uid(),
            guest: prepared.guest,
            places: places_of(&self.pod),
            promise: Promise::of(&self.pod, spec::containers(&self.pod).nth(index).unwrap_or(&Value::Null)),
            events: self.said.clone(),
            output: Output::Log(log),
        };
        let guests = self.context.guests.clone();
        self.spawn(Work::Launch(index), async move { Done::Launched(index, run, guests.launch(launch).await) });
    }

    /// Work beside this task came to an end.
    pub(super) fn done(&mut self, done: Result<(Id, Done), JoinError>) {
        let id = match &done {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((work, _)) = self.works.remove(&id) else { return };
        match done {
            Ok((_, Done::SetUp(Ok(premises)))) => {
                self.stay = Some(premises.stay);
                self.state.address = Some(premises.address);
                self.state.prepared = true;
            }
            Ok((_, Done::SetUp(Err(failure)))) => self.set_up_failed(&failure),
            Ok((_, Done::Refused(refusal))) => self.refuse(refusal),
            Ok((_, Done::Prepared(index, run, Ok(prepared)))) if !self.state.starts_nothing() => {
                self.launch(index, run, *prepared);
            }
            Ok((_, Done::Prepared(index, _, Ok(_)))) => self.state.attempt_dropped(index),
            Ok((_, Done::Prepared(index, _, Err(failure)))) => {
                self.state.attempt_failed(index, &failure, self.context.pace.now());
            }
            Ok((_, Done::Launched(index, _, Err(message)))) => {
                self.failed(index, &Failure::RunContainerError(message));
            }
            Ok((_, Done::Launched(index, run, Ok(())))) => self.launched(index, run),
            Ok((_, Done::PostStarted(index, run, result))) => self.post_started(index, run, result),
            Ok((_, Done::PreStopped(index, run, result))) => self.pre_stopped(index, &run, &result),
            Ok((_, Done::Read(index, run, exit))) => self.ended(index, &run, &exit),
            Ok((_, Done::Asked(answer))) => self.asked(answer),
            Err(error) => self.broke(work, &error),
        }
    }

    /// It was handed over while it was to end already: that run has not heard so yet.
    fn launched(&mut self, index: usize, run: RunId) {
        let Some(stopping) = &self.state.containers[index].stopping else { return };
        if stopping.is_killed() {
            self.kill(run);
        } else if stopping.is_asked() {
            self.ask(run);
        }
    }

    /// Work was aborted because the pod ends, or it panicked.
    pub(super) fn broke(&mut self, work: Work, error: &JoinError) {
        if !error.is_cancelled() {
            warn!(pod = meta::name(&self.pod), %error, "work for a pod broke");
        }
        let what = || "the node agent failed to do its work".to_owned();
        let hook_failed = || Err(HookFailure { message: what() });
        let run = |index: usize| self.state.containers[index].run.clone();
        match work {
            Work::SetUp if !self.state.stopping => {
                self.set_up_failed(&SetUpFailure { reason: "FailedMount", message: what() });
            }
            Work::SetUp => {}
            Work::Ask => self.ask_at = None,
            Work::Prepare(index) if self.state.starts_nothing() => self.state.attempt_dropped(index),
            Work::Prepare(index) => self.failed(index, &Failure::CreateContainerError(what())),
            Work::Launch(index) => self.failed(index, &Failure::RunContainerError(what())),
            Work::PostStart(index) => {
                if let Some(run) = run(index) {
                    self.post_started(index, run, hook_failed());
                }
            }
            Work::PreStop(index) => {
                if let Some(run) = run(index) {
                    self.pre_stopped(index, &run, &hook_failed());
                }
            }
            Work::Message(index) => {
                let exit = Exit { code: KILLED, cause: ExitCause::Killed, message: what() };
                if let Some(run) = run(index) {
                    self.ended(index, &run, &exit);
                }
            }
        }
    }

    pub(super) fn set_up_failed(&mut self, failure: &SetUpFailure) {
        self.context.recorder.record(&self.pod, "", Severity::Warning, failure.reason, &failure.message);
        let (_, delay) = self.set_up;
        self.set_up = (Some(self.context.pace.now() + delay), (delay * 2).min(SET_UP_RETRY.1));
    }

    pub(super) fn failed(&mut self, index: usize, failure: &Failure) {
        self.tell(index, Severity::Warning, "Failed", &format!("Error: {}", failure.message()));
        self.state.attempt_failed(index, failure, self.context.pace.now());
    }
}

/// Finds the namespace, unless it is `known` from the ledger already, puts the volumes on disk and gives the pod its
/// address.
async fn set_up(context: &Context, pod: &Value, known: String, disk: &TaskTracker) -> Result<Premises, SetUpFailure> {
    let failure = |detail: String| mount_failure(&MountFailure { volume: "pod".to_owned(), detail });
    let namespace_uid = if known.is_empty() {
        let namespace = context.namespace_uid(pod);
        namespace.map_err(|error| failure(format!("cannot find the pod's namespace: {error}")))?
    } else {
        known
    };
    if !is_file_name(meta::uid(pod)) {
        return Err(failure("the pod's uid is not usable as a directory".to_owned()));
    }
    let stay = context.homes.stay(&namespace_uid);
    let directory = context.volumes(&namespace_uid, meta::uid(pod));
    let passable = Permissions::from_mode(PASSABLE);
    let made = fs::create_dir_all(&directory).and_then(|()| fs::set_permissions(&directory, passable));
    made.map_err(|error| failure(error.to_string()))?;
    let owner = context.owner(&namespace_uid).map_err(|error| failure(error.to_string()))?;
    let host_ip = context.host_ip();
    let node = NodeFacts { host_ip: &host_ip, offer: context.room.offer() };
    let set_up = volumes::set_up(&context.caches, pod, node, (&directory, owner), disk).await;
    set_up.map_err(|failure| mount_failure(&failure))?;
    let on_disk = volumes::in_memory::on_disk(pod, &directory);
    if !on_disk.is_empty() {
        let message = format!(
            "Volumes of medium Memory are kept on the node's disk, since this agent must not mount file systems, or they \
             would take more of the node's memory than all of them together may: {}",
            on_disk.join(", ")
        );
        context.recorder.record(pod, "", Severity::Warning, "MemoryVolumeOnDisk", &message);
    }
    let address = context.network.attach(pod).await.map_err(|error| SetUpFailure {
        reason: "FailedCreatePodSandBox",
        message: format!("Failed to create pod sandbox: {error}"),
    })?;
    Ok(Premises { stay, address })
}

fn mount_failure(failure: &MountFailure) -> SetUpFailure {
    SetUpFailure { reason: "FailedMount", message: failure.message() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
