//! Pods of a node that is cut off from its control plane.

use super::*;

const TOLERATED: Duration = Duration::from_mins(1);

fn tolerating(policy: &str, seconds: Option<u64>) -> Value {
    let mut toleration = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"});
    if let Some(seconds) = seconds {
        toleration["tolerationSeconds"] = seconds.into();
    }
    let mut pod = simple(policy);
    pod["spec"]["tolerations"] = json!([toleration]);
    pod
}

/// A pod that runs, on a node that obeys.
async fn running(policy: &str, seconds: Option<u64>) -> World {
    let world = World::new();
    world.guests.obedient();
    world.link.put(PODS, tolerating(policy, seconds));
    world.until("running", |pod| phase(pod) == "Running" && app(pod)["ready"] == true).await;
    world
}

fn cut_off(world: &World, longer: Duration) {
    world.link.set_down(true);
    world.context.contact.lose(LEASE + longer);
}

fn heard_again(world: &World) {
    world.link.set_down(false);
    world.context.contact.made(world.context.contact.now());
}

#[tokio::test]
async fn a_pod_ends_when_it_may_run_elsewhere_and_begins_anew_when_it_is_wanted() {
    let world = running("Always", Some(60)).await;
    cut_off(&world, TOLERATED);
    eventually("it is asked to end", || world.guests.stopped() == ["a"]).await;
    eventually("it has ended", || world.guests.running("a").is_none()).await;
    heard_again(&world);
    world.until("it runs again", |pod| app(pod)["restartCount"] == 1 && app(pod)["ready"] == true).await;
    world.event("NodeUnreachable", "longer than the pod tolerates").await;
    world.event("NodeReachable", "still wanted").await;
}

#[tokio::test]
async fn a_pod_that_tolerates_it_stays() {
    let world = running("Always", None).await;
    cut_off(&world, Duration::from_hours(10_000));
    // It does all that it did before: a container that fails runs again.
    world.guests.exit("a", 1);
    eventually("it runs again", || world.guests.running("a").is_some()).await;
    assert!(world.guests.stopped().is_empty());
    heard_again(&world);
    world.until("the server hears of it", |pod| app(pod)["restartCount"] == 1).await;
}

#[tokio::test]
async fn a_pod_that_was_deleted_meanwhile_does_not_begin_again() {
    let world = running("Always", Some(60)).await;
    cut_off(&world, TOLERATED);
    eventually("it has ended", || world.guests.stopped() == ["a"] && world.guests.running("a").is_none()).await;
    let mut deleted = world.pod();
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    world.link.put(PODS, deleted);
    heard_again(&world);
    world.link.wait("gone", |link| link.stored(PODS, &key()).is_none()).await;
    assert!(world.guests.running("a").is_none() && world.guests.stopped() == ["a"]);
}

#[tokio::test]
async fn a_pod_that_must_not_run_twice_fails() {
    let world = running("Never", Some(60)).await;
    cut_off(&world, TOLERATED);
    eventually("it is asked to end", || world.guests.stopped() == ["a"]).await;
    heard_again(&world);
    world.until("it failed", |pod| phase(pod) == "Failed" && pod["status"]["reason"] == "NodeUnreachable").await;
}

#[tokio::test]
async fn a_new_agent_starts_nothing_that_may_run_elsewhere() {
    let world = running("Always", Some(60)).await;
    let world = world.restart().await;
    eventually("it runs again", || world.guests.running("a").is_some()).await;
    cut_off(&world, TOLERATED);
    eventually("it has ended", || world.guests.running("a").is_none()).await;
    // The server is not asked before it is heard, whatever was known: the next agent finds what this one left.
    let world = world.restart().await;
    world.context.contact.lose(LEASE + TOLERATED);
    world.link.set_down(false);
    let mut listed = world.ready.clone();
    listed.wait_for(|ready| *ready).await.unwrap();
    assert!(world.guests.running("a").is_none());
    heard_again(&world);
    eventually("it runs again", || world.guests.running("a").is_some()).await;
}

#[tokio::test]
async fn a_pod_of_a_node_that_was_deleted_ends_whatever_it_tolerates() {
    let world = running("Always", None).await;
    world.link.set_down(true);
    world.context.contact.disown();
    eventually("it is asked to end", || world.guests.stopped() == ["a"]).await;
    eventually("it has ended", || world.guests.running("a").is_none()).await;
    // The next agent does not begin with it either.
    let world = world.restart().await;
    world.link.set_down(false);
    let mut listed = world.ready.clone();
    listed.wait_for(|ready| *ready).await.unwrap();
    assert!(world.guests.running("a").is_none());
    heard_again(&world);
    eventually("it is wanted after all", || world.guests.running("a").is_some()).await;
}

#[tokio::test]
async fn a_time_that_is_too_long_to_be_told_is_for_ever() {
    let world = running("Always", Some(i64::MAX.unsigned_abs())).await;
    cut_off(&world, Duration::from_hours(10_000));
    world.guests.exit("a", 1);
    eventually("it runs again", || world.guests.running("a").is_some()).await;
    assert!(world.guests.stopped().is_empty());
}
