//! Faults are part of the feature: killed processes, full disks, damaged files, hostile guests, churn.

mod churn;
mod damage;
mod full_disk;
mod hostile;
mod kill;
mod storm;

use coracle_tests::{Cluster, Kubectl, guest};

/// A running cluster that has the toolbox.
fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

/// The uid of a namespace, made if needed.
fn namespace(kubectl: &Kubectl, name: &str) -> String {
    if kubectl.run(&format!("get namespace {name}")).is_err() {
        kubectl.run(&format!("create namespace {name}")).unwrap();
    }
    kubectl.run(&format!("get namespace {name} -o jsonpath={{.metadata.uid}}")).unwrap().trim().to_owned()
}
