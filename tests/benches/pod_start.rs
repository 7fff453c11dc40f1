//! Apply → Running as a watcher sees it, with the image cached on one node: 200 pods one after another, then 100 and
//! 1,000 at once, none of which ends in between; then memory at rest.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted.

use coracle_objects::{catalogue, meta};
use coracle_sdk::{
    Connection, Credentials,
    connection::{Change, ListOptions},
};
use coracle_tests::{Cluster, crowd, example, processes};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt as _;

const PODS: usize = 200;
/// Pods that are created at once.
const CROWDS: [usize; 2] = [100, 1000];
const PODS_MAX: &str = "2000";

#[tokio::main]
async fn main() {
    // `cargo test --benches` and clippy build this; only `cargo bench` runs it.
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let mut cluster = Cluster::unstarted().with_arguments(&["--max-pods", PODS_MAX]);
    cluster.start_again();
    cluster.push(&example("init-pod/app.wasm"), "myapp:1");
    let credentials = Credentials::load(Some(&cluster.kubeconfig()), None).expect("the kubeconfig");
    let connection = Connection::new(&credentials).expect("the connection");

    let first = start_one(&connection, "warm-up").await;
    println!("first pod (pulls, compiles, starts a runner): {first:.1?}");
    let mut times = Vec::with_capacity(PODS);
    for number in 0..PODS {
        times.push(start_one(&connection, &format!("pod-{number}")).await);
    }
    times.sort();
    let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)];
    println!("apply -> Running, {PODS} pods one after another, all still running:");
    println!("  p50 {:.1?}   p99 {:.1?}   max {:.1?}", at(50), at(99), at(100));
    memory(&format!("with {} idle pods", PODS + 1), &cluster);
    for count in CROWDS {
        let started = crowd::start(&connection, &format!("crowd{count}"), count, &container()).await;
        let [half, most, last] = [50, 99, 100].map(|hundredths| started.percentile(hundredths));
        println!("apply -> Running, {count} pods at once (64 creates under way at a time), from each one's own apply:");
        println!(
            "  p50 {half:.1?}   p99 {most:.1?}   max {last:.1?}   first apply to last Running {:.1?}",
            started.all
        );
    }
    memory(&format!("with {} idle pods", PODS + 1 + CROWDS.iter().sum::<usize>()), &cluster);
}

fn memory(when: &str, cluster: &Cluster) {
    println!("memory (PSS), {when}:");
    let kib = |pid| processes::pss_kib(pid).map_or_else(|| "unknown".to_owned(), |kib| format!("{:.1} MiB", mib(kib)));
    println!("  control plane and agent (one process in dev): {}", kib(cluster.pid()));
    for runner in cluster.runners() {
        println!("  runner {runner}: {}", kib(runner));
    }
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

fn container() -> Value {
    json!({"name": "app", "image": "myapp:1"})
}

async fn start_one(connection: &Connection, name: &str) -> Duration {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [container()]},
    });
    let options = ListOptions {
        namespace: "default".to_owned(),
        field_selector: format!("metadata.name={name}"),
        ..ListOptions::default()
    };
    let (_, revision) = connection.list(catalogue::pods(), &options).await.expect("a list");
    let mut events = connection.watch(catalogue::pods(), &options, &revision).await.expect("a watch");
    let began = Instant::now();
    connection.apply(catalogue::pods(), "default", &pod).await.expect("an apply");
    let running = async {
        while let Some(event) = events.next().await {
            let (change, object): (Change, Value) = event.expect("an event");
            if change == Change::Modified && meta::name(&object) == name && object["status"]["phase"] == "Running" {
                return;
            }
        }
        panic!("the watch ended before {name} ran");
    };
    tokio::time::timeout(Duration::from_mins(1), running).await.expect("the pod runs within a minute");
    began.elapsed()
}
