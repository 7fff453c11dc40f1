//! The floor: when it rises, what goes with that, and that nobody is let in by it.

use super::{super::*, *};
use crate::{
    door::DeleteOptions,
    testing::{create, door, door_with_rest},
};
use coracle_store::testing::LocalProposer;
use serde_json::json;
use std::sync::Arc;

const SHORT: Terms = Terms { lifetime: 80, least: 0 };
/// How long is waited for the end of certificates that last 80 s.
const WAIT: u64 = 101;

#[test]
fn a_mark_becomes_the_floor_when_what_was_issued_before_it_is_over() {
    let mut marks = Marks::default();
    assert_eq!(marks.advance(0, SHORT, 5), None);
    assert_eq!(marks.advance(5, SHORT, 6), None);
    assert_eq!(marks.open, [Mark { revision: 5, over: WAIT }], "not at each look");
    assert_eq!(marks.advance(30, SHORT, 20), None);
    assert_eq!(marks.advance(WAIT - 36, SHORT, 30), None, "a second before");
    assert_eq!(marks.advance(1, SHORT, 31), Some(5));
    assert_eq!(marks.advance(33, SHORT, 32), None);
    assert_eq!(marks.advance(2, SHORT, 33), Some(20));
    // After a long pause of the loop everything that is over goes at once.
    assert_eq!(marks.advance(WAIT * 9, SHORT, 50), Some(32));
}

#[test]
fn the_longest_lifetime_that_was_in_force_counts() {
    let long = Terms { lifetime: 8_000, least: 0 };
    let mut marks = Marks::default();
    marks.advance(0, long, 5);
    marks.advance(10, long, 6);
    // The server has been started anew with shorter ones; those since the last mark may be long.
    for second in 0..9_990 {
        assert_eq!(marks.advance(1, SHORT, 7 + second), None, "{second}");
    }
    assert!(marks.open.len() <= 2, "{marks:?}");
    assert_eq!(marks.advance(1, SHORT, 20_000), Some(5));
    // And longer ones than before.
    let mut marks = Marks::default();
    marks.advance(0, SHORT, 5);
    marks.advance(1, long, 6);
    assert_eq!(marks.advance(WAIT, long, 7), Some(5));
    assert_eq!(marks.advance(0, long, 7), None);
    assert_eq!(marks.open, [Mark { revision: 7, over: WAIT + 1 + 10_001 }]);
    assert_eq!(marks.advance(10_000, long, 8), None);
    assert_eq!(marks.advance(1, long, 9), Some(7));
}

#[test]
fn there_are_only_so_many_marks() {
    let mut marks = Marks::default();
    for round in 0..10_000 {
        let lifetime = 60 + round;
        marks.advance(20 + round / 8, Terms { lifetime, least: 0 }, round);
        assert!(marks.open.len() <= MARKS_MAX && marks.open.is_sorted_by_key(|mark| (mark.over, mark.revision)));
    }
    let mut full = Marks { open: (0..32).map(|over| Mark { revision: over, over: over + 50 }).collect(), ..marks };
    full.mark(Mark { revision: 99, over: 99 });
    assert_eq!((full.open.len(), full.open.last()), (MARKS_MAX, Some(&Mark { revision: 99, over: 99 })));
}

fn record(store: &Store, node: &str) -> bool {
    store.get(&key(node)).unwrap().is_some()
}

/// A Node that is there and was let in under a record, one that was deleted; the revision before the deletion.
async fn nodes(door: &Door) -> u64 {
    let target = Target::collection(catalogue::nodes(), "");
    for node in ["stays", "gone"] {
        begin_anew(door, node).await.unwrap();
        create(door, &target, json!({"metadata": {"name": node}})).await.unwrap();
    }
    let before = door.store().revision().0;
    let target = Target::object(catalogue::nodes(), "", "gone");
    door.delete(&Identity::admin(), &target, &DeleteOptions::default()).await.unwrap();
    before
}

/// A door, with what raises its floor for certificates of 80 s, begun at the instant that is given too.
async fn begun() -> (Arc<Door>, Arc<LocalProposer>, Raiser, Instant) {
    let (door, proposer) = door().await;
    let (mut raiser, start) = (Raiser::new(&door, Duration::from_secs(79)), Instant::now());
    raiser.advance(&door, start).await.unwrap();
    (door, proposer, raiser, start)
}

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[tokio::test]
async fn records_go_when_every_certificate_that_they_could_refuse_is_over_and_nobody_comes_back_by_that() {
    let (door, _proposer, mut raiser, start) = begun().await;
    let (store, connections) = (door.store().clone(), NodeConnections::new(door.store().clone()));
    let stolen = nodes(&door).await;
    let since = recorded(&store, "gone").unwrap();
    let stop = CancellationToken::new();
    let watching = tokio::spawn(Arc::clone(&connections).run(stop.clone()));
    let held = connections.enter("gone", since);
    assert!(!connections.counts("gone", stolen).unwrap());
    raiser.advance(&door, at(start, 30)).await.unwrap();
    let renewed = store.revision().0;
    raiser.advance(&door, at(start, 30 + WAIT - 1)).await.unwrap();
    assert!(record(&store, "gone") && record(&store, "stays"));
    raiser.advance(&door, at(start, 30 + WAIT)).await.unwrap();
    assert!(!record(&store, "gone") && !record(&store, "stays"));
    assert!(!connections.counts("gone", stolen).unwrap() && super::super::since(&store, "gone").unwrap() >= since);
    assert!(connections.counts("stays", renewed).unwrap(), "who has renewed since goes on");
    // Also other nodes do not take the old certificate for that of a later node of the name.
    let target = Target::collection(catalogue::nodes(), "");
    let again = create(&door, &target, json!({"metadata": {"name": "gone"}})).await.unwrap();
    assert!(said_by(&again) >= since, "{again}");
    // A connection that was let in after the deletion ends neither by the record's removal nor by its age.
    create(&door, &target, json!({"metadata": {"name": "last"}})).await.unwrap();
    let last = Target::object(catalogue::nodes(), "", "last");
    let sign = connections.enter("last", 0);
    door.delete(&Identity::admin(), &last, &DeleteOptions::default()).await.unwrap();
    sign.revoked.cancelled().await;
    assert!(!held.revoked.is_cancelled());
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn time_counts_once_however_many_servers_there_are_and_not_while_none_runs() {
    let (door, _proposer, mut one, start) = begun().await;
    nodes(&door).await;
    let mut other = Raiser::new(&door, Duration::from_secs(79));
    for second in (0..WAIT * 3 / 4).step_by(10) {
        one.advance(&door, at(start, second)).await.unwrap();
        other.advance(&door, at(start, second + 5)).await.unwrap();
    }
    assert!(record(&door.store().clone(), "gone"), "two servers count twice");
    // Started anew much later, by whatever clock: only what it runs itself counts.
    let (mut later, much) = (Raiser::new(&door, Duration::from_secs(79)), 1_000_000);
    later.advance(&door, at(start, much)).await.unwrap();
    assert!(record(door.store(), "gone"), "time counts in which no server ran");
    for second in (0..=2 * WAIT).step_by(10) {
        later.advance(&door, at(start, much + second)).await.unwrap();
    }
    assert!(!record(door.store(), "gone"));
}

#[tokio::test]
async fn a_cluster_from_before_the_floor_waits_for_a_year_and_a_resting_range_for_its_record() {
    let (old, _proposer) = door().await;
    nodes(&old).await;
    let (mut raiser, start) = (Raiser::new(&old, Duration::from_secs(79)), Instant::now());
    for second in (0..WAIT * 10).step_by(10) {
        raiser.advance(&old, at(start, second)).await.unwrap();
    }
    assert!(record(old.store(), "gone"), "its certificates may last for a year");
    let (resting, _proposer) = door_with_rest(Duration::from_secs(800)).await;
    let mut raiser = Raiser::new(&resting, Duration::from_secs(79));
    raiser.advance(&resting, start).await.unwrap();
    nodes(&resting).await;
    assert_eq!(raiser.interval(), Duration::from_secs(100));
    for second in (0..800).step_by(10) {
        raiser.advance(&resting, at(start, second)).await.unwrap();
    }
    assert!(record(resting.store(), "gone"), "when it was deleted is still asked");
    for second in (800..2_000).step_by(10) {
        raiser.advance(&resting, at(start, second)).await.unwrap();
    }
    assert!(!record(resting.store(), "gone"));
}

#[tokio::test]
async fn a_node_that_could_not_be_told_is_told_later() {
    let (door, _proposer, mut raiser, start) = begun().await;
    let target = Target::object(catalogue::nodes(), "", "one");
    create(&door, &Target::collection(catalogue::nodes(), ""), json!({"metadata": {"name": "one"}})).await.unwrap();
    // A server that ended in the middle of letting another machine in has written the record alone.
    let ops = vec![revoke(door.store(), "one", 0).unwrap()];
    door.propose(Command { ops, ..Command::default() }).await.unwrap();
    raiser.advance(&door, start).await.unwrap();
    let stored = door.store().get(&target.key()).unwrap().unwrap();
    let said = said_by(&serde_json::from_slice(&stored.value).unwrap());
    assert_eq!(said, recorded(door.store(), "one").unwrap());
}
