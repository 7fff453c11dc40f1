//! A replica on disk: what a server sees of it.

#![expect(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use coracle_raft::core::CoreConfig;
use coracle_raft::{NoPeers, Replica, ReplicaConfig, ReplicaError};
use coracle_store::backend::{Backend, MemoryBackend};
use coracle_store::{Command, Expect, Key, Op, Outcome, ProposeError, Proposer, Revision, Watched};
use std::path::Path;
use std::sync::Arc;

fn put(name: &str, expect: Expect) -> Command {
    let value = Bytes::from(format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}"));
    let key = Key::object("", "pods", "default", name);
    Command { ops: vec![Op::Put { key, value, splice_at: Some(13), expect }], ..Command::default() }
}

async fn open(directory: &Path) -> Replica {
    Replica::open(ReplicaConfig::new(directory, 1)).await.unwrap()
}

fn full(error: &ReplicaError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn state_and_watches_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    let cluster = replica.cluster_id().to_owned();
    let start = replica.store().revision();
    for name in ["a", "b", "c"] {
        assert!(matches!(replica.propose(put(name, Expect::Absent)).await, Ok(Outcome::Applied(_))));
    }
    replica.read_barrier().await.unwrap();
    let before = replica.store().list("/pods/", None, 0, None).unwrap();
    replica.shutdown().await;
    assert_eq!(replica.stopped().await, None);
    assert!(matches!(replica.propose(put("d", Expect::Absent)).await, Err(ProposeError::Unavailable(_))));
    drop(replica);

    let replica = open(directory.path()).await;
    assert_eq!(replica.cluster_id(), cluster);
    let after = replica.store().list("/pods/", None, 0, None).unwrap();
    assert_eq!(after.entries, before.entries);
    assert_eq!(after.revision, before.revision, "the election itself is no change");
    let mut watch = replica.store().watch("/pods/", start).unwrap();
    assert!(matches!(replica.propose(put("d", Expect::Absent)).await, Ok(Outcome::Applied(_))));
    let mut seen = Vec::new();
    while seen.len() < 4 {
        if let Watched::Event(event) = watch.next().await.unwrap() {
            seen.push((event.entry.key.0.clone(), event.entry.revision));
        }
    }
    let expected =
        ["a", "b", "c", "d"].iter().zip(2..).map(|(name, at)| (format!("/pods/default/{name}"), Revision(at)));
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn history_is_compacted_by_a_committed_command() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    for name in ["a", "b", "c"] {
        replica.propose(put(name, Expect::Absent)).await.unwrap();
    }
    replica.compact(Revision(4)).await.unwrap();
    assert_eq!(replica.store().oldest(), Revision(4));
    assert!(replica.store().watch("", Revision(2)).is_err());
    replica.shutdown().await;
    drop(replica);
    assert_eq!(open(directory.path()).await.store().oldest(), Revision(4));
}

#[tokio::test]
async fn a_command_over_the_limit_is_refused_before_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    let value = Bytes::from(vec![b'x'; coracle_raft::COMMAND_BYTES_MAX]);
    let key = Key("big".into());
    let command =
        Command { ops: vec![Op::Put { key, value, splice_at: None, expect: Expect::Absent }], ..Command::default() };
    assert!(matches!(replica.propose(command).await, Err(ProposeError::TooLarge { .. })));
    assert!(matches!(replica.propose(put("a", Expect::Absent)).await, Ok(Outcome::Applied(_))));
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    let locked = Replica::open(ReplicaConfig::new(directory.path(), 1)).await.err().unwrap();
    assert!(full(&locked).contains("in use by another process"), "{}", full(&locked));
    let cluster = replica.cluster_id().to_owned();
    replica.shutdown().await;
    drop(replica);
    let other = Replica::open(ReplicaConfig::new(directory.path(), 2)).await.err().unwrap();
    assert!(full(&other).ends_with("the database belongs to server 1, this is server 2"), "{}", full(&other));
    let mut config = ReplicaConfig::new(directory.path(), 1);
    config.cluster_id = Some("another".into());
    let other = Replica::open(config.clone()).await.err().unwrap();
    assert!(full(&other).contains("not to another"), "{}", full(&other));
    config.cluster_id = Some(cluster);
    Replica::open(config).await.unwrap();
}

#[tokio::test]
async fn a_failed_disk_stops_the_replica_and_everybody_hears_of_it() {
    let backend = Arc::new(MemoryBackend::new());
    let config = CoreConfig::single(1, "c");
    let replica = Replica::open_with(Arc::clone(&backend) as Arc<dyn Backend>, &config, NoPeers).unwrap();
    replica.propose(put("a", Expect::Absent)).await.unwrap();
    backend.fail_writes();
    let failed = replica.propose(put("b", Expect::Absent)).await;
    assert!(matches!(failed, Err(ProposeError::Unavailable(_))), "{failed:?}");
    let reason = replica.stopped().await.unwrap();
    assert!(reason.contains("the simulated disk has failed"), "{reason}");
    let later = replica.propose(put("c", Expect::Absent)).await.unwrap_err().to_string();
    assert!(later.contains("the simulated disk has failed"), "{later}");
    assert!(replica.read_barrier().await.is_err());
    assert_eq!(replica.store().list("", None, 0, None).unwrap().entries.len(), 1, "what was applied can be read");
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    replica.propose(put("a", Expect::Absent)).await.unwrap();
    replica.shutdown().await;
    drop(replica);
    std::fs::write(directory.path().join("CURRENT"), b"MANIFEST-999999\n").unwrap();
    let damaged = Replica::open(ReplicaConfig::new(directory.path(), 1)).await.err().unwrap();
    assert!(full(&damaged).contains("damaged") || full(&damaged).contains("storage failed"), "{}", full(&damaged));
}
