//! The pipeline as in-process callers see it: concurrency, identities, the client's contract.

use crate::{
    TolerationDefaults,
    door::{Door, DoorConfig, Target},
    identity::Identity,
    testing::{self, config_map, create, pod, service},
};
use coracle_client::{Client, DeleteOptions, Event, Part, Query, Write};
use coracle_objects::{ApiError, ObjectKey, Reason, catalogue, meta};
use coracle_store::{Command, Expect, Op, Outcome, ProposeError, Proposer, Revision, Store, testing::LocalProposer};
use futures::{StreamExt, future};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf, sync::Arc};

fn in_default(mut object: Value) -> Value {
    object["metadata"]["namespace"] = Value::from("default");
    object
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced("default", name)
}

async fn administrator() -> (Arc<Door>, Arc<dyn Client>) {
    let (door, _) = testing::door().await;
    let client = door.client(Identity::admin());
    (door, client)
}

fn bind(name: &str, uid: &str, node: &str) -> Write {
    Write::Bind { pod: key(name), uid: uid.to_owned(), node: node.to_owned() }
}

#[tokio::test]
async fn the_client_writes_reads_and_watches() {
    let (_door, client) = administrator().await;
    let pods = catalogue::pods();
    let start = client.list(pods, &Query::default()).await.unwrap();
    let mut events = client.watch(pods, &Query::default(), &start.resource_version).await.unwrap();
    let created = client.write(Write::Create(pods, in_default(pod("p")))).await.unwrap();
    assert_eq!(client.get(pods, &key("p")).await.unwrap(), created);
    let mut status = (*created).clone();
    status["status"]["phase"] = Value::from("Running");
    let running = client.write(Write::Update(pods, Part::Status, status.clone())).await.unwrap();
    assert_eq!(running["status"]["phase"], "Running");
    let stale = client.write(Write::Update(pods, Part::Status, status)).await;
    assert_eq!(stale.unwrap_err().reason, Reason::Conflict);
    let bound = client.write(bind("p", meta::uid(&created), "one")).await.unwrap();
    assert_eq!(bound["spec"]["nodeName"], "one");
    let twice = client.write(bind("p", meta::uid(&created), "two")).await;
    assert_eq!(twice.unwrap_err().reason, Reason::Conflict);
    let now = DeleteOptions {
        grace_period_seconds: Some(0),
        uid: Some(meta::uid(&created).to_owned()),
        ..DeleteOptions::default()
    };
    client.write(Write::Delete(pods, key("p"), now)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match events.next().await.unwrap().unwrap() {
            Event::Applied(object) => seen.push(format!("applied {}", meta::resource_version(&object))),
            Event::Deleted(object) => seen.push(format!("deleted {}", meta::resource_version(&object))),
            Event::Bookmark(_) => {}
        }
    }
    let versions = [&created, &running, &bound].map(|object| format!("applied {}", meta::resource_version(object)));
    assert_eq!(seen[..3], versions);
    assert!(seen[3].starts_with("deleted "), "{seen:?}");
}

#[tokio::test]
async fn a_watch_from_a_forgotten_state_is_refused() {
    let (door, proposer) = testing::door().await;
    let client = door.client(Identity::admin());
    for name in ["a", "b"] {
        client.write(Write::Create(catalogue::config_maps(), in_default(config_map(name)))).await.unwrap();
    }
    proposer.compact(Revision(door.store().revision().0 + 1)).unwrap();
    let refused = client.watch(catalogue::config_maps(), &Query::default(), "1").await.err();
    assert_eq!(refused.map(|error| error.reason), Some(Reason::Expired));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn services_made_at_once_get_different_addresses() {
    let (_door, client) = administrator().await;
    let writes = (0..64).map(|index| {
        let mut object = in_default(service(&format!("s{index}")));
        object["spec"]["type"] = Value::from("NodePort");
        Write::Create(catalogue::services(), object)
    });
    let writes: Vec<_> = writes
        .map(|write| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.write(write).await })
        })
        .collect();
    let made: Vec<_> = future::join_all(writes).await.into_iter().map(|made| made.unwrap().unwrap()).collect();
    let distinct = |pointer: &str| -> BTreeSet<String> {
        made.iter().map(|object| object.pointer(pointer).unwrap().to_string()).collect()
    };
    assert_eq!(distinct("/spec/clusterIP").len(), 64);
    assert_eq!(distinct("/spec/ports/0/nodePort").len(), 64);
}

#[tokio::test]
async fn the_address_of_the_clusters_dns_is_for_its_service_alone() {
    let (door, _client) = administrator().await;
    let namespaces = Target::collection(catalogue::namespaces(), "");
    create(&door, &namespaces, json!({"metadata": {"name": "kube-system"}})).await.unwrap();
    let asking = |name: &str| {
        let mut service = service(name);
        service["spec"]["clusterIP"] = Value::from("10.96.0.10");
        service
    };
    let system = Target::collection(catalogue::services(), "kube-system");
    let thief = create(&door, &Target::collection(catalogue::services(), "default"), asking("kube-dns")).await;
    let thief = thief.unwrap_err();
    assert!(thief.code() == 422 && thief.message.contains("kept for the cluster's DNS"), "{thief}");
    assert_eq!(create(&door, &system, asking("other")).await.unwrap_err().code(), 422);
    let dns = create(&door, &system, asking("kube-dns")).await.unwrap();
    assert_eq!(dns["spec"]["clusterIP"], "10.96.0.10");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn patches_at_once_all_count() {
    let (door, _client) = administrator().await;
    let target = Target::collection(catalogue::config_maps(), "default");
    create(&door, &target, config_map("x")).await.unwrap();
    let target = Target::object(catalogue::config_maps(), "default", "x");
    let tasks = (0..8).map(|index| {
        let (door, target) = (Arc::clone(&door), target.clone());
        tokio::spawn(async move {
            let patch = json!({"data": {format!("k{index}"): "1"}});
            let merge = coracle_objects::patch::PatchType::Merge;
            door.patch(&Identity::admin(), &target, &patch, merge, super::WriteOptions::default()).await
        })
    });
    for task in future::join_all(tasks).await {
        task.unwrap().unwrap();
    }
    let entry = door.get(&Identity::admin(), &target, super::read::At::Latest).await.unwrap();
    let object: Value = serde_json::from_slice(&entry.value).unwrap();
    assert_eq!(object["data"].as_object().map(serde_json::Map::len), Some(9));
}

#[tokio::test]
async fn writing_many_answers_each_in_order() {
    let (_door, client) = administrator().await;
    let create = |name: &str| Write::Create(catalogue::config_maps(), in_default(config_map(name)));
    let answers = client.write_many(vec![create("a"), create("b"), create("a"), create("c")]).await;
    let told: Vec<Result<String, Reason>> = answers
        .into_iter()
        .map(|answer| answer.map(|object| meta::name(&object).to_owned()).map_err(|error: ApiError| error.reason))
        .collect();
    assert_eq!(told, [Ok("a".to_owned()), Ok("b".to_owned()), Err(Reason::AlreadyExists), Ok("c".to_owned())]);
}

#[tokio::test]
async fn a_node_touches_only_what_is_its_own() {
    let (door, client) = administrator().await;
    let mine = door.client(Identity::node("one"));
    let pods = catalogue::pods();
    let created = client.write(Write::Create(pods, in_default(pod("p")))).await.unwrap();
    client.write(Write::Create(catalogue::config_maps(), in_default(config_map("c")))).await.unwrap();
    client.write(bind("p", meta::uid(&created), "two")).await.unwrap();
    let reason = |answer: Result<Arc<Value>, ApiError>| answer.map_or_else(|error| Some(error.reason), |_| None);
    assert_eq!(reason(mine.get(pods, &key("p")).await), Some(Reason::Forbidden));
    assert_eq!(reason(door.client(Identity::node("two")).get(pods, &key("p")).await), None);
    assert_eq!(reason(mine.get(catalogue::config_maps(), &key("c")).await), Some(Reason::Forbidden));
    let node = |name: &str| Write::Create(catalogue::nodes(), json!({"metadata": {"name": name}, "spec": {}}));
    assert_eq!(reason(mine.write(node("two")).await), Some(Reason::Forbidden));
    assert_eq!(reason(mine.write(node("one")).await), None);
    let all = mine.list(pods, &Query::default()).await;
    assert_eq!(all.err().map(|error| error.reason), Some(Reason::Forbidden));
}

/// Whenever a config map is to be stored, its namespace is gone a moment before.
struct NamespaceEnds(Arc<LocalProposer>);

#[async_trait::async_trait]
impl Proposer for NamespaceEnds {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        if matches!(command.ops.first(), Some(Op::Put { key, .. }) if key.0.starts_with("/configmaps/")) {
            let key = Target::object(catalogue::namespaces(), "", "default").key();
            let ended = Command { ops: vec![Op::Delete { key, expect: Expect::Present }], ..Command::default() };
            self.0.propose(ended).await?;
        }
        self.0.propose(command).await
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_is_born_in_a_namespace_that_ends_meanwhile() {
    let (_, proposer) = testing::door().await;
    let store: Store = proposer.store().clone();
    let door = Door::new(DoorConfig {
        store: store.clone(),
        proposer: Arc::new(NamespaceEnds(proposer)),
        service_range: (Ipv4Addr::new(10, 96, 0, 0), 16),
        range_rest: std::time::Duration::ZERO,
        blob_dir: PathBuf::from("/nonexistent"),
        tolerations: TolerationDefaults::default(),
    });
    let target = Target::collection(catalogue::config_maps(), "default");
    let refused = create(&door, &target, config_map("x")).await.unwrap_err();
    assert_eq!((refused.reason, refused.message.as_str()), (Reason::NotFound, "namespaces \"default\" not found"));
    assert!(store.get(&Target::object(catalogue::config_maps(), "default", "x").key()).unwrap().is_none());
}
