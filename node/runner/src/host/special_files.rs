//! Fifos, sockets and devices in a volume are not opened.
//!
//! No guest can make one, but a directory of the machine may hold some. Opening a fifo waits for its other end, for ever
//! if need be, on one of the few threads that all guests of a runner have for their files; no kill reaches it there.
//! `ENXIO` is what opening a socket is on Linux too. Preview 1 has the same check in its own `path_open`.

use super::{file_limits, paths::short, state::GuestState};
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemView},
    p2::{
        FsResult,
        bindings::filesystem::types::{
            DescriptorFlags, DescriptorType, ErrorCode, HostDescriptor, OpenFlags, PathFlags,
        },
    },
};

/// Must be the version that `wasmtime-wasi` links, which this replaces in part.
const FILESYSTEM: &str = "wasi:filesystem/types@0.2.12";

type Open = (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags);

/// Puts an `open-at` that looks first in the place of the one that does not. The linker must allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    linker.instance(FILESYSTEM)?.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, GuestState>, arguments: Open| {
            Box::new(async move {
                match open(store.data_mut(), arguments).await {
                    Ok(opened) => Ok((Ok(opened),)),
                    Err(error) => Ok((Err(error.downcast()?),)),
                }
            })
        },
    )
}

async fn open(state: &mut GuestState, (directory, follow, path, open, flags): Open) -> FsResult<Resource<Descriptor>> {
    short(&[&path])?;
    let mut files = state.filesystem();
    let place = Resource::new_borrow(directory.rep());
    // What is not there yet may be made.
    if let Ok(found) = HostDescriptor::stat_at(&mut files, place, follow, path.clone()).await
        && !matches!(
            found.type_,
            DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink
        )
    {
        return Err(ErrorCode::NoSuchDevice.into());
    }
    file_limits::open_at(state, directory, follow, path, (open, flags)).await
}
