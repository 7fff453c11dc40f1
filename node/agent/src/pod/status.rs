//! A pod's status, derived from its spec and what happened so far; never invented. Pure. Reasons, phases and
//! conditions are kubelet's.

use crate::{
    clock,
    pod::{
        admission::Refusal,
        spec::{self, RestartPolicy},
        state::{Container, Ended, Kind, PodState, Stage},
    },
};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Conditions that this node writes alone; all others belong to others.
pub(crate) const OWN_CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// The reason of a pod that was ended to give its node room.
pub(crate) const EVICTED: &str = "Evicted";
/// The reason of a pod that had to make room for one that the node needs.
pub(crate) const PREEMPTED: &str = "Preempting";

/// The reason of a pod that serves nobody because its node agent ends.
const NODE_SHUTDOWN: &str = "NodeShutdown";

/// The same status of a pod that is not ready any more, because its node agent ends; `None` where it was not ready.
pub(crate) fn withdrawn(status: &Value, now: OffsetDateTime) -> Option<Value> {
    let mut status = status.clone();
    let mut changed = false;
    for condition in status["conditions"].as_array_mut()? {
        if condition["status"] == "True" && (condition["type"] == "Ready" || condition["type"] == "ContainersReady") {
            condition["status"] = "False".into();
            condition["reason"] = NODE_SHUTDOWN.into();
            condition["message"] = "the node agent is shutting down".into();
            condition["lastTransitionTime"] = clock::seconds(now).into();
            changed = true;
        }
    }
    for field in ["initContainerStatuses", "containerStatuses"] {
        for container in status[field].as_array_mut().into_iter().flatten().filter(|one| one["ready"] == true) {
            let is_init = field == "initContainerStatuses";
            // An init container that has done its work stays ready.
            if !is_init || container["state"]["running"].is_object() {
                container["ready"] = false.into();
                changed = true;
            }
        }
    }
    changed.then_some(status)
}

/// The status of `pod`. Conditions keep their transition time from `previous` while their status stays; what others
/// write (`qosClass`, the scheduler's condition, readiness gates) is kept.
pub(crate) fn derive(pod: &Value, state: &PodState, host_ip: &str, previous: &Value, now: OffsetDateTime) -> Value {
    if let Some(refusal) = &state.refused {
        return refused(pod, state, refusal, previous);
    }
    let phase = phase(state);
    let is_terminal = matches!(phase, Phase::Succeeded | Phase::Failed);
    // As long as anything may still run, the pod holds what it holds.
    let shown = match phase {
        Phase::Succeeded | Phase::Failed if state.is_busy() && state.has_run() => Phase::Running,
        Phase::Succeeded | Phase::Failed if state.is_busy() => Phase::Pending,
        phase => phase,
    };
    let mut status = Map::new();
    status.insert("phase".to_owned(), shown.as_str().into());
    let mut conditions = conditions(pod, state, phase, previous, now);
    if let Some((reason, message)) = state.failed.as_ref().filter(|_| shown == phase && is_terminal) {
        status.insert("reason".to_owned(), reason.as_str().into());
        status.insert("message".to_owned(), message.as_str().into());
        if [EVICTED, PREEMPTED].contains(&reason.as_str()) {
            disrupted(&mut conditions, message, now);
        }
    }
    status.insert("conditions".to_owned(), conditions.into());
    // What has ended stays where it was, wherever the node goes.
    let ended_at = previous["hostIP"].as_str().filter(|_| is_terminal && shown == phase);
    let host_ip = ended_at.unwrap_or(host_ip);
    status.insert("hostIP".to_owned(), host_ip.into());
    status.insert("hostIPs".to_owned(), json!([{"ip": host_ip}]));
    if let Some(address) = state.address {
        status.insert("podIP".to_owned(), address.to_string().into());
        status.insert("podIPs".to_owned(), json!([{"ip": address.to_string()}]));
    }
    status.insert("startTime".to_owned(), state.start_time.as_str().into());
    let has_init = state.containers.iter().any(Container::is_init);
    let of = |init: bool| -> Vec<Value> {
        let specs = spec::containers(pod);
        let pairs = state.containers.iter().zip(specs).filter(|(container, _)| container.is_init() == init);
        pairs.map(|(container, spec)| container_status(state, container, spec, has_init)).collect()
    };
    let (mut init, mut app) = (of(true), of(false));
    if state.failed.is_some() && is_terminal && shown == phase {
        let has_begun = |one: &Value| {
            one["state"]["waiting"].is_null() || !one["lastState"]["terminated"].is_null() || one["restartCount"] != 0
        };
        let begun = init.iter().rposition(has_begun).map_or(0, |last| last + 1);
        init[..begun].iter_mut().for_each(never_located);
        if state.is_initialized() {
            app.iter_mut().for_each(never_located);
        }
    }
    if has_init {
        status.insert("initContainerStatuses".to_owned(), init.into());
    }
    status.insert("containerStatuses".to_owned(), app.into());
    if let Some(class) = previous.get("qosClass").or_else(|| pod["status"].get("qosClass")) {
        status.insert("qosClass".to_owned(), class.clone());
    }
    Value::Object(status)
}

/// The status of a pod that this node did not take: nothing of it ever was here.
fn refused(pod: &Value, state: &PodState, refusal: &Refusal, previous: &Value) -> Value {
    let mut status = json!({
        "phase": Phase::Failed.as_str(), "reason": refusal.reason, "message": refusal.told(),
        "startTime": state.start_time,
    });
    for field in ["conditions", "qosClass"] {
        if let Some(known) = previous.get(field).or_else(|| pod["status"].get(field)) {
            status[field] = known.clone();
        }
    }
    status
}

/// kubelet's rules for a pod's phase. Sidecars count as running; what they ended with says nothing about the pod.
pub(crate) fn phase(state: &PodState) -> Phase {
    if state.failed.is_some() {
        return Phase::Failed;
    }
    let (mut init_pending, mut init_failed, mut sidecar_pending) = (false, false, false);
    let (mut waiting, mut running, mut stopped, mut succeeded, mut again) = (0, 0, 0, 0, false);
    for container in &state.containers {
        let last = container.last.as_ref();
        match (&container.stage, container.kind) {
            (Stage::Running { .. }, Kind::Init) => init_pending = true,
            (Stage::Ended { .. }, Kind::Init) if container.replaced => init_pending = true,
            (Stage::Ended { end, .. }, Kind::Init) => init_failed |= end.exit_code != 0,
            (Stage::Waiting { .. }, Kind::Init) => match last {
                Some(end) if end.exit_code != 0 => init_failed = true,
                // It has run before the pod began anew, but not since.
                Some(_) | None => init_pending = true,
            },
            (Stage::Running { .. }, Kind::Sidecar) => {
                sidecar_pending |= !container.is_started();
                running += 1;
            }
            (Stage::Waiting { .. }, Kind::Sidecar) if last.is_none() => {
                sidecar_pending = true;
                waiting += 1;
            }
            (Stage::Ended { .. } | Stage::Waiting { .. }, Kind::Sidecar) => {}
            (Stage::Running { .. }, Kind::App) => running += 1,
            (Stage::Ended { end, .. }, Kind::App) => {
                stopped += 1;
                let runs_again = container.runs_again(state.restart_policy);
                again |= runs_again;
                succeeded += i32::from(end.exit_code == 0);
            }
            (Stage::Waiting { .. }, Kind::App) if last.is_some() => {
                stopped += 1;
                again = true;
            }
            (Stage::Waiting { .. }, Kind::App) => waiting += 1,
        }
    }
    if init_failed && state.restart_policy == RestartPolicy::Never {
        return Phase::Failed;
    }
    if init_pending || waiting > 0 || (sidecar_pending || init_failed) && !state.is_initialized() {
        return Phase::Pending;
    }
    if running > 0 {
        return Phase::Running;
    }
    match stopped {
        0 => Phase::Pending,
        _ if again && !state.stopping => Phase::Running,
        _ if stopped == succeeded => Phase::Succeeded,
        _ => Phase::Failed,
    }
}

fn container_status(state: &PodState, container: &Container, spec: &Value, has_init: bool) -> Value {
    let ordinary = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let waiting = |reason: &str, message: &str| {
        let mut waiting = json!({"reason": reason});
        if !message.is_empty() {
            waiting["message"] = message.into();
        }
        json!({"waiting": waiting})
    };
    let mut last = container.last.as_ref();
    let shown = match &container.stage {
        Stage::Waiting { reason, message, .. } => waiting(reason.unwrap_or(ordinary), message),
        Stage::Running { started_at } => json!({"running": {"startedAt": started_at}}),
        // The server takes what has ended under `Never`, or well under `OnFailure`, for ended for good.
        Stage::Ended { end, .. } if state.hides_end(container) => {
            last = Some(end);
            container.mishap.as_ref().map_or_else(|| waiting(ordinary, ""), |(reason, text)| waiting(reason, text))
        }
        Stage::Ended { end, .. } => terminated(end),
    };
    let started = if container.kind == Kind::Init { container.is_running() } else { container.is_started() };
    let mut status = json!({
        "name": container.name,
        "state": shown,
        "lastState": last.map_or_else(|| json!({}), terminated),
        "ready": container.is_ready(),
        "restartCount": container.restarts,
        "image": spec::text(spec, "image"),
        "imageID": container.image_id,
        "started": started,
    });
    if !container.id.is_empty() {
        status["containerID"] = container.id.as_str().into();
    }
    status
}

/// A container that waited when its pod was ended has not gone well, as a kubelet tells it.
fn never_located(status: &mut Value) {
    if status["state"]["terminated"].is_null() {
        status["state"] = json!({"terminated": {
            "exitCode": 137, "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was terminated",
            "startedAt": null, "finishedAt": null,
        }});
    }
}

fn terminated(end: &Ended) -> Value {
    let mut terminated = json!({
        "exitCode": end.exit_code,
        "reason": end.reason,
        "startedAt": end.started_at,
        "finishedAt": end.finished_at,
        "containerID": end.container_id,
    });
    if !end.message.is_empty() {
        terminated["message"] = end.message.as_str().into();
    }
    json!({"terminated": terminated})
}

/// Status, reason and message of one condition; empty texts are left out.
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { holds: true, reason: "", message: String::new() }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

fn names<'a>(containers: impl Iterator<Item = &'a Container>) -> String {
    let names: Vec<&str> = containers.map(|container| container.name.as_str()).collect();
    format!("[{}]", names.join(" "))
}

fn initialized(state: &PodState, phase: Phase) -> Verdict {
    if phase == Phase::Succeeded {
        return Verdict { holds: true, reason: "PodCompleted", message: String::new() };
    }
    if state.is_initialized() {
        return Verdict::yes();
    }
    let incomplete = || state.containers.iter().filter(|container| container.is_init() && !container.passed);
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: {}", names(incomplete())))
}

fn containers_ready(state: &PodState, phase: Phase) -> Verdict {
    match phase {
        Phase::Succeeded => return Verdict::no("PodCompleted", String::new()),
        Phase::Failed => return Verdict::no("PodFailed", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let unready = || state.containers.iter().filter(|one| one.kind != Kind::Init && !one.is_ready());
    if unready().next().is_none() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: {}", names(unready())))
}

/// Ready containers, and the conditions that others were to set first.
fn ready(pod: &Value, state: &PodState, phase: Phase, known: &[Value]) -> Verdict {
    let containers = containers_ready(state, phase);
    if !containers.holds {
        return containers;
    }
    let gates = spec::items(&pod["spec"], "readinessGates").iter().map(|gate| spec::text(gate, "conditionType"));
    let shut = gates.filter_map(|gate| match known.iter().find(|condition| condition["type"] == gate) {
        None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
        Some(condition) if condition["status"] == "True" => None,
        Some(condition) => {
            let status = spec::text(condition, "status");
            Some(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {status}"))
        }
    });
    let shut: Vec<String> = shut.collect();
    if shut.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", shut.join(", ")) }
}

/// Says why a pod that was doing no wrong had to end.
fn disrupted(conditions: &mut Vec<Value>, message: &str, now: OffsetDateTime) {
    let is_said = |condition: &Value| condition["type"] == "DisruptionTarget" && condition["status"] == "True";
    if !conditions.iter().any(is_said) {
        conditions.retain(|condition| condition["type"] != "DisruptionTarget");
        conditions.push(json!({
            "type": "DisruptionTarget", "status": "True", "lastTransitionTime": clock::seconds(now),
            "reason": "TerminationByKubelet", "message": message,
        }));
    }
}

fn conditions(pod: &Value, state: &PodState, phase: Phase, previous: &Value, now: OffsetDateTime) -> Vec<Value> {
    let live = matches!(phase, Phase::Pending | Phase::Running);
    let startable = if state.prepared && live { Verdict::yes() } else { Verdict::no("", String::new()) };
    let known = spec::items(previous, "conditions");
    let [startable_kind, initialized_kind, ready_kind, containers_kind] = OWN_CONDITIONS;
    let rows = [
        (startable_kind, startable),
        (initialized_kind, initialized(state, phase)),
        (ready_kind, ready(pod, state, phase, known)),
        (containers_kind, containers_ready(state, phase)),
    ];
    let now = clock::seconds(now);
    let mut conditions: Vec<Value> = Vec::with_capacity(rows.len() + 1);
    for (kind, verdict) in &rows {
        let status = if verdict.holds { "True" } else { "False" };
        let same = known.iter().find(|known| known["type"] == *kind && known["status"] == status);
        let since = same.and_then(|known| known["lastTransitionTime"].as_str()).unwrap_or(&now);
        let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": since});
        for (field, text) in [("reason", verdict.reason), ("message", verdict.message.as_str())] {
            if !text.is_empty() {
                condition[field] = text.into();
            }
        }
        conditions.push(condition);
    }
    let own = |known: &&Value| rows.iter().all(|(kind, _)| known["type"] != *kind);
    conditions.extend(known.iter().filter(own).cloned());
    if !conditions.iter().any(|condition| condition["type"] == "PodScheduled") {
        conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
    }
    conditions
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
