//! Datagrams to somebody who sends them back, numbered and checked: what comes back is whole, was sent, and comes once. Some
//! may be lost, which is counted.

use crate::{content::Content, readiness::readable};
use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, ToSocketAddrs as _, UdpSocket},
    thread,
    time::Duration,
};

/// Datagrams of one socket, and how many of them may be on their way at once.
const FLOW: usize = 32;
const WINDOW: usize = 4;
/// Most bytes of a datagram; one of so many is a long one, the others fit into one packet.
const LONG_MAX: u64 = 20_000;
const SHORT_MAX: u64 = 1_000;
const LONG_EVERY: u64 = 8;
/// Seed and number, which every datagram begins with.
const HEAD: usize = 16;
/// Who has not come back by then has been lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Others have something to do as well.
const PAUSE: Duration = Duration::from_millis(40);
const FLOWS_BETWEEN_LINES: u64 = 8;

/// One flow after another, without an end. Now and then a line says `datagrams: sent S, answered A`; one with `WRONG` in it
/// says that something came that must not.
pub fn datagrams(host: &str, port: u16, seed: u64) -> ! {
    let (mut sent, mut answered) = (0, 0);
    for flow in 0.. {
        sent += FLOW;
        match Flow::begin((host, port), seed.wrapping_add(flow)) {
            Ok(mut begun) => {
                // What went before it failed counts all the same.
                if let Err(error) = begun.run() {
                    println!("flow {flow}: {error}");
                }
                answered += begun.is_answered.iter().filter(|is| **is).count();
            }
            Err(error) => println!("flow {flow} does not begin: {}", error.kind()),
        }
        if (flow + 1) % FLOWS_BETWEEN_LINES == 0 {
            println!("datagrams: sent {sent}, answered {answered}");
        }
        thread::sleep(PAUSE);
    }
    unreachable!("numbers do not end")
}

struct Flow {
    socket: UdpSocket,
    to: SocketAddr,
    seed: u64,
    /// Of each that was sent.
    is_answered: Vec<bool>,
    is_lost: Vec<bool>,
}

impl Flow {
    fn begin(to: (&str, u16), seed: u64) -> io::Result<Self> {
        let to = to.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to, seed, is_answered: Vec::new(), is_lost: Vec::new() })
    }

    fn run(&mut self) -> Result<(), String> {
        let said = |error: io::Error| error.kind().to_string();
        while self.is_answered.len() < FLOW || self.waiting() > 0 {
            if self.is_answered.len() < FLOW && self.waiting() < WINDOW {
                let number = self.is_answered.len();
                self.is_answered.push(false);
                // One that does not go has been lost.
                let is_gone = self.socket.send_to(&datagram(self.seed, number), self.to).is_ok();
                self.is_lost.push(!is_gone);
            } else if readable(&self.socket, LOST_AFTER).map_err(said)? {
                self.receive()?;
            } else {
                self.is_lost.fill(true);
            }
        }
        Ok(())
    }

    /// How many may still come back.
    fn waiting(&self) -> usize {
        self.is_answered.iter().zip(&self.is_lost).filter(|(answered, lost)| !**answered && !**lost).count()
    }

    fn receive(&mut self) -> Result<(), String> {
        let mut came = vec![0; 64 << 10];
        let (length, from) = match self.socket.recv_from(&mut came) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.kind().to_string()),
        };
        came.truncate(length);
        let number = came.get(8..HEAD).and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok());
        let number = number.unwrap_or(usize::MAX);
        if from != self.to {
            return Err(format!("WRONG: {length} bytes came from {from}, not from {}", self.to));
        }
        match self.is_answered.get_mut(number) {
            Some(is_answered) if came == datagram(self.seed, number) => {
                if std::mem::replace(is_answered, true) {
                    return Err(format!("WRONG: number {number} came twice"));
                }
                Ok(())
            }
            _ => Err(format!("WRONG: {length} bytes came that were never sent, said to be number {number}")),
        }
    }
}

/// Its head, and bytes that seed and number decide, as is how many.
fn datagram(seed: u64, number: usize) -> Vec<u8> {
    let number = number as u64;
    let mut content = Content::new(seed ^ number.rotate_left(32));
    let most = if content.below(LONG_EVERY) == 0 { LONG_MAX } else { SHORT_MAX };
    let length = content.below(most);
    let mut bytes = [seed.to_le_bytes(), number.to_le_bytes()].concat();
    bytes.extend(content.take(usize::try_from(length).unwrap_or_default()));
    bytes
}
