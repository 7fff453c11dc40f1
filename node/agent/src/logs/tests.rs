//! Log files: writing, rotating, reading from either end.

use super::{
    read::{Wanted, read},
    *,
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

fn pod() -> Value {
    json!({"metadata": {"namespace": "default", "name": "p", "uid": "u"}})
}

fn at(text: &str) -> OffsetDateTime {
    clock::parse(text).unwrap()
}

const NOON: &str = "2026-11-20T12:00:00Z";

async fn all(logs: &Logs, run: u32, wanted: Wanted) -> String {
    let directory = logs.container_directory(&pod(), "c").unwrap();
    let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
    let reading = tokio::spawn(async move { read(&directory, run, wanted, &sender).await });
    let mut text = Vec::new();
    while let Some(bytes) = receiver.recv().await {
        text.extend_from_slice(&bytes);
    }
    reading.await.unwrap().unwrap();
    String::from_utf8(text).unwrap()
}

fn logs() -> (tempfile::TempDir, Logs) {
    let directory = tempfile::tempdir().unwrap();
    let logs = Logs::open(directory.path().join("logs")).unwrap();
    (directory, logs)
}

#[tokio::test]
async fn lines_are_written_as_cri_has_them() {
    let (directory, logs) = logs();
    let log = logs.begin(&pod(), "c", 0).unwrap();
    log.append(LogStream::Stdout, b"one\ntw", at(NOON));
    log.append(LogStream::Stderr, b"err\n", at(NOON));
    log.append(LogStream::Stdout, b"o\n\nlast", at(NOON));
    log.end(at(NOON));
    let text = fs::read_to_string(directory.path().join("logs/default_p_u/c/0.log")).unwrap();
    let expected = ["stdout F one", "stderr F err", "stdout F two", "stdout F ", "stdout P last"];
    let lines: Vec<&str> =
        text.lines().map(|line| line.strip_prefix("2026-11-20T12:00:00.000000000Z ").unwrap()).collect();
    assert_eq!(lines, expected);
    assert_eq!(all(&logs, 0, Wanted::default()).await, "one\nerr\ntwo\n\nlast");
}

#[tokio::test]
async fn a_long_line_is_split_and_put_together_again() {
    let (directory, logs) = logs();
    let log = logs.begin(&pod(), "c", 0).unwrap();
    let line = "x".repeat(3 * LINE_BYTES_MAX + 5);
    for piece in format!("{line}\nnext\n").as_bytes().chunks(1000) {
        log.append(LogStream::Stdout, piece, at(NOON));
    }
    log.end(at(NOON));
    let text = fs::read_to_string(directory.path().join("logs/default_p_u/c/0.log")).unwrap();
    let records = text.lines().map(|record| record.split_once(" stdout ").unwrap().1.split_once(' ').unwrap());
    let kinds: Vec<(&str, usize)> = records.map(|(kind, content)| (kind, content.len())).collect();
    let full = ("P", LINE_BYTES_MAX);
    assert_eq!(kinds, [full, full, full, ("F", 5), ("F", 4)]);
    assert_eq!(all(&logs, 0, Wanted::default()).await, format!("{line}\nnext\n"));
    let stamped = all(&logs, 0, Wanted { timestamps: true, ..Wanted::default() }).await;
    assert_eq!(stamped.matches("2026-11-20T12:00:00.000000000Z ").count(), 2, "one time per line");
}

#[tokio::test]
async fn readers_choose_what_they_see() {
    let (_directory, logs) = logs();
    let log = logs.begin(&pod(), "c", 0).unwrap();
    for second in 0..10 {
        log.append(LogStream::Stdout, format!("{second}\n").as_bytes(), at(&format!("2026-11-20T12:00:0{second}Z")));
    }
    log.end(at(NOON));
    for (wanted, expected) in [
        (Wanted { tail_lines: Some(2), ..Wanted::default() }, "8\n9\n"),
        (Wanted { tail_lines: Some(0), ..Wanted::default() }, ""),
        (Wanted { tail_lines: Some(10), ..Wanted::default() }, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"),
        (Wanted { tail_lines: Some(1000), ..Wanted::default() }, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"),
        (Wanted { since: Some(at("2026-11-20T12:00:08Z")), ..Wanted::default() }, "8\n9\n"),
        (Wanted { since: Some(at("2026-11-20T14:00:08+02:00")), ..Wanted::default() }, "8\n9\n"),
        (Wanted { limit_bytes: Some(3), ..Wanted::default() }, "0\n1"),
        (Wanted { limit_bytes: Some(0), ..Wanted::default() }, ""),
    ] {
        assert_eq!(all(&logs, 0, wanted.clone()).await, expected, "{wanted:?}");
    }
}

#[tokio::test]
async fn a_large_log_is_rotated_and_its_tail_found() {
    let (directory, logs) = logs();
    let log = logs.begin(&pod(), "c", 0).unwrap();
    let filler = "y".repeat(8 * 1024);
    let lines = (FILES_MAX + 2) * FILE_BYTES_MAX / filler.len() as u64;
    for number in 0..lines {
        log.append(LogStream::Stdout, format!("{number} {filler}\n").as_bytes(), at(NOON));
    }
    log.end(at(NOON));
    let runs = runs(&directory.path().join("logs/default_p_u/c")).unwrap();
    assert_eq!(runs[&0].len() as u64, FILES_MAX);
    for file in runs[&0].values() {
        assert!(fs::metadata(file).unwrap().len() <= FILE_BYTES_MAX);
    }
    // More than the newest file holds, so that the search has to go on in an older one.
    let tail = FILE_BYTES_MAX / filler.len() as u64 + 100;
    let text = all(&logs, 0, Wanted { tail_lines: Some(tail), ..Wanted::default() }).await;
    let numbers: Vec<u64> = text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (lines - tail..lines).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_follower_sees_everything_and_ends_with_the_run() {
    let (_directory, logs) = logs();
    let log = logs.begin(&pod(), "c", 0).unwrap();
    log.append(LogStream::Stdout, b"before\n", at(NOON));
    let wanted = Wanted { follow: Some(log.progress()), ..Wanted::default() };
    let directory = logs.container_directory(&pod(), "c").unwrap();
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let reading = tokio::spawn(async move { read(&directory, 0, wanted, &sender).await });
    assert_eq!(receiver.recv().await.unwrap(), "before\n");
    log.append(LogStream::Stdout, b"while\n", at(NOON));
    assert_eq!(receiver.recv().await.unwrap(), "while\n");
    log.append(LogStream::Stderr, b"rest", at(NOON));
    log.end(at(NOON));
    assert_eq!(receiver.recv().await.unwrap(), "rest");
    assert_eq!(receiver.recv().await, None);
    reading.await.unwrap().unwrap();
}

#[tokio::test]
async fn only_this_run_and_the_one_before_are_kept() {
    let (directory, logs) = logs();
    for run in 0..4 {
        let log = logs.begin(&pod(), "c", run).unwrap();
        log.append(LogStream::Stdout, format!("run {run}\n").as_bytes(), at(NOON));
        log.end(at(NOON));
    }
    let kept: Vec<u32> = runs(&directory.path().join("logs/default_p_u/c")).unwrap().into_keys().collect();
    assert_eq!(kept, [2, 3]);
    assert_eq!(all(&logs, 2, Wanted::default()).await, "run 2\n");
    assert_eq!(logs.live("u", "c").unwrap().run(), 3);
    logs.remove(&pod()).unwrap();
    assert!(logs.live("u", "c").is_none() && !directory.path().join("logs/default_p_u").exists());
    assert!(logs.begin(&json!({"metadata": {"namespace": "../x", "name": "p", "uid": "u"}}), "c", 0).is_err());
}
