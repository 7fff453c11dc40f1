//! `coracle attach`.

use super::{ScopeArgs, pods, print::refusal, streams::StreamArgs};
use anyhow::Result;
use clap::Args;
use coracle_objects::meta;
use coracle_sdk::sessions::AttachRequest;
use serde_json::Value;
use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

/// See what a container writes from now on; with -i also write to it, where its `stdin` is true.
///
/// With -it, and where its `tty` is true, this terminal becomes the container's: Ctrl-C ends the container's run.
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
        let spec = containers.into_iter().find(|one| one["name"] == container.as_str()).unwrap_or(&Value::Null);
        let (has_input, tty) = (spec["stdin"] == true, spec["tty"] == true);
        let terminal = self.streams.terminal();
        if terminal && !tty {
            pods::say(&format!("error: Unable to use a TTY - container {container} did not allocate one"));
        }
        // What is typed into a container's terminal is shown there, whether this one was offered or not.
        let raw = tty && self.streams.stdin && has_input && io::stdin().is_terminal();
        if raw {
            pods::say("If you don't see a command prompt, try pressing enter.");
        }
        if self.streams.stdin && !has_input {
            pods::say(&format!("container {container} takes no input: its stdin is not true"));
        }
        let request = AttachRequest {
            container,
            namespace,
            pod: meta::name(&pod).to_owned(),
            stdin: self.streams.stdin && has_input,
            stdout: true,
            stderr: !tty,
            tty,
            ..AttachRequest::default()
        };
        let (reader, writer) = connection.attach(request).await.map_err(refusal)?;
        self.streams.carry(reader, writer, raw).await
    }
}
