//! From an image's name to compiled code that a namespace's runner can load.

use crate::pod::volumes;
use async_trait::async_trait;
use coracle_images::{Image, ImageModule, Images, PullError, PullPolicy};
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
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Semaphore;

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
        let shared = Compiler { command, directory, turns: Semaphore::new(PARALLEL_COMPILATIONS_MAX) };
        Ok(Self { images, shared: Arc::new(shared), running: Arc::default(), namespaces: data_dir.join("ns") })
    }

    /// Joins the compilation of this module that is under way, or starts one. It goes on when the caller gives up.
    fn compilation(&self, hex: &str, module: &ImageModule) -> Compilation {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compilation) = running.get(hex) {
            return compilation.clone();
        }
        let (shared, all, hex, wasm) = (self.shared.clone(), self.running.clone(), hex.to_owned(), module.path.clone());
        let key = hex.clone();
        let task = tokio::spawn(async move {
            let result = shared.compile(&hex, &wasm).await;
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
    fn cached(&self, hex: &str) -> Option<(PathBuf, GuestKind)> {
        [GuestKind::Module, GuestKind::Component].into_iter().find_map(|kind| {
            let path = self.directory.join(file_name(hex, kind));
            path.is_file().then_some((path, kind))
        })
    }

    async fn compile(&self, hex: &str, wasm: &Path) -> Result<(PathBuf, GuestKind), CompileError> {
        let failed = |error: &dyn std::fmt::Display| CompileError::Failed(error.to_string());
        let _turn = self.turns.acquire().await.map_err(|error| failed(&error))?;
        if let Some(cached) = self.cached(hex) {
            return Ok(cached);
        }
        // The kind is known only afterwards, and the final name carries it.
        let output = self.directory.join(format!("{hex}.new"));
        let kind = compile::compile(&self.command, wasm, &output).await?;
        let path = self.directory.join(file_name(hex, kind));
        let moved = fs::set_permissions(&output, std::os::unix::fs::PermissionsExt::from_mode(0o444))
            .and_then(|()| fs::rename(&output, &path));
        moved.map_err(|error| failed(&error))?;
        Ok((path, kind))
    }
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
        let (compiled, kind) = match self.shared.cached(&hex) {
            Some(cached) => cached,
            None => self.compilation(&hex, module).await?,
        };
        let path = Path::new("code").join(file_name(&hex, kind));
        let target = self.namespaces.join(namespace_uid).join(&path);
        link(&compiled, &target)
            .map_err(|error| CompileError::Failed(format!("cannot link the compiled code: {error}")))?;
        Ok(Code { path, kind })
    }
}
