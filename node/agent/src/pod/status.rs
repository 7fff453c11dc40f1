//! A pod's status, derived from its spec and what happened so far; never invented. Pure. Reasons, phases and
//! conditions are kubelet's.

use crate::{
    clock,
    pod::{
        spec::{self, RestartPolicy},
        state::{Container, Ended, PodState, Stage},
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

/// The status of `pod`. Conditions keep their transition time from `previous` while their status stays; what others
/// write (`qosClass`, the scheduler's condition) is kept.
pub(crate) fn derive(pod: &Value, state: &PodState, host_ip: &str, previous: &Value, now: OffsetDateTime) -> Value {
    let phase = phase(state);
    let mut status = Map::new();
    status.insert("phase".to_owned(), phase.as_str().into());
    status.insert("conditions".to_owned(), conditions(state, phase, previous, now).into());
    if let Some((reason, message)) = &state.failed {
        status.insert("reason".to_owned(), reason.as_str().into());
        status.insert("message".to_owned(), message.as_str().into());
    }
    status.insert("hostIP".to_owned(), host_ip.into());
    status.insert("hostIPs".to_owned(), json!([{"ip": host_ip}]));
    if let Some(address) = state.address {
        status.insert("podIP".to_owned(), address.to_string().into());
        status.insert("podIPs".to_owned(), json!([{"ip": address.to_string()}]));
    }
    status.insert("startTime".to_owned(), state.start_time.as_str().into());
    let has_init = state.containers.iter().any(|container| container.init);
    let of = |init: bool| -> Vec<Value> {
        let specs = spec::containers(pod);
        let pairs = state.containers.iter().zip(specs).filter(|(container, _)| container.init == init);
        pairs.map(|(container, spec)| container_status(container, spec, has_init)).collect()
    };
    if has_init {
        status.insert("initContainerStatuses".to_owned(), of(true).into());
    }
    status.insert("containerStatuses".to_owned(), of(false).into());
    if let Some(class) = previous.get("qosClass").or_else(|| pod["status"].get("qosClass")) {
        status.insert("qosClass".to_owned(), class.clone());
    }
    Value::Object(status)
}

/// kubelet's rules for a pod's phase.
pub(crate) fn phase(state: &PodState) -> Phase {
    if state.failed.is_some() {
        return Phase::Failed;
    }
    let (mut init_pending, mut init_failed) = (false, false);
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in &state.containers {
        match (&container.stage, container.init) {
            (Stage::Running { .. }, true) => init_pending = true,
            (Stage::Running { .. }, false) => running += 1,
            (Stage::Ended { end, .. }, true) => init_failed |= end.exit_code != 0,
            (Stage::Ended { end, .. }, false) => {
                stopped += 1;
                succeeded += i32::from(end.exit_code == 0);
            }
            (Stage::Waiting { .. }, true) => match &container.last {
                Some(end) => init_failed |= end.exit_code != 0,
                None => init_pending = true,
            },
            (Stage::Waiting { .. }, false) if container.last.is_some() => stopped += 1,
            (Stage::Waiting { .. }, false) => waiting += 1,
        }
    }
    let never = state.restart_policy == RestartPolicy::Never;
    if init_failed && never {
        return Phase::Failed;
    }
    if init_pending || waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 || stopped == 0 {
        return if running > 0 { Phase::Running } else { Phase::Pending };
    }
    let is_over = never || state.stopping;
    match state.restart_policy {
        RestartPolicy::Always if !state.stopping => Phase::Running,
        _ if stopped == succeeded => Phase::Succeeded,
        _ if is_over => Phase::Failed,
        _ => Phase::Running,
    }
}

fn is_ready(container: &Container) -> bool {
    match &container.stage {
        Stage::Running { .. } => !container.init,
        Stage::Ended { end, .. } => container.init && end.exit_code == 0,
        Stage::Waiting { .. } => false,
    }
}

fn container_status(container: &Container, spec: &Value, has_init: bool) -> Value {
    let state = match &container.stage {
        Stage::Waiting { reason, message, .. } => {
            let ordinary = if has_init { "PodInitializing" } else { "ContainerCreating" };
            let mut waiting = json!({"reason": reason.unwrap_or(ordinary)});
            if !message.is_empty() {
                waiting["message"] = message.as_str().into();
            }
            json!({"waiting": waiting})
        }
        Stage::Running { started_at } => json!({"running": {"startedAt": started_at}}),
        Stage::Ended { end, .. } => terminated(end),
    };
    let mut status = json!({
        "name": container.name,
        "state": state,
        "lastState": container.last.as_ref().map_or_else(|| json!({}), terminated),
        "ready": is_ready(container),
        "restartCount": container.restarts,
        "image": spec::text(spec, "image"),
        "imageID": container.image_id,
        "started": container.is_running(),
    });
    if !container.id.is_empty() {
        status["containerID"] = container.id.as_str().into();
    }
    status
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
    let incomplete = || state.containers.iter().filter(|container| container.init && !is_ready(container));
    if incomplete().next().is_none() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: {}", names(incomplete())))
}

fn containers_ready(state: &PodState, phase: Phase) -> Verdict {
    match phase {
        Phase::Succeeded => return Verdict::no("PodCompleted", String::new()),
        Phase::Failed => return Verdict::no("PodFailed", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let unready = || state.containers.iter().filter(|container| !container.init && !is_ready(container));
    if unready().next().is_none() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: {}", names(unready())))
}

fn conditions(state: &PodState, phase: Phase, previous: &Value, now: OffsetDateTime) -> Vec<Value> {
    let live = matches!(phase, Phase::Pending | Phase::Running);
    let startable = if state.prepared && live { Verdict::yes() } else { Verdict::no("", String::new()) };
    let rows = [
        ("PodReadyToStartContainers", startable),
        ("Initialized", initialized(state, phase)),
        ("Ready", containers_ready(state, phase)),
        ("ContainersReady", containers_ready(state, phase)),
    ];
    let now = clock::seconds(now);
    let known = spec::items(previous, "conditions");
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
