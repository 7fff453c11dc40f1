//! The credentials that a pod brings for registries: its `imagePullSecrets`. They stay in this process, in memory, for as
//! long as a pull needs them.

use crate::{
    context::{Context, not_told},
    events::Severity,
    pod::spec,
};
use coracle_objects::{ApiError, ObjectKey, meta, registry_auth::Keyring};
use serde_json::Value;
use std::collections::BTreeSet;
use tracing::debug;

/// Most secrets of one pod that are read.
const SECRETS_MAX: usize = 64;

/// Reads the pod's pull secrets. One that cannot be read or understood is told in an event, and the pull is tried
/// without it, as kubelet does.
pub(crate) fn keyring(context: &Context, pod: &Value) -> Keyring {
    let mut keyring = Keyring::default();
    let mut missing = Vec::new();
    for name in names(pod) {
        let key = ObjectKey::namespaced(meta::namespace(pod), name);
        let secrets = &context.caches.secrets;
        let read = match secrets.get(&key) {
            Some(secret) => Keyring::from_secret(&secret),
            None if secrets.is_known() => Err(ApiError::not_found("", "secrets", name).to_string()),
            None => Err(not_told("secrets").to_string()),
        };
        match read {
            Ok(found) => keyring.extend(found),
            Err(why) => {
                debug!(pod = meta::name(pod), secret = name, why, "a pull secret is of no use");
                missing.push(format!("{name} ({why})"));
            }
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets: {}; attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        context.recorder.record(pod, "", Severity::Warning, "FailedToRetrieveImagePullSecret", &message);
    }
    keyring
}

fn names(pod: &Value) -> BTreeSet<&str> {
    let named = spec::items(&pod["spec"], "imagePullSecrets").iter().filter_map(|one| one["name"].as_str());
    named.filter(|name| !name.is_empty()).take(SECRETS_MAX).collect()
}
