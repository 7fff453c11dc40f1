//! One attempt to get a container running: image, code, environment. Tells what happens as kubelet does.

use crate::{
    context::Context,
    events::Severity,
    pod::{
        env::{self, NodeFacts, Surroundings},
        pull_secrets, spec,
        state::Failure,
        volumes::{
            self,
            mounts::{Laid, Starting, lay_out},
        },
    },
    retry::measured,
};
use coracle_images::{Image, Local, PullError, PullPolicy};
use coracle_objects::{meta, registry_auth::Keyring};
use coracle_runner::{
    compile::CompileError,
    protocol::{GuestKind, RunId, StartGuest, StdinMode},
};
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Where a program begins, as programs tell each other.
const WORKING_DIR_VARIABLE: &str = "PWD";

/// Everything that a runner needs to know.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) guest: StartGuest,
    pub(crate) image_id: String,
}

/// A container about to be started.
pub(crate) struct Attempt {
    pub(crate) context: Arc<Context>,
    pub(crate) pod: Arc<Value>,
    pub(crate) namespace_uid: String,
    /// The container's spec.
    pub(crate) container: Value,
    /// Where events about it point.
    pub(crate) field_path: String,
    /// Which run this becomes.
    pub(crate) run: RunId,
    /// Where what writes below the pod's directory runs.
    pub(crate) disk: TaskTracker,
}

impl Attempt {
    fn tell(&self, severity: Severity, reason: &'static str, message: &str) {
        self.context.recorder.record(&self.pod, &self.field_path, severity, reason, message);
    }

    fn fail(&self, failure: Failure) -> Failure {
        let what = match &failure {
            Failure::CreateContainerConfigError(message)
            | Failure::CreateContainerError(message)
            | Failure::RunContainerError(message) => message,
            Failure::InvalidImageName(_)
            | Failure::ErrImageNeverPull(_)
            | Failure::ErrImagePull(_)
            | Failure::RegistryUnavailable(_) => failure.reason(),
        };
        self.tell(Severity::Warning, "Failed", &format!("Error: {what}"));
        failure
    }

    /// Prepares the run.
    ///
    /// # Errors
    /// What the container waits for now; events have been told.
    pub(crate) async fn prepare(&self) -> Result<Prepared, Failure> {
        if let Some(refusal) = self.context.guests.refusal() {
            return Err(self.fail(Failure::CreateContainerError(refusal)));
        }
        let image = self.image().await.map_err(|failure| self.fail(failure))?;
        let env = self.environment();
        let env = env.map_err(|message| self.fail(Failure::CreateContainerConfigError(message)))?;
        let create = |message: String| self.fail(Failure::CreateContainerError(message));
        let (module, argv) = env::command_line(&self.container, &image.modules, &env).map_err(create)?;
        let code = self.context.workloads.code(&self.namespace_uid, module).await;
        let code = code.map_err(|error| match error {
            CompileError::Rejected(what) => create(format!("module {} cannot run: {what}", module.name)),
            CompileError::TooCostly(what) => create(format!("module {} cannot be compiled: {what}", module.name)),
            CompileError::Failed(what) => create(format!("module {} could not be compiled: {what}", module.name)),
        })?;
        let (laid, env) = self.lay_out(code.kind, env).await;
        let laid = laid.map_err(|message| self.fail(Failure::CreateContainerConfigError(message)))?;
        let (memory_limit_bytes, cpu_limit_millis) = env::limits(&self.container);
        let cpu_request_millis = env::cpu_request(&self.container);
        let guest = StartGuest {
            run: self.run.clone(),
            pod_uid: meta::uid(&self.pod).to_owned(),
            code: code.path,
            kind: code.kind,
            argv,
            env,
            mounts: laid.mounts,
            working_dir: laid.working_dir,
            memory_limit_bytes,
            cpu_limit_millis,
            stdin: if self.container["stdin"] == true { StdinMode::Open } else { StdinMode::UntilStop },
            joins: None,
            cpu_request_millis,
            terminal: self.container["tty"] == true,
            network: spec::network(&self.pod, &self.container),
        };
        Ok(Prepared { guest, image_id: image.id })
    }

    async fn image(&self) -> Result<Image, Failure> {
        let name = spec::text(&self.container, "image");
        let policy = spec::pull_policy(&self.container);
        let mut keyring = Keyring::default();
        let mut local = self.local(name, &keyring)?;
        // A pod keeps what it was given before, whatever became of its secrets since.
        if let Local::Withheld(image) = &local
            && has_run(&self.pod, spec::text(&self.container, "name"), &image.id)
        {
            local = Local::Here(image.clone());
        }
        // Most pods need no secret at all, and a node without its server can still start them.
        if policy == PullPolicy::Always || !matches!(local, Local::Here(_)) {
            keyring = pull_secrets::keyring(&self.context, &self.pod);
            local = self.local(name, &keyring)?;
        }
        match (local, policy) {
            (Local::Here(image), PullPolicy::IfNotPresent | PullPolicy::Never) => {
                let message = format!("Container image \"{name}\" already present on machine");
                self.tell(Severity::Normal, "Pulled", &message);
                Ok(image)
            }
            (missing, PullPolicy::Never) => {
                let message = match missing {
                    Local::Withheld(_) => PullError::Withheld { reference: name.to_owned() }.to_string(),
                    _ => format!("Container image \"{name}\" is not present with pull policy of Never"),
                };
                self.tell(Severity::Warning, "ErrImageNeverPull", &message);
                Err(Failure::ErrImageNeverPull(message))
            }
            (Local::Here(image), PullPolicy::Always) => match self.pull(name, policy, &keyring).await {
                // A node that is cut off goes on with what the container ran with before.
                Err(Failure::RegistryUnavailable(_)) if self.goes_on_with(&image) => {
                    let message = format!("Container image \"{name}\" is used as it was: the node is cut off");
                    self.tell(Severity::Normal, "Pulled", &message);
                    Ok(image)
                }
                pulled => pulled,
            },
            (_, PullPolicy::Always | PullPolicy::IfNotPresent) => self.pull(name, policy, &keyring).await,
        }
    }

    fn goes_on_with(&self, image: &Image) -> bool {
        self.context.contact.is_lost() && has_run(&self.pod, spec::text(&self.container, "name"), &image.id)
    }

    fn local(&self, name: &str, keyring: &Keyring) -> Result<Local, Failure> {
        self.context.workloads.local(name, keyring).map_err(|error| {
            let message = format!("Failed to apply default image tag \"{name}\": {error}");
            self.tell(Severity::Warning, "InspectFailed", &message);
            Failure::InvalidImageName(message)
        })
    }

    async fn pull(&self, name: &str, policy: PullPolicy, keyring: &Keyring) -> Result<Image, Failure> {
        self.tell(Severity::Normal, "Pulling", &format!("Pulling image \"{name}\""));
        let begun = Instant::now();
        match self.context.workloads.pull(name, policy, keyring).await {
            Ok(image) => {
                let took = measured(begun.elapsed());
                let message = format!(
                    "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    image.size_bytes
                );
                self.tell(Severity::Normal, "Pulled", &message);
                Ok(image)
            }
            Err(error) => {
                let text = error.to_string();
                let detail = match &error {
                    PullError::Pull { detail, .. }
                    | PullError::Unavailable { detail, .. }
                    | PullError::InvalidName { detail, .. } => detail,
                    PullError::NeverPull { .. } | PullError::Withheld { .. } => &text,
                };
                self.tell(Severity::Warning, "Failed", &format!("Failed to pull image \"{name}\": {detail}"));
                Err(match error {
                    PullError::Unavailable { .. } => Failure::RegistryUnavailable(text),
                    _ => Failure::ErrImagePull(text),
                })
            }
        }
    }

    /// What the container sees of files. Programs that know no other way learn from `PWD` where they begin.
    async fn lay_out(
        &self,
        kind: GuestKind,
        mut env: Vec<(String, String)>,
    ) -> (Result<Laid, String>, Vec<(String, String)>) {
        let (context, pod, container) = (self.context.clone(), self.pod.clone(), self.container.clone());
        let namespace_uid = self.namespace_uid.clone();
        let variables = env.clone();
        let laid = self.disk.spawn_blocking(move || {
            let owner = context.owner(&namespace_uid).map_err(|error| error.to_string())?;
            let directory = context.volumes(&namespace_uid, meta::uid(&pod));
            let (pod, container, env, directory) = (&*pod, &container, variables.as_slice(), directory.as_path());
            lay_out(Starting { pod, container, env, kind, directory, owner })
        });
        let laid = laid.await.unwrap_or_else(|_| Err("the node agent failed to do its work".to_owned()));
        if let Ok(Laid { working_dir: Some(path), .. }) = &laid
            && !env.iter().any(|(name, _)| name == WORKING_DIR_VARIABLE)
        {
            env.push((WORKING_DIR_VARIABLE.to_owned(), path.clone()));
        }
        (laid, env)
    }

    fn environment(&self) -> Result<Vec<(String, String)>, String> {
        let (config_maps, secrets) = env::needed(&self.container);
        let sources = volumes::fetch(&self.context.caches, meta::namespace(&self.pod), config_maps, secrets);
        let sources = sources.map_err(|error| format!("cannot read what the environment needs: {error}"))?;
        let services = self.context.caches.services.all();
        let services = env::service_variables(services.iter().map(|service| &**service), &self.pod);
        let host_ip = self.context.host_ip();
        let node = NodeFacts { host_ip: &host_ip, offer: self.context.room.offer() };
        let around = Surroundings { pod: &self.pod, node, sources: &sources, services: &services };
        let variables = env::environment(&self.container, &around)?;
        for message in &variables.skipped {
            self.tell(Severity::Warning, "InvalidEnvironmentVariableNames", message);
        }
        Ok(variables.all)
    }
}

/// Whether this container of the pod ran this very image already, by the status that this node gave it.
fn has_run(pod: &Value, container: &str, image_id: &str) -> bool {
    let statuses = ["initContainerStatuses", "containerStatuses"];
    let mut all = statuses.iter().flat_map(|field| spec::items(&pod["status"], field));
    all.any(|status| status["name"] == container && status["imageID"] == image_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_ran_in_the_container_has_run() {
        let pod = json!({"status": {
            "initContainerStatuses": [{"name": "first", "imageID": "r/a@sha256:1"}],
            "containerStatuses": [{"name": "main", "imageID": "r/b@sha256:2"}, {"name": "side", "imageID": ""}],
        }});
        for (container, image, expected) in [
            ("first", "r/a@sha256:1", true),
            ("main", "r/b@sha256:2", true),
            ("main", "r/a@sha256:1", false),
            ("side", "r/b@sha256:2", false),
        ] {
            assert_eq!(has_run(&pod, container, image), expected, "{container} {image}");
        }
        assert!(!has_run(&json!({}), "main", "r/b@sha256:2"));
    }
}
