//! What a hostile node sends through the control plane to other nodes: its own name is on it whatever it says, and what is
//! too much, too long or garbage is nobody's trouble.

use super::{Impostor, cluster_goes_on, impostor, is_tunnel_ready, realm, register};
use coracle_wire::v1::RelayedPackets;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Longest message, in bytes, and more of them than go through at once.
const MESSAGE_BYTES: usize = 64 * 1024;
const FLOOD: usize = 2000;
/// How long a message that has arrived takes to be seen; after that, another one is sent.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// A stream through the control plane.
fn relay(one: &Impostor) -> (mpsc::Sender<RelayedPackets>, Streaming<RelayedPackets>) {
    let (sender, receiver) = mpsc::channel(4);
    let mut link = one.link();
    let stream = one.does(async move { link.relay(ReceiverStream::new(receiver)).await });
    (sender, stream.unwrap().into_inner())
}

fn packets(node: &str, length: usize) -> RelayedPackets {
    RelayedPackets { node: node.to_owned(), segment_bytes: 1200, packets: vec![0x40; length].into() }
}

/// What the server says to a message that it does not take.
fn refusal(one: &Impostor, message: RelayedPackets) -> Status {
    let (sender, mut stream) = relay(one);
    one.does(async move {
        sender.send(message).await.unwrap();
        let answer = stream.message().await;
        drop(sender);
        answer.expect_err("it is taken")
    })
}

#[test]
fn packets_through_the_control_plane_bear_their_senders_name_and_floods_of_them_are_lost() {
    let (mut realm, kubectl) = realm();
    is_tunnel_ready(&kubectl, "good");
    let [evil, other] = ["evil", "evil-2"].map(|name| impostor(&realm, name));
    register(&evil, "evil");
    let (_kept, mut heard) = relay(&other);
    let (sender, _stream) = relay(&evil);
    let first = other.begins(async move {
        let first = heard.message().await;
        (first, heard)
    });
    let to_other = sender.clone();
    evil.does(async move { to_other.send(packets("evil-2", 100)).await.unwrap() });
    let (first, mut heard) = other.does(async move { first.await.unwrap() });
    let first = first.unwrap().unwrap();
    assert_eq!((first.node.as_str(), first.packets.len()), ("evil", 100));

    for wrong in [
        packets("good", MESSAGE_BYTES + 1),
        packets("good", 0),
        RelayedPackets { segment_bytes: 0, ..packets("good", 9) },
    ] {
        let refusal = refusal(&evil, wrong);
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        assert!(refusal.message().contains("bytes of packets"), "{refusal}");
    }
    // To a node that reads, to one that is none, to one that does not read: as much as there is room for.
    let (sender, _stream) = relay(&evil);
    let evil_sends = evil.does(async move {
        for number in 0..FLOOD {
            let node = ["good", "nobody", "evil-2"][number % 3];
            sender.send(packets(node, MESSAGE_BYTES)).await.unwrap();
        }
        sender
    });
    // All that has waited, up to a short one that is sent as often as it takes.
    let arrived = other.does(async move {
        let mut arrived = 0;
        loop {
            evil_sends.try_send(packets("evil-2", 1)).ok();
            match tokio::time::timeout(SHORT_WAIT, heard.message()).await {
                Ok(message) if message.as_ref().unwrap().as_ref().unwrap().packets.len() == 1 => return arrived,
                Ok(_) => arrived += 1,
                Err(_) => {}
            }
        }
    });
    let sent = FLOOD / 3;
    assert!((1..sent / 2).contains(&arrived), "{arrived} of {sent} messages of a flood waited for who did not read");
    cluster_goes_on(&mut realm, &kubectl);
}
