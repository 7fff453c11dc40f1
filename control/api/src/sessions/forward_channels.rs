//! Port-forward over WebSocket channels, as client libraries do it: for the n-th port channel 2n carries its bytes and
//! channel 2n+1 its errors; one connection for each port, opened at once.

use super::{
    Idle,
    forward::{Opener, said, send},
    websocket::{Channels, Socket},
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use std::collections::HashMap;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::sync::CancellationToken;

/// Most ports of one connection.
pub(super) const PORTS_MAX: usize = 32;
/// Messages that wait in each direction of a port.
const QUEUE: usize = 4;

/// Serves a client until it goes away, or every port's connection has ended.
pub(super) async fn serve(
    socket: Socket,
    channels: Channels,
    ports: &[u16],
    opener: &Opener,
    closing: &CancellationToken,
) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Message>(QUEUE);
    let (mut inputs, mut running) = (HashMap::new(), JoinSet::new());
    for (place, &port) in (0_u8..).step_by(2).zip(ports.iter().take(PORTS_MAX)) {
        let (input, received) = mpsc::channel(QUEUE);
        inputs.insert(place, input);
        let forward = Forward { channels, place, port, opener: opener.clone(), sender: sender.clone() };
        running.spawn(forward.run(received));
    }
    drop(sender);
    let idle = Idle::new();
    let downward = async {
        while let Some(message) = outgoing.recv().await {
            idle.touch();
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(close))).await.ok();
    };
    let upward = async {
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                return;
            }
            idle.touch();
            let Some((channel, bytes)) = channels.parts(message) else { continue };
            if let Some(input) = inputs.get(&channel) {
                // A port whose connection has ended takes nothing more.
                input.send(bytes).await.ok();
            }
        }
    };
    tokio::select! {
        () = downward => {}
        () = upward => {}
        () = idle.expired() => {}
        () = closing.cancelled() => {}
    }
}

/// One port.
struct Forward {
    channels: Channels,
    /// The channel of its bytes; that of its errors is the next.
    place: u8,
    port: u16,
    opener: Opener,
    sender: mpsc::Sender<Message>,
}

impl Forward {
    async fn run(self, received: mpsc::Receiver<Bytes>) {
        // Both channels begin with the port, so that the client knows which is which.
        let port = self.port.to_le_bytes();
        for channel in [self.place, self.place + 1] {
            self.send(channel, &port).await;
        }
        if let Err(failure) = self.join(received).await {
            let text = self.opener.failure(self.port, &failure.message);
            self.send(self.place + 1, text.as_bytes()).await;
        }
    }

    async fn send(&self, channel: u8, bytes: &[u8]) {
        // When the client has gone, this whole task is ended.
        self.sender.send(self.channels.message(channel, bytes)).await.ok();
    }

    async fn join(&self, mut received: mpsc::Receiver<Bytes>) -> Result<(), coracle_objects::ApiError> {
        let (mut reader, writer) = self.opener.open(self.port).await?.split();
        let upward = async {
            while let Some(bytes) = received.recv().await {
                if send(&writer, bytes).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let downward = async {
            while let Some((bytes, _)) = said(&mut reader).await? {
                if !bytes.is_empty() {
                    self.send(self.place, &bytes).await;
                }
            }
            Ok(())
        };
        tokio::select! {
            ended = downward => ended,
            () = upward => Ok(()),
        }
    }
}
