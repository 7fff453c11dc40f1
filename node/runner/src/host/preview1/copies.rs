//! What a call copies into or out of a module's memory, or makes of it: counted as the container's for as long as the call
//! may wait, which file calls do for their thread.
//!
//! Descriptors here are numbers of the wrapped context. Paths that no kernel takes are refused before they are copied.

use super::Preview1;
use crate::{host::paths::MAX_PATH_BYTES, memory::Reservation, storage::volume::Place};
use wasmtime_wasi::p1::{
    types::{self, Errno, Error, Fd},
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr, GuestType};

/// Pieces that one read or write is made of, as POSIX has it.
const MAX_PIECES: u32 = 1024;
/// What is read at an offset at once, at most. A buffer for more than this counts no more than the file holds: of what is
/// not read, nothing is taken.
const LARGE_READ_BYTES: u64 = 64 << 10;
/// What a name of a listing takes: itself, mostly, and two records.
const LISTED_BYTES: u64 = 160;

impl Preview1 {
    /// Counts what the runner makes for a call, until the reservation is dropped.
    ///
    /// # Errors
    /// When it is too much: the container ends.
    pub(super) fn hold(&self, bytes: u64) -> Result<Reservation, Error> {
        self.memory.reserve(bytes).map_err(|out| Error::trap(out.into()))
    }

    /// Whether a descriptor is a standard stream, which has its own bound on what it copies.
    fn is_stream(&self, fd: Fd) -> bool {
        usize::try_from(u32::from(fd)).is_ok_and(|number| self.is_stream.get(number) == Some(&true))
    }

    /// A descriptor is closed; its number may become a file's.
    pub(super) fn no_stream(&mut self, fd: u32) {
        if let Some(is_stream) = usize::try_from(fd).ok().and_then(|number| self.is_stream.get_mut(number)) {
            *is_stream = false;
        }
    }

    /// Counts the buffer that a file is read into.
    pub(super) async fn hold_read(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::IovecArray,
    ) -> Result<Option<Reservation>, Error> {
        if self.is_stream(fd) {
            return Ok(None);
        }
        let mut bytes = first_room(memory, data)?;
        if bytes > LARGE_READ_BYTES
            && let Ok(stat) = self.inner.fd_filestat_get(memory, fd).await
        {
            bytes = bytes.min(stat.size.max(LARGE_READ_BYTES));
        }
        self.hold(bytes).map(Some)
    }

    /// The same for a read at an offset, which gives no more than a part at a time.
    pub(super) fn hold_part(
        &self,
        memory: &GuestMemory<'_>,
        fd: Fd,
        data: types::IovecArray,
    ) -> Result<Option<Reservation>, Error> {
        let bytes = first_room(memory, data)?.min(LARGE_READ_BYTES);
        if self.is_stream(fd) { Ok(None) } else { self.hold(bytes).map(Some) }
    }

    /// Counts the copy of what is written to a file.
    pub(super) fn hold_write(
        &self,
        memory: &GuestMemory<'_>,
        fd: Fd,
        data: types::CiovecArray,
    ) -> Result<Option<Reservation>, Error> {
        if self.is_stream(fd) { Ok(None) } else { self.hold(first_length(memory, data)?).map(Some) }
    }

    /// Counts a listing, which is made of all names of a directory: no more than there are in its volume, and than the
    /// directory has bytes. What is made of objects of the control plane has few.
    pub(super) async fn hold_listing(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<Reservation, Error> {
        let mut names = match self.places.get(&fd.into()) {
            Some(Place::Directory(volume)) => volume.account().entries(),
            _ => 0,
        };
        if names > 0
            && let Ok(stat) = self.inner.fd_filestat_get(memory, fd).await
        {
            names = names.min(stat.size);
        }
        self.hold(names.saturating_mul(LISTED_BYTES))
    }
}

/// A path that the kernel could take.
pub(super) fn short(path: GuestPtr<str>) -> Result<GuestPtr<str>, Errno> {
    if usize::try_from(path.len()).is_ok_and(|length| length <= MAX_PATH_BYTES) {
        Ok(path)
    } else {
        Err(Errno::Nametoolong)
    }
}

/// `wasmtime-wasi` writes the first piece that is not empty.
pub(super) fn first_length(memory: &GuestMemory<'_>, data: types::CiovecArray) -> Result<u64, Error> {
    first(memory, data, |piece| piece.buf_len)
}

/// And reads into the first one.
fn first_room(memory: &GuestMemory<'_>, data: types::IovecArray) -> Result<u64, Error> {
    first(memory, data, |piece| piece.buf_len)
}

fn first<T: GuestType>(
    memory: &GuestMemory<'_>,
    data: GuestPtr<[T]>,
    length: impl Fn(T) -> types::Size,
) -> Result<u64, Error> {
    if data.len() > MAX_PIECES {
        return Err(Errno::Inval.into());
    }
    for piece in data.iter() {
        let bytes = length(memory.read(piece?)?);
        if bytes > 0 {
            return Ok(bytes.into());
        }
    }
    Ok(0)
}
