//! Limits and weights of CPU, and what a guest that computes does to others. Times are CPU times as the kernel counts
//! them for the whole process, so that a busy machine changes nothing.

use crate::{
    fixture::{Context, Guest, Runner, cpu_nanos, killed},
    http,
    neighbours::Neighbours,
};
use coracle_runner::protocol::{FromRunner, NICENESS_MIN, RunId, ToRunner};
use nix::libc;
use std::{
    fs,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Computes for ever, without a call.
pub(crate) const SPINNER: Guest = Guest::Text(r#"(module (func (export "_start") (loop $on br $on)))"#);
/// One instruction that takes some ten milliseconds, again and again.
const FILLER: &str = r#"(module (memory 1024) (func (export "_start")
    (loop $on (memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864)) br $on)))"#;
/// What takes more than a second to pay for, at a thousandth of a core.
const SECONDS_WORTH_NANOS: u64 = 1_100_000;
/// How often is looked.
const LOOK: Duration = Duration::from_millis(10);

async fn spinner(runner: &mut Runner, limit_millis: Option<u32>, request_millis: Option<u32>) -> RunId {
    let mut start = runner.guest(SPINNER, &[]).await;
    (start.cpu_limit_millis, start.cpu_request_millis) = (limit_millis, request_millis);
    let run = runner.start(start).await;
    runner.until_started(&run).await;
    run
}

/// Of what limits allow, in hundredths, what a runner is seen to use of the processors in ten seconds from the start of its
/// containers, at most; and what a single turn may add whose tick comes late, on a busy machine.
const LIMIT_HUNDREDTHS_MAX: u128 = 105;
const LATE_TICK: Duration = Duration::from_millis(20);

pub(crate) async fn limits_hold_as_seen_from_outside(context: Arc<Context>) {
    let used = [(1, 10), (1, 50), (1, 100), (10, 40)].map(|(count, limit)| {
        let context = Arc::clone(&context);
        async move {
            let mut runner = context.runner().await;
            let (before, began) = (cpu_nanos(runner.process.pid()), Instant::now());
            for _ in 0..count {
                spinner(&mut runner, Some(limit), None).await;
            }
            sleep(Duration::from_secs(10).saturating_sub(began.elapsed())).await;
            let (used, over) = (cpu_nanos(runner.process.pid()) - before, began.elapsed());
            (count, limit, u128::from(used), u128::from(count * limit) * over.as_nanos() / 1000)
        }
    });
    for (count, limit, used, allowed) in futures::future::join_all(used).await {
        let what = format!("{count} with {limit}m each: {} % of what they may", used * 100 / allowed);
        println!("      {what}");
        assert!(used <= allowed * LIMIT_HUNDREDTHS_MAX / 100 + LATE_TICK.as_nanos(), "{what}");
        // A machine with other things to do may leave much less.
        assert!(used >= allowed / 10, "{what}");
    }
}

pub(crate) async fn a_debt_is_paid(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut start = runner.guest(Guest::Text(FILLER), &[]).await;
    start.cpu_limit_millis = Some(1);
    let run = runner.start(start).await;
    runner.until_started(&run).await;
    let mut first = 0;
    // To start took something, too.
    while first < SECONDS_WORTH_NANOS {
        sleep(LOOK).await;
        first = runner.samples().await[&run].cpu_nanos;
    }
    // At a thousandth of a core the first tick takes two seconds to pay for.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(runner.samples().await[&run].cpu_nanos, first);
}

pub(crate) async fn requests_are_weights_under_contention(context: Arc<Context>) {
    let cores = available_parallelism().unwrap().get();
    let mut runner = context.runner_for(u32::try_from(4 * cores).unwrap()).await;
    let mut runs = Vec::new();
    for request in [100, 300] {
        for _ in 0..cores {
            runs.push((request, spinner(&mut runner, None, Some(request)).await));
        }
    }
    let before = runner.samples().await;
    sleep(Duration::from_secs(2)).await;
    let after = runner.samples().await;
    let had = |request: u32| -> u64 {
        let of = runs.iter().filter(|(of, _)| *of == request);
        of.map(|(_, run)| after[run].cpu_nanos - before[run].cpu_nanos).sum()
    };
    let (less, more) = (had(100), had(300));
    assert!(less > 0 && (22..=40).contains(&(more * 10 / less)), "{more} ns and {less} ns");
}

/// Has all threads of a process compute on one core only: how the kernel spreads weights over several is its own affair, and
/// blurred on a machine with other things to do.
fn pin(pid: u32) {
    // SAFETY: a set of processors is a row of bits, of which none is set yet.
    let mut first: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is one that the set has.
    unsafe { libc::CPU_SET(0, &mut first) };
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().file_name().into_string().unwrap().parse::<libc::pid_t>().unwrap();
        // SAFETY: the set outlives the call. A thread may have ended meanwhile.
        unsafe { libc::sched_setaffinity(task, size_of::<libc::cpu_set_t>(), &raw const first) };
    }
}

/// How much two runners use together before they are compared, and how long that may take.
const COMPARED_NANOS: u64 = 3_000_000_000;
const COMPARE_MAX: Duration = Duration::from_secs(30);

/// Two runners want the same processor; gives what the first one has of them, in thousandths of what the second one has.
async fn between_runners(context: &Arc<Context>, niceness: [u8; 2], spinners: usize) -> u64 {
    let mut runners = Vec::new();
    for niceness in niceness {
        let mut runner = context.runner_for(100).await;
        runner.process.stand_back(niceness).await.unwrap();
        for _ in 0..spinners {
            spinner(&mut runner, None, None).await;
        }
        pin(runner.process.pid());
        runners.push(runner);
    }
    // Until all have used what everybody may.
    sleep(Duration::from_millis(500)).await;
    let used = || [0, 1].map(|index: usize| cpu_nanos(runners[index].process.pid()));
    let (before, began) = (used(), Instant::now());
    loop {
        sleep(LOOK).await;
        let after = used();
        let [first, second] = [after[0] - before[0], after[1] - before[1]];
        // A machine with other things to do takes longer, and does not share out exactly.
        if first + second >= COMPARED_NANOS || began.elapsed() > COMPARE_MAX {
            return first * 1000 / second.max(1);
        }
    }
}

pub(crate) async fn runners_weigh_as_the_agent_says(context: Arc<Context>) {
    let cores = available_parallelism().unwrap().get();
    for spinners in [cores, 4 * cores] {
        // Six steps of a quarter: 3.8 times as much.
        let ratio = between_runners(&context, [NICENESS_MIN, NICENESS_MIN + 6], spinners).await;
        println!("      {spinners} spinners each: {ratio} thousandths");
        assert!((2300..=6300).contains(&ratio), "{spinners} spinners each: {ratio} thousandths");
    }
}

pub(crate) async fn a_paused_guest_burns_nothing_and_dies_at_once(context: Arc<Context>) {
    let mut runner = context.runner().await;
    // A thousandth of a core: after what it may spend at once it is paused for long.
    let run = spinner(&mut runner, Some(1), None).await;
    sleep(Duration::from_millis(300)).await;
    let before = cpu_nanos(runner.process.pid());
    sleep(Duration::from_secs(1)).await;
    assert!(cpu_nanos(runner.process.pid()) - before <= 30_000_000, "it waits without looking");
    let killed_at = Instant::now();
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(runner.end(&run).await.exit, killed());
    assert!(killed_at.elapsed() < Duration::from_secs(1));
}

pub(crate) async fn requests_to_http_components_are_paid_by_their_container(context: Arc<Context>) {
    let mut runner = context.runner_for(100).await;
    let (run, neighbours) = http::serving(&mut runner, |start| start.cpu_limit_millis = Some(200)).await;
    http::ok(&neighbours, "/env/COLOUR").await;
    let before = (cpu_nanos(runner.process.pid()), Instant::now());
    let clients = (0..8).map(|_| async {
        while before.1.elapsed() < Duration::from_secs(3) {
            http::ok(&neighbours, "/env/COLOUR").await;
        }
    });
    futures::future::join_all(clients).await;
    let used = cpu_nanos(runner.process.pid()) - before.0;
    let rate = u128::from(used) * 1000 / before.1.elapsed().as_nanos();
    // Some of what a new connection costs is not its container's: the channel that it comes by.
    assert!(rate <= 300, "{rate}m");
    let samples = runner.samples().await;
    assert!(samples[&run].cpu_nanos > 100_000_000, "{samples:?}");
}

/// Half the answers come sooner than in this and some times what they take beside nobody: generous for what it is. Without
/// turns, spare threads or a look-out all take longer.
const ANSWER_MAX: Duration = Duration::from_millis(20);

/// The time in which half the answers come.
async fn answer_time(neighbours: &Neighbours) -> Duration {
    let mut times = Vec::new();
    for _ in 0..41 {
        let asked = Instant::now();
        http::ok(neighbours, "/env/COLOUR").await;
        times.push(asked.elapsed());
    }
    times.sort();
    times[20]
}

pub(crate) async fn guests_that_compute_do_not_delay_their_neighbours_answers(context: Arc<Context>) {
    let cores = available_parallelism().unwrap().get();
    // The last ones would not be interrupted for some ten milliseconds, were they not rewritten.
    for (what, guest, count) in [("spinners", SPINNER, 32 * cores), ("fillers", Guest::Text(FILLER), cores + 2)] {
        let mut runner = context.runner_for(u32::try_from(100 * cores).unwrap()).await;
        let (_run, neighbours) = http::serving(&mut runner, |start| start.cpu_request_millis = Some(100)).await;
        let alone = answer_time(&neighbours).await;
        for _ in 0..count {
            let start = runner.guest(guest, &[]).await;
            let run = runner.start(start).await;
            runner.until_started(&run).await;
        }
        let beside = answer_time(&neighbours).await;
        assert!(beside <= ANSWER_MAX + 6 * alone, "{what}: {beside:?}, alone {alone:?}");
    }
}

pub(crate) async fn samples_tell_cpu_and_memory(context: Arc<Context>) {
    let mut runner = context.runner().await;
    assert!(runner.samples().await.is_empty());
    let busy = spinner(&mut runner, None, None).await;
    let start = runner.guest(Guest::Text(SLEEPER), &[]).await;
    let idle = runner.start(start).await;
    runner.until_started(&idle).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let samples = runner.samples().await;
        assert_eq!(samples.len(), 2, "{samples:?}");
        // Beside three pages, the runner keeps some KiB for each.
        if samples[&busy].cpu_nanos > 200_000_000 && (3 << 16..4 << 16).contains(&samples[&idle].memory_bytes) {
            assert!(samples[&idle].cpu_nanos < 50_000_000, "{samples:?}");
            assert!(samples[&busy].memory_bytes < 1 << 16, "{samples:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{samples:?}");
        sleep(LOOK).await;
    }
    runner.process.send(ToRunner::Kill(busy.clone())).await.unwrap();
    runner.end(&busy).await;
    assert_eq!(runner.samples().await.into_keys().collect::<Vec<_>>(), [idle]);
}

/// Sleeps for an hour, in one call; has three pages.
pub(crate) const SLEEPER: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 3)
    (func (export "_start")
        ;; The monotonic clock, an hour from now.
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;

pub(crate) async fn an_idle_runner_does_not_wake_up(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for _ in 0..10 {
        let start = runner.guest(Guest::Text(SLEEPER), &[]).await;
        let run = runner.start(start).await;
        while runner.frame().await != FromRunner::Started(run.clone()) {}
    }
    sleep(Duration::from_millis(300)).await;
    let switches = |pid: u32| -> u64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let of = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let lines = status.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            lines.filter_map(|count| count.trim().parse::<u64>().ok()).sum::<u64>()
        };
        tasks.map(|task| of(task.unwrap())).sum()
    };
    let before = switches(runner.process.pid());
    sleep(Duration::from_secs(1)).await;
    let woken = switches(runner.process.pid()).saturating_sub(before);
    assert!(woken <= 20, "{woken} times in a second");
}
