//! Every kind that this build serves. Adding a kind is adding a row here and its rules in [`crate::rules`].

use crate::kind::Kind;

/// All kinds, in the order that discovery lists them.
#[must_use]
pub fn all() -> &'static [&'static Kind] {
    unimplemented!("owner: objects-fields")
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

/// By what a person types: plural, singular, short name or kind, any case, optionally `plural.group`.
#[must_use]
pub fn by_alias(_alias: &str) -> Option<&'static Kind> {
    unimplemented!("owner: objects-fields")
}

/// Shorthands for code that works with one kind. Each is in [`all`].
macro_rules! shorthand {
    ($($name:ident = $group:literal, $version:literal, $plural:literal;)*) => {
        $(
            #[doc = concat!("The kind `", $plural, "`.")]
            #[must_use]
            #[expect(clippy::missing_panics_doc, clippy::expect_used, reason = "a test holds that the catalogue has the row")]
            pub fn $name() -> &'static Kind {
                by_resource($group, $version, $plural).expect("the catalogue has the row")
            }
        )*
    };
}

shorthand! {
    pods = "", "v1", "pods";
    nodes = "", "v1", "nodes";
    namespaces = "", "v1", "namespaces";
    services = "", "v1", "services";
    endpoints = "", "v1", "endpoints";
    config_maps = "", "v1", "configmaps";
    secrets = "", "v1", "secrets";
    events = "", "v1", "events";
    endpoint_slices = "discovery.k8s.io", "v1", "endpointslices";
    leases = "coordination.k8s.io", "v1", "leases";
}
