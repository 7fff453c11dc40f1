//! Many pods come and go: nothing of them stays.

use crate::{cluster, namespace};
use coracle_tests::{Cluster, Footprint, churn, eventually};

#[test]
fn two_hundred_pods_leave_nothing() {
    let (cluster, kubectl) = cluster();
    namespace(&kubectl, "busy");
    // The first ones make what is kept on purpose: a runner, compiled code, connections.
    churn::round(&kubectl, "busy", "warm", 10);
    no_traces(&cluster);
    let before = Footprint::of(&cluster);
    for round in 0..4 {
        churn::round(&kubectl, "busy", &format!("round-{round}"), 50);
    }
    no_traces(&cluster);
    eventually("the footprint of before", || Footprint::of(&cluster).within(&before));
    kubectl.run("delete namespace busy --timeout=50s").unwrap();
    eventually("no directory of the namespace", || {
        let left = cluster.namespace_directories();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn no_traces(cluster: &Cluster) {
    eventually("no traces of pods", || {
        let left = cluster.traces_of_pods();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
