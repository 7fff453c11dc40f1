//! Paths that components name: those that no kernel takes are refused at once, so that a call which waits for its thread
//! keeps little of what its guest wrote. [`super::file_limits`] and [`super::special_files`] have linked the functions that
//! change names and open files, and ask here.

use super::state::GuestState;
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemView},
    p2::{
        FsResult,
        bindings::filesystem::types::{ErrorCode, HostDescriptor, NewTimestamp, PathFlags},
    },
};

/// Must be the version that `wasmtime-wasi` links, which this replaces in part.
const FILESYSTEM: &str = "wasi:filesystem/types@0.2.12";
/// The longest path that Linux takes, and its end.
pub(crate) const MAX_PATH_BYTES: usize = 4096;

type Store<'a> = StoreContextMut<'a, GuestState>;
type Fd = Resource<Descriptor>;

/// # Errors
/// `NameTooLong` when one of the paths is.
pub(super) fn short(paths: &[&str]) -> std::result::Result<(), ErrorCode> {
    if paths.iter().all(|path| path.len() <= MAX_PATH_BYTES) { Ok(()) } else { Err(ErrorCode::NameTooLong) }
}

/// An error for the guest, or a trap.
fn settled<T>(result: FsResult<T>) -> Result<(std::result::Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

/// Puts functions that look at the path first in the place of those that do not. The linker must allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    let mut types = linker.instance(FILESYSTEM)?;
    types.func_wrap_async(
        "[method]descriptor.stat-at",
        |mut store: Store<'_>, (fd, follow, path): (Fd, PathFlags, String)| {
            Box::new(async move {
                if let Err(code) = short(&[&path]) {
                    return Ok((Err(code),));
                }
                settled(store.data_mut().filesystem().stat_at(fd, follow, path).await)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.metadata-hash-at",
        |mut store: Store<'_>, (fd, follow, path): (Fd, PathFlags, String)| {
            Box::new(async move {
                if let Err(code) = short(&[&path]) {
                    return Ok((Err(code),));
                }
                settled(store.data_mut().filesystem().metadata_hash_at(fd, follow, path).await)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.set-times-at",
        |mut store: Store<'_>,
         (fd, follow, path, accessed, modified): (Fd, PathFlags, String, NewTimestamp, NewTimestamp)| {
            Box::new(async move {
                if let Err(code) = short(&[&path]) {
                    return Ok((Err(code),));
                }
                settled(store.data_mut().filesystem().set_times_at(fd, follow, path, accessed, modified).await)
            })
        },
    )?;
    types.func_wrap_async("[method]descriptor.readlink-at", |mut store: Store<'_>, (fd, path): (Fd, String)| {
        Box::new(async move {
            if let Err(code) = short(&[&path]) {
                return Ok((Err(code),));
            }
            settled(store.data_mut().filesystem().readlink_at(fd, path).await)
        })
    })
}
