//! Waiting for sockets: wasi-libc's `poll`, which the standard library does not offer.

use std::{
    ffi::{c_int, c_short},
    io,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

/// One socket and what is wanted of it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Interest {
    descriptor: c_int,
    wanted: c_short,
    found: c_short,
}

#[cfg(target_os = "wasi")]
mod flags {
    pub const READ: i16 = 1;
    pub const WRITE: i16 = 2;
}
#[cfg(not(target_os = "wasi"))]
mod flags {
    pub const READ: i16 = 1;
    pub const WRITE: i16 = 4;
}

#[cfg(target_os = "wasi")]
type Count = std::ffi::c_ulong;
#[cfg(not(target_os = "wasi"))]
type Count = std::ffi::c_ulong;

unsafe extern "C" {
    fn poll(interests: *mut Interest, count: Count, milliseconds: c_int) -> c_int;
}

impl Interest {
    pub fn new(descriptor: RawFd, read: bool, write: bool) -> Self {
        let flag = |wanted, flag| if wanted { flag } else { 0 };
        Self { descriptor, wanted: flag(read, flags::READ) | flag(write, flags::WRITE), found: 0 }
    }

    /// Something happened, an error or the end included.
    pub fn is_ready(&self) -> bool {
        self.found != 0
    }
}

/// Waits until one of them is ready, or for so long; answers whether one is.
pub fn wait(interests: &mut [Interest], limit: Option<Duration>) -> io::Result<bool> {
    let milliseconds = limit.map_or(-1, |limit| c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX));
    // SAFETY: the pointer and the count describe one slice of what the C library calls `struct pollfd`.
    let ready = unsafe { poll(interests.as_mut_ptr(), interests.len() as Count, milliseconds) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(ready > 0) }
}

/// Waits until this socket can be read.
pub fn readable(socket: &impl AsRawFd, limit: Duration) -> io::Result<bool> {
    wait(&mut [Interest::new(socket.as_raw_fd(), true, false)], Some(limit))
}
