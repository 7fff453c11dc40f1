//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 with the flow control of 3.1), as a server sees them.
//!
//! Pure: bytes in, frames out, and back. Nothing here allocates by a size that the peer chose: the payload of a data
//! frame is handed out in the pieces in which it arrives, and every other frame is bounded.

use super::headers::{Deflater, HeaderError, Headers, Inflater};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::CompressError;
use thiserror::Error;

/// Bytes that every frame begins with.
const HEAD_BYTES: usize = 8;
/// Most bytes of a frame that is no data.
const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Most payload that is handed out at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// The protocol's version, in every control frame.
const VERSION: u16 = 3;
/// The bit that tells control frames from data, and the bit above every stream's number.
const HIGH_BIT: u32 = 1 << 31;
/// Flag of the last frame of one direction of a stream.
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is ended early: `RST_STREAM`'s status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetStatus {
    /// The peer broke the rules.
    ProtocolError = 1,
    /// There is no such stream.
    InvalidStream = 2,
    /// It was not looked at.
    Refused = 3,
}

/// Why a connection ends: `GOAWAY`'s status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GoAwayStatus {
    /// Everything was said.
    Ok = 0,
    /// The peer broke the rules.
    ProtocolError = 1,
}

/// What comes from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream; with `fin` the peer says nothing on it.
    SynStream { stream: u32, headers: Headers, fin: bool },
    /// More headers of a stream.
    Headers { stream: u32, fin: bool },
    /// A piece of a stream's bytes; with `fin` the last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A stream is over, in both directions.
    Reset { stream: u32 },
    /// To be answered with the same number, unless it is one of ours.
    Ping(u32),
    /// The peer opens no more streams.
    GoAway,
    /// What a server has no use for: replies, settings, windows, types that nobody knows.
    Other,
}

/// What goes to the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// A stream is accepted.
    Accept { stream: u32 },
    /// Bytes of a stream, at most 2^24 - 1; with `fin` the last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A stream is over.
    Reset { stream: u32, status: ResetStatus },
    /// A ping, or the answer to one.
    Ping(u32),
    /// The peer may send so many more bytes on this stream, or (stream 0) on all together.
    Window { stream: u32, bytes: u32 },
    /// No stream after `last` was looked at.
    GoAway { last: u32, status: GoAwayStatus },
}

/// What a peer did wrong. The connection cannot go on.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// Another protocol, or another version of this one.
    #[error("this is no SPDY/3.1")]
    Version,
    /// A control frame that is larger than any that makes sense.
    #[error("a frame of {0} bytes, and at most {CONTROL_BYTES_MAX} are taken")]
    TooLarge(usize),
    /// A control frame that is shorter than its type.
    #[error("a frame of type {0} has the wrong length")]
    Length(u16),
    /// Its headers.
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// Bytes to frames.
pub(super) struct Decoder {
    inflater: Inflater,
    /// The data frame whose payload is arriving.
    open: Option<OpenData>,
}

#[derive(Debug, Clone, Copy)]
struct OpenData {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflater: Inflater::new(), open: None }
    }

    /// Takes the next frame, or the next piece of one, off the front of `buffer`; `None` when more bytes are needed.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(open) = self.open.take() {
            return Ok(self.piece(open, buffer));
        }
        let Some(head) = buffer.get(..HEAD_BYTES) else { return Ok(None) };
        let mut head = head;
        let (first, second) = (head.get_u32(), head.get_u32());
        let [flags, length @ ..] = second.to_be_bytes();
        let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        let fin = flags & FLAG_FIN != 0;
        if first & HIGH_BIT == 0 {
            buffer.advance(HEAD_BYTES);
            return Ok(self.piece(OpenData { stream: first, left: length, fin }, buffer));
        }
        let [high, low, kind @ ..] = first.to_be_bytes();
        if u16::from_be_bytes([high & 0x7f, low]) != VERSION {
            return Err(FrameError::Version);
        }
        if length > CONTROL_BYTES_MAX {
            return Err(FrameError::TooLarge(length));
        }
        if buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        buffer.advance(HEAD_BYTES);
        self.control(u16::from_be_bytes(kind), fin, buffer.split_to(length).freeze()).map(Some)
    }

    fn piece(&mut self, open: OpenData, buffer: &mut BytesMut) -> Option<Frame> {
        let OpenData { stream, left, fin } = open;
        let bytes = buffer.split_to(left.min(buffer.len()).min(PIECE_BYTES)).freeze();
        let left = left - bytes.len();
        if left > 0 {
            self.open = Some(OpenData { left, ..open });
            return (!bytes.is_empty()).then_some(Frame::Data { stream, bytes, fin: false });
        }
        Some(Frame::Data { stream, bytes, fin })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, FrameError> {
        let short = |_| FrameError::Length(kind);
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut body).map_err(short)?;
                // The stream it belongs to, its priority, and a slot for credentials.
                body.try_get_u32().and_then(|_| body.try_get_u16()).map_err(short)?;
                Frame::SynStream { stream, headers: self.inflater.read(&body)?, fin }
            }
            // All blocks are inflated, or the next one could not be.
            SYN_REPLY => {
                number(&mut body).map_err(short)?;
                self.inflater.read(&body)?;
                Frame::Other
            }
            HEADERS => {
                let stream = number(&mut body).map_err(short)?;
                self.inflater.read(&body)?;
                Frame::Headers { stream, fin }
            }
            RST_STREAM => Frame::Reset { stream: number(&mut body).map_err(short)? },
            PING => Frame::Ping(body.try_get_u32().map_err(short)?),
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

/// A stream's number.
fn number(body: &mut Bytes) -> Result<u32, bytes::TryGetError> {
    body.try_get_u32().map(|number| number & !HIGH_BIT)
}

/// Frames to bytes.
pub(super) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, CompressError> {
        Ok(Self { deflater: Deflater::new()? })
    }

    /// Appends one frame.
    pub(super) fn encode(&mut self, reply: &Reply, buffer: &mut BytesMut) -> Result<(), CompressError> {
        match reply {
            Reply::Accept { stream } => {
                let block = self.deflater.write(&Headers::default())?;
                control(buffer, SYN_REPLY, 0, 4 + block.len());
                buffer.put_u32(*stream);
                buffer.put_slice(&block);
            }
            Reply::Data { stream, bytes, fin } => {
                buffer.put_u32(*stream);
                put_length(buffer, if *fin { FLAG_FIN } else { 0 }, bytes.len());
                buffer.put_slice(bytes);
            }
            Reply::Reset { stream, status } => pair(buffer, RST_STREAM, *stream, *status as u32),
            Reply::Ping(id) => {
                control(buffer, PING, 0, 4);
                buffer.put_u32(*id);
            }
            Reply::Window { stream, bytes } => pair(buffer, WINDOW_UPDATE, *stream, *bytes),
            Reply::GoAway { last, status } => pair(buffer, GOAWAY, *last, *status as u32),
        }
        Ok(())
    }
}

fn pair(buffer: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(buffer, kind, 0, 8);
    buffer.put_u32(first);
    buffer.put_u32(second);
}

fn control(buffer: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    buffer.put_u16(VERSION | 1 << 15);
    buffer.put_u16(kind);
    put_length(buffer, flags, length);
}

fn put_length(buffer: &mut BytesMut, flags: u8, length: usize) {
    buffer.put_u8(flags);
    buffer.put_uint(length as u64, 3);
}

/// A client, for tests that play one.
#[cfg(test)]
pub(in crate::sessions) mod client {
    use super::*;

    /// What a client hears.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(in crate::sessions) enum Heard {
        Data {
            stream: u32,
            bytes: Bytes,
            fin: bool,
        },
        Reset(u32),
        Ping(u32),
        GoAway,
        /// The acceptance of a stream, a window.
        Other,
    }

    /// A client's side of a connection.
    pub(in crate::sessions) struct Client {
        deflater: Deflater,
        decoder: Decoder,
    }

    impl Client {
        pub(in crate::sessions) fn new() -> Self {
            Self { deflater: Deflater::new().unwrap(), decoder: Decoder::new() }
        }

        /// `SYN_STREAM`.
        pub(in crate::sessions) fn open<const N: usize>(
            &mut self,
            stream: u32,
            headers: [(&str, &str); N],
            fin: bool,
        ) -> Vec<u8> {
            let block = self.deflater.write(&Headers::from(headers)).unwrap();
            let mut buffer = BytesMut::new();
            control(&mut buffer, SYN_STREAM, u8::from(fin), 10 + block.len());
            buffer.put_u32(stream);
            buffer.put_slice(&[0; 6]);
            buffer.put_slice(&block);
            buffer.to_vec()
        }

        /// What has come, off the front of `buffer`.
        pub(in crate::sessions) fn hear(&mut self, buffer: &mut BytesMut) -> Option<Heard> {
            Some(match self.decoder.decode(buffer).unwrap()? {
                Frame::Data { stream, bytes, fin } => Heard::Data { stream, bytes, fin },
                Frame::Reset { stream } => Heard::Reset(stream),
                Frame::Ping(id) => Heard::Ping(id),
                Frame::GoAway => Heard::GoAway,
                _ => Heard::Other,
            })
        }
    }

    pub(in crate::sessions) fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
        encoded(&Reply::Data { stream, bytes: Bytes::copy_from_slice(bytes), fin })
    }

    pub(in crate::sessions) fn reset(stream: u32) -> Vec<u8> {
        encoded(&Reply::Reset { stream, status: ResetStatus::Refused })
    }

    pub(in crate::sessions) fn ping(id: u32) -> Vec<u8> {
        encoded(&Reply::Ping(id))
    }

    pub(in super::super) fn encoded(reply: &Reply) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        Encoder::new().unwrap().encode(reply, &mut buffer).unwrap();
        buffer.to_vec()
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
