//! Packets to and from nodes that this one does not reach directly: one stream through the server, held open so that others
//! can reach this node by it. What it carries is encrypted from node to node.
//!
//! It must never wait, and never hold up the tunnel: what finds no room, or no server, is lost, as packets are.

use crate::{
    grpc::{Connection, refusal, timed},
    retry::Reconnect,
};
use bytes::Bytes;
use coracle_net::tunnel::{self, Tunnel};
use coracle_objects::ApiError;
use coracle_wire::v1::{RelayedPackets, node_link_client::NodeLinkClient};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

/// Messages that wait to be sent; of up to 64 KiB each.
const QUEUE: usize = 32;
/// A stream that lasted so long worked.
const WORKED: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    to_server: Mutex<Option<mpsc::Sender<RelayedPackets>>>,
}

impl tunnel::Relay for Relay {
    fn send(&self, node: &str, segment_bytes: usize, packets: Bytes) {
        let to_server = self.to_server.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(to_server), Ok(segment_bytes)) = (&*to_server, u32::try_from(segment_bytes)) else { return };
        // Full: lost.
        let _lost = to_server.try_send(RelayedPackets { node: node.to_owned(), segment_bytes, packets });
    }
}

impl Relay {
    /// Keeps the stream until it is dropped, and gives what comes to the tunnel.
    pub(crate) async fn keep(self: Arc<Self>, connection: Connection, tunnel: Tunnel) {
        let mut reconnect = Reconnect::new();
        loop {
            let mut opened: Option<Instant> = None;
            let (sender, receiver) = mpsc::channel(QUEUE);
            self.set(Some(sender));
            let mut client = NodeLinkClient::new(connection.clone());
            let outcome = async {
                let mut from_server = timed(client.relay(ReceiverStream::new(receiver))).await?;
                opened = Some(Instant::now());
                let mut next = async || from_server.message().await.map_err(|status| refusal(&status));
                while let Some(RelayedPackets { node, segment_bytes, packets }) = next().await? {
                    tunnel.relayed(&node, usize::try_from(segment_bytes).unwrap_or(0), packets);
                }
                Ok::<(), ApiError>(())
            };
            let outcome = outcome.await;
            self.set(None);
            if opened.is_some_and(|since| since.elapsed() > WORKED) {
                reconnect.reset();
            }
            match outcome {
                Ok(()) => debug!("the relay ended"),
                Err(error) if reconnect.is_news(&error) => warn!(%error, "lost the relay to other nodes"),
                Err(error) => debug!(%error, "still no relay to other nodes"),
            }
            tokio::time::sleep(reconnect.delay()).await;
        }
    }

    fn set(&self, to_server: Option<mpsc::Sender<RelayedPackets>>) {
        *self.to_server.lock().unwrap_or_else(PoisonError::into_inner) = to_server;
    }
}
