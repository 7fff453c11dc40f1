//! From an image's name to compiled code that a namespace's runner can load.

use crate::pod::volumes;
use async_trait::async_trait;
use coracle_images::{Image, ImageModule, Images, PullError, PullPolicy, file_sha256};
use coracle_runner::{
    compile::{self, CompileError},
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
};
use tokio::sync::Semaphore;
use tracing::warn;

/// Compilations at one time: each uses several cores already.
const PARALLEL_COMPILATIONS_MAX: usize = 1;

/// Where compiled code is, relative to its runner's root, and how to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) path: PathBuf,
    pub(crate) kind: GuestKind,
}

/// What a pod needs of images and the compiler.
#[async_trait]
pub(crate) trait Workloads: Send + Sync + 'static {
    /// The image if it is here.
    fn local(&self, reference: &str) -> Result<Option<Image>, PullError>;

    /// Makes sure that the image is here.
    async fn pull(&self, reference: &str, policy: PullPolicy) -> Result<Image, PullError>;

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
}

struct Compiler {
    command: Vec<OsString>,
    directory: PathBuf,
    turns: Semaphore,
    /// Compiled files whose checksum this process has seen to be right.
    sound: Mutex<HashMap<String, (PathBuf, GuestKind)>>,
}

impl LocalWorkloads {
    /// `program` is the command line to which `compile` is appended; code of other engines below `data_dir` is removed.
    pub(crate) fn open(images: Images, data_dir: &Path, program: &[OsString]) -> io::Result<Self> {
        let all = data_dir.join("compiled");
        let directory = all.join(compile::engine_fingerprint());
        fs::create_dir_all(&directory)?;
        for other in fs::read_dir(&all)? {
            let other = other?.path();
            if other != directory {
                volumes::remove(&other)?;
            }
        }
        let command = program.iter().cloned().chain([OsString::from("compile")]).collect();
        let turns = Semaphore::new(PARALLEL_COMPILATIONS_MAX);
        let shared = Compiler { command, directory, turns, sound: Mutex::default() };
        Ok(Self { images, shared: Arc::new(shared), running: Arc::default(), namespaces: data_dir.join("ns") })
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
    /// Compiled code that this process knows to be whole.
    fn known(&self, hex: &str) -> Option<(PathBuf, GuestKind)> {
        let known = self.sound.lock().unwrap_or_else(PoisonError::into_inner).get(hex).cloned();
        known.filter(|(path, _)| path.is_file())
    }

    async fn sound_or_compiled(
        self: Arc<Self>,
        hex: &str,
        module: ImageModule,
    ) -> Result<(PathBuf, GuestKind), CompileError> {
        let failed = |error: &dyn std::fmt::Display| CompileError::Failed(error.to_string());
        let _turn = self.turns.acquire().await.map_err(|error| failed(&error))?;
        if let Some(known) = self.known(hex) {
            return Ok(known);
        }
        let (directory, digest) = (self.directory.clone(), hex.to_owned());
        let found = blocking(move || Ok(find_sound(&directory, &digest))).await.map_err(|error| failed(&error))?;
        let code = match found {
            Some(sound) => sound,
            None => self.compile(hex, module).await?,
        };
        self.sound.lock().unwrap_or_else(PoisonError::into_inner).insert(hex.to_owned(), code.clone());
        Ok(code)
    }

    async fn compile(&self, hex: &str, module: ImageModule) -> Result<(PathBuf, GuestKind), CompileError> {
        let failed = |error: &dyn std::fmt::Display| CompileError::Failed(error.to_string());
        let wasm = module.path.clone();
        if !blocking(move || module.verify()).await.map_err(|error| failed(&error))? {
            return Err(failed(&"its bytes were damaged on disk; they will be pulled again"));
        }
        // The kind is known only afterwards, and the final name carries it.
        let output = self.directory.join(format!("{hex}.new"));
        let kind = compile::compile(&self.command, &wasm, &output).await?;
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
    fn local(&self, reference: &str) -> Result<Option<Image>, PullError> {
        self.images.local(reference)
    }

    async fn pull(&self, reference: &str, policy: PullPolicy) -> Result<Image, PullError> {
        self.images.ensure(reference, policy).await
    }

    async fn code(&self, namespace_uid: &str, module: &ImageModule) -> Result<Code, CompileError> {
        let hex = module.digest.trim_start_matches("sha256:").to_owned();
        let (compiled, kind) = match self.shared.known(&hex) {
            Some(known) => known,
            None => self.compilation(&hex, module).await?,
        };
        let path = Path::new("code").join(file_name(&hex, kind));
        let target = self.namespaces.join(namespace_uid).join(&path);
        link(&compiled, &target)
            .map_err(|error| CompileError::Failed(format!("cannot link the compiled code: {error}")))?;
        Ok(Code { path, kind })
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
}
