//! Views as nodes see them, over a door in memory.

use super::*;
use crate::{
    Door,
    door::{Body, DeleteOptions, Target, WriteOptions},
    identity::Identity,
    testing,
};
use coracle_objects::{Kind, catalogue};
use coracle_store::testing::LocalProposer;
use coracle_wire::v1::{ViewKind, view_change};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A test that waits longer has failed.
const WAIT_MAX: Duration = Duration::from_secs(20);

struct World {
    door: Arc<Door>,
    proposer: Arc<LocalProposer>,
    feed: Arc<Feed>,
}

impl World {
    async fn new() -> Self {
        let (door, proposer) = testing::door().await;
        let namespaces = Target::collection(catalogue::namespaces(), "");
        testing::create(&door, &namespaces, json!({"metadata": {"name": "kube-system"}})).await.unwrap();
        let feed = Feed::new(door.store().clone(), CancellationToken::new());
        Self { door, proposer, feed }
    }

    /// As after a restart of the server.
    fn forget(&mut self) {
        self.feed.closing.cancel();
        self.feed = Feed::new(self.door.store().clone(), CancellationToken::new());
    }

    async fn put(&self, kind: &'static Kind, object: Value) {
        let namespace = if kind == catalogue::nodes() { "" } else { "default" };
        testing::create(&self.door, &Target::collection(kind, namespace), object).await.unwrap();
    }

    async fn config(&self, kind: &'static Kind, name: &str, value: &str) {
        let target = Target::object(kind, "default", name);
        let mut object = json!({"apiVersion": "v1", "kind": kind.kind, "metadata": {"name": name}});
        object[if kind.kind == "Secret" { "stringData" } else { "data" }] = json!({"key": value});
        let admin = Identity::admin();
        let updated = self.door.update(&admin, &target, Body::Value(object.clone()), WriteOptions::default()).await;
        if updated.is_err() {
            self.put(kind, object).await;
        }
    }

    async fn pod(&self, name: &str, node: &str, config_map: &str, secret: &str) {
        let mut pod = testing::pod(name);
        if !node.is_empty() {
            pod["spec"]["nodeName"] = json!(node);
        }
        pod["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": config_map}}]);
        pod["spec"]["imagePullSecrets"] = json!([{"name": secret}]);
        self.put(catalogue::pods(), pod).await;
    }

    async fn delete(&self, kind: &'static Kind, name: &str) {
        let target = Target::object(kind, if kind == catalogue::nodes() { "" } else { "default" }, name);
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        let _ = self.door.delete(&Identity::admin(), &target, &options).await;
    }

    async fn reader(&self, node: &'static str) -> Reader {
        let mut reader = Reader::new(node);
        reader.join(self).await;
        reader
    }
}

/// A node's side.
struct Reader {
    node: &'static str,
    objects: BTreeMap<(ViewKind, String), Value>,
    revision: u64,
    history: String,
    stream: BoxStream<'static, Result<ViewUpdate, Status>>,
    wholes: usize,
    forgot_pods: bool,
    /// Changes since the last [`Self::join`].
    told: usize,
}

impl Reader {
    fn new(node: &'static str) -> Self {
        let stream = stream::empty().boxed();
        let (objects, history) = (BTreeMap::new(), String::new());
        Self { node, objects, revision: 0, history, stream, wholes: 0, forgot_pods: false, told: 0 }
    }

    async fn join(&mut self, world: &World) {
        let (revision, history) = (self.revision, self.history.clone());
        let request = FollowRequest { revision, history, without_pods: self.forgot_pods };
        self.stream = world.feed.follow(self.node, &request, CancellationToken::new()).await.unwrap();
        self.told = 0;
        self.step().await.unwrap();
    }

    /// Takes in what belongs together.
    async fn step(&mut self) -> Result<(), Status> {
        loop {
            let next = tokio::time::timeout(WAIT_MAX, self.stream.next()).await.expect("nothing was told");
            let update = next.expect("the stream ended")?;
            if update.whole {
                self.objects.clear();
                self.wholes += 1;
            }
            if update.all_pods {
                self.objects.retain(|place, _| place.0 != ViewKind::Pod);
            }
            self.told += update.changes.len();
            for change in update.changes {
                let kind = change.kind();
                match change.change.unwrap() {
                    view_change::Change::Object(bytes) => {
                        let object: Value = serde_json::from_slice(&bytes).unwrap();
                        let metadata = &object["metadata"];
                        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
                        self.objects.insert((kind, format!("{}/{}", text("namespace"), text("name"))), object);
                    }
                    view_change::Change::Gone(gone) => {
                        let place = (kind, format!("{}/{}", gone.namespace, gone.name));
                        let is_it = |known: &Value| gone.uid.is_empty() || known["metadata"]["uid"] == gone.uid;
                        if self.objects.get(&place).is_some_and(is_it) {
                            self.objects.remove(&place);
                        }
                    }
                }
            }
            if update.revision > 0 {
                self.revision = update.revision;
                if !update.history.is_empty() {
                    self.history = update.history;
                }
                return Ok(());
            }
        }
    }

    async fn until(&mut self, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            self.step().await.unwrap();
        }
    }

    fn has(&self, kind: ViewKind, name: &str) -> bool {
        self.objects.contains_key(&(kind, name.to_owned()))
    }

    fn names(&self, kind: ViewKind) -> Vec<&str> {
        self.objects.keys().filter(|place| place.0 == kind).map(|place| place.1.as_str()).collect()
    }
}

#[tokio::test]
async fn a_node_is_told_its_pods_and_what_they_name_and_nothing_else() {
    let world = World::new().await;
    for name in ["mine", "foreign", "late"] {
        world.config(catalogue::config_maps(), name, "1").await;
        world.config(catalogue::secrets(), name, "1").await;
    }
    world.pod("a", "one", "mine", "mine").await;
    world.pod("b", "two", "foreign", "foreign").await;
    world.pod("c", "", "foreign", "foreign").await;
    world.put(catalogue::services(), testing::service("web")).await;
    let mut one = world.reader("one").await;
    assert_eq!((one.wholes, one.names(ViewKind::Pod)), (1, vec!["default/a"]));
    for kind in [ViewKind::ConfigMap, ViewKind::Secret] {
        assert_eq!(one.names(kind), ["default/mine"]);
    }
    assert_eq!(one.names(ViewKind::Service), ["default/web"]);
    assert_eq!(one.names(ViewKind::Namespace), ["/default", "/kube-system"]);

    world.pod("d", "one", "late", "none").await;
    world.config(catalogue::config_maps(), "foreign", "2").await;
    world.config(catalogue::config_maps(), "mine", "2").await;
    world.config(catalogue::secrets(), "none", "born later").await;
    one.until(|one| one.has(ViewKind::Secret, "default/none")).await;
    assert_eq!(one.names(ViewKind::ConfigMap), ["default/late", "default/mine"]);
    assert_eq!(one.objects[&(ViewKind::ConfigMap, "default/mine".to_owned())]["data"]["key"], "2");

    world.delete(catalogue::pods(), "a").await;
    one.until(|one| !one.has(ViewKind::Pod, "default/a")).await;
    assert_eq!(one.names(ViewKind::ConfigMap), ["default/late"], "what no pod names is taken back");
    assert_eq!(one.names(ViewKind::Secret), ["default/none"]);
    world.delete(catalogue::config_maps(), "late").await;
    one.until(|one| one.names(ViewKind::ConfigMap).is_empty()).await;
}

#[tokio::test]
async fn who_comes_back_is_told_what_changed() {
    let mut world = World::new().await;
    for index in 0..50 {
        world.put(catalogue::services(), testing::service(&format!("s{index}"))).await;
    }
    world.config(catalogue::config_maps(), "mine", "1").await;
    world.pod("a", "one", "mine", "none").await;
    world.pod("gone", "one", "mine", "none").await;
    let mut one = world.reader("one").await;
    for restarts in [false, true] {
        one.stream = stream::empty().boxed();
        let (name, dead) = (format!("late{restarts}"), format!("s{}", usize::from(restarts)));
        world.put(catalogue::services(), testing::service(&name)).await;
        world.delete(catalogue::services(), &dead).await;
        world.delete(catalogue::pods(), "gone").await;
        world.config(catalogue::config_maps(), "mine", &name).await;
        if restarts {
            world.forget();
        }
        one.join(&world).await;
        one.until(|one| one.has(ViewKind::Service, &format!("default/{name}"))).await;
        assert!(!one.has(ViewKind::Service, &format!("default/{dead}")) && !one.has(ViewKind::Pod, "default/gone"));
        assert_eq!(one.objects[&(ViewKind::ConfigMap, "default/mine".to_owned())]["data"]["key"], name.as_str());
        assert_eq!(one.wholes, 1);
        // Four changed; what changes while it is being told may be told twice.
        assert!(one.told <= 8, "{} changes", one.told);
    }
}

#[tokio::test]
async fn where_the_past_is_lost_everything_is_told_again() {
    let mut world = World::new().await;
    world.put(catalogue::services(), testing::service("old")).await;
    let mut one = world.reader("one").await;
    world.delete(catalogue::services(), "old").await;
    world.put(catalogue::services(), testing::service("new")).await;
    one.stream = stream::empty().boxed();
    world.forget();
    world.proposer.compact(Revision(world.door.store().revision().0 + 1)).unwrap();
    one.join(&world).await;
    assert_eq!((one.wholes, one.names(ViewKind::Service)), (2, vec!["default/new"]));

    for (revision, history) in [(one.revision, "another".to_owned()), (one.revision + 1000, one.history.clone())] {
        (one.revision, one.history) = (revision, history);
        one.join(&world).await;
    }
    assert_eq!(one.wholes, 4, "another store's revisions mean nothing here");
}

#[tokio::test]
async fn what_changes_without_meaning_is_not_told() {
    let world = World::new().await;
    let nodes = Target::collection(catalogue::nodes(), "");
    let mut node = testing::create(&world.door, &nodes, json!({"metadata": {"name": "two"}})).await.unwrap();
    let mut one = world.reader("one").await;
    one.told = 0;
    for second in 10..20 {
        let time = format!("2026-01-01T00:00:{second}Z");
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": time}]);
        let target = Target::object(catalogue::nodes(), "", "two").with_subresource("status").unwrap();
        let body = Body::Value(node);
        let written = world.door.update(&Identity::admin(), &target, body, WriteOptions::default()).await.unwrap();
        node = serde_json::from_slice(&written.bytes).unwrap();
    }
    world.put(catalogue::services(), testing::service("last")).await;
    one.until(|one| one.has(ViewKind::Service, "default/last")).await;
    assert!(one.told <= 2, "{} changes", one.told);
}

#[tokio::test]
async fn a_newer_stream_of_a_node_ends_the_older() {
    let world = World::new().await;
    let mut older = world.reader("one").await;
    let mut newer = world.reader("one").await;
    assert_eq!(older.step().await.unwrap_err().code(), tonic::Code::Aborted);
    drop(older);
    world.put(catalogue::services(), testing::service("s")).await;
    newer.until(|newer| newer.has(ViewKind::Service, "default/s")).await;
}

/// Whatever happens in whichever order, and however often a node is away: it ends up with what one that comes new is told.
#[tokio::test]
async fn all_ways_lead_to_the_same_view() {
    for seed in 0..6_u64 {
        let mut random = seed;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut world = World::new().await;
        let mut one = world.reader("one").await;
        for step in 0..150 {
            let name = format!("x{}", draw(4));
            let node = ["one", "two", ""][usize::try_from(draw(3)).unwrap()];
            match draw(10) {
                0 | 1 => {
                    world.delete(catalogue::pods(), &name).await;
                    world.pod(&name, node, &format!("x{}", draw(4)), &format!("x{}", draw(4))).await;
                }
                2 => world.delete(catalogue::pods(), &name).await,
                3 | 4 => world.config(catalogue::config_maps(), &name, &step.to_string()).await,
                5 => world.config(catalogue::secrets(), &name, &step.to_string()).await,
                6 => {
                    world
                        .delete([catalogue::config_maps(), catalogue::secrets()][usize::from(draw(2) == 0)], &name)
                        .await;
                }
                7 => {
                    world.delete(catalogue::services(), &name).await;
                    if draw(2) == 0 {
                        world.put(catalogue::services(), testing::service(&name)).await;
                    }
                }
                8 => {
                    one.forgot_pods = draw(3) == 0;
                    one.stream = stream::empty().boxed();
                    if draw(3) == 0 {
                        world.forget();
                    }
                }
                _ => {
                    if one.forgot_pods {
                        one.objects.retain(|place, _| place.0 != ViewKind::Pod);
                    }
                    one.join(&world).await;
                    one.forgot_pods = false;
                }
            }
        }
        world.put(catalogue::services(), testing::service("end")).await;
        one.forgot_pods = false;
        let at_the_end = |reader: &Reader| reader.has(ViewKind::Service, "default/end");
        one.join(&world).await;
        one.until(at_the_end).await;
        let mut fresh = world.reader("one").await;
        fresh.until(at_the_end).await;
        assert_eq!(one.objects, fresh.objects, "seed {seed}");
    }
}

#[tokio::test]
async fn what_is_recalled_too_late_is_not_taken_for_all() {
    let world = World::new().await;
    let _reader = world.reader("a").await;
    let mut state = world.feed.state.lock();
    let state = state.as_mut().unwrap();
    let known = state.gone_after();
    state.recall(Revision(0), Revision(known.0 - 1), &[]);
    assert_eq!(state.gone_after(), known, "the views were read anew since, and nobody looked at what went before that");
    state.recall(Revision(0), known, &[]);
    assert_eq!(state.gone_after(), Revision(0));
}
