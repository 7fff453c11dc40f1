//! Changes of files and names by modules: charged before they are made, given back when they fail.
//!
//! Descriptors here are numbers of the wrapped context. Nothing is charged where no account is kept.

use super::{
    Preview1,
    copies::{first_length, short},
};
use crate::storage::{
    account::Full,
    volume::{Held, Kind, LOOKS_MAX, Place, Target, Volume, Writing},
};
use std::sync::Arc;
use wasmtime_wasi::p1::{
    types::{self, Errno, Error, Fd, Fdflags, Filestat, Filetype, Lookupflags, Oflags, Rights},
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr};

/// How a file is to be opened.
pub(super) struct Open {
    pub(super) lookup: Lookupflags,
    pub(super) how: Oflags,
    pub(super) base: Rights,
    pub(super) inheriting: Rights,
    pub(super) flags: Fdflags,
}

impl From<Full> for Errno {
    fn from(_: Full) -> Self {
        Self::Nospc
    }
}

impl Preview1 {
    fn volume(&self, directory: Fd) -> Option<Arc<Volume>> {
        match self.places.get(&directory.into()) {
            Some(Place::Directory(volume)) => Some(Arc::clone(volume)),
            _ => None,
        }
    }

    /// The volume of two directories: a name does not move to another one.
    fn common_volume(&self, old: Fd, new: Fd) -> Result<Option<Arc<Volume>>, Errno> {
        match (self.volume(old), self.volume(new)) {
            (Some(old), Some(new)) if !Arc::ptr_eq(&old, &new) => Err(Errno::Xdev),
            (old, new) => Ok(old.and(new)),
        }
    }

    /// What is behind a name, held if it is a file.
    async fn look(
        &mut self,
        memory: &mut GuestMemory<'_>,
        volume: &Arc<Volume>,
        directory: Fd,
        path: GuestPtr<str>,
    ) -> Result<Target, Error> {
        for _ in 0..LOOKS_MAX {
            let moment = volume.moment();
            let stat = self.inner.path_filestat_get(memory, directory, Lookupflags::empty(), path).await?;
            if stat.filetype != Filetype::RegularFile {
                return Ok(Target { id: stat.ino, kind: Kind::Other, names: stat.nlink, held: None });
            }
            if let Some(held) = volume.hold(stat.ino, stat.size, moment) {
                return Ok(Target { id: stat.ino, kind: Kind::File, names: stat.nlink, held: Some(held) });
            }
        }
        Err(Errno::Again.into())
    }

    pub(super) async fn create_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        directory: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let path = short(path)?;
        let volume = self.volume(directory);
        charge_name(volume.as_deref(), Kind::Other)?;
        let result = self.inner.path_create_directory(memory, directory, path).await;
        refund_name(volume.as_deref(), Kind::Other, result)
    }

    pub(super) async fn symlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        target: GuestPtr<str>,
        directory: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let volume = self.volume(directory);
        charge_name(volume.as_deref(), Kind::Other)?;
        let result = self.inner.path_symlink(memory, target, directory, path).await;
        refund_name(volume.as_deref(), Kind::Other, result)
    }

    pub(super) async fn remove_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        directory: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let path = short(path)?;
        self.inner.path_remove_directory(memory, directory, path).await?;
        if let Some(volume) = self.volume(directory) {
            volume.account().free(Kind::Other.name());
        }
        Ok(())
    }

    pub(super) async fn unlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        directory: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let path = short(path)?;
        let Some(volume) = self.volume(directory) else {
            return self.inner.path_unlink_file(memory, directory, path).await;
        };
        let _names = volume.names().await;
        let target = self.look(memory, &volume, directory, path).await?;
        self.inner.path_unlink_file(memory, directory, path).await?;
        volume.removed(&target);
        Ok(())
    }

    pub(super) async fn link(
        &mut self,
        memory: &mut GuestMemory<'_>,
        (old, flags, old_path): (Fd, Lookupflags, GuestPtr<str>),
        (new, new_path): (Fd, GuestPtr<str>),
    ) -> Result<(), Error> {
        let Some(volume) = self.common_volume(old, new)? else {
            return self.inner.path_link(memory, old, flags, old_path, new, new_path).await;
        };
        let _names = volume.names().await;
        let kind = self.look(memory, &volume, old, old_path).await?.kind;
        charge_name(Some(&volume), kind)?;
        let result = self.inner.path_link(memory, old, flags, old_path, new, new_path).await;
        refund_name(Some(&volume), kind, result)
    }

    pub(super) async fn rename(
        &mut self,
        memory: &mut GuestMemory<'_>,
        (old, old_path): (Fd, GuestPtr<str>),
        (new, new_path): (Fd, GuestPtr<str>),
    ) -> Result<(), Error> {
        let Some(volume) = self.common_volume(old, new)? else {
            return self.inner.path_rename(memory, old, old_path, new, new_path).await;
        };
        let _names = volume.names().await;
        let from = self.look(memory, &volume, old, old_path).await?;
        // Mostly there is none.
        let to = self.look(memory, &volume, new, new_path).await.ok();
        self.inner.path_rename(memory, old, old_path, new, new_path).await?;
        volume.renamed(&from, to.as_ref());
        Ok(())
    }

    pub(super) async fn open_file(
        &mut self,
        memory: &mut GuestMemory<'_>,
        directory: Fd,
        path: GuestPtr<str>,
        how: Open,
    ) -> Result<Fd, Error> {
        let Open { lookup, how: mut open, mut base, inheriting, flags } = how;
        let Some(volume) = self.volume(directory) else {
            return self.inner.path_open(memory, directory, lookup, path, open, base, inheriting, flags).await;
        };
        // What a file loses when it is opened is counted as any other change of its size.
        let truncates = open.contains(Oflags::TRUNC) && !open.contains(Oflags::DIRECTORY);
        if truncates {
            open &= !Oflags::TRUNC;
            if !base.contains(Rights::FD_WRITE) {
                base |= Rights::FD_READ | Rights::FD_WRITE;
            }
        }
        let mut names = None;
        let mut created = None;
        if open.contains(Oflags::CREAT) {
            names = Some(volume.names().await);
            if self.inner.path_filestat_get(memory, directory, lookup, path).await.is_err() {
                charge_name(Some(&volume), Kind::File)?;
                created = Some(&*volume);
            }
        }
        let opened = self.inner.path_open(memory, directory, lookup, path, open, base, inheriting, flags).await;
        let fd = refund_name(created, Kind::File, opened)?;
        drop(names);
        match self.place(memory, fd, &volume, flags.contains(Fdflags::APPEND)).await {
            Ok(Some(place)) => {
                self.places.insert(fd.into(), place);
            }
            Ok(None) => {}
            Err(error) => {
                self.inner.fd_close(memory, fd).await?;
                return Err(error);
            }
        }
        if truncates
            && created.is_none()
            && let Err(error) = self.resize_file(memory, fd, 0).await
        {
            self.close_file(memory, fd.into()).await?;
            return Err(error);
        }
        Ok(fd)
    }

    /// What was opened.
    async fn place(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        volume: &Arc<Volume>,
        append: bool,
    ) -> Result<Option<Place>, Error> {
        for _ in 0..LOOKS_MAX {
            let moment = volume.moment();
            let Filestat { filetype, ino, size, .. } = self.inner.fd_filestat_get(memory, fd).await?;
            match filetype {
                Filetype::Directory => return Ok(Some(Place::Directory(Arc::clone(volume)))),
                Filetype::RegularFile => {
                    if let Some(held) = volume.hold(ino, size, moment) {
                        return Ok(Some(Place::File { held, append }));
                    }
                }
                _ => return Ok(None),
            }
        }
        Err(Errno::Again.into())
    }

    pub(super) async fn close_file(&mut self, memory: &mut GuestMemory<'_>, fd: u32) -> Result<(), Error> {
        let place = self.places.remove(&fd);
        self.no_stream(fd);
        let closed = self.inner.fd_close(memory, Fd::from(fd)).await;
        drop(place);
        closed
    }

    pub(super) fn set_file_flags(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: u32,
        flags: Fdflags,
    ) -> Result<(), Error> {
        self.inner.fd_fdstat_set_flags(memory, Fd::from(fd), flags)?;
        if let Some(Place::File { append, .. }) = self.places.get_mut(&fd) {
            *append = flags.contains(Fdflags::APPEND);
        }
        Ok(())
    }

    pub(super) async fn resize_file(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        size: types::Filesize,
    ) -> Result<(), Error> {
        let Some((held, _)) = self.held(fd) else {
            return self.inner.fd_filestat_set_size(memory, fd, size).await;
        };
        let resizing = held.resize(size).map_err(Errno::from)?;
        let result = self.inner.fd_filestat_set_size(memory, fd, size).await;
        match result {
            Ok(()) => resizing.done(),
            Err(_) => resizing.failed(),
        }
        result
    }

    fn held(&self, fd: Fd) -> Option<(Arc<Held>, bool)> {
        match self.places.get(&fd.into()) {
            Some(Place::File { held, append }) => Some((Arc::clone(held), *append)),
            _ => None,
        }
    }

    /// Writes at an offset, or where the descriptor stands.
    pub(super) async fn write_file(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::CiovecArray,
        offset: Option<types::Filesize>,
    ) -> Result<types::Size, Error> {
        let _copied = self.hold_write(memory, fd, data)?;
        let mut writing: Option<Writing> = None;
        if let Some((held, append)) = self.held(fd) {
            let length = first_length(memory, data)?;
            let at = match offset {
                Some(offset) => Some(offset),
                None if append => None,
                None => Some(self.inner.fd_tell(memory, fd)?),
            };
            writing = Some(held.write(at, length).map_err(Errno::from)?);
        }
        let result = match offset {
            Some(offset) => self.inner.fd_pwrite(memory, fd, data, offset).await,
            None => self.inner.fd_write(memory, fd, data).await,
        };
        if let Some(writing) = writing.filter(|_| result.is_err())
            && let Ok(stat) = self.inner.fd_filestat_get(memory, fd).await
        {
            writing.failed(stat.size);
        }
        result
    }
}

fn charge_name(volume: Option<&Volume>, kind: Kind) -> Result<(), Errno> {
    volume.map_or(Ok(()), |volume| volume.account().charge(kind.name())).map_err(Errno::from)
}

/// Gives back what a name cost that did not come to be.
fn refund_name<T>(volume: Option<&Volume>, kind: Kind, result: Result<T, Error>) -> Result<T, Error> {
    if let Some(volume) = volume.filter(|_| result.is_err()) {
        volume.account().free(kind.name());
    }
    result
}
