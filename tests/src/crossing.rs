//! A soak of connections between nodes: transfers, half-closes, connections dropped at once or in the middle, through a
//! service and through a node port, while nodes are killed, frozen and started again. Every byte arrives in order or the
//! connection fails, and what fails is no end of a stream; nothing of them stays.

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
    collections::BTreeMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

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
/// Connections of a client on a node that is not spared: more than it ever makes.
const DOOMED: &str = "1000000";
/// Most bytes of a connection from the host.
const TRANSFER_MAX: usize = 200_000;
/// A connection from the host on which nothing moves for so long has failed silently: a node is given up sooner.
const SILENCE: Duration = Duration::from_secs(75);
/// How long a node is frozen at most, in milliseconds.
const FROZEN_MILLIS_MAX: usize = 4000;
/// Descriptors of the control plane may vary by so many.
const SERVER_DESCRIPTORS_SLACK: usize = 16;

/// What became of connections.
#[derive(Debug, Default)]
pub struct Tally {
    /// Every byte came back, or they were given up on purpose.
    whole: usize,
    /// How often for which reason.
    failed: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.whole += other.whole;
        for (reason, times) in other.failed {
            *self.failed.entry(reason).or_default() += times;
        }
    }

    /// From the last line of a client's log: `soak: done COUNT, whole W, dropped D, REASON: N…`.
    fn read(line: &str) -> Self {
        let mut tally = Self::default();
        for part in line.split(", ").skip(1) {
            let number = |word: Option<&str>| word.and_then(|word| word.trim().parse::<usize>().ok());
            if let Some((reason, times)) = part.rsplit_once(": ") {
                *tally.failed.entry(reason.to_owned()).or_default() += number(Some(times)).unwrap_or_default();
            } else {
                tally.whole += number(part.split(' ').nth(1)).unwrap_or_default();
            }
        }
        tally
    }

    fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    /// # Panics
    /// When something is not as it has to be, or more fails than arrives.
    fn check(&self, who: &str, struck: bool) {
        let wrong: Vec<_> =
            self.failed.keys().filter(|reason| reason.contains("WRONG") || reason.contains("cut off")).collect();
        assert!(wrong.is_empty(), "{who}: {self:?}");
        assert!(if struck { self.whole > self.failures() } else { self.failures() == 0 }, "{who}: {self:?}");
    }
}

/// What happens to a node, in turns.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// Killed, and started again at once.
    Blink,
    /// Killed, and started again when its pods are no endpoints any more.
    Absence,
    /// Stopped for a while.
    Freeze,
}

const STRIKES: [Strike; 3] = [Strike::Blink, Strike::Absence, Strike::Freeze];

/// Three nodes with a server on each, behind the service `target`.
///
/// # Panics
/// When they do not come up.
#[must_use]
pub fn fleet() -> Fleet {
    let fleet = Fleet::unstarted(NODES).with_server_arguments(&["--node-profile", "fast"]);
    let fleet = fleet.with_node_arguments(&["--heartbeat-interval", "1"]).up();
    fleet.push(&guest("probe.wasm"), "probe:1");
    let kubectl = fleet.kubectl();
    let ports = json!({"type": "NodePort", "ports": [{"name": "echo", "port": 9000, "targetPort": 9000},
        {"name": "sink", "port": 9001, "targetPort": 9001}]});
    let mut objects = vec![service("target", "target", &ports)];
    for node in 0..NODES {
        objects.push(on(&fleet.name(node), staying(server(&format!("target-{node}"), "target"))));
    }
    pods::apply(&kubectl, "default", &objects);
    endpoints(&kubectl, "target", NODES);
    kubectl.run("create namespace beyond").unwrap_or_else(|error| panic!("{error}"));
    fleet
}

/// The same pod, which stays while its node is away.
fn staying(mut pod: Value) -> Value {
    pod["spec"]["tolerations"] = json!(["unreachable", "not-ready"].map(|why| {
        json!({"key": format!("node.kubernetes.io/{why}"), "operator": "Exists", "effect": "NoExecute"})
    }));
    pod
}

/// Has connections made while nodes are struck `strikes` times, and looks at what is left. One node, chosen anew each
/// time, is spared: what its clients see is what counts.
///
/// # Panics
/// When a byte is wrong, a connection hangs, too much fails, or something stays.
pub fn round(fleet: &mut Fleet, random: &mut Random, strikes: usize) {
    let spared = random.below(NODES);
    run(fleet, random, spared, 0);
    let before = Holdings::of_processes(&processes_of(fleet, spared));
    let server_before = server_descriptors(fleet);
    let tally = run(fleet, random, spared, strikes);
    eventually("what was held before", || Holdings::of_processes(&processes_of(fleet, spared)).within(&before));
    eventually("the control plane's descriptors of before", || {
        let now = server_descriptors(fleet);
        if now <= server_before + SERVER_DESCRIPTORS_SLACK {
            Ok(())
        } else {
            Err(format!("{now}, not {server_before}"))
        }
    });
    let after = Holdings::of_processes(&processes_of(fleet, spared));
    println!("{strikes} strikes, node-{spared} spared: {tally:?}\n  before {before:?}\n  after  {after:?}");
}

fn processes_of(fleet: &Fleet, node: usize) -> Vec<u32> {
    fleet.node_pid(node).into_iter().chain(fleet.node_children(node)).collect()
}

fn server_descriptors(fleet: &Fleet) -> usize {
    processes::descriptors(fleet.server_pid().expect("the control plane runs")).len()
}

fn run(fleet: &mut Fleet, random: &mut Random, spared: usize, strikes: usize) -> Tally {
    let kubectl = fleet.kubectl();
    let door = fleet.node_port(spared, "target", "echo");
    let doomed: Vec<_> = (0..NODES).filter(|node| *node != spared && strikes > 0).collect();
    for node in &doomed {
        let seed = random.below(1 << 30).to_string();
        let words: [&[&str]; 1] = [&["soak", "target.default", "9000", "9001", DOOMED, &seed]];
        pods::apply(&kubectl, "beyond", &[on(&fleet.name(*node), staying(client(&format!("doomed-{node}"), &words)))]);
    }
    let (is_over, name) = (AtomicBool::new(false), fleet.name(spared));
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
        let from = |random| scope.spawn(|| from_the_host(door, random, &is_over));
        let host: Vec<_> = for_host.into_iter().map(from).collect();
        let first = random.below(STRIKES.len());
        for number in 0..strikes {
            let victim = (spared + 1 + random.below(NODES - 1)) % NODES;
            strike(fleet, random, victim, STRIKES[(first + number) % STRIKES.len()]);
        }
        if strikes > 0 {
            is_over.store(true, Ordering::SeqCst);
        }
        let mut tally = clients.join().unwrap_or_else(|_| panic!("the clients' watcher failed"));
        is_over.store(true, Ordering::SeqCst);
        tally.check("clients on the node that is spared", strikes > 0);
        for client in host {
            let one = client.join().unwrap_or_else(|_| panic!("the host's client failed"));
            one.check("through the node port", strikes > 0);
            tally.add(one);
        }
        tally
    });
    fleet.assert_nodes_run();
    for node in doomed {
        // It was killed with its node, or goes on: what it has seen until then has to be right all the same.
        let log = eventually("its log", || kubectl.run(&format!("logs doomed-{node} -n beyond")));
        assert!(!log.contains("WRONG"), "{log}");
    }
    let deleted = kubectl.run("delete pods -n beyond --all --timeout=55s");
    deleted.unwrap_or_else(|error| panic!("{error}\n{}", fleet.logs()));
    tally
}

/// Says that it is over, also when something has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Clients on one node, in two namespaces, to their end.
fn wave(kubectl: &Kubectl, node: &str, number: usize, random: &mut Random) -> Tally {
    let pod = |client: usize| (format!("wave-{number}-{client}"), ["default", "beyond"][client % 2]);
    for one in 0..CLIENTS {
        let (seed, (name, namespace)) = (random.below(1 << 30).to_string(), pod(one));
        let count = WAVE.to_string();
        let words: [&[&str]; 1] = [&["soak", "target.default", "9000", "9001", &count, &seed]];
        pods::apply(kubectl, namespace, &[on(node, client(&name, &words))]);
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
        kubectl
            .run(&format!("delete pod {name} -n {namespace} --wait=false"))
            .unwrap_or_else(|error| panic!("{error}"));
    }
    tally
}

fn strike(fleet: &mut Fleet, random: &mut Random, victim: usize, kind: Strike) {
    let kubectl = fleet.kubectl();
    println!("  {kind:?} of node-{victim}");
    match kind {
        Strike::Blink => fleet.restart_node(victim),
        Strike::Absence => {
            fleet.kill_node(victim);
            endpoints(&kubectl, "target", NODES - 1);
            fleet.start_node(victim);
        }
        Strike::Freeze => {
            let pause = u64::try_from(random.below(FROZEN_MILLIS_MAX)).unwrap_or_default();
            fleet.pause_node(victim);
            thread::sleep(Duration::from_millis(pause));
            fleet.resume_node(victim);
        }
    }
    fleet.until_ready(victim);
    pods::running(&kubectl, &format!("target-{victim}"));
    endpoints(&kubectl, "target", NODES);
}

/// Transfers over one connection after the other until it is over.
fn from_the_host(door: SocketAddr, mut random: Random, is_over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !is_over.load(Ordering::SeqCst) {
        match transfer(door, &content(&mut random)) {
            Ok(()) => tally.whole += 1,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_is_understood() {
        let tally = Tally::read("soak: done 60, whole 50, dropped 4, connection reset: 5, host is unreachable: 1");
        assert_eq!((tally.whole, tally.failures()), (54, 6));
        assert_eq!(tally.failed["connection reset"], 5);
        tally.check("clients", true);
    }
}
