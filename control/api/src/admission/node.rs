//! What a node may say about itself and its own pods: where pods go is for people and controllers to decide, not for the
//! machine that would get them.

use crate::{door::Target, identity::Identity};
use coracle_objects::{ApiError, catalogue, nodes, static_pods};
use serde_json::Value;
use std::collections::BTreeSet;

/// Refuses a node that registers itself under a label, or with a range of addresses, that is not its to choose.
pub(crate) fn admit_create(identity: &Identity, target: &Target, new: &Value) -> Result<(), ApiError> {
    if identity.node_name().is_some() {
        check_finalizers(target, new, &Value::Null)?;
    }
    if let Some(node) = identity.node_name().filter(|_| target.kind == catalogue::pods()) {
        return admit_mirror(node, target, new);
    }
    if !concerns(identity, target) {
        return Ok(());
    }
    if ["podCIDR", "podCIDRs"].iter().any(|field| new["spec"].get(field).is_some_and(|value| !value.is_null())) {
        return Err(refusal(target, "a node is not allowed to choose its own spec.podCIDR"));
    }
    check_labels(target, new, &Value::Null)
}

/// A node shows the pods that it has from files, and puts no other pods anywhere: not on another node, and none that
/// would let it read what it may not.
fn admit_mirror(node: &str, target: &Target, pod: &Value) -> Result<(), ApiError> {
    let refuse = |detail: &str| Err(refusal(target, detail));
    if !static_pods::is_mirror(pod) {
        let annotation = static_pods::MIRROR_ANNOTATION;
        return refuse(&format!("a node may create only mirrors of its static pods (annotation {annotation})"));
    }
    if pod["spec"]["nodeName"] != node {
        return refuse(&format!("node {node} may create only pods with spec.nodeName {node}"));
    }
    let found = static_pods::server_references(pod);
    if !found.is_empty() {
        return refuse(&format!("a mirror may not name what only the server has: {}", found.join(", ")));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    if owners.iter().any(|owner| owner["kind"] != "Node" || owner["apiVersion"] != "v1" || owner["name"] != node) {
        return refuse(&format!("node {node} may create only pods that are owned by itself, or by nobody"));
    }
    Ok(())
}

/// Refuses a node that changes such a label, finalizers, or its own spec: taints, and whether it is cordoned.
pub(crate) fn admit_update(identity: &Identity, target: &Target, new: &Value, old: &Value) -> Result<(), ApiError> {
    if identity.node_name().is_some() {
        check_finalizers(target, new, old)?;
    }
    if !concerns(identity, target) || !target.subresource.is_empty() {
        return Ok(());
    }
    if spec_of(new) != spec_of(old) {
        return Err(refusal(target, "a node is not allowed to modify its own spec"));
    }
    check_labels(target, new, old)
}

fn concerns(identity: &Identity, target: &Target) -> bool {
    identity.node_name().is_some() && target.kind == catalogue::nodes()
}

/// What a node would hold with them is not its to hold: its own Node stayed when it is deleted, and with it the node.
fn check_finalizers(target: &Target, new: &Value, old: &Value) -> Result<(), ApiError> {
    let finalizers = |object: &'_ Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if finalizers(new) == finalizers(old) {
        return Ok(());
    }
    Err(refusal(target, "a node is not allowed to change metadata.finalizers"))
}

/// No spec is an empty one.
fn spec_of(node: &Value) -> Option<&Value> {
    node.get("spec").filter(|spec| spec.as_object().is_some_and(|fields| !fields.is_empty()))
}

fn check_labels(target: &Target, new: &Value, old: &Value) -> Result<(), ApiError> {
    let labels = |node: &'_ Value| node["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (new, old) = (labels(new), labels(old));
    let changed: BTreeSet<&str> = new
        .keys()
        .chain(old.keys())
        .map(String::as_str)
        .filter(|label| nodes::is_reserved_label(label) && new.get(*label) != old.get(*label))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let list = changed.into_iter().collect::<Vec<_>>().join(", ");
    Err(refusal(target, &format!("is not allowed to modify labels: {list}")))
}

fn refusal(target: &Target, detail: &str) -> ApiError {
    ApiError::forbidden("", target.kind.plural, &target.name, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_creates_nothing_but_mirrors_of_its_own() {
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "one", "uid": "u"}]);
        let annotations = json!({static_pods::MIRROR_ANNOTATION: "hash"});
        let mirror = json!({"metadata": {"name": "a", "annotations": annotations, "ownerReferences": owner},
            "spec": {"nodeName": "one"}});
        let target = Target::object(catalogue::pods(), "default", "a");
        let admitted = |pod: &Value| admit_create(&Identity::node("one"), &target, pod).is_ok();
        assert!(admitted(&mirror));
        let changes: [fn(&mut Value); 6] = [
            |pod| pod["metadata"]["finalizers"] = json!(["example.com/stay"]),
            |pod| pod["metadata"]["annotations"] = json!({}),
            |pod| pod["spec"]["nodeName"] = "two".into(),
            |pod| pod["spec"] = json!({}),
            |pod| pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]),
            |pod| pod["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet".into(),
        ];
        for change in changes {
            let mut pod = mirror.clone();
            change(&mut pod);
            assert!(!admitted(&pod), "{pod}");
            assert!(admit_create(&Identity::admin(), &target, &pod).is_ok(), "people may: {pod}");
        }
    }

    #[test]
    fn a_node_holds_nothing_that_is_to_be_deleted() {
        let object = |finalizers: &[&str]| json!({"metadata": {"name": "one", "finalizers": finalizers}, "spec": {"nodeName": "one"}});
        let node = Identity::node("one");
        for target in [Target::object(catalogue::nodes(), "", "one"), Target::object(catalogue::pods(), "a", "one")] {
            let status = target.clone().with_subresource("status").unwrap();
            for target in [&target, &status] {
                for (new, old) in [(&["a"][..], &[][..]), (&[], &["a"]), (&["a", "b"], &["a"])] {
                    let (new, old) = (object(new), object(old));
                    let refused = admit_update(&node, target, &new, &old).unwrap_err();
                    assert!(refused.message.contains("finalizers"), "{refused}");
                    assert!(admit_update(&Identity::admin(), target, &new, &old).is_ok(), "people may: {new}");
                }
                assert!(admit_update(&node, target, &object(&["a"]), &object(&["a"])).is_ok(), "what is there stays");
            }
        }
        let nodes = Target::collection(catalogue::nodes(), "");
        let registering = |finalizers: Value| json!({"metadata": {"name": "one", "finalizers": finalizers}});
        assert!(admit_create(&node, &nodes, &registering(json!(["a"]))).is_err());
        assert!(admit_create(&node, &nodes, &registering(json!([]))).is_ok());
        assert!(admit_create(&Identity::admin(), &nodes, &registering(json!(["a"]))).is_ok());
    }

    #[test]
    fn a_node_chooses_neither_its_role_nor_its_taints() {
        let node = |labels: Value, spec: Value| json!({"metadata": {"name": "one", "labels": labels}, "spec": spec});
        let old =
            node(json!({"zone": "a", "node-restriction.kubernetes.io/pci": "yes"}), json!({"taints": [{"key": "x"}]}));
        let target = Target::object(catalogue::nodes(), "", "one");
        let taints = &old["spec"];
        let kept = json!({"zone": "b", "node-restriction.kubernetes.io/pci": "yes"});
        let with = |label: &str| {
            let mut labels = kept.clone();
            labels[label] = Value::from("new");
            labels
        };
        let cases = [
            (node(kept.clone(), taints.clone()), true),
            (node(with("kubernetes.io/hostname"), taints.clone()), true),
            (node(with("example.com/mykubernetes.io"), taints.clone()), true),
            (node(with("notkubernetes.io/x"), taints.clone()), true),
            (node(with("node-restriction.kubernetes.io/pci"), taints.clone()), false),
            (node(with("node-role.kubernetes.io/control-plane"), taints.clone()), false),
            (node(with("kubernetes.io/role"), taints.clone()), false),
            (node(with("a.k8s.io/x"), taints.clone()), false),
            (node(json!({"zone": "a"}), taints.clone()), false),
            (node(kept.clone(), json!({})), false),
            (node(kept.clone(), json!({"taints": [{"key": "x"}], "unschedulable": false})), false),
        ];
        for (new, allowed) in cases {
            let answer = admit_update(&Identity::node("one"), &target, &new, &old);
            assert_eq!(answer.is_ok(), allowed, "{new}");
            assert!(admit_update(&Identity::admin(), &target, &new, &old).is_ok(), "people may: {new}");
        }
        let registers = |labels| admit_create(&Identity::node("one"), &target, &node(labels, json!({}))).is_ok();
        assert!(registers(json!({"zone": "a", "kubernetes.io/os": "linux"})));
        assert!(!registers(json!({"node-role.kubernetes.io/control-plane": ""})));
        for spec in [json!({"podCIDR": "10.244.0.0/22"}), json!({"podCIDRs": ["10.244.0.0/22"]})] {
            let chosen = node(json!({}), spec);
            assert!(admit_create(&Identity::node("one"), &target, &chosen).is_err(), "{chosen}");
            assert!(admit_create(&Identity::admin(), &target, &chosen).is_ok(), "people may: {chosen}");
        }
    }
}
