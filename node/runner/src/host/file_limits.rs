//! Changes of files and names by components: `wasi:filesystem`'s functions that take up room on a volume, in place of
//! `wasmtime-wasi`'s own, which they call. Charged before they are made, given back when they fail. [`super::special_files`] and
//! [`super::file_streams`] have linked the functions that open files and make streams, and call what is here.

use super::{paths::short, state::GuestState};
use crate::storage::{
    account::Full,
    volume::{Held, Kind, LOOKS_MAX, Place, Target, Volume, Writing},
};
use bytes::Bytes;
use nix::errno::Errno;
use std::{collections::HashMap, fs::File, io, sync::Arc};
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView},
    p2::{
        DynOutputStream, FsError, FsResult, OutputStream, Pollable, StreamError, StreamResult,
        bindings::filesystem::{
            preopens::Host as _,
            types::{DescriptorFlags, DescriptorType, ErrorCode, HostDescriptor, OpenFlags, PathFlags},
        },
    },
};

/// Must be the versions of the interfaces that `wasmtime-wasi` links, of which this replaces a part.
const TYPES: &str = "wasi:filesystem/types@0.2.12";
const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";

/// What a component's descriptors stand for, where an account is kept.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Of the directories that it begins with, in their order.
    directories: Vec<Option<Arc<Volume>>>,
    /// By the number of the resource.
    open: HashMap<u32, Place>,
}

impl Places {
    pub(crate) fn new(directories: Vec<Option<Arc<Volume>>>) -> Self {
        Self { directories, open: HashMap::new() }
    }
}

impl From<Full> for ErrorCode {
    fn from(_: Full) -> Self {
        Self::InsufficientSpace
    }
}

fn borrowed(fd: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(fd.rep())
}

fn volume(state: &GuestState, directory: &Resource<Descriptor>) -> Option<Arc<Volume>> {
    match state.places.open.get(&directory.rep()) {
        Some(Place::Directory(volume)) => Some(Arc::clone(volume)),
        _ => None,
    }
}

/// The volume of two directories: a name does not move to another one.
fn common_volume(
    state: &GuestState,
    old: &Resource<Descriptor>,
    new: &Resource<Descriptor>,
) -> Result<Option<Arc<Volume>>, ErrorCode> {
    match (volume(state, old), volume(state, new)) {
        (Some(old), Some(new)) if !Arc::ptr_eq(&old, &new) => Err(ErrorCode::CrossDevice),
        (old, new) => Ok(old.and(new)),
    }
}

/// The file and its charge, where an account is kept.
fn held(state: &mut GuestState, fd: &Resource<Descriptor>) -> Option<(Arc<Held>, Arc<File>)> {
    let Some(Place::File { held, .. }) = state.places.open.get(&fd.rep()) else { return None };
    let held = Arc::clone(held);
    match state.filesystem().table.get(fd) {
        Ok(Descriptor::File(file)) => Some((held, Arc::clone(&file.file))),
        _ => None,
    }
}

/// What is behind a name, held if it is a file.
async fn look(
    state: &mut GuestState,
    volume: &Arc<Volume>,
    directory: &Resource<Descriptor>,
    path: &str,
) -> FsResult<Target> {
    for _ in 0..LOOKS_MAX {
        let moment = volume.moment();
        let mut files = state.filesystem();
        let stat = files.stat_at(borrowed(directory), PathFlags::empty(), path.to_owned()).await?;
        let hash = files.metadata_hash_at(borrowed(directory), PathFlags::empty(), path.to_owned()).await?;
        let (id, names) = (hash.lower, stat.link_count);
        if stat.type_ != DescriptorType::RegularFile {
            return Ok(Target { id, kind: Kind::Other, names, held: None });
        }
        if let Some(held) = volume.hold(id, stat.size, moment) {
            return Ok(Target { id, kind: Kind::File, names, held: Some(held) });
        }
    }
    Err(ErrorCode::Busy.into())
}

/// What was opened.
async fn place(state: &mut GuestState, volume: &Arc<Volume>, fd: &Resource<Descriptor>) -> FsResult<Option<Place>> {
    for _ in 0..LOOKS_MAX {
        let moment = volume.moment();
        let mut files = state.filesystem();
        let size = match files.table.get(fd)? {
            Descriptor::Dir(_) => return Ok(Some(Place::Directory(Arc::clone(volume)))),
            Descriptor::File(file) => {
                let metadata = file.file.metadata()?;
                if !metadata.is_file() {
                    return Ok(None);
                }
                metadata.len()
            }
        };
        let hash = files.metadata_hash(borrowed(fd)).await?;
        if let Some(held) = volume.hold(hash.lower, size, moment) {
            return Ok(Some(Place::File { held, append: false }));
        }
    }
    Err(ErrorCode::Busy.into())
}

fn charge_name(volume: Option<&Volume>, kind: Kind) -> Result<(), ErrorCode> {
    volume.map_or(Ok(()), |volume| volume.account().charge(kind.name())).map_err(ErrorCode::from)
}

/// Gives back what a name cost that did not come to be.
fn refund_name<T>(volume: Option<&Volume>, kind: Kind, result: FsResult<T>) -> FsResult<T> {
    if let Some(volume) = volume.filter(|_| result.is_err()) {
        volume.account().free(kind.name());
    }
    result
}

async fn create_directory_at(state: &mut GuestState, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
    short(&[&path])?;
    let volume = volume(state, &fd);
    charge_name(volume.as_deref(), Kind::Other)?;
    let result = state.filesystem().create_directory_at(fd, path).await;
    refund_name(volume.as_deref(), Kind::Other, result)
}

async fn symlink_at(state: &mut GuestState, fd: Resource<Descriptor>, target: String, path: String) -> FsResult<()> {
    short(&[&target, &path])?;
    let volume = volume(state, &fd);
    charge_name(volume.as_deref(), Kind::Other)?;
    let result = state.filesystem().symlink_at(fd, target, path).await;
    refund_name(volume.as_deref(), Kind::Other, result)
}

async fn remove_directory_at(state: &mut GuestState, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
    short(&[&path])?;
    let volume = volume(state, &fd);
    state.filesystem().remove_directory_at(fd, path).await?;
    if let Some(volume) = volume {
        volume.account().free(Kind::Other.name());
    }
    Ok(())
}

async fn unlink_file_at(state: &mut GuestState, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
    short(&[&path])?;
    let Some(volume) = volume(state, &fd) else { return state.filesystem().unlink_file_at(fd, path).await };
    let _names = volume.names().await;
    let target = look(state, &volume, &fd, &path).await?;
    state.filesystem().unlink_file_at(fd, path).await?;
    volume.removed(&target);
    Ok(())
}

async fn link_at(
    state: &mut GuestState,
    (old, flags, old_path): (Resource<Descriptor>, PathFlags, String),
    (new, new_path): (Resource<Descriptor>, String),
) -> FsResult<()> {
    short(&[&old_path, &new_path])?;
    let Some(volume) = common_volume(state, &old, &new)? else {
        return state.filesystem().link_at(old, flags, old_path, new, new_path).await;
    };
    let _names = volume.names().await;
    let kind = look(state, &volume, &old, &old_path).await?.kind;
    charge_name(Some(&volume), kind)?;
    let result = state.filesystem().link_at(old, flags, old_path, new, new_path).await;
    refund_name(Some(&volume), kind, result)
}

async fn rename_at(
    state: &mut GuestState,
    (old, old_path): (Resource<Descriptor>, String),
    (new, new_path): (Resource<Descriptor>, String),
) -> FsResult<()> {
    short(&[&old_path, &new_path])?;
    let Some(volume) = common_volume(state, &old, &new)? else {
        return state.filesystem().rename_at(old, old_path, new, new_path).await;
    };
    let _names = volume.names().await;
    let from = look(state, &volume, &old, &old_path).await?;
    // Mostly there is none.
    let to = look(state, &volume, &new, &new_path).await.ok();
    state.filesystem().rename_at(old, old_path, new, new_path).await?;
    volume.renamed(&from, to.as_ref());
    Ok(())
}

/// Opens, and makes where asked to: what [`super::special_files`] lets through.
pub(super) async fn open_at(
    state: &mut GuestState,
    directory: Resource<Descriptor>,
    path_flags: PathFlags,
    path: String,
    (mut open, mut flags): (OpenFlags, DescriptorFlags),
) -> FsResult<Resource<Descriptor>> {
    let Some(volume) = volume(state, &directory) else {
        return state.filesystem().open_at(directory, path_flags, path, open, flags).await;
    };
    // What a file loses when it is opened is counted as any other change of its size.
    let truncates = open.contains(OpenFlags::TRUNCATE) && !open.contains(OpenFlags::DIRECTORY);
    if truncates {
        open &= !OpenFlags::TRUNCATE;
        if !flags.contains(DescriptorFlags::WRITE) {
            flags |= DescriptorFlags::READ | DescriptorFlags::WRITE;
        }
    }
    let mut names = None;
    let mut created = None;
    if open.contains(OpenFlags::CREATE) {
        names = Some(volume.names().await);
        if state.filesystem().stat_at(borrowed(&directory), path_flags, path.clone()).await.is_err() {
            charge_name(Some(&volume), Kind::File)?;
            created = Some(&*volume);
        }
    }
    let opened = state.filesystem().open_at(directory, path_flags, path, open, flags).await;
    let fd = refund_name(created, Kind::File, opened)?;
    drop(names);
    let result = match place(state, &volume, &fd).await {
        Ok(place) => {
            if let Some(place) = place {
                state.places.open.insert(fd.rep(), place);
            }
            if truncates && created.is_none() { set_size(state, borrowed(&fd), 0).await } else { Ok(()) }
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        close(state, fd)?;
        return Err(error);
    }
    Ok(fd)
}

fn close(state: &mut GuestState, fd: Resource<Descriptor>) -> FsResult<()> {
    let place = state.places.open.remove(&fd.rep());
    state.filesystem().table.delete(fd)?;
    drop(place);
    Ok(())
}

async fn set_size(state: &mut GuestState, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
    let Some((held, _)) = held(state, &fd) else { return state.filesystem().set_size(fd, size).await };
    let resizing = held.resize(size).map_err(ErrorCode::from)?;
    let result = state.filesystem().set_size(fd, size).await;
    match result {
        Ok(()) => resizing.done(),
        Err(_) => resizing.failed(),
    }
    result
}

async fn write(state: &mut GuestState, fd: Resource<Descriptor>, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
    let length = u64::try_from(bytes.len()).map_err(|_| ErrorCode::Overflow)?;
    // It may wait for its thread with all that the guest wrote.
    let _copied = state.memory.account().reserve(length).map_err(FsError::trap)?;
    let Some((held, file)) = held(state, &fd) else { return state.filesystem().write(fd, bytes, offset).await };
    let writing = held.write(Some(offset), length);
    let writing = writing.map_err(ErrorCode::from)?;
    let result = state.filesystem().write(fd, bytes, offset).await;
    if result.is_err() {
        failed(writing, &file);
    }
    result
}

fn failed(writing: Writing, file: &File) {
    if let Ok(metadata) = file.metadata() {
        writing.failed(metadata.len());
    }
}

/// A stream that writes to a file, at an offset or at the end; [`super::file_streams`] puts it into one of its own.
pub(super) fn stream(
    state: &mut GuestState,
    fd: Resource<Descriptor>,
    offset: Option<u64>,
) -> FsResult<Resource<DynOutputStream>> {
    let held = held(state, &fd);
    let mut files = state.filesystem();
    let stream = match offset {
        Some(offset) => files.write_via_stream(fd, offset)?,
        None => files.append_via_stream(fd)?,
    };
    let Some((held, file)) = held else { return Ok(stream) };
    let inner = files.table.delete(stream)?;
    let metered: DynOutputStream = Box::new(Metered { inner, file, held, at: offset, writing: None, is_full: false });
    Ok(files.table.push(metered)?)
}

/// See [`stream`].
struct Metered {
    inner: DynOutputStream,
    file: Arc<File>,
    held: Arc<Held>,
    /// Where the next write goes; `None`: to the end.
    at: Option<u64>,
    /// The write that `inner` is at.
    writing: Option<Writing>,
    /// There was no room: nothing more is written.
    is_full: bool,
}

impl Metered {
    fn begin(&mut self, length: usize) -> StreamResult<Writing> {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if self.is_full {
            return Err(StreamError::Closed);
        }
        let Ok(writing) = self.held.write(self.at, length) else {
            self.is_full = true;
            return Err(StreamError::LastOperationFailed(io::Error::from(Errno::ENOSPC).into()));
        };
        self.at = self.at.map(|at| at.saturating_add(length));
        Ok(writing)
    }

    fn ended<T>(&mut self, result: StreamResult<T>) -> StreamResult<T> {
        if let Some(writing) = self.writing.take()
            && result.is_err()
        {
            failed(writing, &self.file);
        }
        result
    }
}

#[async_trait::async_trait]
impl OutputStream for Metered {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let writing = self.begin(bytes.len())?;
        let result = self.inner.write(bytes);
        self.writing = Some(writing);
        if result.is_err() { self.ended(result) } else { result }
    }

    fn flush(&mut self) -> StreamResult<()> {
        if self.is_full {
            return Err(StreamError::Closed);
        }
        let result = self.inner.flush();
        if result.is_err() { self.ended(result) } else { result }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        if self.is_full {
            return Err(StreamError::Closed);
        }
        match self.inner.check_write() {
            Ok(0) => Ok(0),
            result => self.ended(result),
        }
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.inner.ready().await;
        self.writing = None;
        self.writing = Some(self.begin(bytes.len())?);
        let result = self.inner.blocking_write_and_flush(bytes).await;
        self.ended(result)
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait::async_trait]
impl Pollable for Metered {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

/// An error for the guest, or a trap.
fn settled<T>(result: FsResult<T>) -> Result<(Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

type Store<'a> = StoreContextMut<'a, GuestState>;
type Fd = Resource<Descriptor>;

/// Puts these functions in the place of `wasmtime-wasi`'s. The linker must allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    linker.instance(PREOPENS)?.func_wrap("get-directories", |mut store: Store<'_>, (): ()| {
        let state = store.data_mut();
        let mut files: WasiFilesystemCtxView<'_> = state.filesystem();
        let directories = files.get_directories()?;
        for ((fd, _), volume) in directories.iter().zip(state.places.directories.clone()) {
            if let Some(volume) = volume {
                state.places.open.insert(fd.rep(), Place::Directory(volume));
            }
        }
        Ok((directories,))
    })?;
    let mut types = linker.instance(TYPES)?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store, rep| {
        let state: &mut GuestState = store.data_mut();
        close(state, Resource::new_own(rep)).map_err(Into::into)
    })?;
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store: Store<'_>, (fd, bytes, offset): (Fd, Vec<u8>, u64)| {
            Box::new(async move { settled(write(store.data_mut(), fd, bytes, offset).await) })
        },
    )?;
    types.func_wrap_async("[method]descriptor.set-size", |mut store: Store<'_>, (fd, size): (Fd, u64)| {
        Box::new(async move { settled(set_size(store.data_mut(), fd, size).await) })
    })?;
    names_to_linker(&mut types)
}

/// The functions that change names.
fn names_to_linker(types: &mut wasmtime::component::LinkerInstance<'_, GuestState>) -> Result<()> {
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |mut store: Store<'_>, (fd, path): (Fd, String)| {
            Box::new(async move { settled(create_directory_at(store.data_mut(), fd, path).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.remove-directory-at",
        |mut store: Store<'_>, (fd, path): (Fd, String)| {
            Box::new(async move { settled(remove_directory_at(store.data_mut(), fd, path).await) })
        },
    )?;
    types.func_wrap_async("[method]descriptor.unlink-file-at", |mut store: Store<'_>, (fd, path): (Fd, String)| {
        Box::new(async move { settled(unlink_file_at(store.data_mut(), fd, path).await) })
    })?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store: Store<'_>, (fd, target, path): (Fd, String, String)| {
            Box::new(async move { settled(symlink_at(store.data_mut(), fd, target, path).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store: Store<'_>, (old, flags, old_path, new, new_path): (Fd, PathFlags, String, Fd, String)| {
            Box::new(async move { settled(link_at(store.data_mut(), (old, flags, old_path), (new, new_path)).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.rename-at",
        |mut store: Store<'_>, (old, old_path, new, new_path): (Fd, String, Fd, String)| {
            Box::new(async move { settled(rename_at(store.data_mut(), (old, old_path), (new, new_path)).await) })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{account::Account, floor::Floor};
    use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

    fn metered(bytes_max: u64, at: Option<u64>) -> (Arc<Volume>, Metered) {
        let account = Account::new(Some(bytes_max), 10, None, Arc::new(Floor::unlimited()));
        let volume = Arc::new(Volume::new(account));
        let held = volume.hold(1, 0, volume.moment()).unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let inner: DynOutputStream = Box::new(MemoryOutputPipe::new(1 << 20));
        (volume, Metered { inner, file, held, at, writing: None, is_full: false })
    }

    #[tokio::test]
    async fn a_stream_takes_room_as_it_goes_and_says_what_is_wrong() {
        for at in [Some(0), None] {
            let (volume, mut stream) = metered(8192, at);
            assert!(stream.check_write().unwrap() > 0);
            stream.write(vec![0; 4096].into()).unwrap();
            stream.ready().await;
            stream.blocking_write_and_flush(vec![0; 4096].into()).await.unwrap();
            assert_eq!(volume.account().used().bytes, 8192);
            let Err(StreamError::LastOperationFailed(error)) = stream.write(vec![0].into()) else { panic!("{at:?}") };
            let error = error.downcast_ref::<io::Error>().unwrap();
            assert_eq!(ErrorCode::from(error), ErrorCode::InsufficientSpace);
            assert!(matches!(stream.check_write(), Err(StreamError::Closed)), "{at:?}");
            assert!(matches!(stream.blocking_write_and_flush(vec![0].into()).await, Err(StreamError::Closed)));
        }
    }
}
