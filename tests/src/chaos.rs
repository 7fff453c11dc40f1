//! Creating and deleting pods at random while the cluster is killed, and what must hold afterwards.

use crate::{
    Cluster, Kubectl, eventually,
    pods::{container, toolbox},
    processes,
    random::Random,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

/// What is known to be acknowledged.
pub struct Chaos {
    random: Random,
    /// Name and kind of what was created.
    created: BTreeMap<String, &'static str>,
    deleted: BTreeSet<String>,
    /// The highest restart count seen.
    restarts: BTreeMap<String, i64>,
}

impl Chaos {
    /// Nothing yet.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self { random, created: BTreeMap::new(), deleted: BTreeSet::new(), restarts: BTreeMap::new() }
    }

    /// Churns, kills the cluster amid it, starts it again and waits until everything acknowledged is so.
    ///
    /// # Panics
    /// When something is lost, stuck or left over.
    pub fn round(&mut self, cluster: &mut Cluster, round: usize) {
        let (operations, last) = (8 + self.random.below(8), 1 + self.random.below(6));
        let kubectl = cluster.kubectl();
        let begun = AtomicUsize::new(0);
        let runners = std::thread::scope(|scope| {
            let begun = &begun;
            let chaos = &mut *self;
            let writer = scope.spawn(move || chaos.churn(&kubectl, round, operations, begun));
            eventually("the operation to be killed in", || {
                let begun = begun.load(Ordering::SeqCst);
                if begun + last > operations || writer.is_finished() { Ok(()) } else { Err(begun.to_string()) }
            });
            let runners = cluster.runners();
            cluster.kill();
            writer.join().unwrap_or_else(|_| panic!("churning panicked"));
            runners
        });
        eventually("the runners' end", || {
            let alive: Vec<_> = runners.iter().filter(|pid| !processes::command_line(**pid).is_empty()).collect();
            if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?} outlive their agent")) }
        });
        cluster.start_again();
        self.converge(&cluster.kubectl());
    }

    /// Deletes everything and waits until nothing is left of it.
    ///
    /// # Panics
    /// When something is.
    pub fn end(self, cluster: &Cluster) {
        let kubectl = cluster.kubectl();
        kubectl.run("delete pods --all --timeout=55s").unwrap_or_else(|error| panic!("pods do not go: {error}"));
        eventually("nothing left of deleted pods", || {
            let left = cluster.traces_of_pods();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }

    fn churn(&mut self, kubectl: &Kubectl, round: usize, operations: usize, begun: &AtomicUsize) {
        for number in 0..operations {
            begun.store(number, Ordering::SeqCst);
            let alive: Vec<String> = self.created.keys().cloned().collect();
            if self.random.below(3) > 0 || alive.is_empty() {
                self.create(kubectl, &format!("{round}-{number}"));
            } else {
                let name = alive[self.random.below(alive.len())].clone();
                self.delete(kubectl, name);
            }
            self.look(kubectl);
        }
    }

    fn create(&mut self, kubectl: &Kubectl, suffix: &str) {
        let (kind, policy, arguments): (_, _, &[&str]) = match self.random.below(3) {
            0 => ("steady", "Always", &["wait-eof"]),
            1 => ("crasher", "Always", &["exit", "1"]),
            _ => ("once", "Never", &["exit", "0"]),
        };
        let name = format!("{kind}-{suffix}");
        // What was cut off may be there or not.
        if kubectl.apply(&toolbox(&name, policy, arguments).to_string()).is_ok() {
            self.created.insert(name, kind);
        }
    }

    fn delete(&mut self, kubectl: &Kubectl, name: String) {
        let force = if self.random.below(3) == 0 { "--force --grace-period=0" } else { "" };
        self.created.remove(&name);
        if kubectl.run(&format!("delete pod {name} --wait=false {force}")).is_ok() {
            self.deleted.insert(name);
        }
    }

    fn look(&mut self, kubectl: &Kubectl) {
        let pods = kubectl.json("get pods").unwrap_or_default();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let count = container(pod)["restartCount"].as_i64().unwrap_or(0);
            self.restarts.insert(name(pod), count);
        }
    }

    /// Everything acknowledged is there and lives, or is gone; restart counts have not shrunk.
    fn converge(&self, kubectl: &Kubectl) {
        let listed = eventually("convergence", || {
            let pods = kubectl.json("get pods")?;
            let items = pods["items"].as_array().into_iter().flatten();
            let listed: BTreeMap<String, Value> = items.map(|pod| (name(pod), pod.clone())).collect();
            for (name, kind) in &self.created {
                let pod = listed.get(name).ok_or_else(|| format!("{name} is lost"))?;
                if !is_settled(pod, kind) {
                    return Err(format!("{name} is stuck: {}", pod["status"]));
                }
            }
            match self.deleted.iter().find(|name| listed.contains_key(*name)) {
                Some(name) => Err(format!("{name} was deleted: {}", listed[name])),
                None => Ok(listed),
            }
        });
        for (name, before) in &self.restarts {
            let now = listed.get(name).map(|pod| container(pod)["restartCount"].as_i64().unwrap_or(0));
            assert!(now.is_none_or(|now| now >= *before), "{name} was restarted {before} times, now {now:?}");
        }
    }
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn is_settled(pod: &Value, kind: &str) -> bool {
    let state = &container(pod)["state"];
    match kind {
        "steady" => state["running"].is_object(),
        "crasher" => state["waiting"]["reason"] == "CrashLoopBackOff",
        _ => pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed",
    }
}
