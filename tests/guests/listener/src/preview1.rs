//! The calls of preview 1 that this guest makes, with their error numbers as they are.

use std::mem::MaybeUninit;

pub(crate) const AGAIN: u16 = 6;
pub(crate) const CONNRESET: u16 = 15;
pub(crate) const PEEK: u16 = 1;
const NONBLOCK: u16 = 4;

type Result<T> = std::result::Result<T, u16>;

#[repr(C)]
struct Piece {
    start: *const u8,
    length: usize,
}

#[repr(C)]
struct Status {
    kind: u8,
    flags: u16,
    base: u64,
    inheriting: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Subscription {
    userdata: u64,
    tag: u8,
    of: Subject,
}

/// A clock's fields, of which descriptors use the first.
#[repr(C)]
#[derive(Clone, Copy)]
struct Subject {
    id_or_fd: u32,
    timeout: u64,
    precision: u64,
    flags: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawEvent {
    userdata: u64,
    error: u16,
    kind: u8,
    bytes: u64,
    flags: u16,
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn fd_prestat_get(fd: i32, out: *mut u64) -> i32;
    fn fd_fdstat_get(fd: i32, out: *mut Status) -> i32;
    fn fd_fdstat_set_flags(fd: i32, flags: i32) -> i32;
    fn fd_read(fd: i32, pieces: *const Piece, count: usize, out: *mut usize) -> i32;
    fn fd_write(fd: i32, pieces: *const Piece, count: usize, out: *mut usize) -> i32;
    fn fd_close(fd: i32) -> i32;
    fn fd_renumber(from: i32, to: i32) -> i32;
    fn fd_seek(fd: i32, offset: i64, whence: i32, out: *mut u64) -> i32;
    fn sock_accept(fd: i32, flags: i32, out: *mut i32) -> i32;
    fn sock_recv(fd: i32, pieces: *const Piece, count: usize, flags: i32, out: *mut usize, told: *mut u16) -> i32;
    fn sock_shutdown(fd: i32, how: i32) -> i32;
    fn poll_oneoff(asked: *const Subscription, events: *mut RawEvent, count: usize, out: *mut usize) -> i32;
}

fn checked<T>(value: T, error: i32) -> Result<T> {
    if error == 0 { Ok(value) } else { Err(error as u16) }
}

pub(crate) fn is_directory(fd: i32) -> bool {
    let mut out = 0;
    unsafe { fd_prestat_get(fd, &mut out) == 0 }
}

/// Type and flags.
pub(crate) fn status(fd: i32) -> Result<(u8, u16)> {
    let mut out = MaybeUninit::<Status>::zeroed();
    let error = unsafe { fd_fdstat_get(fd, out.as_mut_ptr()) };
    let out = unsafe { out.assume_init() };
    checked((out.kind, out.flags), error)
}

pub(crate) fn set_flags(fd: i32, flags: u16) -> Result<()> {
    checked((), unsafe { fd_fdstat_set_flags(fd, flags.into()) })
}

pub(crate) fn set_nonblocking(fd: i32) -> Result<()> {
    set_flags(fd, NONBLOCK)
}

pub(crate) fn accept(fd: i32, nonblocking: bool) -> Result<i32> {
    let mut out = 0;
    let error = unsafe { sock_accept(fd, if nonblocking { NONBLOCK.into() } else { 0 }, &mut out) };
    checked(out, error)
}

pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // The first piece is empty: it must be passed over.
    let pieces =
        [Piece { start: buffer.as_ptr(), length: 0 }, Piece { start: buffer.as_mut_ptr(), length: buffer.len() }];
    let mut out = 0;
    let error = unsafe { fd_read(fd, pieces.as_ptr(), 2, &mut out) };
    checked(out, error)
}

pub(crate) fn receive(fd: i32, buffer: &mut [u8], flags: u16) -> Result<usize> {
    let piece = Piece { start: buffer.as_mut_ptr(), length: buffer.len() };
    let (mut out, mut told) = (0, 0);
    let error = unsafe { sock_recv(fd, &piece, 1, flags.into(), &mut out, &mut told) };
    checked(out, error)
}

/// In two pieces, whatever their lengths.
pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let pieces = [first, second].map(|piece| Piece { start: piece.as_ptr(), length: piece.len() });
    let mut out = 0;
    let error = unsafe { fd_write(fd, pieces.as_ptr(), 2, &mut out) };
    checked(out, error)
}

pub(crate) fn seek(fd: i32) -> Result<u64> {
    let mut out = 0;
    let error = unsafe { fd_seek(fd, 0, 0, &mut out) };
    checked(out, error)
}

pub(crate) fn shut_down_writing(fd: i32) -> Result<()> {
    checked((), unsafe { sock_shutdown(fd, 2) })
}

pub(crate) fn renumber(from: i32, to: i32) -> Result<()> {
    checked((), unsafe { fd_renumber(from, to) })
}

pub(crate) fn close(fd: i32) -> Result<()> {
    checked((), unsafe { fd_close(fd) })
}

/// What to wait for.
pub(crate) enum Wait {
    Read(i32),
    Write(i32),
    Milliseconds(u64),
}

pub(crate) struct Event {
    /// Of what was waited for.
    pub(crate) index: usize,
    pub(crate) error: u16,
}

pub(crate) fn poll(waits: &[Wait]) -> Result<Vec<Event>> {
    let asked = waits.iter().enumerate().map(|(index, wait)| {
        let (tag, id_or_fd, timeout) = match wait {
            Wait::Milliseconds(milliseconds) => (0, 1, milliseconds * 1_000_000),
            Wait::Read(fd) => (1, *fd as u32, 0),
            Wait::Write(fd) => (2, *fd as u32, 0),
        };
        Subscription { userdata: index as u64, tag, of: Subject { id_or_fd, timeout, precision: 0, flags: 0 } }
    });
    let asked = asked.collect::<Vec<_>>();
    let mut events = vec![RawEvent { userdata: 0, error: 0, kind: 0, bytes: 0, flags: 0 }; waits.len()];
    let mut count = 0;
    let error = unsafe { poll_oneoff(asked.as_ptr(), events.as_mut_ptr(), asked.len(), &mut count) };
    checked((), error)?;
    events.truncate(count);
    Ok(events.iter().map(|event| Event { index: event.userdata as usize, error: event.error }).collect())
}
