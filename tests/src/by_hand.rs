//! Nodes of `coracle dev --nodes` that are killed, and started again by hand with the words that the cluster prints.

use crate::{Cluster, eventually, processes, site::binary};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::process::{Child, Command, Stdio};

/// A node that was started by hand; dropping it kills it.
pub struct ByHand(Child);

impl ByHand {
    /// Runs `coracle` with these words, split at spaces.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(words: &str) -> Self {
        let mut command = Command::new(binary().unwrap_or_else(|error| panic!("{error:#}")));
        let started = command.args(words.split(' ')).stdin(Stdio::null()).spawn();
        Self(started.unwrap_or_else(|error| panic!("{words}: {error}")))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The process of a node that the cluster has started.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn process(cluster: &Cluster, node: &str) -> u32 {
    let is_it = |pid: &u32| processes::command_line(*pid).windows(2).any(|words| words == ["--name", node]);
    let found = processes::descendants(cluster.pid()).into_iter().find(is_it);
    found.unwrap_or_else(|| panic!("{node} has no process:\n{}", cluster.log()))
}

/// `kill -9` of a node; answers the words that start it again, once the cluster has said them.
///
/// # Panics
/// When it does not say them.
#[must_use]
pub fn kill_node(cluster: &Cluster, node: &str) -> String {
    let pid = i32::try_from(process(cluster, node)).map(Pid::from_raw);
    let killed = pid.map_err(|error| error.to_string()).and_then(|pid| {
        let killed = kill(pid, Signal::SIGKILL);
        killed.map_err(|error| error.to_string())
    });
    killed.unwrap_or_else(|error| panic!("{node}: {error}"));
    let begin = format!("{node} was ended by signal 9");
    eventually("how to start it again", || {
        let log = cluster.log();
        let line = log.lines().rev().find(|line| line.starts_with(&begin));
        let words = line.and_then(|line| line.split_once("again: coracle ")).map(|(_, words)| words.to_owned());
        words.ok_or(log)
    })
}
