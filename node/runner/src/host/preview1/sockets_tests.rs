//! Calls that move more than a guest has, against a peer that never rests, and one that breaks off.

use super::*;
use crate::{
    memory::MemoryAccount,
    network::{NetworkChannel, switch::Switch},
    protocol,
};
use std::{sync::Arc, time::Duration};
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
    let account = MemoryAccount::new(None, &Arc::default());
    let pod = switch.open("pod", &protocol::PodNetwork::default(), CancellationToken::new(), Arc::clone(&account));
    let listener = pod.listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let stream = pod.connect(None, listener.local_addr()).await.unwrap().stream;
    let mut guest = Preview1::new(WasiCtxBuilder::new().build_p1(), Vec::new(), Vec::new(), &account).unwrap();
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

#[tokio::test]
async fn a_reset_behind_what_is_read_is_not_taken_for_the_end() {
    let (mut guest, fd, peer) = guest().await;
    guest.stream(fd).unwrap().0.try_write(b"nobody reads this").unwrap();
    peer.try_write(b"half").unwrap();
    drop(peer);
    let mut memory = memory();
    let (mut memory, piece) = (GuestMemory::Unshared(&mut memory), GuestPtr::new((0, 1)));
    assert_eq!(guest.receive(&mut memory, fd, piece, Riflags::empty()).await.unwrap(), 4);
    for _ in 0..2 {
        let error = guest.receive(&mut memory, fd, piece, Riflags::empty()).await.unwrap_err();
        assert_eq!(error.downcast().unwrap(), Errno::Connreset);
    }
}
