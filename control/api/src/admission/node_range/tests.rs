//! Nodes through the door: every one gets its own range and keeps it.

use super::*;
use crate::{
    door::{Body, DeleteOptions, WriteOptions, Written},
    identity::Identity,
    testing,
};
use coracle_objects::patch::PatchType;
use std::{collections::BTreeSet, sync::Arc};

fn nodes() -> Target {
    Target::collection(catalogue::nodes(), "")
}

fn one(name: &str) -> Target {
    Target::object(catalogue::nodes(), "", name)
}

fn node(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn created(door: &Door, name: &str) -> String {
    range_of(&testing::create(door, &nodes(), node(name, &json!({}))).await.unwrap()).to_owned()
}

async fn delete(door: &Door, name: &str) {
    door.delete(&Identity::admin(), &one(name), &DeleteOptions::default()).await.unwrap();
}

async fn patch(door: &Door, identity: Identity, name: &str, patch: Value) -> Result<Value, ApiError> {
    let written = door.patch(&identity, &one(name), &patch, PatchType::Merge, WriteOptions::default()).await?;
    Ok(serde_json::from_slice(&written.bytes).unwrap())
}

async fn fill(door: &Door) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for index in 0..ranges::node_ranges(ranges::NODE_RANGE_BITS).len() {
        all.insert(created(door, &format!("n{index}")).await);
    }
    all
}

async fn create_raw(door: &Door, name: &str, spec: Value) -> Result<Written, ApiError> {
    let mut object = node(name, &spec);
    object["apiVersion"] = "v1".into();
    object["kind"] = "Node".into();
    door.create(&Identity::admin(), &nodes(), Body::Value(object), WriteOptions::default()).await
}

#[tokio::test]
async fn every_node_gets_its_own_range_until_none_is_left() {
    let (door, _) = testing::door().await;
    let all = fill(&door).await;
    assert_eq!(all, ranges::node_ranges(ranges::NODE_RANGE_BITS).map(ranges::text).collect());
    let written = create_raw(&door, "late", json!({})).await.unwrap();
    let late: Value = serde_json::from_slice(&written.bytes).unwrap();
    assert_eq!(range_of(&late), "");
    assert!(
        written.warnings[0].contains("all 256 ranges (/22) of 10.244.0.0/14 belong to other nodes, at least in part"),
        "{written:?}"
    );
    // One that came too late gets a range as soon as there is one.
    let entry = door.store().get(&one("n7").key()).unwrap().unwrap();
    let freed: Value = serde_json::from_slice(&entry.value).unwrap();
    delete(&door, "n7").await;
    let touched = patch(&door, Identity::admin(), "late", json!({"metadata": {"labels": {"a": "b"}}})).await.unwrap();
    assert_eq!(range_of(&touched), range_of(&freed));
    assert_eq!(touched["spec"]["podCIDRs"], json!([range_of(&touched)]));
}

#[tokio::test]
async fn a_range_stays_with_the_name_of_its_node() {
    let (door, _) = testing::door().await;
    let (first, second) = (created(&door, "a").await, created(&door, "b").await);
    delete(&door, "a").await;
    let third = created(&door, "c").await;
    assert!(third != first && third != second, "the machine of node a may still use {first}");
    assert_eq!(created(&door, "a").await, first, "the node that comes back");
}

#[tokio::test]
async fn a_range_rests_before_another_node_gets_it() {
    let (door, _) = testing::door_with_rest(std::time::Duration::from_mins(10)).await;
    fill(&door).await;
    let entry = door.store().get(&one("n7").key()).unwrap().unwrap();
    let freed: Value = serde_json::from_slice(&entry.value).unwrap();
    delete(&door, "n7").await;
    assert_eq!(created(&door, "late").await, "", "what node n7 had still rests");
    let asked = create_raw(&door, "later", json!({"podCIDR": range_of(&freed)})).await.unwrap_err();
    assert!(asked.message.contains("already allocated to node n7"), "{asked}");
    assert_eq!(created(&door, "n7").await, range_of(&freed), "but not for itself");
}

#[tokio::test]
async fn thousands_of_small_nodes_have_room() {
    let (door, _) = testing::door().await;
    let mut object = node("tiny", &json!({}));
    object["metadata"]["annotations"] = json!({ranges::MAX_PODS_ANNOTATION: "61"});
    let tiny = testing::create(&door, &nodes(), object).await.unwrap();
    assert!(range_of(&tiny).ends_with("/26"), "{tiny}");
    assert_eq!(ranges::node_ranges(26).len(), 4096);
    let usual = ranges::parse(&created(&door, "usual").await).unwrap();
    assert!(usual.1 == 22 && !ranges::contains(usual, ranges::parse(range_of(&tiny)).unwrap().0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_created_at_once_never_share_a_range() {
    let (door, _) = testing::door().await;
    for index in 0..ranges::node_ranges(ranges::NODE_RANGE_BITS).len() {
        let name = format!("n{index}");
        created(&door, &name).await;
        delete(&door, &name).await;
    }
    // Half of them return while others want what is theirs.
    let names = (0..128).flat_map(|index| [format!("n{index}"), format!("new{index}")]);
    let tasks: Vec<_> = names
        .map(|name| {
            let door = Arc::clone(&door);
            tokio::spawn(async move { created(&door, &name).await })
        })
        .collect();
    let mut all = BTreeSet::new();
    for task in tasks {
        all.insert(task.await.unwrap());
    }
    assert_eq!(all.len(), 256);
}

#[tokio::test]
async fn a_range_never_changes_and_is_nobodys_choice_twice() {
    let (door, _) = testing::door().await;
    let own = created(&door, "a").await;
    let code = |outcome: Result<Written, ApiError>| outcome.map_or_else(|error| error.code(), |_| 200);
    let refused = [
        json!({"podCIDR": own}),
        json!({"podCIDR": "10.244.4.0/27"}),
        json!({"podCIDR": "10.9.0.0/22"}),
        json!({"podCIDR": "10.244.4.1/22"}),
        json!({"podCIDR": "10.244.4.0/22", "podCIDRs": ["10.244.8.0/22"]}),
        json!({"podCIDRs": ["10.244.4.0/22", "10.244.8.0/22"]}),
        json!({"podCIDRs": ["none"]}),
    ];
    for spec in refused {
        assert_eq!(code(create_raw(&door, "b", spec.clone()).await), 422, "{spec}");
    }
    assert_eq!(code(create_raw(&door, "b", json!({"podCIDRs": ["10.244.8.0/22"]})).await), 200);
    for change in [
        json!({"spec": {"podCIDR": "10.244.12.0/22"}}),
        json!({"spec": {"podCIDR": "10.244.12.0/22", "podCIDRs": ["10.244.12.0/22"]}}),
    ] {
        assert_eq!(patch(&door, Identity::admin(), "b", change.clone()).await.unwrap_err().code(), 422, "{change}");
        assert_eq!(patch(&door, Identity::node("b"), "b", change).await.unwrap_err().code(), 403);
    }
    // Who does not mention it does not mean to take it away.
    let kept =
        patch(&door, Identity::admin(), "b", json!({"spec": {"podCIDR": null, "podCIDRs": null}})).await.unwrap();
    assert_eq!((range_of(&kept), &kept["spec"]["podCIDRs"]), ("10.244.8.0/22", &json!(["10.244.8.0/22"])));
    delete(&door, "b").await;
    assert_eq!(code(create_raw(&door, "c", json!({"podCIDR": "10.244.8.0/22"})).await), 200, "its node is gone");
}

#[tokio::test]
async fn a_node_of_an_older_store_gets_its_range_with_its_next_change() {
    let (door, _) = testing::door().await;
    let target = one("old");
    let mut object = node("old", &json!({"taints": []}));
    object["apiVersion"] = "v1".into();
    object["kind"] = "Node".into();
    let text = serde_json::to_string(&object).unwrap();
    let splice_at = u32::try_from(text.find("\"name\":\"old\"").unwrap()).ok();
    let put = Op::Put { key: target.key(), value: text.into(), splice_at, expect: Expect::Absent };
    door.propose(coracle_store::Command { ops: vec![put], ..coracle_store::Command::default() }).await.unwrap();
    let status = json!({"status": {"phase": "Running"}});
    let of_status = target.clone().with_subresource("status").unwrap();
    let written = door
        .patch(&Identity::node("old"), &of_status, &status, PatchType::Merge, WriteOptions::default())
        .await
        .unwrap();
    let object: Value = serde_json::from_slice(&written.bytes).unwrap();
    assert_eq!(range_of(&object), "", "a heartbeat changes nothing but the status");
    let changed = patch(&door, Identity::node("old"), "old", json!({"metadata": {"labels": {"zone": "a"}}})).await;
    assert_eq!(range_of(&changed.unwrap()), "10.244.0.0/22");
}

#[tokio::test]
async fn nodes_for_many_pods_get_large_ranges_that_meet_no_others() {
    let (door, _) = testing::door().await;
    let large = |name: &str, pods: &str| {
        let mut object = node(name, &json!({}));
        object["metadata"]["annotations"] = json!({ranges::MAX_PODS_ANNOTATION: pods});
        object
    };
    let make = async |name: &str, pods: &str| testing::create(&door, &nodes(), large(name, pods)).await;
    let mut held = vec![created(&door, "small").await];
    // The large ones first: where the others lie is left to chance.
    for (name, pods, bits) in [("a", "10000", 18), ("d", "16000", 18), ("b", "1000", 22), ("c", "4000", 20)] {
        let range = range_of(&make(name, pods).await.unwrap()).to_owned();
        assert!(range.ends_with(&format!("/{bits}")), "{range}");
        held.push(range);
    }
    let blocks: Vec<Range> = held.iter().flat_map(|text| ranges::blocks(ranges::parse(text).unwrap())).collect();
    assert_eq!(blocks.len(), 16 * (1 + 16 + 16 + 1 + 4));
    assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len(), "{held:?}");

    // It comes back with its size, or with another one, which gives the rest to others.
    delete(&door, "a").await;
    assert_eq!(range_of(&make("a", "10000").await.unwrap()), held[1]);
    delete(&door, "a").await;
    let less = range_of(&make("a", "1000").await.unwrap()).to_owned();
    assert!(ranges::contains(ranges::parse(&held[1]).unwrap(), ranges::parse(&less).unwrap().0), "{less}");
    delete(&door, "a").await;
    assert_eq!(range_of(&make("e", "10000").await.unwrap()).rsplit_once('/').unwrap().1, "18");
    for pods in ["many", "-1", "40000"] {
        let error = make("f", pods).await.unwrap_err();
        assert!(error.message.contains("must be a number of pods, at most 32765"), "{error}");
    }
}
