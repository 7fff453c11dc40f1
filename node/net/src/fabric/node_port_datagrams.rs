//! Datagrams through node ports: one real socket for each port, answers sent from it. Opened and closed by
//! [`super::node_ports`]; keeps no datagram.

use super::{Shared, statistics::Count, udp_socket::UdpSocket};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// After a socket fails to receive, so long nothing is tried with it.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Takes datagrams in until the port is closed.
pub(crate) async fn serve(shared: Arc<Shared>, socket: Arc<UdpSocket>, address: SocketAddr, close: CancellationToken) {
    shared.node_port_sockets.lock().insert(address.port(), Arc::clone(&socket));
    loop {
        let received = tokio::select! {
            () = close.cancelled() => break,
            received = socket.receive(&shared.receive_buffer) => received,
        };
        match received {
            Ok((bytes, client)) => shared.node_port_datagram(address, client, bytes),
            Err(_) => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
        }
    }
    shared.node_port_sockets.lock().remove(&address.port());
}

impl Shared {
    /// Sends a pod's answer to whoever came to the node port.
    pub(crate) fn answer_from_node_port(&self, port: u16, client: SocketAddr, bytes: &[u8]) {
        let socket = self.node_port_sockets.lock().get(&port).cloned();
        if socket.is_some_and(|socket| socket.send(bytes, client).is_ok()) {
            self.counters.add(Count::DatagramsOutside);
        }
    }
}
