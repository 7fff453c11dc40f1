//! The decision, and the words of a refusal.

use super::{nodes, roles};
use crate::identity::{Attributes, GROUP_MASTERS, Identity};
use coracle_objects::{ApiError, bootstrap, catalogue};
use serde_json::{Value, json};

/// Whether `identity` may do what `attributes` say.
///
/// # Errors
/// 403 in Kubernetes' words.
pub fn authorize(identity: &Identity, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let allowed = identity.is_in(GROUP_MASTERS)
        || roles::allow(roles::of_user(&identity.user), attributes)
        || identity.node_name().is_some_and(|node| nodes::may(node, attributes))
        || requests_certificate(identity, attributes);
    if allowed { Ok(()) } else { Err(refusal(identity, attributes)) }
}

/// Whether this is a machine that is to become a node, or a node, with a request for its own certificate: it makes one and
/// looks at what became of it.
fn requests_certificate(identity: &Identity, attributes: &Attributes<'_>) -> bool {
    let Attributes { verb, group, resource, subresource, object, .. } = *attributes;
    let asks = identity.is_in(bootstrap::GROUP) || identity.node_name().is_some();
    let is_own = object.is_none_or(|request| request["spec"]["username"] == identity.user);
    let kind = catalogue::certificate_signing_requests();
    asks && (group, resource, subresource) == (kind.group, kind.plural, "")
        && match verb {
            "create" => true,
            "get" => is_own,
            _ => false,
        }
}

/// What `identity` may do in any namespace, in the shape of a rules review's `resourceRules`, and whether that is all: what a
/// node may do depends on the objects.
#[must_use]
pub fn rules(identity: &Identity) -> (Vec<Value>, bool) {
    if identity.is_in(GROUP_MASTERS) {
        return (vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})], true);
    }
    let is_node = identity.node_name().is_some();
    let of_node = if is_node { roles::NODE_RULES } else { &[] };
    let rules = roles::of_user(&identity.user).iter().chain(of_node);
    let shown = rules.map(|rule| json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources}));
    (shown.collect(), !is_node)
}

fn refusal(identity: &Identity, attributes: &Attributes<'_>) -> ApiError {
    let Attributes { verb, group, resource, subresource, namespace, name, .. } = *attributes;
    let full = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    let user = &identity.user;
    let detail = format!("User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}");
    ApiError::forbidden(group, resource, if verb == "create" { "" } else { name }, &detail)
}
