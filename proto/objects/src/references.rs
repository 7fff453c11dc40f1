//! Which config maps and secrets a pod names: what its node has to be told, and nothing more, follows from it.

use serde_json::Value;
use std::collections::BTreeSet;

/// Lists of containers in a pod's spec.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Names of the config maps that `pod` mounts or has in its environment; they are of its own namespace.
#[must_use]
pub fn config_maps(pod: &Value) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for volume in items(&pod["spec"]["volumes"]) {
        names.extend(volume["configMap"]["name"].as_str());
        names.extend(sources(volume).filter_map(|source| source["configMap"]["name"].as_str()));
    }
    of_environment(pod, "configMapKeyRef", "configMapRef", &mut names);
    usable(names)
}

/// Names of the secrets that `pod` mounts, has in its environment or pulls images with; they are of its own namespace.
#[must_use]
pub fn secrets(pod: &Value) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for volume in items(&pod["spec"]["volumes"]) {
        names.extend(volume["secret"]["secretName"].as_str());
        names.extend(sources(volume).filter_map(|source| source["secret"]["name"].as_str()));
    }
    names.extend(items(&pod["spec"]["imagePullSecrets"]).filter_map(|one| one["name"].as_str()));
    of_environment(pod, "secretKeyRef", "secretRef", &mut names);
    usable(names)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn sources(volume: &Value) -> impl Iterator<Item = &Value> {
    items(&volume["projected"]["sources"])
}

fn of_environment<'a>(pod: &'a Value, key_reference: &str, whole_reference: &str, names: &mut BTreeSet<&'a str>) {
    for container in CONTAINER_LISTS.iter().flat_map(|list| items(&pod["spec"][list])) {
        let variables = items(&container["env"]);
        names.extend(variables.filter_map(|variable| variable["valueFrom"][key_reference]["name"].as_str()));
        names.extend(items(&container["envFrom"]).filter_map(|source| source[whole_reference]["name"].as_str()));
    }
}

/// An optional reference may have no name.
fn usable(mut names: BTreeSet<&str>) -> BTreeSet<&str> {
    names.remove("");
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_in_which_a_pod_names_something_counts() {
        let pod = json!({"spec": {
            "volumes": [
                {"configMap": {"name": "c-volume"}}, {"secret": {"secretName": "s-volume"}}, {"emptyDir": {}},
                {"projected": {"sources": [{"configMap": {"name": "c-projected"}}, {"secret": {"name": "s-projected"}}]}},
            ],
            "imagePullSecrets": [{"name": "s-pull"}, {"name": ""}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "c-from"}}, {"secretRef": {"name": "s-from"}}]}],
            "containers": [{"env": [
                {"name": "a", "valueFrom": {"configMapKeyRef": {"name": "c-key", "key": "k"}}},
                {"name": "b", "valueFrom": {"secretKeyRef": {"name": "s-key", "key": "k"}}},
                {"name": "c", "value": "s-none"},
            ]}],
            "ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "c-late"}}]}],
        }});
        let named: Vec<_> = config_maps(&pod).into_iter().collect();
        assert_eq!(named, ["c-from", "c-key", "c-late", "c-projected", "c-volume"]);
        let named: Vec<_> = secrets(&pod).into_iter().collect();
        assert_eq!(named, ["s-from", "s-key", "s-projected", "s-pull", "s-volume"]);
        assert!(config_maps(&Value::Null).is_empty() && secrets(&json!({"spec": 1})).is_empty());
    }
}
