//! `coracle attach`.

use super::{ScopeArgs, pods, print::refusal, streams::StreamArgs};
use anyhow::Result;
use clap::Args;
use coracle_objects::meta;
use coracle_sdk::sessions::AttachRequest;
use std::process::ExitCode;

/// See what a container writes from now on; with -i also write to it, where its `stdin` is true.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    streams: StreamArgs,
    /// The pod: NAME, pod/NAME, or what selects pods, such as svc/NAME
    pod: String,
}

impl Attach {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, namespace) = self.scope.connect()?;
        let pod = pods::find(&connection, &namespace, &self.pod).await?.pod;
        let container = pods::container(&pod, &self.streams.container)?;
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let has_input = containers.clone().any(|one| one["name"] == container.as_str() && one["stdin"] == true);
        if self.streams.stdin && !has_input {
            pods::say(&format!("container {container} takes no input: its stdin is not true"));
        }
        let request = AttachRequest {
            container,
            namespace,
            pod: meta::name(&pod).to_owned(),
            stdin: self.streams.stdin && has_input,
            stdout: true,
            stderr: true,
            ..AttachRequest::default()
        };
        let (reader, writer) = connection.attach(request).await.map_err(refusal)?;
        self.streams.carry(reader, writer).await
    }
}
