//! Compiling guests, in a short-lived process with limits.
//!
//! A compiler reads what strangers wrote, so it runs where it can do little: no environment, bounded memory and time,
//! its output one file and one line, both open before it reads the first byte, and no other file within its reach. What is refused here never becomes a container: all imports are checked against
//! what the runner provides.

pub(crate) mod bulk;
mod inspect;

use crate::{
    child,
    code::{self, Code, START},
    confine,
    engine::{self, EngineOptions},
    host::linker::Linkers,
    protocol::GuestKind,
    spawner,
};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use std::{
    borrow::Cow,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time,
};
use wasmtime::{Engine, ExternType, Module, component::Component};

/// Most and least address space of the compiler: an 18 MB Python component needs about a gigabyte.
const ADDRESS_SPACE_BYTES: (u64, u64) = (1 << 30, 8 << 30);
/// Processor time over all threads.
const CPU_SECONDS_DEFAULT: u64 = 300;
/// What a process gets beyond its processor time to say so before it is killed.
const CPU_SECONDS_GRACE: u64 = 5;
/// Largest file that is compiled.
const MAX_WASM_BYTES: u64 = 256 << 20;
/// Largest output.
const MAX_OUTPUT_BYTES: u64 = 2 << 30;
/// Time on the wall for each second of processor time: the machine may be busy.
const WALL_PER_CPU: u32 = 4;
/// Most that is read of the process's output and error.
const MAX_REPORT_BYTES: u64 = 16 << 10;
/// By these words the engine's compiler gives up, in a panic, on code that would reach into two memories. It makes such
/// code itself, where components within a component pass strings or lists: copied in one go, however long.
const NEEDS_SEVERAL_MEMORIES: &str = "invalid adapter module generated: multiple memories";
const COMPOSED: &str = "the components that it is composed of pass strings or lists to each other, which this node does \
                        not support";
/// Exit code that says: the guest is at fault, and standard error says why.
const REJECTED: u8 = 65;

/// Why a workload cannot be compiled. The text names what is wrong, e.g. the import that nobody provides.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompileError {
    /// Not WebAssembly, truncated, invalid, or with an unknown import.
    #[error("{0}")]
    Rejected(String),
    /// It would take more memory or time than a compilation gets.
    #[error("{0}")]
    TooCostly(String),
    /// The compiler process failed.
    #[error("the compiler process failed: {0}")]
    Failed(String),
}

/// What this build of the engine can load: part of a compiled file's cache key.
#[must_use]
pub fn engine_fingerprint() -> String {
    engine::fingerprint().to_owned()
}

/// What one compilation may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Address space.
    pub memory_bytes: u64,
    /// Memory of its own that it may write to: less than the machine has, lest it takes what runs already.
    pub own_bytes: u64,
    /// Processor time over all threads; four times as much on the wall.
    pub cpu_seconds: u64,
    /// User and group that it becomes; none where it stays whoever the agent is.
    pub user: Option<u32>,
}

impl Default for CompileLimits {
    /// Half of this machine's memory within bounds, and five minutes.
    fn default() -> Self {
        let (least, most) = ADDRESS_SPACE_BYTES;
        let memory_bytes = machine_memory_bytes().map_or(most, |bytes| (bytes / 2).clamp(least, most));
        Self { memory_bytes, own_bytes: memory_bytes, cpu_seconds: CPU_SECONDS_DEFAULT, user: None }
    }
}

fn machine_memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// [`compile_within`] the usual limits.
///
/// # Errors
/// See [`CompileError`].
pub async fn compile(command: &[OsString], wasm: &Path, output: &Path) -> Result<GuestKind, CompileError> {
    compile_within(command, wasm, output, &CompileLimits::default()).await
}

/// Compiles `wasm` to `output` (written atomically) in a child process started by `command`
/// (e.g. `[current_exe, "compile"]`), and says what kind of guest it is. Dropping the future ends the process.
///
/// # Errors
/// See [`CompileError`].
pub async fn compile_within(
    command: &[OsString],
    wasm: &Path,
    output: &Path,
    limits: &CompileLimits,
) -> Result<GuestKind, CompileError> {
    let failed = |error: &dyn std::fmt::Display| CompileError::Failed(error.to_string());
    let (program, arguments) = command.split_first().ok_or_else(|| failed(&"no program to run"))?;
    let unfinished = Unfinished::beside(output).map_err(|error| failed(&error))?;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .arg(MEMORY_FLAG)
        .arg(limits.memory_bytes.to_string())
        .arg(OWN_MEMORY_FLAG)
        .arg(limits.own_bytes.to_string())
        .arg(CPU_FLAG)
        .arg(limits.cpu_seconds.to_string());
    if let Some(user) = limits.user {
        process.arg(child::USER_FLAG).arg(user.to_string());
    }
    process
        .arg(wasm)
        .arg(&unfinished.0)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let child = spawner::spawn(process).await.map_err(|error| failed(&error))?;
    let beside = output.parent().unwrap_or(Path::new("."));
    let _root = child.id().map(|process| EmptyRoot(confine::compiler_root(beside, process)));
    let wall = Duration::from_secs(limits.cpu_seconds).saturating_mul(WALL_PER_CPU);
    match time::timeout(wall, outcome(child, limits)).await {
        Ok(Ok(outcome)) => {
            let kind = outcome?;
            let output = output.to_owned();
            let finished = tokio::task::spawn_blocking(move || unfinished.finish(&output)).await;
            finished.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            Ok(kind)
        }
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(CompileError::TooCostly(format!("compiling it takes more than {} s", wall.as_secs()))),
    }
}

async fn outcome(mut child: Child, limits: &CompileLimits) -> io::Result<Result<GuestKind, CompileError>> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (report, complaint) = tokio::try_join!(text(stdout), text(stderr))?;
    let status = child.wait().await?;
    if let Some(excess) = excess(status, &complaint, limits) {
        return Ok(Err(CompileError::TooCostly(excess)));
    }
    Ok(match (status.code(), report.trim()) {
        (Some(0), "component") => Ok(GuestKind::Component),
        (Some(0), "module") => Ok(GuestKind::Module),
        (Some(code), _) if code == i32::from(REJECTED) => Err(CompileError::Rejected(complaint.trim().to_owned())),
        _ if complaint.contains(NEEDS_SEVERAL_MEMORIES) => Err(CompileError::Rejected(COMPOSED.to_owned())),
        _ => Err(CompileError::Failed(format!("{status}; {}", complaint.trim()))),
    })
}

/// Which limit a process hit that ended so, if any.
fn excess(status: ExitStatus, complaint: &str, limits: &CompileLimits) -> Option<String> {
    if status.success() {
        return None;
    }
    if status.signal() == Some(Signal::SIGXCPU as i32) {
        return Some(format!("compiling it takes more than {} s of processor time", limits.cpu_seconds));
    }
    // Words of the standard library, of the system, and of a thread that cannot be started.
    let wants_memory = ["memory allocation of", "Cannot allocate memory", "os error 12", "failed to spawn thread"];
    if wants_memory.iter().any(|words| complaint.contains(words)) {
        let least = within_own(Resource::RLIMIT_AS, limits.memory_bytes.min(limits.own_bytes)).unwrap_or(u64::MAX);
        return Some(format!("compiling it takes more than {} MiB of memory", least >> 20));
    }
    complaint.contains("has overflowed its stack").then(|| "it is nested too deeply for the compiler".to_owned())
}

async fn text(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(MAX_REPORT_BYTES).read_to_end(&mut bytes).await?;
        // What is beyond the limit is thrown away, so that the writer does not wait.
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Flags of the limits.
const MEMORY_FLAG: &str = "--memory-bytes";
const OWN_MEMORY_FLAG: &str = "--own-memory-bytes";
const CPU_FLAG: &str = "--cpu-seconds";

/// Entry point of the compiler process:
/// `compile [--memory-reservation-bytes N] [--memory-bytes N] [--own-memory-bytes N] [--cpu-seconds N] [--user N] WASM OUTPUT`. `OUTPUT` must not
/// be there yet.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let done = Arguments::parse(arguments).and_then(|arguments| {
        let (input, output) = confined(&arguments)?;
        run(arguments.engine, input, output)
    });
    match done {
        Ok(GuestKind::Component) => report("component"),
        Ok(GuestKind::Module) => report("module"),
        Err(fault) => failed(fault),
    }
}

/// For `tests/escape` and nobody else: a compiler up to the moment at which it would read a stranger's bytes, and then
/// `intruder` in the place of a compiler that those bytes have taken over. No command line leads here.
#[doc(hidden)]
#[must_use]
pub fn main_taken_over_for_tests(arguments: &[String], intruder: fn() -> ExitCode) -> ExitCode {
    match Arguments::parse(arguments).and_then(|arguments| confined(&arguments)) {
        Ok(_held) => intruder(),
        Err(fault) => failed(fault),
    }
}

/// Opens the input and the output, and gives up all else.
fn confined(arguments: &Arguments) -> Result<(File, File), Fault> {
    let (input, output) = (File::open(&arguments.wasm)?, new_file(&arguments.output)?);
    limit(&arguments.limits)?;
    let beside = arguments.output.parent().unwrap_or(Path::new("."));
    confine::compiler(arguments.limits.user, beside)?;
    Ok((input, output))
}

fn failed(fault: Fault) -> ExitCode {
    let (line, code) = match fault {
        Fault::Guest(text) => (text, ExitCode::from(REJECTED)),
        Fault::Other(text) => (text, ExitCode::FAILURE),
    };
    let _ = writeln!(io::stderr(), "{line}");
    code
}

fn report(kind: &str) -> ExitCode {
    if writeln!(io::stdout(), "{kind}").is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whose fault it is that there is no output.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Guest(String),
    Other(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

fn limit(limits: &CompileLimits) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_AS, limits.memory_bytes),
        (Resource::RLIMIT_DATA, limits.own_bytes),
        (Resource::RLIMIT_FSIZE, MAX_OUTPUT_BYTES),
    ] {
        let limit = within_own(resource, limit)?;
        setrlimit(resource, limit, limit)?;
    }
    let cpu_hard = within_own(Resource::RLIMIT_CPU, limits.cpu_seconds.saturating_add(CPU_SECONDS_GRACE))?;
    Ok(setrlimit(Resource::RLIMIT_CPU, limits.cpu_seconds.min(cpu_hard), cpu_hard)?)
}

/// A limit, or the one that this process has already where that is lower: an ordinary user cannot raise it.
fn within_own(resource: Resource, limit: u64) -> nix::Result<u64> {
    Ok(limit.min(getrlimit(resource)?.1))
}

struct Arguments {
    engine: EngineOptions,
    limits: CompileLimits,
    wasm: PathBuf,
    output: PathBuf,
}

impl Arguments {
    fn parse(words: &[String]) -> Result<Self, Fault> {
        let usage = || {
            let flags = [EngineOptions::FLAG, MEMORY_FLAG, OWN_MEMORY_FLAG, CPU_FLAG, child::USER_FLAG]
                .map(|flag| format!("[{flag} N]"))
                .join(" ");
            Fault::Other(format!("usage: compile {flags} WASM OUTPUT"))
        };
        let Some((flags, [wasm, output])) = words.split_last_chunk::<2>() else { return Err(usage()) };
        let mut parsed = Self {
            engine: EngineOptions::default(),
            limits: CompileLimits::default(),
            wasm: wasm.into(),
            output: output.into(),
        };
        for pair in flags.chunks(2) {
            let [flag, value] = pair else { return Err(usage()) };
            match flag.as_str() {
                EngineOptions::FLAG => parsed.engine = EngineOptions::parse(value).ok_or_else(usage)?,
                MEMORY_FLAG => parsed.limits.memory_bytes = value.parse().map_err(|_| usage())?,
                OWN_MEMORY_FLAG => parsed.limits.own_bytes = value.parse().map_err(|_| usage())?,
                child::USER_FLAG => parsed.limits.user = Some(value.parse().map_err(|_| usage())?),
                CPU_FLAG => parsed.limits.cpu_seconds = value.parse().map_err(|_| usage())?,
                _ => return Err(usage()),
            }
        }
        Ok(parsed)
    }
}

fn run(engine: EngineOptions, input: File, mut output: File) -> Result<GuestKind, Fault> {
    let wasm = read(input)?;
    let engine = engine.compiler().map_err(|error| Fault::Other(format!("{error:#}")))?;
    let (kind, code) = compiled(&engine, &wasm)?;
    output.write_all(&code)?;
    output.sync_all()?;
    Ok(kind)
}

fn read(file: File) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    file.take(MAX_WASM_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_WASM_BYTES {
        return Err(Fault::Guest(format!("larger than {} MiB", MAX_WASM_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Compiles and checks that a runner could start it.
fn compiled(engine: &Engine, wasm: &[u8]) -> Result<(GuestKind, Vec<u8>), Fault> {
    let kind = inspect::kind(wasm).map_err(Fault::Guest)?;
    let linkers = Linkers::new(engine).map_err(|error| Fault::Other(format!("{error:#}")))?;
    let wasm = &rewritten(engine, kind, wasm)?;
    let serialized = match kind {
        GuestKind::Component => {
            let component = Component::new(engine, wasm).map_err(|error| invalid(&error))?;
            inspect::component_can_start(engine, &component).map_err(Fault::Guest)?;
            let needed = code::needs(&component).map_err(|error| Fault::Guest(error.to_string()))?;
            inspect::fits(&needed).map_err(Fault::Guest)?;
            Code::component(&linkers, &component)
                .map_err(|error| Fault::Guest(inspect::component_link_error(engine, &component, &error)))?;
            component.serialize()
        }
        GuestKind::Module => {
            let module = Module::new(engine, wasm).map_err(|error| invalid(&error))?;
            check_start(&module)?;
            inspect::fits(&module.resources_required()).map_err(Fault::Guest)?;
            Code::module(&linkers, &module).map_err(|error| Fault::Guest(inspect::module_link_error(&error)))?;
            module.serialize()
        }
    };
    Ok((kind, serialized.map_err(|error| Fault::Other(format!("{error:#}")))?))
}

fn invalid(error: &wasmtime::Error) -> Fault {
    Fault::Guest(format!("invalid WebAssembly: {error:#}"))
}

/// The guest with bulk memory instructions that can be interrupted.
fn rewritten<'a>(engine: &Engine, kind: GuestKind, wasm: &'a [u8]) -> Result<Cow<'a, [u8]>, Fault> {
    let validate = |module: &[u8]| Module::validate(engine, module).map_err(|error| format!("{error:#}"));
    bulk::in_pieces(wasm, bulk::PIECE_BYTES, &validate).map_err(|reason| {
        // What is wrong with it as it came is worth more than what hindered us: offsets are those that its author knows.
        let refused = match kind {
            GuestKind::Component => Component::new(engine, wasm).err(),
            GuestKind::Module => Module::new(engine, wasm).err(),
        };
        refused.map_or_else(
            || Fault::Guest(format!("its bulk memory instructions cannot be made interruptible: {reason}")),
            |error| invalid(&error),
        )
    })
}

fn check_start(module: &Module) -> Result<(), Fault> {
    match module.get_export(START) {
        Some(ExternType::Func(start)) if start.params().len() == 0 && start.results().len() == 0 => Ok(()),
        Some(_) => Err(Fault::Guest(format!("the module's export \"{START}\" is not a function without arguments"))),
        None => Err(Fault::Guest(format!("the module does not export \"{START}\": it is a library, not a command"))),
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// A compiler's root directory, which it removes itself unless it is killed in that moment.
struct EmptyRoot(PathBuf);

impl Drop for EmptyRoot {
    fn drop(&mut self) {
        // Mostly it is not there.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Output that is not whole yet; removed unless it is finished.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(output: &Path) -> io::Result<Self> {
        let name = output.file_name().ok_or_else(|| io::Error::other("the output has no file name"))?;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".tmp");
        let unfinished = Self(output.with_file_name(temporary));
        // What an agent left that was killed.
        unfinished.remove()?;
        Ok(unfinished)
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A reader sees the old file, no file or the whole new one, also after a power cut.
    fn finish(self, output: &Path) -> io::Result<()> {
        fs::rename(&self.0, output)?;
        let directory = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Whatever cannot be removed now is removed by the next attempt.
        let _ = self.remove();
    }
}

#[cfg(test)]
mod tests;
