//! Static pods and their mirrors: the annotations by which they are known, and what such a pod must not refer to. Pure.
//!
//! A node runs a static pod from a file of its own, with or without a server; so it can name nothing that only the
//! server has. Its mirror is an object that shows it to others. Whoever could create a mirror that names a secret would
//! have its node read that secret.

use serde_json::Value;

/// Marks a mirror; the value is the hash of the static pod that it shows.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The hash of a static pod: what it was made from.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Where a node has a static pod from: `file`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";

/// Whether `pod` shows a pod that its node has from a file.
#[must_use]
pub fn is_mirror(pod: &Value) -> bool {
    crate::meta::annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// What `pod` names that only the server has, by path: config maps, secrets, service accounts, claims.
#[must_use]
pub fn server_references(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let spec = &pod["spec"];
    for field in ["serviceAccountName", "serviceAccount"] {
        if spec[field].as_str().is_some_and(|name| !name.is_empty()) {
            found.push(format!("spec.{field}"));
        }
    }
    for field in ["imagePullSecrets", "resourceClaims"] {
        if spec[field].as_array().is_some_and(|list| !list.is_empty()) {
            found.push(format!("spec.{field}"));
        }
    }
    for (index, volume) in items(spec, "volumes") {
        let path = format!("spec.volumes[{index}]");
        for kind in ["configMap", "secret", "persistentVolumeClaim", "ephemeral", "csi"] {
            note(volume, kind, &path, &mut found);
        }
        for (index, source) in items(&volume["projected"], "sources") {
            for kind in ["configMap", "secret", "serviceAccountToken", "clusterTrustBundle"] {
                note(source, kind, &format!("{path}.projected.sources[{index}]"), &mut found);
            }
        }
    }
    for list in ["initContainers", "containers"] {
        for (index, container) in items(spec, list) {
            let path = format!("spec.{list}[{index}]");
            for (index, source) in items(container, "envFrom") {
                for kind in ["configMapRef", "secretRef"] {
                    note(source, kind, &format!("{path}.envFrom[{index}]"), &mut found);
                }
            }
            for (index, variable) in items(container, "env") {
                for kind in ["configMapKeyRef", "secretKeyRef"] {
                    note(&variable["valueFrom"], kind, &format!("{path}.env[{index}].valueFrom"), &mut found);
                }
            }
        }
    }
    found
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value[field].as_array().into_iter().flatten().enumerate()
}

fn note(value: &Value, field: &str, path: &str, found: &mut Vec<String>) {
    if value.get(field).is_some_and(|named| !named.is_null()) {
        found.push(format!("{path}.{field}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_that_only_the_server_has_is_found() {
        let container = json!({
            "envFrom": [{"secretRef": {"name": "s"}}],
            "env": [{"name": "A", "value": "x"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
        });
        let pod = json!({"spec": {
            "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "s"}],
            "volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "secret": {"secretName": "s"}},
                {"name": "c", "projected": {"sources": [{"downwardAPI": {}}, {"serviceAccountToken": {"path": "t"}}]}},
            ],
            "initContainers": [container],
            "containers": [{"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
        }});
        let expected = [
            "spec.serviceAccountName",
            "spec.imagePullSecrets",
            "spec.volumes[1].secret",
            "spec.volumes[2].projected.sources[1].serviceAccountToken",
            "spec.initContainers[0].envFrom[0].secretRef",
            "spec.initContainers[0].env[1].valueFrom.configMapKeyRef",
        ];
        assert_eq!(server_references(&pod), expected);
        assert!(
            server_references(&json!({"spec": {"containers": [{"name": "a"}], "imagePullSecrets": []}})).is_empty()
        );
    }
}
