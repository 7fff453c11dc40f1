//! Requests of CPU between namespaces, and guests that compute beside others that do not, as users see them.

use coracle_tests::{
    Cluster, Kubectl,
    bystanders::{Bystanders, spinner},
    eventually, guest,
    pods::{self, running},
};
use nix::libc;
use std::{
    fs,
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

/// Of threads that compute more than was requested, in the runner with the largest requests.
const NICENESS_MIN: i32 = 6;
/// The right to bring threads forward.
const CAP_SYS_NICE: u32 = 23;
/// How much two runners use together before they are compared, of which a second has a hundred, and how long that may take.
const COMPARED_TICKS: u64 = 300;
const COMPARE_MAX: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(100);

/// One spinner per core in a namespace, each with such a request. Gives the runner.
fn spinners(cluster: &Cluster, kubectl: &Kubectl, namespace: &str, request: &str) -> u32 {
    let cores = available_parallelism().unwrap().get();
    let pods = (0..cores).map(|number| spinner(&format!("spinner-{number}"), Some(request))).collect::<Vec<_>>();
    pods::apply(kubectl, namespace, &pods);
    for number in 0..cores {
        running(kubectl, &format!("spinner-{number} -n {namespace}"));
    }
    let uid = kubectl.run(&format!("get namespace {namespace} -o jsonpath={{.metadata.uid}}")).unwrap();
    cluster.runner_of(uid.trim()).unwrap()
}

/// How far those threads of a process stand back that do so most.
fn niceness(pid: u32) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("stat")).ok()?;
        text.rsplit(')').next()?.split_whitespace().nth(16)?.parse::<i32>().ok()
    };
    tasks.filter_map(|task| of(task.ok()?)).max().unwrap()
}

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & (1 << number) != 0
}

/// Has all threads of a process compute on one core only: how the kernel spreads weights over several is its own affair, and
/// blurred on a machine with other things to do.
fn pin(pid: u32) {
    // SAFETY: a set of processors is a row of bits, of which none is set yet.
    let mut first: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is one that the set has.
    unsafe { libc::CPU_SET(0, &mut first) };
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().file_name().into_string().unwrap().parse::<libc::pid_t>().unwrap();
        // SAFETY: the set outlives the call. A thread may have ended meanwhile.
        unsafe { libc::sched_setaffinity(task, size_of::<libc::cpu_set_t>(), &raw const first) };
    }
}

/// CPU time of a process in the kernel's ticks, as anybody can read it.
fn cpu_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words = text.rsplit(')').next().unwrap().split_whitespace().collect::<Vec<_>>();
    [words[11], words[12]].iter().map(|word| word.parse::<u64>().unwrap()).sum()
}

#[test]
fn requests_weigh_between_namespaces() {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    kubectl.run("create namespace heavy").unwrap();
    // So little that all compute more than they requested, also on a machine with other things to do.
    let light = spinners(&cluster, &kubectl, "default", "10m");
    let heavy = spinners(&cluster, &kubectl, "heavy", "40m");
    eventually("six steps between them", || {
        let found = [light, heavy].map(niceness);
        if found == [NICENESS_MIN + 6, NICENESS_MIN] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // Until all that was started has started.
    sleep(Duration::from_secs(1));
    let runners = [light, heavy];
    for runner in runners {
        pin(runner);
    }
    let (before, began) = ([light, heavy].map(cpu_ticks), Instant::now());
    let (light, heavy) = loop {
        sleep(LOOK);
        let after = runners.map(cpu_ticks);
        let (light, heavy) = (after[0] - before[0], after[1] - before[1]);
        // A machine with other things to do takes longer, and does not share out exactly.
        if light + heavy >= COMPARED_TICKS || began.elapsed() > COMPARE_MAX {
            break (light, heavy);
        }
    };
    println!("{heavy} and {light} ticks");
    // Four times as much is six steps of niceness, which are 3.8.
    assert!((23..=63).contains(&(heavy * 10 / light.max(1))), "{heavy} and {light} ticks");

    // What stood back for somebody who has gone comes forward again, where the agent has the right to say so.
    kubectl.run("delete namespace heavy").unwrap();
    if has_capability(CAP_SYS_NICE) {
        eventually("the others come forward", || {
            let found = niceness(runners[0]);
            if found == NICENESS_MIN { Ok(()) } else { Err(found.to_string()) }
        });
    }
}

/// What docs/limits.md promises is milliseconds; a busy machine, and the programs that ask, may take so much longer.
const PROMPT: Duration = Duration::from_millis(250);
const PROMPT_COMMAND: Duration = Duration::from_secs(3);
const PROMPT_POD: Duration = Duration::from_secs(10);

#[test]
fn guests_that_compute_delay_nobody_for_long() {
    let cluster = Cluster::start();
    let mut bystanders = Bystanders::prepare(&cluster);
    let kubectl = cluster.kubectl();
    kubectl.run("create namespace other").unwrap();
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let cores = available_parallelism().unwrap().get();
    let names = (0..4 * cores).map(|number| format!("free-{number}")).collect::<Vec<_>>();
    for namespace in ["default", "other"] {
        pods::apply(&kubectl, namespace, &names.iter().map(|name| spinner(name, None)).collect::<Vec<_>>());
        for name in &names {
            running(&kubectl, &format!("{name} -n {namespace}"));
        }
        let figures = [
            (median((0..41).map(|_| bystanders.answer()).collect()), PROMPT, "an HTTP answer"),
            (median(bystanders.lines(41)), PROMPT, "a line of a log"),
            (median((0..5).map(|_| bystanders.command()).collect()), PROMPT_COMMAND, "a command"),
            (median((0..3).map(|_| bystanders.whole_pod()).collect()), PROMPT_POD, "a pod"),
        ];
        for (time, bound, what) in figures {
            println!("{what}: {time:?}");
            assert!(time <= bound, "{what} beside spinners, those of {namespace} last: {time:?}");
        }
    }
    bystanders.assert_probes_were_answered();
}
