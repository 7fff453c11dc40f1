//! What limits cost, how exactly `limits.cpu` holds, how long neighbours of guests that compute wait for their answers,
//! and how long guests live on after a kill. CPU times are the kernel's for the whole runner process.
//!
//! Figures are printed, never asserted.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench, which clippy does not see has its own main"
)]

#[path = "../tests/behaviour/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod fixture;
#[path = "../tests/behaviour/http.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod http;
#[path = "../tests/behaviour/neighbours.rs"]
mod neighbours;

use coracle_runner::protocol::{NICENESS_MAX, RunId, StartGuest, ToRunner};
use fixture::{Context, Guest, Runner, cpu_nanos};
use futures::future::join_all;
use std::{
    env,
    process::ExitCode,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const SPINNER: Guest = Guest::Text(r#"(module (func (export "_start") (loop $on br $on)))"#);
const SLEEPER: Guest = Guest::Text(
    r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const 3600000000000))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#,
);
const FILLER_64_MIB: Guest = Guest::Text(
    r#"(module (memory 1024) (func (export "_start")
        (loop $on (memory.fill (i32.const 0) (i32.const 7) (i32.const 67108864)) br $on)))"#,
);
const FILLER_1_GIB: Guest = Guest::Text(
    r#"(module (memory 16384) (func (export "_start")
        (loop $on (memory.fill (i32.const 0) (i32.const 7) (i32.const 1073741824)) br $on)))"#,
);
/// Computes and touches memory for about a second, then ends.
const WORKER: Guest = Guest::Text(
    r#"(module (memory 16) (func (export "_start") (local $i i32) (local $x i32)
        (loop $on
            (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
            (i32.store (i32.and (local.get $x) (i32.const 0xffffc)) (local.get $i))
            (br_if $on (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 500000000))))))"#,
);

fn main() -> ExitCode {
    let words = env::args().skip(1).collect::<Vec<_>>();
    match words.first().map(String::as_str) {
        Some("runner") => coracle_runner::child::main(&words[1..]),
        Some("compile") => coracle_runner::compile::main(&words[1..]),
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(measure(&Arc::new(Context::new()), &words));
            ExitCode::SUCCESS
        }
    }
}

fn short() -> bool {
    env::var_os("CORACLE_BENCH_SHORT").is_some()
}

/// Which parts, by the words of the command line; all without any.
async fn measure(context: &Arc<Context>, words: &[String]) {
    let is_wanted = |part: &str| {
        let mut named = words.iter().filter(|word| !word.starts_with('-')).peekable();
        named.peek().is_none() || named.any(|word| word == part)
    };
    if is_wanted("accuracy") {
        accuracy(context).await;
    }
    if is_wanted("cost") {
        cost(context).await;
    }
    if is_wanted("neighbours") {
        neighbours_wait(context).await;
    }
    if is_wanted("kills") {
        kills(context).await;
    }
}

async fn started(runner: &mut Runner, guest: Guest, set: impl FnOnce(&mut StartGuest)) -> RunId {
    let mut start = runner.guest(guest, &[]).await;
    set(&mut start);
    let run = runner.start(start).await;
    runner.until_started(&run).await;
    run
}

async fn accuracy(context: &Arc<Context>) {
    let over = Duration::from_secs(if short() { 1 } else { 10 });
    println!("limits.cpu over {} s, as the runner process used the CPU:", over.as_secs());
    for (count, limit) in [(1, 10), (1, 50), (1, 100), (1, 200), (1, 900), (10, 100), (100, 10)] {
        let mut runner = context.runner_for(200).await;
        let began = Instant::now();
        let before = cpu_nanos(runner.process.pid());
        for _ in 0..count {
            started(&mut runner, SPINNER, |start| start.cpu_limit_millis = Some(limit)).await;
        }
        let from_start = began.elapsed();
        sleep(over).await;
        let all = (cpu_nanos(runner.process.pid()) - before, began.elapsed());
        let own: u64 = runner.samples().await.values().map(|sample| sample.cpu_nanos).sum();
        let allowed = u128::from(count * limit) * all.1.as_nanos() / 1000;
        println!(
            "  {count:>3} x {limit:>3}m   {:>6.1} % of what they may, {:>6.1} % as the runner counts it (started within \
             {from_start:.0?}, which counts)",
            share(u128::from(all.0), allowed),
            share(u128::from(own), allowed)
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn share(part: u128, whole: u128) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn limited(start: &mut StartGuest) {
    (start.cpu_limit_millis, start.cpu_request_millis) = (Some(1_000_000), Some(1000));
    start.memory_limit_bytes = Some(1 << 30);
}

async fn cost(context: &Arc<Context>) {
    let rounds = if short() { 1 } else { 7 };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut runner = context.runner().await;
    for _ in 0..rounds {
        for (times, is_limited) in [(&mut without, false), (&mut with, true)] {
            let before = cpu_nanos(runner.process.pid());
            let run = started(&mut runner, WORKER, |start| {
                if is_limited {
                    limited(start);
                }
            })
            .await;
            runner.end(&run).await;
            times.push(Duration::from_nanos(cpu_nanos(runner.process.pid()) - before));
        }
    }
    println!("what limits cost (CPU and memory, never reached), {rounds} rounds by turns:");
    let [without, with] = [without, with].map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!(
        "  computing          {without:.1?} without, {with:.1?} with: {:+.2} %",
        share(with.as_nanos(), without.as_nanos()) - 100.0
    );
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (costs, is_limited) in [(&mut without, false), (&mut with, true)] {
            costs.push(requests(context, is_limited).await);
        }
    }
    let [without, with] = [without, with].map(|mut costs| {
        costs.sort();
        costs[costs.len() / 2]
    });
    println!(
        "  an HTTP request    {:.1?} of CPU, {}/s without; {:.1?}, {}/s with: {:+.2} % of CPU",
        without.0,
        without.1,
        with.0,
        with.1,
        share(with.0.as_nanos(), without.0.as_nanos()) - 100.0
    );
}

/// CPU time that a request takes of the runner, and how many there are in a second.
async fn requests(context: &Arc<Context>, is_limited: bool) -> (Duration, u32) {
    let mut runner = context.runner_for(200).await;
    let (_run, neighbours) = http::serving(&mut runner, |start| {
        if is_limited {
            limited(start);
        }
    })
    .await;
    http::ok(&neighbours, "/hello").await;
    let (before, began) = (cpu_nanos(runner.process.pid()), Instant::now());
    let over = Duration::from_secs(if short() { 1 } else { 2 });
    let clients = (0..8).map(|_| async {
        let mut count = 0;
        while began.elapsed() < over {
            http::ok(&neighbours, "/hello").await;
            count += 1;
        }
        count
    });
    let count: u32 = join_all(clients).await.into_iter().sum();
    (
        Duration::from_nanos(cpu_nanos(runner.process.pid()) - before) / count,
        count / u32::try_from(over.as_secs()).unwrap(),
    )
}

/// Where those are that compute.
#[derive(Clone, Copy)]
enum Place {
    Here,
    /// In a runner to which this one weighs as little as can be.
    Elsewhere,
}

async fn neighbours_wait(context: &Arc<Context>) {
    let cores = available_parallelism().unwrap().get();
    println!(
        "answers of an HTTP component (request cpu 100m) beside guests without limits or requests, {cores} cores:"
    );
    let rounds = if short() { 1 } else { 3 };
    let cases = [
        ("nobody", SPINNER, 0, Place::Here),
        ("one spinner per core", SPINNER, cores, Place::Here),
        ("16 spinners per core", SPINNER, 16 * cores, Place::Here),
        ("one spinner per core elsewhere", SPINNER, cores, Place::Elsewhere),
        ("16 spinners per core elsewhere", SPINNER, 16 * cores, Place::Elsewhere),
        ("one filler of 64 MiB per core", FILLER_64_MIB, cores, Place::Here),
        ("three fillers of 64 MiB per core", FILLER_64_MIB, 3 * cores, Place::Here),
    ];
    let mut times = vec![Vec::new(); cases.len()];
    // By turns, since the machine may be busier at one time than at another.
    for _ in 0..rounds {
        for (times, (_, guest, count, place)) in times.iter_mut().zip(cases) {
            times.extend(answers(context, guest, count, place).await);
        }
    }
    for (times, (what, ..)) in times.into_iter().zip(cases) {
        println!("  {what:<33} {}", quantiles(times));
    }
}

/// How long each of some answers takes.
async fn answers(context: &Arc<Context>, guest: Guest, count: usize, place: Place) -> Vec<Duration> {
    let places = u32::try_from(100 * available_parallelism().unwrap().get()).unwrap();
    let mut here = context.runner_for(places).await;
    let (_run, neighbours) = http::serving(&mut here, |start| start.cpu_request_millis = Some(100)).await;
    http::ok(&neighbours, "/hello").await;
    let mut elsewhere = context.runner_for(places).await;
    if matches!(place, Place::Elsewhere) {
        here.process.stand_back(NICENESS_MAX).await.unwrap();
    }
    for _ in 0..count {
        match place {
            Place::Here => started(&mut here, guest, |_| {}).await,
            Place::Elsewhere => started(&mut elsewhere, guest, |_| {}).await,
        };
    }
    let mut times = Vec::new();
    for _ in 0..if short() { 20 } else { 200 } {
        let asked = Instant::now();
        http::ok(&neighbours, "/hello").await;
        times.push(asked.elapsed());
    }
    times
}

async fn kills(context: &Arc<Context>) {
    println!("from the kill to the end:");
    for (what, guest) in
        [("spins", SPINNER), ("sleeps", SLEEPER), ("fills 64 MiB", FILLER_64_MIB), ("fills 1 GiB", FILLER_1_GIB)]
    {
        let mut runner = context.runner().await;
        let mut times = Vec::new();
        for round in 0..if short() { 3 } else { 20 } {
            let run = started(&mut runner, guest, |_| {}).await;
            sleep(Duration::from_millis(100 + 7 * round)).await;
            let asked = Instant::now();
            runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
            runner.end(&run).await;
            times.push(asked.elapsed());
        }
        println!("  {what:<33} {}", quantiles(times));
    }
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)];
    format!("p50 {:>9.1?}   p99 {:>9.1?}   max {:>9.1?}", at(50), at(99), at(100))
}
