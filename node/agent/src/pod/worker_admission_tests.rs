//! Pods that are bound to a node which does not take them, and those that it keeps.

use super::*;
use crate::link::NODES;

fn small() -> Offer {
    Offer { cpu_milli: 1000, ..offer() }
}

fn asks(name: &str, cpu: &str) -> Value {
    let mut pod = simple("Always");
    let app = json!({"name": name, "image": "img:1", "resources": {"requests": {"cpu": cpu}}});
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = format!("u-{name}").into();
    pod["spec"]["containers"] = json!([app]);
    pod["status"] = json!({"phase": "Pending", "qosClass": "Burstable"});
    pod
}

fn world(offer: Offer) -> World {
    let link = FakeLink::new();
    link.put(NAMESPACES, json!({"metadata": {"name": "default", "uid": "ns-1"}}));
    World::on_node(link, Arc::new(tempfile::tempdir().unwrap()), "10.244.4.0/22", offer)
}

impl World {
    fn status_of(&self, name: &str) -> Value {
        self.link.stored(PODS, &ObjectKey::namespaced("default", name)).unwrap_or_default()["status"].clone()
    }

    async fn until_of(&self, name: &str, phase: &str) {
        self.link.wait(&format!("{name} is {phase}"), |_| self.status_of(name)["phase"] == phase).await;
    }
}

#[tokio::test]
async fn a_pod_that_does_not_fit_fails_and_the_next_one_that_does_runs() {
    let world = world(small());
    world.link.put(PODS, asks("first", "700m"));
    world.until_of("first", "Running").await;
    world.link.put(PODS, asks("second", "400m"));
    world.until_of("second", "Failed").await;
    let why = "Node didn't have enough resource: cpu, requested: 400, used: 700, capacity: 1000";
    let status = world.status_of("second");
    assert_eq!((&status["reason"], &status["qosClass"]), (&json!("OutOfcpu"), &json!("Burstable")));
    assert_eq!(status["message"], format!("Pod was rejected: {why}"));
    assert!(status["containerStatuses"].is_null() && status["podIP"].is_null(), "{status}");
    world.event("OutOfcpu", why).await;
    assert!(world.guests.running("second").is_none());
    assert!(!world.directory.path().join("ns/ns-1/volumes/u-second").exists());

    // A pod whose object is gone has made room, also when it still ends.
    world.link.remove(PODS, &ObjectKey::namespaced("default", "first"));
    world.link.put(PODS, asks("third", "1"));
    world.until_of("third", "Running").await;
    // A finished one as well.
    let mut never = asks("fourth", "1");
    never["spec"]["restartPolicy"] = "Never".into();
    world.link.remove(PODS, &ObjectKey::namespaced("default", "third"));
    world.link.put(PODS, never);
    world.until_of("fourth", "Running").await;
    world.guests.exit("fourth", 0);
    world.until_of("fourth", "Succeeded").await;
    world.link.put(PODS, asks("fifth", "1"));
    world.until_of("fifth", "Running").await;

    // What was refused can be deleted.
    let mut deleted = world.link.stored(PODS, &ObjectKey::namespaced("default", "second")).unwrap();
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    world.link.put(PODS, deleted);
    world.link.wait("it goes", |_| world.status_of("second").is_null()).await;
}

#[tokio::test]
async fn what_runs_is_counted_before_what_is_new_after_a_restart() {
    let world = world(small());
    world.link.put(PODS, asks("runs", "700m"));
    world.until_of("runs", "Running").await;
    let (link, directory) = (world.link.clone(), world.directory.clone());
    world.stop.cancel();
    world.owners.close();
    world.owners.wait().await;
    world.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    // Older than what runs, and before it in every listing.
    let mut early = asks("early", "400m");
    early["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    link.put(PODS, early);
    // Even on a node that has become smaller.
    let world = World::on_node(link, directory, "10.244.4.0/22", Offer { cpu_milli: 600, ..offer() });
    world.until_of("early", "Failed").await;
    assert_eq!(world.status_of("early")["reason"], "OutOfcpu");
    world.link.wait("it runs again", |_| world.guests.running("runs").is_some()).await;
}

#[tokio::test]
async fn labels_that_people_gave_a_node_count() {
    let world = world(offer());
    let wants = |name: &str, zone: &str| {
        let mut pod = asks(name, "1m");
        pod["spec"]["nodeSelector"] = json!({"zone": zone});
        pod
    };
    world.link.put(NODES, json!({"metadata": {"name": "n", "labels": {"zone": "a"}}}));
    world.link.put(PODS, wants("here", "a"));
    world.link.put(PODS, wants("elsewhere", "b"));
    world.until_of("here", "Running").await;
    world.until_of("elsewhere", "Failed").await;
    assert_eq!(world.status_of("elsewhere")["reason"], "NodeAffinity");
    world
        .event("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
        .await;
    // It was here before the label changed.
    world.link.put(NODES, json!({"metadata": {"name": "n", "labels": {"zone": "c"}}}));
    let world = world.restart().await;
    world.link.wait("it runs again", |_| world.guests.running("here").is_some()).await;
}

#[tokio::test]
async fn a_node_short_of_memory_takes_nobody_who_asks_for_nothing() {
    let world = world(offer());
    world.pressure.send_replace(Pressure { memory: true, ..Pressure::default() });
    world.link.put(PODS, simple("Always"));
    world.link.put(PODS, asks("modest", "1m"));
    world.until("refused", |pod| phase(pod) == "Failed").await;
    let pod = world.pod();
    assert_eq!(pod["status"]["reason"], "Evicted");
    assert_eq!(pod["status"]["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    world.until_of("modest", "Running").await;
}
