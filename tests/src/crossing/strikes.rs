//! What happens to nodes and to the server while connections are made, and that everything is as it was afterwards.

use super::{NODES, SocketAddr, datagrams, staying};
use crate::{
    Fleet, eventually,
    network::{self, endpoints, server, service},
    pods::{self, on},
    random::Random,
};
use serde_json::json;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// How long a node is frozen at most, in milliseconds, where it is not given up.
const FROZEN_MILLIS_MAX: usize = 4000;
/// Connections from the host that are whole, and datagrams that are answered, before traffic counts as going on.
const WHOLE_MORE: usize = 4;
const ANSWERED_MORE: usize = 8;

/// What happens, in turns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Strike {
    /// A node is killed, and started again at once.
    Blink,
    /// A node is killed, and started again when its pods are no endpoints any more.
    Absence,
    /// A node is stopped for a moment.
    Freeze,
    /// A node is stopped until its pods are no endpoints any more: its connections are given up, and it does not know.
    Coma,
    /// The server is killed, and started again when enough was done without it.
    Server,
    /// The server is killed, and a node while there is none; the server comes back first.
    Both,
}

pub(super) const STRIKES: [Strike; 6] =
    [Strike::Blink, Strike::Server, Strike::Absence, Strike::Freeze, Strike::Both, Strike::Coma];

/// Where a strike happens.
pub(super) struct Scene<'a> {
    /// How many there were before.
    pub(super) number: usize,
    pub(super) spared: usize,
    pub(super) victim: usize,
    /// Connections from the host through the spared node that were whole.
    pub(super) whole: &'a AtomicUsize,
}

/// Strikes, and waits until all is as before.
///
/// # Panics
/// When it does not become so, or traffic that has nothing to do with it does not go on meanwhile.
pub(super) fn strike(fleet: &mut Fleet, random: &mut Random, scene: &Scene<'_>, kind: Strike) {
    let (kubectl, victim) = (fleet.kubectl(), scene.victim);
    println!("  {kind:?}, node-{victim}");
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
        Strike::Coma => {
            fleet.pause_node(victim);
            endpoints(&kubectl, "target", NODES - 1);
            fleet.resume_node(victim);
        }
        Strike::Server => {
            fleet.kill_server();
            goes_on(fleet, &[scene.spared, victim], scene.whole);
            fleet.start_server();
        }
        Strike::Both => {
            fleet.kill_server();
            fleet.kill_node(victim);
            goes_on(fleet, &[scene.spared], scene.whole);
            fleet.start_server();
            endpoints(&kubectl, "target", NODES - 1);
            fleet.start_node(victim);
        }
    }
    for node in 0..NODES {
        fleet.until_ready(node);
        pods::running(&kubectl, &format!("target-{node}"));
    }
    endpoints(&kubectl, "target", NODES);
    for (from, to) in [(scene.spared, victim), (victim, scene.spared)] {
        reaches(fleet, from, to);
    }
    if matches!(kind, Strike::Server | Strike::Both) {
        is_taken_up(fleet, &format!("late-{}", scene.number), victim, scene.spared);
    }
}

/// Waits until more connections from the host are whole, and more datagrams of these nodes are answered; needs no server.
pub(super) fn goes_on(fleet: &Fleet, nodes: &[usize], whole: &AtomicUsize) {
    let before: Vec<_> = nodes.iter().map(|node| (*node, datagrams(fleet, *node))).collect();
    let whole_before = whole.load(Ordering::SeqCst);
    eventually("connections that go on", || match whole.load(Ordering::SeqCst) {
        now if now >= whole_before + WHOLE_MORE => Ok(()),
        now => Err(format!("{now} were whole, {whole_before} before\n{}", fleet.logs())),
    });
    for (node, before) in before {
        eventually("datagrams that go on", || match datagrams(fleet, node) {
            now if now.answered >= before.answered + ANSWERED_MORE => Ok(()),
            now => Err(format!("node-{node}: {now:?}, {before:?} before\n{}", fleet.logs())),
        });
    }
}

/// Connections and datagrams that come to one node reach the pod of another one, and what that says comes back.
fn reaches(fleet: &Fleet, from: usize, to: usize) {
    let only = format!("only-{to}");
    let [web, udp] = ["http", "udp"].map(|port| fleet.node_port(from, &only, port));
    says_hello(fleet, web, &format!("target-{to}"));
    let sent = format!("from node-{from} to node-{to}");
    eventually(&format!("datagrams {sent}"), || {
        let back = network::datagram(udp, sent.as_bytes()).map_err(|error| format!("{error}\n{}", fleet.logs()))?;
        assert_eq!(String::from_utf8_lossy(&back), sent);
        Ok(())
    });
}

/// Waits until the pod answers there.
pub(super) fn says_hello(fleet: &Fleet, web: SocketAddr, pod: &str) {
    let hello = format!("hello from {pod},");
    eventually(&hello, || {
        let answer = network::get(web, "/").map_err(|error| format!("{error}\n{}", fleet.logs()))?;
        if answer.text().starts_with(&hello) { Ok(()) } else { Err(answer.text()) }
    });
}

/// A pod and a service that are made now are reached through another node.
pub(super) fn is_taken_up(fleet: &Fleet, name: &str, with: usize, from: usize) {
    let kubectl = fleet.kubectl();
    pods::apply(&kubectl, "default", &behind_a_service(fleet, name, with));
    says_hello(fleet, fleet.node_port(from, name, ""), name);
    gone(fleet, name);
}

/// A server on a node, and a service of its own with a node port for HTTP, of the same name.
pub(super) fn behind_a_service(fleet: &Fleet, name: &str, node: usize) -> [serde_json::Value; 2] {
    let ports = json!({"type": "NodePort", "ports": [{"port": 8080, "targetPort": 8080}]});
    [on(&fleet.name(node), staying(server(name, name))), service(name, name, &ports)]
}

/// Deletes them.
pub(super) fn gone(fleet: &Fleet, name: &str) {
    let deleted = fleet.kubectl().run(&format!("delete pod/{name} service/{name} --timeout=150s"));
    deleted.unwrap_or_else(|error| panic!("{error}\n{}", fleet.logs()));
}
