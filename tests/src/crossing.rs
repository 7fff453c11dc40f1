//! A soak of connections and datagrams between nodes: transfers, half-closes, connections dropped at once or in the middle,
//! through services and through node ports, while nodes and the server are killed, frozen and started again, and while
//! there is no server for long. Every byte arrives in order or the connection fails, and what fails is no end of a stream; a
//! datagram arrives whole and once, or not at all; nothing of them stays.

mod away;
mod host;
mod strikes;
mod tally;

pub use away::{Away, away};

use crate::{
    Fleet, Kubectl,
    connections::Holdings,
    eventually, guest,
    network::{client, endpoints, server, service},
    pods::{self, on},
    processes,
    random::Random,
    wait::within,
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};
use strikes::{STRIKES, Scene, strike};
use tally::{Datagrams, Tally};

const NODES: usize = 3;
/// Clients at once on the node that is spared, and the connections of each before the next one comes.
const CLIENTS: usize = 3;
const WAVE: usize = 60;
/// Clients at once on the host, at the node port of the node that is spared.
const HOST_CLIENTS: usize = 4;
/// How long one of them may take on a busy machine, with nodes that are gone for a while.
const WAVE_LIMIT: Duration = Duration::from_mins(4);
/// Waves by which everything that is kept on purpose has been made.
const WARM_UP: usize = 2;
/// Connections of a client that goes on until it is ended: more than it ever makes.
const ENDLESS: &str = "1000000000";
/// Datagrams that are answered before any claim is made of them.
const DATAGRAMS_MIN: usize = 100;
/// Descriptors of the control plane may vary by so many.
const SERVER_DESCRIPTORS_SLACK: usize = 16;

/// Three nodes with a server on each, behind the service `target`, and each behind one of its own, `only-NODE`.
///
/// # Panics
/// When they do not come up.
#[must_use]
pub fn fleet() -> Fleet {
    let fleet = Fleet::unstarted(NODES).with_server_arguments(&["--node-profile", "fast"]);
    let fleet = fleet.with_node_arguments(&["--heartbeat-interval", "1"]).up();
    fleet.push(&guest("probe.wasm"), "probe:1");
    let kubectl = fleet.kubectl();
    let ports = json!({"type": "NodePort", "ports": [{"name": "http", "port": 8080, "targetPort": 8080},
        {"name": "echo", "port": 9000, "targetPort": 9000}, {"name": "sink", "port": 9001, "targetPort": 9001},
        {"name": "udp", "port": 9002, "targetPort": 9002, "protocol": "UDP"}]});
    let mut objects = vec![service("target", "target", &ports)];
    for node in 0..NODES {
        let (mut pod, mut only) = (server(&format!("target-{node}"), "target"), ports.clone());
        pod["metadata"]["labels"]["node"] = node.to_string().into();
        only["selector"] = json!({"node": node.to_string()});
        objects.extend([on(&fleet.name(node), staying(pod)), service(&format!("only-{node}"), "", &only)]);
    }
    pods::apply(&kubectl, "default", &objects);
    endpoints(&kubectl, "target", NODES);
    kubectl.run("create namespace beyond").unwrap_or_else(|error| panic!("{error}"));
    fleet
}

/// The same pod, which stays while its node is away, or the server is.
fn staying(mut pod: Value) -> Value {
    pod["spec"]["tolerations"] = json!(["unreachable", "not-ready"].map(|why| {
        json!({"key": format!("node.kubernetes.io/{why}"), "operator": "Exists", "effect": "NoExecute"})
    }));
    pod
}

/// A client on a node that makes connections until it is ended.
fn connecting(fleet: &Fleet, node: usize, random: &mut Random) -> Value {
    let seed = random.below(1 << 30).to_string();
    let words: [&[&str]; 1] = [&["soak", "target.default", "9000", "9001", ENDLESS, &seed]];
    on(&fleet.name(node), staying(client(&format!("connects-{node}"), &words)))
}

/// A client on a node that sends datagrams until it is ended, also after it was killed with its node.
fn sending(fleet: &Fleet, node: usize, random: &mut Random) -> Value {
    let seed = random.below(1 << 30).to_string();
    let words: [&[&str]; 1] = [&["datagrams", "target.default", "9002", &seed]];
    let mut pod = on(&fleet.name(node), staying(client(&sender(node), &words)));
    pod["spec"]["restartPolicy"] = "Always".into();
    pod
}

fn sender(node: usize) -> String {
    format!("sends-{node}")
}

/// What a node's sender of datagrams has said so far; needs no server.
///
/// # Panics
/// When something came that must not.
fn datagrams(fleet: &Fleet, node: usize) -> Datagrams {
    let log = fleet.output(node, &sender(node));
    assert!(!log.contains("WRONG"), "{}: {log}", fleet.name(node));
    Datagrams::read(&log)
}

/// Has connections made while somebody is struck `strikes` times, and looks at what is left. One node, chosen anew each
/// time, is spared: what its clients see is what counts.
///
/// # Panics
/// When a byte is wrong, a connection hangs, too much fails, or something stays.
pub fn round(fleet: &mut Fleet, random: &mut Random, strikes: usize) {
    let spared = random.below(NODES);
    run(fleet, random, spared, 0);
    let before = holdings(fleet, spared);
    let server_before = server_descriptors(fleet);
    let (tally, datagrams) = run(fleet, random, spared, strikes);
    left_as_before(fleet, &[(spared, before)], server_before);
    println!("{strikes} strikes, node-{spared} spared: {tally:?}, {datagrams:?}");
}

/// Waits until these nodes hold what they held, and the control plane about as many descriptors.
fn left_as_before(fleet: &Fleet, nodes: &[(usize, Holdings)], server_before: usize) {
    for (node, before) in nodes {
        let now = || holdings(fleet, *node);
        eventually("what was held before", || now().within(before));
        println!("  node-{node} before {before:?}\n  node-{node} after  {:?}", now());
    }
    eventually("the control plane's descriptors of before", || match server_descriptors(fleet) {
        now if now <= server_before + SERVER_DESCRIPTORS_SLACK => Ok(()),
        now => Err(format!("{now}, not {server_before}")),
    });
    let server = fleet.server_pid().expect("the control plane runs");
    let memory = processes::anonymous_kib(server).unwrap_or_default();
    println!("  server {} descriptors, {memory} KiB", server_descriptors(fleet));
}

fn holdings(fleet: &Fleet, node: usize) -> Holdings {
    Holdings::of_node(fleet.node_pid(node).expect("the node runs"), &fleet.node_children(node))
}

fn server_descriptors(fleet: &Fleet) -> usize {
    processes::descriptors(fleet.server_pid().expect("the control plane runs")).len()
}

fn run(fleet: &mut Fleet, random: &mut Random, spared: usize, strikes: usize) -> (Tally, Datagrams) {
    let kubectl = fleet.kubectl();
    let door = fleet.node_port(spared, "target", "echo");
    let doomed: Vec<_> = (0..NODES).filter(|node| *node != spared && strikes > 0).collect();
    let mut endless: Vec<_> = doomed.iter().map(|node| connecting(fleet, *node, random)).collect();
    endless.extend(doomed.iter().chain([&spared]).map(|node| sending(fleet, *node, random)));
    pods::apply(&kubectl, "beyond", &endless);
    let (is_over, whole, name) = (AtomicBool::new(false), AtomicUsize::new(0), fleet.name(spared));
    let mut for_clients = random.fork();
    let for_host: Vec<_> = (0..HOST_CLIENTS).map(|_| random.fork()).collect();
    let tally = thread::scope(|scope| {
        let _over = Over(&is_over);
        let clients = scope.spawn(|| {
            let mut tally = Tally::default();
            for number in 0.. {
                if number >= WARM_UP && (strikes == 0 || is_over.load(Ordering::SeqCst)) {
                    break;
                }
                tally.add(wave(&kubectl, &name, number, &mut for_clients));
            }
            tally
        });
        let from = |random| scope.spawn(|| host::transfers(door, random, &is_over, &whole));
        let host: Vec<_> = for_host.into_iter().map(from).collect();
        let first = random.below(STRIKES.len());
        for number in 0..strikes {
            let victim = (spared + 1 + random.below(NODES - 1)) % NODES;
            let kind = STRIKES[(first + number) % STRIKES.len()];
            strike(fleet, random, &Scene { number, spared, victim, whole: &whole }, kind);
        }
        if strikes > 0 {
            is_over.store(true, Ordering::SeqCst);
        }
        let mut tally = clients.join().unwrap_or_else(|_| panic!("the clients' watcher failed"));
        is_over.store(true, Ordering::SeqCst);
        tally.check("clients on the node that is spared", strikes > 0);
        tally.add(of_host(host, strikes > 0));
        tally
    });
    fleet.assert_nodes_run();
    let sent = eventually("answers to datagrams", || match datagrams(fleet, spared) {
        sent if sent.answered >= DATAGRAMS_MIN => Ok(sent),
        sent => Err(format!("{sent:?}")),
    });
    sent.check("datagrams of the node that is spared", strikes > 0);
    for node in doomed {
        // It was killed with its node, or goes on: what it has seen until then has to be right all the same.
        let log = fleet.output(node, &format!("connects-{node}"));
        assert!(!log.contains("WRONG"), "{log}");
        datagrams(fleet, node);
    }
    ended(fleet, "beyond");
    (tally, sent)
}

/// What the clients on the host have seen.
fn of_host(clients: Vec<thread::ScopedJoinHandle<'_, Tally>>, struck: bool) -> Tally {
    let mut tally = Tally::default();
    for client in clients {
        let one = client.join().unwrap_or_else(|_| panic!("the host's client failed"));
        one.check("through the node port", struck);
        tally.add(one);
    }
    tally
}

/// Ends all pods of a namespace.
fn ended(fleet: &Fleet, namespace: &str) {
    let deleted = fleet.kubectl().run(&format!("delete pods -n {namespace} --all --timeout=150s"));
    deleted.unwrap_or_else(|error| panic!("{error}\n{}", fleet.logs()));
}

/// Says that it is over, also when something has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Clients on one node, in two namespaces, to their end. The server may be away for a moment.
fn wave(kubectl: &Kubectl, node: &str, number: usize, random: &mut Random) -> Tally {
    let pod = |client: usize| (format!("wave-{number}-{client}"), ["default", "beyond"][client % 2]);
    for one in 0..CLIENTS {
        let (seed, (name, namespace)) = (random.below(1 << 30).to_string(), pod(one));
        let count = WAVE.to_string();
        let words: [&[&str]; 1] = [&["soak", "target.default", "9000", "9001", &count, &seed]];
        let pod = on(node, staying(client(&name, &words))).to_string();
        eventually(&name, || kubectl.run_with_input(&format!("apply -n {namespace} -f -"), &pod));
    }
    let mut tally = Tally::default();
    for one in 0..CLIENTS {
        let (name, namespace) = pod(one);
        let last = within(WAVE_LIMIT, &format!("{name} to be done"), || {
            let log = kubectl.run(&format!("logs {name} -n {namespace}"))?;
            assert!(!log.contains("WRONG"), "{log}");
            log.lines().find(|line| line.starts_with("soak: done")).map(str::to_owned).ok_or(log)
        });
        tally.add(Tally::read(&last));
        let gone = format!("delete pod {name} -n {namespace} --wait=false --ignore-not-found");
        eventually(&gone, || kubectl.run(&gone));
    }
    tally
}
