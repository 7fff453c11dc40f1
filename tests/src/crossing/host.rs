//! Clients on the host, which reach pods through the node ports of nodes: transfers over one connection after the other.

use super::tally::Tally;
use crate::random::Random;
use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// Most bytes of a connection.
const TRANSFER_MAX: usize = 200_000;
/// A connection on which nothing moves for so long has failed silently: a node is given up sooner.
const SILENCE: Duration = Duration::from_secs(75);

/// Transfers until it is over, and counts those that were whole on the way.
pub(super) fn transfers(door: SocketAddr, mut random: Random, is_over: &AtomicBool, whole: &AtomicUsize) -> Tally {
    let mut tally = Tally::default();
    while !is_over.load(Ordering::SeqCst) {
        match transfer(door, &content(&mut random)) {
            Ok(()) => {
                tally.whole += 1;
                whole.fetch_add(1, Ordering::SeqCst);
            }
            Err(reason) => *tally.failed.entry(reason).or_default() += 1,
        }
    }
    tally
}

fn content(random: &mut Random) -> Vec<u8> {
    let length = random.below(TRANSFER_MAX);
    let mut bytes = Vec::with_capacity(length + size_of::<usize>());
    while bytes.len() < length {
        bytes.extend(random.below(usize::MAX).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends, half-closes, and reads everything back at the same time.
fn transfer(door: SocketAddr, sent: &[u8]) -> Result<(), String> {
    let why = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("WRONG: nothing moved for {SILENCE:?}"),
        kind => kind.to_string(),
    };
    let mut stream = TcpStream::connect_timeout(&door, SILENCE).map_err(why)?;
    stream.set_read_timeout(Some(SILENCE)).map_err(why)?;
    stream.set_write_timeout(Some(SILENCE)).map_err(why)?;
    let mut sender = stream.try_clone().map_err(why)?;
    let mut back = Vec::with_capacity(sent.len());
    let (sending, receiving) = thread::scope(|scope| {
        let sending = scope.spawn(move || sender.write_all(sent).and_then(|()| sender.shutdown(Shutdown::Write)));
        let receiving = (&mut stream).take(1 << 20).read_to_end(&mut back);
        (sending.join(), receiving)
    });
    if !sent.starts_with(&back) {
        return Err(format!("WRONG: other bytes came back within the first {}", back.len()));
    }
    receiving.map_err(why)?;
    match sending {
        Ok(Ok(())) if back.len() == sent.len() => Ok(()),
        Ok(Ok(())) => Err("cut off".to_owned()),
        Ok(Err(error)) => Err(why(error)),
        Err(_) => Err("WRONG: the sender panicked".to_owned()),
    }
}
