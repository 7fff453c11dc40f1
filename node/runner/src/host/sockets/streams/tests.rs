//! Streams against a peer that reads, does not read, or goes away.

use super::*;
use crate::{
    network::{NetworkChannel, listener::Listener, pod::PodNetwork, switch::Switch},
    protocol,
};
use futures::{FutureExt, poll};
use std::pin::pin;
use tokio::{io::AsyncReadExt, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Connections inside a pod, both ends of each; nobody else is there.
struct World {
    network: PodNetwork,
    listener: Listener,
}

impl World {
    fn new() -> Self {
        let (_agent, runner) = NetworkChannel::pair().unwrap();
        let switch = Switch::new(runner, PATIENCE);
        let network = switch.open("pod", &protocol::PodNetwork::default(), CancellationToken::new(), account(None));
        let listener = network.listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        Self { network, listener }
    }

    async fn pair(&self) -> (Stream, Stream) {
        let client = self.network.connect(None, self.listener.local_addr()).await.unwrap();
        (client.stream, self.listener.accept().await.unwrap().stream)
    }
}

async fn pair() -> (Stream, Stream) {
    World::new().pair().await
}

fn account(limit_bytes: Option<u64>) -> Arc<MemoryAccount> {
    MemoryAccount::new(limit_bytes, &Arc::default())
}

fn writer(stream: Stream) -> Output {
    Output::new(stream, &account(None))
}

/// Writes until the kernel takes no more, and one permit beyond it; says how much that is.
fn fill(output: &mut Output) -> usize {
    let mut written = 0;
    loop {
        match output.check_write().unwrap() {
            0 => return written,
            permitted => {
                output.write(vec![7; permitted].into()).unwrap();
                written += permitted;
            }
        }
        assert!(written < 16 << 20, "nothing bounds what is written");
    }
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
    let mut output = writer(client);
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
async fn writers_of_a_container_with_many_connections_hold_little() {
    let world = World::new();
    let account = account(Some(4 << 20));
    let (client, _server) = world.pair().await;
    let mut early = Output::new(client, &account);
    assert_eq!(early.check_write().unwrap(), MAX_CHUNK_BYTES);
    let mut others = Vec::new();
    while others.len() < 40 {
        let (client, server) = world.pair().await;
        let mut output = Output::new(client, &account);
        while output.shared.state.lock().rest.is_empty() {
            let _ = output.check_write().unwrap();
            let permitted = output.shared.state.lock().permitted;
            output.write(vec![7; permitted].into()).unwrap();
        }
        others.push((output, server));
    }
    let held = others.iter().skip(20).map(|(output, _)| output.shared.state.lock().rest.len()).max();
    assert!(held.unwrap() <= SMALL_CHUNK_BYTES, "{held:?}");
    // What was permitted before stays so until it asks again.
    early.write(vec![7; MAX_CHUNK_BYTES].into()).unwrap();
    let (client, _server) = world.pair().await;
    let mut late = Output::new(client, &account);
    assert_eq!(late.check_write().unwrap(), SMALL_CHUNK_BYTES);
    assert!(matches!(late.write(vec![7; MAX_CHUNK_BYTES].into()), Err(StreamError::Trap(_))));
}

#[tokio::test]
async fn what_waits_to_be_sent_counts_until_it_is_sent_and_ends_who_has_no_room() {
    let world = World::new();
    let account = account(Some(70 << 10));
    let (client, server) = world.pair().await;
    let mut first = Output::new(client, &account);
    while first.shared.state.lock().rest.is_empty() {
        first.write(vec![7; 16 << 10].into()).unwrap();
    }
    assert_eq!(account.used_bytes(), 16 << 10);
    let (client, _silent) = world.pair().await;
    let mut second = Output::new(client, &account);
    let mut result = Ok(());
    while result.is_ok() {
        result = second.write(vec![7; 60 << 10].into());
    }
    assert!(matches!(result, Err(StreamError::Trap(_))), "{result:?}");
    assert!(account.exceeded().now_or_never().is_some());
    first.end();
    all_of(server).await;
    timeout(PATIENCE, first.ready()).await.unwrap();
    assert_eq!(account.used_bytes(), 0);
}

#[tokio::test]
async fn what_was_written_outlives_the_guests_stream() {
    let (client, server) = pair().await;
    let output = writer(client);
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
    let output = writer(client.clone());
    drop(GuestOutput(output.clone()));
    assert_eq!(all_of(server.clone()).await, 0, "the connection itself is still there");

    // With unread input the end waits for a sign that the guest goes on: else it would hide the reset.
    let (client, server) = pair().await;
    let output = writer(client.clone());
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
    let mut input = Input::new(&writer(client));
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
    let mut output = writer(client);
    let mut input = Input::new(&output);
    output.write("unread".into()).unwrap();
    drop(server);
    timeout(PATIENCE, input.ready()).await.unwrap();
    assert!(matches!(input.read(1), Err(StreamError::LastOperationFailed(_))));
    assert!(matches!(input.read(1), Err(StreamError::Closed)));
    assert!(output.write("more".into()).is_err());
    assert!(matches!(output.check_write(), Err(StreamError::Closed)));
}
