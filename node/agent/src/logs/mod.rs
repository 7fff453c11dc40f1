//! Container logs on disk: one series of files per run, in CRI's line format, bounded by rotation.
//!
//! `ROOT/NAMESPACE_POD_UID/CONTAINER/RUN.log`, then `RUN.log.1`, `RUN.log.2` … as it grows; the highest number is the
//! newest. A file is opened for each write and closed again, so that an idle container costs no descriptor.

pub(crate) mod choose;
pub(crate) mod read;

use crate::{clock, ledger::is_file_name};
use coracle_objects::meta;
use coracle_runner::protocol::LogStream;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::warn;

/// A file of a run's log is full at this size.
const FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Files kept of a run's log.
const FILES_MAX: u64 = 5;
/// Longest line in one piece; a longer one is split, tagged `P`.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;

/// All logs of this node.
pub(crate) struct Logs {
    root: PathBuf,
    live: Mutex<HashMap<(String, String), Arc<RunLog>>>,
}

impl Logs {
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { root, live: Mutex::default() })
    }

    /// Where a pod's logs are; `None` if its names are no file names.
    fn pod_directory(&self, pod: &Value) -> Option<PathBuf> {
        let parts = [meta::namespace(pod), meta::name(pod), meta::uid(pod)];
        parts.iter().all(|part| is_file_name(part)).then(|| self.root.join(parts.join("_")))
    }

    /// Where a container's logs are.
    pub(crate) fn container_directory(&self, pod: &Value, container: &str) -> Option<PathBuf> {
        self.pod_directory(pod).filter(|_| is_file_name(container)).map(|directory| directory.join(container))
    }

    /// Begins the log of a run; only the one before it is kept.
    pub(crate) fn begin(&self, pod: &Value, container: &str, run: u32) -> io::Result<Arc<RunLog>> {
        let directory = self
            .container_directory(pod, container)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a name is not usable as a file name"))?;
        fs::create_dir_all(&directory)?;
        for (old, files) in runs(&directory)? {
            if old.saturating_add(1) < run || old >= run {
                for file in files.into_values() {
                    fs::remove_file(file)?;
                }
            }
        }
        let log = Arc::new(RunLog::new(directory, run));
        log.touch()?;
        let key = (meta::uid(pod).to_owned(), container.to_owned());
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(key, log.clone());
        Ok(log)
    }

    /// The newest log of a container, if this process began it.
    pub(crate) fn live(&self, uid: &str, container: &str) -> Option<Arc<RunLog>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&(uid.to_owned(), container.to_owned())).cloned()
    }

    /// Bytes of a pod's logs on disk, by container.
    pub(crate) fn usage(&self, pod: &Value) -> BTreeMap<String, u64> {
        let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
        let size = |directory: &Path| entries(directory).filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        let containers =
            self.pod_directory(pod).into_iter().flat_map(|directory| entries(&directory).collect::<Vec<_>>());
        containers.filter_map(|one| Some((one.file_name().into_string().ok()?, size(&one.path())))).collect()
    }

    /// Directories of pods that are not among `known`.
    pub(crate) fn orphans(&self, known: &HashSet<String>) -> Vec<PathBuf> {
        let all = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.path());
        let uid = |path: &PathBuf| path.file_name()?.to_str()?.rsplit_once('_').map(|(_, uid)| uid.to_owned());
        all.filter(|path| uid(path).is_none_or(|uid| !known.contains(&uid))).collect()
    }

    /// Removes everything of a pod.
    pub(crate) fn remove(&self, pod: &Value) -> io::Result<()> {
        let uid = meta::uid(pod);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.0 != uid);
        self.pod_directory(pod).map_or(Ok(()), |directory| crate::pod::volumes::remove(&directory))
    }
}

/// The files of every run in a container's directory, by run and then by age.
pub(crate) fn runs(directory: &Path) -> io::Result<BTreeMap<u32, BTreeMap<u64, PathBuf>>> {
    let mut runs: BTreeMap<u32, BTreeMap<u64, PathBuf>> = BTreeMap::new();
    let files = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(runs),
        other => other?,
    };
    for file in files {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((run, rest)) = name.split_once(".log") else { continue };
        let number = if rest.is_empty() { Some(0) } else { rest.strip_prefix('.').and_then(|text| text.parse().ok()) };
        if let (Ok(run), Some(number)) = (run.parse(), number) {
            runs.entry(run).or_default().insert(number, path);
        }
    }
    Ok(runs)
}

/// How far a run's log is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    /// Nothing more comes.
    pub(crate) ended: bool,
}

/// The log of one run while it is written.
pub(crate) struct RunLog {
    directory: PathBuf,
    run: u32,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct State {
    number: u64,
    file_bytes: u64,
    /// The line that each stream has begun.
    partial: [Vec<u8>; 2],
    failed: bool,
}

impl RunLog {
    fn new(directory: PathBuf, run: u32) -> Self {
        Self { directory, run, state: Mutex::default(), progress: watch::Sender::new(Progress::default()) }
    }

    /// Its number among the container's runs.
    pub(crate) fn run(&self) -> u32 {
        self.run
    }

    #[cfg(test)]
    pub(crate) fn container(&self) -> String {
        self.directory.file_name().and_then(|name| name.to_str()).unwrap().to_owned()
    }

    /// Changes with everything that is written.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn touch(&self) -> io::Result<()> {
        OpenOptions::new().create(true).append(true).open(self.path(0)).map(drop)
    }

    fn path(&self, number: u64) -> PathBuf {
        let suffix = if number == 0 { String::new() } else { format!(".{number}") };
        self.directory.join(format!("{}.log{suffix}", self.run))
    }

    /// Takes what the guest wrote. Whole lines go to disk; the rest waits for its end, up to [`LINE_BYTES_MAX`].
    pub(crate) fn append(&self, stream: LogStream, bytes: &[u8], at: OffsetDateTime) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let mut partial = std::mem::take(&mut state.partial[slot(stream)]);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            while partial.len() + text.len() > LINE_BYTES_MAX {
                let (head, tail) = text.split_at(LINE_BYTES_MAX - partial.len());
                partial.extend_from_slice(head);
                record(&mut out, at, stream, false, &partial);
                partial.clear();
                text = tail;
            }
            partial.extend_from_slice(text);
            if ends {
                record(&mut out, at, stream, true, &partial);
                partial.clear();
            }
        }
        // An idle container keeps no buffer.
        state.partial[slot(stream)] = if partial.is_empty() { Vec::new() } else { partial };
        self.write(&mut state, &out);
    }

    /// The run has ended: a last line without an end is written too.
    pub(crate) fn end(&self, at: OffsetDateTime) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let partial = std::mem::take(&mut state.partial[slot(stream)]);
            if !partial.is_empty() {
                record(&mut out, at, stream, false, &partial);
            }
        }
        self.write(&mut state, &out);
        self.progress.send_modify(|progress| progress.ended = true);
    }

    fn write(&self, state: &mut State, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        match self.try_write(state, out) {
            Ok(()) => state.failed = false,
            // A full disk must not stop the guest; said once until it works again.
            Err(error) if !state.failed => {
                warn!(path = %self.path(state.number).display(), %error, "cannot write a log");
                state.failed = true;
            }
            Err(_) => {}
        }
    }

    fn try_write(&self, state: &mut State, out: &[u8]) -> io::Result<()> {
        if state.file_bytes > 0 && state.file_bytes + out.len() as u64 > FILE_BYTES_MAX {
            state.number += 1;
            state.file_bytes = 0;
            if let Some(oldest) = state.number.checked_sub(FILES_MAX) {
                fs::remove_file(self.path(oldest))?;
            }
        }
        OpenOptions::new().create(true).append(true).open(self.path(state.number))?.write_all(out)?;
        state.file_bytes += out.len() as u64;
        self.progress.send_modify(|progress| progress.bytes += out.len() as u64);
        Ok(())
    }
}

fn slot(stream: LogStream) -> usize {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
    }
}

/// `TIME stdout|stderr F|P TEXT`.
fn record(out: &mut Vec<u8>, at: OffsetDateTime, stream: LogStream, whole: bool, text: &[u8]) {
    let stream = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    let tag = if whole { 'F' } else { 'P' };
    out.extend_from_slice(format!("{} {stream} {tag} ", clock::nanos(at)).as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
