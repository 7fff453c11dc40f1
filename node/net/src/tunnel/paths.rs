//! The socket below QUIC: real UDP, and packets that come and go through the control plane. Peers behind the relay have
//! addresses in 240.0.0.0/4, which no host has; nothing else ever comes from there or goes there.

use super::{
    elsewhere::Relay,
    limits::{RELAYED_QUEUE, SOCKET_BUFFER_BYTES},
};
use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use std::{
    collections::HashMap,
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::mpsc;

/// Longest UDP payload that is sent or taken, in bytes. Ten of them, which QUIC sends at a time, are what the kernel takes at once.
pub(super) const PAYLOAD_BYTES_MAX: u16 = 6_500;
/// What the kernel merges at most when it receives, in bytes.
const MERGED_BYTES_MAX: usize = 64 * 1024;
/// First of the relayed peers' addresses.
const RELAYED_FIRST: u32 = 0xf000_0000;
/// How many there are.
const RELAYED_COUNT: u32 = 0x0fff_fffe;
/// Their port.
const RELAYED_PORT: u16 = 1;

/// Packets of one peer that came through the control plane.
#[derive(Debug)]
struct Packets {
    from: SocketAddr,
    segment_bytes: usize,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Names {
    addresses: HashMap<Arc<str>, u32>,
    nodes: HashMap<u32, Arc<str>>,
    next: u32,
}

/// The way through the control plane: who is where on it, and what came.
pub(super) struct Relayed {
    relay: Option<Arc<dyn Relay>>,
    names: Mutex<Names>,
    sender: mpsc::Sender<Packets>,
    receiver: Mutex<mpsc::Receiver<Packets>>,
}

impl fmt::Debug for Relayed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Relayed").field("is_there", &self.relay.is_some()).finish_non_exhaustive()
    }
}

/// Whether an address stands for a peer behind the relay.
pub(super) fn is_relayed(address: SocketAddr) -> bool {
    number_of(address).is_some()
}

fn number_of(address: SocketAddr) -> Option<u32> {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => u32::from(ip).checked_sub(RELAYED_FIRST),
        IpAddr::V6(_) => None,
    }
}

impl Relayed {
    pub(super) fn new(relay: Option<Arc<dyn Relay>>) -> Self {
        let (sender, receiver) = mpsc::channel(RELAYED_QUEUE);
        Self { relay, names: Mutex::default(), sender, receiver: Mutex::new(receiver) }
    }

    pub(super) fn is_there(&self) -> bool {
        self.relay.is_some()
    }

    /// The address that stands for a peer.
    pub(super) fn address_of(&self, node: &Arc<str>) -> SocketAddr {
        let mut names = self.names.lock();
        let number = if let Some(number) = names.addresses.get(node) {
            *number
        } else {
            let number = names.next;
            names.next = (number + 1) % RELAYED_COUNT;
            if let Some(old) = names.nodes.insert(number, Arc::clone(node)) {
                names.addresses.remove(&old);
            }
            names.addresses.insert(Arc::clone(node), number);
            number
        };
        SocketAddr::new(Ipv4Addr::from(RELAYED_FIRST + number).into(), RELAYED_PORT)
    }

    /// A peer is none any more.
    pub(super) fn forget(&self, node: &str) {
        let mut names = self.names.lock();
        if let Some(number) = names.addresses.remove(node) {
            names.nodes.remove(&number);
        }
    }

    /// Packets came from a peer. Where there is no room for them they are lost.
    pub(super) fn take(&self, node: &Arc<str>, segment_bytes: usize, bytes: Bytes) {
        let is_sound = segment_bytes > 0 && bytes.len() <= MERGED_BYTES_MAX && !bytes.is_empty();
        if is_sound && segment_bytes <= usize::from(PAYLOAD_BYTES_MAX) {
            // Full: lost, as packets are.
            let _lost = self.sender.try_send(Packets { from: self.address_of(node), segment_bytes, bytes });
        }
    }

    fn send(&self, to: u32, transmit: &Transmit<'_>) {
        let node = self.names.lock().nodes.get(&to).cloned();
        if let (Some(node), Some(relay)) = (node, &self.relay) {
            let segment_bytes = transmit.segment_size.unwrap_or(transmit.contents.len());
            relay.send(&node, segment_bytes, Bytes::copy_from_slice(transmit.contents));
        }
    }
}

/// Both ways as one socket.
pub(super) struct Paths {
    real: Arc<dyn AsyncUdpSocket>,
    relayed: Arc<Relayed>,
    relayed_first: AtomicBool,
}

impl fmt::Debug for Paths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Paths").field("real", &self.real).finish_non_exhaustive()
    }
}

impl Paths {
    pub(super) fn open(listen: SocketAddr, relayed: Arc<Relayed>) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen)?;
        // What the kernel does not give is missed under load only.
        if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
            let _less = setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES);
        }
        if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
            let _less = setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES);
        }
        let real = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Self { real, relayed, relayed_first: AtomicBool::new(false) })
    }

    fn poll_relayed(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut receiver = self.relayed.receiver.lock();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let packets = match receiver.poll_recv(context) {
                Poll::Ready(Some(packets)) => packets,
                Poll::Ready(None) | Poll::Pending => break,
            };
            let length = packets.bytes.len().min(buffer.len());
            buffer[..length].copy_from_slice(&packets.bytes[..length]);
            *meta =
                RecvMeta { addr: packets.from, len: length, stride: packets.segment_bytes, ecn: None, dst_ip: None };
            count += 1;
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn poll_real(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let result = self.real.poll_recv(context, buffers, metas);
        if let Poll::Ready(Ok(count)) = &result {
            // Somebody in the network claims to be a relayed peer: its packets become empty, and so nothing.
            metas.iter_mut().take(*count).filter(|meta| is_relayed(meta.addr)).for_each(|meta| meta.len = 0);
        }
        result
    }
}

impl AsyncUdpSocket for Paths {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.real).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(number) = number_of(transmit.destination) else { return self.real.try_send(transmit) };
        self.relayed.send(number, transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // In turn, so that neither way's flood keeps the other's packets waiting.
        if self.relayed_first.fetch_xor(true, Ordering::Relaxed) {
            match self.poll_relayed(context, buffers, metas) {
                Poll::Pending => self.poll_real(context, buffers, metas),
                ready @ Poll::Ready(_) => ready,
            }
        } else {
            match self.poll_real(context, buffers, metas) {
                Poll::Pending => self.poll_relayed(context, buffers, metas),
                ready @ Poll::Ready(_) => ready,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.real.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.real.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.real.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        // As many as the kernel merges of the longest packets: what QUIC makes its buffers of.
        self.real.max_receive_segments().min(MERGED_BYTES_MAX / usize::from(PAYLOAD_BYTES_MAX) + 1)
    }
}
