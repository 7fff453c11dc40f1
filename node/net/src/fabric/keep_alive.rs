//! How real TCP connections behave: nothing is held back, and a peer that went away without a word is noticed. Sets options only.

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

/// A connection on which nothing came for so long is asked whether somebody is there, in seconds.
const IDLE_SECONDS: libc::c_int = 60;
/// Between two such questions, in seconds.
const INTERVAL_SECONDS: libc::c_int = 15;
/// Questions without an answer after which it is over.
const QUESTIONS: libc::c_int = 4;

/// Sets up a connected socket for a pod: without Nagle's delay, as most servers set it, and with the kernel's keep-alive.
///
/// # Errors
/// When the kernel refuses, as for sockets that are none of TCP.
pub(crate) fn prepare(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    set(socket, libc::TCP_KEEPIDLE, IDLE_SECONDS)?;
    set(socket, libc::TCP_KEEPINTVL, INTERVAL_SECONDS)?;
    set(socket, libc::TCP_KEEPCNT, QUESTIONS)?;
    Ok(())
}

fn set(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let (socket, value) = (socket.as_fd().as_raw_fd(), ptr::from_ref(&value).cast());
    // SAFETY: the pointer leads to so many bytes that live until the call ends, and the descriptor is open while it is borrowed.
    let result = unsafe { libc::setsockopt(socket, libc::IPPROTO_TCP, option, value, length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use std::net::{TcpListener, TcpStream};

    fn get(socket: &impl AsFd, option: libc::c_int) -> libc::c_int {
        let mut value: libc::c_int = 0;
        let mut length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
        let to = ptr::from_mut(&mut value).cast();
        // SAFETY: the pointers lead to an int and its length, and the descriptor is open while it is borrowed.
        let result =
            unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, option, to, &raw mut length) };
        assert_eq!(result, 0);
        value
    }

    #[test]
    fn a_silent_connection_is_asked_after() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!getsockopt(&stream, sockopt::KeepAlive).unwrap());
        prepare(&stream).unwrap();
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap() && getsockopt(&stream, sockopt::TcpNoDelay).unwrap());
        let seconds = get(&stream, libc::TCP_KEEPIDLE);
        let interval = get(&stream, libc::TCP_KEEPINTVL);
        let count = get(&stream, libc::TCP_KEEPCNT);
        assert_eq!((seconds, interval, count), (IDLE_SECONDS, INTERVAL_SECONDS, QUESTIONS));
    }
}
