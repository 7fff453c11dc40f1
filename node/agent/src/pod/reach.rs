//! Where probes and hooks connect to: the pod itself unless they name another host. Another host is reached as the pod
//! itself would reach it, so that a manifest makes the node connect nowhere where its pod may not.

use crate::{context::Context, network::into_pod::Stream, pod::subject::Subject};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// `HOST:PORT` as people read it; without a host the pod's address.
pub(crate) fn authority(subject: &Subject, host: &str, port: u16) -> String {
    if host.is_empty() {
        format!("{}:{port}", subject.address)
    } else if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Connects. Dropping the future gives it up.
///
/// # Errors
/// What people read: `dial tcp 10.244.0.7:8080: connect: connection refused`.
pub(crate) async fn connect(
    context: &Context,
    subject: &Subject,
    host: &str,
    port: u16,
) -> Result<Box<dyn Stream>, String> {
    let inside = match host.trim_matches(['[', ']']) {
        "" => Some(IpAddr::V4(subject.address)),
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse().ok().filter(|address: &IpAddr| address.is_loopback() || *address == subject.address),
    };
    let connected: io::Result<Box<dyn Stream>> = match inside {
        Some(address) => {
            let to = SocketAddr::new(address, port);
            context.network.dial_pod(subject.pod_uid(), to).await.map(|stream| Box::new(stream) as Box<dyn Stream>)
        }
        None => context.network.dial_for(subject.pod_uid(), host, port).await,
    };
    connected.map_err(|error| format!("dial tcp {}: {}", authority(subject, host, port), cause(&error)))
}

/// The words that people know from other systems.
fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        io::ErrorKind::PermissionDenied => "connect: permission denied".to_owned(),
        io::ErrorKind::WouldBlock => "connect: resource temporarily unavailable".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether two hosts are one; the empty one is the pod itself.
pub(crate) fn is_same_host(subject: &Subject, one: &str, other: &str) -> bool {
    let own = subject.address.to_string();
    let name =
        |host: &str| if host.is_empty() { own.clone() } else { host.trim_matches(['[', ']']).to_ascii_lowercase() };
    name(one) == name(other)
}
