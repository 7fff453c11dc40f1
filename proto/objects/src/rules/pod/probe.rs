//! Probes and life-cycle hooks.

use super::super::{
    Causes, Path,
    access::{given, integer, list, text},
    network,
};
use crate::names::Spelling;
use serde_json::Value;

/// What may be allowed as an action, beside `exec`, `httpGet` and `tcpSocket`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Probe,
    Hook,
}

/// All probes and hooks of an app container or a sidecar.
pub(super) fn check(container: &Value, grace_seconds: Option<i64>, path: &Path, causes: &mut Causes) {
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = given(&container["lifecycle"], hook) {
            check_handler(handler, Place::Hook, grace_seconds, &path.child("lifecycle").child(hook), causes);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = given(container, field) {
            check_probe(probe, field, &path.child(field), causes);
        }
    }
}

/// None of them belongs on a container that runs to its end before the next one starts.
pub(super) fn forbid(container: &Value, path: &Path, causes: &mut Causes) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if given(container, field).is_some() {
            causes.forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

fn check_probe(probe: &Value, field: &str, path: &Path, causes: &mut Causes) {
    check_handler(probe, Place::Probe, None, path, causes);
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        causes.not_negative(&path.child(number), integer(probe, number));
    }
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(seconds) = integer(probe, "terminationGracePeriodSeconds") {
        if field == "readinessProbe" {
            causes.invalid(&grace_path, seconds, "must not be set for readinessProbes");
        } else if seconds <= 0 {
            causes.invalid(&grace_path, seconds, "must be greater than 0");
        }
    }
    if field != "readinessProbe"
        && let Some(threshold) = integer(probe, "successThreshold").filter(|threshold| *threshold != 1)
    {
        causes.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn check_handler(handler: &Value, place: Place, grace_seconds: Option<i64>, path: &Path, causes: &mut Causes) {
    let last = if place == Place::Probe { "grpc" } else { "sleep" };
    let mut actions = 0;
    for field in ["exec", "httpGet", "tcpSocket", last] {
        let Some(action) = given(handler, field) else { continue };
        actions += 1;
        let path = path.child(field);
        if actions > 1 {
            causes.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        match field {
            "exec" if list(action, "command").is_empty() => causes.required(&path.child("command"), ""),
            "exec" => {}
            "httpGet" => check_http_get(action, &path, causes),
            "sleep" => check_sleep(action, grace_seconds, &path, causes),
            _ => network::check_port_or_name(&path.child("port"), &action["port"], causes),
        }
    }
    if actions == 0 {
        causes.required(path, "must specify a handler type");
    }
}

fn check_http_get(action: &Value, path: &Path, causes: &mut Causes) {
    if text(action, "path").is_empty() {
        causes.required(&path.child("path"), "");
    }
    network::check_port_or_name(&path.child("port"), &action["port"], causes);
    let scheme = text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        causes.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in list(action, "httpHeaders") {
        causes.spelled(&path.child("httpHeaders"), text(header, "name"), Spelling::HttpHeaderName);
    }
}

fn check_sleep(action: &Value, grace_seconds: Option<i64>, path: &Path, causes: &mut Causes) {
    let (seconds, Some(grace)) = (integer(action, "seconds").unwrap_or_default(), grace_seconds) else { return };
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.invalid(path, seconds, &detail);
    }
}
