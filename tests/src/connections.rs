//! A soak of connections: transfers, half-closes, connections dropped at once or in the middle, and containers killed
//! amid them. Every byte arrives in order or the connection fails; nothing of them stays.

use crate::{
    Cluster, Kubectl, eventually,
    network::{address, client, endpoints, server, service},
    pods, processes,
    random::Random,
    wait::within,
};
use serde_json::json;
use std::time::Duration;

/// Clients at once, each with its share of the connections.
const CLIENTS: usize = 4;
/// Connections by which everything that is kept on purpose has been made.
const WARM_UP: usize = 400;
/// How long a thousand connections may take on a busy machine.
const LIMIT_PER_THOUSAND: Duration = Duration::from_mins(2);
/// Descriptors may vary by so many: the agent's own connections come and go.
const DESCRIPTORS_SLACK: usize = 12;
/// Threads may vary by so many: those that wait for disks come and go.
const THREADS_SLACK: usize = 8;
/// Memory may grow by so much: allocators keep what was freed.
const MEMORY_SLACK_KIB: u64 = 12 << 10;

/// What connections could leave behind in agent and runner.
#[derive(Debug, Clone, Copy)]
pub struct Holdings {
    descriptors: usize,
    /// What is no file's: pages of programs count for more when others that run them end.
    memory_kib: u64,
    threads: usize,
    /// TCP connections of the kernel of which one side is closed.
    half_open: usize,
}

impl Holdings {
    /// What the cluster's processes hold now: agent (with the control plane) and runners.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let pids: Vec<u32> = [cluster.pid()].into_iter().chain(cluster.runners()).collect();
        Self::of_processes(&pids, &pids)
    }

    /// What an agent and its runners hold now. Memory is the agent's: guests that take datagrams have more of it with each,
    /// as the standard library for Rust guests forgets what it has received, and their memory is their runner's.
    #[must_use]
    pub fn of_node(agent: u32, runners: &[u32]) -> Self {
        Self::of_processes(&[&[agent], runners].concat(), &[agent])
    }

    fn of_processes(pids: &[u32], with_memory: &[u32]) -> Self {
        Self {
            descriptors: pids.iter().map(|pid| processes::descriptors(*pid).len()).sum(),
            memory_kib: with_memory.iter().filter_map(|pid| processes::anonymous_kib(*pid)).sum(),
            threads: pids.iter().map(|pid| processes::threads(*pid)).sum(),
            half_open: pids.iter().map(|pid| processes::half_open(*pid)).sum(),
        }
    }

    /// `Ok` when it is about as much as `before`.
    ///
    /// # Errors
    /// Both, when it is more.
    pub fn within(&self, before: &Self) -> Result<(), String> {
        let fits = self.descriptors <= before.descriptors + DESCRIPTORS_SLACK
            && self.memory_kib <= before.memory_kib + MEMORY_SLACK_KIB
            && self.threads <= before.threads + THREADS_SLACK
            && self.half_open <= before.half_open;
        if fits { Ok(()) } else { Err(format!("{self:?} is more than {before:?}")) }
    }
}

/// Two servers behind the service `target`, and a namespace `beyond` for clients of another runner.
pub fn prepare(kubectl: &Kubectl) {
    let ports = json!({"ports": [{"name": "echo", "port": 9000, "targetPort": 9000},
        {"name": "sink", "port": 9001, "targetPort": 9001}]});
    let servers = [server("target-a", "target"), server("target-b", "target"), service("target", "target", &ports)];
    pods::apply(kubectl, "default", &servers);
    endpoints(kubectl, "target", 2);
    if kubectl.run("get namespace beyond").is_err() {
        kubectl.run("create namespace beyond").unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Makes `connections` of them while containers are killed `kills` times, and looks at what is left.
///
/// # Panics
/// When a byte is wrong, a connection hangs, too much fails, or something stays.
pub fn round(cluster: &Cluster, random: &mut Random, connections: usize, kills: usize) {
    let kubectl = cluster.kubectl();
    run(&kubectl, random, WARM_UP, 0);
    let before = Holdings::of(cluster);
    run(&kubectl, random, connections, kills);
    eventually("what was held before", || Holdings::of(cluster).within(&before));
    println!("{connections} connections, {kills} kills: {before:?} before, {:?} after", Holdings::of(cluster));
}

fn run(kubectl: &Kubectl, random: &mut Random, connections: usize, kills: usize) {
    let share = (connections / CLIENTS).to_string();
    let name = |number: usize| format!("soak-{number}");
    let namespace = |number: usize| if number.is_multiple_of(2) { "default" } else { "beyond" };
    for number in 0..CLIENTS {
        let seed = random.below(1 << 30).to_string();
        let commands: [&[&str]; 1] = [&["soak", "target.default", "9000", "9001", &share, &seed]];
        pods::apply(kubectl, namespace(number), &[client(&name(number), &commands)]);
    }
    let first = random.below(2);
    for kill in 0..kills {
        // One server is always there: what was killed often waits before it comes back.
        endpoints(kubectl, "target", 2);
        let victim = ["target-a", "target-b"][(first + kill) % 2];
        let ip = address(kubectl, victim).to_string();
        let killer = format!("killer-{kill}");
        pods::apply(kubectl, "default", &[client(&killer, &[&["get", &ip, "8080", "/exit"]])]);
        pods::phase(kubectl, &killer, "Succeeded");
    }
    let limit = LIMIT_PER_THOUSAND * u32::try_from(connections.div_ceil(1000)).unwrap_or(u32::MAX);
    for number in 0..CLIENTS {
        let pod = format!("{} -n {}", name(number), namespace(number));
        let last = within(limit, &format!("{pod} to be done"), || {
            let log = kubectl.run(&format!("logs {pod}"))?;
            assert!(!log.contains("WRONG"), "{log}");
            log.lines().find(|line| line.starts_with("soak: done")).map(str::to_owned).ok_or(log)
        });
        println!("{last}");
        let word = |word: &str| last.split(&format!(", {word} ")).nth(1)?.split(',').next()?.parse::<usize>().ok();
        let whole = word("whole").unwrap_or(0) + word("dropped").unwrap_or(0);
        let all: usize = share.parse().unwrap_or(0);
        assert!(if kills == 0 { whole == all } else { whole * 2 > all }, "too much fails: {last}");
    }
    for namespace in ["default", "beyond"] {
        let deleted = kubectl.run(&format!("delete pods -n {namespace} -l app=test --timeout=55s"));
        deleted.unwrap_or_else(|error| panic!("{error}"));
    }
}
