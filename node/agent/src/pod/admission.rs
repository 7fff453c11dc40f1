//! Whether this node takes a pod that is bound to it. The scheduler has counted already, but whoever may create pods may
//! name any node in them, and a node's own files ask nobody. Reasons, words and their order are kubelet's.
//!
//! What was taken on stays: it is counted from the beginning when the agent starts again, and never asked anew.

use crate::{
    context::Context,
    link::NODES,
    pod::{spec, status::EVICTED},
    pressure::Pressure,
    static_pods::manifest::is_static_uid,
};
use coracle_objects::{
    ApiError, ObjectKey, Reason, meta,
    node_affinity::{Labels, NodeRequirements},
    rules::pod::{QosClass, qos_class, requests},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Pods of this priority and above belong to the system.
pub(crate) const SYSTEM_CRITICAL_PRIORITY: i64 = 2_000_000_000;
const MEMORY_PRESSURE_TAINT: &str = "node.kubernetes.io/memory-pressure";
/// Before the message in a status that says why a pod was not taken.
const REJECTED: &str = "Pod was rejected: ";

/// What the node has for pods, and what it is called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offer {
    pub(crate) name: String,
    /// Those that the agent gives it; people may have given it more.
    pub(crate) labels: Labels,
    /// `status.allocatable`: thousandths of a CPU.
    pub(crate) cpu_milli: u64,
    /// Bytes.
    pub(crate) memory_bytes: u64,
    /// Bytes.
    pub(crate) storage_bytes: u64,
    pub(crate) pods_max: u32,
}

/// Why a pod was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    /// As the pod's status says it.
    pub(crate) fn told(&self) -> String {
        format!("{REJECTED}{}", self.message)
    }
}

/// The answer to a new pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It runs here.
    Taken,
    /// It runs here, and the pods with these uids have to go.
    TakenFor(Vec<String>),
    /// It does not run here.
    Refused(Refusal),
}

/// What one pod takes, or several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    pods: i64,
    cpu_milli: i64,
    memory_bytes: i64,
    storage_bytes: i64,
}

impl Share {
    fn of(pod: &Value) -> Self {
        let asked = requests(pod);
        Self {
            pods: 1,
            cpu_milli: asked.cpu_milli(),
            memory_bytes: asked.memory_bytes(),
            storage_bytes: asked.ephemeral_storage_bytes(),
        }
    }

    fn with(self, other: Self, combine: impl Fn(i64, i64) -> i64) -> Self {
        Self {
            pods: combine(self.pods, other.pods),
            cpu_milli: combine(self.cpu_milli, other.cpu_milli),
            memory_bytes: combine(self.memory_bytes, other.memory_bytes),
            storage_bytes: combine(self.storage_bytes, other.storage_bytes),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, i64::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.with(other, i64::saturating_sub)
    }
}

/// Who gives way first: lower priority, then the lower class.
type Rank = (i64, u8);

#[derive(Debug)]
struct Booked {
    share: Share,
    /// None: it gives way to nobody.
    rank: Option<Rank>,
}

impl Booked {
    fn of(pod: &Value) -> Self {
        let class = match qos_class(pod) {
            QosClass::BestEffort => 0,
            QosClass::Burstable => 1,
            QosClass::Guaranteed => 2,
        };
        Self { share: Share::of(pod), rank: (!is_critical(pod)).then(|| (priority(pod), class)) }
    }
}

#[derive(Debug, Default)]
struct Books {
    pods: HashMap<String, Booked>,
    total: Share,
}

impl Books {
    fn enter(&mut self, pod: &Value) {
        self.leave(meta::uid(pod));
        let booked = Booked::of(pod);
        self.total = self.total.plus(booked.share);
        self.pods.insert(meta::uid(pod).to_owned(), booked);
    }

    fn leave(&mut self, uid: &str) {
        if let Some(booked) = self.pods.remove(uid) {
            self.total = self.total.minus(booked.share);
        }
    }

    /// Who has to go for a share that does not fit, if that helps: as few as possible of those that matter least.
    fn yielding(&self, offer: &Offer, wanted: Share) -> Option<Vec<String>> {
        let mut candidates: Vec<(Rank, &String, Share)> =
            self.pods.iter().filter_map(|(uid, booked)| Some((booked.rank?, uid, booked.share))).collect();
        candidates.sort_by_key(|(rank, uid, _)| (*rank, *uid));
        let fits = |taken: Share| offer.lacks(taken, wanted).is_none();
        let mut taken = self.total;
        let mut going = Vec::new();
        for (_, uid, share) in candidates {
            if fits(taken) {
                break;
            }
            taken = taken.minus(share);
            going.push((uid, share));
        }
        if !fits(taken) {
            return None;
        }
        let mut uids = Vec::new();
        for (uid, share) in going.into_iter().rev() {
            if fits(taken.plus(share)) {
                taken = taken.plus(share);
            } else {
                uids.push(uid.clone());
            }
        }
        Some(uids)
    }
}

impl Offer {
    /// What is missing for `wanted` beside what is `taken`. What is not asked for is never missing.
    fn lacks(&self, taken: Share, wanted: Share) -> Option<Refusal> {
        let has = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let rows = [
            ("OutOfpods", "pods", wanted.pods, taken.pods, self.pods_max.into()),
            ("OutOfcpu", "cpu", wanted.cpu_milli, taken.cpu_milli, has(self.cpu_milli)),
            ("OutOfmemory", "memory", wanted.memory_bytes, taken.memory_bytes, has(self.memory_bytes)),
            (
                "OutOfephemeral-storage",
                "ephemeral-storage",
                wanted.storage_bytes,
                taken.storage_bytes,
                has(self.storage_bytes),
            ),
        ];
        rows.into_iter().find_map(|(reason, resource, wanted, taken, has)| {
            (wanted > 0 && wanted > has.saturating_sub(taken)).then(|| Refusal {
                reason,
                message: format!(
                    "Node didn't have enough resource: {resource}, requested: {wanted}, used: {taken}, capacity: {has}"
                ),
            })
        })
    }
}

/// What the node offers, and who has taken what of it. A pod counts from when it is taken on until it has ended for good
/// or its object is gone.
#[derive(Debug)]
pub(crate) struct Room {
    offer: Offer,
    books: Mutex<Books>,
}

impl Room {
    pub(crate) fn new(offer: Offer) -> Self {
        Self { offer, books: Mutex::default() }
    }

    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a pod that was taken on before.
    pub(crate) fn count(&self, pod: &Value) {
        self.books().enter(pod);
    }

    /// The pod takes nothing any more.
    pub(crate) fn leave(&self, uid: &str) {
        self.books().leave(uid);
    }

    /// Whether there is room for the pod beside all others.
    pub(crate) fn fits(&self, pod: &Value) -> bool {
        self.offer.lacks(self.books().total, Share::of(pod)).is_none()
    }

    /// Takes a new pod on, if it fits. The system's own and the node's own make room for themselves; who has to go for
    /// them counts no more.
    pub(crate) fn admit(&self, pod: &Value, pressure: Pressure) -> Admission {
        if let Some(refusal) = under_pressure(pod, pressure).or_else(|| for_another_system(pod)) {
            return Admission::Refused(refusal);
        }
        let mut books = self.books();
        let wanted = Share::of(pod);
        let Some(refusal) = self.offer.lacks(books.total, wanted) else {
            books.enter(pod);
            return Admission::Taken;
        };
        match books.yielding(&self.offer, wanted).filter(|_| is_critical(pod)) {
            Some(going) => {
                for uid in &going {
                    books.leave(uid);
                }
                books.enter(pod);
                Admission::TakenFor(going)
            }
            None => Admission::Refused(refusal),
        }
    }
}

/// Whether a pod is the system's or the node's own: it stays, whatever runs short.
pub(crate) fn is_critical(pod: &Value) -> bool {
    is_static_uid(meta::uid(pod)) || priority(pod) >= SYSTEM_CRITICAL_PRIORITY
}

/// `spec.priority`.
pub(crate) fn priority(pod: &Value) -> i64 {
    pod["spec"]["priority"].as_i64().unwrap_or(0)
}

/// Memory keeps only those away who ask for nothing; anything else keeps all away.
fn under_pressure(pod: &Value, pressure: Pressure) -> Option<Refusal> {
    let rows =
        [(pressure.disk, "DiskPressure"), (pressure.memory, "MemoryPressure"), (pressure.processes, "PIDPressure")];
    let under: Vec<&str> = rows.into_iter().filter_map(|(holds, name)| holds.then_some(name)).collect();
    let only_memory = under == ["MemoryPressure"];
    let endures_it = || qos_class(pod) != QosClass::BestEffort || tolerates_memory_pressure(pod);
    if under.is_empty() || is_critical(pod) || only_memory && endures_it() {
        return None;
    }
    let message = format!("The node had condition: [{}]. ", under.join(" "));
    Some(Refusal { reason: EVICTED, message })
}

fn tolerates_memory_pressure(pod: &Value) -> bool {
    spec::items(&pod["spec"], "tolerations").iter().any(|one| {
        let text = |field| spec::text(one, field);
        matches!(text("key"), "" | MEMORY_PRESSURE_TAINT)
            && matches!(text("effect"), "" | "NoSchedule")
            && (text("operator") == "Exists" || text("value").is_empty())
    })
}

fn for_another_system(pod: &Value) -> Option<Refusal> {
    let system = pod["spec"]["os"]["name"].as_str().filter(|system| !matches!(*system, "" | "linux"));
    system.map(|_| Refusal {
        reason: "PodOSNotSupported",
        message: "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
    })
}

/// Whether the pod's selector and affinity allow this node. People label nodes at the server, so it is asked; while it is
/// away, labels of the agent's own may be enough.
///
/// # Errors
/// When the server alone could tell and is away.
pub(crate) async fn wants_this_node(context: &Context, pod: &Value) -> Result<bool, ApiError> {
    let requirements = NodeRequirements::of_pod(&pod["spec"]);
    if requirements == NodeRequirements::default() {
        return Ok(true);
    }
    let Offer { name, labels, .. } = context.room.offer();
    match context.link.get(NODES, &ObjectKey::cluster(name)).await {
        Ok(node) => Ok(requirements.match_node(name, &Labels::from_map(&node["metadata"]["labels"]))),
        Err(_) if requirements.match_node(name, labels) => Ok(true),
        Err(error) if error.reason == Reason::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is said of a pod that wants other nodes than this one.
pub(crate) fn on_the_wrong_node() -> Refusal {
    Refusal {
        reason: "NodeAffinity",
        message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned(),
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
