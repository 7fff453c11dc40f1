//! Preview 1 in a linker.
//!
//! The trait's socket calls cannot wait, so three of them are put in its place by hand.

use super::Preview1;
use crate::host::state::GuestState;
use std::future::Future;
use wasmtime::{AsContextMut, Caller, Extern, Linker, Result};
use wasmtime_wasi::p1::{
    types::{Errno, Error, Fd, Fdflags, Riflags, Roflags},
    wasi_snapshot_preview1::{self, WasiSnapshotPreview1},
};
use wiggle::{GuestMemory, GuestPtr};

/// The module that guests import from.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

/// Adds everything that `wasmtime-wasi` has, and sockets.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    wasi_snapshot_preview1::add_to_linker(linker, GuestState::preview1)?;
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        MODULE,
        "sock_accept",
        |mut caller: Caller<'_, GuestState>, (fd, flags, accepted): (i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, guest) = parts(&mut caller)?;
                outcome(sock_accept(guest, &mut memory, fd, flags, accepted)).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "sock_recv",
        |mut caller: Caller<'_, GuestState>, (fd, data, count, flags, length, told): (i32, i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, guest) = parts(&mut caller)?;
                outcome(sock_recv(guest, &mut memory, (fd, data, count, flags), (length, told))).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "sock_send",
        |mut caller: Caller<'_, GuestState>, (fd, data, count, flags, length): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, guest) = parts(&mut caller)?;
                outcome(sock_send(guest, &mut memory, (fd, data, count, flags), length)).await
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The guest's memory and what it may do, apart from each other.
pub(super) fn parts<'a>(caller: &'a mut Caller<'_, GuestState>) -> Result<(GuestMemory<'a>, &'a mut Preview1)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("missing required memory export");
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, state) = memory.data_and_store_mut(caller);
    let guest = state.preview1();
    guest.set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(bytes), guest))
}

/// The error number that the guest gets, or the trap that ends it.
pub(super) async fn outcome(call: impl Future<Output = Result<(), Error>>) -> Result<i32> {
    let errno = match call.await {
        Ok(()) => Errno::Success,
        Err(error) => error.downcast()?,
    };
    Ok(i32::from(u16::from(errno)))
}

async fn sock_accept(
    guest: &mut Preview1,
    memory: &mut GuestMemory<'_>,
    fd: i32,
    flags: i32,
    accepted: i32,
) -> Result<(), Error> {
    let flags = Fdflags::try_from(flags)?;
    let accepted_fd = guest.accept(Fd::from(fd), flags).await?;
    Ok(memory.write(pointer(accepted), accepted_fd)?)
}

async fn sock_recv(
    guest: &mut Preview1,
    memory: &mut GuestMemory<'_>,
    (fd, data, count, flags): (i32, i32, i32, i32),
    (length, told): (i32, i32),
) -> Result<(), Error> {
    let flags = Riflags::try_from(flags)?;
    let data = GuestPtr::new((data.cast_unsigned(), count.cast_unsigned()));
    let received = guest.receive(memory, Fd::from(fd), data, flags).await?;
    memory.write(pointer(length), received)?;
    Ok(memory.write(pointer(told), Roflags::empty())?)
}

async fn sock_send(
    guest: &mut Preview1,
    memory: &mut GuestMemory<'_>,
    (fd, data, count, flags): (i32, i32, i32, i32),
    length: i32,
) -> Result<(), Error> {
    // No flags are defined.
    if flags != 0 {
        return Err(Errno::Inval.into());
    }
    let data = GuestPtr::new((data.cast_unsigned(), count.cast_unsigned()));
    let sent = guest.send(memory, Fd::from(fd), data).await?;
    Ok(memory.write(pointer(length), sent)?)
}

pub(super) fn pointer<T>(address: i32) -> GuestPtr<T>
where
    T: wiggle::GuestType,
{
    GuestPtr::<u8>::new(address.cast_unsigned()).cast()
}
