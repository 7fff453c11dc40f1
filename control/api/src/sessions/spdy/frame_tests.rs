//! Frames, whole and broken.

use super::{
    client::{Client, encoded},
    *,
};

fn streams(port: &str) -> [(&str, &str); 2] {
    [("streamtype", "data"), ("port", port)]
}

fn data(stream: u32, bytes: &'static [u8], fin: bool) -> Reply {
    Reply::Data { stream, bytes: Bytes::from_static(bytes), fin }
}

/// Everything that `bytes` hold, fed in steps of `step` bytes; the pieces of one data frame put together again.
fn decode(bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
    let (mut decoder, mut buffer, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
    let mut unfinished: Option<(u32, Vec<u8>)> = None;
    for part in bytes.chunks(step) {
        buffer.extend_from_slice(part);
        while let Some(frame) = decoder.decode(&mut buffer)? {
            if let Frame::Data { stream, bytes, fin } = frame {
                let (own, mut whole) = unfinished.take().unwrap_or((stream, Vec::new()));
                assert_eq!(own, stream);
                whole.extend_from_slice(&bytes);
                if fin {
                    frames.push(Frame::Data { stream, bytes: whole.into(), fin });
                } else {
                    unfinished = Some((stream, whole));
                }
            } else {
                frames.push(frame);
            }
        }
    }
    frames.extend(unfinished.map(|(stream, whole)| Frame::Data { stream, bytes: whole.into(), fin: false }));
    Ok(frames)
}

#[test]
fn frames_are_read_whatever_the_pieces_they_come_in() {
    let mut client = Client::new();
    let mut bytes = client.open(1, streams("80"), true);
    bytes.extend(client.open(3, streams("81"), false));
    bytes.extend(encoded(&data(3, b"hello ", false)));
    bytes.extend(encoded(&data(3, b"world", true)));
    bytes.extend(encoded(&Reply::Ping(7)));
    bytes.extend(encoded(&Reply::Window { stream: 1, bytes: 100 }));
    bytes.extend(encoded(&Reply::Reset { stream: 3, status: ResetStatus::Refused }));
    bytes.extend(encoded(&Reply::GoAway { last: 3, status: GoAwayStatus::Ok }));
    let expected = [
        Frame::SynStream { stream: 1, headers: streams("80").into(), fin: true },
        Frame::SynStream { stream: 3, headers: streams("81").into(), fin: false },
        Frame::Data { stream: 3, bytes: Bytes::from_static(b"hello world"), fin: true },
        Frame::Ping(7),
        Frame::Other,
        Frame::Reset { stream: 3 },
        Frame::GoAway,
    ];
    for step in [1, 2, 3, 7, 100, bytes.len()] {
        assert_eq!(decode(&bytes, step).unwrap(), expected, "in steps of {step}");
    }
}

/// The bytes as the protocol's text draws them.
#[test]
fn frames_are_written_as_the_protocol_says() {
    let cases = [
        (data(5, b"ab", true), &[0, 0, 0, 5, 1, 0, 0, 2, b'a', b'b'][..]),
        (Reply::Ping(2), &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2]),
        (
            Reply::Reset { stream: 1, status: ResetStatus::InvalidStream },
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2],
        ),
        (Reply::Window { stream: 9, bytes: 256 }, &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 1, 0]),
        (
            Reply::GoAway { last: 4, status: GoAwayStatus::ProtocolError },
            &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 1],
        ),
    ];
    for (reply, bytes) in cases {
        assert_eq!(encoded(&reply), bytes, "{reply:?}");
    }
    let accept = encoded(&Reply::Accept { stream: 3 });
    assert_eq!(&accept[..4], [0x80, 3, 0, 2]);
    assert_eq!(usize::from(accept[7]), accept.len() - HEAD_BYTES);
    assert_eq!(&accept[8..12], [0, 0, 0, 3]);
    assert_eq!(Inflater::new().read(&accept[12..]).unwrap(), Headers::default());
}

#[test]
fn the_payload_of_a_data_frame_is_never_waited_for() {
    let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::from(&[0, 0, 0, 1, 1, 0xff, 0xff, 0xff][..]));
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    let mut left = 0x00ff_ffff_usize;
    while left > 0 {
        buffer.extend_from_slice(&vec![b'x'; left.min(1 << 20)]);
        while let Some(Frame::Data { stream: 1, bytes, fin }) = decoder.decode(&mut buffer).unwrap() {
            assert!(!bytes.is_empty() && bytes.len() <= PIECE_BYTES);
            left -= bytes.len();
            assert_eq!(fin, left == 0);
        }
    }
    assert!(buffer.is_empty());
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let cases = [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], None),
        (&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], Some(FrameError::Version)),
        (&[0xff; 64], Some(FrameError::Version)),
        (&[0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff], Some(FrameError::TooLarge(0x00ff_ffff))),
        (&[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1], Some(FrameError::Length(SYN_STREAM))),
        (&[0x80, 3, 0, 6, 0, 0, 0, 1, 0], Some(FrameError::Length(PING))),
        (&[0x80, 3, 0, 3, 0, 0, 0, 0], Some(FrameError::Length(RST_STREAM))),
        (&[0x80, 3, 0, 77, 0, 0, 0, 2, 1, 2], None),
        (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0], None),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(bytes, bytes.len()).err(), error, "{bytes:?}");
    }
    let mut garbled = Client::new().open(1, streams("80"), false);
    for byte in &mut garbled[20..] {
        *byte ^= 0x5a;
    }
    assert!(matches!(decode(&garbled, garbled.len()), Err(FrameError::Headers(_))));
}

#[test]
fn a_truncated_frame_waits_and_yields_nothing() {
    let whole = Client::new().open(1, streams("80"), false);
    for length in 0..whole.len() {
        assert_eq!(decode(&whole[..length], whole.len()).unwrap(), [], "{length} bytes");
    }
}
