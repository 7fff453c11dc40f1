//! A command in a container, with its streams.

use super::{
    INPUT, Line, Shown, abandoned,
    keyboard::{self, Keyboard},
    running,
};
use crate::{
    context::Context,
    exec::{Command, ExecRequest, Progress, Streams, Writer},
    terminal::{self, Size, Terminal},
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
        namespace_uid: context.namespace_uid(pod)?,
        container: request.container,
        run,
        command: request.command,
    };
    let Line { mut input, output } = line;
    let stdin = if request.stdin { StdinMode::Open } else { StdinMode::Empty };
    let mut streams = Streams { stdin, terminal: request.tty, variables: Vec::new() };
    let mut first = None;
    if request.tty {
        let (size, other) = keyboard::size(&mut input).await;
        streams.variables.push((terminal::KIND.0.to_owned(), terminal::KIND.1.to_owned()));
        streams.variables.extend(size.into_iter().flat_map(Size::variables));
        first = other;
    }
    let failed = |error| ApiError::internal(format!("error executing command in container: {error}"));
    let mut command = Command::start(context, &wanted, streams).await.map_err(failed)?;
    let shown = Shown { stdout: request.stdout, stderr: request.stderr, tty: request.tty };
    let writer = command.writer();
    let terminal = request.tty.then(Terminal::default);
    let screen = Screen { shown, terminal: terminal.as_ref(), output: &output };
    let fed = async {
        match &terminal {
            Some(terminal) => {
                Keyboard::Own { terminal, shown, output: &output }.carry(first, input, &writer, true).await
            }
            None => feed(input, &writer, true).await,
        }
    };
    let exit = tokio::select! {
        exit = show(&mut command, &screen) => exit?,
        never = fed => match never {},
    };
    if exit.cause != ExitCause::Exited && !exit.message.is_empty() {
        let message = format!("{}\n", exit.message.trim_end());
        screen.send(LogStream::Stderr, message.into()).await;
    }
    Ok(status(&exit))
}

/// What the user sees of the command.
struct Screen<'a> {
    shown: Shown,
    /// Through which all of it goes, where there is one.
    terminal: Option<&'a Terminal>,
    output: &'a mpsc::Sender<ChannelFrame>,
}

impl Screen<'_> {
    /// False when the user has gone.
    async fn send(&self, stream: LogStream, bytes: Bytes) -> bool {
        let bytes = match self.terminal {
            Some(terminal) => terminal.shown(&bytes),
            None => bytes,
        };
        self.shown.send(self.output, stream, bytes).await
    }
}

/// Passes on what the command writes, until it is over.
async fn show(command: &mut Command, screen: &Screen<'_>) -> Result<Exit, ApiError> {
    loop {
        match command.next().await {
            Progress::Output((stream, bytes)) => {
                let count = bytes.len();
                if !screen.send(stream, bytes).await {
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
