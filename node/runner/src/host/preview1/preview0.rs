//! Preview 0 (`wasi_unstable`), which modules import whose compiler is older than preview 1.
//!
//! It is preview 1 but for what is here: other numbers for the origins of a seek, a shorter status of files, and one
//! field more in a clock that is waited for. Everything else is preview 1's own function under the older name.

use super::{
    Preview1,
    calls::{self, outcome, parts, pointer},
    poll,
};
use crate::host::state::GuestState;
use wasmtime::{Caller, Linker, Result};
use wasmtime_wasi::p1::{
    types::{
        self, Clockid, Errno, Error, Eventtype, Fd, Filetype, Lookupflags, Subclockflags, Subscription,
        SubscriptionClock, SubscriptionFdReadwrite, SubscriptionU, Whence,
    },
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr, GuestType};

/// The module that such guests import from.
const MODULE: &str = "wasi_unstable";
/// Length of a subscription, in bytes.
const SUBSCRIPTION_LENGTH: u32 = 56;

/// Adds it to a linker that has all of preview 1.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    linker.alias_module(calls::MODULE, MODULE)?;
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        MODULE,
        "fd_seek",
        |mut caller: Caller<'_, GuestState>, (fd, offset, origin, position): (i32, i64, i32, i32)| {
            Box::new(async move {
                let (mut memory, guest) = parts(&mut caller)?;
                outcome(seek(guest, &mut memory, fd, (offset, origin), position)).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_filestat_get",
        |mut caller: Caller<'_, GuestState>, (fd, status): (i32, i32)| {
            Box::new(async move {
                let (mut memory, guest) = parts(&mut caller)?;
                outcome(status_of(guest, &mut memory, fd, status)).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_filestat_get",
        |mut caller: Caller<'_, GuestState>, (fd, flags, path, length, status): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, guest) = parts(&mut caller)?;
                outcome(status_at(guest, &mut memory, (fd, flags, path, length), status)).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, GuestState>, (asked, events, count, happened): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, guest) = parts(&mut caller)?;
                outcome(wait(guest, &mut memory, (asked, events, count), happened)).await
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

async fn seek(
    guest: &mut Preview1,
    memory: &mut GuestMemory<'_>,
    fd: i32,
    (offset, origin): (i64, i32),
    position: i32,
) -> Result<(), Error> {
    let whence = match origin {
        0 => Whence::Cur,
        1 => Whence::End,
        2 => Whence::Set,
        _ => return Err(Errno::Inval.into()),
    };
    let reached = guest.fd_seek(memory, Fd::from(fd), offset, whence).await?;
    Ok(memory.write(pointer(position), reached)?)
}

async fn status_of(guest: &mut Preview1, memory: &mut GuestMemory<'_>, fd: i32, status: i32) -> Result<(), Error> {
    let found = guest.fd_filestat_get(memory, Fd::from(fd)).await?;
    write_status(memory, pointer(status), &found)
}

async fn status_at(
    guest: &mut Preview1,
    memory: &mut GuestMemory<'_>,
    (fd, flags, path, length): (i32, i32, i32, i32),
    status: i32,
) -> Result<(), Error> {
    let flags = Lookupflags::try_from(flags)?;
    let path = GuestPtr::<str>::new((path.cast_unsigned(), length.cast_unsigned()));
    let found = guest.path_filestat_get(memory, Fd::from(fd), flags, path).await?;
    write_status(memory, pointer(status), &found)
}

/// A file has 32 bits for its links here, the only difference.
fn write_status(memory: &mut GuestMemory<'_>, to: GuestPtr<u8>, status: &types::Filestat) -> Result<(), Error> {
    memory.write(field(to, 0)?, status.dev)?;
    memory.write(field(to, 8)?, status.ino)?;
    memory.write(field::<Filetype>(to, 16)?, status.filetype)?;
    memory.write(field(to, 20)?, u32::try_from(status.nlink).unwrap_or(u32::MAX))?;
    let rest = [status.size, status.atim, status.mtim, status.ctim];
    for (offset, value) in [24, 32, 40, 48].into_iter().zip(rest) {
        memory.write(field(to, offset)?, value)?;
    }
    Ok(())
}

async fn wait(
    guest: &mut Preview1,
    memory: &mut GuestMemory<'_>,
    (asked, events, count): (i32, i32, i32),
    happened: i32,
) -> Result<(), Error> {
    let first = pointer(asked);
    let places = (0..poll::bounded(count.cast_unsigned())?).map(|index| field(first, index * SUBSCRIPTION_LENGTH));
    let asked = places.map(|place| read_subscription(memory, place?)).collect::<Result<_, Error>>()?;
    let count = guest.poll_for(memory, asked, pointer(events)).await?;
    Ok(memory.write(pointer(happened), count)?)
}

/// What is waited for begins at 16. A clock has an identifier there, which says nothing, before its fields.
fn read_subscription(memory: &GuestMemory<'_>, at: GuestPtr<u8>) -> Result<Subscription, Error> {
    let descriptor =
        || -> Result<_, Error> { Ok(SubscriptionFdReadwrite { file_descriptor: memory.read(field::<Fd>(at, 16)?)? }) };
    let u = match memory.read(field::<Eventtype>(at, 8)?)? {
        Eventtype::Clock => SubscriptionU::Clock(SubscriptionClock {
            id: memory.read(field::<Clockid>(at, 24)?)?,
            timeout: memory.read(field(at, 32)?)?,
            precision: memory.read(field(at, 40)?)?,
            flags: memory.read(field::<Subclockflags>(at, 48)?)?,
        }),
        Eventtype::FdRead => SubscriptionU::FdRead(descriptor()?),
        Eventtype::FdWrite => SubscriptionU::FdWrite(descriptor()?),
    };
    Ok(Subscription { userdata: memory.read(field(at, 0)?)?, u })
}

fn field<T: GuestType>(structure: GuestPtr<u8>, offset: u32) -> Result<GuestPtr<T>, Error> {
    Ok(structure.add(offset)?.cast())
}
