//! What comes from other nodes: connections, streams in them, datagrams. Nothing is taken from strangers, and from peers only
//! what comes from their own pods.

use super::{
    CLOSED_STRANGER, Shared, dial, endpoint,
    frames::{self, Addresses, Frame, Garbage},
    limits::{HANDSHAKE, HANDSHAKES_MAX, HANDSHAKES_UNCHECKED, HEADER},
    link::Link,
    marked,
    paths::is_relayed,
    pump::{End, Sending, pump},
    reassembly::{self, Reassembly},
    record::Record,
};
use crate::fabric::DialFailure;
use bytes::Bytes;
use quinn::{Connection, ConnectionError, Incoming, ReadExactError, RecvStream, SendStream, TransportErrorCode};
use std::{sync::Arc, time::Instant};

/// Kinds of what peers may not do.
const GARBAGE_STREAM: &str = "a stream that begins with garbage";
const GARBAGE_DATAGRAM: &str = "a datagram that is garbage";
const FOREIGN: &str = "traffic that is not from its pods";

/// First byte on every new connection: it is welcome.
const WELCOME: [u8; 1] = [1];

/// Takes connections until the tunnel ends.
pub(super) async fn accept(shared: Arc<Shared>) {
    // Who comes before the node knows its cluster waits, and is not taken for a stranger.
    tokio::select! {
        () = shared.introduced.cancelled() => {}
        () = shared.stop.cancelled() => return,
    }
    while let Some(incoming) = shared.endpoint.accept().await {
        let under_way = HANDSHAKES_MAX.saturating_sub(shared.handshakes.left());
        if under_way >= HANDSHAKES_UNCHECKED && !incoming.remote_address_validated() && incoming.may_retry() {
            // Gone already: nothing is lost.
            let _gone = incoming.retry();
            continue;
        }
        // Nobody gets more than half of them from one address.
        let Some(permit) = shared.handshakes.try_take(&incoming.remote_address().ip().to_string()) else {
            incoming.refuse();
            continue;
        };
        let shared = Arc::clone(&shared);
        shared.tasks.clone().spawn(async move {
            let address = incoming.remote_address();
            let result = tokio::time::timeout(HANDSHAKE, shake_hands(&shared, incoming)).await;
            drop(permit);
            match result {
                Ok(Ok(())) => {}
                Ok(Err(TurnedAway::Stranger(why))) => shared.reporter.refused_stranger(address, &why),
                Ok(Err(TurnedAway::Peer(node, why))) => shared.reporter.refused(&node, why, address, why),
                Err(_) => tracing::debug!(%address, "a handshake took too long"),
            }
        });
    }
}

/// Who is turned away, and why.
enum TurnedAway {
    Stranger(String),
    Peer(String, &'static str),
}

async fn shake_hands(shared: &Arc<Shared>, incoming: Incoming) -> Result<(), TurnedAway> {
    let config = endpoint::server_for(&shared.server, &shared.config.limits, incoming.remote_address());
    let connecting = incoming.accept_with(config).map_err(|error| TurnedAway::Stranger(dial::reason(&error)))?;
    let connection = match connecting.await {
        Ok(connection) => connection,
        // It went away, or it is a newer or older version of this.
        Err(
            ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::Reset
            | ConnectionError::ApplicationClosed(_),
        ) => return Ok(()),
        // The same, said before the handshake was over.
        Err(ConnectionError::ConnectionClosed(close)) if close.error_code == TransportErrorCode::APPLICATION_ERROR => {
            return Ok(());
        }
        Err(error) => return Err(TurnedAway::Stranger(dial::reason(&error))),
    };
    let known = dial::known(&connection).map_err(TurnedAway::Stranger)?;
    if is_relayed(connection.remote_address())
        && shared.relayed.address_of(&known.node.as_str().into()) != connection.remote_address()
    {
        let why = "it came through the control plane in another node's name";
        connection.close(CLOSED_STRANGER, why.as_bytes());
        return Err(TurnedAway::Peer(known.node, why));
    }
    if let Err(error) = welcome(&connection).await {
        tracing::debug!(node = known.node, error, "a node went away before it was welcomed");
        return Ok(());
    }
    let node = known.node.clone();
    shared.register(Link::new(connection.clone(), false, known)).map(drop).map_err(|why| {
        connection.close(CLOSED_STRANGER, why.as_bytes());
        TurnedAway::Peer(node, why)
    })
}

async fn welcome(connection: &Connection) -> Result<(), String> {
    let mut stream = connection.open_uni().await.map_err(|error| error.to_string())?;
    stream.write_all(&WELCOME).await.map_err(|error| error.to_string())?;
    stream.finish().map_err(|error| error.to_string())
}

/// Serves one connection until it is over.
pub(super) async fn serve(shared: Arc<Shared>, record: Arc<Record>, link: Arc<Link>) {
    let address = link.connection.remote_address();
    tracing::info!(node = %record.node, %address, path = ?link.path(), "connected to a node");
    let error = tokio::select! {
        error = take_streams(&shared, &link) => error,
        error = take_datagrams(&shared, &link) => error,
    };
    tracing::info!(node = %record.node, %address, reason = dial::reason(&error), "connection to a node is over");
    shared.forget(&record, &link);
}

async fn take_streams(shared: &Arc<Shared>, link: &Arc<Link>) -> ConnectionError {
    loop {
        match link.connection.accept_bi().await {
            Ok((sending, receiving)) => {
                let (shared, link) = (Arc::clone(shared), Arc::clone(link));
                shared.tasks.clone().spawn(async move { take_stream(&shared, &link, sending, receiving).await });
            }
            Err(error) => return error,
        }
    }
}

async fn take_stream(shared: &Shared, link: &Arc<Link>, sending: SendStream, mut receiving: RecvStream) {
    let _in_use = link.begin();
    let mut sending = Sending::new(sending);
    let Ok(addresses) = tokio::time::timeout(HEADER, read_header(&mut receiving)).await else { return };
    let result = match addresses {
        // The dial was given up, or the connection is over, before it was told what is wanted: nobody is to blame.
        Err(NoHeader::GivenUp) => return,
        Ok(addresses) if is_peers(shared, link, addresses) => {
            connect(shared, link, addresses, &sending).await.map(|end| (end, addresses.to.ip()))
        }
        Ok(_) => Err(DialFailure::Denied),
        Err(NoHeader::Garbage) => {
            turn_away(shared, link, GARBAGE_STREAM, GARBAGE_STREAM);
            Err(DialFailure::Denied)
        }
    };
    let answer = frames::answer_byte(result.as_ref().map(|_| ()).map_err(|failure| *failure));
    if sending.write_all(&[answer]).await.is_err() {
        return;
    }
    match result {
        Ok((end, pod)) => pump(end, sending, receiving, shared.patience(pod)).await,
        Err(_) => sending.finish(),
    }
}

/// Why a stream does not say what it is for.
enum NoHeader {
    /// It was reset, or its connection ended.
    GivenUp,
    /// What it says means nothing, or it ends within it.
    Garbage,
}

impl From<ReadExactError> for NoHeader {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Garbage,
            ReadExactError::ReadError(_) => Self::GivenUp,
        }
    }
}

impl From<Garbage> for NoHeader {
    fn from(Garbage: Garbage) -> Self {
        Self::Garbage
    }
}

async fn read_header(receiving: &mut RecvStream) -> Result<Addresses, NoHeader> {
    let mut header = [0; frames::ADDRESSES_BYTES_MAX];
    receiving.read_exact(&mut header[..1]).await?;
    let end = 1 + frames::rest_of_addresses(header[0])?;
    receiving.read_exact(&mut header[1..end]).await?;
    Ok(Addresses::read(&mut &header[..end])?)
}

/// Offers it to the fabric for as long as the other node wants it.
async fn connect(
    shared: &Shared,
    link: &Link,
    Addresses { from, to }: Addresses,
    sending: &Sending,
) -> Result<End, DialFailure> {
    let (pods, kept) = marked::pair().map_err(|_| DialFailure::TooMany)?;
    tokio::select! {
        biased;
        result = shared.arrivals.connect(&link.known.node, from, to, pods) => result.map(|()| End::Pod(kept)),
        () = sending.stopped() => Err(DialFailure::TimedOut),
        () = shared.stop.cancelled() => Err(DialFailure::Unreachable),
    }
}

/// Whether what is said to come from an address may come from this peer.
fn is_peers(shared: &Shared, link: &Link, addresses: Addresses) -> bool {
    let is_own = shared.peer(&link.known.node).is_some_and(|(_, peer)| peer.has(addresses.from.ip()));
    if !is_own {
        let why = format!("traffic from {}, which is not its pod's address", addresses.from.ip());
        turn_away(shared, link, FOREIGN, &why);
    }
    is_own
}

fn turn_away(shared: &Shared, link: &Link, kind: &'static str, why: &str) {
    shared.reporter.refused(&link.known.node, kind, link.connection.remote_address(), why);
}

async fn take_datagrams(shared: &Shared, link: &Link) -> ConnectionError {
    let mut reassembly = Reassembly::default();
    loop {
        let next = link.connection.read_datagram();
        // What waits is looked at now and then, however few or many come; nothing is looked at where nothing waits.
        let next =
            if reassembly.is_empty() { Ok(next.await) } else { tokio::time::timeout(reassembly::WAIT, next).await };
        reassembly.expire(Instant::now());
        let Ok(next) = next else { continue };
        match next {
            Ok(datagram) => {
                link.touch();
                if take_datagram(shared, link, &mut reassembly, datagram) == Err(Garbage) {
                    turn_away(shared, link, GARBAGE_DATAGRAM, GARBAGE_DATAGRAM);
                }
            }
            Err(error) => return error,
        }
    }
}

fn take_datagram(shared: &Shared, link: &Link, reassembly: &mut Reassembly, datagram: Bytes) -> Result<(), Garbage> {
    let frame = match Frame::read(datagram)? {
        Frame::Part(part) => match reassembly.add(part, Instant::now()) {
            Some(content) => Frame::read_whole(content)?,
            None => return Ok(()),
        },
        frame => frame,
    };
    let node = &link.known.node;
    match frame {
        Frame::Whole(addresses, bytes) if is_peers(shared, link, addresses) => {
            shared.arrivals.datagram(node, addresses.from, addresses.to, bytes);
        }
        // Said of what one of this node's pods sent: the one who does not take it has to be the peer's.
        Frame::Refused(Addresses { from, to }) if is_peers(shared, link, Addresses { from: to, to: from }) => {
            shared.arrivals.datagram_refused(node, from, to);
        }
        Frame::Whole(..) | Frame::Refused(_) | Frame::Part(_) => {}
    }
    Ok(())
}
