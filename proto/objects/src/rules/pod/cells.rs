//! What `kubectl get pods` prints, computed as upstream's printer does.

use super::{
    super::{
        access::{flag, given, integer, list, text},
        age,
        print::{condition, or_none},
    },
    container::is_sidecar,
};
use crate::meta;
use serde_json::Value;

/// The part of a row that comes from the containers' states.
pub(super) struct Summary {
    pub(super) status: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<i64>,
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts = self.restarts.saturating_add(integer(container, "restartCount").unwrap_or_default());
        let finished = text(&container["lastState"]["terminated"], "finishedAt");
        self.last_restart = self.last_restart.max(age::unix_seconds(finished));
    }
}

pub(super) fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let summary = summary(object);
    let restarts = match summary.last_restart.filter(|_| summary.restarts != 0) {
        None => summary.restarts.to_string(),
        Some(then) => {
            format!("{} ({} ago)", summary.restarts, age::human_duration(now_seconds.saturating_sub(then)))
        }
    };
    let sidecars = list(spec, "initContainers").iter().filter(|container| is_sidecar(container)).count();
    vec![
        meta::name(object).into(),
        format!("{}/{}", summary.ready, list(spec, "containers").len() + sidecars).into(),
        summary.status.into(),
        restarts.into(),
        age::age(object, now_seconds).into(),
        or_none(text(status, "podIP")),
        or_none(text(spec, "nodeName")),
        or_none(text(status, "nominatedNodeName")),
        or_none(&readiness_gates(spec, status)),
    ]
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = list(spec, "readinessGates");
    let open = gates.iter().filter(|gate| {
        condition(status, text(gate, "conditionType")).is_some_and(|condition| condition["status"] == "True")
    });
    if gates.is_empty() { String::new() } else { format!("{}/{}", open.count(), gates.len()) }
}

fn is_true(status: &Value, condition_type: &str) -> bool {
    condition(status, condition_type).is_some_and(|condition| condition["status"] == "True")
}

pub(super) fn summary(object: &Value) -> Summary {
    let status = &object["status"];
    let phase = text(status, "phase");
    let mut summary = Summary { status: phase.to_owned(), ready: 0, restarts: 0, last_restart: None };
    if !text(status, "reason").is_empty() {
        text(status, "reason").clone_into(&mut summary.status);
    }
    if condition(status, "PodScheduled").is_some_and(|scheduled| scheduled["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut summary.status);
    }
    // What sidecars did counts on when the app containers run; what other init containers did is history then.
    let mut sidecars = Summary { status: String::new(), ready: 0, restarts: 0, last_restart: None };
    let waits_for = init_progress(object, &mut summary, &mut sidecars);
    let initializing = waits_for.is_some();
    if let Some(text) = waits_for {
        summary.status = text;
    }
    if !initializing || is_true(status, "Initialized") {
        (summary.restarts, summary.last_restart) = (sidecars.restarts, sidecars.last_restart);
        app_progress(status, &mut summary);
    }
    if meta::is_terminating(object) {
        if text(status, "reason") == "NodeLost" {
            "Unknown".clone_into(&mut summary.status);
        } else if phase != "Succeeded" && phase != "Failed" {
            "Terminating".clone_into(&mut summary.status);
        }
    }
    summary
}

/// What the first unfinished init container is up to; `None` when all are done, or run as sidecars.
fn init_progress(object: &Value, summary: &mut Summary, sidecars: &mut Summary) -> Option<String> {
    let specs = list(&object["spec"], "initContainers");
    for (index, container) in list(&object["status"], "initContainerStatuses").iter().enumerate() {
        summary.count_restarts(container);
        let is_sidecar = specs.iter().any(|spec| spec["name"] == container["name"] && is_sidecar(spec));
        if is_sidecar {
            sidecars.count_restarts(container);
        }
        let state = &container["state"];
        if is_sidecar && flag(container, "started") && given(state, "terminated").is_none() {
            summary.ready += usize::from(flag(container, "ready"));
            continue;
        }
        if let Some(terminated) = given(state, "terminated") {
            if integer(terminated, "exitCode").unwrap_or_default() == 0 {
                continue;
            }
            return Some(format!("Init:{}", termination(terminated)));
        }
        let waiting = text(&state["waiting"], "reason");
        return Some(if waiting.is_empty() || waiting == "PodInitializing" {
            format!("Init:{index}/{}", specs.len())
        } else {
            format!("Init:{waiting}")
        });
    }
    None
}

/// Why a container ended: its reason, or the signal or code when it has none.
fn termination(terminated: &Value) -> String {
    let (reason, signal) = (text(terminated, "reason"), integer(terminated, "signal").unwrap_or_default());
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", integer(terminated, "exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn app_progress(status: &Value, summary: &mut Summary) {
    let mut running = false;
    // The first container speaks last, so that it is the one heard.
    for container in list(status, "containerStatuses").iter().rev() {
        summary.count_restarts(container);
        let state = &container["state"];
        let waiting = text(&state["waiting"], "reason");
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.status);
        } else if let Some(terminated) = given(state, "terminated") {
            summary.status = termination(terminated);
        } else if flag(container, "ready") && given(state, "running").is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.status == "Completed" && running {
        let text = if is_true(status, "Ready") { "Running" } else { "NotReady" };
        text.clone_into(&mut summary.status);
    }
}
