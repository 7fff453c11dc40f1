//! The socket on which agent and runner pass each other connections and datagrams.
//!
//! It keeps packets apart (`SOCK_SEQPACKET`): one message in one packet, with at most one descriptor. Nothing is queued
//! in user space; a full socket makes senders wait, and datagrams are dropped before it is full, so that no flood of
//! them stops connections from being made. A packet that makes no sense, or a descriptor where none belongs, ends the
//! runner. Descriptors only go to runners: the agent's end has no room for any, so the kernel closes what a runner sends.

use super::{FromRunnerNet, MAX_DATAGRAM_BYTES, ToRunnerNet};
use nix::{
    cmsg_space, libc,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg,
        setsockopt, socketpair, sockopt::SndBuf,
    },
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Largest packet: a datagram, two addresses, a pod's uid.
const MAX_PACKET_BYTES: usize = MAX_DATAGRAM_BYTES + 1024;
/// What waits on the way in one direction, as the kernel counts it (packets cost more than their bytes).
const BUFFER_BYTES: usize = 208 << 10;

/// Why a channel does not send or receive.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The other side is gone.
    #[error("the network channel is closed")]
    Closed,
    /// There is no room now. Only without waiting.
    #[error("the network channel is full")]
    Full,
    /// The message does not fit a packet.
    #[error("a network message of {0} bytes is too large")]
    TooLarge(usize),
    /// The other side does not keep to the protocol.
    #[error("a network message makes no sense: {0}")]
    Malformed(&'static str),
    /// The socket failed.
    #[error("the network channel broke")]
    Io(#[source] io::Error),
}

/// What travels on a channel.
pub trait Message: Serialize + DeserializeOwned {
    /// Whether there are messages of this direction that take a descriptor.
    const DESCRIPTORS: bool;
    /// Whether a descriptor may come with it.
    fn takes_descriptor(&self) -> bool;
    /// Whether the network may lose it.
    fn is_datagram(&self) -> bool;
}

impl Message for ToRunnerNet {
    const DESCRIPTORS: bool = true;

    fn takes_descriptor(&self) -> bool {
        matches!(self, Self::Connected { result: Ok(()), .. } | Self::Offer { .. })
    }

    fn is_datagram(&self) -> bool {
        matches!(self, Self::Datagram { .. } | Self::DatagramRefused { .. })
    }
}

impl Message for FromRunnerNet {
    const DESCRIPTORS: bool = false;

    fn takes_descriptor(&self) -> bool {
        false
    }

    fn is_datagram(&self) -> bool {
        matches!(self, Self::Datagram { .. })
    }
}

/// The agent's end. It may be used by several tasks at once, but only one should receive. Dropping it leaves the runner
/// without a network beyond each pod.
pub type NetworkChannel = Channel<ToRunnerNet, FromRunnerNet>;
/// The runner's end.
pub type RunnerEnd = Channel<FromRunnerNet, ToRunnerNet>;

/// One end, which sends `Out` and receives `In`.
pub struct Channel<Out, In> {
    socket: AsyncFd<OwnedFd>,
    buffer: Mutex<Vec<u8>>,
    on_violation: Option<CancellationToken>,
    messages: PhantomData<fn(Out) -> In>,
}

impl<Out, In> fmt::Debug for Channel<Out, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl NetworkChannel {
    /// Both ends, in one process: what a test of either side needs. Within a tokio runtime.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn pair() -> io::Result<(Self, RunnerEnd)> {
        let (ours, theirs) = sockets()?;
        Ok((Self::new(ours, None)?, RunnerEnd::new(theirs, None)?))
    }
}

/// The two sockets of a channel.
pub(crate) fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ends = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&ends.0, &ends.1] {
        // The kernel doubles what it is told.
        setsockopt(end, SndBuf, &(BUFFER_BYTES / 2))?;
    }
    Ok(ends)
}

impl<Out: Message, In: Message> Channel<Out, In> {
    /// Makes a channel of one of [`sockets`]. `on_violation` is cancelled when the other side breaks the protocol.
    pub(crate) fn new(socket: OwnedFd, on_violation: Option<CancellationToken>) -> io::Result<Self> {
        Ok(Self {
            socket: registered(socket)?,
            buffer: Mutex::new(vec![0; MAX_PACKET_BYTES]),
            on_violation,
            messages: PhantomData,
        })
    }

    /// Sends a message, and with it a descriptor if the message takes one. Waits while the socket is full. The caller's
    /// descriptor is closed.
    ///
    /// # Errors
    /// `Closed` when nobody is there, `TooLarge`, and what the kernel says.
    pub async fn send(&self, message: Out, descriptor: Option<OwnedFd>) -> Result<(), ChannelError> {
        let packet = encode(&message)?;
        loop {
            // First of all, because the kernel only calls a socket writable when three quarters of it are free.
            match transmit(self.socket.get_ref(), &packet, descriptor.as_ref()).map_err(broken) {
                Err(ChannelError::Full) => {}
                sent => return sent,
            }
            let mut ready = self.socket.writable().await.map_err(ChannelError::Io)?;
            match ready.try_io(|socket| transmit(socket.get_ref(), &packet, descriptor.as_ref())) {
                Ok(sent) => return sent.map_err(broken),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends a message without a descriptor if there is room now. Datagrams only get half of the room.
    ///
    /// # Errors
    /// `Full` when there is none, and as [`Self::send`].
    pub fn try_send(&self, message: &Out) -> Result<(), ChannelError> {
        let packet = encode(message)?;
        if message.is_datagram() && unread_bytes(self.socket.get_ref()).map_err(broken)? > BUFFER_BYTES / 2 {
            return Err(ChannelError::Full);
        }
        // Not through the cached readiness: that is only known once somebody has waited.
        transmit(self.socket.get_ref(), &packet, None).map_err(broken)
    }

    /// The next message and the descriptor that came with it; `None` when the other side has closed the channel. Giving
    /// up the wait loses nothing. A message that takes a descriptor may come without one if this process has as many
    /// as it may have.
    ///
    /// # Errors
    /// `Malformed` when the other side does not keep to the protocol.
    pub async fn recv(&self) -> Received<In> {
        let received = loop {
            let mut ready = self.socket.readable().await.map_err(ChannelError::Io)?;
            match ready.try_io(|socket| self.receive(socket.get_ref())) {
                Ok(received) => break received.map_err(ChannelError::Io)?,
                Err(_would_block) => {}
            }
        };
        if let (Err(ChannelError::Malformed(_)), Some(token)) = (&received, &self.on_violation) {
            token.cancel();
        }
        received
    }

    /// An error of the outer kind is the socket's.
    fn receive(&self, socket: &OwnedFd) -> io::Result<Received<In>> {
        let mut buffer = self.buffer.lock();
        let mut control = In::DESCRIPTORS.then(|| cmsg_space!(RawFd));
        let (length, flags, mut descriptors) = {
            let mut parts = [IoSliceMut::new(buffer.as_mut_slice())];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
            let received = match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, control.as_deref_mut(), flags) {
                Ok(received) => received,
                Err(nix::Error::ECONNRESET) => return Ok(Ok(None)),
                Err(error) => return Err(error.into()),
            };
            let mut descriptors = Vec::new();
            // An error means that a descriptor found no place in this process: the message comes without.
            for message in received.cmsgs().into_iter().flatten() {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                    descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                }
            }
            (received.bytes, received.flags, descriptors)
        };
        if length == 0 && !flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Ok(Ok(None));
        }
        Ok(match buffer.get(..length) {
            Some(packet) if !flags.contains(MsgFlags::MSG_TRUNC) => decode::<In>(packet).and_then(|message| {
                let lost = flags.contains(MsgFlags::MSG_CTRUNC);
                let sent = descriptors.len() + usize::from(lost);
                if sent > usize::from(message.takes_descriptor()) {
                    return Err(ChannelError::Malformed("descriptors where none belong"));
                }
                Ok(Some((message, descriptors.pop())))
            }),
            _ => Err(ChannelError::Malformed("too large")),
        })
    }
}

/// Registers a descriptor with the calling task's runtime.
pub(super) fn registered(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, and only shared references to it are
    // ever asked of the `AsyncFd` that owns it from here on.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// A message and its descriptor, the end, or what is wrong.
pub type Received<In> = Result<Option<(In, Option<OwnedFd>)>, ChannelError>;

fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, ChannelError> {
    match postcard::take_from_bytes(packet) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(ChannelError::Malformed("something behind it")),
        Err(_) => Err(ChannelError::Malformed("not a message")),
    }
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ChannelError> {
    let packet = postcard::to_extend(message, Vec::new()).map_err(|_| ChannelError::Malformed("cannot be encoded"))?;
    if packet.len() > MAX_PACKET_BYTES { Err(ChannelError::TooLarge(packet.len())) } else { Ok(packet) }
}

fn transmit(socket: &OwnedFd, packet: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let numbers = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
    let control = numbers.as_ref().map(|numbers| ControlMessage::ScmRights(numbers));
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(packet)], control.as_slice(), flags, None)?;
    Ok(())
}

/// What the other side has not read yet, as the kernel counts it.
fn unread_bytes(socket: &OwnedFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one integer, to a place that lives for the call.
    if unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

fn broken(error: io::Error) -> ChannelError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
            ChannelError::Closed
        }
        io::ErrorKind::WouldBlock => ChannelError::Full,
        _ => ChannelError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
        time::Duration,
    };
    use tokio::time::timeout;

    fn datagram(size: usize) -> FromRunnerNet {
        let address = "10.244.0.9:53".parse().unwrap();
        FromRunnerNet::Datagram { pod_uid: "pod".into(), from: address, to: address, bytes: vec![7; size] }
    }

    fn offer(id: u64) -> ToRunnerNet {
        let address = "10.244.0.9:80".parse().unwrap();
        ToRunnerNet::Offer { id, pod_uid: "pod".into(), to: address, from: address }
    }

    #[tokio::test]
    async fn messages_and_descriptors_arrive() {
        let (agent, runner) = NetworkChannel::pair().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        agent.send(offer(1), Some(theirs.into())).await.unwrap();
        agent.send(offer(2), None).await.unwrap();
        let (message, descriptor) = runner.recv().await.unwrap().unwrap();
        assert_eq!(message, offer(1));
        UnixStream::from(descriptor.unwrap()).write_all(b"hello").unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello", "and the sender's descriptor was closed");
        assert!(matches!(runner.recv().await, Ok(Some((message, None))) if message == offer(2)));

        runner.send(datagram(MAX_DATAGRAM_BYTES), None).await.unwrap();
        assert_eq!(agent.recv().await.unwrap().unwrap().0, datagram(MAX_DATAGRAM_BYTES));
        assert!(matches!(runner.try_send(&datagram(MAX_PACKET_BYTES)), Err(ChannelError::TooLarge(_))));
        drop(runner);
        assert!(agent.recv().await.unwrap().is_none());
        assert!(matches!(agent.send(offer(3), None).await, Err(ChannelError::Closed)));
    }

    #[tokio::test]
    async fn the_end_is_seen_although_something_was_not_read() {
        let (agent, runner) = NetworkChannel::pair().unwrap();
        agent.send(offer(1), None).await.unwrap();
        drop(runner);
        assert!(agent.recv().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_a_violation() {
        let (receiver, sender) = {
            let (ours, theirs) = sockets().unwrap();
            (ours, theirs)
        };
        let violated = CancellationToken::new();
        let agent = NetworkChannel::new(receiver, Some(violated.clone())).unwrap();
        let good = encode(&FromRunnerNet::Withdraw { id: 1 }).unwrap();
        let longer = [good.as_slice(), b"x"].concat();
        for packet in [&b"\xff\xff\xff"[..], &longer, &vec![0; MAX_PACKET_BYTES + 1]] {
            transmit(&sender, packet, None).unwrap();
            assert!(matches!(agent.recv().await, Err(ChannelError::Malformed(_))));
        }
        assert!(violated.is_cancelled());
        transmit(&sender, &good, None).unwrap();
        assert!(agent.recv().await.is_ok());
    }

    #[tokio::test]
    async fn an_agent_takes_no_descriptor() {
        let (receiver, sender) = sockets().unwrap();
        let agent = NetworkChannel::new(receiver, None).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let good = encode(&FromRunnerNet::Answer { id: 1, result: Ok(()) }).unwrap();
        transmit(&sender, &good, Some(&theirs.into())).unwrap();
        assert!(matches!(agent.recv().await, Err(ChannelError::Malformed(_))));
        // The kernel has closed it, or this would wait for ever.
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_flood_of_datagrams_leaves_room_for_dials() {
        let (agent, runner) = NetworkChannel::pair().unwrap();
        let mut sent = 0;
        while runner.try_send(&datagram(1000)).is_ok() {
            sent += 1;
        }
        assert!((10..1000).contains(&sent), "{sent} datagrams");
        let to = "10.96.0.1:80".parse().unwrap();
        let dial = FromRunnerNet::Dial { id: 1, pod_uid: "pod".into(), from: to, to };
        timeout(Duration::from_secs(10), runner.send(dial.clone(), None)).await.unwrap().unwrap();
        for _ in 0..sent {
            assert_eq!(agent.recv().await.unwrap().unwrap().0, datagram(1000));
        }
        assert_eq!(agent.recv().await.unwrap().unwrap().0, dial);
        runner.try_send(&datagram(1000)).unwrap();
    }

    #[tokio::test]
    async fn a_full_channel_makes_senders_wait() {
        let (agent, runner) = NetworkChannel::pair().unwrap();
        let mut sent = 0_u64;
        while timeout(Duration::from_millis(50), agent.send(offer(sent), None)).await.is_ok() {
            sent += 1;
            assert!(sent < 100_000, "nothing bounds the channel");
        }
        assert!(matches!(agent.try_send(&offer(0)), Err(ChannelError::Full)));
        let reader = async {
            for id in 0..=sent {
                assert_eq!(runner.recv().await.unwrap().unwrap().0, offer(id));
            }
        };
        let (result, ()) = tokio::join!(agent.send(offer(sent), None), reader);
        result.unwrap();
    }
}
