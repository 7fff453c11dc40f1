//! Reading a run's log: bounded memory whatever its size, from its end for a tail, and on as it grows.

use crate::{
    clock,
    logs::{LINE_BYTES_MAX, Progress, runs},
};
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

/// Bytes per read of a file.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest record that is understood: a full line and its prefix.
const RECORD_BYTES_MAX: usize = LINE_BYTES_MAX + 128;
/// Length of the time in front of a record.
const TIME_LENGTH: usize = "2026-11-20T11:41:57.000000000Z".len();

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Goes on until the run ends.
    pub(crate) follow: Option<watch::Receiver<Progress>>,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) since: Option<OffsetDateTime>,
    pub(crate) limit_bytes: Option<u64>,
}

/// Sends a run's log in pieces until its end, the limit, or the receiver is gone.
pub(crate) async fn read(directory: &Path, run: u32, mut wanted: Wanted, out: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut position = {
        let (directory, tail) = (directory.to_owned(), wanted.tail_lines);
        blocking(move || start(&directory, run, tail)).await?
    };
    let mut render = Render::new(&wanted);
    loop {
        // Looked at before reading: what is written while we read wakes us afterwards.
        let progress = wanted.follow.as_mut().map(|follow| *follow.borrow_and_update());
        loop {
            let chunk;
            (position, chunk) = {
                let directory = directory.to_owned();
                blocking(move || next_chunk(&directory, run, position)).await?
            };
            let Some(chunk) = chunk else { break };
            let text = render.take(&chunk);
            if !text.is_empty() && out.send(text.into()).await.is_err() || render.is_full() {
                return Ok(());
            }
        }
        let Some(follow) = wanted.follow.as_mut().filter(|_| progress.is_some_and(|progress| !progress.ended)) else {
            return Ok(());
        };
        tokio::select! {
            changed = follow.changed() => if changed.is_err() { return Ok(()) },
            () = out.closed() => return Ok(()),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("reading was interrupted")))
}

/// Where in the series of files the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    number: u64,
    offset: u64,
}

fn files(directory: &Path, run: u32) -> io::Result<Vec<(u64, PathBuf)>> {
    Ok(runs(directory)?.remove(&run).into_iter().flatten().collect())
}

/// The beginning of what is there, or of its last `tail` records.
fn start(directory: &Path, run: u32, tail: Option<u64>) -> io::Result<Position> {
    let files = files(directory, run)?;
    let first = files.first().map_or(0, |file| file.0);
    let Some(mut missing) = tail else { return Ok(Position { number: first, offset: 0 }) };
    let mut buffer = vec![0; CHUNK_BYTES];
    for (number, path) in files.iter().rev() {
        let mut file = File::open(path)?;
        let mut end = file.seek(SeekFrom::End(0))?;
        if missing == 0 {
            return Ok(Position { number: *number, offset: end });
        }
        // The newline that ends the last record ends no earlier one.
        let mut skip_last = true;
        while end > 0 {
            let length = end.min(CHUNK_BYTES as u64);
            let begin = end - length;
            file.seek(SeekFrom::Start(begin))?;
            let chunk = &mut buffer[..usize::try_from(length).unwrap_or(CHUNK_BYTES)];
            file.read_exact(chunk)?;
            for (index, _) in chunk.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
                if std::mem::take(&mut skip_last) {
                    continue;
                }
                missing -= 1;
                if missing == 0 {
                    return Ok(Position { number: *number, offset: begin + index as u64 + 1 });
                }
            }
            end = begin;
        }
        // The file's first record has no newline before it.
        if !skip_last {
            missing -= 1;
        }
        if missing == 0 {
            return Ok(Position { number: *number, offset: 0 });
        }
    }
    Ok(Position { number: first, offset: 0 })
}

/// The next bytes at or after `position`, and where they end; `None` at the end of everything there is.
fn next_chunk(directory: &Path, run: u32, mut position: Position) -> io::Result<(Position, Option<Vec<u8>>)> {
    for (number, path) in files(directory, run)? {
        if number < position.number {
            continue;
        }
        if number > position.number {
            position = Position { number, offset: 0 };
        }
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        file.seek(SeekFrom::Start(position.offset))?;
        let mut chunk = Vec::new();
        let read = file.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if read > 0 {
            position.offset += read as u64;
            return Ok((position, Some(chunk)));
        }
    }
    Ok((position, None))
}

/// Turns records into what a reader sees.
struct Render {
    timestamps: bool,
    since: Option<String>,
    left_bytes: Option<u64>,
    pending: Vec<u8>,
    mid_line: bool,
}

impl Render {
    fn new(wanted: &Wanted) -> Self {
        Self {
            timestamps: wanted.timestamps,
            since: wanted.since.map(|since| clock::nanos(since.to_offset(time::UtcOffset::UTC))),
            left_bytes: wanted.limit_bytes,
            pending: Vec::new(),
            mid_line: false,
        }
    }

    fn is_full(&self) -> bool {
        self.left_bytes == Some(0)
    }

    fn take(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len());
        let mut pending = std::mem::take(&mut self.pending);
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            pending.extend_from_slice(piece);
            if pending.last() == Some(&b'\n') {
                pending.pop();
                self.record(&pending, &mut out);
                pending.clear();
            } else if pending.len() > RECORD_BYTES_MAX {
                // Not written by us; do not let it grow.
                pending.clear();
            }
        }
        self.pending = pending;
        if let Some(left) = self.left_bytes {
            out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            self.left_bytes = Some(left - out.len() as u64);
        }
        out
    }

    fn record(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let mut parts = record.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(_), Some(tag), Some(text)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        // Both are of the same fixed width and in UTC, so they compare as text.
        if time.len() != TIME_LENGTH || self.since.as_ref().is_some_and(|since| time < since.as_bytes()) {
            return;
        }
        if self.timestamps && !self.mid_line {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.mid_line = tag == b"P";
        if !self.mid_line {
            out.push(b'\n');
        }
    }
}
