//! The whole way of a request through a door over a store in memory.

use super::{request::tests::object, *};
use coracle_api::DoorConfig;
use coracle_objects::{Kind, nodes};
use coracle_store::testing::LocalProposer;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::{net::Ipv4Addr, path::PathBuf};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A test that waits longer has failed.
const WAIT_MAX: Duration = Duration::from_secs(30);

struct Setting {
    door: Arc<Door>,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Setting {
    async fn new() -> Self {
        let proposer = Arc::new(LocalProposer::new().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let door = Door::new(DoorConfig {
            store: proposer.store().clone(),
            proposer: proposer.clone(),
            service_range: (Ipv4Addr::new(10, 96, 0, 0), 16),
            range_rest: Duration::ZERO,
            blob_dir: PathBuf::from("/nonexistent"),
            tolerations: coracle_api::TolerationDefaults::default(),
        });
        let authority = Arc::new(Authority::open_or_create(directory.path()).unwrap());
        let signer = Signer { door: Arc::clone(&door), authority, lifetime: Duration::from_hours(1) };
        let shutdown = CancellationToken::new();
        tokio::spawn(run(Arc::new(signer), shutdown.clone()));
        let setting = Self { door, shutdown, _directory: directory };
        let admin = Identity::admin();
        setting.create(&admin, catalogue::namespaces(), json!({"metadata": {"name": "kube-system"}})).await;
        let secret = |annotations: Value| {
            let key = bootstrap::secret_key("abcdef");
            json!({"metadata": {"name": key.name, "namespace": key.namespace, "annotations": annotations}})
        };
        setting.create(&admin, catalogue::secrets(), secret(json!({bootstrap::SINGLE_USE_ANNOTATION: "true"}))).await;
        setting
    }

    async fn create(&self, identity: &Identity, kind: &'static Kind, mut object: Value) {
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
        let target = Target::collection(kind, meta::namespace(&object));
        self.door.create(identity, &target, Body::Value(object), WriteOptions::default()).await.unwrap();
    }

    /// What becomes of a request for `node`: the revision in the certificate's serial, or the reason of the refusal.
    async fn ask(&self, identity: &Identity, name: &str, node: &str) -> Result<u64, String> {
        let mut object = object(&nodes::user(node), nodes::GROUP, &[], &["client auth"]);
        object["metadata"] = json!({"name": name});
        let kind = catalogue::certificate_signing_requests();
        self.create(identity, kind, object).await;
        let client = self.door.client(Identity::admin());
        let decided = async {
            loop {
                let object = client.get(kind, &coracle_objects::ObjectKey::cluster(name)).await.unwrap();
                if let Some(condition) = object["status"]["conditions"].as_array().and_then(|list| list.first())
                    && condition["type"] != "Approved"
                {
                    return Err(condition["reason"].as_str().unwrap_or_default().to_owned());
                }
                if !certificate(&object).is_empty() {
                    let pem = STANDARD.decode(certificate(&object)).unwrap();
                    let der = CertificateDer::from_pem_slice(&pem).unwrap();
                    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
                    let names: Vec<&str> =
                        parsed.subject().iter_common_name().map(|name| name.as_str().unwrap()).collect();
                    assert_eq!(names, [nodes::user(node)]);
                    return Ok(nodes::issued_at(parsed.raw_serial()));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT_MAX, decided).await.expect("a decision")
    }
}

fn bootstrapper(id: &str) -> Identity {
    Identity::new(format!("{}{id}", bootstrap::USER_PREFIX), &[bootstrap::GROUP, bootstrap::GROUP_APPROVED])
}

#[tokio::test]
async fn a_name_is_given_once_until_its_node_is_deleted() {
    let setting = Setting::new().await;
    let node = Identity::node("one");
    let first = setting.ask(&bootstrapper("abcdef"), "a", "one").await.unwrap();
    assert!(first > 0);
    assert_eq!(
        setting.ask(&bootstrapper("abcdef"), "b", "one").await,
        Err("NameTaken".to_owned()),
        "not registered yet"
    );
    setting.create(&node, catalogue::nodes(), json!({"metadata": {"name": "one"}})).await;
    assert_eq!(setting.ask(&bootstrapper("abcdef"), "c", "one").await, Err("NameTaken".to_owned()));
    let renewed = setting.ask(&node, "d", "one").await.unwrap();
    assert!(renewed > first);
    assert_eq!(setting.ask(&node, "e", "two").await, Err("NotItsOwn".to_owned()));

    let target = Target::object(catalogue::nodes(), "", "one");
    let deleted = coracle_api::door::DeleteOptions::default();
    setting.door.delete(&Identity::admin(), &target, &deleted).await.unwrap();
    let since = revocation::since(setting.door.store(), "one").unwrap();
    assert!(since > renewed, "nothing that was issued so far counts");
    let anew = setting.ask(&bootstrapper("abcdef"), "f", "one").await.unwrap();
    assert!(anew >= since);
    setting.shutdown.cancel();
}

#[tokio::test]
async fn a_token_for_one_node_is_used_up_by_it() {
    let setting = Setting::new().await;
    setting.ask(&bootstrapper("abcdef"), "a", "one").await.unwrap();
    assert_eq!(setting.ask(&bootstrapper("abcdef"), "b", "two").await, Err("TokenUsed".to_owned()));
    assert_eq!(setting.ask(&bootstrapper("gone00"), "c", "three").await, Err("TokenUsed".to_owned()));
    setting.shutdown.cancel();
}

#[test]
fn what_is_done_with_goes_before_what_waits() {
    let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(2);
    let old = |conditions: Value, now| {
        let metadata = json!({"creationTimestamp": "1970-01-01T00:00:00Z"});
        is_old(&json!({"metadata": metadata, "status": {"conditions": conditions}}), now)
    };
    assert!(old(json!([{"type": "Denied"}]), now) && old(json!([{"type": "Approved"}]), now));
    assert!(!old(json!([]), now) && old(json!([]), now + time::Duration::hours(23)));
}
