//! The process is killed between commit and apply, and at any other moment; what was acknowledged is there afterwards, and
//! nothing has happened twice.
//!
//! The child is this very program, told by a variable what to be. It writes through a replica on disk and says on stdout what
//! was acknowledged. Every command also adds one to a counter: an entry that is applied twice would show there.

#![expect(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use coracle_raft::core::CoreConfig;
use coracle_raft::{NoPeers, Replica, ReplicaConfig};
use coracle_store::backend::{Backend, BackendError, Batch, Family, RocksBackend, Visitor};
use coracle_store::{
    Command, CounterChange, EventKind, Expect, Key, Limits, Machine, Op, Outcome, Proposer, Revision, Watched,
};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ROLE: &str = "CORACLE_TEST_KILL_ROLE";
const DIRECTORY: &str = "CORACLE_TEST_KILL_DIRECTORY";
/// Applies that the stalled child gets through.
const APPLIES: u64 = 20;
const WRITERS: u64 = 16;

fn command(name: &str) -> Command {
    let value = Bytes::from(format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}"));
    let key = Key(format!("/pods/default/{name}"));
    Command {
        ops: vec![Op::Put { key, value, splice_at: Some(13), expect: Expect::Absent }],
        counters: vec![CounterChange { name: "pods".into(), delta: 1, limit: None }],
        ..Command::default()
    }
}

/// Passes everything on, but never returns from the apply that comes after `APPLIES` others.
struct StallsAtApply {
    inner: RocksBackend,
    applies: AtomicU64,
}

impl Backend for StallsAtApply {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        self.inner.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError> {
        self.inner.scan(family, start, end, visit)
    }

    fn last(&self, family: Family) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        self.inner.last(family)
    }

    fn write(&self, batch: &Batch, sync: bool) -> Result<(), BackendError> {
        if batch.touches(Family::Objects) && self.applies.fetch_add(1, Ordering::Relaxed) == APPLIES {
            say("stalled");
            loop {
                std::thread::park();
            }
        }
        self.inner.write(batch, sync)
    }
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").unwrap();
    stdout.flush().unwrap();
}

/// Not a test of its own: what the child does. Without the variable there is nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let directory = std::env::var(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let replica = if role == "stall" {
        let inner = RocksBackend::open(directory).unwrap();
        let backend = Arc::new(StallsAtApply { inner, applies: AtomicU64::new(0) });
        Replica::open_with(backend, &CoreConfig::single(1, "killed"), NoPeers).unwrap()
    } else {
        Replica::open(ReplicaConfig::new(directory, 1)).await.unwrap()
    };
    say("open");
    let writers = if role == "stall" { 1 } else { WRITERS };
    let writers: Vec<_> = (0..writers).map(|writer| tokio::spawn(write(replica.clone(), writer))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write(replica: Replica, writer: u64) {
    let run = replica.store().revision().0;
    for number in 0_u64.. {
        let name = format!("p-{run}-{writer}-{number}");
        let Ok(Outcome::Applied(revision)) = replica.propose(command(&name)).await else { panic!("not applied") };
        say(&format!("ack {name} {}", revision.0));
    }
}

fn spawn(role: &str, directory: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// Reads what the child says until `enough`, kills it, and reads the rest.
fn run(role: &str, directory: &Path, mut enough: impl FnMut(&str, usize) -> bool) -> BTreeMap<String, u64> {
    let (mut child, stdout) = spawn(role, directory);
    let mut acknowledged = BTreeMap::new();
    let mut killed = false;
    for line in stdout.lines() {
        // The last line may be cut in the middle.
        let Ok(line) = line else { break };
        if let ["ack", name, revision] = line.split(' ').collect::<Vec<_>>()[..] {
            acknowledged.insert(name.to_owned(), revision.parse().unwrap_or(0));
        }
        if !killed && enough(&line, acknowledged.len()) {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed && !status.success(), "the child ended by itself: {status}");
    acknowledged
}

/// What is in the store, as a list, as history and as a counter; all three must tell the same.
async fn stored(replica: &Replica) -> BTreeMap<String, u64> {
    replica.read_barrier().await.unwrap();
    let store = replica.store();
    let name = |key: &Key| key.0.rsplit('/').next().unwrap().to_owned();
    let page = store.list("/pods/", None, 0, None).unwrap();
    let listed: BTreeMap<String, u64> = page.entries.iter().map(|entry| (name(&entry.key), entry.revision.0)).collect();
    assert_eq!(store.counter("pods").unwrap(), i64::try_from(listed.len()).unwrap(), "one command, one increment");
    let mut watch = store.watch("/pods/", Revision(1)).unwrap();
    let mut replayed = BTreeMap::new();
    for _ in 0..listed.len() {
        let Watched::Event(event) = watch.next().await.unwrap() else { panic!("only events are due") };
        assert_eq!(event.kind, EventKind::Created);
        let before = replayed.insert(name(&event.entry.key), event.entry.revision.0);
        assert_eq!(before, None, "{} was applied twice", event.entry.key.0);
    }
    assert_eq!(watch.progress(), Some(page.revision), "history holds nothing else");
    assert_eq!(replayed, listed);
    listed
}

#[tokio::test]
async fn killed_between_commit_and_apply_it_replays_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let acknowledged = run("stall", directory.path(), |line, _| line == "stalled");
    assert_eq!(acknowledged.len() as u64, APPLIES);
    let run = 1;
    let unapplied = format!("p-{run}-0-{APPLIES}");

    // It really died in between: the entry is in the log, its effect is nowhere.
    {
        let backend = Arc::new(RocksBackend::open(directory.path()).unwrap());
        let machine = Machine::open(Arc::clone(&backend) as Arc<dyn Backend>, Limits::default()).unwrap();
        let (index, entry) = backend.last(Family::Log).unwrap().unwrap();
        assert_eq!(index, (machine.applied() + 1).to_be_bytes().as_slice());
        assert!(entry.windows(unapplied.len()).any(|window| window == unapplied.as_bytes()), "the log ends with it");
        assert_eq!(machine.store().get(&Key(format!("/pods/default/{unapplied}"))), Ok(None));
        assert_eq!(machine.store().counter("pods"), Ok(i64::try_from(APPLIES).unwrap()));
    }

    let replica = Replica::open(ReplicaConfig::new(directory.path(), 1)).await.unwrap();
    let stored = stored(&replica).await;
    let mut expected = acknowledged;
    expected.insert(unapplied, APPLIES + 2);
    assert_eq!(stored, expected, "all that was acknowledged, and what was committed, once");
    let again = replica.propose(command("after")).await.unwrap();
    assert_eq!(again, Outcome::Applied(Revision(APPLIES + 3)), "no revision was used twice or skipped");
}

#[tokio::test]
async fn killed_at_any_moment_nothing_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..4 {
        acknowledged.extend(run("write", directory.path(), |_, count| count >= 50 + round * 37));
        let replica = Replica::open(ReplicaConfig::new(directory.path(), 1)).await.unwrap();
        let stored = stored(&replica).await;
        for (name, revision) in &acknowledged {
            assert_eq!(stored.get(name), Some(revision), "{name} was acknowledged (round {round})");
        }
        // Committed but not acknowledged is possible for each writer and round, no more.
        let extra = stored.len() - acknowledged.len();
        assert!(extra as u64 <= WRITERS * (round as u64 + 1), "{extra} that nobody was told of");
        acknowledged = stored;
        replica.shutdown().await;
    }
}
