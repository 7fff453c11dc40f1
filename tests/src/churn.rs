//! Pods that come and go.

use crate::{
    Kubectl, eventually,
    pods::{self, toolbox},
};

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
