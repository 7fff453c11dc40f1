//! A server that is away for long while nodes go on: every connection is whole, pods that fail are started again, and when it
//! is back there is what there was: nobody is missing, nobody is there twice.

use super::{
    Datagrams, Fleet, NODES, Over, Random, Tally, connecting, datagrams, ended, holdings, host, left_as_before,
    of_host, sending, server_descriptors,
    strikes::{behind_a_service, goes_on, gone, is_taken_up, says_hello},
};
use crate::{Kubectl, eventually, network, pods};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, AtomicUsize},
    thread,
    time::{Duration, Instant},
};

/// Who fails while there is no server.
const MORTAL: &str = "mortal";
/// While the server is away it is looked so often at what goes on.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How a server is away.
#[derive(Debug, Clone, Copy)]
pub enum Away {
    /// It runs, has all of its connections, and says nothing.
    Silent,
    /// It is dead, and started again afterwards.
    Dead,
}

/// A pod as the server knows it: where it is, which one it is, how often it was started again.
type Known = (String, String, i64);

/// Has the server be away for `duration` while all nodes have connections to each other.
///
/// # Panics
/// When a connection fails, somebody does not go on, or something is not as it was when it is back.
pub fn away(fleet: &mut Fleet, random: &mut Random, how: Away, duration: Duration) {
    let kubectl = fleet.kubectl();
    let mut objects: Vec<_> = (0..NODES).map(|node| connecting(fleet, node, random)).collect();
    objects.extend((0..NODES).map(|node| sending(fleet, node, random)));
    pods::apply(&kubectl, "beyond", &objects);
    let (with, from) = (random.below(NODES), random.below(NODES));
    pods::apply(&kubectl, "default", &behind_a_service(fleet, MORTAL, with));
    let (web, mortal_uid) = (fleet.node_port(from, MORTAL, ""), uid(&kubectl, MORTAL));
    says_hello(fleet, web, MORTAL);
    let doors: Vec<_> = (0..NODES).map(|node| fleet.node_port(node, "target", "echo")).collect();
    let (is_over, whole) = (AtomicBool::new(false), AtomicUsize::new(0));
    let tally = thread::scope(|scope| {
        let over = Over(&is_over);
        let clients = doors.iter().map(|door| {
            let random = random.fork();
            scope.spawn(|| host::transfers(*door, random, &is_over, &whole))
        });
        let clients: Vec<_> = clients.collect();
        let all: Vec<_> = (0..NODES).collect();
        goes_on(fleet, &all, &whole);
        let before = eventually("everybody to be there", || census(&kubectl));
        let held = all.iter().map(|node| (*node, holdings(fleet, *node)));
        let (held, descriptors): (Vec<_>, _) = (held.collect(), server_descriptors(fleet));

        println!("  the server is away, {how:?}, for {duration:?}");
        match how {
            Away::Silent => fleet.pause_server(),
            Away::Dead => fleet.kill_server(),
        }
        let begun = Instant::now();
        drop(network::get(web, "/exit"));
        says_hello(fleet, web, MORTAL);
        while begun.elapsed() < duration {
            goes_on(fleet, &all, &whole);
            fleet.assert_nodes_run();
            thread::sleep(LOOK_EVERY.min(duration.saturating_sub(begun.elapsed())));
        }
        match how {
            Away::Silent => fleet.resume_server(),
            Away::Dead => fleet.start_server(),
        }
        for node in &all {
            fleet.until_ready(*node);
        }
        eventually("everybody who was there", || same(&before, &census(&kubectl)?, &mortal_uid));
        for node in &all {
            nobody_else(fleet, *node, &before);
        }
        goes_on(fleet, &all, &whole);
        left_as_before(fleet, &held, descriptors);
        drop(over);
        of_host(clients, false)
    });
    let (connected, sent) = of_nodes(fleet);
    is_taken_up(fleet, "late", with, from);
    gone(fleet, MORTAL);
    ended(fleet, "beyond");
    println!("away for {duration:?}, {how:?}: from the host {tally:?}, of pods {connected:?}, {sent:?}");
}

/// What the clients in pods have seen.
fn of_nodes(fleet: &Fleet) -> (Tally, Datagrams) {
    let (mut connected, mut sent) = (Tally::default(), Datagrams::default());
    for node in 0..NODES {
        let log = fleet.output(node, &format!("connects-{node}"));
        assert!(!log.contains("WRONG"), "{log}");
        let last = log.lines().rev().find_map(|line| line.split_once("soak: so far ").map(|(_, said)| said));
        let one = last.map(Tally::read).unwrap_or_default();
        one.check(&format!("connections of node-{node}"), false);
        connected.add(one);
        let one = datagrams(fleet, node);
        one.check(&format!("datagrams of node-{node}"), false);
        sent = sent.and(one);
    }
    (connected, sent)
}

fn uid(kubectl: &Kubectl, pod: &str) -> String {
    let object = kubectl.json(&format!("get pod {pod}")).unwrap_or_else(|error| panic!("{error}"));
    text(&object["metadata"]["uid"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Every pod by its uid, all of them ready; of nodes nothing is wrong.
fn census(kubectl: &Kubectl) -> Result<BTreeMap<String, Known>, String> {
    let nodes = kubectl.json("get nodes")?;
    for node in nodes["items"].as_array().into_iter().flatten() {
        let is_tainted = node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty());
        let is_well = pods::condition(node, "Ready")["status"] == "True" && !is_tainted;
        is_well.then_some(()).ok_or_else(|| node.to_string())?;
    }
    let mut known = BTreeMap::new();
    for pod in kubectl.json("get pods -A")?["items"].as_array().into_iter().flatten() {
        let is_well =
            pods::condition(pod, "Ready")["status"] == "True" && pod["metadata"]["deletionTimestamp"].is_null();
        is_well.then_some(()).ok_or_else(|| pod.to_string())?;
        let restarts = pods::container(pod)["restartCount"].as_i64().unwrap_or_default();
        let of_it = (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]), restarts);
        known.insert(text(&pod["metadata"]["uid"]), of_it);
    }
    Ok(known)
}

/// `Ok` when these are the same pods, and only the mortal one was started again, once.
fn same(before: &BTreeMap<String, Known>, now: &BTreeMap<String, Known>, mortal: &str) -> Result<(), String> {
    let mut wanted = before.clone();
    if let Some((_, _, restarts)) = wanted.get_mut(mortal) {
        *restarts += 1;
    }
    if wanted == *now { Ok(()) } else { Err(format!("{now:?}, not {wanted:?}")) }
}

/// Waits until a node has traces of its own pods and of no others.
fn nobody_else(fleet: &Fleet, node: usize, known: &BTreeMap<String, Known>) {
    let name = fleet.name(node);
    let own = |uid: &str| known.get(uid).is_some_and(|(_, with, _)| *with == name);
    eventually(&format!("nobody else on {name}"), || {
        let entries = fs::read_dir(fleet.node_dir(node).join("logs")).map_err(|error| error.to_string())?;
        let found: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let strangers = found.iter().filter(|entry| !own(entry.rsplit('_').next().unwrap_or_default()));
        let wanted = known.values().filter(|(_, with, _)| *with == name).count();
        let is_so = strangers.count() == 0 && found.len() == wanted;
        if is_so { Ok(()) } else { Err(format!("{found:?}, but {known:?}")) }
    });
}
