//! A path between two nodes that a test makes bad: it loses, doubles, delays and reorders packets, has a small MTU, changes the
//! sender's address, or is cut.

use super::*;
use parking_lot::Mutex as Lock;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::HashMap;
use tokio::net::UdpSocket;

/// After so long without a packet a connection is over: long enough for a dial to fail meanwhile, and for QUIC to try again
/// after that, which it does more and more seldom.
const SILENCE: Duration = Duration::from_secs(25);

/// What the path does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Badness {
    /// Share of packets that are lost.
    pub(super) loss: f64,
    /// Share of packets that come twice.
    pub(super) doubled: f64,
    /// How long packets take at most; each takes its own time, so that they overtake each other.
    pub(super) delay: Duration,
    /// Longer packets are lost, in bytes of UDP payload.
    pub(super) mtu: usize,
    /// Nothing passes.
    pub(super) is_cut: bool,
}

impl Default for Badness {
    fn default() -> Self {
        Self { loss: 0.0, doubled: 0.0, delay: Duration::ZERO, mtu: usize::MAX, is_cut: false }
    }
}

/// A path to one node. Who sends to its address reaches the node.
pub(super) struct BadPath {
    pub(super) address: SocketAddr,
    badness: Arc<Lock<Badness>>,
    /// Counted up when senders are to get new addresses.
    rebound: Arc<Lock<u32>>,
}

impl BadPath {
    pub(super) async fn to(node: SocketAddr, seed: u64) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let (badness, rebound) = (Arc::new(Lock::new(Badness::default())), Arc::new(Lock::new(0)));
        let (shared, rebinds) = (Arc::clone(&badness), Arc::clone(&rebound));
        tokio::spawn(async move {
            let dice = Arc::new(Lock::new(StdRng::seed_from_u64(seed)));
            let mut backs: HashMap<SocketAddr, (u32, Arc<UdpSocket>)> = HashMap::new();
            let mut buffer = vec![0; 70_000];
            while let Ok((length, from)) = front.recv_from(&mut buffer).await {
                let generation = *rebinds.lock();
                let is_old = backs.get(&from).is_none_or(|(made, _)| *made != generation);
                if is_old {
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    back.connect(node).await.unwrap();
                    backs.insert(from, (generation, Arc::clone(&back)));
                    let (front, shared, dice) = (Arc::clone(&front), Arc::clone(&shared), Arc::clone(&dice));
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 70_000];
                        loop {
                            // An error is the node's port being closed for the moment.
                            let Ok(length) = back.recv(&mut buffer).await else { continue };
                            let front = Arc::clone(&front);
                            pass(&shared, &dice, &buffer[..length], move |packet| {
                                let front = Arc::clone(&front);
                                async move { front.send_to(&packet, from).await.ok() }
                            });
                        }
                    });
                }
                let back = Arc::clone(&backs[&from].1);
                pass(&shared, &dice, &buffer[..length], move |packet| {
                    let back = Arc::clone(&back);
                    async move { back.send(&packet).await.ok() }
                });
            }
        });
        Self { address, badness, rebound }
    }

    pub(super) fn set(&self, badness: Badness) {
        *self.badness.lock() = badness;
    }

    /// From now on the node sees everybody at another port.
    pub(super) fn rebind(&self) {
        *self.rebound.lock() += 1;
    }
}

fn pass<F: Future<Output = Option<usize>> + Send + 'static>(
    badness: &Lock<Badness>,
    dice: &Lock<StdRng>,
    packet: &[u8],
    send: impl Fn(Vec<u8>) -> F,
) {
    let bad = *badness.lock();
    let (is_lost, copies, delay) = {
        let mut dice = dice.lock();
        let copies = if dice.random_bool(bad.doubled) { 2 } else { 1 };
        (dice.random_bool(bad.loss), copies, bad.delay.mul_f64(dice.random()))
    };
    if bad.is_cut || is_lost || packet.len() > bad.mtu {
        return;
    }
    for _ in 0..copies {
        let sending = send(packet.to_vec());
        tokio::spawn(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            sending.await;
        });
    }
}

/// Node one reaches node two by the path only; two does not dial.
pub(super) async fn over_bad_path(seed: u64) -> (Node, Node, BadPath) {
    let authority = Authority::new();
    let impatient = TunnelLimits { keep_alive: Duration::from_millis(500), silence: SILENCE, ..limits() };
    let listen = "127.0.0.1:0".parse().unwrap();
    let one = Node::with("one", 1, listen, authority.node("one", 0), impatient.clone(), None);
    let mut two = Node::with("two", 2, listen, authority.node("two", 0), impatient, None);
    let path = BadPath::to(two.tunnel.local_address().unwrap(), seed).await;
    two.peer.addresses = vec![path.address];
    let mut mute = one.peer.clone();
    mute.addresses = Vec::new();
    one.tunnel.set_peers(vec![two.peer.clone()]);
    two.tunnel.set_peers(vec![mute]);
    (one, two, path)
}

async fn transfers(stream: &mut UnixStream, bytes: usize) {
    let data: Vec<u8> = (0..bytes).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    let (mut reader, mut writer) = stream.split();
    let writing = writer.write_all(&data);
    let mut answer = vec![0; bytes];
    let (written, read) =
        tokio::time::timeout(LIMIT * 2, async { tokio::join!(writing, reader.read_exact(&mut answer)) })
            .await
            .expect("in time");
    written.unwrap();
    read.unwrap();
    assert!(answer == data, "every byte, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_doubles_and_overtaking_change_no_byte() {
    let seed = rand::random();
    let (one, mut two, path) = over_bad_path(seed).await;
    path.set(Badness { loss: 0.02, doubled: 0.02, delay: Duration::from_millis(5), ..Badness::default() });
    let mut stream =
        one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap_or_else(|error| panic!("{seed}: {error}"));
    transfers(&mut stream, 400_000).await;
    // Datagrams may be lost, but those that come are whole; a part that is lost takes the whole with it.
    for _ in 0..50 {
        one.tunnel.send("two", address(1, 7), address(2, 53), Bytes::from(vec![9; 5_000]));
    }
    let got = two.next_datagram().await;
    assert!(got.bytes == Some(Bytes::from(vec![9; 5_000])), "{seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_becomes_narrow_is_followed() {
    let (one, _two, path) = over_bad_path(1).await;
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    transfers(&mut stream, 1_000_000).await;
    for mtu in [1_400, 1_250, 9_000] {
        path.set(Badness { mtu, ..Badness::default() });
        transfers(&mut stream, 300_000).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_whose_address_changes_stays_connected() {
    let (one, two, path) = over_bad_path(2).await;
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    for _ in 0..3 {
        let before = two.tunnel.states()[0].address;
        path.rebind();
        transfers(&mut stream, 200_000).await;
        until("it is seen elsewhere", || two.tunnel.states()[0].address != before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_cut_is_waited_for_and_a_long_one_breaks_connections() {
    let (one, _two, path) = over_bad_path(3).await;
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, b"before").await;
    let cut = Badness { is_cut: true, ..Badness::default() };
    path.set(cut);
    stream.write_all(b"kept").await.unwrap();
    // A dial in the meantime does not hang: there is no sign of life.
    let start = Instant::now();
    let failure = one.connect("two", address(1, 2), address(2, ECHO)).await.unwrap_err();
    assert_eq!(failure, DialFailure::Unreachable);
    assert!(start.elapsed() < SILENCE, "{:?}", start.elapsed());
    assert!(one.tunnel.seems_gone("two"));
    path.set(Badness::default());
    let mut kept = [0; 4];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut kept)).await.unwrap().unwrap();
    assert_eq!(&kept, b"kept");
    assert!(!one.tunnel.seems_gone("two"), "the old connection serves again");
    echoes(&mut one.connect("two", address(1, 2), address(2, ECHO)).await.unwrap(), b"again").await;
    path.set(cut);
    let error = tokio::time::timeout(LIMIT, stream.read(&mut [0; 4])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "not an end");
}
