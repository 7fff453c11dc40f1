//! Questions that the cluster cannot answer: what to ask outside, and what to make of the result.

use super::{
    Header, UDP_LENGTH_MAX, kind,
    reply::{Asked, Content, complete},
};
use crate::names::{self, Data, Kind, RECORDS_MAX, TTL_SECONDS};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::Record,
};
use std::net::IpAddr;

/// Longest that an outside answer is said to be good for, in seconds: a day, as resolvers do.
const TTL_SECONDS_MAX: u32 = 86_400;

/// A question for the outside.
#[derive(Debug, Clone)]
pub struct Question {
    asked: Asked,
    /// The cluster's aliases that lead to `name`.
    aliases: Vec<names::Record>,
    name: String,
}

/// An answer from outside, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// Whether the server outside cut its answer: who asked by TCP should have it asked by TCP too.
    pub is_truncated: bool,
}

impl Question {
    pub(super) fn new(asked: Asked, aliases: Vec<names::Record>, name: String) -> Self {
        Self { asked, aliases, name }
    }

    /// The name to ask for: complete, lower case, without the final dot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is asked about it. [`Kind::Other`] can only be forwarded.
    #[must_use]
    pub fn kind(&self) -> Kind {
        kind(self.asked.question.query_type())
    }

    /// The bytes to send to a server outside. `id` should be random.
    #[must_use]
    pub fn forward(&self, id: u16) -> Vec<u8> {
        let Some(name) = complete(&self.name) else { return Vec::new() };
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, self.asked.question.query_type()));
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LENGTH_MAX);
        message.set_edns(edns);
        message.to_vec().unwrap_or_default()
    }

    /// Makes the answer to the pod of the answer of the server outside to [`Question::forward`]. `None` when it is not the
    /// answer to this question: wait on.
    #[must_use]
    pub fn relay(&self, answer: &[u8], id: u16) -> Option<Relayed> {
        let header = Header::read(answer)?;
        if !header.is_response || header.id != id || header.questions != 1 {
            return None;
        }
        let message = Message::from_vec(answer).ok()?;
        let question = message.queries.first()?;
        let is_same = complete(&self.name).is_some_and(|name| name == *question.name())
            && question.query_type() == self.asked.question.query_type()
            && question.query_class() == self.asked.question.query_class();
        if !is_same {
            return None;
        }
        let bounded = |records: Vec<Record>| {
            let capped = records.into_iter().take(RECORDS_MAX).map(|mut record| {
                record.ttl = record.ttl.min(TTL_SECONDS_MAX);
                record
            });
            capped.collect::<Vec<_>>()
        };
        let bytes = self.asked.reply(Content {
            code: message.metadata.response_code,
            foreign_answers: bounded(message.answers),
            foreign_authorities: bounded(message.authorities),
            is_truncated: message.metadata.truncation,
            ..Content::answer(self.aliases.clone())
        });
        Some(Relayed { bytes, is_truncated: message.metadata.truncation })
    }

    /// The answer when the host's resolver gave these addresses: those of the kind that was asked for. None of that kind
    /// means that the name has none.
    #[must_use]
    pub fn addresses(&self, addresses: &[IpAddr]) -> Vec<u8> {
        let is_wanted = |address: &&IpAddr| match self.kind() {
            Kind::A => address.is_ipv4(),
            Kind::Aaaa => address.is_ipv6(),
            _ => false,
        };
        let record = |address: &IpAddr| names::Record {
            name: self.name.clone(),
            ttl_seconds: TTL_SECONDS,
            data: Data::Address(*address),
        };
        let found = addresses.iter().filter(is_wanted).take(RECORDS_MAX).map(record);
        self.asked.reply(Content::answer(self.aliases.iter().cloned().chain(found).collect()))
    }

    /// The answer when there is no such name outside.
    #[must_use]
    pub fn no_name(&self) -> Vec<u8> {
        self.asked.reply(Content { code: ResponseCode::NXDomain, ..Content::answer(self.aliases.clone()) })
    }

    /// The answer when nobody outside answered.
    #[must_use]
    pub fn failed(&self) -> Vec<u8> {
        self.asked.reply(Content::code(ResponseCode::ServFail))
    }

    /// The answer when it may not be asked, or too much is being asked already.
    #[must_use]
    pub fn refused(&self) -> Vec<u8> {
        self.asked.reply(Content::code(ResponseCode::Refused))
    }
}
