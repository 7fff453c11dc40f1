//! A connection over a pipe, against a client that behaves and one that does not.

use super::{
    super::frame::client::{self, Client, Heard},
    *,
};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

/// The client's side.
struct Peer {
    frames: Client,
    buffer: BytesMut,
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
}

fn setting(pipe_bytes: usize) -> (Connection, Peer) {
    let (near, far) = duplex(pipe_bytes);
    let (reader, writer) = split(near);
    let connection = Connection::start(reader, writer);
    let (reader, writer) = split(far);
    (connection, Peer { frames: Client::new(), buffer: BytesMut::new(), reader, writer })
}

impl Peer {
    async fn say(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str, fin: bool) {
        let frame = self.frames.open(stream, [("streamtype", kind)], fin);
        self.say(&frame).await;
    }

    /// The next frame that means something; `None` at the end.
    async fn hear(&mut self) -> Option<Heard> {
        loop {
            match self.frames.hear(&mut self.buffer) {
                Some(Heard::Other) => {}
                Some(heard) => return Some(heard),
                None if self.reader.read_buf(&mut self.buffer).await.ok()? == 0 => return None,
                None => {}
            }
        }
    }
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_end_one_direction_at_a_time() {
    let (mut connection, mut peer) = setting(1 << 16);
    peer.open(1, "data", false).await;
    peer.open(3, "error", true).await;
    let mut data = connection.accept().await.unwrap();
    let mut error = connection.accept().await.unwrap();
    assert_eq!((data.headers.get("streamtype"), error.headers.get("streamtype")), ("data", "error"));
    assert_eq!(error.reader.next().await, None);
    peer.say(&client::data(1, b"in", false)).await;
    peer.say(&client::data(1, b"put", true)).await;
    let mut input = Vec::new();
    while let Some(bytes) = data.reader.next().await {
        input.extend_from_slice(&bytes);
    }
    assert_eq!(input, b"input");
    data.writer.send(Bytes::from_static(b"output")).await.unwrap();
    data.writer.finish().await.unwrap();
    connection.finisher().finish().await;
    assert_eq!(peer.hear().await, Some(Heard::Data { stream: 1, bytes: Bytes::from_static(b"output"), fin: false }));
    assert_eq!(peer.hear().await, Some(Heard::Data { stream: 1, bytes: Bytes::new(), fin: true }));
    assert_eq!(peer.hear().await, Some(Heard::GoAway));
    assert_eq!(peer.hear().await, None);
    peer.writer.shutdown().await.unwrap();
    connection.closed().cancelled().await;
}

#[tokio::test]
async fn pings_are_answered_and_streams_may_be_given_up() {
    let (mut connection, mut peer) = setting(1 << 16);
    peer.say(&client::ping(7)).await;
    assert_eq!(peer.hear().await, Some(Heard::Ping(7)));
    peer.open(1, "data", false).await;
    let mut stream = connection.accept().await.unwrap();
    peer.say(&client::reset(1)).await;
    stream.writer.is_reset().await;
    assert_eq!(stream.reader.next().await, None);
    assert_eq!(stream.writer.send(Bytes::from_static(b"x")).await, Err(Gone));
    // What comes late for it is no fault.
    peer.say(&client::data(1, b"late", true)).await;
    peer.say(&client::ping(9)).await;
    assert_eq!(peer.hear().await, Some(Heard::Ping(9)));
}

#[tokio::test]
async fn streams_that_break_the_rules_are_reset() {
    let (mut connection, mut peer) = setting(1 << 16);
    peer.open(3, "data", false).await;
    let _third = connection.accept().await.unwrap();
    // Not the client's to open; older than the newest; never opened.
    peer.open(4, "data", false).await;
    peer.open(1, "data", false).await;
    peer.say(&client::data(99, b"x", false)).await;
    for stream in [4, 1, 99] {
        assert_eq!(peer.hear().await, Some(Heard::Reset(stream)));
    }
}

#[tokio::test]
async fn streams_that_nobody_accepts_and_more_than_there_may_be_are_refused() {
    let (mut connection, mut peer) = setting(1 << 20);
    let (mut held, mut number) = (Vec::new(), 1);
    while held.len() < STREAMS_MAX {
        peer.open(number, "data", false).await;
        held.push(connection.accept().await.unwrap());
        number += 2;
    }
    peer.open(number, "data", false).await;
    assert_eq!(peer.hear().await, Some(Heard::Reset(number)));
    held.clear();
    for _ in 0..=ACCEPT_QUEUE {
        number += 2;
        peer.open(number, "data", false).await;
    }
    assert_eq!(peer.hear().await, Some(Heard::Reset(number)), "places come back; the queue is bounded");
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_the_client_back() {
    let (mut connection, mut peer) = setting(1 << 14);
    peer.open(1, "data", false).await;
    let mut stream = connection.accept().await.unwrap();
    let frame = client::data(1, &vec![b'x'; READ_BYTES], false);
    let mut sent = 0_usize;
    // The pipe and the queues fill up; then writing waits.
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), peer.writer.write_all(&frame)).await {
        written.unwrap();
        sent += 1;
        assert!(sent < 100, "{sent} frames were taken and nobody reads");
    }
    assert!(stream.reader.next().await.is_some());
}

#[tokio::test]
async fn a_client_that_floods_and_does_not_read_is_held_back_by_its_own_output() {
    let (mut connection, mut peer) = setting(1 << 14);
    // More answers than there is room for: they are dropped, and the connection goes on.
    for _ in 0..10_000 {
        peer.say(&client::ping(1)).await;
    }
    peer.open(1, "data", false).await;
    let stream = connection.accept().await.unwrap();
    let sending = tokio::spawn(async move { stream.writer.send(Bytes::from(vec![b'x'; 8 << 20])).await });
    let mut received = 0;
    while received < 8 << 20 {
        match peer.hear().await {
            Some(Heard::Data { bytes, .. }) => received += bytes.len(),
            Some(Heard::Ping(1)) => {}
            other => panic!("{other:?}"),
        }
    }
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn garbage_ends_the_connection() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\nxxxxxxxx"[..], &[0x80, 2, 0, 1, 0, 0, 0, 1, 0], &[0xff; 100]] {
        let (mut connection, mut peer) = setting(1 << 16);
        peer.say(garbage).await;
        // The first looks like the beginning of a large data frame of a stream that was never opened.
        peer.writer.shutdown().await.unwrap();
        assert!(connection.accept().await.is_none());
        connection.closed().cancelled().await;
    }
}
