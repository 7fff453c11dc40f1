//! Which pods name a secret or a config map: what a node may read follows from it.

use coracle_store::{Key, Store};
use serde_json::Value;

/// Finds pods for the check of what a node's pods refer to.
pub trait PodLookup: Send + Sync {
    /// Whether `test` holds for a pod of `namespace`. Implementations may leave out pods whose encoding does not
    /// contain each of the `mentions` as a JSON string.
    fn any_pod(&self, namespace: &str, mentions: &[&str], test: &dyn Fn(&Value) -> bool) -> bool;
}

/// Pods read at once, so that a large namespace is never held in memory as a whole.
const PAGE: usize = 500;

impl PodLookup for Store {
    fn any_pod(&self, namespace: &str, mentions: &[&str], test: &dyn Fn(&Value) -> bool) -> bool {
        let prefix = Key::prefix("", "pods", Some(namespace));
        let needles: Vec<String> = mentions.iter().map(|mention| format!("\"{mention}\"")).collect();
        let mut after: Option<Key> = None;
        loop {
            let page = match self.list(&prefix, after.as_ref(), PAGE, None) {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, namespace, "cannot read pods to see what they refer to");
                    return false;
                }
            };
            let found = page.entries.iter().any(|entry| {
                needles.iter().all(|needle| contains(&entry.value, needle.as_bytes()))
                    && serde_json::from_slice(&entry.value).is_ok_and(|pod: Value| test(&pod))
            });
            if found {
                return true;
            }
            after = page.entries.into_iter().next_back().map(|entry| entry.key);
            if !page.more || after.is_none() {
                return false;
            }
        }
    }
}

/// Decoding a pod costs far more than looking for a few bytes in it.
fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Whether `pod` names the secret called `name`.
pub(super) fn names_secret(pod: &Value, name: &str) -> bool {
    let spec = &pod["spec"];
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let in_volumes = volumes.clone().any(|volume| {
        volume["secret"]["secretName"] == name || sources(volume).any(|source| source["secret"]["name"] == name)
    });
    let pull_secrets = spec["imagePullSecrets"].as_array().into_iter().flatten();
    in_volumes
        || pull_secrets.into_iter().any(|reference| reference["name"] == name)
        || names_in_environment(spec, "secretKeyRef", "secretRef", name)
}

/// Whether `pod` names the config map called `name`.
pub(super) fn names_config_map(pod: &Value, name: &str) -> bool {
    let spec = &pod["spec"];
    let mut volumes = spec["volumes"].as_array().into_iter().flatten();
    volumes.any(|volume| {
        volume["configMap"]["name"] == name || sources(volume).any(|source| source["configMap"]["name"] == name)
    }) || names_in_environment(spec, "configMapKeyRef", "configMapRef", name)
}

fn sources(volume: &Value) -> impl Iterator<Item = &Value> {
    volume["projected"]["sources"].as_array().into_iter().flatten()
}

fn names_in_environment(spec: &Value, key_reference: &str, whole_reference: &str, name: &str) -> bool {
    let containers = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    containers.into_iter().any(|container| {
        let mut env = container["env"].as_array().into_iter().flatten();
        let mut env_from = container["envFrom"].as_array().into_iter().flatten();
        env.any(|variable| variable["valueFrom"][key_reference]["name"] == name)
            || env_from.any(|source| source[whole_reference]["name"] == name)
    })
}
