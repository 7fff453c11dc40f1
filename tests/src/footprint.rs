//! What a node holds: it must not grow with the pods that were, nor with what was killed.

use crate::{Apart, Cluster, eventually, processes};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Descriptors may vary by so many: connections and pooled handles come and go.
const DESCRIPTORS_SLACK: usize = 16;
/// The agent's memory may vary by so much: allocators keep what they may need again.
const MEMORY_SLACK_KIB: u64 = 24 << 10;

/// A process with an agent in it.
pub trait Node {
    /// The process.
    fn process(&self) -> u32;

    /// The agent's directory.
    fn directory(&self) -> PathBuf;

    /// Whether a control plane is in it as well, whose memory is no sign of anything.
    fn is_shared(&self) -> bool;
}

impl Node for Apart {
    fn process(&self) -> u32 {
        self.node_pid()
    }

    fn directory(&self) -> PathBuf {
        self.node_dir()
    }

    fn is_shared(&self) -> bool {
        false
    }
}

impl Node for Cluster {
    fn process(&self) -> u32 {
        self.pid()
    }

    fn directory(&self) -> PathBuf {
        self.data_dir().join("node")
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// Files and directories below the node's own, but for pulled images and compiled code.
    files: Vec<PathBuf>,
    descriptors: usize,
    /// Descendants of the agent, the dead that nobody has waited for included.
    processes: usize,
    /// 0 where it is not looked at.
    memory_kib: u64,
    /// As the agent, all of its runners together.
    runner_descriptors: usize,
    runner_memory_kib: u64,
}

impl Footprint {
    /// What it holds now.
    ///
    /// # Panics
    /// When the agent does not run.
    #[must_use]
    pub fn of(node: &impl Node) -> Self {
        let (agent, children) = (node.process(), processes::descendants(node.process()));
        let mut files = Vec::new();
        collect(&node.directory(), &mut files);
        files.sort();
        let memory_of = |pid: u32| processes::anonymous_kib(pid).unwrap_or_default();
        Self {
            files,
            descriptors: processes::descriptors(agent).len(),
            processes: children.len(),
            memory_kib: if node.is_shared() { 0 } else { memory_of(agent) },
            runner_descriptors: children.iter().map(|pid| processes::descriptors(*pid).len()).sum(),
            runner_memory_kib: children.iter().map(|pid| memory_of(*pid)).sum(),
        }
    }

    /// What it holds once the runners of namespaces that are gone have ended.
    ///
    /// # Panics
    /// When they do not.
    #[must_use]
    pub fn without_runners(node: &impl Node) -> Self {
        eventually("no runner", || match processes::descendants(node.process()) {
            runners if runners.is_empty() => Ok(Self::of(node)),
            runners => Err(format!("{runners:?}")),
        })
    }

    /// `Ok` when there is no file and no process more than `before`, and about as many descriptors and as much memory.
    ///
    /// # Errors
    /// What there is more.
    pub fn within(&self, before: &Self) -> Result<(), String> {
        let new: Vec<_> = self.files.iter().filter(|path| !before.files.contains(path)).collect();
        let fits = new.is_empty()
            && self.processes <= before.processes
            && self.descriptors <= before.descriptors + DESCRIPTORS_SLACK
            && self.runner_descriptors <= before.runner_descriptors + DESCRIPTORS_SLACK
            && self.memory_kib <= before.memory_kib + MEMORY_SLACK_KIB
            && self.runner_memory_kib <= before.runner_memory_kib + MEMORY_SLACK_KIB;
        if fits { Ok(()) } else { Err(format!("{self}\nis more than\n{before}\nnew: {new:?}")) }
    }
}

impl std::fmt::Display for Footprint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} files, {} processes, {} + {} descriptors, {} + {} KiB (agent + runners)",
            self.files.len(),
            self.processes,
            self.descriptors,
            self.runner_descriptors,
            self.memory_kib,
            self.runner_memory_kib
        )
    }
}

/// Everything below `directory` that is not kept on purpose.
fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_cache(&path) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, found);
        }
        found.push(path);
    }
}

/// Whole files that make the next pod of the same image start sooner; unfinished ones are not among them.
fn is_cache(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_digest = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let stem = name.split('.').next().unwrap_or_default();
    let is_code = name.ends_with(".cwasm") || name.ends_with(".sha256");
    let is_image = text.contains("/images/") && (is_digest(&name) || name == format!("{stem}.json"));
    is_digest(stem) && (is_code || is_image)
}
