//! References from environment variables and files to fields of the pod itself.

use super::super::{Causes, Path, access::text};
use crate::{names::Spelling, quantity::Quantity};
use serde_json::Value;

/// Pod fields that an environment variable may show.
pub(super) const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Pod fields that a file may show.
pub(super) const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to a field of the pod: one of `allowed`, or one label or annotation by name.
pub(super) fn check_field(reference: &Value, path: &Path, allowed: &[&str], causes: &mut Causes) {
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    let field_path = path.child("fieldPath");
    if version.is_empty() {
        causes.required(&path.child("apiVersion"), "");
        return;
    }
    if field.is_empty() {
        causes.required(&field_path, "");
        return;
    }
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        causes.invalid(&field_path, field, &detail);
        return;
    }
    if let Some((name, key)) = field.strip_suffix("']").and_then(|field| field.split_once("['")) {
        match name {
            "metadata.annotations" => causes.spelled(path, &key.to_ascii_lowercase(), Spelling::QualifiedName),
            "metadata.labels" => causes.spelled(path, key, Spelling::QualifiedName),
            _ => causes.invalid(path, name, "does not support subscript"),
        }
        return;
    }
    let convertible = ENV_FIELDS.contains(&field)
        || FILE_FIELDS.contains(&field)
        || matches!(field, "spec.restartPolicy" | "spec.schedulerName" | "status.phase");
    if !convertible {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        causes.invalid(&field_path, field, &detail);
    } else if !allowed.contains(&field) {
        causes.not_supported(&field_path, field, allowed);
    }
}

/// A reference to a container's request or limit.
pub(super) fn check_resource(reference: &Value, path: &Path, in_volume: bool, causes: &mut Causes) {
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(reference, "containerName").is_empty() {
        causes.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        causes.required(&path.child("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge {
        causes.not_supported(&path.child("resource"), resource, &RESOURCE_FIELDS);
    }
    check_divisor(reference, resource, &path.child("divisor"), causes);
}

/// CPU is shown in cores or millicores, everything else in bytes or a power of them.
fn check_divisor(reference: &Value, resource: &str, path: &Path, causes: &mut Causes) {
    const CPU_STEPS: [&str; 2] = ["1m", "1"];
    const BYTE_STEPS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let Ok(divisor) = Quantity::from_value(&reference["divisor"]) else { return };
    let divisor_text = divisor.to_string();
    let kind = resource.split_once('.').map_or("", |(_, kind)| kind);
    if divisor.is_zero() {
        return;
    }
    if kind == "cpu" {
        if !CPU_STEPS.contains(&divisor_text.as_str()) {
            causes.invalid(path, resource, "only divisor's values 1m and 1 are supported with the cpu resource");
        }
    } else if !BYTE_STEPS.contains(&divisor_text.as_str()) {
        let kind = match kind {
            "ephemeral-storage" => "local ephemeral storage",
            "memory" => "memory",
            _ => "hugepages",
        };
        let steps = BYTE_STEPS.join(", ");
        causes.invalid(
            path,
            resource,
            &format!("only divisor's values {steps} are supported with the {kind} resource"),
        );
    }
}
