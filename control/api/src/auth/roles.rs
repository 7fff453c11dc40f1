//! The fixed roles, in RBAC's shape: until roles can be stored, these are all there are.

use crate::identity::{Attributes, USER_CONTROLLER_MANAGER, USER_SCHEDULER, USER_SIGNER};

/// One rule: any of the verbs on any of the resources of any of the groups. `*` stands for all.
pub(super) struct Rule {
    pub(super) verbs: &'static [&'static str],
    pub(super) groups: &'static [&'static str],
    /// `pods` or `pods/status`.
    pub(super) resources: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const RECORD: &[&str] = &["create", "update", "patch"];
const CORE: &[&str] = &[""];
const CERTIFICATES: &[&str] = &["certificates.k8s.io"];

/// User → what it may do, everywhere.
const ROLES: &[(&str, &[Rule])] = &[
    (
        USER_SCHEDULER,
        &[
            Rule { verbs: READ, groups: CORE, resources: &["pods", "nodes", "namespaces", "services"] },
            Rule { verbs: &["create"], groups: CORE, resources: &["pods/binding"] },
            Rule { verbs: &["update", "patch"], groups: CORE, resources: &["pods/status"] },
            Rule { verbs: RECORD, groups: CORE, resources: &["events"] },
        ],
    ),
    (
        USER_CONTROLLER_MANAGER,
        &[
            // The namespace controller empties namespaces, whatever is in them.
            Rule { verbs: &["get", "list", "watch", "delete", "deletecollection"], groups: &["*"], resources: &["*"] },
            Rule { verbs: RECORD, groups: CORE, resources: &["endpoints", "events"] },
            Rule { verbs: RECORD, groups: &["discovery.k8s.io"], resources: &["endpointslices"] },
            Rule { verbs: &["update", "patch"], groups: CORE, resources: &["nodes/status", "pods/status"] },
            Rule { verbs: &["update", "patch"], groups: CORE, resources: &["nodes", "namespaces"] },
            Rule {
                verbs: &["update", "patch"],
                groups: CORE,
                resources: &["namespaces/status", "namespaces/finalize"],
            },
            Rule { verbs: RECORD, groups: &["coordination.k8s.io"], resources: &["leases"] },
        ],
    ),
    (
        USER_SIGNER,
        &[
            Rule {
                verbs: &["get", "list", "watch", "delete"],
                groups: CERTIFICATES,
                resources: &["certificatesigningrequests"],
            },
            Rule {
                verbs: &["update"],
                groups: CERTIFICATES,
                resources: &["certificatesigningrequests/approval", "certificatesigningrequests/status"],
            },
            // A Node is changed so that it says since when credentials count.
            Rule { verbs: &["get", "list", "patch"], groups: CORE, resources: &["nodes"] },
            // Tokens: who used them up is written there, and those that have expired go.
            Rule { verbs: &["get", "list", "update", "delete"], groups: CORE, resources: &["secrets"] },
        ],
    ),
];

/// What every node agent may do, whichever node it is; the rest depends on the object.
pub(super) const NODE_RULES: &[Rule] = &[Rule { verbs: RECORD, groups: CORE, resources: &["events"] }];

/// The rules of `user`.
pub(super) fn of_user(user: &str) -> &'static [Rule] {
    ROLES.iter().find(|role| role.0 == user).map_or(&[], |role| role.1)
}

/// Whether one of `rules` allows it.
pub(super) fn allow(rules: &[Rule], attributes: &Attributes<'_>) -> bool {
    let has = |list: &[&str], what: &str| list.iter().any(|&one| one == "*" || one == what);
    rules.iter().any(|rule| {
        has(rule.verbs, attributes.verb)
            && has(rule.groups, attributes.group)
            && rule.resources.iter().any(|&resource| covers(resource, attributes))
    })
}

/// `*` covers everything; `pods/status` covers that subresource; `pods` covers no subresource.
fn covers(resource: &str, attributes: &Attributes<'_>) -> bool {
    match resource.split_once('/') {
        None => resource == "*" || (resource == attributes.resource && attributes.subresource.is_empty()),
        Some((plural, subresource)) => plural == attributes.resource && subresource == attributes.subresource,
    }
}
