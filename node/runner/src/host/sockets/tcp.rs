//! TCP sockets of components.
//!
//! ```text
//!  New ── start-bind ──▶ Binding ── finish ──▶ Bound ── start-listen ──▶ Starting ── finish ──▶ Listening
//!   │                                            │
//!   └────────────── start-connect ───────────────┴──▶ Connecting ── ends ──▶ Dialled ── finish ──▶ Open
//!                                                                               └─── failed ──▶ Closed
//! ```
//!
//! What is called at another place than its arrow is `invalid-state`, or `concurrency-conflict` while something else is
//! about to finish. Accepted sockets begin as Open.

use super::{
    Sockets, failed, local,
    options::Options,
    ours, remote,
    streams::{GuestOutput, Input, Output},
    theirs,
};
use crate::{
    memory::MemoryAccount,
    network::{
        error::SocketError as NetworkError,
        listener::Listener,
        pod::{Binding, SocketPermit},
        stream::{Connection, Stream},
    },
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    mem,
    net::{IpAddr, Shutdown, SocketAddr},
    sync::Arc,
};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, Pollable, SocketResult, TcpSocket,
    bindings::sockets::{
        network::{ErrorCode, IpAddressFamily, IpSocketAddress, Network},
        tcp::{Host, HostTcpSocket, ShutdownType},
        tcp_create_socket,
    },
    subscribe,
};

/// Linux's and Rust's default.
const BACKLOG: u32 = 128;

/// A guest's TCP socket.
pub(super) struct Tcp {
    family: IpAddressFamily,
    options: Options,
    backlog: u32,
    state: State,
    /// An accepted connection counts as such, and not as a socket.
    _permit: Option<SocketPermit>,
}

enum State {
    New,
    Binding(Binding),
    Bound(Binding),
    Starting(Listener),
    Listening(Listener),
    Connecting(BoxFuture<'static, Result<Connection, NetworkError>>),
    Dialled(Result<Connection, NetworkError>),
    Open { local: SocketAddr, remote: SocketAddr, stream: Stream, output: Output },
    Closed,
}

impl State {
    fn take(&mut self) -> Self {
        mem::replace(self, Self::Closed)
    }

    /// Why something that needs another state cannot be done.
    fn conflict(&self) -> ErrorCode {
        match self {
            Self::Binding(_) | Self::Starting(_) | Self::Connecting(_) | Self::Dialled(_) => {
                ErrorCode::ConcurrencyConflict
            }
            _ => ErrorCode::InvalidState,
        }
    }
}

/// What a guest holds of a connection beside the socket.
type Streams = (DynInputStream, DynOutputStream);

impl Tcp {
    fn new(family: IpAddressFamily, permit: Option<SocketPermit>) -> Self {
        Self { family, options: Options::default(), backlog: BACKLOG, state: State::New, _permit: permit }
    }

    fn open(&mut self, connection: Connection, memory: &Arc<MemoryAccount>) -> Streams {
        let Connection { stream, local, remote } = connection;
        let output = Output::new(stream.clone(), memory);
        let streams: Streams = (Box::new(Input::new(&output)), Box::new(GuestOutput(output.clone())));
        self.state = State::Open { local, remote, stream, output };
        streams
    }
}

#[async_trait::async_trait]
impl Pollable for Tcp {
    async fn ready(&mut self) {
        match &mut self.state {
            State::Connecting(dial) => {
                let result = dial.await;
                self.state = State::Dialled(result);
            }
            State::Listening(listener) => listener.readable().await,
            _ => {}
        }
    }
}

impl tcp_create_socket::Host for Sockets<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let permit = self.network.socket().map_err(failed)?;
        let socket = self.add(Tcp::new(family, Some(permit)))?;
        Ok(theirs(&socket))
    }
}

impl Sockets<'_> {
    /// Ends what was started: `next` gives the state that follows, or the one that was there and is not about to finish.
    fn finish(
        &mut self,
        this: &Resource<TcpSocket>,
        next: impl FnOnce(State) -> Result<State, State>,
    ) -> SocketResult<()> {
        let socket = self.table.get_mut(&ours::<_, Tcp>(this))?;
        let (state, result) = match next(socket.state.take()) {
            Ok(state) => (state, Ok(())),
            Err(state) => (state, Err(ErrorCode::NotInProgress.into())),
        };
        socket.state = state;
        result
    }

    /// Gives the guest the streams of a connection, which must be dropped before their socket.
    fn add_streams(
        &mut self,
        socket: &Resource<Tcp>,
        (input, output): Streams,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let input = self.table.push_child(input, socket)?;
        let output = self.table.push_child(output, socket)?;
        Ok((input, output))
    }
}

/// A socket's option, read or set.
macro_rules! option {
    ($get:ident, $set:ident, $read:ident, $write:ident, $type:ty) => {
        fn $get(&mut self, this: Resource<TcpSocket>) -> SocketResult<$type> {
            Ok(self.table.get(&ours::<_, Tcp>(&this))?.options.$read())
        }

        fn $set(&mut self, this: Resource<TcpSocket>, value: $type) -> SocketResult<()> {
            Ok(self.table.get_mut(&ours::<_, Tcp>(&this))?.options.$write(value)?)
        }
    };
}

impl Host for Sockets<'_> {}

impl HostTcpSocket for Sockets<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_right(&network)?;
        let pod = self.network;
        let socket = self.table.get_mut(&ours::<_, Tcp>(&this))?;
        if !matches!(socket.state, State::New) {
            return Err(socket.state.conflict().into());
        }
        let address = local(address, socket.family)?;
        socket.state = State::Binding(pod.bind(address).map_err(failed)?);
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        self.finish(&this, |state| match state {
            State::Binding(binding) => Ok(State::Bound(binding)),
            state => Err(state),
        })
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_right(&network)?;
        let pod = self.network.clone();
        let socket = self.table.get_mut(&ours::<_, Tcp>(&this))?;
        if !matches!(socket.state, State::New | State::Bound(_)) {
            return Err(socket.state.conflict().into());
        }
        let to = remote(address, socket.family)?;
        let multicast = match to.ip() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        if multicast {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let from = match socket.state.take() {
            State::Bound(binding) => Some(binding),
            _ => None,
        };
        let mut dial = async move { pod.connect(from, to).await }.boxed();
        // The first step is made now, whether or not the guest waits for the rest.
        socket.state = match (&mut dial).now_or_never() {
            Some(result) => State::Dialled(result),
            None => State::Connecting(dial),
        };
        Ok(())
    }

    fn finish_connect(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let resource = ours::<_, Tcp>(&this);
        let memory = self.network.memory();
        let socket = self.table.get_mut(&resource)?;
        let result = match socket.state.take() {
            State::Dialled(result) => result,
            State::Connecting(mut dial) => {
                let Some(result) = (&mut dial).now_or_never() else {
                    socket.state = State::Connecting(dial);
                    return Err(ErrorCode::WouldBlock.into());
                };
                result
            }
            state => {
                socket.state = state;
                return Err(ErrorCode::NotInProgress.into());
            }
        };
        let streams = socket.open(result.map_err(failed)?, memory);
        self.add_streams(&resource, streams)
    }

    async fn start_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        let pod = self.network;
        let socket = self.table.get_mut(&ours::<_, Tcp>(&this))?;
        match socket.state.take() {
            State::Bound(binding) => {
                socket.state = State::Starting(pod.listen_on(binding, socket.backlog));
                Ok(())
            }
            state => {
                let error = state.conflict();
                socket.state = state;
                Err(error.into())
            }
        }
    }

    fn finish_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        self.finish(&this, |state| match state {
            State::Starting(listener) => Ok(State::Listening(listener)),
            state => Err(state),
        })
    }

    fn accept(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let socket = self.table.get_mut(&ours::<_, Tcp>(&this))?;
        let State::Listening(listener) = &socket.state else {
            return Err(socket.state.conflict().into());
        };
        let connection = listener.try_accept().map_err(failed)?.ok_or(ErrorCode::WouldBlock)?;
        let mut accepted = Tcp::new(socket.family, None);
        accepted.options = socket.options.clone();
        let streams = accepted.open(connection, self.network.memory());
        let accepted = self.add(accepted)?;
        let (input, output) = self.add_streams(&accepted, streams)?;
        Ok((theirs(&accepted), input, output))
    }

    fn local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        match &self.table.get(&ours::<_, Tcp>(&this))?.state {
            State::Bound(binding) => Ok(binding.local_addr().into()),
            State::Starting(listener) | State::Listening(listener) => Ok(listener.local_addr().into()),
            State::Open { local, .. } => Ok((*local).into()),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        match &self.table.get(&ours::<_, Tcp>(&this))?.state {
            State::Open { remote, .. } => Ok((*remote).into()),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(matches!(self.table.get(&ours::<_, Tcp>(&this))?.state, State::Listening(_)))
    }

    fn address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&ours::<_, Tcp>(&this))?.family)
    }

    fn set_listen_backlog_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        let socket = self.table.get_mut(&ours::<_, Tcp>(&this))?;
        match socket.state {
            _ if value == 0 => Err(ErrorCode::InvalidArgument.into()),
            State::New | State::Binding(_) | State::Bound(_) => {
                socket.backlog = u32::try_from(value).unwrap_or(u32::MAX);
                Ok(())
            }
            State::Starting(_) | State::Listening(_) => Err(ErrorCode::NotSupported.into()),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.table.get(&ours::<_, Tcp>(&this))?.options.keep_alive)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket>, value: bool) -> SocketResult<()> {
        self.table.get_mut(&ours::<_, Tcp>(&this))?.options.keep_alive = value;
        Ok(())
    }

    option!(keep_alive_idle_time, set_keep_alive_idle_time, keep_alive_idle_nanos, set_keep_alive_idle_nanos, u64);
    option!(
        keep_alive_interval,
        set_keep_alive_interval,
        keep_alive_interval_nanos,
        set_keep_alive_interval_nanos,
        u64
    );
    option!(keep_alive_count, set_keep_alive_count, keep_alive_count, set_keep_alive_count, u32);
    option!(hop_limit, set_hop_limit, hop_limit, set_hop_limit, u8);
    option!(receive_buffer_size, set_receive_buffer_size, receive_buffer_bytes, set_receive_buffer_bytes, u64);
    option!(send_buffer_size, set_send_buffer_size, send_buffer_bytes, set_send_buffer_bytes, u64);

    fn subscribe(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Tcp>(&this))
    }

    fn shutdown(&mut self, this: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        let State::Open { stream, output, .. } = &self.table.get(&ours::<_, Tcp>(&this))?.state else {
            return Err(ErrorCode::InvalidState.into());
        };
        if !matches!(how, ShutdownType::Send) {
            stream.shutdown(Shutdown::Read)?;
        }
        if !matches!(how, ShutdownType::Receive) {
            output.end();
        }
        Ok(())
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(ours::<_, Tcp>(&this))?;
        Ok(())
    }
}
