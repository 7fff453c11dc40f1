//! What a pod must be, in Kubernetes' words, and what a WebAssembly pod cannot be.

use super::{
    super::{
        Causes, Path,
        access::{flag, given, integer, list, text},
        metadata::{self, Scope},
        network, taint,
    },
    affinity,
    container::{self, Surroundings},
    resources, volume,
};
use crate::{Cause, names::Spelling, static_pods};
use serde_json::Value;

/// Fields that would do nothing here, and why: refused, since a manifest that relies on them would run wrongly.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("hostNetwork", "pods have a virtual network of their own; a WebAssembly container cannot share the host's"),
    ("hostPID", "a WebAssembly container is no process of the host"),
    ("hostIPC", "a WebAssembly container is no process of the host"),
    ("shareProcessNamespace", "WebAssembly containers are no processes"),
    ("topologySpreadConstraints", "topology spread constraints are not supported yet"),
    ("schedulingGates", "scheduling gates are not supported yet"),
    ("resourceClaims", "resource claims are not supported"),
    ("resources", "resources of a pod as a whole are not supported yet; containers have theirs"),
];

pub(super) fn new_pod(object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_new(object, Scope::Namespaced, Spelling::DnsSubdomain, &mut causes);
    check(&object["spec"], &mut causes);
    if static_pods::is_mirror(object) && text(&object["spec"], "nodeName").is_empty() {
        causes.required(&Path::new("spec").child("nodeName"), "a mirror pod is bound to the node that it is from");
    }
    if !list(&object["spec"], "ephemeralContainers").is_empty() {
        causes.forbidden(&Path::new("spec").child("ephemeralContainers"), "cannot be set on create");
    }
    causes.into_vec()
}

pub(super) fn check(spec: &Value, causes: &mut Causes) {
    let path = Path::new("spec");
    let grace_seconds = integer(spec, "terminationGracePeriodSeconds");
    if grace_seconds.is_none() {
        causes.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::check(list(spec, "volumes"), &path.child("volumes"), causes);
    container::check_all(spec, &Surroundings { volumes, grace_seconds }, &path, causes);
    causes.one_of(&path.child("restartPolicy"), text(spec, "restartPolicy"), &["Always", "OnFailure", "Never"]);
    let dns_policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    causes.one_of(&path.child("dnsPolicy"), text(spec, "dnsPolicy"), &dns_policies);
    causes.labels(&path.child("nodeSelector"), &spec["nodeSelector"]);
    check_security(&spec["securityContext"], &path.child("securityContext"), causes);
    check_unsupported(spec, &path, causes);
    affinity::check(&spec["affinity"], &path.child("affinity"), causes);
    check_dns(spec, &path.child("dnsConfig"), causes);
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        causes.spelled(&path, text(gate, "conditionType"), Spelling::QualifiedName);
    }
    check_names(spec, &path, causes);
    if let Some(seconds) = integer(spec, "activeDeadlineSeconds") {
        causes.in_range(&path.child("activeDeadlineSeconds"), seconds, 1, i64::from(i32::MAX));
    }
    taint::check_tolerations(&path.child("tolerations"), list(spec, "tolerations"), causes);
    check_host_aliases(list(spec, "hostAliases"), &path.child("hostAliases"), causes);
    check_priority(spec, &path, causes);
    resources::check_overhead(spec, &path.child("overhead"), causes);
    if let Some(os) = given(spec, "os").filter(|os| os["name"] != "linux") {
        // Manifests say `linux` to keep off Windows nodes; nothing else can be meant here.
        causes.not_supported(&path.child("os").child("name"), os["name"].clone(), &["linux"]);
    }
}

fn check_names(spec: &Value, path: &Path, causes: &mut Causes) {
    let spellings = [
        ("serviceAccountName", Spelling::DnsSubdomain),
        ("nodeName", Spelling::DnsSubdomain),
        ("hostname", Spelling::DnsLabel),
        ("subdomain", Spelling::DnsLabel),
        ("runtimeClassName", Spelling::DnsSubdomain),
    ];
    for (field, spelling) in spellings {
        if !text(spec, field).is_empty() {
            causes.spelled(&path.child(field), text(spec, field), spelling);
        }
    }
}

fn check_unsupported(spec: &Value, path: &Path, causes: &mut Causes) {
    for (field, detail) in UNSUPPORTED {
        let used = match &spec[field] {
            Value::Bool(flag) => *flag,
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => false,
        };
        if used {
            causes.forbidden(&path.child(field), detail);
        }
    }
    if given(spec, "hostUsers").is_some() && !flag(spec, "hostUsers") {
        causes.forbidden(&path.child("hostUsers"), "a WebAssembly container has no users of the host to keep apart");
    }
    if !text(spec, "runtimeClassName").is_empty() {
        causes.forbidden(&path.child("runtimeClassName"), "runtime classes are not supported yet");
    }
}

/// Without priority classes there is one priority: zero.
fn check_priority(spec: &Value, path: &Path, causes: &mut Causes) {
    let class = text(spec, "priorityClassName");
    if !class.is_empty() {
        causes.forbidden(&path.child("priorityClassName"), "priority classes are not supported yet");
    }
    if integer(spec, "priority").is_some_and(|priority| priority != 0) {
        causes.forbidden(&path.child("priority"), "priorities are not supported yet");
    }
    let policy = text(spec, "preemptionPolicy");
    if !matches!(policy, "" | "PreemptLowerPriority" | "Never") {
        causes.not_supported(&path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
}

fn check_security(context: &Value, path: &Path, causes: &mut Causes) {
    container::check_ids(context, &["runAsUser", "runAsGroup", "fsGroup"], path, causes);
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        let path = path.child("supplementalGroups").index(index);
        causes.in_range(&path, group.as_i64().unwrap_or(-1), 0, i64::from(i32::MAX));
    }
    if !list(context, "sysctls").is_empty() {
        causes.forbidden(&path.child("sysctls"), "a WebAssembly container has no kernel to configure");
    }
}

fn check_dns(spec: &Value, path: &Path, causes: &mut Causes) {
    const MAX_NAMESERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    const MAX_SEARCH_CHARS: usize = 2048;
    let config = &spec["dnsConfig"];
    let (servers, searches) = (list(config, "nameservers"), list(config, "searches"));
    let (servers_path, searches_path) = (path.child("nameservers"), path.child("searches"));
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            causes.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.is_empty() {
            causes.required(&servers_path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        causes.invalid(&servers_path, servers.to_vec(), &detail);
    }
    for (index, server) in servers.iter().take(MAX_NAMESERVERS).enumerate() {
        network::check_ip(&servers_path.index(index), server.as_str().unwrap_or_default(), causes);
    }
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        causes.invalid(&searches_path, searches.to_vec(), &detail);
    }
    let chars: usize = searches.iter().map(|search| search.as_str().map_or(0, str::len) + 1).sum();
    if chars > MAX_SEARCH_CHARS + 1 {
        let detail =
            format!("must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list");
        causes.invalid(&searches_path, searches.to_vec(), &detail);
    }
    for (index, search) in searches.iter().take(MAX_SEARCHES).filter_map(Value::as_str).enumerate() {
        // Names of services may have underscores here, as SRV records do.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "");
        if search != "." && !name.is_empty() {
            causes.spelled(&searches_path.index(index), &name, Spelling::DnsSubdomain);
        }
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            causes.required(&path.child("options").index(index), "must not be empty");
        }
    }
}

fn check_host_aliases(aliases: &[Value], path: &Path, causes: &mut Causes) {
    for (index, alias) in aliases.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.index(index);
        network::check_ip(&path.child("ip"), text(alias, "ip"), causes);
        for (index, name) in list(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            causes.spelled(&path.child("hostnames").index(index), name, Spelling::DnsSubdomain);
        }
    }
}
