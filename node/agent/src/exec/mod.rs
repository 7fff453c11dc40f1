//! Commands in containers that run already: for exec probes and hooks, which want the end, and for people, who want the
//! streams. A command is a run of its own that joins the container's: it sees the same network, files and environment,
//! counts into the same limits, and ends with it.
//!
//! Which module is run: `command[0]` names a module of the container's image, or else one of the tools that every
//! container has, or else the container's own module gets the whole command as its arguments.

use crate::{
    context::Context,
    guests::{Guests, Launch, Promise, RunEvent, places_of},
    output::{Chunk, Feed, Output, Reader},
    pod::{env, spec},
    terminal::Typed,
};
use coracle_images::{Image, ImageModule, Local};
use coracle_objects::{meta, registry_auth::Keyring};
use coracle_runner::{
    compile::CompileError,
    protocol::{Exit, RunId, StartGuest, StdinMode},
};
use serde_json::Value;
use std::{fmt::Write as _, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{sync::mpsc, time::timeout};

/// A command, and the run that it joins.
#[derive(Debug, Clone)]
pub(crate) struct ExecRequest {
    pub(crate) pod: Arc<Value>,
    pub(crate) namespace_uid: String,
    /// The container's name.
    pub(crate) container: String,
    /// The container's run.
    pub(crate) run: RunId,
    /// Not empty.
    pub(crate) command: Vec<String>,
}

/// What a command finds on its standard streams.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) stdin: StdinMode,
    /// They are a terminal, as far as it can tell.
    pub(crate) terminal: bool,
    /// Variables that it gets where the container's environment has them not.
    pub(crate) variables: Vec<(String, String)>,
}

impl Default for Streams {
    /// Nothing to read, and no terminal.
    fn default() -> Self {
        Self { stdin: StdinMode::Empty, terminal: false, variables: Vec::new() }
    }
}

/// Why there is no exit code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ExecFailure {
    /// It could not be started.
    #[error("{0}")]
    NotStarted(String),
    /// It ran for longer than it may and was ended.
    #[error("command timed out after {} s", .0.as_secs_f64())]
    TimedOut(Duration),
}

/// What a command does next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// It wrote this; [`Command::passed_on`] lets it write more.
    Output(Chunk),
    /// It is over, and everything that it wrote was told.
    Ended(Exit),
}

/// A command that runs. Dropping it ends it.
pub(crate) struct Command {
    guests: Arc<dyn Guests>,
    namespace_uid: String,
    run: RunId,
    events: mpsc::Receiver<(RunId, RunEvent)>,
    output: Reader,
    exit: Option<Exit>,
}

/// The end of a command's standard input into which one writes.
pub(crate) struct Writer {
    guests: Arc<dyn Guests>,
    namespace_uid: String,
    run: RunId,
}

/// Runs a command to its end: its exit code, and the beginning of what it wrote, both streams as they came.
///
/// # Errors
/// See [`ExecFailure`].
pub(crate) async fn run_to_end(
    context: &Context,
    request: ExecRequest,
    output_bytes_max: usize,
    limit: Duration,
) -> Result<(i32, Vec<u8>), ExecFailure> {
    let work = async {
        let mut command = Command::start(context, &request, Streams::default()).await?;
        let mut kept = Vec::new();
        loop {
            match command.next().await {
                Progress::Output((_, bytes)) => {
                    kept.extend_from_slice(&bytes[..bytes.len().min(output_bytes_max - kept.len())]);
                    command.passed_on(bytes.len()).await;
                }
                Progress::Ended(exit) => return Ok((exit.code, kept)),
            }
        }
    };
    timeout(limit, work).await.unwrap_or(Err(ExecFailure::TimedOut(limit)))
}

impl Command {
    /// Starts it and waits until it runs.
    ///
    /// # Errors
    /// [`ExecFailure::NotStarted`].
    pub(crate) async fn start(context: &Context, request: &ExecRequest, streams: Streams) -> Result<Self, ExecFailure> {
        let (code, argv) = code(context, request).await.map_err(ExecFailure::NotStarted)?;
        let run = RunId(random_id());
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (feed, output) = Feed::new();
        let pod_uid = meta::uid(&request.pod).to_owned();
        let joining = StartGuest::joining(request.run.clone(), run.clone(), pod_uid, code.path, code.kind);
        let (env, terminal) = (streams.variables, streams.terminal);
        let guest = StartGuest { argv, stdin: streams.stdin, env, terminal, ..joining };
        let launch = Launch {
            namespace: meta::namespace(&request.pod).to_owned(),
            namespace_uid: request.namespace_uid.clone(),
            guest,
            // It goes where its container is.
            places: places_of(&request.pod),
            // It counts as its container does, and goes with it.
            promise: Promise::None,
            events: sender,
            output: Output::Reader(feed),
        };
        let mut command = Self {
            guests: context.guests.clone(),
            namespace_uid: request.namespace_uid.clone(),
            run,
            events,
            output,
            exit: None,
        };
        let guests = context.guests.clone();
        // In a task of its own: whoever gives up half-way leaves it to be launched and then ended, in this order.
        let launching = tokio::spawn(async move {
            let launched = guests.launch(launch).await;
            if launched.is_err() {
                command.exit = Some(gone());
            }
            launched.map(|()| command)
        });
        let launched = launching.await.unwrap_or_else(|_| Err("it was interrupted".to_owned()));
        let mut command = launched.map_err(ExecFailure::NotStarted)?;
        match command.events.recv().await {
            Some((_, RunEvent::Started)) => Ok(command),
            Some((_, RunEvent::StartFailed(message))) => {
                command.exit = Some(gone());
                Err(ExecFailure::NotStarted(message))
            }
            Some((_, RunEvent::Exited(exit) | RunEvent::Lost(exit))) => {
                command.exit = Some(exit);
                Ok(command)
            }
            None => {
                command.exit = Some(gone());
                Err(ExecFailure::NotStarted("the runner process has ended".to_owned()))
            }
        }
    }

    /// Where its standard input is written to.
    pub(crate) fn writer(&self) -> Writer {
        Writer { guests: self.guests.clone(), namespace_uid: self.namespace_uid.clone(), run: self.run.clone() }
    }

    /// What it does next; behind its end, its end again. Safe to drop half-way.
    pub(crate) async fn next(&mut self) -> Progress {
        while self.exit.is_none() {
            tokio::select! {
                biased;
                Some(chunk) = self.output.next() => return Progress::Output(chunk),
                event = self.events.recv() => match event {
                    Some((_, RunEvent::Exited(exit) | RunEvent::Lost(exit))) => self.exit = Some(exit),
                    Some(_) => {}
                    None => self.exit = Some(gone()),
                },
            }
        }
        // What it wrote came before its end, but perhaps both at once.
        match self.output.try_next() {
            Some(chunk) => Progress::Output(chunk),
            None => Progress::Ended(self.exit.clone().unwrap_or_else(gone)),
        }
    }

    /// So much of its output has gone where it belongs.
    pub(crate) async fn passed_on(&self, bytes: usize) {
        self.guests.output_taken(&self.namespace_uid, &self.run, bytes).await;
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if self.exit.is_some() {
            return;
        }
        let (guests, namespace_uid, run) = (self.guests.clone(), self.namespace_uid.clone(), self.run.clone());
        // Without a runtime there is no runner either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { guests.kill(&namespace_uid, &run).await });
        }
    }
}

impl Writer {
    /// For a container's own run.
    pub(crate) fn of(guests: Arc<dyn Guests>, namespace_uid: String, run: RunId) -> Self {
        Self { guests, namespace_uid, run }
    }

    /// Waits while the guest does not read; false when nobody reads any more.
    pub(crate) async fn write(&self, bytes: &[u8]) -> bool {
        self.guests.input(&self.namespace_uid, &self.run, bytes, false).await
    }

    /// End-of-file.
    pub(crate) async fn end(&self) -> bool {
        self.guests.input(&self.namespace_uid, &self.run, &[], true).await
    }

    /// Keys for the run's own terminal, as [`Guests::type_in`].
    pub(crate) async fn type_in(&self, keys: &[u8]) -> Option<Typed> {
        self.guests.type_in(&self.namespace_uid, &self.run, keys).await
    }

    /// What a signal does to a guest, which handles none.
    pub(crate) async fn interrupt(&self, signal: u8) {
        self.guests.interrupt(&self.namespace_uid, &self.run, signal).await;
    }
}

/// `Started`, and the end.
const EVENTS_MAX: usize = 4;

fn gone() -> Exit {
    let message = "the runner process ended unexpectedly".to_owned();
    Exit { code: crate::guests::KILLED, cause: coracle_runner::protocol::ExitCause::Killed, message }
}

fn random_id() -> String {
    rand::random::<[u8; 32]>().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What to run, and with which words.
async fn code(context: &Context, request: &ExecRequest) -> Result<(crate::workloads::Code, Vec<String>), String> {
    let container = spec::containers(&request.pod).find(|one| spec::text(one, "name") == request.container);
    let container = container.ok_or_else(|| format!("container not found (\"{}\")", request.container))?;
    let image = image_of(context, &request.pod, container)?;
    let tool = |name: &str| context.workloads.tool(name, &request.command);
    let (module, argv) = choose(container, &image.modules, tool, &request.command)?;
    let _stay = context.homes.stay(&request.namespace_uid);
    let code = context.workloads.code(&request.namespace_uid, &module).await;
    let code = code.map_err(|error| match error {
        CompileError::Rejected(what) => format!("module {} cannot run: {what}", module.name),
        CompileError::TooCostly(what) => format!("module {} cannot be compiled: {what}", module.name),
        CompileError::Failed(what) => format!("module {} could not be compiled: {what}", module.name),
    })?;
    Ok((code, argv))
}

/// The very image that the container runs, or what the name in its spec means where its status does not say.
fn image_of(context: &Context, pod: &Value, container: &Value) -> Result<Image, String> {
    let statuses = ["initContainerStatuses", "containerStatuses"].into_iter();
    let mut statuses = statuses.flat_map(|list| spec::items(&pod["status"], list));
    let status = statuses.find(|status| status["name"] == container["name"]);
    let id = status.and_then(|status| status["imageID"].as_str()).unwrap_or_default();
    if let Some(image) = context.workloads.held(id) {
        return Ok(image);
    }
    let name = spec::text(container, "image");
    match context.workloads.local(name, &Keyring::default()).map_err(|error| error.to_string())? {
        // The container runs it already: whether its pod may use it is no question any more.
        Local::Here(image) | Local::Withheld(image) => Ok(image),
        Local::Absent => Err(format!("the container's image \"{name}\" is not on this node any more")),
    }
}

/// The module that `command[0]` names, by its name or its file's; or else one that every container has; or else the
/// container's own, whose arguments the whole command is.
fn choose(
    container: &Value,
    modules: &[ImageModule],
    tool: impl Fn(&str) -> Option<ImageModule>,
    command: &[String],
) -> Result<(ImageModule, Vec<String>), String> {
    let first = command.first().ok_or("there is no command to run")?;
    if command.iter().any(|word| word.contains('\0')) {
        return Err("an argument holds a NUL character".to_owned());
    }
    let file = first.rsplit('/').next().unwrap_or(first);
    let file = file.strip_suffix(".wasm").unwrap_or(file);
    let named = modules.iter().find(|module| module.name == *first);
    if let Some(module) = named.or_else(|| modules.iter().find(|module| module.name == file)) {
        return Ok((module.clone(), command.to_vec()));
    }
    if let Some(tool) = tool(file) {
        return Ok((tool, command.to_vec()));
    }
    let own = env::command_line(container, modules, &[]).map(|(module, _)| module);
    let own = own.ok().or(modules.first()).ok_or("the image holds no module")?;
    Ok((own.clone(), std::iter::once(own.name.clone()).chain(command.iter().cloned()).collect()))
}

#[cfg(test)]
pub(crate) mod tests;
