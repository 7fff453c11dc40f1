//! How many connections to outside each pod has. Their sockets were given away, so nobody tells when one is closed: they are
//! remembered by their inodes, and when a pod seems to have too many, the kernel is asked which of them are still there.

use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// The kernel is asked at most so often: its list has every socket of the machine.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// A socket's inode.
pub(crate) type Inode = u64;

#[derive(Debug, Default)]
struct State {
    by_pod: HashMap<String, HashSet<Inode>>,
    asked: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct OutsideStreams(Mutex<State>);

impl OutsideStreams {
    /// Whether the pod seems to have `max` connections or more.
    pub(crate) fn is_full(&self, uid: &str, max: usize) -> bool {
        self.0.lock().by_pod.get(uid).is_some_and(|inodes| inodes.len() >= max)
    }

    /// Whether it is time to ask the kernel; then it counts as asked.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        let may = state.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASKED_EVERY);
        if may {
            state.asked = Some(now);
        }
        may
    }

    /// Forgets the sockets that the kernel no longer has. `None` where it does not say: then nothing can be counted.
    pub(crate) fn keep(&self, there: Option<&HashSet<Inode>>) {
        self.0.lock().by_pod.retain(|_, inodes| {
            inodes.retain(|inode| there.is_some_and(|there| there.contains(inode)));
            !inodes.is_empty()
        });
    }

    /// The pod gets this socket.
    pub(crate) fn add(&self, uid: &str, socket: &OwnedFd) {
        if let Ok(status) = nix::sys::stat::fstat(socket.as_fd()) {
            self.0.lock().by_pod.entry(uid.to_owned()).or_default().insert(status.st_ino);
        }
    }

    /// The pod is gone, and its connections are nobody's concern.
    pub(crate) fn remove_pod(&self, uid: &str) {
        self.0.lock().by_pod.remove(uid);
    }
}

/// The inodes in a table like `/proc/net/tcp`. Sockets that no process has are listed with 0.
pub(crate) fn inodes(table: &str) -> impl Iterator<Item = Inode> {
    /// Place of the inode in a line.
    const INODE: usize = 9;
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(INODE)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, net::TcpListener};

    #[test]
    fn the_kernels_list_has_a_socket_as_long_as_somebody_has_it() {
        let socket = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let streams = OutsideStreams::default();
        streams.add("a", &socket);
        streams.add("a", &socket);
        let there = || inodes(&fs::read_to_string("/proc/thread-self/net/tcp").unwrap()).collect::<HashSet<_>>();
        streams.keep(Some(&there()));
        assert_eq!((streams.is_full("a", 1), streams.is_full("a", 2), streams.is_full("b", 1)), (true, false, false));
        let copy = socket.try_clone().unwrap();
        drop(socket);
        streams.keep(Some(&there()));
        assert!(streams.is_full("a", 1), "somebody else has it");
        drop(copy);
        streams.keep(Some(&there()));
        assert!(!streams.is_full("a", 1) && streams.0.lock().by_pod.is_empty());
    }

    #[test]
    fn the_kernel_is_not_asked_all_the_time() {
        let (streams, now) = (OutsideStreams::default(), Instant::now());
        assert_eq!([streams.may_ask(now), streams.may_ask(now)], [true, false]);
        assert!(streams.may_ask(now + ASKED_EVERY));
    }
}
