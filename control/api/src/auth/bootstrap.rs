//! Bootstrap tokens: what a machine shows that is no node yet. Their secrets are as [`coracle_objects::bootstrap`] says.
//!
//! Who shows one is `system:bootstrap:ID` and may do next to nothing. A secret that is wrong in any way lets nobody in.

use crate::identity::Identity;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_objects::{
    bootstrap::{GROUP, SECRET_TYPE, USER_PREFIX, parts, secret_key},
    catalogue, meta,
};
use coracle_store::{Key, Store};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// When a token's secret stops counting, in seconds since 1970; `None`: never. What cannot be read has stopped.
#[must_use]
pub fn expires(secret: &Value) -> Option<i64> {
    let text = field(secret, "expiration")?;
    Some(OffsetDateTime::parse(&text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp))
}

/// Who shows `token` at `now_seconds`, by the secrets in `store`.
pub(super) fn identify(store: &Store, token: &[u8], now_seconds: i64) -> Option<Identity> {
    let (id, shown) = parts(std::str::from_utf8(token).ok()?)?;
    let key = secret_key(id);
    let secrets = catalogue::secrets();
    let entry = store.get(&Key::object(secrets.group, secrets.plural, &key.namespace, &key.name));
    let entry = entry.inspect_err(|error| tracing::warn!(%error, "cannot read a bootstrap token")).ok()??;
    let secret: Value = serde_json::from_slice(&entry.value).ok()?;
    identity_of(&secret, id, shown, now_seconds)
}

fn identity_of(secret: &Value, id: &str, shown: &str, now_seconds: i64) -> Option<Identity> {
    let wanted = field(secret, "token-secret")?;
    // Hashes are compared, so that how long it takes tells nothing about the secret's characters.
    let is_same = Sha256::digest(&wanted) == Sha256::digest(shown);
    let counts = secret["type"] == SECRET_TYPE
        && !meta::is_terminating(secret)
        && field(secret, "token-id").as_deref() == Some(id)
        && field(secret, "usage-bootstrap-authentication").as_deref() == Some("true")
        && expires(secret).is_none_or(|expires| expires > now_seconds);
    if !is_same || !counts {
        return None;
    }
    let extra = field(secret, "auth-extra-groups").unwrap_or_default();
    // Nothing else is ever a bootstrapper's group: a token must not open what it is not for.
    let extra = extra.split(',').map(str::trim).filter(|group| group.starts_with(&format!("{GROUP}:")));
    let groups: Vec<&str> = std::iter::once(GROUP).chain(extra).collect();
    Some(Identity::new(format!("{USER_PREFIX}{id}"), &groups))
}

fn field(secret: &Value, name: &str) -> Option<String> {
    let text = secret["data"][name].as_str()?;
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_000_000;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "1970-01-12T13:46:41Z"),
            ("auth-extra-groups", "system:bootstrappers:auto, system:masters"),
        ];
        for (name, value) in usual.iter().chain(changes) {
            data[*name] = STANDARD.encode(value).into();
        }
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": SECRET_TYPE, "data": data})
    }

    fn let_in(secret: &Value, shown: &str, now: i64) -> bool {
        identity_of(secret, "abcdef", shown, now).is_some()
    }

    #[test]
    fn who_shows_the_secret_is_a_bootstrapper_and_nothing_more() {
        let identity = identity_of(&secret(&[]), "abcdef", "0123456789abcdef", NOW).unwrap();
        assert_eq!(identity.user, "system:bootstrap:abcdef");
        assert!(identity.is_in("system:bootstrappers") && identity.is_in("system:bootstrappers:auto"));
        assert!(!identity.is_in("system:masters"), "a token cannot be made for that");
    }

    #[test]
    fn what_is_wrong_expired_or_for_something_else_lets_nobody_in() {
        let good = "0123456789abcdef";
        assert!(!let_in(&secret(&[]), "0123456789abcdee", NOW));
        assert!(!let_in(&secret(&[]), good, NOW + 1), "expired");
        for change in [
            ("token-id", "abcdeg"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "soon"),
            ("token-secret", ""),
        ] {
            assert!(!let_in(&secret(&[change]), good, NOW), "{change:?}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(!let_in(&other, good, NOW));
        let mut forever = secret(&[]);
        forever["data"].as_object_mut().unwrap().shift_remove("expiration");
        assert!(let_in(&forever, good, i64::MAX));
        forever["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        assert!(!let_in(&forever, good, NOW));
    }
}
