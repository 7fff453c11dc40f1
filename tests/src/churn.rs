//! Pods that come and go, and what a cluster holds on to meanwhile.

use crate::{
    Cluster, Kubectl, eventually,
    pods::{self, toolbox},
    processes,
};
use std::path::PathBuf;

/// Descriptors may vary by so many: connections and pooled handles come and go.
const DESCRIPTORS_SLACK: usize = 16;

/// Creates `count` pods that run, end or crash, waits for all of them, and deletes them.
///
/// # Panics
/// When they do not get there.
pub fn round(kubectl: &Kubectl, namespace: &str, prefix: &str, count: usize) {
    let kinds: [(&str, &[&str]); 3] =
        [("Always", &["wait-eof"]), ("Never", &["exit", "0"]), ("Always", &["exit", "1"])];
    let pod = |number: usize| {
        let (policy, arguments) = kinds[number % kinds.len()];
        toolbox(&format!("{prefix}-{number}"), policy, arguments)
    };
    pods::apply(kubectl, namespace, &(0..count).map(pod).collect::<Vec<_>>());
    eventually("every pod to have run", || {
        let pods = kubectl.json(&format!("get pods -n {namespace}"))?;
        let items = pods["items"].as_array().into_iter().flatten();
        let waits = |pod: &&serde_json::Value| pod["status"]["phase"] == "Pending";
        match items.clone().find(waits) {
            Some(pod) => Err(format!("{} {}", pod["metadata"]["name"], pod["status"])),
            None if items.count() == count => Ok(()),
            None => Err("some are missing".to_owned()),
        }
    });
    let deleted = kubectl.run(&format!("delete pods --all -n {namespace} --timeout=55s"));
    deleted.unwrap_or_else(|error| panic!("the pods do not go: {error}"));
}

/// What a cluster holds: it must not grow with the pods that were.
#[derive(Debug, Clone)]
pub struct Footprint {
    descriptors: usize,
    runner_descriptors: usize,
    processes: usize,
    traces: Vec<PathBuf>,
}

impl Footprint {
    /// What it holds now.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let runners = cluster.runners();
        Self {
            descriptors: processes::descriptors(cluster.pid()).len(),
            runner_descriptors: runners.iter().map(|pid| processes::descriptors(*pid).len()).sum(),
            processes: processes::descendants(cluster.pid()).len(),
            traces: cluster.traces_of_pods(),
        }
    }

    /// `Ok` when nothing of pods is left and the rest is about as much as `before`.
    ///
    /// # Errors
    /// Both, when it is more.
    pub fn within(&self, before: &Self) -> Result<(), String> {
        let fits = self.descriptors <= before.descriptors + DESCRIPTORS_SLACK
            && self.runner_descriptors <= before.runner_descriptors + DESCRIPTORS_SLACK
            && self.processes <= before.processes
            && self.traces.is_empty();
        if fits { Ok(()) } else { Err(format!("{self:?}\nis more than\n{before:?}")) }
    }
}
