//! From an image's name to compiled code that a namespace's runner can load.

pub(crate) mod collect;

use crate::{pod::volumes, tools::Tools};
use async_trait::async_trait;
use collect::{Collector, Goal, Wanted};
use coracle_images::{Image, ImageModule, Images, Local, PullError, PullPolicy, file_sha256};
use coracle_objects::registry_auth::Keyring;
use coracle_runner::{
    compile::{self, CompileError, CompileLimits},
    protocol::GuestKind,
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

/// Compilations at one time: each uses several cores already.
const PARALLEL_COMPILATIONS_MAX: usize = 1;
/// Compilations that have used up the others' patience, and go on beside them.
const SLOW_COMPILATIONS_MAX: usize = 1;
/// How long a compilation may keep each other one waiting.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a module that hit the compiler's limits is refused without another try, and how many are remembered.
const REFUSED_FOR: Duration = Duration::from_mins(30);
const REFUSED_MAX: usize = 1024;
/// How often code is compiled for one container that is taken away before it is linked.
const LINKS_MAX: usize = 3;

/// Where compiled code is, relative to its runner's root, and how to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) path: PathBuf,
    pub(crate) kind: GuestKind,
}

/// What a pod needs of images and the compiler.
#[async_trait]
pub(crate) trait Workloads: Send + Sync + 'static {
    /// What is here for a name, and for one with these credentials.
    fn local(&self, reference: &str, keyring: &Keyring) -> Result<Local, PullError>;

    /// The image that a container runs, by the id in its status, if it is still here.
    fn held(&self, id: &str) -> Option<Image>;

    /// The module of a command that every container has; `name` is what the command's first word names.
    fn tool(&self, name: &str, command: &[String]) -> Option<ImageModule>;

    /// Makes sure that the image is here.
    async fn pull(&self, reference: &str, policy: PullPolicy, keyring: &Keyring) -> Result<Image, PullError>;

    /// Removes images and compiled code that nobody wants, until enough space has been given back; answers how many bytes
    /// that were.
    async fn collect(&self, wanted: Wanted, goal: Goal) -> io::Result<u64>;

    /// Compiled code of a module, within reach of the namespace's runner.
    async fn code(&self, namespace_uid: &str, module: &ImageModule) -> Result<Code, CompileError>;
}

type Compilation = Shared<BoxFuture<'static, Result<(PathBuf, GuestKind), CompileError>>>;

/// [`Workloads`] over the content store and the compiler process. Code is compiled once per digest and engine and
/// then linked into each namespace that runs it.
pub(crate) struct LocalWorkloads {
    images: Images,
    shared: Arc<Compiler>,
    running: Arc<Mutex<HashMap<String, Compilation>>>,
    namespaces: PathBuf,
    tools: Tools,
}

struct Compiler {
    command: Vec<OsString>,
    directory: PathBuf,
    limits: CompileLimits,
    turns: Semaphore,
    /// For those that took longer than [`PATIENCE`].
    slow: Semaphore,
    patience: Duration,
    /// Modules that hit a limit, and when.
    refused: Mutex<HashMap<String, (Instant, CompileError)>>,
    /// Compiled files whose checksum this process has seen to be right.
    sound: Mutex<HashMap<String, (PathBuf, GuestKind)>>,
}

impl LocalWorkloads {
    /// `program` is the command line to which `compile` is appended; code of other engines below `data_dir` is removed.
    pub(crate) fn open(
        images: Images,
        data_dir: &Path,
        program: &[OsString],
        limits: CompileLimits,
    ) -> io::Result<Self> {
        let all = data_dir.join("compiled");
        let directory = all.join(compile::engine_fingerprint());
        fs::create_dir_all(&directory)?;
        for other in fs::read_dir(&all)? {
            let other = other?.path();
            if other != directory {
                volumes::remove(&other)?;
            }
        }
        remove_unfinished(&directory)?;
        let command = program.iter().cloned().chain([OsString::from("compile")]).collect();
        let shared = Compiler::new(command, directory, limits);
        Ok(Self {
            images,
            shared: Arc::new(shared),
            running: Arc::default(),
            namespaces: data_dir.join("ns"),
            tools: Tools::open(data_dir)?,
        })
    }

    /// Joins the compilation of this module that is under way, or starts one. It goes on when the caller gives up.
    fn compilation(&self, hex: &str, module: &ImageModule) -> Compilation {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compilation) = running.get(hex) {
            return compilation.clone();
        }
        let (shared, all, hex, module) = (self.shared.clone(), self.running.clone(), hex.to_owned(), module.clone());
        let key = hex.clone();
        let task = tokio::spawn(async move {
            let result = shared.sound_or_compiled(&hex, module).await;
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&hex);
            result
        });
        let interrupted = |_| Err(CompileError::Failed("interrupted".to_owned()));
        let compilation = task.map(move |joined| joined.unwrap_or_else(interrupted)).boxed().shared();
        running.insert(key, compilation.clone());
        compilation
    }
}

fn file_name(hex: &str, kind: GuestKind) -> String {
    let kind = match kind {
        GuestKind::Module => "module",
        GuestKind::Component => "component",
    };
    format!("{hex}.{kind}.cwasm")
}

impl Compiler {
    fn new(command: Vec<OsString>, directory: PathBuf, limits: CompileLimits) -> Self {
        Self {
            command,
            directory,
            limits,
            turns: Semaphore::new(PARALLEL_COMPILATIONS_MAX),
            slow: Semaphore::new(SLOW_COMPILATIONS_MAX),
            patience: PATIENCE,
            refused: Mutex::default(),
            sound: Mutex::default(),
        }
    }

    /// Compiled code that this process knows to be whole.
    fn known(&self, hex: &str) -> Option<(PathBuf, GuestKind)> {
        let known = self.sound.lock().unwrap_or_else(PoisonError::into_inner).get(hex).cloned();
        known.filter(|(path, _)| path.is_file())
    }

    /// Code that is here already, or a compilation in its turn. A module that takes longer than [`PATIENCE`] makes
    /// room: it goes on beside the others if nothing else does, and otherwise begins anew when that is through.
    async fn sound_or_compiled(
        self: Arc<Self>,
        hex: &str,
        module: ImageModule,
    ) -> Result<(PathBuf, GuestKind), CompileError> {
        let failed = |error: &dyn std::fmt::Display| CompileError::Failed(error.to_string());
        let turn = self.turns.acquire().await.map_err(|error| failed(&error))?;
        if let Some(known) = self.known(hex) {
            return Ok(known);
        }
        let (directory, digest) = (self.directory.clone(), hex.to_owned());
        let found = blocking(move || Ok(find_sound(&directory, &digest))).await.map_err(|error| failed(&error))?;
        let result = match (found, self.refusal(hex)) {
            (Some(sound), _) => Ok(sound),
            (None, Some(refusal)) => Err(refusal),
            (None, None) => {
                let mut compiling = Box::pin(self.compile(hex, module.clone()));
                match timeout(self.patience, &mut compiling).await {
                    Ok(result) => result,
                    Err(_) => {
                        if let Ok(_place) = self.slow.try_acquire() {
                            drop(turn);
                            compiling.await
                        } else {
                            // Ends the process.
                            drop(compiling);
                            drop(turn);
                            let _place = self.slow.acquire().await.map_err(|error| failed(&error))?;
                            self.compile(hex, module).await
                        }
                    }
                }
            }
        };
        match &result {
            Ok(code) => {
                self.sound.lock().unwrap_or_else(PoisonError::into_inner).insert(hex.to_owned(), code.clone());
            }
            Err(error @ CompileError::TooCostly(_)) => self.refuse(hex, error),
            Err(_) => {}
        }
        result
    }

    /// A limit that this module hit not long ago: it would hit it again.
    fn refusal(&self, hex: &str) -> Option<CompileError> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(hex).filter(|(at, _)| at.elapsed() < REFUSED_FOR).map(|(_, error)| error.clone())
    }

    fn refuse(&self, hex: &str, error: &CompileError) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, (at, _)| at.elapsed() < REFUSED_FOR);
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        refused.entry(hex.to_owned()).or_insert_with(|| (Instant::now(), error.clone()));
    }

    async fn compile(&self, hex: &str, module: ImageModule) -> Result<(PathBuf, GuestKind), CompileError> {
        let failed = |error: &dyn std::fmt::Display| CompileError::Failed(error.to_string());
        let wasm = module.path.clone();
        if !blocking(move || module.verify()).await.map_err(|error| failed(&error))? {
            return Err(failed(&"its bytes were damaged on disk; they will be pulled again"));
        }
        // The kind is known only afterwards, and the final name carries it.
        let output = self.directory.join(format!("{hex}.new"));
        let kind = compile::compile_within(&self.command, &wasm, &output, &self.limits).await?;
        let path = self.directory.join(file_name(hex, kind));
        let target = path.clone();
        blocking(move || keep(&output, &target)).await.map_err(|error| failed(&error))?;
        Ok((path, kind))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("it was interrupted")))
}

/// Compiled code of a module whose bytes are what the compiler wrote: anything else would be run as it is, unchecked.
/// What is not sound is removed.
fn find_sound(directory: &Path, hex: &str) -> Option<(PathBuf, GuestKind)> {
    [GuestKind::Module, GuestKind::Component].into_iter().find_map(|kind| {
        let path = directory.join(file_name(hex, kind));
        if !path.exists() {
            return None;
        }
        let actual = file_sha256(&path).ok()?;
        if fs::read_to_string(checksum_path(&path)).is_ok_and(|expected| expected == actual) {
            return Some((path, kind));
        }
        warn!(path = %path.display(), "compiled code was damaged on disk and is compiled again");
        if let Err(error) = fs::remove_file(&path) {
            warn!(path = %path.display(), %error, "cannot remove it");
        }
        None
    })
}

fn checksum_path(compiled: &Path) -> PathBuf {
    compiled.with_extension("sha256")
}

/// Removes what an agent left that was killed amid compilations: perhaps nobody wants that code again, so that no other
/// attempt would. Nothing may be compiled into `directory` meanwhile.
fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        let file = file?.path();
        let code = file.with_extension("cwasm");
        let is_kept = file == code || (file == checksum_path(&code) && code.exists());
        if !is_kept {
            volumes::remove(&file)?;
        }
    }
    Ok(())
}

/// Gives compiled code its name, after its checksum is on disk.
fn keep(output: &Path, target: &Path) -> io::Result<()> {
    let mut checksum = File::create(checksum_path(target))?;
    checksum.write_all(file_sha256(output)?.as_bytes())?;
    checksum.sync_all()?;
    fs::set_permissions(output, std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
    fs::rename(output, target)
}

/// Puts a read-only file within a namespace's reach: the same bytes on disk and in memory for all of them.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::copy(from, to).map(drop),
    }
}

#[async_trait]
impl Workloads for LocalWorkloads {
    fn local(&self, reference: &str, keyring: &Keyring) -> Result<Local, PullError> {
        self.images.local(reference, keyring)
    }

    fn held(&self, id: &str) -> Option<Image> {
        self.images.held(id)
    }

    fn tool(&self, name: &str, command: &[String]) -> Option<ImageModule> {
        self.tools.module(name, command)
    }

    async fn pull(&self, reference: &str, policy: PullPolicy, keyring: &Keyring) -> Result<Image, PullError> {
        self.images.ensure(reference, policy, keyring).await
    }

    async fn code(&self, namespace_uid: &str, module: &ImageModule) -> Result<Code, CompileError> {
        let hex = module.digest.trim_start_matches("sha256:").to_owned();
        let linked = |kind| {
            let path = Path::new("code").join(file_name(&hex, kind));
            (self.namespaces.join(namespace_uid).join(&path), Code { path, kind })
        };
        for _ in 0..LINKS_MAX {
            let (compiled, kind) = match self.shared.known(&hex) {
                Some(known) => known,
                None => self.compilation(&hex, module).await?,
            };
            let (target, code) = linked(kind);
            // Held, lest it is taken away meanwhile for a lack of space: then it is compiled again.
            let sound = self.shared.sound.lock().unwrap_or_else(PoisonError::into_inner);
            match link(&compiled, &target) {
                Ok(()) => return Ok(code),
                Err(error) if error.kind() == io::ErrorKind::NotFound => drop(sound),
                Err(error) => return Err(CompileError::Failed(format!("cannot link the compiled code: {error}"))),
            }
        }
        Err(CompileError::Failed("its compiled code was taken away again and again".to_owned()))
    }

    async fn collect(&self, wanted: Wanted, goal: Goal) -> io::Result<u64> {
        let (images, compiler, namespaces) = (self.images.clone(), self.shared.clone(), self.namespaces.clone());
        Collector { images, compiler, namespaces }.collect(wanted, goal).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_compiler_wrote_is_loaded() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("none", |_| {}),
            ("truncated", |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap()),
            ("changed", |path| fs::write(path, "nAtive code").unwrap()),
            ("no checksum", |path| fs::remove_file(checksum_path(path)).unwrap()),
            ("no code", |path| fs::remove_file(path).unwrap()),
        ];
        for (what, damage) in damages {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(file_name("ab", GuestKind::Component));
            let output = directory.path().join("ab.new");
            fs::write(&output, "native code").unwrap();
            keep(&output, &path).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
            damage(&path);
            let found = find_sound(directory.path(), "ab");
            assert_eq!(found, (what == "none").then(|| (path.clone(), GuestKind::Component)), "{what}");
            assert_eq!(path.exists(), what == "none", "{what}");
        }
    }

    #[test]
    fn only_finished_code_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let kept = ["ab.module.cwasm", "ab.module.sha256"];
        for name in [&kept[..], &["cd.component.sha256", "cd.new", ".ef.new.tmp"]].concat() {
            fs::write(directory.path().join(name), name).unwrap();
        }
        remove_unfinished(directory.path()).unwrap();
        let names = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name());
        let mut left: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, kept);
    }

    /// A compiler that is a shell script; it sees the wasm file as `$1` before last and the output last.
    fn scripted(directory: &Path, patience: Duration, script: &str) -> Arc<Compiler> {
        let script = format!("for last; do before=$wasm; wasm=$last; done; output=$last; wasm=$before; {script}");
        let command = ["/bin/sh", "-c", &script, "compile"].map(OsString::from).to_vec();
        let compiler = Compiler::new(command, directory.to_owned(), CompileLimits::default());
        Arc::new(Compiler { patience, ..compiler })
    }

    fn module(directory: &Path, name: &str) -> (String, ImageModule) {
        let path = directory.join(name);
        fs::write(&path, name).unwrap();
        let hex = file_sha256(&path).unwrap();
        (hex.clone(), ImageModule { name: name.to_owned(), digest: format!("sha256:{hex}"), path })
    }

    #[tokio::test]
    async fn a_slow_compilation_does_not_keep_others_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let script =
            "case $wasm in *slow*) while ! [ -e $wasm.go ]; do sleep 0.01; done;; esac; echo x >$output; echo module";
        // What is quick has to be so on a busy machine too.
        let compiler = scripted(directory.path(), Duration::from_secs(5), script);
        let compile = |name: &str| {
            let (hex, module) = module(directory.path(), name);
            let compiler = compiler.clone();
            tokio::spawn(async move { compiler.sound_or_compiled(&hex, module).await })
        };
        let (one, two) = (compile("slow-1"), compile("slow-2"));
        for name in ["quick-1", "quick-2"] {
            compile(name).await.unwrap().unwrap();
        }
        assert!(!one.is_finished() && !two.is_finished());
        for name in ["slow-1", "slow-2"] {
            fs::write(directory.path().join(format!("{name}.go")), "").unwrap();
        }
        one.await.unwrap().unwrap();
        two.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_hit_a_limit_is_not_tried_again_soon() {
        let directory = tempfile::tempdir().unwrap();
        let compiler = scripted(directory.path(), PATIENCE, "echo try >>$wasm.tries; kill -XCPU $$");
        let (hex, module) = module(directory.path(), "bomb");
        for _ in 0..3 {
            let result = compiler.clone().sound_or_compiled(&hex, module.clone()).await;
            assert!(
                matches!(&result, Err(CompileError::TooCostly(what)) if what.contains("processor time")),
                "{result:?}"
            );
        }
        assert_eq!(fs::read_to_string(directory.path().join("bomb.tries")).unwrap(), "try\n");
    }

    #[tokio::test]
    async fn compiled_code_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (hex, module) = module(directory.path(), "guest");
        let script = "echo try >>$wasm.tries; echo code >$output; echo component";
        for _ in 0..2 {
            let compiler = scripted(directory.path(), PATIENCE, script);
            let (path, kind) = compiler.sound_or_compiled(&hex, module.clone()).await.unwrap();
            assert_eq!((fs::read_to_string(path).unwrap().as_str(), kind), ("code\n", GuestKind::Component));
        }
        assert_eq!(fs::read_to_string(directory.path().join("guest.tries")).unwrap(), "try\n", "compiled once");
    }
}
