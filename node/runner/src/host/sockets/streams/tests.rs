//! Streams against a peer that reads, does not read, or goes away.

use super::*;
use crate::{
    network::{NetworkChannel, switch::Switch},
    protocol,
};
use futures::poll;
use std::pin::pin;
use tokio::{io::AsyncReadExt, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Both ends of a connection inside a pod; nobody else is there.
async fn pair() -> (Stream, Stream) {
    let (_agent, runner) = NetworkChannel::pair().unwrap();
    let switch = Switch::new(runner, PATIENCE);
    let pod = switch.open("pod", &protocol::PodNetwork::default(), CancellationToken::new());
    let listener = pod.listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let client = pod.connect(None, listener.local_addr()).await.unwrap();
    (client.stream, listener.accept().await.unwrap().stream)
}

/// Writes until the kernel takes no more, and one permit beyond it; says how much that is.
fn fill(output: &mut Output) -> usize {
    let mut written = 0;
    while output.check_write().unwrap() > 0 {
        output.write(vec![7; MAX_CHUNK_BYTES].into()).unwrap();
        written += MAX_CHUNK_BYTES;
        assert!(written < 16 << 20, "nothing bounds what is written");
    }
    written
}

async fn all_of(mut stream: Stream) -> usize {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    bytes.len()
}

#[tokio::test]
async fn a_writer_waits_for_its_reader_and_loses_nothing() {
    let (client, mut server) = pair().await;
    let mut output = Output::new(client);
    let mut written = fill(&mut output);
    assert!(poll!(pin!(output.ready())).is_pending());
    assert!(matches!(output.write(vec![7; MAX_CHUNK_BYTES + 1].into()), Err(StreamError::Trap(_))));
    let mut read = 0;
    let mut buffer = vec![0; MAX_CHUNK_BYTES];
    for _ in 0..20 {
        while read < written {
            read += timeout(PATIENCE, server.read(&mut buffer)).await.unwrap().unwrap();
        }
        timeout(PATIENCE, output.ready()).await.unwrap();
        written += fill(&mut output);
    }
    output.end();
    assert!(matches!(output.write(vec![7].into()), Err(StreamError::Closed)));
    assert_eq!(read + all_of(server).await, written);
}

#[tokio::test]
async fn what_was_written_outlives_the_guests_stream() {
    let (client, server) = pair().await;
    let output = Output::new(client);
    let mut guests = GuestOutput(output.clone());
    // More than the kernel takes: the rest is with a task.
    let mut written = 0;
    while guests.check_write().unwrap() > 0 {
        guests.write(vec![7; MAX_CHUNK_BYTES].into()).unwrap();
        written += MAX_CHUNK_BYTES;
    }
    drop(guests);
    drop(output);
    assert_eq!(all_of(server).await, written);
}

#[tokio::test]
async fn a_dropped_stream_ends_its_direction() {
    let (client, server) = pair().await;
    let output = Output::new(client.clone());
    drop(GuestOutput(output.clone()));
    assert_eq!(all_of(server.clone()).await, 0, "the connection itself is still there");

    // With unread input the end waits for a sign that the guest goes on: else it would hide the reset.
    let (client, server) = pair().await;
    let output = Output::new(client.clone());
    let mut input = Input::new(&output);
    server.try_write(b"unread").unwrap();
    client.readable().await;
    drop(GuestOutput(output.clone()));
    assert_eq!(server.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(input.read(3).unwrap(), "unr");
    assert_eq!(server.try_read(&mut [0]).unwrap(), 0);
    drop((client, input, output));
    assert_eq!(server.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reader_sees_bytes_then_the_end_or_the_failure() {
    let (client, server) = pair().await;
    let mut input = Input::new(&Output::new(client));
    assert!(input.read(10).unwrap().is_empty());
    assert!(poll!(pin!(input.ready())).is_pending());
    server.try_write(b"hello").unwrap();
    timeout(PATIENCE, input.ready()).await.unwrap();
    assert_eq!(input.read(3).unwrap(), "hel");
    assert_eq!(input.read(usize::MAX).unwrap(), "lo");
    drop(server);
    timeout(PATIENCE, input.ready()).await.unwrap();
    assert!(matches!(input.read(1), Err(StreamError::Closed)));

    let (client, server) = pair().await;
    let mut output = Output::new(client);
    let mut input = Input::new(&output);
    output.write("unread".into()).unwrap();
    drop(server);
    timeout(PATIENCE, input.ready()).await.unwrap();
    assert!(matches!(input.read(1), Err(StreamError::LastOperationFailed(_))));
    assert!(matches!(input.read(1), Err(StreamError::Closed)));
    assert!(output.write("more".into()).is_err());
    assert!(matches!(output.check_write(), Err(StreamError::Closed)));
}
