//! Pods that this node has from files of its own: each file of a directory describes one. They run here and only here,
//! with or without a server, and end when their file goes; a changed file is another pod, which begins when the old one
//! has ended. The server is shown a mirror of each.
//!
//! A file that cannot be read, or says nothing sensible, changes nothing: the pod it described before goes on.

pub(crate) mod manifest;
pub(crate) mod mirror;

use crate::{
    events::{Involved, Recorder, Severity},
    pod::manager::Manager,
};
use coracle_objects::{ObjectKey, meta};
use mirror::Mirrors;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often the directory is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A larger file describes no pod.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files that are read; more are passed over and said to be too many.
const FILES_MAX: usize = 256;

/// The directory of a namespace's static pods among those of namespaces. It has no uid from a server: there may be none.
pub(crate) fn namespace_uid(namespace: &str) -> String {
    format!("static-{namespace}")
}

/// Whether a namespace's directory is one of [`namespace_uid`].
pub(crate) fn is_static_home(namespace_uid: &str) -> bool {
    namespace_uid.starts_with("static-")
}

/// What tells that a file has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let about = fs::metadata(path)?;
        Ok(about.is_file().then(|| Self { inode: about.ino(), length: about.len(), modified: about.modified().ok() }))
    }
}

/// One file, and the pod that it described when it last made sense.
#[derive(Debug, Clone)]
struct Described {
    stamp: Option<Stamp>,
    pod: Option<Arc<Value>>,
}

/// The directory as it was last seen. Pure but for reading files.
#[derive(Debug, Clone, Default)]
struct Files {
    directory: PathBuf,
    node: String,
    known: BTreeMap<OsString, Described>,
    /// What was wrong at the last look, so that it is said once.
    wrong: BTreeSet<String>,
}

impl Files {
    /// Looks again; answers what is wrong now and was not before.
    fn look(&mut self) -> Vec<String> {
        let mut wrong = BTreeSet::new();
        let mut there = BTreeSet::new();
        match self.names() {
            Ok(names) => {
                for name in names {
                    self.look_at(&name, &mut wrong);
                    there.insert(name);
                }
                self.known.retain(|name, _| there.contains(name));
            }
            Err(error) => {
                wrong.insert(format!("cannot read the directory {}: {error}", self.directory.display()));
            }
        }
        let news = wrong.difference(&self.wrong).cloned().collect();
        self.wrong = wrong;
        news
    }

    /// Files in the order of their names; none where there is no directory.
    fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        names.sort();
        Ok(names)
    }

    fn look_at(&mut self, name: &OsString, wrong: &mut BTreeSet<String>) {
        let path = self.directory.join(name);
        let complain = |what: String| format!("{}: {what}", path.display());
        if self.known.len() >= FILES_MAX && !self.known.contains_key(name) {
            wrong.insert(complain(format!("passed over, there are more than {FILES_MAX} files")));
            return;
        }
        let known = self.known.entry(name.clone()).or_insert(Described { stamp: None, pod: None });
        let stamp = match Stamp::of(&path) {
            Ok(stamp @ Some(_)) => stamp,
            Ok(None) => return,
            Err(error) => {
                wrong.insert(complain(error.to_string()));
                return;
            }
        };
        if known.stamp == stamp && known.pod.is_some() {
            return;
        }
        let described =
            read(&path).map_err(|error| error.to_string()).and_then(|bytes| manifest::parse(&bytes, &self.node));
        match described {
            Ok(pod) => *known = Described { stamp, pod: Some(Arc::new(pod)) },
            Err(what) => {
                known.stamp = None;
                wrong.insert(complain(what));
            }
        }
    }

    /// The pods, and what two files say at once.
    fn pods(&self) -> (Vec<Arc<Value>>, Vec<String>) {
        let mut first: BTreeMap<ObjectKey, &OsString> = BTreeMap::new();
        let (mut pods, mut doubled) = (Vec::new(), Vec::new());
        for (name, described) in &self.known {
            let Some(pod) = &described.pod else { continue };
            let key = meta::key(pod);
            if let Some(other) = first.get(&key) {
                doubled.push(format!(
                    "{} describes pod {}/{}, which {} describes already",
                    self.directory.join(name).display(),
                    key.namespace,
                    key.name,
                    other.display(),
                ));
            } else {
                first.insert(key, name);
                pods.push(pod.clone());
            }
        }
        (pods, doubled)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Has the files' pods run, and shown.
pub(crate) struct StaticPods {
    files: Files,
    doubled: BTreeSet<String>,
    manager: Manager,
    mirrors: Arc<Mirrors>,
    recorder: Recorder,
}

impl StaticPods {
    /// Nothing is read yet.
    pub(crate) fn new(
        directory: PathBuf,
        node: &str,
        manager: Manager,
        mirrors: Arc<Mirrors>,
        recorder: Recorder,
    ) -> Self {
        let files = Files { directory, node: node.to_owned(), ..Files::default() };
        Self { files, doubled: BTreeSet::new(), manager, mirrors, recorder }
    }

    /// Follows the directory until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads what changed, and has it run.
    async fn look(&mut self) {
        let mut files = self.files.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let news = files.look();
            (files, news)
        });
        let Ok((files, news)) = looked.await else { return warn!("looking for static pods was interrupted") };
        self.files = files;
        let (pods, doubled) = self.files.pods();
        let doubled: BTreeSet<String> = doubled.into_iter().collect();
        for what in news.iter().chain(doubled.difference(&self.doubled)) {
            warn!(what, "a static pod cannot be run");
            let node = Involved::node(&self.files.node);
            self.recorder.record_about(node, Severity::Warning, "FailedStaticPod", what);
        }
        self.doubled = doubled;
        self.manager.set_static(&pods);
        self.mirrors.want(&pods);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    }

    fn images(files: &Files) -> Vec<(String, String)> {
        let pods = files.pods().0;
        let image = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
        pods.iter().map(|pod| (meta::name(pod).to_owned(), image(pod))).collect()
    }

    #[test]
    fn files_come_change_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let mut files = Files { directory: directory.path().join("absent"), node: "n".to_owned(), ..Files::default() };
        assert!(files.look().is_empty() && files.pods().0.is_empty(), "no directory is no mistake");
        files.directory = directory.path().to_owned();
        write("a.yaml", &manifest("a", "i:1"));
        write(".hidden.yaml", &manifest("h", "i:1"));
        fs::create_dir(directory.path().join("sub")).unwrap();
        assert_eq!(files.look(), [] as [String; 0]);
        assert_eq!(images(&files), [("a-n".to_owned(), "i:1".to_owned())]);

        // Half-written: what was there goes on, and the mistake is told once.
        write("a.yaml", "apiVersion: v1\nkind: Po");
        let told = files.look();
        assert!(told.len() == 1 && told[0].contains("a.yaml"), "{told:?}");
        assert!(files.look().is_empty());
        assert_eq!(images(&files).len(), 1);
        write("a.yaml", &manifest("a", "i:22"));
        assert!(files.look().is_empty());
        assert_eq!(images(&files), [("a-n".to_owned(), "i:22".to_owned())]);

        write("b.yaml", &manifest("a", "i:3"));
        assert!(files.look().is_empty());
        let (pods, doubled) = files.pods();
        assert!(pods.len() == 1 && doubled[0].contains("b.yaml"), "{doubled:?}");
        fs::remove_file(directory.path().join("a.yaml")).unwrap();
        files.look();
        assert_eq!(images(&files), [("a-n".to_owned(), "i:3".to_owned())]);
        let huge = "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        write("c.yaml", &huge);
        assert!(files.look()[0].contains("more than 1048576 bytes"));
    }
}
