//! Where the node is: its address towards the server, which changes while it runs where nobody has fixed it (another
//! network, another lease). Nothing is ever sent to find out.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs as _, UdpSocket},
    time::Duration,
};
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
    let target = authority.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // Connecting a datagram socket sends nothing.
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// Ends when the address is another one than `known`, which it then is.
pub(crate) async fn moved(server: &str, known: IpAddr) -> IpAddr {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let server = server.to_owned();
        match tokio::task::spawn_blocking(move || own_address(&server)).await {
            Ok(Ok(address)) if address != known => return address,
            Ok(Ok(_)) | Err(_) => {}
            // Without a network it is where it was.
            Ok(Err(error)) => debug!(%error, "cannot tell this node's address"),
        }
    }
}
