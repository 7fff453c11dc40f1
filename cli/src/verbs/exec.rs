//! `coracle exec`.

use super::{ScopeArgs, pods, print::refusal, streams::StreamArgs};
use anyhow::Result;
use clap::Args;
use coracle_objects::meta;
use coracle_sdk::sessions::ExecRequest;
use std::process::ExitCode;

/// Run a command in a container and exit with its code.
///
/// The first word names a module of the container's image; where there is none of that name, the container's own module
/// is run with the whole command as its arguments. With -it this terminal becomes the command's: Ctrl-C ends it with exit
/// code 130.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    streams: StreamArgs,
    /// The pod: NAME, pod/NAME, or what selects pods, such as svc/NAME
    pod: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, namespace) = self.scope.connect()?;
        let pod = pods::find(&connection, &namespace, &self.pod).await?.pod;
        let tty = self.streams.terminal();
        let request = ExecRequest {
            container: pods::container(&pod, &self.streams.container)?,
            namespace,
            pod: meta::name(&pod).to_owned(),
            command: self.command,
            stdin: self.streams.stdin,
            stdout: true,
            stderr: !tty,
            tty,
            ..ExecRequest::default()
        };
        let (reader, writer) = connection.exec(request).await.map_err(refusal)?;
        self.streams.carry(reader, writer, tty).await
    }
}
