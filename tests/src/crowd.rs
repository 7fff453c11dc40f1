//! Many pods created at once, and when a watcher saw each of them run. For benches: it panics at whatever goes wrong.

use coracle_objects::{catalogue, meta};
use coracle_sdk::{Connection, connection::ListOptions};
use serde_json::{Value, json};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_stream::StreamExt as _;

/// Creates that are under way at a time; the rest waits, and its time has not begun.
const CREATES_MAX: usize = 64;
/// What starting takes at most: this, and this for each pod.
const PATIENCE: Duration = Duration::from_mins(1);
const PATIENCE_EACH: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub struct Started {
    /// Of each pod from its own create to Running, shortest first.
    pub each: Vec<Duration>,
    /// From the first create to the last Running.
    pub all: Duration,
}

impl Started {
    /// The time that this many of a hundred pods did not exceed.
    #[must_use]
    pub fn percentile(&self, hundredths: usize) -> Duration {
        self.each
            .get((self.each.len() * hundredths / 100).min(self.each.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

/// Creates pods `BATCH-0` to `BATCH-(count-1)` of one container in namespace default, and waits until all run.
///
/// # Panics
/// When one is refused, or does not run within a minute and a fifth of a second for each.
pub async fn start(connection: &Connection, batch: &str, count: usize, container: &Value) -> Started {
    let options = ListOptions {
        namespace: "default".to_owned(),
        label_selector: format!("batch={batch}"),
        ..ListOptions::default()
    };
    let (_, revision) = connection.list(catalogue::pods(), &options).await.expect("a list");
    let mut events = connection.watch(catalogue::pods(), &options, &revision).await.expect("a watch");
    let begins: Arc<Vec<OnceLock<Instant>>> = Arc::new((0..count).map(|_| OnceLock::new()).collect());
    let began = Instant::now();
    let creating = tokio::spawn(create(connection.clone(), batch.to_owned(), begins.clone(), container.clone()));
    let mut each = vec![None; count];
    let running = async {
        let mut left = count;
        while left > 0 {
            let (_, pod): (_, Value) = events.next().await.expect("the watch goes on").expect("an event");
            let number = meta::name(&pod).rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
            let number = number.expect("a pod of the batch");
            if each[number].is_none() && pod["status"]["phase"] == "Running" {
                each[number] = begins[number].get().map(Instant::elapsed);
                left -= 1;
            }
        }
    };
    let patience = PATIENCE + PATIENCE_EACH * u32::try_from(count).expect("a count of pods");
    tokio::time::timeout(patience, running).await.expect("all pods run");
    let all = began.elapsed();
    creating.await.expect("all pods are created");
    let mut each: Vec<Duration> = each.into_iter().flatten().collect();
    each.sort();
    Started { each, all }
}

async fn create(connection: Connection, batch: String, begins: Arc<Vec<OnceLock<Instant>>>, container: Value) {
    let turns = Arc::new(Semaphore::new(CREATES_MAX));
    let mut creates = JoinSet::new();
    for number in 0..begins.len() {
        let turn = turns.clone().acquire_owned().await.expect("a turn");
        let (connection, begins) = (connection.clone(), begins.clone());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{batch}-{number}"), "labels": {"batch": batch}},
            "spec": {"containers": [container]},
        });
        creates.spawn(async move {
            begins[number].get_or_init(Instant::now);
            connection.apply(catalogue::pods(), "default", &pod).await.expect("a pod");
            drop(turn);
        });
    }
    creates.join_all().await;
}
