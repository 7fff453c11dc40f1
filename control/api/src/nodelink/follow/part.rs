//! The kinds of a view, and what of an object nodes are told. Pure.

use coracle_objects::{
    nodes::{CREDENTIALS_SINCE_ANNOTATION, TUNNEL_ANNOTATION},
    references,
};
use coracle_store::Key;
use coracle_wire::v1::ViewKind;
use serde_json::{Map, Value, json};

/// Only for the users of `kubectl apply`, and as large as the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A kind of a view, in the order in which a node is told: what pods need comes before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    Namespaces,
    Nodes,
    ConfigMaps,
    Secrets,
    Services,
    EndpointSlices,
    Pods,
}

impl Part {
    pub(super) const ALL: [Self; 7] = [
        Self::Namespaces,
        Self::Nodes,
        Self::ConfigMaps,
        Self::Secrets,
        Self::Services,
        Self::EndpointSlices,
        Self::Pods,
    ];

    /// Which part the object at `key` belongs to, if nodes are told of its kind at all.
    pub(super) fn of(key: &Key) -> Option<Self> {
        Self::ALL.into_iter().find(|part| key.0.starts_with(part.prefix()))
    }

    /// What begins the keys of its objects.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Namespaces => "/namespaces/",
            Self::Nodes => "/nodes/",
            Self::ConfigMaps => "/configmaps/",
            Self::Secrets => "/secrets/",
            Self::Services => "/services/",
            Self::EndpointSlices => "discovery.k8s.io/endpointslices/",
            Self::Pods => "/pods/",
        }
    }

    /// Whether every node is told of all its objects; of the others it is told what concerns it.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Self::Namespaces | Self::Nodes | Self::Services | Self::EndpointSlices)
    }

    /// Namespace and name of the object at `key`.
    pub(super) fn place(self, key: &Key) -> (&str, &str) {
        key.0.strip_prefix(self.prefix()).and_then(|rest| rest.split_once('/')).unwrap_or_default()
    }

    /// What of `object` nodes are told. Of shared kinds nothing that changes without meaning anything to them, so that they
    /// need not be told again.
    pub(super) fn stripped(self, object: &Value) -> Value {
        match self {
            Self::Namespaces => json!({
                "metadata": picked(&object["metadata"], &["name", "uid", "labels", "deletionTimestamp"]),
            }),
            Self::Nodes => node(object),
            Self::ConfigMaps | Self::Secrets => {
                let mut kept = picked(object, &["immutable", "type", "data", "binaryData"]);
                let metadata = picked(&object["metadata"], &["namespace", "name", "uid", "resourceVersion"]);
                kept.insert("metadata".to_owned(), Value::Object(metadata));
                Value::Object(kept)
            }
            Self::Services => {
                let mut kept = picked(object, &["spec", "status"]);
                let mut metadata = described(&object["metadata"]);
                // Whoever was first keeps an address that two claim.
                metadata.extend(picked(&object["metadata"], &["creationTimestamp"]));
                kept.insert("metadata".to_owned(), Value::Object(metadata));
                Value::Object(kept)
            }
            Self::EndpointSlices => {
                let mut kept = picked(object, &["addressType", "endpoints", "ports"]);
                kept.insert("metadata".to_owned(), Value::Object(described(&object["metadata"])));
                Value::Object(kept)
            }
            Self::Pods => object.clone(),
        }
    }
}

impl From<Part> for ViewKind {
    fn from(part: Part) -> Self {
        match part {
            Part::Namespaces => Self::Namespace,
            Part::Nodes => Self::Node,
            Part::ConfigMaps => Self::ConfigMap,
            Part::Secrets => Self::Secret,
            Part::Services => Self::Service,
            Part::EndpointSlices => Self::EndpointSlice,
            Part::Pods => Self::Pod,
        }
    }
}

/// Keys of the config maps and secrets that `pod` names.
pub(super) fn named_by(pod: &Value) -> Vec<Key> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let config_maps = references::config_maps(pod).into_iter();
    let secrets = references::secrets(pod).into_iter();
    let config_maps = config_maps.map(|name| Key::object("", "configmaps", namespace, name));
    config_maps.chain(secrets.map(|name| Key::object("", "secrets", namespace, name))).collect()
}

fn node(object: &Value) -> Value {
    let mut metadata = picked(&object["metadata"], &["name", "uid", "labels", "deletionTimestamp"]);
    let annotations = picked(&object["metadata"]["annotations"], &[TUNNEL_ANNOTATION, CREDENTIALS_SINCE_ANNOTATION]);
    metadata.insert("annotations".to_owned(), Value::Object(annotations));
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let ready: Vec<Value> = conditions
        .filter(|condition| condition["type"] == "Ready")
        .map(|condition| Value::Object(picked(condition, &["type", "status"])))
        .collect();
    json!({
        "metadata": metadata,
        "spec": picked(&object["spec"], &["podCIDR", "podCIDRs"]),
        "status": {"addresses": object["status"]["addresses"], "conditions": ready},
    })
}

/// Metadata without resource version and owners.
fn described(metadata: &Value) -> Map<String, Value> {
    let mut kept = picked(metadata, &["namespace", "name", "uid", "labels", "annotations", "deletionTimestamp"]);
    if let Some(annotations) = kept.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(LAST_APPLIED);
    }
    kept
}

fn picked(object: &Value, fields: &[&str]) -> Map<String, Value> {
    let present = fields.iter().filter_map(|&field| Some((field.to_owned(), object.get(field)?.clone())));
    present.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are_of() {
        let cases = [
            (Key::object("", "pods", "a", "b"), Some((Part::Pods, ("a", "b")))),
            (Key::object("", "nodes", "", "n"), Some((Part::Nodes, ("", "n")))),
            (Key::object("discovery.k8s.io", "endpointslices", "a", "b"), Some((Part::EndpointSlices, ("a", "b")))),
            (Key::object("coordination.k8s.io", "leases", "kube-node-lease", "n"), None),
            (Key::object("", "podtemplates", "a", "b"), None),
            (Key::object("", "endpoints", "a", "b"), None),
        ];
        for (key, expected) in cases {
            let found = Part::of(&key).map(|part| (part, part.place(&key)));
            assert_eq!(found, expected, "{key:?}");
        }
    }

    #[test]
    fn of_a_node_others_learn_what_they_reach_it_by() {
        let at = |heartbeat: &str| {
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": "n", "uid": "u", "resourceVersion": heartbeat, "labels": {"zone": "a"},
                    "annotations": {TUNNEL_ANNOTATION: "10.0.0.1:6444", "private": "x"}},
                "spec": {"podCIDR": "10.244.0.0/26", "podCIDRs": ["10.244.0.0/26"], "taints": []},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "images": [1, 2, 3], "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat},
                ]},
            })
        };
        let told = Part::Nodes.stripped(&at("1"));
        assert_eq!(told, Part::Nodes.stripped(&at("2")), "a sign of life is nothing to tell");
        let expected = json!({
            "metadata": {"name": "n", "uid": "u", "labels": {"zone": "a"},
                "annotations": {TUNNEL_ANNOTATION: "10.0.0.1:6444"}},
            "spec": {"podCIDR": "10.244.0.0/26", "podCIDRs": ["10.244.0.0/26"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn who_claims_an_address_first_is_told() {
        let service = json!({"metadata": {"name": "s", "namespace": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let told = Part::Services.stripped(&service);
        assert_eq!(told["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn what_was_applied_is_not_told_twice() {
        let service = json!({"metadata": {"name": "s", "namespace": "a", "resourceVersion": "7", "annotations": {
            LAST_APPLIED: "{}", "kept": "yes"}}, "spec": {"ports": []}});
        let told = Part::Services.stripped(&service);
        assert_eq!(told["metadata"], json!({"namespace": "a", "name": "s", "annotations": {"kept": "yes"}}));
    }
}
