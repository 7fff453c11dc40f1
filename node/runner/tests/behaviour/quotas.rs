//! Limits of volumes as guests meet them: `ENOSPC`, and room again when something goes.

use crate::fixture::{Context, Guest, Runner, killed};
use coracle_runner::{
    protocol::{Mount, Quota, ToRunner},
    tree::{BLOCK_BYTES, ENTRY_BYTES},
};
use std::{fs, path::Path, slice, sync::Arc};

/// How the standard library says `ENOSPC`; and what a component's C library makes of every write that fails, whatever the
/// error is: `EIO`.
const FULL: [&str; 2] = ["no storage space", "I/O error (os error 29)"];

fn is_full(guest: Guest, line: &str) -> bool {
    line.ends_with(FULL[0])
        || matches!(guest, Guest::Toolbox) && line.starts_with(['w', 'a']) && line.ends_with(FULL[1])
}

/// A fresh volume with room for so many blocks and names.
fn limited(runner: &Runner, name: &str, blocks: u64, entries: u64) -> Mount {
    let bytes_max = Some(blocks * BLOCK_BYTES + entries * ENTRY_BYTES);
    let mount = runner.volume(name, "/data");
    Mount { quota: Some(Quota { bytes_max, entries_max: Some(entries), ..Quota::default() }), ..mount }
}

/// Runs the toolbox, and gives the lines that it printed with "done" and "full" for what became of each command.
async fn toolbox(runner: &mut Runner, guest: Guest, mount: &Mount, words: &[&str]) -> Vec<String> {
    let mut start = runner.guest(guest, words).await;
    start.mounts = slice::from_ref(mount).to_vec();
    let run = runner.run(start).await;
    assert_eq!(run.exit.code, 0, "{run:?}");
    run.stdout.lines().map(|line| if is_full(guest, line) { "full" } else { line }.to_owned()).collect()
}

const GUESTS: [Guest; 2] = [Guest::Toolbox, Guest::ToolboxP1];

pub(crate) async fn a_full_volume_says_so_and_what_goes_makes_room(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let block = "x".repeat(usize::try_from(BLOCK_BYTES).unwrap());
    let two = block.repeat(2);
    for guest in GUESTS {
        let mount = limited(&runner, &format!("{guest:?}"), 3, 10);
        let steps: &[(&[&str], &str)] = &[
            (&["write", "/data/a", &two], "done"),
            (&["write", "/data/b", &two], "full"),
            (&["size", "/data/b"], "0"),
            (&["append", "/data/b", &block], "done"),
            (&["append", "/data/b", "y"], "full"),
            (&["append", "/data/a", "y"], "full"),
            (&["write", "/data/a", &two], "done"),
            (&["mkdir", "/data/d"], "full"),
            (&["link", "b", "/data/l"], "full"),
            // One in the place of another: the other's room is free.
            (&["rename", "/data/b", "/data/a"], "done"),
            (&["write", "/data/b", &two], "done"),
            (&["remove", "/data/a"], "done"),
            (&["mkdir", "/data/d"], "done"),
            (&["write", "/data/b", "short"], "done"),
            (&["append", "/data/a", &block], "done"),
            (&["link", "b", "/data/l"], "full"),
        ];
        let mut words = Vec::new();
        for (index, (command, _)) in steps.iter().enumerate() {
            words.extend((index > 0).then_some("--"));
            words.extend(*command);
        }
        let expected: Vec<&str> = steps.iter().map(|(_, expected)| *expected).collect();
        assert_eq!(toolbox(&mut runner, guest, &mount, &words).await, expected, "{guest:?}");
    }
}

pub(crate) async fn names_have_a_price_and_a_bound(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in GUESTS {
        let mount = limited(&runner, &format!("{guest:?}"), 100, 4);
        let mut words = Vec::new();
        for path in ["/data/1", "/data/2", "/data/3", "/data/4", "/data/5"] {
            words.extend(["write", path, "", "--"]);
        }
        words.extend(["mkdir", "/data/6", "--", "remove", "/data/1", "--", "write", "/data/5", ""]);
        let expected = ["done", "done", "done", "done", "full", "full", "done", "done"];
        assert_eq!(toolbox(&mut runner, guest, &mount, &words).await, expected, "{guest:?}");
        assert_eq!(fs::read_dir(runner.volume_path(&format!("{guest:?}"))).unwrap().count(), 4);
    }
}

pub(crate) async fn containers_of_a_pod_share_a_volumes_room(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = limited(&runner, "shared", 1, 10);
    fs::create_dir(runner.volume_path("shared").join("sub")).unwrap();
    // Somebody has it mounted all the time: what one run used, another one finds gone.
    let mut start = runner.guest(Guest::ToolboxP1, &["wait-eof"]).await;
    start.mounts = vec![mount.clone()];
    let waiting = runner.start(start).await;
    runner.until_written(&waiting, "waiting").await;
    let sub = Mount {
        source: mount.source.join("sub"),
        quota: Some(Quota { volume: mount.source.clone(), ..mount.quota.clone().unwrap() }),
        ..mount.clone()
    };
    for (guest, mount, words, expected) in [
        (Guest::Toolbox, &sub, ["write", "/data/a", "x"], "full"),
        (Guest::ToolboxP1, &mount, ["write", "/data/b", "x"], "full"),
        (Guest::ToolboxP1, &mount, ["write", "/data/c", ""], "done"),
    ] {
        assert_eq!(toolbox(&mut runner, guest, mount, &words).await, [expected], "{guest:?} {words:?}");
    }
    fs::remove_dir_all(runner.volume_path("shared").join("sub")).unwrap();
    let full = toolbox(&mut runner, Guest::Toolbox, &mount, &["write", "/data/c", "x"]).await;
    assert_eq!(full, ["full"], "the account is kept, not read from the disk");
    runner.process.send(ToRunner::Kill(waiting.clone())).await.unwrap();
    assert_eq!(runner.end(&waiting).await.exit, killed());
    let anew = toolbox(&mut runner, Guest::Toolbox, &mount, &["write", "/data/c", "x"]).await;
    assert_eq!(anew, ["done"], "nobody mounts it any more: what is there is counted again");
}

pub(crate) async fn names_do_not_move_between_volumes(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let one = limited(&runner, "one", 2, 10);
    let other = Mount { target: "/other".to_owned(), ..limited(&runner, "other", 1, 10) };
    for guest in GUESTS {
        let mut start = runner.guest(guest, &["write", "/data/a", "x", "--", "rename", "/data/a", "/other/a"]).await;
        start.mounts = vec![one.clone(), other.clone()];
        let printed = runner.run(start).await.stdout;
        assert!(printed.starts_with("done\nrename /data/a /other/a: cross-device link"), "{guest:?}: {printed}");
    }
}

/// A module that opens `/data/f`, takes its name away, makes it as long as `SIZE` says in `$size`, and exits with the
/// error number of that.
const STRETCH: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $resize (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "f")
    (func $nameless (param $size i64) (result i32)
        (drop (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 1)
            (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 0)))
        (drop (call $unlink (i32.const 3) (i32.const 16) (i32.const 1)))
        (call $resize (i32.load (i32.const 0)) (local.get $size)))
    (func (export "_start")
        ;; 8 KiB without a name: fits.
        (if (call $nameless (i64.const 8192)) (then (call $exit (i32.const 1))))
        ;; Another 8 KiB while the first is open: ENOSPC, although no name is left.
        (if (i32.ne (call $nameless (i64.const 8192)) (i32.const 51)) (then (call $exit (i32.const 2))))
        ;; A hole counts as well.
        (if (i32.ne (call $nameless (i64.const 0x10000000000)) (i32.const 51)) (then (call $exit (i32.const 3))))
        ;; The first is closed: there is room.
        (drop (call $close (i32.const 4)))
        (if (call $nameless (i64.const 8192)) (then (call $exit (i32.const 4))))))"#;

pub(crate) async fn files_without_names_and_holes_count(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = limited(&runner, "stretch", 3, 4);
    let mut start = runner.guest(Guest::Text(STRETCH), &[]).await;
    start.mounts = vec![mount];
    let run = runner.run(start).await;
    assert_eq!(run.exit.code, 0, "{run:?}");
}

pub(crate) async fn pods_have_a_limit_over_their_volumes(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let pod = |runner: &Runner, name: &str| {
        let quota = Quota { pod_bytes_max: Some(2 * BLOCK_BYTES + 4 * ENTRY_BYTES), ..Quota::default() };
        Mount { quota: Some(quota), ..runner.volume(name, &Path::new("/").join(name).to_string_lossy()) }
    };
    let mounts = vec![pod(&runner, "one"), pod(&runner, "two")];
    for guest in GUESTS {
        let words = [
            "write", "/one/a", "x", "--", "write", "/two/a", "x", "--", "write", "/two/b", "x", "--", "remove",
            "/one/a", "--", "append", "/two/b", "x", "--", "remove", "/two/a", "--", "remove", "/two/b",
        ];
        let mut start = runner.guest(guest, &words).await;
        start.mounts.clone_from(&mounts);
        let printed = runner.run(start).await.stdout;
        let lines: Vec<&str> = printed.lines().map(|line| if is_full(guest, line) { "full" } else { line }).collect();
        assert_eq!(lines, ["done", "done", "full", "done", "done", "done", "done"], "{guest:?}");
    }
}
