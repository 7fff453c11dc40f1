//! Mounts: what a guest sees, and what it does not.

use crate::fixture::{Context, Guest, Runner};
use coracle_runner::protocol::Mount;
use std::{fs, os::unix::fs::symlink, path::PathBuf, slice, sync::Arc};

/// Runs the toolbox with mounts, and gives what it printed.
async fn toolbox(runner: &mut Runner, guest: Guest, mounts: &[Mount], words: &[&str]) -> String {
    let mut start = runner.guest(guest, words).await;
    start.mounts = mounts.to_vec();
    let run = runner.run(start).await;
    assert_eq!(run.exit.code, 0, "{run:?}");
    run.stdout
}

pub(crate) async fn mounts_are_found_where_they_should_be(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mounts =
        [runner.volume("shadowed", "/data"), runner.volume("sub", "/data/sub"), runner.volume("outer", "/data/")];
    fs::write(runner.volume_path("outer").join("who"), "outer").unwrap();
    fs::write(runner.volume_path("sub").join("who"), "sub").unwrap();
    fs::write(runner.volume_path("shadowed").join("who"), "shadowed").unwrap();
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let words = [
            "cat",
            "/data/who",
            "/data/sub/who",
            "data/who",
            "--",
            "write",
            "/data/sub/new",
            "text",
            "--",
            "list",
            "/data/sub",
        ];
        assert_eq!(toolbox(&mut runner, guest, &mounts, &words).await, "outer\nsub\nouter\ndone\nnew who\n");
        assert_eq!(fs::read_to_string(runner.volume_path("sub").join("new")).unwrap(), "text");
        let words = [
            "append",
            "/data/sub/new",
            "!",
            "--",
            "cat",
            "/data/sub/new",
            "--",
            "remove",
            "/data/sub/new",
            "--",
            "size",
            "/data/sub/new",
        ];
        let printed = toolbox(&mut runner, guest, &mounts, &words).await;
        assert_eq!(printed, "done\ntext!\ndone\nsize /data/sub/new: entity not found\n");
    }
}

pub(crate) async fn read_only_mounts_stay_as_they_are(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut mount = runner.volume("config", "/config");
    mount.read_only = true;
    let file = runner.volume_path("config").join("key");
    fs::write(&file, "value").unwrap();
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        for words in [
            &["write", "/config/key", "other"][..],
            &["append", "/config/key", "other"],
            &["write", "/config/new", "x"],
            &["remove", "/config/key"],
            &["mkdir", "/config/directory"],
            &["rename", "/config/key", "/config/lock"],
            &["link", "key", "/config/link"],
        ] {
            let printed = toolbox(&mut runner, guest, slice::from_ref(&mount), words).await;
            assert!(printed.starts_with(words[0]) && !printed.contains("done"), "{guest:?} {words:?}: {printed}");
        }
        assert_eq!(toolbox(&mut runner, guest, slice::from_ref(&mount), &["cat", "/config/key"]).await, "value\n");
        assert_eq!(fs::read_dir(runner.volume_path("config")).unwrap().count(), 1);
    }
}

pub(crate) async fn guests_stay_inside_their_mounts(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = runner.volume("data", "/data");
    let secret = runner.volume("other-pod", "/unused").source;
    let secret = runner.root.path().join(secret).join("secret");
    fs::write(&secret, "secret").unwrap();
    let data = runner.volume_path("data");
    symlink(&secret, data.join("absolute")).unwrap();
    symlink("../other-pod/secret", data.join("relative")).unwrap();
    symlink("/", data.join("root")).unwrap();
    symlink("own", data.join("inside")).unwrap();
    fs::write(data.join("own"), "own").unwrap();
    let absolute = secret.to_str().unwrap().to_owned();

    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let escapes = [
            "/data/absolute",
            "/data/relative",
            "/data/root/etc/hostname",
            "/data/../other-pod/secret",
            "/data/x/../../other-pod/secret",
            "../data/../other-pod/secret",
            "/etc/hostname",
            "/proc/self/environ",
            "/",
            &absolute,
        ];
        for path in escapes {
            let printed = toolbox(&mut runner, guest, slice::from_ref(&mount), &["cat", path]).await;
            assert!(printed.starts_with("cat ") && !printed.contains("secret\nsecret"), "{guest:?} {path}: {printed}");
            let printed = toolbox(&mut runner, guest, slice::from_ref(&mount), &["write", path, "overwritten"]).await;
            assert!(printed.starts_with("write "), "{guest:?} {path}: {printed}");
        }
        // A link that the guest makes itself leads nowhere else either.
        let words =
            ["link", "../other-pod/secret", "/data/made", "--", "cat", "/data/made", "--", "remove", "/data/made"];
        let printed = toolbox(&mut runner, guest, slice::from_ref(&mount), &words).await;
        assert!(printed.starts_with("done\ncat /data/made: "), "{guest:?}: {printed}");
        assert_eq!(toolbox(&mut runner, guest, slice::from_ref(&mount), &["cat", "/data/inside"]).await, "own\n");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
}

pub(crate) async fn mounts_outside_the_volumes_are_refused(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let good = runner.volume("data", "/data");
    symlink("/etc", runner.volume_path("link")).unwrap();
    // What they lead to is there, also for a runner whose root is its own.
    symlink("../../code", runner.volume_path("code-link")).unwrap();
    symlink("data", runner.volume_path("data-link")).unwrap();
    let good_start = runner.guest(Guest::Toolbox, &["list", "/data"]).await;
    for (source, target, complaint) in [
        ("code/x", "/data", "does not lie below volumes/"),
        ("/etc", "/data", "does not lie below volumes/"),
        ("volumes/pod-1/../../code", "/data", "does not lie below volumes/"),
        ("volumes/pod-1/link", "/data", "cannot open the directory"),
        ("volumes/pod-1/code-link", "/data", "cannot open the directory"),
        ("volumes/pod-1/data-link", "/data", "cannot open the directory"),
        ("volumes/pod-1/none", "/data", "cannot open the directory"),
        ("volumes/pod-1/data", "data", "is not an absolute path"),
        ("volumes/pod-1/data", "/data/../etc", "is not an absolute path"),
    ] {
        let mut start = good_start.clone();
        start.mounts = vec![Mount { source: PathBuf::from(source), target: target.to_owned(), ..good.clone() }];
        let message = runner.refusal(start).await;
        assert!(message.contains(complaint), "{source} on {target}: {message}");
    }
}
