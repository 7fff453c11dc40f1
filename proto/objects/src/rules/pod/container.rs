//! Containers and init containers.

use super::{
    super::{
        Causes, Path,
        access::{flag, given, integer, list, text},
        network::{self, PROTOCOLS},
    },
    env, probe, resources, volume,
};
use crate::names::Spelling;
use serde_json::Value;
use std::collections::HashSet;

/// More containers than this in one pod are a mistake or an attack.
const MAX_CONTAINERS: usize = 1000;

/// What a container may refer to.
pub(super) struct Surroundings<'a> {
    pub(super) volumes: HashSet<&'a str>,
    pub(super) grace_seconds: Option<i64>,
}

/// `spec.containers` and `spec.initContainers`.
pub(super) fn check_all(spec: &Value, around: &Surroundings<'_>, path: &Path, causes: &mut Causes) {
    let (apps, apps_path) = (list(spec, "containers"), path.child("containers"));
    let (inits, inits_path) = (list(spec, "initContainers"), path.child("initContainers"));
    for (containers, path) in [(apps, &apps_path), (inits, &inits_path)] {
        if containers.len() > MAX_CONTAINERS {
            causes.too_many(path, containers.len(), MAX_CONTAINERS);
            return;
        }
    }
    if apps.is_empty() {
        causes.required(&apps_path, "");
    }
    // Names are unique among both kinds; the later one is told.
    let mut names = HashSet::new();
    for (index, container) in apps.iter().enumerate() {
        let path = apps_path.index(index);
        check_common(container, around, &path, causes);
        check_unique(container, &mut names, &path, causes);
        probe::check(container, around.grace_seconds, &path, causes);
        if given(container, "restartPolicy").is_some() {
            causes.forbidden(&path.child("restartPolicy"), "may not be set for non-init containers");
        }
    }
    check_host_ports(apps, &apps_path, causes);
    for (index, container) in inits.iter().enumerate() {
        let path = inits_path.index(index);
        check_common(container, around, &path, causes);
        check_restart_policy(container, &path, causes);
        check_unique(container, &mut names, &path, causes);
        // Init containers run one by one, so that each has the ports for itself.
        check_host_ports(std::slice::from_ref(container), &inits_path, causes);
        if is_sidecar(container) {
            probe::check(container, around.grace_seconds, &path, causes);
            continue;
        }
        probe::forbid(container, &path, causes);
        if !list(container, "resizePolicy").is_empty() {
            let value = container["resizePolicy"].clone();
            causes.invalid(&path.child("resizePolicy"), value, "must not be set for init containers");
        }
    }
    for (containers, path) in [(apps, &apps_path), (inits, &inits_path)] {
        for (index, container) in containers.iter().enumerate() {
            let image = text(container, "image");
            if image.trim().len() != image.len() {
                let path = path.index(index).child("image");
                causes.invalid(&path, image, "must not have leading or trailing whitespace");
            }
        }
    }
}

fn check_unique<'a>(container: &'a Value, names: &mut HashSet<&'a str>, path: &Path, causes: &mut Causes) {
    let name = text(container, "name");
    if !name.is_empty() && !names.insert(name) {
        causes.duplicate(&path.child("name"), name);
    }
}

fn check_restart_policy(container: &Value, path: &Path, causes: &mut Causes) {
    let path = path.child("restartPolicy");
    match text(container, "restartPolicy") {
        "" | "Always" => {}
        other => causes.not_supported(&path, other, &["Always"]),
    }
}

/// Whether an init container goes on running beside the app containers: a sidecar.
pub(super) fn is_sidecar(init_container: &Value) -> bool {
    init_container["restartPolicy"] == "Always"
}

fn check_common(container: &Value, around: &Surroundings<'_>, path: &Path, causes: &mut Causes) {
    causes.required_spelled(&path.child("name"), text(container, "name"), Spelling::DnsLabel);
    if text(container, "image").is_empty() {
        causes.required(&path.child("image"), "");
    }
    let message_policy = text(container, "terminationMessagePolicy");
    causes.one_of(&path.child("terminationMessagePolicy"), message_policy, &["File", "FallbackToLogsOnError"]);
    check_ports(list(container, "ports"), &path.child("ports"), causes);
    env::check(list(container, "env"), &path.child("env"), causes);
    env::check_from(list(container, "envFrom"), &path.child("envFrom"), causes);
    volume::check_mounts(list(container, "volumeMounts"), &around.volumes, &path.child("volumeMounts"), causes);
    if !list(container, "volumeDevices").is_empty() {
        causes.forbidden(&path.child("volumeDevices"), "a WebAssembly container cannot use block devices");
    }
    let pull_policy = text(container, "imagePullPolicy");
    causes.one_of(&path.child("imagePullPolicy"), pull_policy, &["Always", "IfNotPresent", "Never"]);
    resources::check(&container["resources"], &path.child("resources"), causes);
    check_security(&container["securityContext"], &path.child("securityContext"), causes);
}

fn check_ports(ports: &[Value], path: &Path, causes: &mut Causes) {
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let (path, name) = (path.index(index), text(port, "name"));
        if !name.is_empty() {
            if !Spelling::PortName.allows(name) {
                causes.spelled(&path.child("name"), name, Spelling::PortName);
            } else if !names.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
        }
        match integer(port, "containerPort") {
            None | Some(0) => causes.required(&path.child("containerPort"), ""),
            Some(number) => network::check_port(&path.child("containerPort"), number, causes),
        }
        if let Some(number) = integer(port, "hostPort").filter(|number| *number != 0) {
            network::check_port(&path.child("hostPort"), number, causes);
        }
        causes.one_of(&path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
    }
}

fn check_host_ports(containers: &[Value], path: &Path, causes: &mut Causes) {
    let mut taken = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in list(container, "ports").iter().enumerate() {
            let Some(number) = integer(port, "hostPort").filter(|number| *number != 0) else { continue };
            let (protocol, address) = (text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert((protocol, address, number)) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                causes.duplicate(&path, format!("{protocol}/{address}/{number}"));
            }
        }
    }
}

fn check_security(context: &Value, path: &Path, causes: &mut Causes) {
    if flag(context, "privileged") {
        let detail = "a WebAssembly container has no privileges on the host; there is no privileged mode";
        causes.forbidden(&path.child("privileged"), detail);
    }
    check_ids(context, &["runAsUser", "runAsGroup"], path, causes);
}

/// User and group numbers.
pub(super) fn check_ids(context: &Value, fields: &[&str], path: &Path, causes: &mut Causes) {
    for field in fields {
        if let Some(id) = integer(context, field) {
            causes.in_range(&path.child(field), id, 0, i64::from(i32::MAX));
        }
    }
}
