//! Pods that only the ledger knows.

use super::*;
use crate::{
    clock::Pace,
    contact::Contact,
    context::Caches,
    events::Recorder,
    fake::{FakeChecks, FakeGuests, FakeLink, FakeSwitch, FakeWorkloads, eventually, offer},
    homes::Homes,
    ledger::Ledger,
    logs::Logs,
    network::place::Place,
    pod::{admission::Room, probes::Probes},
    pressure::Pressure,
    reports::Reports,
    sandbox::Owners,
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
        address: None,
        containers: Vec::new(),
    }
}

/// An agent without processes that remembers the pods `known`.
pub(crate) async fn context(
    directory: &Path,
    link: &Arc<FakeLink>,
    guests: &Arc<FakeGuests>,
    known: &[&str],
) -> Arc<Context> {
    let (recorder, _writer) = Recorder::new(link.clone(), "n");
    let ledger = Ledger::open(directory.join("ledger")).unwrap();
    for name in known {
        ledger.save(entry(name)).await.unwrap();
    }
    let owners = Arc::new(Owners::open(directory).unwrap());
    Arc::new(Context {
        link: link.clone(),
        workloads: FakeWorkloads::new(),
        checks: FakeChecks::new(),
        guests: guests.clone(),
        network: FakeSwitch::network(directory, "10.244.4.0/22").0,
        recorder,
        reports: Reports::new(link.clone()),
        logs: Arc::new(Logs::open(directory.join("logs")).unwrap()),
        homes: Homes::new(directory, owners.clone()),
        owners,
        ledger,
        caches: Caches::new(),
        room: Room::new(offer()),
        pressure: watch::Sender::new(Pressure::default()).subscribe(),
        data_dir: directory.to_owned(),
        place: watch::Sender::new(Place::default()).subscribe(),
        probes: Probes::new(&Pace::fast(100)),
        pace: Pace::fast(100),
        contact: Arc::new(Contact::open(directory, Duration::from_hours(1))),
        shutdown_grace: Duration::from_secs(5),
    })
}

#[tokio::test]
async fn remembered_pods_run_without_the_control_plane_and_yield_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let (link, guests) = (FakeLink::new(), FakeGuests::new());
    link.set_down(true);
    let context = context(directory.path(), &link, &guests, &["kept", "lost"]).await;
    let entries = context.ledger.load().unwrap();
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

#[tokio::test]
async fn what_nobody_knows_is_swept_away() {
    let directory = tempfile::tempdir().unwrap();
    let (link, guests) = (FakeLink::new(), FakeGuests::new());
    let context = context(directory.path(), &link, &guests, &[]).await;
    let volumes = directory.path().join("ns/ns-1/volumes");
    let logs = directory.path().join("logs");
    for uid in ["uid-listed", "uid-gone"] {
        std::fs::create_dir_all(volumes.join(uid).join("scratch")).unwrap();
        std::fs::create_dir_all(logs.join(format!("default_pod_{uid}"))).unwrap();
        std::fs::write(directory.path().join(format!("ledger/{uid}.json")), "torn").unwrap();
    }
    let entries = context.ledger.load().unwrap();
    let (ready, _) = watch::channel(false);
    let mut manager = Manager::new(context.clone(), entries, CancellationToken::new(), ready);
    manager.replace(vec![Value::clone(&entry("listed").pod)]);
    eventually("the orphan is gone", || {
        !volumes.join("uid-gone").exists()
            && !logs.join("default_pod_uid-gone").exists()
            && context.ledger.unreadable() == ["uid-listed"]
    })
    .await;
    assert!(volumes.join("uid-listed/scratch").exists() && logs.join("default_pod_uid-listed").exists());
}

#[tokio::test]
async fn what_remembered_pods_need_is_in_use_before_they_run() {
    let directory = tempfile::tempdir().unwrap();
    let (link, guests) = (FakeLink::new(), FakeGuests::new());
    link.set_down(true);
    let context = context(directory.path(), &link, &guests, &["kept"]).await;
    let entries = context.ledger.load().unwrap();
    let manager = Manager::new(context, entries, CancellationToken::new(), watch::channel(false).0);
    let known = || manager.registry().known().iter().map(|pod| meta::name(pod).to_owned()).collect::<Vec<_>>();
    assert!(manager.registry().all().is_empty());
    assert_eq!(known(), ["kept"], "its image must not go meanwhile");
    manager.run_remembered();
    assert_eq!(known(), ["kept"], "and it is counted once");
}
