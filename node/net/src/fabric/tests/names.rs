//! Names: cluster DNS over datagrams and streams, asked with messages that another library writes and reads; outside names
//! by a resolver and by a server that are made up; and everything that is no question.

use super::*;
use crate::{fabric::Bound, names::NameError};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::TXT},
};
use tokio::net::{TcpListener, UdpSocket};

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// The code and the addresses of an answer.
fn said(bytes: &[u8], id: u16) -> (ResponseCode, Vec<String>) {
    let message = Message::from_vec(bytes).unwrap();
    assert_eq!((message.metadata.id, message.metadata.message_type), (id, MessageType::Response));
    let data = message.answers.iter().map(|record| record.data.to_string());
    (message.metadata.response_code, data.collect())
}

impl World {
    fn with_web() -> Self {
        Self::with_web_and(Limits::default())
    }

    fn with_web_and(limits: Limits) -> Self {
        let world = Self::with(limits);
        world.set_services(&[service("web", "10.96.0.20", json!({}))], &[slice("web", &["10.244.0.2"])]);
        world.machine.names.lock().insert("example.com".to_owned(), vec![[203, 0, 113, 7].into()]);
        world
    }

    /// Asks as pod `a` over a datagram.
    async fn ask(&mut self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        self.fabric.datagram("a", at("10.244.0.1:999"), at(DNS), Bytes::from(query(77, name, kind)));
        let answer = self.delivered().await;
        assert_eq!((&*answer.uid, answer.to, answer.from), ("a", at("10.244.0.1:999"), at(DNS)));
        said(&answer.bytes, 77)
    }

    async fn dns_stream(&self) -> UnixStream {
        stream(self.dial(DNS).await.unwrap())
    }
}

async fn ask_stream(stream: &mut UnixStream, id: u16, name: &str) {
    let bytes = query(id, name, RecordType::A);
    soon(stream.write_u16(bytes.len().try_into().unwrap())).await.unwrap();
    soon(stream.write_all(&bytes)).await.unwrap();
}

async fn stream_said(stream: &mut UnixStream, id: u16) -> (ResponseCode, Vec<String>) {
    let length = soon(stream.read_u16()).await.unwrap();
    let mut answer = vec![0; length.into()];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    said(&answer, id)
}

#[tokio::test]
async fn names_of_the_cluster_and_of_outside_are_answered() {
    let mut world = World::with_web();
    let web = "web.default.svc.cluster.local.";
    let (none, some) = (ResponseCode::NXDomain, ResponseCode::NoError);
    assert_eq!(world.ask(web, RecordType::A).await, (some, vec!["10.96.0.20".to_owned()]));
    assert_eq!(world.ask(web, RecordType::AAAA).await, (some, vec![]));
    assert_eq!(world.ask("db.default.svc.cluster.local.", RecordType::A).await, (none, vec![]));
    assert_eq!(*world.machine.asked.lock(), [""; 0], "nobody outside is asked about the cluster");
    assert_eq!(world.ask("example.com.", RecordType::A).await, (some, vec!["203.0.113.7".to_owned()]));
    assert_eq!(world.ask("example.com.", RecordType::AAAA).await, (some, vec![]));
    assert_eq!(world.ask("EXAMPLE.com.", RecordType::A).await.0, some);
    assert_eq!(*world.machine.asked.lock(), ["example.com"], "asked once, then remembered");
    assert_eq!(world.ask("nobody.example.com.", RecordType::A).await, (none, vec![]));
    assert_eq!(world.ask("broken.example.com.", RecordType::A).await, (ResponseCode::ServFail, vec![]));
}

#[tokio::test]
async fn one_stream_carries_many_questions() {
    let world = World::with_web();
    let mut stream = world.dns_stream().await;
    for id in [1, 2, 3] {
        ask_stream(&mut stream, id, "web.default.svc.cluster.local.").await;
        assert_eq!(stream_said(&mut stream, id).await.1, ["10.96.0.20"]);
    }
    // Asked in one go, answered in order.
    ask_stream(&mut stream, 4, "example.com.").await;
    ask_stream(&mut stream, 5, "web.default.svc.cluster.local.").await;
    soon(stream.shutdown()).await.unwrap();
    assert_eq!(stream_said(&mut stream, 4).await.1, ["203.0.113.7"]);
    assert_eq!(stream_said(&mut stream, 5).await.1, ["10.96.0.20"]);
    assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(world.fabric.statistics().dns_answered, 5);
}

#[tokio::test]
async fn garbage_gets_no_answer_or_an_error_and_hurts_nobody() {
    let mut world = World::with_web();
    let cut = query(9, "web.default.svc.cluster.local.", RecordType::A);
    let mut garbage: Vec<Vec<u8>> = (0..cut.len()).map(|length| cut[..length].to_vec()).collect();
    garbage.extend((0..200_u8).map(|seed| (0..100).map(|at| seed.wrapping_mul(31).wrapping_add(at)).collect()));
    garbage.push(vec![0xff; 60_000]);
    for bytes in &garbage {
        world.fabric.datagram("a", at("10.244.0.1:999"), at(DNS), Bytes::copy_from_slice(bytes));
        let mut stream = world.dns_stream().await;
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        drop(soon(stream.write_all(&[&length[..], bytes].concat())).await);
        drop(soon(stream.shutdown()).await);
        let mut answer = Vec::new();
        drop(soon(stream.read_to_end(&mut answer)).await);
    }
    while let Ok(answer) = world.delivered.try_recv() {
        let message = Message::from_vec(&answer.bytes).unwrap();
        assert_ne!(message.metadata.response_code, ResponseCode::NoError);
    }
    assert_eq!(world.ask("web.default.svc.cluster.local.", RecordType::A).await.1, ["10.96.0.20"]);
}

#[tokio::test]
async fn streams_are_bounded_and_end_when_nothing_is_asked() {
    let limits = Limits { dns_connections: 2, dns_idle: Duration::from_secs(2), ..Limits::default() };
    let world = World::with_web_and(limits);
    let (mut silent, mut half) = (world.dns_stream().await, world.dns_stream().await);
    assert_eq!(world.dial(DNS).await.unwrap_err(), DialFailure::TooMany);
    soon(half.write_all(&[0, 50, 1, 2])).await.unwrap();
    assert_eq!(soon(silent.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(soon(half.read(&mut [0])).await.unwrap(), 0);
    soon(async {
        while world.dial(DNS).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn queries_are_bounded_for_each_pod() {
    let began = Instant::now();
    let mut world = World::with_web_and(Limits { dns_queries_per_second: 10, ..Limits::default() });
    let bytes = Bytes::from(query(1, "web.default.svc.cluster.local.", RecordType::A));
    for _ in 0..100 {
        world.fabric.datagram("a", at("10.244.0.1:999"), at(DNS), bytes.clone());
    }
    world.fabric.datagram("b", at("10.244.0.2:999"), at(DNS), bytes);
    let mut answers = Vec::new();
    while let Ok(answer) = world.delivered.try_recv() {
        answers.push(answer.uid);
    }
    assert_eq!(answers.pop().as_deref(), Some("b"), "the other pod is asked no less: {answers:?}");
    assert!((10..=allowed(10, began)).contains(&answers.len()), "{answers:?}");
    assert_eq!(world.notice().await.message, "refused: too many DNS queries per second");
}

#[tokio::test]
async fn a_resolver_that_hangs_holds_a_bounded_number_of_look_ups() {
    let mut world = World::with_web_and(Limits { look_ups: 2, ..Limits::default() });
    world.machine.hangs.store(true, Ordering::Relaxed);
    for number in 0..10 {
        let bytes = query(number, &format!("x{number}.example.com."), RecordType::A);
        world.fabric.datagram("a", at("10.244.0.1:999"), at(DNS), Bytes::from(bytes));
    }
    for _ in 0..8 {
        let answer = world.delivered().await;
        assert_eq!(Message::from_vec(&answer.bytes).unwrap().metadata.response_code, ResponseCode::Refused);
    }
    world.machine.hangs.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        let answer = world.delivered().await;
        assert_eq!(Message::from_vec(&answer.bytes).unwrap().metadata.response_code, ResponseCode::NXDomain);
    }
    assert!(world.fabric.statistics().bounds.contains(&(Bound::LookUps, 8)));
}

#[tokio::test]
async fn pods_with_names_that_hang_leave_look_ups_to_others() {
    let world = World::with_web();
    world.machine.hangs.store(true, Ordering::Relaxed);
    for (uid, last) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        let from = SocketAddr::from(([10, 244, 0, last], 999));
        for number in 0..8 {
            let bytes = query(number, &format!("x{number}.{uid}.example.com."), RecordType::A);
            world.fabric.datagram(uid, from, at(DNS), Bytes::from(bytes));
        }
    }
    until(|| world.machine.asked.lock().len() >= 28).await;
    world.add_pod("e", 5);
    let found = soon(world.fabric.look_up("e", "example.com.")).await;
    world.machine.hangs.store(false, Ordering::Relaxed);
    assert_eq!(found.unwrap(), [IpAddr::from([203, 0, 113, 7])]);
}

#[tokio::test]
async fn pods_whose_questions_nobody_answers_leave_some_to_others() {
    let mut world = World::with_web();
    let server = UdpSocket::bind((own_loopback(), 0)).await.unwrap();
    *world.machine.servers.lock() = vec![server.local_addr().unwrap()];
    for last in 11..=18 {
        let uid = last.to_string();
        world.add_pod(&uid, last);
        for number in 0..8 {
            let bytes = query(number, "silent.example.com.", RecordType::TXT);
            let from = SocketAddr::from(([10, 244, 0, last], 999));
            world.fabric.datagram(&uid, from, at(DNS), Bytes::from(bytes));
        }
    }
    let mut buffer = [0; 4096];
    for _ in 0..60 {
        soon(server.recv_from(&mut buffer)).await.unwrap();
    }
    world.fabric.datagram("a", at("10.244.0.1:999"), at(DNS), query(77, "example.com.", RecordType::TXT).into());
    let answer = async {
        loop {
            let answer = world.delivered().await;
            if answer.uid == "a" {
                return said(&answer.bytes, 77);
            }
        }
    };
    let serve = async {
        loop {
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            if Message::from_vec(&buffer[..length]).unwrap().queries[0].name().to_string() == "example.com." {
                server.send_to(&answer_of(&buffer[..length], false), from).await.unwrap();
            }
        }
    };
    let answer = tokio::select! {
        answer = answer => answer,
        () = serve => unreachable!("it serves for ever"),
    };
    assert_eq!(answer, (ResponseCode::NoError, vec!["hello".to_owned()]));
}

#[test]
fn a_resolver_that_hangs_does_not_hold_up_the_end() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let world = first.block_on(async {
        let world = World::new();
        world.machine.hangs.store(true, Ordering::Relaxed);
        let waiting = tokio::spawn({
            let fabric = world.fabric.clone();
            async move { fabric.look_up("a", "slow.example.com.").await }
        });
        until(|| !world.machine.asked.lock().is_empty()).await;
        waiting.abort();
        soon(world.fabric.shutdown()).await;
        world
    });
    // Waits for the runtime's own threads.
    let ended = std::thread::spawn(move || drop(first));
    runtime().block_on(until(|| ended.is_finished()));
    world.machine.hangs.store(false, Ordering::Relaxed);
}

#[tokio::test]
async fn wasi_look_ups_walk_the_search_list() {
    let world = World::with_web();
    let look_up = async |name: &str| soon(world.fabric.look_up("a", name)).await;
    for name in ["web", "web.default", "web.default.svc.cluster.local", "web.default.svc.cluster.local."] {
        assert_eq!(look_up(name).await.unwrap(), [IpAddr::from([10, 96, 0, 20])], "{name}");
    }
    assert_eq!(look_up("example.com").await.unwrap(), [IpAddr::from([203, 0, 113, 7])]);
    assert_eq!(look_up("nobody.example.com").await, Err(NameError::NotFound));
    assert_eq!(look_up("broken.example.com").await, Err(NameError::Temporary));
    assert_eq!(look_up("no name").await, Err(NameError::Invalid));
    assert_eq!(look_up("198.51.100.4").await.unwrap(), [IpAddr::from([198, 51, 100, 4])]);
    assert_eq!(soon(world.fabric.look_up("nobody", "web")).await, Err(NameError::Temporary));
}

#[tokio::test]
async fn each_answer_begins_with_another_address() {
    let world = World::new();
    let addresses: Vec<IpAddr> = (1..=3).map(|last| [203, 0, 113, last].into()).collect();
    world.machine.names.lock().insert("many.example.com".to_owned(), addresses.clone());
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(soon(world.fabric.look_up("a", "many.example.com")).await.unwrap()[0]);
    }
    first.sort();
    assert_eq!(first, addresses);
}

/// A name server that answers one question by datagram, cut if told so, and then one by stream.
async fn name_server(is_cut: bool) -> SocketAddr {
    let address = own_loopback();
    let socket = UdpSocket::bind((address, 0)).await.unwrap();
    let listener = TcpListener::bind(socket.local_addr().unwrap()).await.unwrap();
    let server = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        // Somebody guesses first.
        socket.send_to(&answer_of(&query(1, "guess.example.", RecordType::TXT), false), from).await.unwrap();
        socket.send_to(&answer_of(&buffer[..length], is_cut), from).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        stream.read_exact(&mut buffer[..length.into()]).await.unwrap();
        let answer = answer_of(&buffer[..length.into()], false);
        stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    });
    server
}

fn answer_of(bytes: &[u8], is_cut: bool) -> Vec<u8> {
    let query = Message::from_vec(bytes).unwrap();
    let question = query.queries[0].clone();
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.truncation = is_cut;
    if !is_cut {
        let text = RData::TXT(TXT::new(vec!["hello".to_owned()]));
        message.add_answer(Record::from_rdata(question.name().clone(), 60, text));
    }
    message.add_query(question);
    message.to_vec().unwrap()
}

#[tokio::test]
async fn other_records_are_asked_of_the_machines_name_servers() {
    let mut world = World::with_web();
    assert_eq!(world.ask("example.com.", RecordType::TXT).await.0, ResponseCode::ServFail, "there is no server");
    // The first server is dead, the second one answers.
    let server = name_server(false).await;
    *world.machine.servers.lock() = vec![at("127.0.0.1:1"), server];
    assert_eq!(world.ask("example.com.", RecordType::TXT).await, (ResponseCode::NoError, vec!["hello".to_owned()]));
    // A cut answer: who asked by stream gets the whole.
    *world.machine.servers.lock() = vec![name_server(true).await];
    let mut stream = world.dns_stream().await;
    let bytes = query(5, "example.com.", RecordType::TXT);
    soon(stream.write_u16(bytes.len().try_into().unwrap())).await.unwrap();
    soon(stream.write_all(&bytes)).await.unwrap();
    assert_eq!(stream_said(&mut stream, 5).await, (ResponseCode::NoError, vec!["hello".to_owned()]));
}
