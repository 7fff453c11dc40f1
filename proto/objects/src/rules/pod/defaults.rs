//! Kubernetes' defaulting of pods (`SetDefaults_Pod` and what it calls).

use super::super::access::{items_at, object_at, remove, set_default, text};
use crate::quantity::Quantity;
use serde_json::{Map, Value, json};

/// Permissions of files in volumes: 0644.
const VOLUME_MODE: i64 = 0o644;

pub(super) fn pod(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "enableServiceLinks", true);
    mirror_service_account(spec);
    for field in ["containers", "initContainers"] {
        for one in items_at(spec, field) {
            container(one);
        }
    }
    for one in items_at(spec, "volumes") {
        volume(one);
    }
    if let Some(overhead) = spec.get_mut("overhead") {
        canonical_quantities(overhead);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`.
fn mirror_service_account(spec: &mut Value) {
    let (old, new) = (text(spec, "serviceAccount").to_owned(), text(spec, "serviceAccountName").to_owned());
    let name = if new.is_empty() { old } else { new };
    if !name.is_empty()
        && let Some(map) = spec.as_object_mut()
    {
        map.insert("serviceAccountName".to_owned(), name.as_str().into());
        map.insert("serviceAccount".to_owned(), name.into());
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    set_default(container, "imagePullPolicy", policy);
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    if let Some(resources) = container.get_mut("resources") {
        requests_from_limits(resources);
    }
    for port in items_at(container, "ports") {
        set_default(port, "protocol", "TCP");
        if port["hostPort"] == 0 {
            remove(port, "hostPort");
        }
    }
    for one in items_at(container, "env") {
        if let Some(reference) = one.get_mut("valueFrom").and_then(|source| source.get_mut("fieldRef")) {
            set_default(reference, "apiVersion", "v1");
        }
        if let Some(reference) = one.get_mut("valueFrom").and_then(|source| source.get_mut("resourceFieldRef")) {
            divisor(reference);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = container.get_mut(field).filter(|probe| probe.is_object()) {
            probe(found);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook)) {
            http_get(handler);
        }
    }
}

/// `Always` for `:latest` and for no tag at all; a tag or a digest is taken to stay what it is.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map(|(_, tag)| tag).filter(|tag| !tag.is_empty());
    match (tag, digest) {
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

/// Quantities in their canonical spelling; a limit without a request is the request too.
fn requests_from_limits(resources: &mut Value) {
    for field in ["limits", "requests"] {
        if let Some(amounts) = resources.get_mut(field) {
            canonical_quantities(amounts);
        }
    }
    let limits: Vec<(String, Value)> = match resources["limits"].as_object() {
        Some(limits) => limits.iter().map(|(name, amount)| (name.clone(), amount.clone())).collect(),
        None => return,
    };
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = object_at(resources, "requests").and_then(Value::as_object_mut) {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

fn canonical_quantities(amounts: &mut Value) {
    for amount in amounts.as_object_mut().into_iter().flat_map(Map::values_mut) {
        // What is no quantity stays for validation to name.
        if let Ok(quantity) = Quantity::from_value(amount) {
            *amount = quantity.rounded_to_milli().to_string().into();
        }
    }
}

fn divisor(reference: &mut Value) {
    set_default(reference, "divisor", "0");
    if let Some(divisor) = reference.get_mut("divisor")
        && let Ok(quantity) = Quantity::from_value(divisor)
    {
        *divisor = quantity.to_string().into();
    }
}

fn probe(probe: &mut Value) {
    for (field, default) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[field] == 0 {
            remove(probe, field);
        }
        set_default(probe, field, default);
    }
    if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        set_default(grpc, "service", "");
    }
    http_get(probe);
}

fn http_get(handler: &mut Value) {
    if let Some(action) = handler.get_mut("httpGet").filter(|action| action.is_object()) {
        set_default(action, "path", "/");
        set_default(action, "scheme", "HTTP");
    }
}

fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if !map.iter().any(|(field, source)| field != "name" && !source.is_null()) {
        map.insert("emptyDir".to_owned(), json!({}));
    }
    for field in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(field).filter(|source| source.is_object()) {
            set_default(source, "defaultMode", VOLUME_MODE);
            downward_items(source);
        }
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items_at(projected, "sources") {
            if let Some(downward) = source.get_mut("downwardAPI") {
                downward_items(downward);
            }
            if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
                set_default(token, "expirationSeconds", 3600);
            }
        }
    }
}

fn downward_items(source: &mut Value) {
    for item in items_at(source, "items") {
        if let Some(reference) = item.get_mut("fieldRef").filter(|reference| reference.is_object()) {
            set_default(reference, "apiVersion", "v1");
        }
        if let Some(reference) = item.get_mut("resourceFieldRef").filter(|reference| reference.is_object()) {
            divisor(reference);
        }
    }
}
