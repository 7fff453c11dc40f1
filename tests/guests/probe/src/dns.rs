//! DNS messages by hand (RFC 1035), so that nothing on the way is taken for granted: one question, all answers.

use crate::{Outcome, exchange};
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, TcpStream},
};

const PORT: u16 = 53;
/// Longest chain of compression pointers that is followed.
const POINTERS_MAX: usize = 32;
const KINDS: [(&str, u16); 6] = [("A", 1), ("CNAME", 5), ("PTR", 12), ("TXT", 16), ("AAAA", 28), ("SRV", 33)];

/// Asks for every name and prints `KIND NAME: RCODE ANSWER; ANSWER…`, with `(truncated)` where the server said so.
pub fn ask(transport: &str, server: &str, kind: &str, names: &[&str]) -> Outcome {
    let number = KINDS.iter().find(|known| known.0 == kind).ok_or_else(|| format!("what is {kind}?"))?.1;
    for (index, name) in names.iter().enumerate() {
        let id = 0x4200 | u16::try_from(index).unwrap_or(0xff);
        let query = query(id, number, name);
        let reply = match transport {
            "udp" => exchange((server, PORT), &query).map(|(reply, _)| reply),
            "tcp" => over_tcp(server, &query),
            _ => return Err(format!("what is {transport}? udp or tcp")),
        };
        match reply.map(|reply| read(&reply, id)) {
            Ok(Some(text)) => println!("{kind} {name}: {text}"),
            Ok(None) => println!("{kind} {name}: the reply makes no sense"),
            Err(error) => println!("{kind} {name}: failed: {}", error.kind()),
        }
    }
    Ok(())
}

fn query(id: u16, kind: u16, name: &str) -> Vec<u8> {
    // Recursion desired, one question.
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// Each message after its length in two bytes.
fn over_tcp(server: &str, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect((server, PORT))?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    server.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    server.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    server.read_exact(&mut reply)?;
    Ok(reply)
}

/// A message and how far it is read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn read(reply: &[u8], id: u16) -> Option<String> {
    let mut reader = Reader { bytes: reply, at: 0 };
    let (answered, flags) = (reader.short()?, reader.short()?);
    if answered != id || flags & 0x8000 == 0 {
        return None;
    }
    let code = match flags & 0xf {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        other => other.to_string(),
    };
    let (questions, answers) = (reader.short()?, reader.short()?);
    reader.at += 4;
    for _ in 0..questions {
        reader.name()?;
        reader.at += 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        found.push(reader.record()?);
    }
    found.sort();
    let truncated = if flags & 0x200 == 0 { "" } else { " (truncated)" };
    Some(format!("{code}{truncated} {}", found.join("; ")).trim_end().to_owned())
}

impl Reader<'_> {
    fn short(&mut self) -> Option<u16> {
        let bytes = self.bytes.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn name(&mut self) -> Option<String> {
        let (mut labels, mut at, mut jumped) = (Vec::new(), self.at, 0);
        loop {
            let length = usize::from(*self.bytes.get(at)?);
            if length & 0xc0 == 0xc0 {
                if jumped == 0 {
                    self.at = at + 2;
                }
                at = (length & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                jumped += 1;
                if jumped > POINTERS_MAX {
                    return None;
                }
                continue;
            }
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(self.bytes.get(at..at + length)?).into_owned());
            at += length;
        }
        if jumped == 0 {
            self.at = at;
        }
        Some(labels.join("."))
    }

    fn record(&mut self) -> Option<String> {
        self.name()?;
        let kind = self.short()?;
        // Class and time to live.
        self.at += 6;
        let length = usize::from(self.short()?);
        let (begin, end) = (self.at, self.at + length);
        let data = self.bytes.get(begin..end)?;
        let text = match kind {
            1 => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
            28 => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
            5 => format!("alias {}", self.name()?),
            12 => self.name()?,
            33 => {
                let (priority, weight, port) = (self.short()?, self.short()?, self.short()?);
                format!("{priority} {weight} {port} {}", self.name()?)
            }
            _ => format!("{length} bytes of kind {kind}"),
        };
        self.at = end;
        Some(text)
    }
}
