//! Preview 1 modules with sockets.

use crate::{
    fixture::{Context, Guest, Runner, exited},
    neighbours::{Neighbours, with_ports},
};
use coracle_runner::{
    network::DialFailure,
    protocol::{RunId, ToRunner},
};
use futures::future::join_all;
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

const PORT: u16 = 7000;

/// Starts the guest and waits until it serves.
async fn serving(runner: &mut Runner, words: &[&str]) -> (RunId, Neighbours) {
    let start = with_ports(runner.guest(Guest::Listener, words).await, &[PORT]);
    let run = runner.start(start).await;
    runner.until_written(&run, "ready\n").await;
    (run, Neighbours::new(runner))
}

/// Sends, ends its side, and gives all that comes back.
async fn exchange(mut stream: UnixStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let send = async {
        writer.write_all(bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let ((), read) = tokio::join!(send, reader.read_to_end(&mut answer));
    read.unwrap();
    answer
}

pub(crate) async fn listeners_come_behind_the_directories(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut start = with_ports(runner.guest(Guest::Listener, &["describe"]).await, &[80, 443, 80]);
    start.mounts = vec![runner.volume("one", "/one"), runner.volume("two", "/two"), runner.volume("last", "/one")];
    start.env = vec![("LISTEN_FDS".into(), "77".into())];
    let run = runner.run(start).await;
    // Type 3 is a directory, 6 a stream socket, flag 4 non-blocking; 8 is the error for no descriptor.
    let expected = "LISTEN_FDS 2\ndirectories 2\n0 type 0 flags 0\n1 type 0 flags 0\n2 type 0 flags 0\n3 type 3 flags 0\n\
        4 type 3 flags 0\n5 type 6 flags 4\n6 type 6 flags 4\n7 error 8\n";
    assert_eq!(run.stdout, expected);
    let start = runner.guest(Guest::Listener, &["describe"]).await;
    let run = runner.run(start).await;
    assert!(run.stdout.starts_with("LISTEN_FDS \ndirectories 0\n"), "{}", run.stdout);
    assert!(run.stdout.ends_with("2 type 0 flags 0\n3 error 8\n4 error 8\n5 error 8\n"), "{}", run.stdout);
}

pub(crate) async fn a_module_can_wait_in_each_call(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (_run, neighbours) = serving(&mut runner, &["echo-one"]).await;
    let large = vec![b'x'; 3 << 20];
    for bytes in [&b""[..], b"hello", &large] {
        let stream = neighbours.connect(PORT).await.unwrap();
        let answer = exchange(stream, bytes).await;
        assert_eq!(answer.len(), bytes.len() + 3);
        assert!(answer.starts_with(bytes) && answer.ends_with(b"bye"), "what the other side ended is still answered");
    }
}

pub(crate) async fn a_module_can_wait_for_many_connections_at_once(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, &["echo-many"]).await;
    let mut streams = Vec::new();
    for _ in 0..200 {
        streams.push(neighbours.connect(PORT).await.unwrap());
    }
    // All are open, and each is heard in turn, from the last to the first.
    for (index, stream) in streams.iter_mut().enumerate().rev() {
        let text = format!("number {index}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, text.as_bytes());
    }
    let large = vec![b'y'; 300 << 10];
    let echoed = join_all(streams.into_iter().map(|stream| exchange(stream, &large))).await;
    assert!(echoed.iter().all(|echo| *echo == large));
    runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
    let run = runner.end(&run).await;
    assert_eq!((run.exit, run.stdout.as_str()), (exited(0), "served 200, ticked true\n"));
    assert_eq!(neighbours.connect(PORT).await.err(), Some(DialFailure::Refused));
}

pub(crate) async fn calls_mean_what_they_mean_elsewhere(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, &["semantics"]).await;
    let mut stream = neighbours.connect(PORT).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"from where the listener was");
    let run = runner.end(&run).await;
    assert_eq!(run.exit, exited(0), "{run:?}");
    // 6 is EAGAIN, 8 EBADF, 28 EINVAL, 53 ENOTCONN, 57 ENOTSOCK, 64 EPIPE, 70 ESPIPE.
    assert_eq!(
        run.stdout,
        "accept without a client: Err(6)\nread from a listener: Err(53)\nshut down a listener: Err(53)\n\
        seek on a listener: Err(70)\naccept from a file: Err(57)\naccept from nothing: Err(8)\narrival: [(0, 0)]\nnext number: 1\nflags: Ok((6, 4))\nof a bad number: [(2, 8)]\npeek: Ok(5)\nreceive: Ok(5)\n\
        again: Err(6)\nseek: Err(70)\nbad flags: Err(28)\nrenumber to nothing: Err(8)\nrenumber: Ok(())\n\
        the old number: Err(8)\nwrite: Ok(27)\nshut down: Ok(())\nwrite after that: Err(64)\nclose: Ok(())\n\
        close again: Err(8)\n"
    );
}

pub(crate) async fn descriptors_have_a_bound(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, &["hoard"]).await;
    let mut streams = Vec::new();
    // Until it has all it may have, and ends.
    while let Ok(stream) = neighbours.connect(PORT).await {
        streams.push(stream);
    }
    let run = runner.end(&run).await;
    // 33 is EMFILE; the standard streams and the listener have numbers as well.
    assert_eq!(run.stdout, "4092 connections, then error 33\n");
}

pub(crate) async fn ports_are_taken_once_in_a_pod(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, &["echo-one"]).await;
    let start = with_ports(runner.guest(Guest::Listener, &["echo-one"]).await, &[90, PORT]);
    assert_eq!(runner.refusal(start).await, "TCP port 7000 is in use in this pod");
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    runner.end(&run).await;
    assert_eq!(neighbours.connect(PORT).await.err(), Some(DialFailure::Refused));
    drop(neighbours);
    let (_run, neighbours) = serving(&mut runner, &["echo-one"]).await;
    assert_eq!(exchange(neighbours.connect(PORT).await.unwrap(), b"again").await, b"againbye");
}

/// A Go: where `CORACLE_GO` says, or what the other toolchains' guests are built with, or one on the path.
fn go() -> OsString {
    if let Some(go) = env::var_os("CORACLE_GO") {
        return go;
    }
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let cache = env::var_os("CORACLE_TOOLCHAINS_CACHE").map(PathBuf::from).or_else(|| {
        let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
        Some(caches.join("coracle/toolchains"))
    });
    let directories = cache.and_then(|cache| fs::read_dir(cache).ok()).into_iter().flatten().flatten();
    let fetched = directories.map(|directory| directory.path().join("bin/go")).find(|go| go.exists());
    fetched.map_or_else(|| "go".into(), PathBuf::into_os_string)
}

/// The Go guest. Without a Go the case fails, unless [`WITHOUT_GO`] says that this is as it should be.
fn go_guest() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/go-http");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let output = target.join("go-http.wasm");
    let mut command = Command::new(go());
    command.args(["build", "-o"]).arg(&output).current_dir(sources);
    command.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOCACHE", target.join("go-cache"));
    match command.status() {
        Ok(status) => {
            assert!(status.success(), "the Go guest does not build");
            Some(output)
        }
        Err(_) if env::var_os(WITHOUT_GO).is_some() => None,
        Err(error) => {
            panic!("no Go on this machine ({error}): CORACLE_GO names one, {WITHOUT_GO}=1 leaves this case out")
        }
    }
}

/// Set where the Go guest cannot be had.
const WITHOUT_GO: &str = "CORACLE_WITHOUT_GO";

pub(crate) async fn go_serves_with_its_own_http(context: Arc<Context>) {
    let Some(guest) = go_guest() else {
        println!("left out for want of a Go, as {WITHOUT_GO} says:");
        return;
    };
    let mut runner = context.runner().await;
    let mut start = runner.wasm(&fs::read(guest).unwrap(), &[]).await;
    start.mounts = vec![runner.volume("data", "/data")];
    let run = runner.start(with_ports(start, &[PORT])).await;
    runner.until_written(&run, "serving\n").await;
    let neighbours = Neighbours::new(&runner);
    let asked = join_all((0..50).map(|_| async {
        let stream = neighbours.connect(PORT).await.unwrap();
        exchange(
            stream,
            b"GET /sleep HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await
    }));
    for answer in asked.await {
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("slept\n") && answer.ends_with("hello from Go\n"), "{answer}");
    }
}
