//! From the bytes of a file to a static pod, with its name, uid and annotations. Pure.

use coracle_objects::{
    catalogue, decode,
    fields::FieldValidation,
    static_pods::{HASH_ANNOTATION, SOURCE_ANNOTATION, server_references},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Digits of a static pod's uid: no server gives uids of this form, which has no dashes.
const UID_DIGITS: usize = 32;

/// Whether the uid is one that [`parse`] gives.
pub(crate) fn is_static_uid(uid: &str) -> bool {
    uid.len() == UID_DIGITS && uid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The pod that a file describes in YAML or JSON, as `node` runs it: called `NAME-NODE`, bound to the node, defaulted
/// and valid. Its uid follows from what it says, so that another content is another pod.
///
/// # Errors
/// For people: what is wrong with it and where.
pub(crate) fn parse(bytes: &[u8], node: &str) -> Result<Value, String> {
    let document = decode::yaml(bytes).map_err(|error| error.message)?;
    let kind = catalogue::pods();
    let checked = decode::object(kind, document.to_string().as_bytes(), FieldValidation::Strict);
    let mut pod = checked.map_err(|error| error.message)?.object;
    let found = server_references(&pod);
    if !found.is_empty() {
        return Err(format!("a static pod may not name what only the server has: {}", found.join(", ")));
    }
    let given = pod["metadata"]["name"].as_str().filter(|name| !name.is_empty());
    let name = format!("{}-{node}", given.ok_or("metadata.name is missing")?);
    let other_node = pod["spec"]["nodeName"].as_str().filter(|bound| !bound.is_empty() && *bound != node);
    if let Some(other) = other_node {
        return Err(format!("spec.nodeName is {other}, but this is node {node}"));
    }
    let uid = digest(&format!("{node}\n{pod}"));
    let metadata = &mut pod["metadata"];
    if metadata["namespace"].as_str().is_none_or(str::is_empty) {
        metadata["namespace"] = "default".into();
    }
    if let Some(metadata) = metadata.as_object_mut() {
        for field in ["generateName", "resourceVersion", "deletionTimestamp", "ownerReferences", "finalizers"] {
            metadata.shift_remove(field);
        }
    }
    metadata["name"] = name.into();
    metadata["uid"] = uid.as_str().into();
    metadata["annotations"][SOURCE_ANNOTATION] = "file".into();
    metadata["annotations"][HASH_ANNOTATION] = uid.into();
    let spec = &mut pod["spec"];
    spec["nodeName"] = node.into();
    // A node that is lost, or unwell, does not drive away what belongs to it.
    let anywhere = json!({"operator": "Exists", "effect": "NoExecute"});
    match spec["tolerations"].as_array_mut() {
        Some(tolerations) if tolerations.contains(&anywhere) => {}
        Some(tolerations) => tolerations.push(anywhere),
        None => spec["tolerations"] = json!([anywhere]),
    }
    (kind.default)(&mut pod);
    (kind.prepare_create)(&mut pod);
    let causes = (kind.validate_create)(&pod);
    if causes.is_empty() { Ok(pod) } else { Err(kind.invalid(coracle_objects::meta::name(&pod), causes).message) }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let half = digest.iter().take(UID_DIGITS / 2);
    half.fold(String::with_capacity(UID_DIGITS), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::meta;

    const WEB: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: web
    image: web:v1
";

    #[test]
    fn a_file_becomes_a_pod_of_this_node() {
        let pod = parse(WEB.as_bytes(), "node-1").unwrap();
        assert_eq!((meta::namespace(&pod), meta::name(&pod)), ("default", "web-node-1"));
        assert_eq!(pod["spec"]["nodeName"], "node-1");
        assert_eq!(pod["spec"]["restartPolicy"], "Always", "defaults are filled in");
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(meta::annotation(&pod, HASH_ANNOTATION), Some(meta::uid(&pod)));
        assert!(is_static_uid(meta::uid(&pod)));
        assert!(!is_static_uid("0f8fad5b-d9cb-469f-a165-70867728950e"));
        assert_eq!(parse(WEB.as_bytes(), "node-1").unwrap(), pod, "the same content is the same pod");
        let other = WEB.replace("web:v1", "web:v2");
        assert_ne!(meta::uid(&parse(other.as_bytes(), "node-1").unwrap()), meta::uid(&pod));
        assert_ne!(meta::uid(&parse(WEB.as_bytes(), "node-2").unwrap()), meta::uid(&pod));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("kind: [", "not YAML: "),
            ("", "Pod"),
            ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "Service"),
            (&WEB.replace("name: web\n  labels", "labels"), "metadata.name is missing"),
            (&WEB.replace("    image", "    imgae"), "imgae"),
            (&WEB.replace("name: web\n    image", "name: Web_\n    image"), "spec.containers[0].name"),
            (&format!("{WEB}  serviceAccountName: robot\n"), "spec.serviceAccountName"),
            (&format!("{WEB}  nodeName: other\n"), "other"),
        ];
        for (text, part) in cases {
            let error = parse(text.as_bytes(), "node-1").unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse(&[0xff], "node-1").unwrap_err().contains("byte 0"));
    }
}
