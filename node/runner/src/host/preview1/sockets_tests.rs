//! Calls that move more than a guest has, against a peer that never rests.

use super::*;
use crate::{
    network::{NetworkChannel, switch::Switch},
    protocol,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi::WasiCtxBuilder;

const PATIENCE: Duration = Duration::from_mins(1);
/// Where the bytes of all pieces are, and how many.
const PIECE: (u32, u32) = (16 << 10, 1 << 20);

/// A module with a connection, and its peer.
async fn guest() -> (Preview1, Fd, Stream) {
    let (_agent, runner) = NetworkChannel::pair().unwrap();
    let switch = Switch::new(runner, PATIENCE);
    let pod = switch.open("pod", &protocol::PodNetwork::default(), CancellationToken::new());
    let listener = pod.listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let stream = pod.connect(None, listener.local_addr()).await.unwrap().stream;
    let mut guest = Preview1::new(WasiCtxBuilder::new().build_p1(), 0, Vec::new()).unwrap();
    let fd = guest.table.add(Descriptor::Stream { stream, nonblocking: false }).unwrap();
    (guest, fd, listener.accept().await.unwrap().stream)
}

/// Memory that begins with as many pieces as there may be, all of them the same.
fn memory() -> Vec<u8> {
    let pieces = (0..MAX_PIECES).flat_map(|_| [PIECE.0.to_le_bytes(), PIECE.1.to_le_bytes()]).flatten();
    let mut memory: Vec<u8> = pieces.collect();
    memory.resize(usize::try_from(PIECE.0 + PIECE.1).unwrap(), 0);
    memory
}

#[tokio::test]
async fn one_write_is_bounded_and_leaves_others_their_turn() {
    let (mut guest, fd, mut peer) = guest().await;
    let reader = tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        let mut read = 0;
        loop {
            match peer.read(&mut bytes).await.unwrap() {
                0 => return read,
                count => read += count,
            }
        }
    });
    let mut memory = memory();
    let (mut memory, pieces) = (GuestMemory::Unshared(&mut memory), GuestPtr::new((0, MAX_PIECES)));
    let sent = guest.send(&mut memory, fd, pieces);
    assert_eq!(timeout(PATIENCE, sent).await.unwrap().unwrap(), MAX_BYTES);
    drop(guest);
    assert_eq!(timeout(PATIENCE, reader).await.unwrap().unwrap(), usize::try_from(MAX_BYTES).unwrap());
}

#[tokio::test]
async fn one_read_is_bounded_and_leaves_others_their_turn() {
    let (mut guest, fd, mut peer) = guest().await;
    let writer = tokio::spawn(async move {
        let bytes = vec![0; 1 << 16];
        while peer.write_all(&bytes).await.is_ok() {}
    });
    let mut memory = memory();
    let (mut memory, pieces) = (GuestMemory::Unshared(&mut memory), GuestPtr::new((0, MAX_PIECES)));
    let received = guest.receive(&mut memory, fd, pieces, Riflags::RECV_WAITALL);
    assert_eq!(timeout(PATIENCE, received).await.unwrap().unwrap(), MAX_BYTES);
    drop(guest);
    timeout(PATIENCE, writer).await.unwrap().unwrap();
}
