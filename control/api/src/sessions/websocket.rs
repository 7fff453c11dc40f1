//! WebSocket: exec and attach as numbered channels in messages, and the byte streams that other protocols run over.
//!
//! The first byte of a message (in the base64 protocols: its first character) is the channel. Protocol 5 has one
//! message more: channel 255 closes the channel that follows.

use super::{
    Gone,
    bridge::{ERROR, FromClient, Input, RESIZE, STDIN, STDOUT, ToClient},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{
    SinkExt as _, StreamExt as _, TryStreamExt as _, future,
    stream::{SplitSink, SplitStream},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// Most bytes in one message of a client.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes read from the connection at a time.
const READ_BYTES: usize = 32 * 1024;
/// The channel that closes others.
const CLOSE: u8 = 255;

/// An upgraded connection.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A channel protocol of exec and attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Whether messages are text: a digit and base64.
    base64: bool,
    /// Whether the end is told as a `Status` in JSON (from version 4 on); otherwise only a failure's text is.
    status: bool,
    /// Whether a client may close its channels (version 5).
    closes: bool,
}

/// Every protocol, the preferred ones first.
pub(super) const PROTOCOLS: [(&str, Channels); 6] = [
    ("v5.channel.k8s.io", Channels { base64: false, status: true, closes: true }),
    ("v4.channel.k8s.io", Channels { base64: false, status: true, closes: false }),
    ("v4.base64.channel.k8s.io", Channels { base64: true, status: true, closes: false }),
    ("channel.k8s.io", Channels { base64: false, status: false, closes: false }),
    ("base64.channel.k8s.io", Channels { base64: true, status: false, closes: false }),
    ("", Channels { base64: false, status: false, closes: false }),
];

impl Channels {
    /// A message with bytes of a channel.
    pub(super) fn message(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::from(char::from(b'0' + channel));
            STANDARD.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.put_u8(channel);
        message.put_slice(bytes);
        Message::Binary(message.freeze())
    }

    /// The channel and the bytes in a message; `None` for what makes no sense.
    pub(super) fn parts(self, message: Message) -> Option<(u8, Bytes)> {
        let mut bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        let channel = bytes.try_get_u8().ok()?;
        if self.base64 {
            return Some((channel.checked_sub(b'0')?, STANDARD.decode(bytes).ok()?.into()));
        }
        Some((channel, bytes))
    }

    fn input(self, message: Message) -> Option<Input> {
        let (channel, bytes) = self.parts(message)?;
        match (u32::from(channel), bytes) {
            (STDIN, bytes) if !bytes.is_empty() => Some(Input::Stdin(bytes)),
            (RESIZE, bytes) if !bytes.is_empty() => Some(Input::Resize(bytes)),
            (_, bytes) if self.closes && channel == CLOSE && u32::from(*bytes.first()?) == STDIN => {
                Some(Input::StdinEnd)
            }
            _ => None,
        }
    }
}

/// Speaks WebSocket on an upgraded connection.
pub(super) async fn accept(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// Both halves of a client of exec or attach.
pub(super) fn halves(socket: Socket, channels: Channels) -> (FromSocket, ToSocket) {
    let (sink, stream) = socket.split();
    (FromSocket { stream, channels }, ToSocket { sink, channels })
}

pub(super) struct FromSocket {
    stream: SplitStream<Socket>,
    channels: Channels,
}

pub(super) struct ToSocket {
    sink: SplitSink<Socket, Message>,
    channels: Channels,
}

impl FromClient for FromSocket {
    async fn next(&mut self) -> Option<Input> {
        loop {
            match self.stream.next().await {
                Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => {
                    if let Some(input) = self.channels.input(message) {
                        return Some(input);
                    }
                }
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "a WebSocket broke");
                    return None;
                }
            }
        }
    }
}

impl ToSocket {
    /// Clients take the first message for the sign that the session is open.
    pub(super) async fn greet(&mut self, stdout: bool) -> Result<(), Gone> {
        self.channel(if stdout { STDOUT } else { ERROR }, &[]).await
    }

    async fn channel(&mut self, channel: u32, bytes: &[u8]) -> Result<(), Gone> {
        let channel = u8::try_from(channel).map_err(|_| Gone)?;
        self.send(self.channels.message(channel, bytes)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        self.sink.send(message).await.map_err(|_| Gone)
    }
}

impl ToClient for ToSocket {
    async fn output(&mut self, channel: u32, bytes: Bytes) -> Result<(), Gone> {
        self.channel(channel, &bytes).await
    }

    /// A pong that nobody asked for: clients that ping would give up while their pings wait behind input that the
    /// container does not read.
    async fn heartbeat(&mut self) -> Result<(), Gone> {
        self.send(Message::Pong(Bytes::new())).await
    }

    async fn end(&mut self, status: &Value) -> Result<(), Gone> {
        if let Some(text) = status_text(status, self.channels.status) {
            self.channel(ERROR, text.as_bytes()).await?;
        }
        self.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
    }
}

/// What a client is told of the end: the `Status`, or in old protocols the text of a failure.
pub(super) fn status_text(status: &Value, as_json: bool) -> Option<String> {
    if as_json {
        return Some(status.to_string());
    }
    (status["status"] != "Success").then(|| status["message"].as_str().unwrap_or("it failed").to_owned())
}

/// The bytes that binary messages carry, as streams for another protocol.
pub(super) fn bytes(socket: Socket) -> (impl AsyncRead + Unpin + Send, impl AsyncWrite + Unpin + Send) {
    let (sink, stream) = socket.split();
    let incoming = stream.map_err(io::Error::other).try_take_while(|message| future::ok(!message.is_close()));
    let incoming = incoming.try_filter_map(|message| {
        future::ok(match message {
            Message::Binary(bytes) => Some(bytes),
            _ => None,
        })
    });
    let outgoing =
        sink.sink_map_err(io::Error::other).with(|bytes: Bytes| future::ok::<_, io::Error>(Message::Binary(bytes)));
    (StreamReader::new(incoming), SinkWriter::new(CopyToBytes::new(outgoing)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn protocol(name: &str) -> Channels {
        PROTOCOLS.into_iter().find(|(own, _)| *own == name).unwrap().1
    }

    fn binary(bytes: &'static [u8]) -> Message {
        Message::Binary(Bytes::from_static(bytes))
    }

    #[test]
    fn messages_carry_channels() {
        let stdin = |text: &'static str| Some(Input::Stdin(Bytes::from_static(text.as_bytes())));
        let (v5, v4, base64) = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io");
        let cases = [
            (v5, binary(b"\x00hello"), stdin("hello")),
            (v5, binary(b"\x00"), None),
            (v5, binary(b""), None),
            (v5, binary(b"\x01no input"), None),
            (v5, binary(b"\x04{}"), Some(Input::Resize(Bytes::from_static(b"{}")))),
            (v5, binary(b"\xff\x00"), Some(Input::StdinEnd)),
            (v5, binary(b"\xff\x01"), None),
            (v5, binary(b"\xff"), None),
            (v4, binary(b"\xff\x00"), None),
            (v4, Message::text("\u{0}typed"), stdin("typed")),
            (base64, Message::text("0aGVsbG8="), stdin("hello")),
            (base64, Message::text("0###"), None),
            (base64, Message::text("!x"), None),
            ("", binary(b"\x00x"), stdin("x")),
        ];
        for (name, message, input) in cases {
            assert_eq!(protocol(name).input(message.clone()), input, "{name} {message:?}");
        }
        assert_eq!(protocol(v5).message(1, b"x"), binary(b"\x01x"));
        assert_eq!(protocol(base64).message(2, b"hello"), Message::text("2aGVsbG8="));
    }

    #[test]
    fn old_protocols_are_told_only_of_failures() {
        let (good, bad) = (json!({"status": "Success"}), json!({"status": "Failure", "message": "no"}));
        assert_eq!(status_text(&good, false), None);
        assert_eq!(status_text(&bad, false).as_deref(), Some("no"));
        assert_eq!(status_text(&good, true), Some(good.to_string()));
    }
}
