//! A node is killed with -9 under the fast profile: how long until it counts as lost, until its pod is marked, is out of the
//! endpoints and is deleted, and until another one, which whoever watches makes then, runs elsewhere.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted.

use coracle_objects::{Kind, catalogue, meta};
use coracle_sdk::{
    Connection, Credentials,
    connection::{Change, ListOptions},
};
use coracle_tests::{Fleet, eventually, guest, pods};
use serde_json::{Value, json};
use std::{
    env,
    time::{Duration, Instant},
};
use tokio_stream::StreamExt as _;

const NODES: usize = 3;
const ROUNDS: usize = 6;
/// After so long it counts as never.
const LIMIT: Duration = Duration::from_mins(2);

#[tokio::main]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let rounds = if env::var_os("CORACLE_BENCH_SHORT").is_some() { 1 } else { ROUNDS };
    let mut fleet = Fleet::unstarted(NODES)
        .with_server_arguments(&["--node-profile", "fast"])
        .with_node_arguments(&["--heartbeat-interval", "1"])
        .up();
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    let credentials = Credentials::load(Some(&fleet.kubeconfig()), None).expect("the kubeconfig");
    let connection = Connection::new(&credentials).expect("the connection");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "test"}, "ports": [{"port": 80}]}});
    connection.apply(catalogue::services(), "default", &service).await.expect("a service");
    // Every node has the image and a runner before anything is measured.
    for node in 0..NODES {
        start(&connection, &pods::on(&fleet.name(node), idle(&format!("warm-{node}")))).await;
    }

    let mut figures: Vec<[Duration; 5]> = Vec::new();
    for round in 0..rounds {
        let lost = round % NODES;
        let (old, new) = (format!("old-{round}"), format!("new-{round}"));
        start(&connection, &pods::on(&fleet.name(lost), idle(&old))).await;
        endpoint_is(&connection, &old, true).await;
        let began = Instant::now();
        fleet.kill_node(lost);
        figures.push(watch(&connection, &fleet.name(lost), &old, &new, began).await);
        fleet.start_node(lost);
        fleet.until_ready(lost);
        eventually("the old pod to be gone", || match fleet.kubectl().json(&format!("get pod {old}")) {
            Err(error) if error.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    println!("kill -9 of a node, profile fast, {rounds} times; from the kill until:");
    let titles = ["NotReady", "its pod is marked", "no ready endpoint", "pod deleted", "another one runs elsewhere"];
    for (index, title) in titles.into_iter().enumerate() {
        let mut times: Vec<Duration> = figures.iter().map(|figures| figures[index]).collect();
        times.sort();
        println!("  {title:<26} p50 {:.1?}   max {:.1?}", times[times.len() / 2], times[times.len() - 1]);
    }
}

fn idle(name: &str) -> Value {
    pods::toolbox(name, "Always", &["wait-eof"])
}

async fn start(connection: &Connection, pod: &Value) {
    connection.apply(catalogue::pods(), "default", pod).await.expect("an apply");
    seen(connection, catalogue::pods(), meta::name(pod), |pod| ready(pod) == "True").await;
}

/// All five moments, each seen by a watch of its own.
async fn watch(connection: &Connection, node: &str, old: &str, new: &str, began: Instant) -> [Duration; 5] {
    let (nodes, pods) = (catalogue::nodes(), catalogue::pods());
    let lost = async {
        seen(connection, nodes, node, |node| ready(node) == "Unknown").await;
        began.elapsed()
    };
    let marked = async {
        seen(connection, pods, old, |pod| ready(pod) == "False").await;
        began.elapsed()
    };
    let out = async {
        endpoint_is(connection, old, false).await;
        began.elapsed()
    };
    let replaced = async {
        seen(connection, pods, old, |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
        let deleted = began.elapsed();
        start(connection, &idle(new)).await;
        (deleted, began.elapsed())
    };
    let (lost, marked, out, (deleted, elsewhere)) = tokio::join!(lost, marked, out, replaced);
    [lost, marked, out, deleted, elsewhere]
}

fn ready(object: &Value) -> &str {
    pods::condition(object, "Ready")["status"].as_str().unwrap_or_default()
}

async fn seen(connection: &Connection, kind: &'static Kind, name: &str, wanted: impl Fn(&Value) -> bool) {
    let namespace = if kind.namespaced { "default" } else { "" };
    let options = ListOptions {
        namespace: namespace.to_owned(),
        field_selector: format!("metadata.name={name}"),
        ..ListOptions::default()
    };
    until(connection, kind, &options, name, wanted).await;
}

/// Whether the pod is a ready endpoint of the service.
async fn endpoint_is(connection: &Connection, pod: &str, is_ready: bool) {
    let options = ListOptions { namespace: "default".to_owned(), ..ListOptions::default() };
    let shows = |slice: &Value| {
        let endpoints = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own = endpoints.iter().find(|endpoint| endpoint["targetRef"]["name"] == pod);
        slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
            && own.is_some_and(|endpoint| endpoint["conditions"]["ready"] == true) == is_ready
    };
    until(connection, catalogue::endpoint_slices(), &options, pod, shows).await;
}

async fn until(
    connection: &Connection,
    kind: &'static Kind,
    options: &ListOptions,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) {
    let (items, revision) = connection.list(kind, options).await.expect("a list");
    if items.iter().any(&wanted) {
        return;
    }
    let mut events = connection.watch(kind, options, &revision).await.expect("a watch");
    let found = async {
        while let Some(event) = events.next().await {
            let (change, object): (Change, Value) = event.expect("an event");
            if change != Change::Deleted && wanted(&object) {
                return;
            }
        }
        panic!("the watch of {} {what} ended", kind.plural);
    };
    tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{} {what}: not in time", kind.plural));
}
