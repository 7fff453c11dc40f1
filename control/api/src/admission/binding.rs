//! `pods/binding`: a pod gets its node, once.

use crate::door::{Body, Target, stamp};
use coracle_objects::{ApiError, Cause, decode, meta};
use serde_json::{Value, json};

/// A decoded `Binding`.
#[derive(Debug)]
pub(crate) struct Binding {
    node: String,
    uid: String,
}

impl Binding {
    /// Reads the body; `target` is the pod.
    pub(crate) fn parse(target: &Target, body: Body) -> Result<Self, ApiError> {
        let object = match body {
            Body::Json(bytes) => decode::json(&bytes)?.0,
            Body::Value(value) => value,
        };
        let name = meta::name(&object);
        if !name.is_empty() && name != target.name {
            let message =
                format!("the name of the object ({name}) does not match the name on the URL ({})", target.name);
            return Err(ApiError::bad_request(message));
        }
        let (kind, node) = (&object["target"]["kind"], object["target"]["name"].as_str().unwrap_or_default());
        let mut causes = Vec::new();
        if !matches!(kind.as_str(), None | Some("" | "Node")) {
            causes.push(Cause::not_supported("target.kind", kind, &["Node", "<empty>"]));
        }
        if node.is_empty() {
            causes.push(Cause::required("target.name", ""));
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid("", "Binding", &target.name, causes));
        }
        Ok(Self { node: node.to_owned(), uid: meta::uid(&object).to_owned() })
    }

    /// Writes the node into the pod.
    pub(crate) fn bind(&self, target: &Target, pod: &mut Value, now_seconds: i64) -> Result<(), ApiError> {
        let name = &target.name;
        let conflict = |detail: &str| Err(ApiError::conflict("", "pods/binding", name, detail));
        let actual = meta::uid(pod);
        if !self.uid.is_empty() && self.uid != actual {
            let wanted = &self.uid;
            return conflict(&format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"
            ));
        }
        if meta::is_terminating(pod) {
            return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if let Some(bound) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
            return conflict(&format!("pod {name} is already assigned to node \"{bound}\""));
        }
        pod["spec"]["nodeName"] = Value::from(self.node.as_str());
        set_scheduled(pod, now_seconds);
        Ok(())
    }
}

/// `PodScheduled` becomes true; the time is that of the change from false.
fn set_scheduled(pod: &mut Value, now_seconds: i64) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": stamp::timestamp(now_seconds),
    });
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let slot = &mut pod["status"]["conditions"];
    let Some(conditions) = slot.as_array_mut() else {
        *slot = json!([condition]);
        return;
    };
    match conditions.iter_mut().find(|one| one["type"] == "PodScheduled") {
        Some(one) if one["status"] == "True" => {}
        Some(one) => *one = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::catalogue;

    fn target() -> Target {
        Target::object(catalogue::pods(), "a", "x").with_subresource("binding").unwrap()
    }

    fn binding(uid: &str) -> Binding {
        let body = json!({"metadata": {"name": "x", "uid": uid}, "target": {"kind": "Node", "name": "one"}});
        Binding::parse(&target(), Body::Value(body)).unwrap()
    }

    #[test]
    fn a_pod_is_bound_once_and_only_if_it_is_the_one_meant() {
        let fresh = json!({"metadata": {"uid": "u"}, "spec": {}, "status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}});
        let mut pod = fresh.clone();
        binding("u").bind(&target(), &mut pod, 0).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "one");
        assert_eq!(pod["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        let again = binding("u").bind(&target(), &mut pod, 0).unwrap_err();
        let text = "Operation cannot be fulfilled on pods/binding \"x\": pod x is already assigned to node \"one\"";
        assert_eq!((again.code(), again.message.as_str()), (409, text));
        assert_eq!(binding("other").bind(&target(), &mut fresh.clone(), 0).unwrap_err().code(), 409);
        let mut ending = fresh;
        ending["metadata"]["deletionTimestamp"] = Value::from("2026-01-01T00:00:00Z");
        assert_eq!(binding("").bind(&target(), &mut ending, 0).unwrap_err().code(), 409);
    }

    #[test]
    fn a_binding_needs_a_node() {
        let cases = [
            (json!({"target": {"kind": "Node"}}), 422),
            (json!({"target": {"kind": "Pod", "name": "one"}}), 422),
            (json!({"metadata": {"name": "y"}, "target": {"name": "one"}}), 400),
        ];
        for (body, code) in cases {
            assert_eq!(Binding::parse(&target(), Body::Value(body.clone())).unwrap_err().code(), code, "{body}");
        }
    }
}
