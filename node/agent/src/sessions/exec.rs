//! A command in a container, with its streams.

use super::{INPUT, Line, Shown, abandoned, running};
use crate::{
    context::Context,
    exec::{Command, ExecRequest, Progress, Writer},
};
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_runner::protocol::{Exit, ExitCause, LogStream, StdinMode};
use coracle_wire::v1::{self, ChannelFrame};
use serde_json::{Value, json};
use std::{convert::Infallible, future::pending, sync::Arc};
use tokio::sync::mpsc;

/// Holds the session until the command is over.
pub(super) async fn serve(
    context: &Context,
    pod: &Arc<Value>,
    request: v1::ExecRequest,
    line: Line,
) -> Result<Bytes, ApiError> {
    super::container(pod, &request.container)?;
    let run = running(pod, &request.container)?;
    let wanted = ExecRequest {
        pod: pod.clone(),
        namespace_uid: context.namespace_uid(pod).await?,
        container: request.container,
        run,
        command: request.command,
    };
    let stdin = if request.stdin { StdinMode::Open } else { StdinMode::Empty };
    let failed = |error| ApiError::internal(format!("error executing command in container: {error}"));
    let mut command = Command::start(context, &wanted, stdin).await.map_err(failed)?;
    let shown = Shown { stdout: request.stdout, stderr: request.stderr, tty: request.tty };
    let writer = command.writer();
    let Line { input, output } = line;
    let exit = tokio::select! {
        exit = show(&mut command, shown, &output) => exit?,
        never = feed(input, &writer, true) => match never {},
    };
    if exit.cause != ExitCause::Exited && !exit.message.is_empty() {
        let message = format!("{}\n", exit.message.trim_end());
        shown.send(&output, LogStream::Stderr, message.into()).await;
    }
    Ok(status(&exit))
}

/// Passes on what the command writes, until it is over.
async fn show(command: &mut Command, shown: Shown, output: &mpsc::Sender<ChannelFrame>) -> Result<Exit, ApiError> {
    loop {
        match command.next().await {
            Progress::Output((stream, bytes)) => {
                let count = bytes.len();
                if !shown.send(output, stream, bytes).await {
                    return Err(abandoned());
                }
                command.passed_on(count).await;
            }
            Progress::Ended(exit) => return Ok(exit),
        }
    }
}

/// Passes on what the user writes; their end is the guest's if `ends`. What a guest does not want any more is dropped, so
/// that the session goes on.
pub(super) async fn feed(mut input: mpsc::Receiver<ChannelFrame>, writer: &Writer, ends: bool) -> Infallible {
    while let Some(ChannelFrame { channel, data, close }) = input.recv().await {
        if channel != INPUT {
            continue;
        }
        if !data.is_empty() {
            writer.write(&data).await;
        }
        if close && ends {
            writer.end().await;
        }
    }
    pending().await
}

/// How a command ended, as clients of Kubernetes read it.
fn status(exit: &Exit) -> Bytes {
    if exit.code == 0 {
        return Bytes::new();
    }
    let code = exit.code.to_string();
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code}]},
    });
    status.to_string().into()
}
