//! What becomes of a node's lease, and what its pings are told of that.

use super::{super::tests::Setting, *};
use crate::{
    door::DeleteOptions,
    nodelink::tests::{NEW, Node, register, setting, setting_of},
    testing,
};
use async_trait::async_trait;
use coracle_store::{Command, Outcome, ProposeError, Proposer, testing::LocalProposer};
use futures::FutureExt as _;
use std::collections::BTreeSet;

/// How long anything here may take.
const LIMIT: Duration = Duration::from_mins(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

fn lease_of(node: &str) -> Target {
    Target::object(catalogue::leases(), NAMESPACE, node)
}

fn node_of(node: &str) -> Target {
    Target::object(catalogue::nodes(), "", node)
}

async fn lease(setting: &Setting, node: &str) -> Option<Value> {
    let entry = setting.door.get(&Identity::admin(), &lease_of(node), At::Any).await;
    entry.ok().map(|entry| decoded(&entry.value).unwrap())
}

async fn remove(setting: &Setting, target: &Target) {
    setting.door.delete(&Identity::admin(), target, &DeleteOptions::default()).await.unwrap();
}

/// Pings until a pong is as wanted.
async fn told(node: &mut Node, wanted: impl Fn(&Node, ServerPong) -> bool) -> ServerPong {
    let deadline = Instant::now() + LIMIT;
    loop {
        let pong = node.ping().await.unwrap();
        if wanted(node, pong) {
            return pong;
        }
        assert!(Instant::now() < deadline, "{pong:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Which ping renewed the lease, by the pong to the last one.
fn renewed(node: &Node, pong: ServerPong) -> u64 {
    node.pings - pong.behind
}

/// Pings until one of these pings has renewed the lease.
async fn renews(node: &mut Node) {
    let before = node.pings;
    told(node, |node, pong| renewed(node, pong) > before && !pong.unrenewed).await;
}

#[tokio::test]
async fn pings_renew_the_nodes_lease() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let mut seen = BTreeSet::new();
    // Also where somebody removes it in between.
    for round in 0..3 {
        renews(&mut node).await;
        let lease = lease(&setting, "one").await.unwrap();
        let spec = &lease["spec"];
        assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!("one"), &json!(8)));
        seen.insert(spec["renewTime"].to_string());
        if round == 1 {
            remove(&setting, &lease_of("one")).await;
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[tokio::test]
async fn a_lease_belongs_to_its_node_also_to_one_that_is_made_anew_and_to_none_it_is_not_renewed() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    renews(&mut node).await;
    let owners = |uid: &Value| json!([{"apiVersion": "v1", "kind": "Node", "name": "one", "uid": uid}]);
    let before = lease(&setting, "one").await.unwrap();
    let object = setting.door.get(&Identity::admin(), &node_of("one"), At::Any).await.unwrap();
    let uid = decoded(&object.value).unwrap()["metadata"]["uid"].take();
    assert_eq!(before["metadata"]["ownerReferences"], owners(&uid));

    remove(&setting, &node_of("one")).await;
    let another = register(&setting.door, "one").await;
    renews(&mut node).await;
    let after = lease(&setting, "one").await.unwrap();
    assert_eq!(after["metadata"]["ownerReferences"], owners(&another));
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "the same lease");

    remove(&setting, &node_of("one")).await;
    let is_unrenewed = |_: &Node, pong: ServerPong| pong.unrenewed && pong.behind > 0;
    told(&mut node, is_unrenewed).await;
    remove(&setting, &lease_of("one")).await;
    told(&mut node, is_unrenewed).await;
    assert_eq!(lease(&setting, "one").await, None);
}

#[tokio::test]
async fn the_first_lease_of_a_new_node_waits_for_no_second_ping() {
    let setting = setting().await;
    let mut node = Node::connect(&setting, NEW, NEW).await;
    assert_eq!(node.ping().await.unwrap(), ServerPong { unrenewed: true, behind: 1 }, "there is no Node");
    assert_eq!(lease(&setting, NEW).await, None);
    // A neighbour by name is another.
    register(&setting.door, &format!("{NEW}-2")).await;
    register(&setting.door, NEW).await;
    let deadline = Instant::now() + LIMIT;
    while lease(&setting, NEW).await.is_none() {
        assert!(Instant::now() < deadline, "no lease");
        tokio::time::sleep(PAUSE).await;
    }
    renews(&mut node).await;
}

#[tokio::test]
async fn a_ping_that_comes_just_before_its_node_is_made_is_told_that_it_renewed_the_lease() {
    let setting = setting().await;
    let deadline = Instant::now() + LIMIT;
    // Once more where this machine was too busy to make the Node in time.
    loop {
        let before = setting.door.store().watchers();
        let mut node = Node::connect(&setting, NEW, NEW).await;
        node.send_ping().await;
        while setting.door.store().watchers() == before {
            assert!(Instant::now() < deadline, "nobody looks for the Node");
            tokio::task::yield_now().await;
        }
        register(&setting.door, NEW).await;
        let pong = node.pong().await.unwrap();
        if pong == (ServerPong { unrenewed: false, behind: 0 }) {
            break;
        }
        assert!(Instant::now() < deadline, "{pong:?}");
        drop(node);
        while setting.door.store().watchers() > before {
            tokio::task::yield_now().await;
        }
        remove(&setting, &node_of(NEW)).await;
    }
}

/// A store that takes no change while the test holds `gate`.
struct Gated {
    proposer: LocalProposer,
    gate: Arc<tokio::sync::Mutex<()>>,
}

#[async_trait]
impl Proposer for Gated {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let _open = self.gate.lock().await;
        self.proposer.propose(command).await
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.proposer.read_barrier().await
    }
}

#[tokio::test]
async fn a_store_that_takes_nothing_renews_nothing_and_pings_are_told() {
    let gate = Arc::new(tokio::sync::Mutex::new(()));
    let proposer = LocalProposer::new().unwrap();
    let store = proposer.store().clone();
    let gated = Arc::new(Gated { proposer, gate: Arc::clone(&gate) });
    let setting = setting_of(testing::door_of(gated, store, Duration::ZERO).await).await;
    let mut node = Node::ready(&setting, "one").await;
    let closed = gate.lock().await;
    let before = node.pings;
    let pong = told(&mut node, |_, pong| pong.unrenewed).await;
    assert!(renewed(&node, pong) <= before, "{pong:?} to ping {}", node.pings);
    drop(closed);
    told(&mut node, |_, pong| !pong.unrenewed).await;
    renews(&mut node).await;
}

/// Without who renews: the test says what happens.
fn keeper() -> (LeaseKeeper, Arc<watch::Sender<Progress>>, mpsc::Receiver<()>) {
    let (renew, asked) = mpsc::channel(1);
    let progress = Arc::new(watch::Sender::new(Progress::default()));
    (LeaseKeeper { renew, progress: Arc::clone(&progress) }, progress, asked)
}

#[tokio::test]
async fn a_ping_is_told_what_was_renewed_and_nothing_better() {
    let (keeper, progress, _asked) = keeper();
    let pong = |unrenewed, behind| ServerPong { unrenewed, behind };
    let mut first = Box::pin(keeper.renew());
    assert!(first.as_mut().now_or_never().is_none(), "nothing is known yet");
    progress.send_modify(|progress| (progress.ended, progress.renewed, progress.rests) = (1, 1, true));
    assert_eq!(first.await, pong(false, 0));
    assert_eq!(keeper.renew().await, pong(false, 1), "it is renewed a little later, and not confirmed before");
    let begun = Instant::now();
    progress.send_modify(|progress| (progress.since, progress.rests) = (Some(begun), false));
    assert_eq!(keeper.renew().await, pong(true, 2), "what takes too long has failed");
    assert!(begun.elapsed() >= PENDING_MAX);
    assert_eq!(keeper.renew().now_or_never(), Some(pong(true, 3)), "and nobody waits for it any more");
    progress.send_modify(|progress| {
        (progress.since, progress.ended, progress.failed, progress.rests) = (None, 4, true, true);
    });
    assert_eq!(keeper.renew().await, pong(true, 4));
    progress.send_modify(|progress| (progress.ended, progress.renewed, progress.failed) = (6, 6, false));
    assert_eq!(keeper.renew().await, pong(false, 0));
}
