//! Connections to addresses outside the cluster: real sockets, never to this machine. The socket itself is handed to the
//! pod; no byte passes through here.

use super::{
    Shared,
    bounds::Bound,
    keep_alive,
    pods::{DialFailure, Pod},
};
use crate::policy::Denial;
use nix::errno::Errno;
use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Instant};
use tokio::net::{TcpSocket, TcpStream};

impl Shared {
    /// A connected socket, set up by [`keep_alive::prepare`].
    pub(crate) async fn connect_outside(&self, pod: &Pod, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        let _permit = pod.budget.outside_dial(Instant::now()).map_err(|bound| self.over(pod, bound))?;
        if self.machine.is_own(to.ip()) {
            return Err(self.denied(pod, to, Denial::Node));
        }
        if !self.has_room_outside(pod).await {
            return Err(self.over(pod, Bound::OutsideStreams));
        }
        let connect = connect(self.machine.way_to(to));
        let limit = self.config.limits.outside_dial_timeout;
        let stream = match tokio::time::timeout(limit, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failure_of(&error)),
            Err(_) => return Err(DialFailure::TimedOut),
        };
        // Addresses come and go: who ended up with itself is on this machine after all.
        if is_own_connection(&stream) {
            return Err(self.denied(pod, to, Denial::Node));
        }
        let ready = keep_alive::prepare(&stream).and_then(|()| stream.into_std());
        let socket = ready.map(OwnedFd::from).map_err(|error| failure_of(&error))?;
        self.outside_streams.add(pod.uid(), &socket);
        Ok(socket)
    }

    /// Whether the pod may have one more connection to outside.
    async fn has_room_outside(&self, pod: &Pod) -> bool {
        let max = self.config.limits.outside_streams;
        if !self.outside_streams.is_full(pod.uid(), max) {
            return true;
        }
        if self.outside_streams.may_ask(Instant::now()) {
            let machine = Arc::clone(&self.machine);
            let there = tokio::task::spawn_blocking(move || machine.streams()).await;
            self.outside_streams.keep(there.ok().flatten().as_ref());
        }
        !self.outside_streams.is_full(pod.uid(), max)
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.connect(to).await
}

fn is_own_connection(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => local.ip() == peer.ip(),
        // Closed already: harmless.
        _ => false,
    }
}

/// What a guest would see on Linux, as far as a dial can say it.
fn failure_of(error: &io::Error) -> DialFailure {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED | Errno::ECONNRESET) => DialFailure::Refused,
        Some(Errno::ETIMEDOUT) => DialFailure::TimedOut,
        Some(Errno::EACCES | Errno::EPERM) => DialFailure::Denied,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EADDRNOTAVAIL | Errno::EAGAIN) => {
            DialFailure::TooMany
        }
        _ => DialFailure::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_linux() {
        for (errno, expected) in [
            (Errno::ECONNREFUSED, DialFailure::Refused),
            (Errno::EHOSTUNREACH, DialFailure::Unreachable),
            (Errno::ENETUNREACH, DialFailure::Unreachable),
            (Errno::ETIMEDOUT, DialFailure::TimedOut),
            (Errno::EACCES, DialFailure::Denied),
            (Errno::EMFILE, DialFailure::TooMany),
        ] {
            assert_eq!(failure_of(&io::Error::from(errno)), expected, "{errno}");
        }
    }
}
