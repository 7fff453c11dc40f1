//! Where the node is: its address towards the server, which changes while it runs where nobody has fixed it (another
//! network, another lease). Nothing is ever sent to find out.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    time::Duration,
};
use tokio::sync::watch;
use tracing::debug;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// What others are told of where the node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its address.
    pub(crate) address: String,
    /// Its end of the tunnel, `IP:PORT`; empty for nowhere.
    pub(crate) reached_at: String,
}

/// The address that this machine uses towards a server, `https://HOST:PORT`. Blocks while the name is looked up.
///
/// # Errors
/// When the name is not known, or there is no way to it.
pub fn own_address(server: &str) -> io::Result<IpAddr> {
    let authority = server.strip_prefix("https://").unwrap_or(server).trim_end_matches('/');
    towards(authority.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?)
}

fn towards(target: SocketAddr) -> io::Result<IpAddr> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // Connecting a datagram socket sends nothing.
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// Ends when the address towards the server, which is where its connection found it, is another one than `known`, which it
/// then is.
pub(crate) async fn moved(server: &watch::Receiver<Vec<SocketAddr>>, known: IpAddr) -> IpAddr {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(target) = server.borrow().first().copied() else { continue };
        match towards(target) {
            Ok(address) if address != known => return address,
            Ok(_) => {}
            // Without a network it is where it was.
            Err(error) => debug!(%error, "cannot tell this node's address"),
        }
    }
}
