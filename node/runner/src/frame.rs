//! Length-prefixed frames on the stream between agent and runner.
//!
//! A frame is a little-endian `u32` length and that many bytes of `postcard`. Both directions have their own bound:
//! what a runner sends is small by construction, and a runner that sends more is broken or hostile. Nothing is
//! allocated for a frame before its length has been checked.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Largest frame from the agent. A `Start` carries the whole environment; Linux caps one at 2 MiB for a process.
pub(crate) const MAX_TO_RUNNER_BYTES: usize = 4 << 20;
/// Largest frame from a runner: a chunk of a log or the message of a trap, with room to spare.
pub(crate) const MAX_FROM_RUNNER_BYTES: usize = 64 << 10;

const HEADER_BYTES: usize = 4;

/// Why a frame cannot be sent or read.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("a frame of {size} bytes exceeds the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("a frame that makes no sense")]
    Malformed(#[source] postcard::Error),
    #[error("the stream broke")]
    Io(#[from] std::io::Error),
}

/// Appends a frame to `out`. On failure `out` is as it was.
pub(crate) fn encode<T: Serialize>(frame: &T, limit: usize, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    let mut body = std::mem::take(out);
    body.extend_from_slice(&[0; HEADER_BYTES]);
    *out = postcard::to_extend(frame, body).map_err(FrameError::Malformed)?;
    let size = out.len() - start - HEADER_BYTES;
    match u32::try_from(size) {
        Ok(length) if size <= limit => {
            out[start..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(FrameError::TooLarge { size, limit })
        }
    }
}

/// Reads the next frame; `None` when the stream ended between two frames.
pub(crate) async fn read<T, R>(stream: &mut R, limit: usize) -> Result<Option<T>, FrameError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin,
{
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match stream.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            count => filled += count,
        }
    }
    let size = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if size > limit {
        return Err(FrameError::TooLarge { size, limit });
    }
    let mut body = vec![0; size];
    stream.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map(Some).map_err(FrameError::Malformed)
}

/// Carries a `Vec<u8>` as one run of bytes instead of a sequence of numbers.
pub(crate) mod octets {
    use serde::{Deserializer, Serializer, de::Visitor};
    use std::fmt;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Octets;
        impl Visitor<'_> for Octets {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Confinement, FromRunner, LogStream, RunId, ToRunner};

    fn log(size: usize) -> FromRunner {
        FromRunner::Log { run: RunId("r".into()), stream: LogStream::Stdout, bytes: vec![0xff; size] }
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let ready = FromRunner::Ready { confinement: Confinement::default(), pooled: 7 };
        let frames = [ready, log(0), log(5000), FromRunner::Started(RunId("a".into()))];
        let mut bytes = Vec::new();
        for frame in &frames {
            encode(frame, MAX_FROM_RUNNER_BYTES, &mut bytes).unwrap();
        }
        let mut stream = bytes.as_slice();
        for frame in &frames {
            assert_eq!(read::<FromRunner, _>(&mut stream, MAX_FROM_RUNNER_BYTES).await.unwrap().as_ref(), Some(frame));
        }
        assert!(read::<FromRunner, _>(&mut stream, MAX_FROM_RUNNER_BYTES).await.unwrap().is_none());
    }

    #[test]
    fn log_bytes_cost_one_byte_each() {
        let mut bytes = Vec::new();
        encode(&log(1000), MAX_FROM_RUNNER_BYTES, &mut bytes).unwrap();
        assert!(bytes.len() < 1020, "{} bytes", bytes.len());
    }

    #[tokio::test]
    async fn too_large_frames_are_refused_on_both_ends() {
        let mut bytes = b"kept".to_vec();
        let error = encode(&log(100), 50, &mut bytes).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { limit: 50, .. }), "{error}");
        assert_eq!(bytes, b"kept");

        let header = u32::MAX.to_le_bytes();
        let error = read::<ToRunner, _>(&mut header.as_slice(), MAX_TO_RUNNER_BYTES).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { .. }), "{error}");
    }

    #[tokio::test]
    async fn broken_streams_are_errors() {
        let mut whole = Vec::new();
        encode(&log(10), MAX_FROM_RUNNER_BYTES, &mut whole).unwrap();
        for cut in 1..whole.len() {
            let error = read::<FromRunner, _>(&mut &whole[..cut], MAX_FROM_RUNNER_BYTES).await.unwrap_err();
            assert!(matches!(error, FrameError::Io(_)), "cut at {cut}: {error}");
        }
        let garbage = [3, 0, 0, 0, 0xff, 0xff, 0xff];
        let error = read::<FromRunner, _>(&mut garbage.as_slice(), MAX_FROM_RUNNER_BYTES).await.unwrap_err();
        assert!(matches!(error, FrameError::Malformed(_)), "{error}");
    }
}
