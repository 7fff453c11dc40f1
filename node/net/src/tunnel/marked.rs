//! Socket pairs whose one end can break the connection, and not just close it.
//!
//! A Unix socket tells its other end of a broken connection (`ECONNRESET`) only when it is closed while it has unread bytes.
//! So the end that is kept here always has one: a mark, at first a byte of no meaning, later the last byte that was passed on.
//! Closing leaves it unread, [`Marked::close`] takes it first. Without this a pod would take half of an answer for a whole one
//! when the node that sends it dies.

use bytes::Bytes;
use nix::{
    libc,
    sys::socket::{MsgFlags, getsockopt, recv, recvmsg, sockopt},
};
use std::{
    io::{self, IoSliceMut, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// Most that one read gives, in bytes. Allocators return much more than this to the kernel each time.
pub(super) const READ_BYTES_MAX: usize = 64 * 1024;

/// The end of a pair that is kept. Closed without more it breaks the connection.
#[derive(Debug)]
pub(super) struct Marked(OwnedFd);

/// What one look at a stream gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Bytes, at least one.
    Bytes(Bytes),
    /// Nothing at the moment.
    Nothing,
    /// Nothing any more.
    End,
}

/// A pod's end, and the one that is kept. Neither blocks.
pub(super) fn pair() -> io::Result<(OwnedFd, Marked)> {
    let (mut one, other) = UnixStream::pair()?;
    one.write_all(&[0])?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((one.into(), Marked(other.into())))
}

/// Bytes that can be read from a socket at once.
pub(super) fn readable_bytes(socket: &impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to where the pointer leads, and the descriptor is open while it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(count).unwrap_or(0)) }
}

impl Marked {
    /// Reads what is there. `no_more` says that the other end had closed its side before this was called.
    ///
    /// # Errors
    /// When the other end broke the connection.
    pub(super) fn look(&self, no_more: bool) -> io::Result<Look> {
        let fresh = readable_bytes(&self.0)?.saturating_sub(1).min(READ_BYTES_MAX);
        if fresh == 0 {
            if !no_more {
                return Ok(Look::Nothing);
            }
            return match getsockopt(&self.0, sockopt::SocketError)? {
                0 => Ok(Look::End),
                error => Err(io::Error::from_raw_os_error(error)),
            };
        }
        // The mark and all but one of the fresh bytes are taken; the last one stays to be the mark, and is only looked at.
        let mut bytes = vec![0; fresh];
        let mut mark = [0];
        let mut parts = [IoSliceMut::new(&mut mark), IoSliceMut::new(&mut bytes[..fresh - 1])];
        let taken = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?.bytes;
        if taken == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let seen = recv(self.0.as_raw_fd(), &mut bytes[taken - 1..taken], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?;
        bytes.truncate(taken - 1 + seen);
        Ok(Look::Bytes(bytes.into()))
    }

    /// Closes in good order. Bytes that were not read break the connection all the same, as the kernel has it.
    pub(super) fn close(self) {
        // Where the mark cannot be taken there is nobody to hear of it either.
        let _gone = recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
    }
}

impl AsFd for Marked {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Marked {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, net::Shutdown};

    fn ends() -> (UnixStream, Marked) {
        let (pods, kept) = pair().unwrap();
        let pods = UnixStream::from(pods);
        pods.set_nonblocking(false).unwrap();
        (pods, kept)
    }

    fn read_all(marked: &Marked, no_more: bool) -> Vec<u8> {
        let mut all = Vec::new();
        while let Look::Bytes(bytes) = marked.look(no_more).unwrap() {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[test]
    fn what_was_written_is_read_and_the_mark_is_not_part_of_it() {
        let (mut pod, kept) = ends();
        assert_eq!(kept.look(false).unwrap(), Look::Nothing);
        for text in ["a", "bc", "", "defghi"] {
            pod.write_all(text.as_bytes()).unwrap();
            assert_eq!(read_all(&kept, false), text.as_bytes());
        }
        let long: Vec<u8> = (0..100_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (copy, mut writer) = (long.clone(), pod.try_clone().unwrap());
        let writing = std::thread::spawn(move || writer.write_all(&copy));
        let mut read = Vec::new();
        while read.len() < long.len() {
            read.extend(read_all(&kept, false));
        }
        writing.join().unwrap().unwrap();
        assert!(read == long, "every byte, in order");
        pod.write_all(b"last").unwrap();
        pod.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&kept, true), b"last");
        assert_eq!(kept.look(true).unwrap(), Look::End);
    }

    #[test]
    fn closing_ends_and_dropping_breaks() {
        for (is_closed, has_read) in [(true, false), (true, true), (false, false), (false, true)] {
            let (mut pod, kept) = ends();
            if has_read {
                pod.write_all(b"question").unwrap();
                assert_eq!(read_all(&kept, false), b"question");
            }
            nix::unistd::write(&kept, b"answer").unwrap();
            if is_closed {
                kept.close();
            } else {
                drop(kept);
            }
            let mut answer = [0; 6];
            pod.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"answer", "what came before is not lost");
            let end = pod.read(&mut answer).map_err(|error| error.kind());
            let expected = if is_closed { Ok(0) } else { Err(io::ErrorKind::ConnectionReset) };
            assert_eq!(end, expected, "{is_closed} {has_read}");
        }
    }

    #[test]
    fn a_pod_that_breaks_its_end_is_told_from_one_that_closes_it() {
        let (pod, kept) = ends();
        nix::unistd::write(&kept, b"unread").unwrap();
        drop(pod);
        assert_eq!(kept.look(true).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
