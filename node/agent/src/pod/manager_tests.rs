//! Pods that only the ledger knows.

use super::*;
use crate::{
    clock::Pace,
    context::Caches,
    events::Recorder,
    fake::{FakeGuests, FakeLink, FakeWorkloads, eventually},
    ledger::Ledger,
    logs::Logs,
    reflector::Cache,
    reports::Reports,
};
use serde_json::json;

fn entry(name: &str) -> Entry {
    let pod = json!({"metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": name, "image": "img:1"}]}});
    Entry {
        pod: Arc::new(pod),
        namespace_uid: "ns-1".to_owned(),
        start_time: String::new(),
        failed: None,
        containers: Vec::new(),
    }
}

#[tokio::test]
async fn remembered_pods_run_without_the_control_plane_and_yield_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let link = FakeLink::new();
    link.set_down(true);
    let guests = FakeGuests::new();
    let mut namespaces = Cache::new();
    namespaces.apply(json!({"metadata": {"name": "default", "uid": "ns-1"}}));
    let (recorder, _writer) = Recorder::new(link.clone(), "n");
    let ledger = Ledger::open(directory.path().join("ledger")).unwrap();
    for name in ["kept", "lost"] {
        ledger.save(entry(name)).await.unwrap();
    }
    let entries = ledger.load().unwrap();
    let context = Arc::new(Context {
        link: link.clone(),
        workloads: FakeWorkloads::new(),
        guests: guests.clone(),
        recorder,
        reports: Reports::new(link.clone()),
        logs: Arc::new(Logs::open(directory.path().join("logs")).unwrap()),
        ledger,
        caches: Caches { services: Cache::new(), namespaces },
        data_dir: directory.path().to_owned(),
        host_ip: String::new(),
        pace: Pace::fast(100),
    });
    let (ready_sender, ready) = watch::channel(false);
    let mut manager = Manager::new(context, entries, CancellationToken::new(), ready_sender);
    assert!(guests.running("kept").is_none(), "nothing runs before it is known to be wanted");
    manager.run_remembered();
    eventually("both run", || guests.running("kept").is_some() && guests.running("lost").is_some()).await;

    // The control plane is back and knows only one of them.
    assert!(!*ready.borrow());
    manager.replace(vec![Value::clone(&entry("kept").pod)]);
    assert!(*ready.borrow());
    eventually("the lost one ends", || guests.running("lost").is_none()).await;
    eventually("it is forgotten", || !directory.path().join("ledger/uid-lost.json").exists()).await;
    assert!(guests.running("kept").is_some());
    let registry = manager.registry();
    assert!(registry.find("uid-kept", "", "").is_some() && registry.find("", "default", "kept").is_some());
    assert!(registry.find("uid-lost", "", "").is_none() && registry.find("", "other", "kept").is_none());
}
