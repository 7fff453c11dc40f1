//! Modules from before preview 1: they import `wasi_unstable`.

use crate::fixture::{Context, Guest};
use std::{fs, sync::Arc};

/// Makes each call that preview 1 changed, on the file `digits` in its directory, and exits with the number of the first
/// one that is wrong. Prints the digits it found.
const MODULE: &str = r#"(module
  (import "wasi_unstable" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_unstable" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_unstable" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_unstable" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_unstable" "fd_filestat_get" (func $status (param i32 i32) (result i32)))
  (import "wasi_unstable" "path_filestat_get" (func $status_at (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_unstable" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_unstable" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "digits")
  ;; One byte at 64, 65 and 66; all three together.
  (data (i32.const 32) "\40\00\00\00\01\00\00\00\41\00\00\00\01\00\00\00\42\00\00\00\01\00\00\00\40\00\00\00\03\00\00\00")
  (func $must (param $call i32) (param $holds i32)
    (if (i32.eqz (local.get $holds)) (then (call $exit (local.get $call)))))
  (func $must_succeed (param $call i32) (param $error i32)
    (call $must (local.get $call) (i32.eqz (local.get $error))))
  ;; A status is 56 bytes: links at 20, length at 24.
  (func $check_status (param $call i32) (param $at i32)
    (call $must (local.get $call) (i32.eq (i32.load8_u offset=16 (local.get $at)) (i32.const 4)))
    (call $must (local.get $call) (i32.eq (i32.load offset=20 (local.get $at)) (i32.const 1)))
    (call $must (local.get $call) (i64.eq (i64.load offset=24 (local.get $at)) (i64.const 10)))
    (call $must (local.get $call) (i64.ne (i64.load offset=40 (local.get $at)) (i64.const 0)))
    (call $must (local.get $call) (i64.eq (i64.load offset=56 (local.get $at)) (i64.const -1))))
  (func (export "_start")
    (local $file i32)
    (call $must_succeed (i32.const 1) (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 6) (i32.const 0)
      (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 72)))
    (local.set $file (i32.load (i32.const 72)))
    ;; Origins: 0 is here, 1 the end, 2 the start.
    (call $must_succeed (i32.const 2) (call $seek (local.get $file) (i64.const -3) (i32.const 1) (i32.const 80)))
    (call $must (i32.const 3) (i64.eq (i64.load (i32.const 80)) (i64.const 7)))
    (call $must_succeed (i32.const 4) (call $read (local.get $file) (i32.const 32) (i32.const 1) (i32.const 72)))
    (call $must_succeed (i32.const 5) (call $seek (local.get $file) (i64.const 2) (i32.const 2) (i32.const 80)))
    (call $must_succeed (i32.const 6) (call $read (local.get $file) (i32.const 40) (i32.const 1) (i32.const 72)))
    (call $must_succeed (i32.const 7) (call $seek (local.get $file) (i64.const 1) (i32.const 0) (i32.const 80)))
    (call $must_succeed (i32.const 8) (call $read (local.get $file) (i32.const 48) (i32.const 1) (i32.const 72)))
    (call $must (i32.const 9) (i32.eq (call $seek (local.get $file) (i64.const 0) (i32.const 3) (i32.const 80)) (i32.const 28)))
    (i64.store (i32.const 256) (i64.const -1))
    (call $must_succeed (i32.const 10) (call $status (local.get $file) (i32.const 200)))
    (call $check_status (i32.const 11) (i32.const 200))
    (call $must (i32.const 12) (i32.eq (call $status_at
      (i32.const 3) (i32.const 1) (i32.const 16) (i32.const 5) (i32.const 304)) (i32.const 44)))
    (i64.store (i32.const 360) (i64.const -1))
    (call $must_succeed (i32.const 13) (call $status_at
      (i32.const 3) (i32.const 1) (i32.const 16) (i32.const 6) (i32.const 304)))
    (call $check_status (i32.const 14) (i32.const 304))
    ;; Two subscriptions of 56 bytes: an hour, and a millisecond.
    (i64.store (i32.const 512) (i64.const 5))
    (i64.store (i32.const 528) (i64.const 99))
    (i32.store (i32.const 536) (i32.const 1))
    (i64.store (i32.const 544) (i64.const 3600000000000))
    (i64.store (i32.const 568) (i64.const 6))
    (i64.store (i32.const 584) (i64.const 99))
    (i32.store (i32.const 592) (i32.const 1))
    (i64.store (i32.const 600) (i64.const 1000000))
    (call $must_succeed (i32.const 15) (call $poll (i32.const 512) (i32.const 640) (i32.const 2) (i32.const 72)))
    (call $must (i32.const 16) (i32.eq (i32.load (i32.const 72)) (i32.const 1)))
    (call $must (i32.const 17) (i64.eq (i64.load (i32.const 640)) (i64.const 6)))
    ;; The file is ready at once, the hour is not over.
    (i32.store8 (i32.const 576) (i32.const 1))
    (i64.store (i32.const 584) (i64.extend_i32_u (local.get $file)))
    (call $must_succeed (i32.const 18) (call $poll (i32.const 512) (i32.const 640) (i32.const 2) (i32.const 72)))
    (call $must (i32.const 19) (i32.eq (i32.load (i32.const 72)) (i32.const 1)))
    (call $must (i32.const 20) (i64.eq (i64.load (i32.const 640)) (i64.const 6)))
    (call $must (i32.const 21) (i32.eq (call $poll
      (i32.const 512) (i32.const 640) (i32.const 0x7fffffff) (i32.const 72)) (i32.const 28)))
    (call $must_succeed (i32.const 22) (call $write (i32.const 1) (i32.const 56) (i32.const 1) (i32.const 72)))
    ;; 300 is what preview 1 would refuse.
    (call $exit (i32.const 300))))"#;

pub(crate) async fn what_preview1_changed_is_as_it_was(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut start = runner.guest(Guest::Text(MODULE), &[]).await;
    start.mounts = vec![runner.volume("data", "/data")];
    fs::write(runner.volume_path("data").join("digits"), "0123456789").unwrap();
    let run = runner.run(start).await;
    assert_eq!((run.stdout.as_str(), run.exit.code), ("724", 300 % 256), "{run:?}");
}
