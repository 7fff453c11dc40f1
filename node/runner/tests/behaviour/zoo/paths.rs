//! Names that should lead out of the mounts, or to what must not be opened.

use super::{module, neighbour, visit};
use crate::fixture::{Context, Guest, Runner};
use coracle_runner::protocol::ToRunner;
use std::{
    fmt::Write,
    fs,
    os::unix::{fs::MetadataExt, net::UnixListener},
    sync::Arc,
};

/// Opens a path of the first mount and exits with the error number.
fn opener(path: &[u8], open_flags: u32) -> Vec<u8> {
    let mut escaped = String::new();
    for byte in path {
        write!(escaped, "\\{byte:02x}").unwrap();
    }
    module(
        &[("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32")],
        &format!("(data (i32.const 1024) \"{escaped}\")"),
        &format!(
            "(call $exit (call $path_open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const {}) \
             (i32.const {open_flags}) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 0)))",
            path.len()
        ),
    )
}

const CREATE: u32 = 1;

pub(crate) async fn names_that_lead_elsewhere(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = [runner.volume("data", "/data")];
    fs::create_dir(runner.volume_path("outside")).unwrap();
    fs::write(runner.volume_path("outside").join("secret"), "secret").unwrap();
    fs::write(runner.volume_path("data").join("file"), "").unwrap();
    let long = b"x".repeat(4096);
    let deep = b"./".repeat(30_000);
    for (path, flags, allowed) in [
        (&b"file"[..], 0, true),
        (b"./file", 0, true),
        (b"../outside/secret", 0, false),
        (b"..", 0, false),
        (b"/etc/passwd", 0, false),
        (b"//etc/passwd", 0, false),
        (b"file/../../outside/secret", 0, false),
        (b"../data/file", 0, false),
        (b"file/", 0, false),
        (b"file/.", 0, false),
        (b"", CREATE, false),
        (b"file\0", 0, false),
        (b"new\0/../x", CREATE, false),
        (b"\xff\xfe", CREATE, false),
        (b"../outside/new", CREATE, false),
        (b"/proc/self/environ", 0, false),
        (&long, CREATE, false),
        (&deep, CREATE, false),
    ] {
        let run = visit(&mut runner, &opener(path, flags), Some(4 << 20), &mount, &[]).await;
        let shown = String::from_utf8_lossy(&path[..path.len().min(40)]).into_owned();
        assert_eq!(run.exit.code == 0, allowed, "{shown:?}: {:?}", run.exit);
    }
    let names = |volume: &str| fs::read_dir(runner.volume_path(volume)).unwrap().count();
    assert_eq!((names("data"), names("outside")), (1, 1), "something was made");
}

/// Makes a hard link in the second mount to what lies in the first, and exits with the error number.
const LINKER: &str = r"(call $exit (call $path_link (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4)
    (i32.const 4) (i32.const 32) (i32.const 4)))";

pub(crate) async fn special_files_hold_nobody_up(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = [runner.volume("data", "/data")];
    let data = runner.volume_path("data");
    nix::unistd::mkfifo(&data.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(data.join("socket")).unwrap();
    // More than the runner has threads for files, each of which would wait for ever.
    let mut runs = Vec::new();
    for _ in 0..40 {
        for name in ["fifo", "socket"] {
            for guest in [Guest::Toolbox, Guest::ToolboxP1] {
                let path = format!("/data/{name}");
                let mut start = runner.guest(guest, &["cat", &path, "--", "append", &path, "x"]).await;
                start.mounts = mount.to_vec();
                runs.push(start);
            }
        }
    }
    for start in runs {
        let run = tokio::time::timeout(super::PROMPT, runner.run(start)).await.expect("it waits for what is no file");
        assert_eq!(run.exit.code, 0, "{:?}", run.exit);
        assert!(run.stdout.contains("cat /data/") && run.stdout.contains("append /data/"), "{}", run.stdout);
    }
    neighbour(&mut runner).await;

    // A link into another mount of the same volume is one in the volume; into another volume it is as on Linux, and
    // read-only mounts stay as they are.
    let mut other = runner.volume("other", "/other");
    other.read_only = true;
    fs::write(data.join("file"), "").unwrap();
    let wasm = module(
        &[("path_link", "i32 i32 i32 i32 i32 i32 i32")],
        r#"(data (i32.const 16) "file") (data (i32.const 32) "link")"#,
        LINKER,
    );
    let mounts = [mount[0].clone(), other];
    let run = visit(&mut runner, &wasm, None, &mounts, &[]).await;
    assert_ne!(run.exit.code, 0, "{:?}", run.exit);
    assert_eq!(fs::metadata(data.join("file")).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(runner.volume_path("other")).unwrap().count(), 0);
}

async fn start_toolbox(runner: &mut Runner, words: &[&str]) -> coracle_runner::protocol::RunId {
    let mut start = runner.guest(Guest::ToolboxP1, words).await;
    start.mounts = vec![runner.volume("moving", "/data")];
    runner.start(start).await
}

pub(crate) async fn directories_may_move_while_they_are_read(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let _mount = runner.volume("moving", "/data");
    let moving = runner.volume_path("moving");
    fs::create_dir_all(moving.join("a/b")).unwrap();
    fs::create_dir(runner.volume_path("outside")).unwrap();
    fs::write(runner.volume_path("outside").join("secret"), "secret").unwrap();
    fs::write(moving.join("secret"), "own").unwrap();
    // One guest goes up from a directory that the other moves about: it must never come out at the top.
    let walk = ["cat", "/data/a/b/../../secret", "--", "cat", "/data/a/b/../../../outside/secret", "--"].repeat(200);
    let back_and_forth = ["rename", "/data/a/b", "/data/b", "--", "rename", "/data/b", "/data/a/b", "--"].repeat(150);
    let walk = [&walk[..], &["echo", "walked"]].concat();
    let back_and_forth = [&back_and_forth[..], &["echo", "moved"]].concat();
    let walker = start_toolbox(&mut runner, &walk).await;
    let mover = start_toolbox(&mut runner, &back_and_forth).await;
    let run = runner.end(&walker).await;
    assert!(run.stdout.ends_with("walked\n") && !run.stdout.contains("secret\nsecret"), "{}", run.stdout);
    assert!(!run.stdout.lines().any(|line| line == "secret"), "{}", run.stdout);
    assert!(runner.end(&mover).await.stdout.ends_with("moved\n"));
    // A listing of what is emptied meanwhile ends.
    let lister = start_toolbox(&mut runner, &["list", "/data", "--"].repeat(50)).await;
    runner.process.send(ToRunner::Kill(lister.clone())).await.unwrap();
    runner.end(&lister).await;
    neighbour(&mut runner).await;
}
