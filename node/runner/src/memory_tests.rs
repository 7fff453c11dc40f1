//! What is counted, who pays for it, and who is ended.

use super::*;
use futures::FutureExt;

fn account(limit_bytes: Option<u64>) -> Arc<MemoryAccount> {
    MemoryAccount::new(limit_bytes, &Arc::default())
}

#[tokio::test]
async fn buffers_and_linear_memory_share_one_limit() {
    let account = account(Some(100));
    account.grow(60).unwrap();
    let held = account.reserve(40).unwrap();
    assert!(account.exceeded().now_or_never().is_none(), "exactly the limit is allowed");
    drop(held);
    let mut held = account.reserve(30).unwrap();
    held.resize(10).unwrap();
    assert_eq!(account.used_bytes(), 70);
    let out = OutOfMemory::Limit { limit_bytes: 100, wanted_bytes: 101 };
    assert_eq!(held.resize(41), Err(out));
    assert_eq!(account.exceeded().now_or_never(), Some(out), "the container is over, whatever becomes of the error");
    drop(held);
    account.shrink(60);
    assert_eq!(account.used_bytes(), 0);
}

#[tokio::test]
async fn what_others_cause_ends_nobody() {
    let account = account(Some(100));
    let held = account.try_reserve(100).unwrap();
    assert!(account.try_reserve(1).is_none());
    assert!(account.exceeded().now_or_never().is_none());
    drop(held);
    assert!(account.try_reserve(1).is_some());
}

#[tokio::test]
async fn without_a_limit_only_buffers_have_a_bound() {
    let account = account(None);
    account.grow(1 << 40).unwrap();
    let _held = account.reserve(MAX_UNLIMITED_BUFFER_BYTES).unwrap();
    assert!(account.try_reserve(1).is_none());
    assert!(account.exceeded().now_or_never().is_none());
    let out = account.reserve(1).unwrap_err();
    assert!(matches!(out, OutOfMemory::Buffers { .. }), "{out}");
    assert_eq!(account.exceeded().now_or_never(), Some(out));
}

#[test]
fn counting_has_an_end() {
    let account = account(None);
    account.grow(u64::MAX - 1).unwrap();
    account.grow(2).unwrap_err();
    assert_eq!(account.used_bytes(), u64::MAX - 1);
}

#[test]
fn many_buffers_are_small_ones() {
    let account = account(Some(800));
    let _held = account.reserve(99).unwrap();
    assert!(account.is_roomy());
    let _more = account.reserve(1).unwrap();
    assert!(!account.is_roomy());
}

#[tokio::test]
async fn the_ceiling_ends_the_greediest_one_after_the_other() {
    let ceiling = Arc::new(Ceiling::new(1000));
    let limited = MemoryAccount::new(Some(900), &ceiling);
    let modest = MemoryAccount::new(None, &ceiling);
    let greedy = MemoryAccount::new(None, &ceiling);
    for (account, bytes) in [(&limited, 800), (&modest, 100), (&greedy, 700)] {
        account.grow(bytes).unwrap();
    }
    let alive = |account: &MemoryAccount| account.why.get().is_none();
    ceiling.end_one(1600);
    assert!(matches!(greedy.exceeded().await, OutOfMemory::Ceiling { counted_bytes: 700, .. }));
    ceiling.end_one(1600);
    assert!(alive(&modest), "the next has to wait until the first is gone");
    drop(greedy);
    ceiling.end_one(1600);
    assert!(!alive(&modest) && alive(&limited), "a limit protects while there are others without one");
    drop(modest);
    ceiling.end_one(1600);
    assert!(!alive(&limited));
}

#[tokio::test]
async fn the_process_is_looked_at_once_enough_is_counted() {
    let ceiling = Arc::new(Ceiling::new(1000));
    let account = MemoryAccount::new(None, &ceiling);
    let looks = Arc::new(AtomicU64::new(0));
    let guard = {
        let (ceiling, looks) = (Arc::clone(&ceiling), Arc::clone(&looks));
        // What is counted and what is used are not the same.
        tokio::spawn(async move { ceiling.guard(move || Some(900 + 50 * looks.fetch_add(1, Relaxed))).await })
    };
    account.grow(1000).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(looks.load(Relaxed), 0);
    account.grow(1).unwrap();
    account.exceeded().await;
    assert_eq!(looks.load(Relaxed), 4, "the process used 900, 950, 1000, and then too much");
    guard.abort();
}
