//! The loop around the core: caches in, decisions, bindings out.
//!
//! One task owns everything. A decision is *assumed* at once, so that the next one sees it, while its binding is under
//! way; it stands when the watch shows the pod bound, and is taken back when the binding fails.

mod condition;

use crate::{
    core::{Cluster, Decision},
    pod::{self, PendingPod, Standing, Usage},
    queue::Queue,
};
use coracle_client::{
    Client, Part, Query, Write,
    cache::{self, Cache},
    changes::{Changed, Changes},
    clock::Clock,
    events::{EventType, Recorder},
};
use coracle_objects::{ApiError, ObjectKey, Reason, catalogue, meta};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Pods decided and bound together.
const BATCH: usize = 256;

/// Batches of bindings under way at once: while one is on its way to disk, the next is decided.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

type Stored = Result<Arc<Value>, ApiError>;

/// What was asked of the API, with its answer.
enum Answer {
    /// Since when the bindings were asked for, and what came of them.
    Bound(OffsetDateTime, Vec<(Arc<PendingPod>, Stored)>),
    Explained(Vec<(ObjectKey, Stored)>),
}

/// The scheduler's loop.
pub struct Driver {
    client: Arc<dyn Client>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    nodes: Cache,
    pods: Cache,
    node_changes: Changes,
    pod_changes: Changes,
    cluster: Cluster,
    queue: Queue,
    /// Pods whose condition may not say what we know.
    unexplained: BTreeSet<ObjectKey>,
    explaining: bool,
    binding: usize,
    in_flight: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Driver {
    /// Starts the caches; nothing is decided before [`Driver::run`].
    #[must_use]
    pub fn new(client: &Arc<dyn Client>, clock: &Arc<dyn Clock>, shutdown: &CancellationToken) -> Self {
        let living =
            Query { field_selector: "status.phase!=Succeeded,status.phase!=Failed".to_owned(), ..Query::default() };
        let nodes = Cache::start(client, clock, catalogue::nodes(), Query::default(), cache::whole, shutdown);
        let pods = Cache::start(client, clock, catalogue::pods(), living, cache::whole, shutdown);
        Self {
            client: Arc::clone(client),
            clock: Arc::clone(clock),
            recorder: Recorder::start(client, clock, crate::SCHEDULER_NAME, shutdown),
            node_changes: nodes.changes(),
            pod_changes: pods.changes(),
            nodes,
            pods,
            cluster: Cluster::default(),
            queue: Queue::default(),
            unexplained: BTreeSet::new(),
            explaining: false,
            binding: 0,
            in_flight: FuturesUnordered::new(),
        }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        loop {
            self.observe();
            self.decide();
            self.explain();
            self.wait().await;
        }
    }

    /// Until something may have to be done.
    async fn wait(&mut self) {
        if self.queue.has_ready() && self.binding < BATCHES_IN_FLIGHT_MAX {
            // There is more to decide: only let others run, the caches above all.
            tokio::task::yield_now().await;
            return;
        }
        let timer = match self.queue.next_tick() {
            Some(moment) => self.clock.sleep_until(moment),
            None => futures::future::pending().boxed(),
        };
        tokio::select! {
            changed = self.node_changes.next() => self.observe_nodes(changed),
            changed = self.pod_changes.next() => self.observe_pods(changed),
            Some(answer) = self.in_flight.next() => self.hear(answer),
            () = timer => {}
        }
    }

    /// Takes over all that has happened, without waiting.
    fn observe(&mut self) {
        if let Some(changed) = self.node_changes.try_next() {
            self.observe_nodes(changed);
        }
        if let Some(changed) = self.pod_changes.try_next() {
            self.observe_pods(changed);
        }
        while let Some(Some(answer)) = self.in_flight.next().now_or_never() {
            self.hear(answer);
        }
        self.queue.tick(self.clock.monotonic());
    }

    fn observe_nodes(&mut self, changed: Changed) {
        let keys = match changed {
            Changed::Keys(keys) => keys,
            Changed::Everything => {
                let known = self.cluster.node_names().map(|name| ObjectKey::cluster(&**name));
                known.chain(self.nodes.keys()).collect()
            }
        };
        let mut woken = false;
        for key in keys {
            match self.nodes.get(&key) {
                Some(node) => woken |= self.cluster.set_node(&key.name, &node),
                None => self.cluster.remove_node(&key.name),
            }
        }
        if woken {
            self.queue.wake(self.clock.monotonic());
        }
    }

    fn observe_pods(&mut self, changed: Changed) {
        let keys = match changed {
            Changed::Keys(keys) => keys,
            Changed::Everything => {
                let known = self.cluster.placed_keys().chain(self.queue.keys()).cloned();
                let known: BTreeSet<ObjectKey> = known.chain(self.pods.keys()).collect();
                known.into_iter().collect()
            }
        };
        let mut freed = false;
        for key in keys {
            freed |= self.observe_pod(&key);
        }
        if freed {
            self.queue.wake(self.clock.monotonic());
        }
    }

    /// Brings what we know of a pod in line with the cache; whether its node has more room now.
    fn observe_pod(&mut self, key: &ObjectKey) -> bool {
        let pod = self.pods.get(key);
        let standing = pod.as_ref().map_or(Standing::Irrelevant, |pod| pod::standing(pod));
        let (Some(pod), Standing::Bound(_) | Standing::Pending) = (&pod, standing) else {
            self.queue.remove(key);
            return self.cluster.displace(key);
        };
        let placed = self.cluster.placed(key).filter(|placed| placed.uid == meta::uid(pod));
        match (standing, placed) {
            (Standing::Bound(node), Some(placed)) if *placed.node == *node => {
                self.queue.remove(key);
                false
            }
            (Standing::Bound(node), _) => {
                self.queue.remove(key);
                let freed = self.cluster.displace(key);
                self.cluster.place(key, meta::uid(pod), node, &Arc::new(Usage::of_pod(pod)));
                freed
            }
            // Assumed: its binding is under way, or has succeeded and the watch is about to say so.
            (_, Some(_)) => false,
            (_, None) => {
                let freed = self.cluster.displace(key);
                self.queue.upsert(PendingPod::of_pod(pod));
                if self.queue.message(key).is_some() {
                    self.unexplained.insert(key.clone());
                }
                freed
            }
        }
    }

    /// Decides for what is ready, as long as its bindings can be sent.
    fn decide(&mut self) {
        if self.binding >= BATCHES_IN_FLIGHT_MAX || !self.queue.has_ready() {
            return;
        }
        let pods = self.queue.take(BATCH);
        let decisions = self.cluster.decide_all(pods.iter().map(|pod| &**pod));
        let (now, mut bound, mut writes) = (self.clock.monotonic(), Vec::new(), Vec::new());
        for (pod, decision) in pods.into_iter().zip(decisions) {
            match decision {
                Decision::Place(node) => {
                    let (key, uid) = (pod.key.clone(), pod.uid.clone());
                    writes.push(Write::Bind { pod: key, uid, node: node.to_string() });
                    bound.push(pod);
                }
                Decision::Unschedulable(message) => {
                    self.queue.park(&pod.key, &message, now);
                    self.unexplained.insert(pod.key.clone());
                    if let Some(object) = self.pods.get(&pod.key) {
                        let warning = EventType::Warning;
                        self.recorder.record(catalogue::pods(), &object, warning, "FailedScheduling", &message);
                    }
                }
            }
        }
        if !writes.is_empty() {
            self.binding += 1;
            let (asked_at, answers) = (self.clock.now(), self.send(writes));
            let batch = async move { Answer::Bound(asked_at, bound.into_iter().zip(answers.await).collect()) };
            self.in_flight.push(batch.boxed());
        }
    }

    /// Writes the condition of pods that fit nowhere, where it does not say so already.
    fn explain(&mut self) {
        if self.explaining {
            return;
        }
        let (mut keys, mut writes) = (Vec::new(), Vec::new());
        while writes.len() < BATCH
            && let Some(key) = self.unexplained.pop_first()
        {
            let (Some(pod), Some(message)) = (self.pods.get(&key), self.queue.message(&key)) else { continue };
            if let Some(explained) = condition::unschedulable(&pod, message, self.clock.now()) {
                writes.push(Write::Update(catalogue::pods(), Part::Status, explained));
                keys.push(key);
            }
        }
        if !writes.is_empty() {
            self.explaining = true;
            let answers = self.send(writes);
            let batch = async move { Answer::Explained(keys.into_iter().zip(answers.await).collect()) };
            self.in_flight.push(batch.boxed());
        }
    }

    /// Sends writes from a task of their own, so that checking and encoding them does not hold up deciding. There is an
    /// answer for each, whatever happens.
    fn send(&self, writes: Vec<Write>) -> impl Future<Output = Vec<Stored>> + Send + 'static {
        let (client, count) = (Arc::clone(&self.client), writes.len());
        let task = tokio::spawn(async move { client.write_many(writes).await });
        async move {
            let mut answers = task.await.unwrap_or_default();
            answers.resize(count, Err(ApiError::internal("the write was given up")));
            answers
        }
    }

    fn hear(&mut self, answer: Answer) {
        match answer {
            Answer::Bound(asked_at, batch) => {
                self.binding -= 1;
                for (pod, result) in batch {
                    self.hear_bound(&pod, result, asked_at);
                }
            }
            Answer::Explained(batch) => {
                self.explaining = false;
                for (key, result) in batch {
                    if let Err(error) = result {
                        // A pod that changed meanwhile comes by again; anything else waits for the next attempt.
                        tracing::debug!(pod = %key, %error, "cannot write why it is unschedulable");
                    }
                }
            }
        }
    }

    fn hear_bound(&mut self, pod: &PendingPod, result: Stored, asked_at: OffsetDateTime) {
        let error = match result {
            Ok(bound) => {
                self.queue.remove(&pod.key);
                // Meanwhile there may be another pod of that name.
                if self.observe_pod(&pod.key) {
                    self.queue.wake(self.clock.monotonic());
                }
                let node = bound["spec"]["nodeName"].as_str().unwrap_or_default();
                let message = format!("Successfully assigned {} to {node}", pod.key);
                // The node may have begun, and said so, before the answer was here.
                let normal = EventType::Normal;
                self.recorder.record_at(asked_at, catalogue::pods(), &bound, normal, "Scheduled", &message);
                return;
            }
            Err(error) => error,
        };
        let now: Duration = self.clock.monotonic();
        tracing::debug!(pod = %pod.key, %error, "binding failed");
        let object = self.pods.get(&pod.key);
        let is_bound = object.as_ref().is_some_and(|object| matches!(pod::standing(object), Standing::Bound(_)));
        if !is_bound && self.cluster.placed(&pod.key).is_some_and(|placed| placed.uid == pod.uid) {
            self.cluster.displace(&pod.key);
            self.queue.wake(now);
        }
        self.queue.retry(&pod.key, now);
        self.observe_pod(&pod.key);
        if !matches!(error.reason, Reason::NotFound | Reason::Conflict)
            && let Some(object) = object
        {
            let message = format!("binding rejected: {error}");
            self.recorder.record(catalogue::pods(), &object, EventType::Warning, "FailedScheduling", &message);
        }
    }
}

#[cfg(test)]
mod tests;
