//! Whatever a guest does, a kill ends it, and soon.

use crate::{
    cpu::{SLEEPER, SPINNER},
    fixture::{Context, Guest, Runner, cpu_nanos, exited, killed},
    http,
    neighbours::{Neighbours, with_ports},
};
use coracle_runner::protocol::{FromRunner, RunId, StartGuest, ToRunner};
use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{
    net::SocketAddr,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

/// How long a guest may live on after the kill, on a machine that does other things. Unguarded ones live for ever.
const KILL_MAX: Duration = Duration::from_secs(5);

/// Reads standard input, which has nothing to say.
const READER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start") (loop $on
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        br $on)))"#;

/// Computes before anybody could call it.
const STARTER: &str = r#"(module (func $spin (loop $on br $on)) (start $spin) (func (export "_start")))"#;

/// Host calls without end, each of which is over at once.
const YIELDER: &str = r#"(module
    (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
    (memory (export "memory") 1)
    (func (export "_start") (loop $on (drop (call $yield)) br $on)))"#;

/// A host call that copies as much as it may, again and again.
const GAMBLER: &str = r#"(module
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (memory (export "memory") 32)
    (func (export "_start") (loop $on (drop (call $random (i32.const 0) (i32.const 1048576))) br $on)))"#;

/// Instructions that write 256 MiB each.
const FILLER: &str = r#"(module (memory 4096) (func (export "_start")
    (loop $on (memory.fill (i32.const 0) (i32.const 7) (i32.const 268435456)) br $on)))"#;
const COPIER: &str = r#"(module (memory 4096) (func (export "_start")
    (loop $on (memory.copy (i32.const 0) (i32.const 1) (i32.const 268435455)) br $on)))"#;

/// Fills 512 MiB with one instruction, then writes a dot, and so on.
const PAINTER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 8193)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00") (data (i32.const 16) ".")
    (func (export "_start") (loop $on
        (memory.fill (i32.const 65536) (i32.const 7) (i32.const 536870912))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        br $on)))"#;

/// Grows as far as it is let, and goes on trying.
const GROWER: &str = r#"(module (memory 0) (table $t 0 funcref) (func (export "_start")
    (loop $on
        (drop (memory.grow (i32.const 1)))
        (drop (table.grow $t (ref.null func) (i32.const 1)))
        (table.fill $t (i32.const 0) (ref.null func) (table.size $t))
        br $on)))"#;

/// Writes without end.
const WRITER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start") (loop $on
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 16384))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        br $on)))"#;

/// Opens `pipe` in its first directory to read from it, which waits for somebody who writes.
const OPENER: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "pipe")
    (func (export "_start")
        (drop (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 64)))))"#;

/// Waits in the call that its argument names by its last letter: for a connection; on one, for something to read, for
/// room to write, for either in `poll_oneoff`.
const SOCKETS: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $set_flags (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_recv" (func $receive (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    ;; One piece of 64 KiB; and where a subscription says that it is about reading a descriptor.
    (data (i32.const 32) "\00\00\01\00\00\00\01\00")
    (data (i32.const 72) "\01")
    (func (export "_start") (local $what i32) (local $connection i32)
        (drop (call $args_get (i32.const 256) (i32.const 512)))
        ;; The name, five letters and a zero, comes first.
        (local.set $what (i32.load8_u (i32.const 518)))
        (drop (call $set_flags (i32.const 3) (i32.const 0)))
        (if (call $accept (i32.const 3) (i32.const 0) (i32.const 0)) (then unreachable))
        (local.set $connection (i32.load (i32.const 0)))
        (if (i32.eq (local.get $what) (i32.const 97))
            (then (drop (call $accept (i32.const 3) (i32.const 0) (i32.const 0)))))
        (if (i32.eq (local.get $what) (i32.const 114))
            (then (drop (call $receive (local.get $connection) (i32.const 32) (i32.const 1) (i32.const 0)
                (i32.const 40) (i32.const 44)))))
        (if (i32.eq (local.get $what) (i32.const 115))
            (then (loop $on
                (drop (call $send (local.get $connection) (i32.const 32) (i32.const 1) (i32.const 0) (i32.const 40)))
                br $on)))
        (i32.store (i32.const 80) (local.get $connection))
        (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))))"#;

async fn started(runner: &mut Runner, start: StartGuest) -> RunId {
    let run = runner.start(start).await;
    runner.until_started(&run).await;
    // It may be anywhere by then, and long ones are in the middle of something.
    sleep(Duration::from_millis(50)).await;
    run
}

async fn dies(runner: &mut Runner, run: &RunId, what: &str) {
    let asked = Instant::now();
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(runner.end(run).await.exit, killed(), "{what}");
    assert!(asked.elapsed() < KILL_MAX, "{what}: {:?}", asked.elapsed());
}

pub(crate) async fn nothing_that_a_module_does_outlives_a_kill(context: Arc<Context>) {
    let Guest::Text(spinner) = SPINNER else { panic!("it is text") };
    for (what, text) in [
        ("spins", spinner),
        ("sleeps", SLEEPER),
        ("reads", READER),
        ("spins before it is called", STARTER),
        ("yields", YIELDER),
        ("asks for random numbers", GAMBLER),
        ("fills memory", FILLER),
        ("copies memory", COPIER),
        ("grows", GROWER),
        ("writes", WRITER),
    ] {
        let mut runner = context.runner().await;
        let start = runner.guest(Guest::Text(text), &[]).await;
        let run = started(&mut runner, start).await;
        dies(&mut runner, &run, what).await;
    }
}

pub(crate) async fn limits_do_not_delay_a_kill(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut start = runner.guest(Guest::Text(FILLER), &[]).await;
    start.cpu_limit_millis = Some(1);
    let run = started(&mut runner, start).await;
    dies(&mut runner, &run, "owes seconds").await;
}

pub(crate) async fn a_request_does_not_outlive_a_kill(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = http::serving(&mut runner, |_| {}).await;
    let mut streams = Vec::new();
    for path in ["/spin", "/sleep/600000", "/spin", "/hold/1/600000"] {
        let mut stream = neighbours.connect(http::PORT).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // They compute by now, or sleep.
    while runner.samples().await[&run].cpu_nanos < 100_000_000 {
        sleep(Duration::from_millis(10)).await;
    }
    dies(&mut runner, &run, "answers").await;
}

/// In CPU time, and compared with what it does: a busy machine changes nothing.
pub(crate) async fn a_kill_does_not_wait_for_a_bulk_instruction(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::Text(PAINTER), &[]).await;
    let (pid, began) = (runner.process.pid(), cpu_nanos(runner.process.pid()));
    let run = runner.start(start).await;
    runner.until_written(&run, ".").await;
    let whole = cpu_nanos(pid) - began;
    dies(&mut runner, &run, "paints").await;
    for _ in 0..3 {
        let start = runner.guest(Guest::Text(PAINTER), &[]).await;
        let run = runner.start(start).await;
        runner.until_started(&run).await;
        let began = cpu_nanos(pid);
        // It is in its first instruction, of which nothing is heard before its end.
        while cpu_nanos(pid) - began < whole / 10 {
            sleep(Duration::from_millis(1)).await;
        }
        let asked = cpu_nanos(pid);
        dies(&mut runner, &run, "paints").await;
        let lived_on = cpu_nanos(pid) - asked;
        assert!(lived_on < whole / 2, "{lived_on} ns, the instruction takes {whole} ns");
    }
}

/// Counted in instructions of its neighbours that ended meanwhile.
pub(crate) async fn neighbours_do_not_wait_for_bulk_instructions(context: Arc<Context>) {
    const ANSWERS: usize = 30;
    let mut runner = context.runner().await;
    let (_run, neighbours) = http::serving(&mut runner, |start| start.cpu_request_millis = Some(100)).await;
    http::ok(&neighbours, "/env/COLOUR").await;
    // More than there are threads for guests that cannot be interrupted.
    for _ in 0..available_parallelism().unwrap().get() + 4 {
        let start = runner.guest(Guest::Text(PAINTER), &[]).await;
        let run = runner.start(start).await;
        runner.until_started(&run).await;
    }
    for _ in 0..ANSWERS {
        http::ok(&neighbours, "/env/COLOUR").await;
    }
    let mut painted = 0;
    while let Ok(frame) = runner.frames.try_recv() {
        painted += usize::from(matches!(frame, FromRunner::Log { .. }));
    }
    assert!(painted < ANSWERS / 2, "{painted} instructions ended during {ANSWERS} answers");
}

pub(crate) async fn guests_that_wait_for_a_socket_die(context: Arc<Context>) {
    for (what, word) in [("accepts", "a"), ("receives", "r"), ("sends", "s"), ("polls", "p")] {
        let mut runner = context.runner().await;
        let start = with_ports(runner.guest(Guest::Text(SOCKETS), &[word]).await, &[http::PORT]);
        let run = runner.start(start).await;
        runner.until_started(&run).await;
        let neighbours = Neighbours::new(&runner);
        let _connection = neighbours.connect(http::PORT).await.unwrap();
        // It has the connection by then, and waits.
        sleep(Duration::from_millis(50)).await;
        dies(&mut runner, &run, what).await;
    }
}

pub(crate) async fn a_request_that_nobody_answers_dies_with_its_guest(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = http::serving(&mut runner, |_| {}).await;
    let mut asked = neighbours.listen(SocketAddr::from(([10, 96, 0, 7], 80))).await;
    let mut client = neighbours.connect(http::PORT).await.unwrap();
    client.write_all(b"GET /fetch/http/10.96.0.7/x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut silent = asked.recv().await.unwrap();
    let mut head = [0; 5];
    silent.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"GET /", "it waits for an answer by now");
    dies(&mut runner, &run, "asks").await;
    // Nothing of it is left: the other side sees the end.
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
}

pub(crate) async fn guests_that_wait_for_a_pipe_die(context: Arc<Context>) {
    let mut runner = context.runner_for(100).await;
    let mut runs = Vec::new();
    // More than there are threads for files.
    for _ in 0..40 {
        let mut start = runner.guest(Guest::Text(OPENER), &[]).await;
        start.mounts = vec![runner.volume("pipes", "/pipes")];
        let pipe = runner.volume_path("pipes").join("pipe");
        if !pipe.exists() {
            mkfifo(&pipe, Mode::from_bits_truncate(0o666)).unwrap();
        }
        runs.push(runner.start(start).await);
    }
    for run in &runs {
        runner.until_started(run).await;
    }
    let mut start = runner.guest(SPINNER, &[]).await;
    start.mounts = vec![runner.volume("pipes", "/pipes")];
    let run = started(&mut runner, start).await;
    dies(&mut runner, &run, "spins beside them").await;
    for run in &runs {
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    }
    for run in &runs {
        let exit = runner.end(run).await.exit;
        assert!(exit == killed() || exit == exited(0), "{exit:?}");
    }
}
