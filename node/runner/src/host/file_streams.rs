//! Streams of files and listings of directories, which the runner buffers: counted as the container's memory.
//!
//! `wasmtime-wasi` makes them; each is put into a wrapper that counts before the runner keeps something. What a guest
//! waits for at once has a bound too.

use super::{file_limits, preview1::WAIT_BYTES, state::GuestState};
use crate::memory::{MemoryAccount, OutOfMemory, Reservation};
use bytes::Bytes;
use std::{sync::Arc, vec};
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    WasiView,
    filesystem::{Descriptor, WasiFilesystemView},
    p2::{
        DynInputStream, DynOutputStream, DynPollable, FsResult, InputStream, OutputStream, Pollable, StreamError,
        StreamResult,
        bindings::{
            filesystem::types::{DirectoryEntry, ErrorCode, HostDescriptor},
            io::poll,
        },
    },
};

/// Must be the versions that `wasmtime-wasi` links, which these replace in part.
const FILESYSTEM: &str = "wasi:filesystem/types@0.2.12";
const POLL: &str = "wasi:io/poll@0.2.12";
/// What `wasmtime-wasi` reads of a file at once.
const READ_BYTES: u64 = 64 << 10;
/// What an entry of a listing takes beside its name.
const ENTRY_BYTES: usize = 64;
/// What a guest may wait for at once.
pub(crate) const MAX_POLLABLES: usize = 16 << 10;

type Store<'a> = StoreContextMut<'a, GuestState>;

/// Puts these in the place of those without a bound. The linker must allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    let mut interface = linker.instance(FILESYSTEM)?;
    interface.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: Store<'_>, (file, offset): (Resource<Descriptor>, u64)| {
            let state = store.data_mut();
            let made = HostDescriptor::read_via_stream(&mut state.filesystem(), file, offset);
            Ok((in_place_of(state, made, |stream, memory| Box::new(Input::new(stream, memory)) as DynInputStream)?,))
        },
    )?;
    interface.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: Store<'_>, (file, offset): (Resource<Descriptor>, u64)| {
            let state = store.data_mut();
            let made = file_limits::stream(state, file, Some(offset));
            Ok((in_place_of(state, made, |stream, memory| Box::new(Output::new(stream, memory)) as DynOutputStream)?,))
        },
    )?;
    interface.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: Store<'_>, (file,): (Resource<Descriptor>,)| {
            let state = store.data_mut();
            let made = file_limits::stream(state, file, None);
            Ok((in_place_of(state, made, |stream, memory| Box::new(Output::new(stream, memory)) as DynOutputStream)?,))
        },
    )?;
    interface.resource("directory-entry-stream", ResourceType::host::<Listing>(), |mut store, rep| {
        store.data_mut().ctx().table.delete(Resource::<Listing>::new_own(rep))?;
        Ok(())
    })?;
    interface.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut store: Store<'_>, (directory,): (Resource<Descriptor>,)| {
            Box::new(async move { Ok((list(store.data_mut(), directory).await?,)) })
        },
    )?;
    interface.func_wrap(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store: Store<'_>, (listing,): (Resource<Listing>,)| {
            let next = store.data_mut().ctx().table.get_mut(&listing)?.entries.next();
            Ok((next.transpose(),))
        },
    )?;
    linker.instance(POLL)?.func_wrap_async(
        "poll",
        |mut store: Store<'_>, (pollables,): (Vec<Resource<DynPollable>>,)| {
            Box::new(async move {
                if pollables.len() > MAX_POLLABLES {
                    wasmtime::bail!("waited for {} things at once; it may be {MAX_POLLABLES}", pollables.len());
                }
                let count = u64::try_from(pollables.len())?;
                let _waits = store.data_mut().memory.account().reserve(WAIT_BYTES * count)?;
                Ok((poll::Host::poll(store.data_mut().ctx().table, pollables).await?,))
            })
        },
    )
}

/// Answers the guest with an error of its own, or the trap that it is.
fn told<T>(result: FsResult<T>) -> Result<Result<T, ErrorCode>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

/// Takes a stream out of the guest's table and puts in what counts for it.
fn in_place_of<T: Send + 'static>(
    state: &mut GuestState,
    made: FsResult<Resource<T>>,
    wrap: impl FnOnce(T, &Arc<MemoryAccount>) -> T,
) -> Result<Result<Resource<T>, ErrorCode>> {
    let stream = match told(made)? {
        Ok(stream) => stream,
        Err(code) => return Ok(Err(code)),
    };
    let memory = Arc::clone(state.memory.account());
    let table = state.ctx().table;
    let stream = wrap(table.delete(stream)?, &memory);
    Ok(Ok(table.push(stream)?))
}

/// The entries of a directory, as they were when the guest began to read them.
struct Listing {
    entries: vec::IntoIter<Result<DirectoryEntry, ErrorCode>>,
    _held: Reservation,
}

async fn list(state: &mut GuestState, directory: Resource<Descriptor>) -> Result<Result<Resource<Listing>, ErrorCode>> {
    let listed = HostDescriptor::read_directory(&mut state.filesystem(), directory).await;
    let listed = match told(listed)? {
        Ok(listed) => listed,
        Err(code) => return Ok(Err(code)),
    };
    let entries = state.ctx().table.delete(listed)?.into_iter().map(told).collect::<Result<Vec<_>>>()?;
    let bytes = entries.iter().flatten().map(|entry| entry.name.len() + ENTRY_BYTES).sum::<usize>();
    let held = state.memory.account().reserve(u64::try_from(bytes)?)?;
    Ok(Ok(state.ctx().table.push(Listing { entries: entries.into_iter(), _held: held })?))
}

fn trap(error: OutOfMemory) -> StreamError {
    StreamError::Trap(error.into())
}

/// What a guest reads a file with.
struct Input {
    stream: DynInputStream,
    held: Reservation,
    /// A read was begun without waiting for it: what it brings stays here until the guest takes it.
    reads_ahead: bool,
}

impl Input {
    fn new(stream: DynInputStream, memory: &Arc<MemoryAccount>) -> Self {
        Self { stream, held: Reservation::none(memory), reads_ahead: false }
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        self.reads_ahead = true;
        // One that has no room ends the container.
        if self.held.resize(READ_BYTES).is_ok() {
            self.stream.ready().await;
        }
    }
}

#[async_trait::async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size > 0 {
            self.reads_ahead = true;
            self.held.resize(READ_BYTES).map_err(trap)?;
        }
        self.stream.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.held.resize(READ_BYTES).map_err(trap)?;
        let result = self.stream.blocking_read(size).await;
        if !self.reads_ahead {
            self.held.resize(0).map_err(trap)?;
        }
        result
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// What a guest writes a file with.
struct Output {
    stream: DynOutputStream,
    held: Reservation,
}

impl Output {
    fn new(stream: DynOutputStream, memory: &Arc<MemoryAccount>) -> Self {
        Self { stream, held: Reservation::none(memory) }
    }

    fn hold(&mut self, bytes: usize) -> StreamResult<()> {
        self.held.resize(u64::try_from(bytes).unwrap_or(u64::MAX)).map_err(trap)
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.hold(bytes.len())?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let permitted = self.stream.check_write()?;
        if permitted > 0 {
            self.hold(0)?;
        }
        Ok(permitted)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.hold(bytes.len())?;
        let result = self.stream.blocking_write_and_flush(bytes).await;
        self.hold(0)?;
        result
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
