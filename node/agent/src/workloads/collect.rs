//! Taking away images and compiled code that nothing uses: whatever no image here needs first, then images, the one that
//! was unused for longest first.

use super::{Compiler, blocking, checksum_path};
use coracle_images::{Images, StoredImage, Swept};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};
use tracing::info;

/// Size of the blocks that the kernel counts a file's space in.
const BLOCK_BYTES: u64 = 512;

/// What pods want of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As their specs name them.
    pub(crate) references: BTreeSet<String>,
    /// As their statuses name what runs.
    pub(crate) ids: BTreeSet<String>,
}

/// How much is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Goal {
    /// Nothing more goes when this much space has been given back.
    pub(crate) bytes: u64,
    /// What was used within this time stays.
    pub(crate) unused_for: Duration,
}

/// Where everything is.
pub(super) struct Collector {
    pub(super) images: Images,
    pub(super) compiler: Arc<Compiler>,
    /// Below it, each namespace has links to the code that it runs.
    pub(super) namespaces: PathBuf,
}

impl Collector {
    /// Answers how many bytes were given back.
    pub(super) async fn collect(self, wanted: Wanted, goal: Goal) -> io::Result<u64> {
        blocking(move || {
            let references = wanted.references.iter().map(String::as_str);
            let wanted = self.images.in_use(references, wanted.ids.iter().map(String::as_str));
            let mut freed = self.sweep(&wanted, goal.unused_for)?;
            for image in self.unused(&wanted)? {
                if freed >= goal.bytes {
                    break;
                }
                if self.images.forget(&image.digest, goal.unused_for)? {
                    info!(names = ?image.names, digest = image.digest, "removing an image that nothing uses");
                    freed += self.sweep(&wanted, goal.unused_for)?;
                }
            }
            Ok(freed)
        })
        .await
    }

    fn unused(&self, wanted: &BTreeSet<String>) -> io::Result<Vec<StoredImage>> {
        let mut unused = self.images.stored()?;
        unused.retain(|image| !wanted.contains(&image.digest));
        unused.sort_by(|one, other| (one.last_used, &one.digest).cmp(&(other.last_used, &other.digest)));
        Ok(unused)
    }

    fn sweep(&self, wanted: &BTreeSet<String>, unused_for: Duration) -> io::Result<u64> {
        let Swept { freed_bytes, modules } = self.images.sweep(wanted, unused_for)?;
        let hex = |digest: &String| digest.trim_start_matches("sha256:").to_owned();
        Ok(freed_bytes + self.sweep_code(&modules.iter().map(hex).collect(), unused_for)?)
    }

    /// Removes compiled code whose module no image has any more, with all links to it.
    fn sweep_code(&self, modules: &BTreeSet<String>, unused_for: Duration) -> io::Result<u64> {
        let mut freed = 0;
        for file in fs::read_dir(&self.compiler.directory)? {
            // Other files go together with the code that they belong to.
            let path = file?.path();
            let Some(hex) = hex_of(&path).filter(|hex| !modules.contains(hex)) else { continue };
            let about = fs::metadata(&path)?;
            if !about.modified()?.elapsed().is_ok_and(|age| age >= unused_for) {
                continue;
            }
            // Held, lest somebody finds the code and links what is just going.
            let mut sound = self.compiler.sound.lock().unwrap_or_else(PoisonError::into_inner);
            sound.remove(&hex);
            for link in self.links(&path) {
                remove_if_there(&link)?;
            }
            remove_if_there(&path)?;
            remove_if_there(&checksum_path(&path))?;
            freed += about.blocks() * BLOCK_BYTES;
        }
        Ok(freed)
    }

    fn links(&self, code: &Path) -> Vec<PathBuf> {
        let name = code.file_name().unwrap_or_default();
        let namespaces = fs::read_dir(&self.namespaces).into_iter().flatten().flatten();
        namespaces.map(|namespace| namespace.path().join("code").join(name)).collect()
    }
}

/// The digest of the module that a file is the finished code of.
fn hex_of(path: &Path) -> Option<String> {
    if path.extension()? != "cwasm" {
        return None;
    }
    Some(path.file_name()?.to_str()?.split_once('.')?.0.to_owned())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_images::{ClusterRegistry, RegistrySettings};
    use coracle_runner::compile::CompileLimits;

    #[tokio::test]
    async fn code_that_no_image_needs_goes_with_its_links() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        let registry = ClusterRegistry {
            address: "127.0.0.1:1".to_owned(),
            ca_pem: String::new(),
            token: String::new(),
            identity: None,
        };
        let code = ["aa.module.cwasm", "aa.module.sha256", "bb.new", ".bb.new.tmp"];
        fs::create_dir_all(at("compiled")).unwrap();
        fs::create_dir_all(at("ns/one/code")).unwrap();
        for name in code {
            fs::write(at("compiled").join(name), "native code").unwrap();
        }
        fs::hard_link(at("compiled/aa.module.cwasm"), at("ns/one/code/aa.module.cwasm")).unwrap();
        let compiler = Arc::new(Compiler::new(Vec::new(), at("compiled"), CompileLimits::default()));
        let collector = || Collector {
            images: Images::open(&at("images"), registry.clone(), RegistrySettings::default()).unwrap(),
            compiler: compiler.clone(),
            namespaces: at("ns"),
        };
        let young = Goal { bytes: 1, unused_for: Duration::from_mins(10) };
        assert_eq!(collector().collect(Wanted::default(), young).await.unwrap(), 0);
        assert!(at("ns/one/code/aa.module.cwasm").exists());
        let goal = Goal { unused_for: Duration::ZERO, ..young };
        assert!(collector().collect(Wanted::default(), goal).await.unwrap() > 0);
        let left: Vec<bool> = code.iter().map(|name| at("compiled").join(name).exists()).collect();
        assert_eq!(left, [false, false, true, true], "what is being compiled stays");
        assert!(!at("ns/one/code/aa.module.cwasm").exists());
    }
}
