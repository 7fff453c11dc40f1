//! What a machine sends to get the certificate of a node, and what comes back. Values only; sending is others' business.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_objects::{ObjectKey, bootstrap, nodes};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A key, and the request for a certificate for it.
pub(crate) struct SigningRequest {
    name: String,
    request_pem: String,
    key_pem: String,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nobody has decided yet, or it is not signed yet.
    Waiting,
    /// PEM of the certificate.
    Granted(String),
    /// It was denied, or failed, for this reason.
    Refused(String),
}

impl SigningRequest {
    /// For `node`, with the key in this PEM.
    pub(crate) fn new(node: &str, key_pem: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(key_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, nodes::GROUP);
        params.distinguished_name.push(DnType::CommonName, nodes::user(node));
        let request_pem = params.serialize_request(&key)?.pem()?;
        // The same key asks by the same name again, so that asking twice is asking once.
        let digest = Sha256::new().chain_update(key.public_key_raw()).chain_update(node).finalize();
        let name = format!("node-csr-{}", hex::encode(&digest[..16]));
        Ok(Self { name, request_pem, key_pem: key_pem.to_owned() })
    }

    /// With a new key.
    pub(crate) fn with_new_key(node: &str) -> Result<Self, rcgen::Error> {
        Self::new(node, &KeyPair::generate()?.serialize_pem())
    }

    /// PEM of the key.
    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Which object it is.
    pub(crate) fn object_key(&self) -> ObjectKey {
        ObjectKey { namespace: String::new(), name: self.name.clone() }
    }

    /// The object.
    pub(crate) fn object(&self) -> Value {
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": self.name},
            "spec": {
                "request": STANDARD.encode(&self.request_pem), "signerName": bootstrap::NODE_SIGNER,
                "usages": ["digital signature", "client auth"],
            },
        })
    }
}

/// What `object`, the request as the server has it, says.
pub(crate) fn answer(object: &Value) -> Answer {
    let status = &object["status"];
    let refused = |condition: &&Value| condition["type"] == "Denied" || condition["type"] == "Failed";
    if let Some(condition) = status["conditions"].as_array().into_iter().flatten().find(refused) {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        return Answer::Refused(format!("{} ({})", text("message"), text("reason")));
    }
    let certificate = status["certificate"].as_str().and_then(|text| STANDARD.decode(text).ok());
    match certificate.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|pem| !pem.is_empty()) {
        Some(pem) => Answer::Granted(pem),
        None => Answer::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_asks_by_the_same_name() {
        let first = SigningRequest::with_new_key("one").unwrap();
        let again = SigningRequest::new("one", first.key_pem()).unwrap();
        assert_eq!(first.object_key(), again.object_key());
        assert_ne!(first.object_key(), SigningRequest::new("two", first.key_pem()).unwrap().object_key());
        assert_ne!(first.object_key(), SigningRequest::with_new_key("one").unwrap().object_key());
    }

    #[test]
    fn answers_are_told_apart() {
        let denied = json!({"type": "Denied", "reason": "NameTaken", "message": "there is one"});
        let cases = [
            (json!({}), Answer::Waiting),
            (json!({"conditions": [{"type": "Approved"}]}), Answer::Waiting),
            (json!({"certificate": STANDARD.encode("PEM")}), Answer::Granted("PEM".to_owned())),
            (json!({"certificate": "?"}), Answer::Waiting),
            (json!({"conditions": [denied]}), Answer::Refused("there is one (NameTaken)".to_owned())),
        ];
        for (status, expected) in cases {
            assert_eq!(answer(&json!({"status": status})), expected, "{status}");
        }
    }
}
