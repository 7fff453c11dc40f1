//! `wasi:sockets` for components: TCP and UDP over the pod's own network instead of the machine's.
//!
//! The interfaces are those that `wasmtime-wasi` links, implemented anew and put in their place. A handle of theirs is
//! a number in the guest's table, and behind that number lies a resource of ours: nothing in here ever makes one of
//! `wasmtime-wasi`'s sockets, and [`ours`] and [`theirs`] are the only places where a number changes its type.

mod options;
mod streams;
mod tcp;
mod udp;

use super::state::GuestState;
use crate::network::{error::SocketError as NetworkError, pod::PodNetwork};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};
use wasmtime_wasi::p2::{
    SocketError, SocketResult,
    bindings::sockets::{
        network::{self, ErrorCode, IpAddressFamily, IpSocketAddress, Network},
        tcp as tcp_interface, tcp_create_socket, udp as udp_interface, udp_create_socket,
    },
};

/// A guest's resources and its network.
pub(crate) struct Sockets<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) network: &'a PodNetwork,
}

/// Tells the linker how to get at [`Sockets`].
struct HasSockets;

impl HasData for HasSockets {
    type Data<'a> = Sockets<'a>;
}

/// Puts these sockets in the place of the machine's. The linker must allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    tcp_create_socket::add_to_linker::<_, HasSockets>(linker, GuestState::sockets)?;
    tcp_interface::add_to_linker::<_, HasSockets>(linker, GuestState::sockets)?;
    udp_create_socket::add_to_linker::<_, HasSockets>(linker, GuestState::sockets)?;
    udp_interface::add_to_linker::<_, HasSockets>(linker, GuestState::sockets)
}

/// The resource of ours behind a handle.
fn ours<Theirs: 'static, Ours: 'static>(handle: &Resource<Theirs>) -> Resource<Ours> {
    if handle.owned() { Resource::new_own(handle.rep()) } else { Resource::new_borrow(handle.rep()) }
}

/// A handle for a resource of ours.
fn theirs<Ours: 'static, Theirs: 'static>(resource: &Resource<Ours>) -> Resource<Theirs> {
    Resource::new_own(resource.rep())
}

impl network::Host for Sockets<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?;
        Ok(error.downcast_ref::<io::Error>().map(ErrorCode::from))
    }
}

impl network::HostNetwork for Sockets<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(network)?;
        Ok(())
    }
}

impl Sockets<'_> {
    /// The network is the right to bind and connect; there is one, and every guest has it.
    fn check_right(&self, network: &Resource<Network>) -> SocketResult<()> {
        self.table.get(network)?;
        Ok(())
    }

    /// Puts a socket into the guest's table.
    fn add<T: Send + 'static>(&mut self, socket: T) -> SocketResult<Resource<T>> {
        match self.table.push(socket) {
            Ok(resource) => Ok(resource),
            Err(ResourceTableError::Full) => Err(ErrorCode::NewSocketLimit.into()),
            Err(error) => Err(error.into()),
        }
    }
}

fn error_code(error: NetworkError) -> ErrorCode {
    match error {
        NetworkError::AddressInUse => ErrorCode::AddressInUse,
        NetworkError::AddressNotAvailable => ErrorCode::AddressNotBindable,
        NetworkError::InvalidArgument => ErrorCode::InvalidArgument,
        NetworkError::Refused => ErrorCode::ConnectionRefused,
        NetworkError::Unreachable => ErrorCode::RemoteUnreachable,
        NetworkError::TimedOut => ErrorCode::Timeout,
        NetworkError::Denied => ErrorCode::AccessDenied,
        NetworkError::TooMany => ErrorCode::NewSocketLimit,
        NetworkError::TooLarge => ErrorCode::DatagramTooLarge,
    }
}

fn failed(error: NetworkError) -> SocketError {
    error_code(error).into()
}

/// An address to bind to: of the socket's family, and of one machine.
fn local(address: IpSocketAddress, family: IpAddressFamily) -> Result<SocketAddr, ErrorCode> {
    let address = SocketAddr::from(address);
    let fits = match address.ip() {
        IpAddr::V4(ip) => family == IpAddressFamily::Ipv4 && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST,
        IpAddr::V6(ip) => family == IpAddressFamily::Ipv6 && !ip.is_multicast() && ip.to_ipv4_mapped().is_none(),
    };
    if fits { Ok(SocketAddr::new(address.ip(), address.port())) } else { Err(ErrorCode::InvalidArgument) }
}

/// An address to connect or send to: of the socket's family, with a port.
fn remote(address: IpSocketAddress, family: IpAddressFamily) -> Result<SocketAddr, ErrorCode> {
    let address = SocketAddr::from(address);
    let fits = match address.ip() {
        IpAddr::V4(_) => family == IpAddressFamily::Ipv4,
        IpAddr::V6(ip) => family == IpAddressFamily::Ipv6 && ip.to_ipv4_mapped().is_none(),
    };
    if fits && !address.ip().is_unspecified() && address.port() != 0 {
        Ok(SocketAddr::new(address.ip(), address.port()))
    } else {
        Err(ErrorCode::InvalidArgument)
    }
}
