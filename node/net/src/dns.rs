//! The DNS server's mind: bytes of a question in, bytes of an answer out, or the question that must be asked outside.
//!
//! It is asked by guests, so nothing is sized by what they send, and nothing they send may make it panic. It keeps no state
//! and opens nothing. Rules: RFC 1034 and 1035, EDNS by RFC 6891, negative answers by RFC 2308.

mod outside;
mod reply;

#[cfg(test)]
mod tests;

pub use outside::{Question, Relayed};

use crate::names::{End, Kind, Names};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use reply::{Asked, Content};

/// Port of DNS, UDP and TCP.
pub const PORT: u16 = 53;
/// Longest question that is read, in bytes.
pub const QUERY_LENGTH_MAX: usize = 4096;
/// Longest answer by UDP to who says that it takes so much, in bytes. There is no fragmentation to fear in here.
pub const UDP_LENGTH_MAX: u16 = 4096;
/// Longest answer by UDP to who says nothing, in bytes (RFC 1035).
const UDP_LENGTH_DEFAULT: u16 = 512;
/// Longest answer by TCP, in bytes: its length has two.
const TCP_LENGTH_MAX: u16 = u16::MAX;
/// Length of a message's header, in bytes.
const HEADER_LENGTH: usize = 12;
/// Most records that a question may carry beside it: EDNS and a signature, and some to spare.
const ADDITIONAL_MAX: u16 = 8;
/// The version of EDNS that is spoken.
const EDNS_VERSION: u8 = 0;

/// By what a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way: an answer that is too long is cut, and says so.
    Udp,
    /// A stream; the two bytes of length before each message are not part of it.
    Tcp,
}

/// What comes of a question.
#[derive(Debug)]
pub enum DnsReply {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask outside, and send what [`Question`] makes of the result.
    Outside(Box<Question>),
    /// It was no question: send nothing.
    Nothing,
}

/// Answers a question about the cluster's names.
#[must_use]
pub fn answer(query: &[u8], names: &Names, transport: Transport) -> DnsReply {
    let Some(header) = Header::read(query) else { return DnsReply::Nothing };
    // Who answers answers never stops.
    if header.is_response {
        return DnsReply::Nothing;
    }
    let refuse = |code| DnsReply::Answer(header.refusal(code));
    if header.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    if query.len() > QUERY_LENGTH_MAX || !header.is_plausible_question() {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(query) else { return refuse(ResponseCode::FormErr) };
    let Some(question) = message.queries.pop() else { return refuse(ResponseCode::FormErr) };
    let limit = match (transport, &message.edns) {
        (Transport::Tcp, _) => TCP_LENGTH_MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_LENGTH_DEFAULT, UDP_LENGTH_MAX),
        (Transport::Udp, None) => UDP_LENGTH_DEFAULT,
    };
    let version = message.edns.as_ref().map(hickory_proto::op::Edns::version);
    let asked = Asked { metadata: message.metadata, has_edns: version.is_some(), question, limit };
    if version.is_some_and(|version| version != EDNS_VERSION) {
        return DnsReply::Answer(asked.reply(Content::code(ResponseCode::BADVERS)));
    }
    match refusal_of(&asked.question) {
        Some(code) => DnsReply::Answer(asked.reply(Content::code(code))),
        None => look_up(asked, names),
    }
}

/// What is refused whatever the name.
fn refusal_of(question: &Query) -> Option<ResponseCode> {
    if question.query_class() != DNSClass::IN || question.name().is_root() {
        return Some(ResponseCode::Refused);
    }
    match question.query_type() {
        RecordType::AXFR | RecordType::IXFR => Some(ResponseCode::Refused),
        // Nobody needs it, and it makes long answers of short questions (RFC 8482).
        RecordType::ANY => Some(ResponseCode::NotImp),
        RecordType::OPT => Some(ResponseCode::FormErr),
        _ => None,
    }
}

fn look_up(asked: Asked, names: &Names) -> DnsReply {
    let Some(name) = text(asked.question.name()) else {
        return DnsReply::Answer(asked.reply(Content::code(ResponseCode::NXDomain)));
    };
    let outcome = names.query(&name, kind(asked.question.query_type()));
    let content = match outcome.end {
        End::Outside(target) => return DnsReply::Outside(Box::new(Question::new(asked, outcome.records, target))),
        End::Answered => Content { additional: names.additional(&outcome.records), ..Content::answer(outcome.records) },
        End::NoData => Content { is_negative: true, ..Content::answer(outcome.records) },
        End::NoName => Content { is_negative: true, code: ResponseCode::NXDomain, ..Content::answer(outcome.records) },
    };
    DnsReply::Answer(asked.reply(Content { is_authoritative: true, ..content }))
}

/// A name as text, lower case, without the final dot; `None` for what only a machine would write.
fn text(name: &Name) -> Option<String> {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &[u8]| label.iter().all(is_letter).then(|| String::from_utf8_lossy(label).to_ascii_lowercase());
    Some(name.iter().map(label).collect::<Option<Vec<_>>>()?.join("."))
}

fn kind(record_type: RecordType) -> Kind {
    match record_type {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::TXT => Kind::Txt,
        RecordType::CNAME => Kind::Cname,
        _ => Kind::Other,
    }
}

/// The fixed part of a message, read before anything else is made of it.
struct Header {
    id: u16,
    is_response: bool,
    op_code: OpCode,
    recursion_desired: bool,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_LENGTH] = bytes.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self {
            id: word(0),
            is_response: header[2] & 0x80 != 0,
            op_code: OpCode::from_u8((header[2] >> 3) & 0x0f),
            recursion_desired: header[2] & 0x01 != 0,
            questions: word(4),
            answers: word(6),
            authorities: word(8),
            additionals: word(10),
        })
    }

    /// One question, and not more beside it than questions have: the parser would make room for as many as are announced.
    fn is_plausible_question(&self) -> bool {
        self.questions == 1 && self.answers == 0 && self.authorities == 0 && self.additionals <= ADDITIONAL_MAX
    }

    /// An answer that says no more than `code`, to what could not be read.
    fn refusal(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = Message::new(self.id, MessageType::Response, self.op_code);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.response_code = code;
        message.to_vec().unwrap_or_default()
    }
}
