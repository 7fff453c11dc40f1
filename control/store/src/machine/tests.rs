//! The machine against a model that is too simple to be wrong, and the rules one by one.

use super::*;
use crate::backend::MemoryBackend;
use crate::{CounterChange, EventKind, Expect, Key, ReadError, StoreEvent, UniqueChange, Watch, Watched};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Small bounds, so that short runs reach them.
const SMALL: Limits = Limits {
    history_revisions_max: 40,
    history_bytes_max: 8_000,
    history_segment_revisions: 4,
    recent_changes_max: 6,
    recent_bytes_max: 100_000,
    watch_queue_events_max: 10_000,
};

fn put(key: &str, value: &str, expect: Expect) -> Op {
    Op::Put { key: Key(key.into()), value: Bytes::from(value.to_owned()), splice_at: Some(1), expect }
}

fn delete(key: &str, expect: Expect) -> Op {
    Op::Delete { key: Key(key.into()), expect }
}

fn check(key: &str, expect: Expect) -> Op {
    Op::Check { key: Key(key.into()), expect }
}

fn ops(ops: Vec<Op>) -> Command {
    Command { ops, ..Command::default() }
}

fn stamped(value: &str, revision: u64) -> String {
    format!("{{\"resourceVersion\":\"{revision}\",{}", &value[1..])
}

fn machine(limits: Limits) -> Machine {
    Machine::open(Arc::new(MemoryBackend::new()), limits).unwrap()
}

fn apply(machine: &mut Machine, command: &Command) -> Outcome {
    let outcome = machine.apply(machine.applied() + 1, command).unwrap();
    machine.commit(false).unwrap();
    outcome
}

/// What waits in a watch, without waiting for more.
fn drain(watch: &mut Watch) -> Result<Vec<Arc<StoreEvent>>, ReadError> {
    let mut events = Vec::new();
    loop {
        match futures_now(watch.next()) {
            None => return Ok(events),
            Some(Ok(Watched::Event(event))) => events.push(event),
            Some(Ok(Watched::Progress(_))) => {}
            Some(Err(error)) => return Err(error),
        }
    }
}

/// The future's value if it has one already.
fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

type Objects = BTreeMap<String, (String, u64)>;
type Event = (EventKind, String, String, u64, Option<String>);

#[derive(Default)]
struct Model {
    objects: Objects,
    counters: BTreeMap<String, i64>,
    uniques: BTreeMap<String, String>,
    revision: u64,
    events: Vec<Event>,
    past: BTreeMap<u64, Objects>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self { revision: 1, ..Self::default() };
        model.past.insert(1, Objects::new());
        model
    }

    fn accepts(&self, command: &Command) -> bool {
        let mut seen = Vec::new();
        let objects = command.ops.iter().all(|op| {
            let (Op::Put { key, expect, .. } | Op::Delete { key, expect } | Op::Check { key, expect }) = op;
            let twice = seen.contains(&key);
            seen.push(key);
            let there = self.objects.get(&key.0).map(|(_, revision)| *revision);
            let holds = match expect {
                Expect::Absent => there.is_none() && !matches!(op, Op::Delete { .. }),
                Expect::Present => there.is_some(),
                Expect::Revision(revision) => there == Some(revision.0),
            };
            holds && !twice
        });
        let mut counters = self.counters.clone();
        let counted = command.counters.iter().all(|change| {
            let value = counters.entry(change.name.clone()).or_default();
            *value += change.delta;
            change.delta <= 0 || change.limit.is_none_or(|limit| *value <= limit)
        });
        let mut uniques = self.uniques.clone();
        let unique = command.uniques.iter().all(|change| {
            let Some(holder) = &change.holder else {
                uniques.remove(&change.key);
                return true;
            };
            uniques.entry(change.key.clone()).or_insert_with(|| holder.clone()) == holder
        });
        objects && counted && unique
    }

    fn apply(&mut self, command: &Command) -> bool {
        if !self.accepts(command) {
            return false;
        }
        if command.is_without_effect() {
            return true;
        }
        self.revision += 1;
        for op in &command.ops {
            self.change(op);
        }
        for change in &command.counters {
            *self.counters.entry(change.name.clone()).or_default() += change.delta;
        }
        for change in &command.uniques {
            match &change.holder {
                Some(holder) => self.uniques.insert(change.key.clone(), holder.clone()),
                None => self.uniques.remove(&change.key),
            };
        }
        self.past.insert(self.revision, self.objects.clone());
        true
    }

    fn change(&mut self, op: &Op) {
        let at = self.revision;
        let (kind, key, value, before) = match op {
            Op::Put { key, value, .. } => {
                let value = stamped(std::str::from_utf8(value).unwrap(), at);
                let before = self.objects.insert(key.0.clone(), (value.clone(), at));
                (if before.is_some() { EventKind::Modified } else { EventKind::Created }, key, value, before)
            }
            Op::Delete { key, .. } => {
                let (value, old) = self.objects.remove(&key.0).unwrap();
                let last =
                    value.replace(&format!("\"resourceVersion\":\"{old}\""), &format!("\"resourceVersion\":\"{at}\""));
                (EventKind::Deleted, key, last, Some((value, old)))
            }
            Op::Check { .. } => return,
        };
        self.events.push((kind, key.0.clone(), value, at, before.map(|(value, _)| value)));
    }

    /// Everything that readers can ask.
    fn check(&self, machine: &Machine) {
        let store = machine.store();
        assert_eq!(store.revision().0, self.revision);
        for (name, value) in &self.counters {
            assert_eq!(store.counter(name).unwrap(), *value);
        }
        for key in ["u0", "u1"] {
            assert_eq!(store.unique_holder(key).unwrap(), self.uniques.get(key).cloned());
        }
        let oldest = store.oldest().0;
        for (revision, objects) in &self.past {
            for prefix in ["", "a", "b/"] {
                let page = store.list(prefix, None, 0, Some(Revision(*revision)));
                let watch = store.watch(prefix, Revision(*revision));
                if revision + 1 < oldest {
                    assert_eq!(page.unwrap_err(), ReadError::Compacted { oldest: Revision(oldest) });
                    assert!(matches!(watch, Err(ReadError::Compacted { .. })));
                    continue;
                }
                let expected: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
                let page = page.unwrap();
                let entries = page.entries.iter().map(|entry| (&entry.key.0, &entry.value[..], entry.revision.0));
                assert!(entries.eq(expected.iter().map(|(key, (value, at))| (*key, value.as_bytes(), *at))));
                self.check_pages(&store, prefix, Revision(*revision), &page.entries);
                self.check_watch(&mut watch.unwrap(), prefix, *revision);
            }
        }
        let future = Revision(self.revision + 1);
        assert!(matches!(store.list("", None, 0, Some(future)), Err(ReadError::Future { .. })));
        assert!(matches!(store.watch("", future), Err(ReadError::Future { .. })));
    }

    fn check_pages(&self, store: &Store, prefix: &str, at: Revision, all: &[crate::Entry]) {
        let mut collected = Vec::new();
        let mut after = None;
        loop {
            let page = store.list(prefix, after.as_ref(), 2, Some(at)).unwrap();
            assert!(page.entries.len() <= 2 && page.revision == at);
            after = page.entries.last().map(|entry| entry.key.clone());
            collected.extend(page.entries);
            if !page.more {
                break;
            }
        }
        assert_eq!(collected, all, "of {}", self.revision);
    }

    fn check_watch(&self, watch: &mut Watch, prefix: &str, from: u64) {
        let expected: Vec<&Event> =
            self.events.iter().filter(|(_, key, _, at, _)| *at > from && key.starts_with(prefix)).collect();
        let got: Vec<Event> = drain(watch).unwrap().iter().map(|event| plain(event)).collect();
        assert!(got.iter().eq(expected), "from {from}: {got:?}");
        assert_eq!(watch.progress(), Some(Revision(self.revision)));
    }
}

fn plain(event: &StoreEvent) -> Event {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let entry = &event.entry;
    (event.kind, entry.key.0.clone(), text(&entry.value), entry.revision.0, event.previous.as_ref().map(text))
}

#[derive(Debug, Clone)]
enum Step {
    Command(Command),
    Commit,
    Reopen,
    Compact(u64),
}

fn command() -> impl Strategy<Value = Command> {
    let key = prop::sample::select(vec!["a", "a/x", "ab", "b/x", "b/y", "c"]);
    let expect = prop_oneof![
        3 => Just(Expect::Absent),
        3 => Just(Expect::Present),
        2 => (1_u64..20).prop_map(|at| Expect::Revision(Revision(at))),
    ];
    let op = (key, expect, 0_u32..1000, 0..10).prop_map(|(key, expect, value, which)| match which {
        0..7 => put(key, &format!("{{\"v\":{value}}}"), expect),
        7..9 => delete(key, expect),
        _ => check(key, expect),
    });
    let counter = (prop::sample::select(vec!["c0", "c1"]), -3_i64..4, prop::option::of(0_i64..6))
        .prop_map(|(name, delta, limit)| CounterChange { name: name.into(), delta, limit });
    let unique = (prop::sample::select(vec!["u0", "u1"]), prop::option::of(prop::sample::select(vec!["h0", "h1"])))
        .prop_map(|(key, holder)| UniqueChange { key: key.into(), holder: holder.map(str::to_owned) });
    (prop::collection::vec(op, 0..4), prop::collection::vec(counter, 0..3), prop::collection::vec(unique, 0..3))
        .prop_map(|(ops, counters, uniques)| Command { ops, counters, uniques })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => command().prop_map(Step::Command),
        4 => Just(Step::Commit),
        1 => Just(Step::Reopen),
        1 => (1_u64..60).prop_map(Step::Compact),
    ];
    prop::collection::vec(step, 1..90)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_machine_does_what_the_model_does(steps in steps()) {
        let backend = Arc::new(MemoryBackend::new());
        let mut machine = Machine::open(Arc::clone(&backend) as Arc<dyn Backend>, SMALL).unwrap();
        let mut model = Model::new();
        let mut live = machine.store().watch("", Revision(1)).unwrap();
        let mut seen = Vec::new();
        for step in steps {
            let next = machine.applied() + 1;
            match step {
                Step::Command(command) => {
                    let entry = Bytes::from(Payload::encode_command(&command));
                    let outcome = machine.apply_entry(next, &entry).unwrap();
                    let accepted = model.apply(&command);
                    prop_assert_eq!(accepted, matches!(outcome, Outcome::Applied(_)), "{:?}", outcome);
                    if let Outcome::Applied(revision) = outcome {
                        prop_assert_eq!(revision.0, model.revision);
                    }
                }
                Step::Compact(to) => {
                    machine.compact(next, Revision(to)).unwrap();
                }
                Step::Commit => machine.commit(false).unwrap(),
                Step::Reopen => {
                    machine.commit(true).unwrap();
                    seen.extend(drain(&mut live).unwrap());
                    machine = Machine::open(Arc::clone(&backend) as Arc<dyn Backend>, SMALL).unwrap();
                    live = machine.store().watch("", Revision(model.revision)).unwrap();
                }
            }
        }
        machine.commit(false).unwrap();
        seen.extend(drain(&mut live).unwrap());
        prop_assert!(seen.iter().map(|event| plain(event)).eq(model.events.iter().cloned()), "a live watch sees all");
        model.check(&machine);
        machine.commit(true).unwrap();
        model.check(&Machine::open(backend, SMALL).unwrap());
    }
}

#[test]
fn the_same_commands_give_the_same_bytes() {
    let commands: Vec<Command> = (0..200)
        .map(|at| Command {
            ops: vec![put(&format!("k{}", at % 17), &format!("{{\"v\":{at}}}"), Expect::Absent)],
            counters: vec![CounterChange { name: format!("c{}", at % 5), delta: at % 3 - 1, limit: None }],
            uniques: vec![UniqueChange { key: format!("u{}", at % 7), holder: Some("h".into()) }],
        })
        .collect();
    let image = |commits_every: usize| {
        let backend = Arc::new(MemoryBackend::new());
        let mut machine = Machine::open(Arc::clone(&backend) as Arc<dyn Backend>, SMALL).unwrap();
        for (index, command) in commands.iter().enumerate() {
            machine.apply(index as u64 + 1, command).unwrap();
            if index % commits_every == 0 {
                machine.commit(false).unwrap();
            }
        }
        machine.commit(false).unwrap();
        let mut bytes = Vec::new();
        for family in Family::ALL {
            backend
                .scan(family, &[], None, &mut |key, value| {
                    bytes.push((family, key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        bytes
    };
    assert_eq!(image(1), image(23), "whatever was written together");
}

#[test]
fn rejections_change_nothing_and_say_why() {
    let mut machine = machine(Limits::default());
    let take = |key: &str, holder: &str| UniqueChange { key: key.into(), holder: Some(holder.into()) };
    let count = |delta, limit| CounterChange { name: "pods".into(), delta, limit };
    let first = Command {
        ops: vec![put("a", "{}", Expect::Absent)],
        counters: vec![count(2, Some(2))],
        uniques: vec![take("ip", "a")],
    };
    assert_eq!(apply(&mut machine, &first), Outcome::Applied(Revision(2)));
    let malformed = |reason: &str| Rejection::Malformed { reason: reason.into() };
    let behind = Op::Put { key: Key("z".into()), value: Bytes::from("{}"), splice_at: Some(3), expect: Expect::Absent };
    let cases = [
        (ops(vec![put("a", "{}", Expect::Absent)]), Rejection::Precondition { index: 0, actual: Some(Revision(2)) }),
        (
            ops(vec![put("b", "{}", Expect::Absent), delete("a", Expect::Revision(Revision(1)))]),
            Rejection::Precondition { index: 1, actual: Some(Revision(2)) },
        ),
        (ops(vec![put("b", "{}", Expect::Present)]), Rejection::Precondition { index: 0, actual: None }),
        (ops(vec![delete("b", Expect::Present)]), Rejection::Precondition { index: 0, actual: None }),
        (
            Command { ops: vec![put("b", "{}", Expect::Absent)], counters: vec![count(1, Some(2))], ..first.clone() },
            Rejection::Counter { name: "pods".into(), value: 2 },
        ),
        (
            Command { counters: vec![count(-1, None), count(2, Some(2))], ..Command::default() },
            Rejection::Counter { name: "pods".into(), value: 1 },
        ),
        (
            Command { counters: vec![count(i64::MAX, None)], ..Command::default() },
            Rejection::Counter { name: "pods".into(), value: 2 },
        ),
        (
            Command { uniques: vec![take("other", "b"), take("ip", "b")], ..Command::default() },
            Rejection::Unique { key: "ip".into(), holder: "a".into() },
        ),
        (
            Command { uniques: vec![take("new", "b"), take("new", "c")], ..Command::default() },
            Rejection::Unique { key: "new".into(), holder: "b".into() },
        ),
        (
            ops(vec![put("b", "{}", Expect::Absent), check("a", Expect::Absent)]),
            Rejection::Precondition { index: 1, actual: Some(Revision(2)) },
        ),
        (ops(vec![check("b", Expect::Present)]), Rejection::Precondition { index: 0, actual: None }),
        (ops(vec![check("a", Expect::Present), put("a", "{}", Expect::Present)]), malformed("a is changed twice")),
        (ops(vec![behind]), malformed("the splice offset of z lies behind its 2 bytes")),
        (ops(vec![delete("a", Expect::Absent)]), malformed("a is to be deleted and must not exist")),
        (ops(vec![delete("a", Expect::Present), put("a", "{}", Expect::Present)]), malformed("a is changed twice")),
    ];
    for (command, rejection) in cases {
        assert_eq!(apply(&mut machine, &command), Outcome::Rejected(rejection), "{command:?}");
        let store = machine.store();
        assert_eq!(store.revision(), Revision(2));
        assert_eq!(store.counter("pods"), Ok(2));
        assert_eq!(store.unique_holder("other"), Ok(None));
        assert_eq!(store.list("", None, 0, None).unwrap().entries.len(), 1);
    }
    // Taking again what one holds, lowering a counter that is over its limit, and doing nothing are all fine.
    let fine = Command {
        counters: vec![count(-1, Some(0))],
        uniques: vec![take("ip", "a"), UniqueChange { key: "ip".into(), holder: None }, take("ip", "b")],
        ..Command::default()
    };
    assert_eq!(apply(&mut machine, &fine), Outcome::Applied(Revision(3)));
    assert_eq!(machine.store().unique_holder("ip"), Ok(Some("b".into())));
    assert_eq!(apply(&mut machine, &Command::default()), Outcome::Applied(Revision(3)));
    // What a check looks at is not changed by it.
    let at_two = check("a", Expect::Revision(Revision(2)));
    assert_eq!(apply(&mut machine, &ops(vec![at_two.clone()])), Outcome::Applied(Revision(3)));
    assert_eq!(
        apply(&mut machine, &ops(vec![at_two.clone(), put("b", "{}", Expect::Absent)])),
        Outcome::Applied(Revision(4))
    );
    assert_eq!(apply(&mut machine, &ops(vec![at_two, delete("b", Expect::Present)])), Outcome::Applied(Revision(5)));
}

#[test]
fn a_skipped_or_repeated_entry_is_an_error() {
    let mut machine = machine(Limits::default());
    apply(&mut machine, &ops(vec![put("a", "{}", Expect::Absent)]));
    for index in [0, 1, 3] {
        let result = machine.apply(index, &Command::default());
        assert!(matches!(result, Err(MachineError::OutOfOrder { applied: 1, .. })), "{index}");
    }
    machine.skip(2).unwrap();
}

#[test]
fn staged_changes_count_for_later_commands_but_not_for_readers() {
    let mut machine = machine(Limits::default());
    let store = machine.store();
    let mut watch = store.watch("", Revision(1)).unwrap();
    assert_eq!(machine.apply(1, &ops(vec![put("a", "{}", Expect::Absent)])).unwrap(), Outcome::Applied(Revision(2)));
    let second = ops(vec![delete("a", Expect::Revision(Revision(2)))]);
    assert_eq!(machine.apply(2, &second).unwrap(), Outcome::Applied(Revision(3)));
    assert_eq!((store.revision(), drain(&mut watch).unwrap().len()), (Revision(1), 0));
    machine.commit(false).unwrap();
    assert_eq!((store.revision(), drain(&mut watch).unwrap().len()), (Revision(3), 2));
}

#[test]
fn after_a_failed_write_nothing_is_shown_and_nothing_goes_on() {
    let backend = Arc::new(MemoryBackend::new());
    let mut machine = Machine::open(Arc::clone(&backend) as Arc<dyn Backend>, Limits::default()).unwrap();
    machine.apply(1, &ops(vec![put("a", "{}", Expect::Absent)])).unwrap();
    backend.fail_writes();
    assert!(matches!(machine.commit(false), Err(MachineError::Backend(_))));
    assert_eq!(machine.store().get(&Key("a".into())), Ok(None));
    assert!(matches!(machine.apply(2, &Command::default()), Err(MachineError::Failed)));
    assert!(matches!(machine.commit(false), Err(MachineError::Failed)));
}

#[test]
fn history_stays_within_its_bounds() {
    let mut machine = machine(SMALL);
    for at in 0..500 {
        let expect = if at == 0 { Expect::Absent } else { Expect::Present };
        apply(&mut machine, &ops(vec![put("a", &format!("{{\"v\":{at}}}"), expect)]));
        let kept = machine.store().revision().0 + 1 - machine.store().oldest().0;
        assert!(kept <= SMALL.history_revisions_max + SMALL.history_segment_revisions, "{kept} revisions");
    }
    // Large values: the bound in bytes bites first.
    for _ in 0..50 {
        apply(&mut machine, &ops(vec![put("a", &format!("{{\"v\":\"{}\"}}", "x".repeat(1_000)), Expect::Present)]));
    }
    let mut bytes = 0;
    machine
        .shared
        .backend
        .scan(Family::History, &[], None, &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(bytes <= SMALL.history_bytes_max + 4 * 2_200, "{bytes} bytes");
    assert!(machine.store().revision().0 - machine.store().oldest().0 < 12);
}

#[test]
fn damaged_records_are_found_when_the_state_is_loaded() {
    for (family, key, value) in [
        (Family::Meta, &b"state"[..], &b"\x09"[..]),
        (Family::Objects, b"a", b""),
        (Family::Objects, b"\xff", b"\x01\x02\x00{}"),
        (Family::Meta, b"counter/c", b"short"),
        (Family::Meta, b"unique/u", b"\xff"),
        (Family::Meta, b"segment/", b""),
    ] {
        let backend = Arc::new(MemoryBackend::new());
        let mut batch = Batch::default();
        batch.put(family, key, value);
        backend.write(&batch, true).unwrap();
        let opened = Machine::open(backend, Limits::default()).err();
        assert!(matches!(opened, Some(MachineError::Damaged { .. })), "{family:?} {key:?}: {opened:?}");
    }
}
