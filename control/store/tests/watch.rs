//! Watches from outside: resumed, overtaken, slow, many at once.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "a test waits with a bound; the store itself never looks at a clock")]

use bytes::Bytes;
use coracle_store::backend::{Backend, MemoryBackend, RocksBackend};
use coracle_store::testing::LocalProposer;
use coracle_store::{Command, EventKind, Expect, Key, Limits, Op, Outcome, ReadError, Revision, Watch, Watched};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Nothing here takes long; what does not end is a failure.
const DEADLINE: Duration = Duration::from_mins(1);

fn command(keys: &[&str], value: u64) -> Command {
    let put = |key: &&str| Op::Put {
        key: Key((*key).to_owned()),
        value: Bytes::from(format!("{{\"v\":{value}}}")),
        splice_at: None,
        expect: Expect::Absent,
    };
    Command { ops: keys.iter().map(put).collect(), ..Command::default() }
}

fn local(limits: Limits) -> Arc<LocalProposer> {
    Arc::new(LocalProposer::open(Arc::new(MemoryBackend::new()), limits).unwrap())
}

async fn next(watch: &mut Watch) -> Result<Watched, ReadError> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("the watch yields in time")
}

/// The next event; progress is passed over.
async fn event(watch: &mut Watch) -> Result<(String, u64), ReadError> {
    loop {
        if let Watched::Event(event) = next(watch).await? {
            return Ok((event.entry.key.0.clone(), event.entry.revision.0));
        }
    }
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_and_others_are_not() {
    let local = local(Limits { watch_queue_events_max: 4, ..Limits::default() });
    let mut slow = local.store().watch("", Revision(1)).unwrap();
    let mut other = local.store().watch("elsewhere/", Revision(1)).unwrap();
    for at in 0..10 {
        local.apply(&command(&[&format!("k{at}")], at)).unwrap();
    }
    for at in 0..4 {
        assert_eq!(event(&mut slow).await, Ok((format!("k{at}"), at + 2)), "what was queued still comes, in order");
    }
    for _ in 0..2 {
        assert_eq!(event(&mut slow).await, Err(ReadError::TooSlow), "and then it is over for good");
    }
    assert_eq!(slow.progress(), None);
    local.apply(&command(&["elsewhere/a"], 0)).unwrap();
    assert_eq!(event(&mut other).await, Ok(("elsewhere/a".into(), 12)));
    let mut resumed = local.store().watch("", Revision(5)).unwrap();
    assert_eq!(event(&mut resumed).await, Ok(("k4".into(), 6)), "it resumes where it was");
}

#[tokio::test]
async fn dropped_watches_are_forgotten() {
    let local = local(Limits::default());
    let watches: Vec<Watch> =
        ["", "a/", "a/", "b"].iter().map(|prefix| local.store().watch(prefix, Revision(1)).unwrap()).collect();
    assert_eq!(local.store().watchers(), 4);
    drop(watches);
    assert_eq!(local.store().watchers(), 0);
}

#[tokio::test]
async fn a_replay_that_compaction_overtakes_ends_with_compacted() {
    // Nothing is kept in memory: every event comes from history, in several reads.
    let local = local(Limits { recent_changes_max: 0, ..Limits::default() });
    for at in 0..1_000 {
        local.apply(&command(&[&format!("k{at}")], at)).unwrap();
    }
    let mut watch = local.store().watch("", Revision(1)).unwrap();
    assert_eq!(event(&mut watch).await, Ok(("k0".into(), 2)));
    local.compact(Revision(900)).unwrap();
    let mut last = 2;
    let error = loop {
        match event(&mut watch).await {
            Ok((_, revision)) => {
                assert_eq!(revision, last + 1, "no gap before the end");
                last = revision;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error, ReadError::Compacted { oldest: Revision(900) });
    assert_eq!(local.store().watch("", Revision(898)).err(), Some(ReadError::Compacted { oldest: Revision(900) }));
    let mut resumed = local.store().watch("", Revision(899)).unwrap();
    assert_eq!(event(&mut resumed).await, Ok(("k898".into(), 900)));
}

#[tokio::test]
async fn progress_is_told_when_others_change_things() {
    let local = local(Limits::default());
    let mut watch = local.store().watch("mine/", Revision(1)).unwrap();
    assert_eq!(watch.progress(), Some(Revision(1)));
    for at in 0..1_500 {
        local.apply(&command(&[&format!("theirs/{at}")], at)).unwrap();
    }
    let Watched::Progress(told) = next(&mut watch).await.unwrap() else { panic!("nothing of ours has changed") };
    assert!(told >= Revision(1_000), "{told:?}");
    assert_eq!(watch.progress(), Some(Revision(1_501)), "asked, it knows exactly");
    local.apply(&command(&["mine/a"], 0)).unwrap();
    assert_eq!(watch.progress(), None, "an event is waiting");
    assert_eq!(event(&mut watch).await, Ok(("mine/a".into(), 1_502)));
    assert_eq!(watch.progress(), Some(Revision(1_502)));
    let mut late = local.store().watch("mine/", Revision(1_502)).unwrap();
    local.apply(&command(&["theirs/last"], 0)).unwrap();
    let mut behind = local.store().watch("mine/", Revision(1_502)).unwrap();
    assert!(matches!(next(&mut behind).await, Ok(Watched::Progress(Revision(1_503)))), "caught up with nothing to see");
    drop(behind);
    let pending = tokio::time::timeout(Duration::from_millis(1), late.next()).await;
    assert!(pending.is_err(), "one change of others is not worth waking up for: {pending:?}");
}

#[tokio::test]
async fn history_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let backend = Arc::new(RocksBackend::open(directory.path()).unwrap()) as Arc<dyn Backend>;
        LocalProposer::open(backend, Limits::default()).unwrap()
    };
    let local = open();
    for at in 0..20 {
        local.apply(&command(&[&format!("k{at}")], at)).unwrap();
    }
    let key = Key("k3".into());
    let deletion =
        Command { ops: vec![Op::Delete { key: key.clone(), expect: Expect::Present }], ..Command::default() };
    assert_eq!(local.apply(&deletion).unwrap(), Outcome::Applied(Revision(22)));
    drop(local);
    let local = open();
    let mut watch = local.store().watch("", Revision(10)).unwrap();
    for at in 9..20 {
        assert_eq!(event(&mut watch).await, Ok((format!("k{at}"), at + 2)));
    }
    let Watched::Event(deleted) = next(&mut watch).await.unwrap() else { panic!("the deletion follows") };
    assert_eq!((deleted.kind, &deleted.entry.key), (EventKind::Deleted, &key));
    assert_eq!(local.store().list("", None, 0, Some(Revision(21))).unwrap().entries.len(), 20);
    local.apply(&command(&["live"], 0)).unwrap();
    assert_eq!(event(&mut watch).await, Ok(("live".into(), 23)));
}

/// Writers and watchers at once: every watcher sees each change once and in order, wherever it starts: in history on disk, in
/// recent memory, or live.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_gap_and_no_repetition_under_load() {
    const COMMANDS: u64 = 3_000;
    const LAST: u64 = COMMANDS + 1;
    let limits = Limits { recent_changes_max: 50, watch_queue_events_max: 100_000, ..Limits::default() };
    let local = local(limits);
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (local, done) = (Arc::clone(&local), Arc::clone(&done));
        tokio::task::spawn_blocking(move || {
            for at in 0..COMMANDS {
                let keys = [format!("a/{at}"), format!("b/{at}"), format!("a/x{at}")];
                let keys: Vec<&str> =
                    keys.iter().take(1 + usize::try_from(at % 3).unwrap()).map(String::as_str).collect();
                local.apply(&command(&keys, at)).unwrap();
            }
            done.store(true, Ordering::Release);
        })
    };
    let mut watchers = Vec::new();
    let mut number = 0_u64;
    while !done.load(Ordering::Acquire) || number < 20 {
        let current = local.store().revision().0;
        // From the beginning, from the middle, from just now.
        let from = [1, current / 2, current.saturating_sub(30), current][usize::try_from(number % 4).unwrap()].max(1);
        let prefix = ["a/", "b/", ""][usize::try_from(number % 3).unwrap()];
        let watch = local.store().watch(prefix, Revision(from)).unwrap();
        watchers.push(tokio::spawn(follow(watch, prefix, from, LAST)));
        number += 1;
        if watchers.len() >= 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    local.apply(&command(&["a/end", "b/end"], 0)).unwrap();
    for watcher in watchers {
        tokio::time::timeout(DEADLINE, watcher).await.expect("every watcher comes to the end").unwrap();
    }
}

/// Reads until the last change and compares with what was written.
async fn follow(mut watch: Watch, prefix: &str, from: u64, last: u64) {
    let mut expected = Vec::new();
    for revision in from + 1..=last {
        let at = revision - 2;
        let keys = [format!("a/{at}"), format!("b/{at}"), format!("a/x{at}")];
        let written = keys.into_iter().take(1 + usize::try_from(at % 3).unwrap());
        expected.extend(written.filter(|key| key.starts_with(prefix)).map(|key| (key, revision)));
    }
    for want in expected {
        assert_eq!(event(&mut watch).await, Ok(want), "watch of {prefix:?} from {from}");
    }
    let (key, revision) = event(&mut watch).await.unwrap();
    assert_eq!((key.ends_with("/end"), revision), (true, last + 1));
}
