//! Every kind that this build serves. Adding a kind is adding a row here and its rules in [`crate::rules`].

use crate::{
    kind::{Kind, Subresource, Verb},
    rules,
};

/// What works on most kinds.
const ALL: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];

/// Namespaces are deleted one by one, as in Kubernetes.
const ALL_BUT_DELETE_COLLECTION: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

const GET_PATCH_UPDATE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
const CREATE: &[Verb] = &[Verb::Create];
/// `kubectl` connects with POST or, over WebSocket, with GET.
const CONNECT: &[Verb] = &[Verb::Create, Verb::Get];
const GET: &[Verb] = &[Verb::Get];
const UPDATE: &[Verb] = &[Verb::Update];

/// The rows: what a kind is called and how it is reached; the rest comes from its module of rules. Each row becomes
/// a function for code that works with that one kind, and a place in [`all`].
macro_rules! rows {
    ($($name:ident = $rules:ident, $group:literal / $version:literal, $kind:literal, $plural:literal, $singular:literal,
       short: [$($short:literal),*], categories: [$($category:literal),*], namespaced: $namespaced:literal,
       verbs: $verbs:ident, subresources: [$(($sub:literal, $body:literal, $sub_verbs:ident)),*];)*) => {
        $(
            #[doc = concat!("The kind `", $kind, "`.")]
            #[must_use]
            pub const fn $name() -> &'static Kind {
                static ROW: Kind = Kind {
                    group: $group,
                    version: $version,
                    kind: $kind,
                    plural: $plural,
                    singular: $singular,
                    short_names: &[$($short),*],
                    categories: &[$($category),*],
                    namespaced: $namespaced,
                    verbs: $verbs,
                    subresources: &[$(Subresource { name: $sub, kind: $body, verbs: $sub_verbs }),*],
                    columns: rules::$rules::COLUMNS,
                    cells: rules::$rules::cells,
                    selectable_fields: rules::$rules::SELECTABLE,
                    default: rules::$rules::default,
                    prepare_create: rules::$rules::prepare_create,
                    prepare_update: rules::$rules::prepare_update,
                    validate_create: rules::$rules::validate_create,
                    validate_update: rules::$rules::validate_update,
                };
                &ROW
            }
        )*
        static KINDS: &[&Kind] = &[$($name()),*];
    };
}

rows! {
    config_maps = config_map, "" / "v1", "ConfigMap", "configmaps", "configmap",
        short: ["cm"], categories: [], namespaced: true, verbs: ALL, subresources: [];
    endpoints = endpoints, "" / "v1", "Endpoints", "endpoints", "endpoints",
        short: ["ep"], categories: [], namespaced: true, verbs: ALL, subresources: [];
    events = event, "" / "v1", "Event", "events", "event",
        short: ["ev"], categories: [], namespaced: true, verbs: ALL, subresources: [];
    namespaces = namespace, "" / "v1", "Namespace", "namespaces", "namespace",
        short: ["ns"], categories: [], namespaced: false, verbs: ALL_BUT_DELETE_COLLECTION,
        subresources: [("finalize", "Namespace", UPDATE), ("status", "Namespace", GET_PATCH_UPDATE)];
    nodes = node, "" / "v1", "Node", "nodes", "node",
        short: ["no"], categories: [], namespaced: false, verbs: ALL,
        subresources: [("proxy", "NodeProxyOptions", GET), ("status", "Node", GET_PATCH_UPDATE)];
    pods = pod, "" / "v1", "Pod", "pods", "pod",
        short: ["po"], categories: ["all"], namespaced: true, verbs: ALL,
        subresources: [("attach", "PodAttachOptions", CONNECT), ("binding", "Binding", CREATE),
            ("eviction", "Eviction", CREATE), ("exec", "PodExecOptions", CONNECT), ("log", "Pod", GET),
            ("portforward", "PodPortForwardOptions", CONNECT), ("status", "Pod", GET_PATCH_UPDATE)];
    secrets = secret, "" / "v1", "Secret", "secrets", "secret",
        short: [], categories: [], namespaced: true, verbs: ALL, subresources: [];
    services = service, "" / "v1", "Service", "services", "service",
        short: ["svc"], categories: ["all"], namespaced: true, verbs: ALL,
        subresources: [("status", "Service", GET_PATCH_UPDATE)];
    certificate_signing_requests = certificate_signing_request, "certificates.k8s.io" / "v1",
        "CertificateSigningRequest", "certificatesigningrequests", "certificatesigningrequest",
        short: ["csr"], categories: [], namespaced: false, verbs: ALL,
        subresources: [("approval", "CertificateSigningRequest", GET_PATCH_UPDATE),
            ("status", "CertificateSigningRequest", GET_PATCH_UPDATE)];
    leases = lease, "coordination.k8s.io" / "v1", "Lease", "leases", "lease",
        short: [], categories: [], namespaced: true, verbs: ALL, subresources: [];
    endpoint_slices = endpoint_slice, "discovery.k8s.io" / "v1", "EndpointSlice", "endpointslices", "endpointslice",
        short: [], categories: [], namespaced: true, verbs: ALL, subresources: [];
}

/// All kinds, in the order that discovery lists them.
#[must_use]
pub fn all() -> &'static [&'static Kind] {
    KINDS
}

/// The kinds of one group and version, in the same order.
pub fn in_group(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    all().iter().copied().filter(move |kind| kind.group == group && kind.version == version)
}

/// Every group and version that has a kind, the core group first.
#[must_use]
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for kind in all() {
        if !seen.contains(&(kind.group, kind.version)) {
            seen.push((kind.group, kind.version));
        }
    }
    seen
}

/// By URL: group "" is the core group.
#[must_use]
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().copied().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// By what an object says of itself.
#[must_use]
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().copied().find(|row| row.kind == kind && row.api_version() == api_version)
}

/// By what a person types: plural, singular, short name or kind, any case, optionally followed by `.group` or
/// `.version.group` (with an empty group for the core: `pods.v1.`).
#[must_use]
pub fn by_alias(alias: &str) -> Option<&'static Kind> {
    let alias = alias.to_ascii_lowercase();
    let (name, rest) = alias.split_once('.').unwrap_or((&alias, ""));
    let called = |kind: &&Kind| {
        kind.plural == name
            || kind.singular == name
            || kind.short_names.contains(&name)
            || kind.kind.eq_ignore_ascii_case(name)
    };
    let placed = |kind: &&Kind| {
        let versioned = rest.strip_prefix(kind.version).and_then(|tail| tail.strip_prefix('.'));
        rest.is_empty() || rest == kind.group || versioned == Some(kind.group)
    };
    all().iter().copied().find(|kind| called(kind) && placed(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_answer_to_the_same_name() {
        let mut names: Vec<String> = Vec::new();
        for kind in all() {
            let mut own = vec![kind.plural, kind.singular];
            own.extend(kind.short_names);
            own.dedup();
            names.extend(own.into_iter().map(str::to_owned));
        }
        let total = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), total);
    }

    #[test]
    fn people_may_abbreviate() {
        let table = [
            ("po", Some("Pod")),
            ("pods", Some("Pod")),
            ("Pod", Some("Pod")),
            ("PODS", Some("Pod")),
            ("pods.v1.", Some("Pod")),
            ("pods.v2.", None),
            ("svc", Some("Service")),
            ("endpointslices.discovery.k8s.io", Some("EndpointSlice")),
            ("endpointslice.v1.discovery.k8s.io", Some("EndpointSlice")),
            ("pods.discovery.k8s.io", None),
            ("leases", Some("Lease")),
            ("deploy", None),
            ("", None),
            (".", None),
        ];
        for (alias, kind) in table {
            assert_eq!(by_alias(alias).map(|row| row.kind), kind, "{alias}");
        }
    }

    #[test]
    fn rows_are_found_by_url_and_by_what_objects_say() {
        assert_eq!(by_resource("", "v1", "services").map(|row| row.kind), Some("Service"));
        assert_eq!(by_resource("discovery.k8s.io", "v1", "services").map(|row| row.kind), None);
        assert_eq!(by_kind("coordination.k8s.io/v1", "Lease").map(|row| row.plural), Some("leases"));
        assert_eq!(by_kind("v1", "Lease").map(|row| row.plural), None);
    }
}
