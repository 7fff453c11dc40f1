//! Makes the bytes of an answer, as long as they may be and no longer.

use super::{UDP_LENGTH_MAX, text};
use crate::names::{self, CLUSTER_DOMAIN, Data, TTL_SECONDS};
use hickory_proto::{
    op::{Edns, Message, Metadata, Query, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT},
    },
};
use std::net::IpAddr;

/// Where a message says that it was cut: which byte, and which bit of it.
const FLAGS_AT: usize = 2;
const TRUNCATED: u8 = 0x02;
/// Shortest record of any use, in bytes: a pointer to its name, ten of fixed fields, an IPv4 address.
const RECORD_LENGTH_MIN: usize = 16;
/// Fields of the zones' SOA records that only secondaries use, in seconds.
const SOA_SERIAL: u32 = 1;
const SOA_REFRESH_SECONDS: i32 = 7200;
const SOA_RETRY_SECONDS: i32 = 1800;
const SOA_EXPIRE_SECONDS: i32 = 86_400;
/// Zones that the cluster answers for, at least in part.
const ZONES: [&str; 3] = [CLUSTER_DOMAIN, "in-addr.arpa", "ip6.arpa"];

/// Who asked what, and how long the answer may be.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) metadata: Metadata,
    pub(super) has_edns: bool,
    pub(super) question: Query,
    pub(super) limit: u16,
}

/// What an answer says.
pub(super) struct Content {
    pub(super) code: ResponseCode,
    pub(super) is_authoritative: bool,
    /// Whether it says what is not: then it says for how long.
    pub(super) is_negative: bool,
    pub(super) answers: Vec<names::Record>,
    /// Records of others, after `answers`.
    pub(super) foreign_answers: Vec<Record>,
    pub(super) foreign_authorities: Vec<Record>,
    pub(super) additional: Vec<names::Record>,
    pub(super) is_truncated: bool,
}

impl Content {
    pub(super) fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::answer(Vec::new()) }
    }

    pub(super) fn answer(answers: Vec<names::Record>) -> Self {
        Self {
            code: ResponseCode::NoError,
            is_authoritative: false,
            is_negative: false,
            answers,
            foreign_answers: Vec::new(),
            foreign_authorities: Vec::new(),
            additional: Vec::new(),
            is_truncated: false,
        }
    }
}

impl Asked {
    /// The bytes of an answer. What does not fit is left out: first what is only helpful, then answers from the end, and
    /// then it says that it was cut.
    pub(super) fn reply(&self, content: Content) -> Vec<u8> {
        let mut message = self.message(content);
        let most = usize::from(self.limit) / RECORD_LENGTH_MIN;
        if message.answers.len() > most {
            // They cannot all fit: nothing is encoded only to find that out.
            message.answers.truncate(most);
            return self.cut(message);
        }
        if let Some(bytes) = self.fitting(&message) {
            return bytes;
        }
        message.additionals.clear();
        self.fitting(&message).unwrap_or_else(|| self.cut(message))
    }

    /// The bytes of as many of the answers as fit, saying that there are more.
    fn cut(&self, mut message: Message) -> Vec<u8> {
        message.metadata.truncation = true;
        message.additionals.clear();
        message.authorities.clear();
        let all = std::mem::take(&mut message.answers);
        let with = |count: usize| {
            let mut cut = message.clone();
            cut.answers.extend_from_slice(&all[..count]);
            self.fitting(&cut)
        };
        // The longest beginning that fits, by halving.
        let (mut fits, mut too_many) = (0, all.len());
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            if with(middle).is_some() { fits = middle } else { too_many = middle }
        }
        with(fits).unwrap_or_default()
    }

    fn fitting(&self, message: &Message) -> Option<Vec<u8>> {
        let bytes = message.to_vec().ok().filter(|bytes| bytes.len() <= usize::from(self.limit))?;
        // At the longest that any message can be, the encoder cuts by itself, and says so in the flags alone.
        let is_cut = bytes.get(FLAGS_AT).is_some_and(|flags| flags & TRUNCATED != 0);
        (is_cut == message.metadata.truncation).then_some(bytes)
    }

    fn message(&self, content: Content) -> Message {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.recursion_available = true;
        message.metadata.authoritative = content.is_authoritative;
        message.metadata.response_code = content.code;
        message.metadata.truncation = content.is_truncated;
        message.add_query(self.question.clone());
        if self.has_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_LENGTH_MAX);
            message.set_edns(edns);
        }
        let mut answers: Vec<Record> = content.answers.iter().filter_map(|one| self.record(one)).collect();
        self.take_turns(&mut answers);
        message.add_answers(answers.into_iter().chain(content.foreign_answers));
        message.add_authorities(content.foreign_authorities);
        if content.is_negative {
            message.add_authorities(self.start_of_authority());
        }
        message.add_additionals(content.additional.iter().filter_map(|one| self.record(one)));
        message
    }

    /// Many clients take the first address: whose turn it is follows from the question's id, which they draw at random.
    fn take_turns(&self, answers: &mut [Record]) {
        let aliases = answers.iter().take_while(|record| matches!(record.data, RData::CNAME(_))).count();
        let rest = &mut answers[aliases..];
        if !rest.is_empty() {
            rest.rotate_left(usize::from(self.metadata.id) % rest.len());
        }
    }

    fn record(&self, record: &names::Record) -> Option<Record> {
        let data = match &record.data {
            Data::Address(IpAddr::V4(address)) => RData::A(A::from(*address)),
            Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA::from(*address)),
            Data::Srv { priority, weight, port, target } => {
                RData::SRV(SRV::new(*priority, *weight, *port, complete(target)?))
            }
            Data::Ptr(name) => RData::PTR(PTR(complete(name)?)),
            Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
            Data::Cname(name) => RData::CNAME(CNAME(complete(name)?)),
        };
        // The letters' case is the asker's: some check that it comes back.
        let asked = self.question.name();
        let name = if text(asked).as_deref() == Some(&*record.name) { asked.clone() } else { complete(&record.name)? };
        Some(Record::from_rdata(name, record.ttl_seconds, data))
    }

    /// Says for how long it holds that something is not there (RFC 2308).
    fn start_of_authority(&self) -> Option<Record> {
        let asked = text(self.question.name())?;
        let is_within = |zone: &&&str| asked == ***zone || asked.ends_with(&format!(".{zone}"));
        let zone = complete(ZONES.iter().find(is_within)?)?;
        let (server, mailbox) =
            (complete(&format!("ns.dns.{CLUSTER_DOMAIN}"))?, complete(&format!("hostmaster.{CLUSTER_DOMAIN}"))?);
        let soa = SOA::new(
            server,
            mailbox,
            SOA_SERIAL,
            SOA_REFRESH_SECONDS,
            SOA_RETRY_SECONDS,
            SOA_EXPIRE_SECONDS,
            TTL_SECONDS,
        );
        Some(Record::from_rdata(zone, TTL_SECONDS, RData::SOA(soa)))
    }
}

/// A complete name from our own text.
pub(super) fn complete(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}
