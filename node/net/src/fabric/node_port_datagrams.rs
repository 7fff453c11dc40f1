//! Datagrams from outside, by node ports and external addresses: one real socket for each, answers sent from it. Opened and
//! closed by [`super::openings`]; keeps no datagram.

use super::{Shared, openings::Opening, statistics::Count, udp_socket::UdpSocket};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// After a socket fails to receive, so long nothing is tried with it.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Takes datagrams in until the port is closed.
pub(crate) async fn serve(shared: Arc<Shared>, socket: Arc<UdpSocket>, opening: Opening, close: CancellationToken) {
    let address = opening.address();
    shared.open_sockets.lock().insert(address, Arc::clone(&socket));
    loop {
        let received = tokio::select! {
            () = close.cancelled() => break,
            received = socket.receive(&shared.receive_buffer) => received,
        };
        match received {
            Ok((bytes, client)) => shared.datagram_from_outside(opening, client, bytes),
            Err(_) => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
        }
    }
    shared.open_sockets.lock().remove(&address);
}

impl Shared {
    /// Sends a pod's answer to whoever came to an address that is open here.
    pub(crate) fn answer_from(&self, opened: SocketAddr, client: SocketAddr, bytes: &[u8]) {
        let socket = self.open_sockets.lock().get(&opened).cloned();
        if socket.is_some_and(|socket| socket.send(bytes, client).is_ok()) {
            self.counters.add(Count::DatagramsOutside);
        }
    }
}
