//! UDP sockets of components. A socket is bound before it has streams, and has one pair of them at a time, which is
//! connected to one peer or to none.

use super::{Sockets, failed, local, options::Options, ours, remote, theirs};
use crate::network::{datagrams::Datagrams, pod::SocketPermit};
use std::{mem, net::SocketAddr, sync::Arc};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynPollable, Pollable, SocketError, SocketResult, UdpSocket,
    bindings::sockets::{
        network::{ErrorCode, IpAddressFamily, IpSocketAddress, Network},
        udp::{
            Host, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
            IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
        },
        udp_create_socket,
    },
    subscribe,
};

/// Most datagrams that a guest sends or receives at once.
const MAX_DATAGRAMS: usize = 16;
/// A guest gets no further datagram in the same call once it has this many bytes.
const MAX_RECEIVED_BYTES: usize = 64 << 10;

/// A guest's UDP socket.
pub(super) struct Udp {
    family: IpAddressFamily,
    options: Options,
    state: State,
    _permit: SocketPermit,
}

enum State {
    New,
    Binding(Arc<Datagrams>),
    Bound(Arc<Datagrams>),
}

impl Udp {
    fn bound(&self) -> Result<&Arc<Datagrams>, ErrorCode> {
        match &self.state {
            State::Bound(datagrams) => Ok(datagrams),
            _ => Err(ErrorCode::InvalidState),
        }
    }
}

/// Where a guest receives.
pub(super) struct Incoming(Arc<Datagrams>);

/// Where a guest sends.
pub(super) struct Outgoing {
    datagrams: Arc<Datagrams>,
    family: IpAddressFamily,
    /// How many the guest may send before it asks again.
    permitted: usize,
}

#[async_trait::async_trait]
impl Pollable for Udp {
    // Nothing that is started takes time.
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        self.0.readable().await;
    }
}

#[async_trait::async_trait]
impl Pollable for Outgoing {
    // What cannot be sent now is lost.
    async fn ready(&mut self) {}
}

impl udp_create_socket::Host for Sockets<'_> {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let permit = self.network.socket().map_err(failed)?;
        let socket = Udp { family, options: Options::default(), state: State::New, _permit: permit };
        Ok(theirs(&self.add(socket)?))
    }
}

impl Host for Sockets<'_> {}

impl HostUdpSocket for Sockets<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<UdpSocket>,
        network: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_right(&network)?;
        let pod = self.network;
        let socket = self.table.get_mut(&ours::<_, Udp>(&this))?;
        match socket.state {
            State::New => {}
            State::Binding(_) => return Err(ErrorCode::ConcurrencyConflict.into()),
            State::Bound(_) => return Err(ErrorCode::InvalidState.into()),
        }
        let address = local(address, socket.family)?;
        socket.state = State::Binding(Arc::new(pod.bind_datagrams(address).map_err(failed)?));
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        let socket = self.table.get_mut(&ours::<_, Udp>(&this))?;
        match mem::replace(&mut socket.state, State::New) {
            State::Binding(datagrams) => {
                socket.state = State::Bound(datagrams);
                Ok(())
            }
            state => {
                socket.state = state;
                Err(ErrorCode::NotInProgress.into())
            }
        }
    }

    async fn stream(
        &mut self,
        this: Resource<UdpSocket>,
        address: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
        let resource = ours::<_, Udp>(&this);
        if self.table.iter_children(&resource)?.any(|child| child.is::<Incoming>() || child.is::<Outgoing>()) {
            return Err(SocketError::trap(wasmtime::Error::msg("the socket's streams have not been dropped")));
        }
        let socket = self.table.get(&resource)?;
        let (datagrams, family) = (Arc::clone(socket.bound()?), socket.family);
        let peer = address.map(|address| remote(address, family)).transpose()?;
        datagrams.connect(peer).map_err(failed)?;
        let incoming = self.table.push_child(Incoming(Arc::clone(&datagrams)), &resource)?;
        let outgoing = self.table.push_child(Outgoing { datagrams, family, permitted: 0 }, &resource)?;
        Ok((theirs(&incoming), theirs(&outgoing)))
    }

    fn local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.table.get(&ours::<_, Udp>(&this))?.bound()?.local_addr().into())
    }

    fn remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.table.get(&ours::<_, Udp>(&this))?;
        Ok(socket.bound()?.remote_addr().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&ours::<_, Udp>(&this))?.family)
    }

    fn unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.table.get(&ours::<_, Udp>(&this))?.options.hop_limit())
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        Ok(self.table.get_mut(&ours::<_, Udp>(&this))?.options.set_hop_limit(value)?)
    }

    fn receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.table.get(&ours::<_, Udp>(&this))?.options.receive_buffer_bytes())
    }

    fn set_receive_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&ours::<_, Udp>(&this))?.options.set_receive_buffer_bytes(value)?)
    }

    fn send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.table.get(&ours::<_, Udp>(&this))?.options.send_buffer_bytes())
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.table.get_mut(&ours::<_, Udp>(&this))?.options.set_send_buffer_bytes(value)?)
    }

    fn subscribe(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Udp>(&this))
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(ours::<_, Udp>(&this))?;
        Ok(())
    }
}

impl HostIncomingDatagramStream for Sockets<'_> {
    fn receive(&mut self, this: Resource<IncomingDatagramStream>, max: u64) -> SocketResult<Vec<IncomingDatagram>> {
        let Incoming(datagrams) = self.table.get(&ours::<_, Incoming>(&this))?;
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(MAX_DATAGRAMS);
        let (mut received, mut total) = (Vec::new(), 0);
        while received.len() < max && total < MAX_RECEIVED_BYTES {
            match datagrams.try_receive() {
                Ok(Some((data, from))) => {
                    total += data.len();
                    received.push(IncomingDatagram { data, remote_address: from.into() });
                }
                Ok(None) => break,
                // An error is only said when there is nothing else to say; this one is then lost, as a datagram may be.
                Err(_) if !received.is_empty() => break,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(received)
    }

    fn subscribe(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Incoming>(&this))
    }

    fn drop(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(ours::<_, Incoming>(&this))?;
        Ok(())
    }
}

impl Outgoing {
    fn send(&self, datagram: &OutgoingDatagram) -> Result<(), ErrorCode> {
        let given = datagram.remote_address.map(|address| remote(address, self.family)).transpose()?;
        let to: SocketAddr = match (given, self.datagrams.remote_addr()) {
            (Some(given), Some(connected)) if given != connected => return Err(ErrorCode::InvalidArgument),
            (given, connected) => given.or(connected).ok_or(ErrorCode::InvalidArgument)?,
        };
        self.datagrams.send(to, &datagram.data).map_err(super::error_code)
    }
}

impl HostOutgoingDatagramStream for Sockets<'_> {
    fn check_send(&mut self, this: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        self.table.get_mut(&ours::<_, Outgoing>(&this))?.permitted = MAX_DATAGRAMS;
        Ok(MAX_DATAGRAMS as u64)
    }

    fn send(&mut self, this: Resource<OutgoingDatagramStream>, datagrams: Vec<OutgoingDatagram>) -> SocketResult<u64> {
        let stream = self.table.get_mut(&ours::<_, Outgoing>(&this))?;
        if datagrams.is_empty() {
            return Ok(0);
        }
        if datagrams.len() > mem::take(&mut stream.permitted) {
            return Err(SocketError::trap(wasmtime::Error::msg("sent more datagrams than was permitted")));
        }
        let mut sent = 0;
        for datagram in &datagrams {
            match stream.send(datagram) {
                Ok(()) => sent += 1,
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    fn subscribe(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Outgoing>(&this))
    }

    async fn drop(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(ours::<_, Outgoing>(&this))?;
        Ok(())
    }
}
