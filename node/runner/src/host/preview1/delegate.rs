//! The preview 1 trait: what concerns files and the rest goes to `wasmtime-wasi` with its own number, what a socket
//! cannot do is refused in POSIX's words.

use super::{Preview1, copies::short, files, table::Descriptor};
use wasmtime_wasi::p1::{
    types::{self, Errno, Error, Fd},
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr};

/// Calls that have nothing to do with descriptors.
macro_rules! pass {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        fn $name(&mut self, memory: &mut GuestMemory<'_>, $($argument: $type),*) -> $result {
            self.inner.$name(memory, $($argument),*)
        }
    )*};
}

/// Calls on a descriptor that must not be a socket.
macro_rules! pass_inner {
    ($(fn $name:ident($fd:ident $(, $argument:ident: $type:ty)*) -> $result:ty, or $otherwise:ident;)*) => {$(
        fn $name(&mut self, memory: &mut GuestMemory<'_>, $fd: Fd, $($argument: $type),*) -> Result<$result, Error> {
            let fd = self.table.inner($fd, Errno::$otherwise)?;
            self.inner.$name(memory, fd, $($argument),*)
        }
    )*};
}

/// The same for calls that may wait.
macro_rules! pass_inner_async {
    ($(fn $name:ident($fd:ident $(, $argument:ident: $type:ty)*) -> $result:ty, or $otherwise:ident;)*) => {$(
        async fn $name(&mut self, memory: &mut GuestMemory<'_>, $fd: Fd, $($argument: $type),*) -> Result<$result, Error> {
            let fd = self.table.inner($fd, Errno::$otherwise)?;
            self.inner.$name(memory, fd, $($argument),*).await
        }
    )*};
}

/// Calls on a descriptor that must not be a socket, done by a function of ours that counts what is written.
macro_rules! counted {
    ($(fn $name:ident($fd:ident, $argument:ident: $type:ty), or $otherwise:ident, by $ours:ident;)*) => {$(
        async fn $name(&mut self, memory: &mut GuestMemory<'_>, $fd: Fd, $argument: $type) -> Result<(), Error> {
            let fd = self.table.inner($fd, Errno::$otherwise)?;
            self.$ours(memory, fd, $argument).await
        }
    )*};
}

/// Opening anything else could last for ever: see [`crate::host::special_files`].
fn may_be_opened(kind: types::Filetype) -> bool {
    matches!(kind, types::Filetype::RegularFile | types::Filetype::Directory | types::Filetype::SymbolicLink)
}

impl WasiSnapshotPreview1 for Preview1 {
    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.inner.set_hostcall_fuel(fuel);
    }

    pass! {
        fn args_get(argv: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Result<(), Error>;
        fn args_sizes_get() -> Result<(types::Size, types::Size), Error>;
        fn environ_get(environ: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Result<(), Error>;
        fn environ_sizes_get() -> Result<(types::Size, types::Size), Error>;
        fn clock_res_get(id: types::Clockid) -> Result<types::Timestamp, Error>;
        fn clock_time_get(id: types::Clockid, precision: types::Timestamp) -> Result<types::Timestamp, Error>;
        fn proc_exit(code: types::Exitcode) -> wasmtime::Error;
        fn proc_raise(signal: types::Signal) -> Result<(), Error>;
        fn sched_yield() -> Result<(), Error>;
        fn random_get(buffer: GuestPtr<u8>, length: types::Size) -> Result<(), Error>;
    }

    pass_inner! {
        fn fd_allocate(fd, offset: types::Filesize, length: types::Filesize) -> (), or Spipe;
        fn fd_fdstat_set_rights(fd, base: types::Rights, inheriting: types::Rights) -> (), or Notsup;
        fn fd_prestat_get(fd) -> types::Prestat, or Badf;
        fn fd_prestat_dir_name(fd, path: GuestPtr<u8>, length: types::Size) -> (), or Notdir;
        fn fd_tell(fd) -> types::Filesize, or Spipe;
        fn sock_accept(fd, flags: types::Fdflags) -> Fd, or Notsup;
        fn sock_recv(fd, data: types::IovecArray, flags: types::Riflags) -> (types::Size, types::Roflags), or Notsup;
        fn sock_send(fd, data: types::CiovecArray, flags: types::Siflags) -> types::Size, or Notsup;
    }

    pass_inner_async! {
        fn fd_advise(fd, offset: types::Filesize, length: types::Filesize, advice: types::Advice) -> (), or Spipe;
        fn fd_datasync(fd) -> (), or Inval;
        fn fd_filestat_set_times(
            fd, accessed: types::Timestamp, modified: types::Timestamp, flags: types::Fstflags
        ) -> (), or Inval;
        fn fd_seek(fd, offset: types::Filedelta, whence: types::Whence) -> types::Filesize, or Spipe;
        fn fd_sync(fd) -> (), or Inval;
    }

    async fn path_filestat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        lookup: types::Lookupflags,
        path: GuestPtr<str>,
    ) -> Result<types::Filestat, Error> {
        let fd = self.table.inner(fd, Errno::Notdir)?;
        self.inner.path_filestat_get(memory, fd, lookup, short(path)?).await
    }

    async fn path_filestat_set_times(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        lookup: types::Lookupflags,
        path: GuestPtr<str>,
        accessed: types::Timestamp,
        modified: types::Timestamp,
        flags: types::Fstflags,
    ) -> Result<(), Error> {
        let fd = self.table.inner(fd, Errno::Notdir)?;
        self.inner.path_filestat_set_times(memory, fd, lookup, short(path)?, accessed, modified, flags).await
    }

    async fn path_readlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
        buffer: GuestPtr<u8>,
        length: types::Size,
    ) -> Result<types::Size, Error> {
        let fd = self.table.inner(fd, Errno::Notdir)?;
        self.inner.path_readlink(memory, fd, short(path)?, buffer, length).await
    }

    async fn fd_pread(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::IovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size, Error> {
        let fd = self.table.inner(fd, Errno::Spipe)?;
        let _copied = self.hold_part(memory, fd, data)?;
        self.inner.fd_pread(memory, fd, data, offset).await
    }

    async fn fd_readdir(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffer: GuestPtr<u8>,
        length: types::Size,
        cookie: types::Dircookie,
    ) -> Result<types::Size, Error> {
        let fd = self.table.inner(fd, Errno::Notdir)?;
        let _listed = self.hold_listing(memory, fd).await?;
        self.inner.fd_readdir(memory, fd, buffer, length, cookie).await
    }

    counted! {
        fn fd_filestat_set_size(fd, size: types::Filesize), or Inval, by resize_file;
        fn path_create_directory(fd, path: GuestPtr<str>), or Notdir, by create_directory;
        fn path_remove_directory(fd, path: GuestPtr<str>), or Notdir, by remove_directory;
        fn path_unlink_file(fd, path: GuestPtr<str>), or Notdir, by unlink;
    }

    async fn fd_pwrite(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::CiovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size, Error> {
        let fd = self.table.inner(fd, Errno::Spipe)?;
        self.write_file(memory, fd, data, Some(offset)).await
    }

    async fn path_link(
        &mut self,
        memory: &mut GuestMemory<'_>,
        old: Fd,
        flags: types::Lookupflags,
        old_path: GuestPtr<str>,
        new: Fd,
        new_path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let (old, new) = (self.table.inner(old, Errno::Notdir)?, self.table.inner(new, Errno::Notdir)?);
        self.link(memory, (old, flags, short(old_path)?), (new, short(new_path)?)).await
    }

    async fn path_rename(
        &mut self,
        memory: &mut GuestMemory<'_>,
        old: Fd,
        old_path: GuestPtr<str>,
        new: Fd,
        new_path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let (old, new) = (self.table.inner(old, Errno::Notdir)?, self.table.inner(new, Errno::Notdir)?);
        self.rename(memory, (old, short(old_path)?), (new, short(new_path)?)).await
    }

    async fn path_symlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        old_path: GuestPtr<str>,
        fd: Fd,
        new_path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let fd = self.table.inner(fd, Errno::Notdir)?;
        self.symlink(memory, short(old_path)?, fd, short(new_path)?).await
    }

    async fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        directory: Fd,
        lookup: types::Lookupflags,
        path: GuestPtr<str>,
        open: types::Oflags,
        base: types::Rights,
        inheriting: types::Rights,
        flags: types::Fdflags,
    ) -> Result<Fd, Error> {
        let directory = self.table.inner(directory, Errno::Notdir)?;
        let path = short(path)?;
        self.table.room()?;
        // What is not there yet may be made.
        if let Ok(found) = self.inner.path_filestat_get(memory, directory, lookup, path).await
            && !may_be_opened(found.filetype)
        {
            return Err(Errno::Nxio.into());
        }
        let how = files::Open { lookup, how: open, base, inheriting, flags };
        let inner = self.open_file(memory, directory, path, how).await?;
        Ok(self.table.add(Descriptor::Inner(inner.into()))?)
    }

    async fn fd_close(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<(), Error> {
        match self.table.remove(fd)? {
            Descriptor::Inner(inner) => self.close_file(memory, inner).await,
            Descriptor::Listener { .. } | Descriptor::Stream { .. } => Ok(()),
        }
    }

    /// As `dup2`, but that the old number is gone: both must be there, and what the new one stood for is closed.
    async fn fd_renumber(&mut self, memory: &mut GuestMemory<'_>, from: Fd, to: Fd) -> Result<(), Error> {
        self.table.get(from)?;
        self.table.get(to)?;
        if u32::from(from) == u32::from(to) {
            return Ok(());
        }
        self.fd_close(memory, to).await?;
        let descriptor = self.table.remove(from)?;
        Ok(self.table.put(to, descriptor)?)
    }

    async fn fd_fdstat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<types::Fdstat, Error> {
        match self.table.get(fd)? {
            Descriptor::Inner(inner) => self.inner.fd_fdstat_get(memory, Fd::from(*inner)).await,
            socket => Ok(socket.status()),
        }
    }

    fn fd_fdstat_set_flags(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: types::Fdflags,
    ) -> Result<(), Error> {
        match self.table.get_mut(fd)? {
            Descriptor::Inner(inner) => {
                let inner = *inner;
                self.set_file_flags(memory, inner, flags)
            }
            socket => Ok(socket.set_flags(flags)?),
        }
    }

    async fn fd_filestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<types::Filestat, Error> {
        match self.table.get(fd)? {
            Descriptor::Inner(inner) => self.inner.fd_filestat_get(memory, Fd::from(*inner)).await,
            _ => Ok(types::Filestat {
                dev: 0,
                ino: 0,
                filetype: types::Filetype::SocketStream,
                nlink: 0,
                size: 0,
                atim: 0,
                mtim: 0,
                ctim: 0,
            }),
        }
    }

    async fn fd_read(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::IovecArray,
    ) -> Result<types::Size, Error> {
        match self.table.get(fd)? {
            Descriptor::Inner(inner) => {
                let inner = Fd::from(*inner);
                let _copied = self.hold_read(memory, inner, data).await?;
                self.inner.fd_read(memory, inner, data).await
            }
            _ => Ok(self.receive(memory, fd, data, types::Riflags::empty()).await?),
        }
    }

    async fn fd_write(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::CiovecArray,
    ) -> Result<types::Size, Error> {
        match self.table.get(fd)? {
            Descriptor::Inner(inner) => {
                let inner = Fd::from(*inner);
                self.write_file(memory, inner, data, None).await
            }
            _ => self.send(memory, fd, data).await,
        }
    }

    fn sock_shutdown(&mut self, memory: &mut GuestMemory<'_>, fd: Fd, how: types::Sdflags) -> Result<(), Error> {
        match self.table.get(fd)? {
            Descriptor::Inner(inner) => self.inner.sock_shutdown(memory, Fd::from(*inner), how),
            socket => Ok(socket.shut_down(how)?),
        }
    }

    async fn poll_oneoff(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<types::Subscription>,
        events: GuestPtr<types::Event>,
        count: types::Size,
    ) -> Result<types::Size, Error> {
        self.poll(memory, subscriptions, events, count).await
    }
}
