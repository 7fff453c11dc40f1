//! Packets between nodes through the server.

use super::{
    relay::{BURST_BYTES, MESSAGE_BYTES_MAX, QUEUE_OF_SENDER},
    tests::{Setting, setting, with_token},
};
use bytes::Bytes;
use coracle_wire::v1::{RelayedPackets, node_link_client::NodeLinkClient};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

const LIMIT: Duration = Duration::from_secs(20);

struct End {
    to_server: mpsc::Sender<RelayedPackets>,
    from_server: Streaming<RelayedPackets>,
}

impl End {
    async fn open(setting: &Setting, token: &str) -> Self {
        let (to_server, outgoing) = mpsc::channel(1);
        let mut client = NodeLinkClient::new(setting.channel.clone());
        let answer = client.relay(with_token(token, ReceiverStream::new(outgoing))).await.unwrap();
        Self { to_server, from_server: answer.into_inner() }
    }

    async fn send(&self, node: &str, bytes: Bytes) {
        let packets = RelayedPackets { node: node.to_owned(), segment_bytes: 1200, packets: bytes };
        self.to_server.send(packets).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<RelayedPackets>, tonic::Status> {
        tokio::time::timeout(LIMIT, self.from_server.message()).await.unwrap()
    }
}

#[tokio::test]
async fn packets_go_to_the_node_they_name_with_the_senders_name_on_them() {
    let setting = setting().await;
    let (one, mut two) = (End::open(&setting, "one").await, End::open(&setting, "two").await);
    one.send("nobody", Bytes::from_static(b"lost")).await;
    one.send("two", Bytes::from_static(b"hello")).await;
    let got = two.next().await.unwrap().unwrap();
    let expected =
        RelayedPackets { node: "one".to_owned(), segment_bytes: 1200, packets: Bytes::from_static(b"hello") };
    assert_eq!(got, expected);
}

#[tokio::test]
async fn only_nodes_are_relayed() {
    let setting = setting().await;
    let mut client = NodeLinkClient::new(setting.channel.clone());
    for (token, code) in [("admin", Code::PermissionDenied), ("wrong", Code::Unauthenticated)] {
        let error = client.relay(with_token(token, futures::stream::empty())).await.unwrap_err();
        assert_eq!(error.code(), code, "{token}");
    }
}

#[tokio::test]
async fn what_is_no_message_ends_the_stream_and_a_flood_that_nobody_reads_is_lost() {
    let setting = setting().await;
    for bytes in [0, MESSAGE_BYTES_MAX + 1] {
        let mut one = End::open(&setting, "one").await;
        one.send("two", Bytes::from(vec![0; bytes])).await;
        assert_eq!(one.next().await.unwrap_err().code(), Code::InvalidArgument);
    }
    let (mut one, mut two) = (End::open(&setting, "one").await, End::open(&setting, "two").await);
    let chunk = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
    let within_share = usize::try_from(BURST_BYTES).unwrap() / chunk.len();
    let sent = within_share * 2;
    let flood = async {
        for _ in 0..sent {
            one.send("two", chunk.clone()).await;
        }
    };
    tokio::time::timeout(LIMIT, flood).await.unwrap();
    // What it sends to itself comes behind all that.
    one.send("one", Bytes::from_static(b"all is through")).await;
    assert_eq!(one.next().await.unwrap().unwrap().packets, "all is through");
    // Everything that waited, and what is sent now that there is room.
    let mut got = 0;
    loop {
        one.send("two", Bytes::from_static(b"last")).await;
        let packets = two.next().await.unwrap().unwrap();
        if packets.packets == "last" {
            break;
        }
        got += 1;
    }
    // Beside its part of the queue there is what HTTP/2 holds, which is less than the node's share lets through.
    let window = 6 * QUEUE_OF_SENDER;
    assert!(window <= within_share, "the share alone keeps {sent} below {window}");
    assert!((QUEUE_OF_SENDER..window).contains(&got), "{got} of {sent} were kept");
}

#[tokio::test]
async fn a_quiet_node_gets_through_to_one_that_another_floods() {
    let setting = setting().await;
    let mut ends = Vec::new();
    for node in ["one", "two", "three"] {
        ends.push(End::open(&setting, node).await);
    }
    let [flooding, slow, quiet] = &mut ends[..] else { panic!("three nodes") };
    // Within its share: nothing but the receiver's queue loses any of it.
    let chunk = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
    let within_share = usize::try_from(BURST_BYTES).unwrap() / chunk.len();
    let flood = async {
        for _ in 1..within_share {
            flooding.send("two", chunk.clone()).await;
        }
    };
    tokio::time::timeout(LIMIT, flood).await.unwrap();
    // What it sends to itself comes behind all that.
    flooding.send("one", Bytes::from_static(b"all is through")).await;
    assert_eq!(flooding.next().await.unwrap().unwrap().packets, "all is through");
    let quietly = ["a", "word", "or two"];
    for packets in quietly {
        quiet.send("two", Bytes::from_static(packets.as_bytes())).await;
    }
    quiet.send("three", Bytes::from_static(b"all is through")).await;
    assert_eq!(quiet.next().await.unwrap().unwrap().packets, "all is through");
    let mut of_quiet = Vec::new();
    while of_quiet.len() < quietly.len() {
        let packets = slow.next().await.unwrap().unwrap();
        if packets.node == "three" {
            of_quiet.push(packets.packets);
        }
    }
    assert_eq!(of_quiet, quietly);
}

#[tokio::test]
async fn a_second_stream_replaces_the_first_and_closing_ends_all() {
    let setting = setting().await;
    let mut first = End::open(&setting, "two").await;
    let mut second = End::open(&setting, "two").await;
    assert_eq!(first.next().await.unwrap_err().code(), Code::Aborted);
    let one = End::open(&setting, "one").await;
    one.send("two", Bytes::from_static(b"x")).await;
    assert_eq!(second.next().await.unwrap().unwrap().packets, "x");
    setting.closing.cancel();
    assert_eq!(second.next().await.unwrap_err().code(), Code::Aborted);
}
