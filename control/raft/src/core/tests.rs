//! The core in simulation: crashed at every write, and as three servers whose messages are lost, repeated and reordered.
//!
//! Everything that varies comes from a seed, which a failure prints.

use super::*;
use crate::error::OpenError;
use coracle_store::backend::{Family, MemoryBackend, Visitor};
use coracle_store::{Command, CounterChange, Expect, Key, Op, Payload, Revision, Watched};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

/// A small generator; good enough to shuffle, and the same everywhere.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

fn create(name: &str) -> Command {
    let value = Bytes::from(format!("{{\"name\":\"{name}\"}}"));
    Command {
        ops: vec![Op::Put { key: Key(name.to_owned()), value, splice_at: Some(1), expect: Expect::Absent }],
        counters: vec![CounterChange { name: "created".into(), delta: 1, limit: None }],
        ..Command::default()
    }
}

type Answer = oneshot::Receiver<Result<Outcome, ProposeError>>;

fn proposal(command: &Command) -> (Proposal, Answer) {
    let (reply, answer) = oneshot::channel();
    (Proposal { data: Payload::encode_command(command), waiter: Waiter::new(None, reply) }, answer)
}

/// Where the write that fails does so.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Crash {
    Before,
    After,
}

/// Passes writes on until one of them is the machine's last.
struct CrashAt {
    inner: MemoryBackend,
    writes: Mutex<u64>,
    at: u64,
    how: Crash,
}

impl Backend for CrashAt {
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
        let mut writes = self.writes.lock().unwrap();
        *writes += 1;
        if *writes < self.at {
            return self.inner.write(batch, sync);
        }
        if *writes == self.at && self.how == Crash::After {
            self.inner.write(batch, sync)?;
        }
        Err(BackendError::Io("the power is gone".into()))
    }
}

/// Checks that list, history and counter tell the same, and returns what there is.
fn contents(store: &Store) -> BTreeMap<String, u64> {
    let page = store.list("", None, 0, None).unwrap();
    let listed: BTreeMap<String, u64> =
        page.entries.iter().map(|entry| (entry.key.0.clone(), entry.revision.0)).collect();
    assert_eq!(store.counter("created").unwrap(), i64::try_from(listed.len()).unwrap(), "one increment each");
    let mut watch = store.watch("", Revision(1)).unwrap();
    let mut replayed = BTreeMap::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(next) = std::pin::pin!(watch.next()).poll(&mut context) {
        if let Watched::Event(event) = next.unwrap() {
            assert_eq!(replayed.insert(event.entry.key.0.clone(), event.entry.revision.0), None, "applied twice");
        }
    }
    assert_eq!(replayed, listed);
    listed
}

/// Writes on `backend` until it has no more power; says what was proposed and what was acknowledged.
fn run_until_crash(
    backend: &Arc<CrashAt>,
    seed: u64,
    proposed: &mut Vec<String>,
    acknowledged: &mut BTreeMap<String, u64>,
) {
    let mut seeded = Seeded(seed);
    let mut answers: Vec<(String, Answer)> = Vec::new();
    let mut work = || -> Result<(), OpenError> {
        let log_limits = LogLimits { entries_max: 6, bytes_max: 1 << 20, margin_entries: 2 };
        let config = CoreConfig { log_limits, ..CoreConfig::single(1, "simulated") };
        let mut core = Core::open(Arc::clone(backend) as Arc<dyn Backend>, &config)?;
        core.ready()?;
        assert!(core.is_leader(), "a sole voter leads at once");
        for _ in 0..12 {
            let mut batch = Vec::new();
            for _ in 0..=seeded.below(3) {
                let name = format!("{:04}", proposed.len());
                let (proposal, answer) = proposal(&create(&name));
                proposed.push(name.clone());
                answers.push((name, answer));
                batch.push(proposal);
            }
            core.propose(batch);
            core.ready()?;
        }
        Ok(())
    };
    let ended = work();
    assert!(matches!(ended, Ok(()) | Err(OpenError::Backend(_) | OpenError::Machine(_) | OpenError::Replay(_))));
    for (name, mut answer) in answers {
        if let Ok(Ok(outcome)) = answer.try_recv() {
            let Outcome::Applied(revision) = outcome else { panic!("{name} was rejected: {outcome:?}") };
            acknowledged.insert(name, revision.0);
        }
    }
}

#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged_and_repeats_nothing() {
    for how in [Crash::Before, Crash::After] {
        for at in 1..40 {
            for seed in 0..4 {
                let mut backend = MemoryBackend::new();
                let mut proposed = Vec::new();
                let mut acknowledged = BTreeMap::new();
                // Three lives: the later ones begin with what the crash of the one before left.
                for life in 0..3 {
                    let crashing = CrashAt { inner: backend, writes: Mutex::new(0), at: at + life * 7, how };
                    let crashing = Arc::new(crashing);
                    run_until_crash(&crashing, seed + life, &mut proposed, &mut acknowledged);
                    backend = crashing.inner.crash(seed * 3 + life);
                }
                let context = format!("crash {how:?} write {at}, seed {seed}");
                let mut core = Core::open(Arc::new(backend), &CoreConfig::single(1, "simulated")).expect(&context);
                core.ready().expect(&context);
                let stored = contents(&core.store());
                for (name, revision) in &acknowledged {
                    assert_eq!(stored.get(name), Some(revision), "{name}; {context}");
                }
                assert!(stored.keys().all(|name| proposed.contains(name)), "{context}");
                let (proposal, mut answer) = proposal(&create("after"));
                core.propose([proposal]);
                core.ready().unwrap();
                assert!(matches!(answer.try_recv(), Ok(Ok(Outcome::Applied(_)))), "it goes on; {context}");
            }
        }
    }
}

#[test]
fn a_batch_costs_one_synced_write_and_one_that_is_not() {
    let backend = Arc::new(MemoryBackend::new());
    let mut core = Core::open(Arc::clone(&backend) as Arc<dyn Backend>, &CoreConfig::single(1, "c")).unwrap();
    core.ready().unwrap();
    let counting = backend.unsynced_batches();
    let (proposals, answers): (Vec<_>, Vec<_>) = (0..500).map(|at| proposal(&create(&at.to_string()))).unzip();
    core.propose(proposals);
    core.ready().unwrap();
    assert!(counting <= 1, "the apply of the election");
    assert_eq!(backend.unsynced_batches(), 1, "one apply since the last sync");
    for mut answer in answers {
        assert!(matches!(answer.try_recv(), Ok(Ok(Outcome::Applied(_)))));
    }
}

#[test]
fn the_log_is_cut_and_what_was_cut_is_not_needed_again() {
    let backend = Arc::new(MemoryBackend::new());
    let log_limits = LogLimits { entries_max: 50, bytes_max: 1 << 20, margin_entries: 10 };
    let config = CoreConfig { log_limits, ..CoreConfig::single(1, "c") };
    for round in 0..3 {
        let mut core = Core::open(Arc::clone(&backend) as Arc<dyn Backend>, &config).unwrap();
        core.ready().unwrap();
        for at in 0..100 {
            let (proposal, _answer) = proposal(&create(&format!("{round}/{at}")));
            core.propose([proposal]);
            core.ready().unwrap();
        }
        let mut entries = 0;
        let mut count = |_: &[u8], _: &[u8]| {
            entries += 1;
            ControlFlow::Continue(())
        };
        backend.scan(Family::Log, &[], None, &mut count).unwrap();
        assert!((10..=51).contains(&entries), "{entries} entries");
        assert_eq!(contents(&core.store()).len(), (round + 1) * 100);
    }
}

/// Spoils what is on disk.
type Damage = fn(&mut Batch);

#[test]
fn a_state_that_raft_would_panic_over_is_reported() {
    let backend = Arc::new(MemoryBackend::new());
    let config = CoreConfig::single(1, "c");
    let mut core = Core::open(Arc::clone(&backend) as Arc<dyn Backend>, &config).unwrap();
    core.ready().unwrap();
    for at in 0..5 {
        core.propose([proposal(&create(&at.to_string())).0]);
        core.ready().unwrap();
    }
    drop(core);
    let damages: [(&str, Damage); 5] = [
        ("a hole in the log", |batch| batch.delete(Family::Log, &4_u64.to_be_bytes())),
        ("the log's end is gone", |batch| batch.delete_range(Family::Log, &6_u64.to_be_bytes(), &8_u64.to_be_bytes())),
        ("no hard state", |batch| batch.delete(Family::Raft, b"hard_state")),
        ("a torn entry", |batch| batch.put(Family::Log, &3_u64.to_be_bytes(), &[1, 0])),
        ("state of nobody", |batch| batch.delete(Family::Meta, b"identity")),
    ];
    for (what, damage) in damages {
        let copy = backend.crash(u64::MAX);
        let mut batch = Batch::default();
        damage(&mut batch);
        copy.write(&batch, true).unwrap();
        let opened = Core::open(Arc::new(copy), &config).err();
        assert!(matches!(opened, Some(OpenError::Backend(BackendError::Damaged(_)))), "{what}: {opened:?}");
    }
}

/// Three servers and the network between them.
struct Cluster {
    seeded: Seeded,
    servers: Vec<Server>,
    wire: Vec<Message>,
    /// Server that nobody hears.
    cut_off: Option<u64>,
    answers: Vec<(String, Answer)>,
    acknowledged: BTreeMap<String, u64>,
    proposed: u64,
}

struct Server {
    config: CoreConfig,
    backend: Arc<MemoryBackend>,
    core: Core,
}

impl Server {
    fn start(config: CoreConfig, backend: MemoryBackend) -> Self {
        let backend = Arc::new(backend);
        let core = Core::open(Arc::clone(&backend) as Arc<dyn Backend>, &config).unwrap();
        Self { config, backend, core }
    }
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let server = |id: u64| {
            let ticks = 10 + usize::try_from(id).unwrap() * 3;
            let config = CoreConfig {
                founders: vec![1, 2, 3],
                election_ticks: (ticks, ticks + 1),
                ..CoreConfig::single(id, "simulated")
            };
            Server::start(config, MemoryBackend::new())
        };
        Self {
            seeded: Seeded(seed),
            servers: (1..=3).map(server).collect(),
            wire: Vec::new(),
            cut_off: None,
            answers: Vec::new(),
            acknowledged: BTreeMap::new(),
            proposed: 0,
        }
    }

    fn settle(&mut self, index: usize) {
        self.wire.extend(self.servers[index].core.ready().unwrap());
    }

    fn tick(&mut self) {
        for index in 0..3 {
            self.servers[index].core.tick();
            self.settle(index);
        }
    }

    /// Delivers one message, perhaps not the oldest, perhaps not for the last time, perhaps not at all.
    fn deliver(&mut self, faults: bool) {
        if self.wire.is_empty() {
            return;
        }
        let at = if faults { usize::try_from(self.seeded.below(self.wire.len() as u64)).unwrap() } else { 0 };
        let message = if faults && self.seeded.one_in(20) { self.wire[at].clone() } else { self.wire.remove(at) };
        let cut = self.cut_off == Some(message.to) || self.cut_off == Some(message.from);
        if cut || (faults && self.seeded.one_in(15)) {
            return;
        }
        let index = usize::try_from(message.to - 1).unwrap();
        self.servers[index].core.step(message);
        self.settle(index);
    }

    fn propose(&mut self) {
        let Some(index) = self.servers.iter().rposition(|server| server.core.is_leader()) else { return };
        // Every leader is asked, also one that does not know yet that it no longer is.
        for index in (0..=index).filter(|index| self.servers[*index].core.is_leader()).collect::<Vec<_>>() {
            let name = format!("{:05}", self.proposed);
            self.proposed += 1;
            let (proposal, answer) = proposal(&create(&name));
            self.answers.push((name, answer));
            self.servers[index].core.propose([proposal]);
            self.settle(index);
        }
    }

    fn crash(&mut self) {
        let index = usize::try_from(self.seeded.below(3)).unwrap();
        let server = self.servers.remove(index);
        let left = server.backend.crash(self.seeded.0);
        self.servers.insert(index, Server::start(server.config, left));
        self.settle(index);
    }

    fn collect(&mut self) {
        for (name, mut answer) in std::mem::take(&mut self.answers) {
            match answer.try_recv() {
                Ok(Ok(Outcome::Applied(revision))) => {
                    self.acknowledged.insert(name, revision.0);
                }
                Ok(Ok(outcome)) => panic!("{name}: {outcome:?}"),
                Err(oneshot::error::TryRecvError::Empty) => self.answers.push((name, answer)),
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
    }

    /// Without faults, until all have applied the same.
    fn heal(&mut self) {
        self.cut_off = None;
        for _ in 0..400 {
            self.tick();
            while !self.wire.is_empty() {
                self.deliver(false);
            }
            let leader = self.servers.iter().any(|server| server.core.is_leader());
            let applied: Vec<u64> = self.servers.iter().map(|server| server.core.applied()).collect();
            if leader && applied.iter().all(|index| *index == applied[0] && *index > 1) && self.answers.is_empty() {
                return;
            }
            self.collect();
        }
        panic!("the servers do not agree");
    }
}

#[test]
fn three_servers_keep_every_acknowledged_change_whatever_happens() {
    let mut total = 0;
    for seed in 0..60 {
        let mut cluster = Cluster::new(seed);
        for _ in 0..2_500 {
            match cluster.seeded.below(40) {
                0..=5 => cluster.tick(),
                6..=12 => cluster.propose(),
                13 if cluster.seeded.one_in(6) => cluster.crash(),
                14 if cluster.seeded.one_in(3) => {
                    let server = cluster.seeded.below(5);
                    cluster.cut_off = (1..=3).contains(&server).then_some(server);
                }
                _ => cluster.deliver(true),
            }
            cluster.collect();
        }
        cluster.heal();
        let first = contents(&cluster.servers[0].core.store());
        for server in &cluster.servers {
            assert_eq!(contents(&server.core.store()), first, "seed {seed}");
        }
        for (name, revision) in &cluster.acknowledged {
            assert_eq!(first.get(name), Some(revision), "{name}, seed {seed}");
        }
        total += cluster.acknowledged.len();
    }
    assert!(total > 1_000, "only {total} changes went through: the simulation tests little");
}

#[test]
fn reads_wait_for_a_leader_of_this_term_and_a_majority() {
    let mut cluster = Cluster::new(7);
    let (reply, mut answer) = oneshot::channel();
    cluster.servers[1].core.read(vec![Waiter::new(None, reply)]);
    cluster.settle(1);
    assert!(answer.try_recv().is_err(), "there is no leader yet: dropped by raft, kept by us");
    cluster.heal();
    for _ in 0..5 {
        cluster.tick();
        while !cluster.wire.is_empty() {
            cluster.deliver(false);
        }
    }
    assert!(matches!(answer.try_recv(), Ok(Ok(()))), "asked again once there was one");
    let leader = cluster.servers.iter().position(|server| server.core.is_leader()).unwrap();
    cluster.cut_off = Some(leader as u64 + 1);
    let (reply, mut answer) = oneshot::channel();
    cluster.servers[leader].core.read(vec![Waiter::new(None, reply)]);
    cluster.settle(leader);
    for _ in 0..200 {
        cluster.tick();
        while !cluster.wire.is_empty() {
            cluster.deliver(false);
        }
    }
    assert!(matches!(answer.try_recv(), Ok(Err(ProposeError::Unavailable(_)))), "a leader alone must not answer");
}
