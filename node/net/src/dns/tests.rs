//! Questions and answers as bytes: what guests send, and what they get.

use super::*;
use hickory_proto::{
    op::Edns,
    rr::{RData, Record},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{net::IpAddr, sync::LazyLock};

/// Endpoints of the large headless service.
const MANY: usize = 600;

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let service = |name: &str, spec: Value| {
        let mut service = json!({"metadata": {"namespace": "default", "name": name}});
        service["spec"] = spec;
        service
    };
    let services = [
        service("web", json!({"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]})),
        service("many", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        service("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
    ];
    let endpoints: Vec<Value> =
        (0..MANY).map(|index| json!({"addresses": [format!("10.244.{}.{}", index / 200, index % 200 + 1)]})).collect();
    let slice = json!({
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "many"}},
        "ports": [{"name": "http", "port": 80}], "endpoints": endpoints,
    });
    Names::build(&services, [&slice])
});

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn with_edns(mut message: Message, length: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(length).set_version(version);
    message.set_edns(edns);
    message
}

fn bytes_of(reply: DnsReply) -> Vec<u8> {
    match reply {
        DnsReply::Answer(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn ask(message: &Message, transport: Transport) -> Message {
    Message::from_vec(&bytes_of(answer(&message.to_vec().unwrap(), &NAMES, transport))).unwrap()
}

fn ask_outside(message: &Message) -> Box<Question> {
    match answer(&message.to_vec().unwrap(), &NAMES, Transport::Udp) {
        DnsReply::Outside(question) => question,
        other => panic!("{other:?}"),
    }
}

fn lines(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{} {} {}", record.name, record.record_type(), record.data)).collect()
}

#[test]
fn the_clusters_names_are_answered_with_authority() {
    let asked = question("Web.Default.svc.cluster.local.", RecordType::A);
    let reply = ask(&asked, Transport::Udp);
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (77, MessageType::Response));
    assert!(reply.metadata.authoritative && reply.metadata.recursion_desired && reply.metadata.recursion_available);
    assert!(!reply.metadata.truncation && reply.edns.is_none());
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.queries[0].name().to_ascii(), "Web.Default.svc.cluster.local.", "as it was asked");
    assert_eq!(lines(&reply.answers), ["Web.Default.svc.cluster.local. A 10.96.0.20"]);
    assert_eq!(reply.answers[0].ttl, crate::names::TTL_SECONDS);
    assert!(reply.authorities.is_empty());
}

#[test]
fn every_kind_of_record_is_written() {
    let rows = [
        (
            "_http._tcp.web.default.svc.cluster.local.",
            RecordType::SRV,
            "_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local.",
        ),
        ("20.0.96.10.in-addr.arpa.", RecordType::PTR, "20.0.96.10.in-addr.arpa. PTR web.default.svc.cluster.local."),
        ("dns-version.cluster.local.", RecordType::TXT, "dns-version.cluster.local. TXT 1.1.0"),
        ("out.default.svc.cluster.local.", RecordType::CNAME, "out.default.svc.cluster.local. CNAME www.example.com."),
        ("localhost.", RecordType::AAAA, "localhost. AAAA ::1"),
    ];
    for (name, record_type, expected) in rows {
        let reply = ask(&question(name, record_type), Transport::Udp);
        assert_eq!(lines(&reply.answers), [expected]);
    }
    let srv = ask(&question("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV), Transport::Udp);
    assert_eq!(lines(&srv.additionals), ["web.default.svc.cluster.local. A 10.96.0.20"]);
}

#[test]
fn what_is_not_there_and_what_has_no_such_record_are_told_apart_and_say_for_how_long() {
    for (name, record_type, code) in [
        ("web.default.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
        ("web.default.svc.cluster.local.", RecordType::MX, ResponseCode::NoError),
        ("default.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("nobody.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let reply = ask(&question(name, record_type), Transport::Udp);
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (code, 0), "{name}");
        let soa = lines(&reply.authorities);
        assert!(soa.len() == 1 && soa[0].starts_with("cluster.local. SOA ns.dns.cluster.local. "), "{soa:?}");
    }
    let mut odd = question("web.", RecordType::A);
    odd.queries[0].set_name(Name::from_labels([&b"a\0b"[..], b"cluster", b"local"]).unwrap());
    assert_eq!(ask(&odd, Transport::Udp).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn long_answers_are_cut_by_udp_and_whole_by_tcp() {
    let asked = question("many.default.svc.cluster.local.", RecordType::A);
    for (message, limit) in [
        (asked.clone(), 512),
        (with_edns(asked.clone(), 100, 0), 512),
        (with_edns(asked.clone(), 1232, 0), 1232),
        (with_edns(asked.clone(), 65_000, 0), usize::from(UDP_LENGTH_MAX)),
    ] {
        let bytes = bytes_of(answer(&message.to_vec().unwrap(), &NAMES, Transport::Udp));
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(reply.metadata.truncation && bytes.len() <= limit, "{} of {limit}", bytes.len());
        assert!(bytes.len() + 48 > limit, "more records would fit: {} of {limit}", bytes.len());
        assert_eq!(reply.edns.is_some(), message.edns.is_some());
        assert_eq!(reply.queries.len(), 1);
    }
    let whole = ask(&asked, Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), MANY);
    let srv = ask(&question("_http._tcp.many.default.svc.cluster.local.", RecordType::SRV), Transport::Tcp);
    assert_eq!((srv.answers.len(), srv.metadata.truncation), (MANY, false), "what is only helpful is left out first");
}

#[test]
fn the_first_address_is_not_always_the_same() {
    let mut first = std::collections::BTreeSet::new();
    for id in 0..20 {
        let mut asked = question("many.default.svc.cluster.local.", RecordType::A);
        asked.metadata.id = id;
        first.insert(lines(&ask(&asked, Transport::Tcp).answers)[0].clone());
    }
    assert_eq!(first.len(), 20);
}

#[test]
fn what_is_no_proper_question_is_refused_in_the_proper_way() {
    let plain = question("web.default.svc.cluster.local.", RecordType::A);
    let changed = |change: fn(&mut Message)| {
        let mut message = plain.clone();
        change(&mut message);
        message
    };
    let rows = [
        (changed(|one| one.metadata.op_code = OpCode::Update), ResponseCode::NotImp),
        (changed(|one| one.metadata.op_code = OpCode::Notify), ResponseCode::NotImp),
        (changed(|one| one.queries.clear()), ResponseCode::FormErr),
        (changed(|one| one.queries.push(one.queries[0].clone())), ResponseCode::FormErr),
        (
            changed(|one| {
                one.queries[0].set_query_class(DNSClass::CH);
            }),
            ResponseCode::Refused,
        ),
        (
            changed(|one| {
                one.queries[0].set_query_type(RecordType::AXFR);
            }),
            ResponseCode::Refused,
        ),
        (
            changed(|one| {
                one.queries[0].set_query_type(RecordType::ANY);
            }),
            ResponseCode::NotImp,
        ),
        (
            changed(|one| {
                one.queries[0].set_name(Name::root());
            }),
            ResponseCode::Refused,
        ),
    ];
    for (message, code) in rows {
        let reply = ask(&message, Transport::Udp);
        assert_eq!((reply.metadata.response_code, reply.metadata.id), (code, 77), "{message:?}");
        assert!(reply.answers.is_empty());
    }
    let reply = ask(&with_edns(plain.clone(), 1232, 7), Transport::Udp);
    assert_eq!((reply.metadata.response_code.high(), reply.metadata.response_code.low()), (1, 0), "BADVERS");
    assert_eq!(reply.edns.map(|edns| edns.version()), Some(0));
}

#[test]
fn nothing_is_said_to_what_is_no_question_and_little_to_what_cannot_be_read() {
    let response = ask(&question("web.default.svc.cluster.local.", RecordType::A), Transport::Udp).to_vec().unwrap();
    for bytes in [&[][..], &[0; 11], &response] {
        assert!(matches!(answer(bytes, &NAMES, Transport::Udp), DnsReply::Nothing), "{bytes:?}");
    }
    let whole = question("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let mut announced = whole.clone();
    announced[4..6].copy_from_slice(&[0xff, 0xff]);
    let mut beside = whole.clone();
    beside[10..12].copy_from_slice(&[0xff, 0xff]);
    let mut pointer_to_itself = whole[..12].to_vec();
    pointer_to_itself.extend([0xc0, 12, 0, 1, 0, 1]);
    let mut long = whole.clone();
    long.resize(QUERY_LENGTH_MAX + 1, 0);
    for bytes in [&whole[..12], &whole[..20], &announced, &beside, &pointer_to_itself, &long] {
        let reply = Message::from_vec(&bytes_of(answer(bytes, &NAMES, Transport::Udp))).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (77, ResponseCode::FormErr), "{bytes:?}");
        assert!(reply.metadata.recursion_desired && reply.metadata.message_type == MessageType::Response);
    }
}

#[test]
fn outside_names_are_asked_outside_and_their_addresses_answered() {
    let question = ask_outside(&question("out.default.svc.cluster.local.", RecordType::A));
    assert_eq!((question.name(), question.kind()), ("www.example.com", Kind::A));
    let found: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
    let reply = Message::from_vec(&question.addresses(&found)).unwrap();
    let expected = ["out.default.svc.cluster.local. CNAME www.example.com.", "www.example.com. A 192.0.2.1"];
    assert_eq!(lines(&reply.answers), expected);
    assert!(!reply.metadata.authoritative && reply.metadata.recursion_available);
    for (bytes, code) in [
        (question.no_name(), ResponseCode::NXDomain),
        (question.failed(), ResponseCode::ServFail),
        (question.refused(), ResponseCode::Refused),
    ] {
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.metadata.response_code, reply.metadata.id), (code, 77));
    }
}

/// What a server outside answers to a forwarded question.
fn upstream(question: &Question, id: u16, change: impl Fn(&mut Message)) -> Vec<u8> {
    let asked = Message::from_vec(&question.forward(id)).unwrap();
    assert!(asked.metadata.recursion_desired && asked.edns.is_some());
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.add_query(asked.queries[0].clone());
    let name = asked.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, u32::MAX, RData::A("192.0.2.1".parse().unwrap())));
    change(&mut message);
    message.to_vec().unwrap()
}

#[test]
fn an_answer_from_outside_is_relayed_as_ours() {
    let question = ask_outside(&with_edns(question("out.default.svc.cluster.local.", RecordType::A), 1232, 0));
    let relayed = question.relay(&upstream(&question, 9, |_| {}), 9).unwrap();
    let reply = Message::from_vec(&relayed.bytes).unwrap();
    let expected = ["out.default.svc.cluster.local. CNAME www.example.com.", "www.example.com. A 192.0.2.1"];
    assert_eq!(lines(&reply.answers), expected);
    assert_eq!(
        (reply.metadata.id, reply.queries[0].name().to_ascii().as_str()),
        (77, "out.default.svc.cluster.local.")
    );
    assert_eq!(reply.answers[1].ttl, 86_400, "nothing is kept for ever");
    let cut = question.relay(&upstream(&question, 9, |one| one.metadata.truncation = true), 9).unwrap();
    assert!(cut.is_truncated && Message::from_vec(&cut.bytes).unwrap().metadata.truncation);
    let none = question.relay(&upstream(&question, 9, |one| one.metadata.response_code = ResponseCode::NXDomain), 9);
    assert_eq!(Message::from_vec(&none.unwrap().bytes).unwrap().metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn what_is_no_answer_to_the_question_is_not_relayed() {
    let question = ask_outside(&question("www.example.com.", RecordType::A));
    let other = Name::from_ascii("www.example.org.").unwrap();
    for bytes in [
        upstream(&question, 8, |_| {}),
        upstream(&question, 9, |one| one.metadata.message_type = MessageType::Query),
        upstream(&question, 9, |one| {
            one.queries[0].set_name(other.clone());
        }),
        upstream(&question, 9, |one| {
            one.queries[0].set_query_type(RecordType::AAAA);
        }),
        upstream(&question, 9, |one| one.queries.clear()),
        upstream(&question, 9, |_| {})[..30].to_vec(),
        Vec::new(),
    ] {
        assert_eq!(question.relay(&bytes, 9), None);
    }
}

proptest! {
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = answer(&bytes, &NAMES, Transport::Udp);
        if let DnsReply::Outside(question) = answer(&question("a.b.", RecordType::A).to_vec().unwrap(), &NAMES, Transport::Udp) {
            let _ = question.relay(&bytes, 1);
        }
    }

    #[test]
    fn spoilt_questions_get_one_bounded_answer_or_none(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        which in 0..4_usize,
    ) {
        let plain = [
            question("web.default.svc.cluster.local.", RecordType::A),
            question("_http._tcp.many.default.svc.cluster.local.", RecordType::SRV),
            with_edns(question("out.default.svc.cluster.local.", RecordType::AAAA), 4096, 0),
            with_edns(question("20.0.96.10.in-addr.arpa.", RecordType::PTR), 512, 0),
        ];
        let mut bytes = plain[which].to_vec().unwrap();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        // Half of them are also cut short.
        let keep = cut.index(bytes.len() * 2).max(1);
        bytes.truncate(keep);
        let replies = match answer(&bytes, &NAMES, Transport::Udp) {
            DnsReply::Nothing => Vec::new(),
            DnsReply::Answer(reply) => vec![reply],
            DnsReply::Outside(question) => {
                vec![question.failed(), question.no_name(), question.addresses(&["192.0.2.1".parse().unwrap()])]
            }
        };
        for reply in replies {
            prop_assert!(!reply.is_empty() && reply.len() <= usize::from(UDP_LENGTH_MAX));
            let reply = Message::from_vec(&reply).unwrap();
            prop_assert_eq!(reply.metadata.id.to_be_bytes(), [bytes[0], bytes[1]]);
            prop_assert_eq!(reply.metadata.message_type, MessageType::Response);
        }
    }

    #[test]
    fn spoilt_answers_from_outside_are_relayed_within_bounds_or_not_at_all(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let question = ask_outside(&question("out.default.svc.cluster.local.", RecordType::A));
        let mut bytes = upstream(&question, 9, |_| {});
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(relayed) = question.relay(&bytes, 9) {
            prop_assert!(relayed.bytes.len() <= 512);
            let reply = Message::from_vec(&relayed.bytes).unwrap();
            prop_assert_eq!((reply.metadata.id, reply.metadata.message_type), (77, MessageType::Response));
        }
    }
}
