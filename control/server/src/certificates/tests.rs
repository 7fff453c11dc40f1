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
        Self::with_lifetime(Duration::from_hours(1)).await
    }

    async fn with_lifetime(lifetime: Duration) -> Self {
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
        let signer = Signer { door: Arc::clone(&door), authority, lifetime };
        let shutdown = CancellationToken::new();
        tokio::spawn(run(Arc::new(signer), shutdown.clone()));
        let setting = Self { door, shutdown, _directory: directory };
        let admin = Identity::admin();
        setting.create(&admin, catalogue::namespaces(), json!({"metadata": {"name": "kube-system"}})).await;
        let secret = |id: &str, annotations: Value| {
            let key = bootstrap::secret_key(id);
            json!({"metadata": {"name": key.name, "namespace": key.namespace, "annotations": annotations}})
        };
        let once = json!({bootstrap::SINGLE_USE_ANNOTATION: "true"});
        setting.create(&admin, catalogue::secrets(), secret("abcdef", once)).await;
        setting.create(&admin, catalogue::secrets(), secret("many00", json!({}))).await;
        setting
    }

    async fn create(&self, identity: &Identity, kind: &'static Kind, mut object: Value) {
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
        let target = Target::collection(kind, meta::namespace(&object));
        self.door.create(identity, &target, Body::Value(object), WriteOptions::default()).await.unwrap();
    }

    /// Keys of this kind in the store.
    fn listed(&self, group: &str, plural: &str) -> Vec<String> {
        let prefix = coracle_store::Key::prefix(group, plural, None);
        let page = self.door.store().list(&prefix, None, 0, None).unwrap();
        page.entries.into_iter().map(|entry| entry.key.0).collect()
    }

    /// Approves a request as a person does.
    async fn approve(&self, name: &str) {
        let kind = catalogue::certificate_signing_requests();
        let target = Target::object(kind, "", name).with_subresource("approval").unwrap();
        let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Person"}]}});
        let merge = coracle_objects::patch::PatchType::Merge;
        self.door.patch(&Identity::admin(), &target, &approved, merge, WriteOptions::default()).await.unwrap();
    }

    /// The revision from which on certificates of a node's name count, as its Node says.
    async fn said(&self, node: &str) -> u64 {
        let key = coracle_objects::ObjectKey::cluster(node);
        let node = self.door.client(Identity::admin()).get(catalogue::nodes(), &key).await.unwrap();
        meta::annotation(&node, nodes::CREDENTIALS_SINCE_ANNOTATION).map_or(0, |said| said.parse().unwrap())
    }

    /// What becomes of a request for `node`: the revision in the certificate's serial, or the reason of the refusal.
    async fn ask(&self, identity: &Identity, name: &str, node: &str) -> Result<u64, String> {
        self.request(identity, name, node).await;
        self.outcome(name, node).await
    }

    async fn request(&self, identity: &Identity, name: &str, node: &str) {
        let mut object = object(&nodes::user(node), nodes::GROUP, &[], &["client auth"]);
        object["metadata"] = json!({"name": name});
        self.create(identity, catalogue::certificate_signing_requests(), object).await;
    }

    async fn outcome(&self, name: &str, node: &str) -> Result<u64, String> {
        let kind = catalogue::certificate_signing_requests();
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
    assert_eq!(
        setting.ask(&bootstrapper("abcdef"), "f", "one").await,
        Err("TokenUsed".to_owned()),
        "what was used before stays used"
    );
    let anew = setting.ask(&bootstrapper("many00"), "g", "one").await.unwrap();
    assert!(anew >= since);
    setting.shutdown.cancel();
}

#[tokio::test]
async fn a_machine_that_never_registered_is_out_when_another_is_let_in() {
    let setting = Setting::new().await;
    let client = setting.door.client(Identity::admin());
    let first = setting.ask(&bootstrapper("many00"), "a", "one").await.unwrap();
    assert_eq!(revocation::since(setting.door.store(), "one").unwrap(), first, "nothing that was there before counts");
    let kind = catalogue::certificate_signing_requests();
    let key = coracle_objects::ObjectKey::cluster("a");
    client.write(Write::Delete(kind, key, DeleteOptions::default())).await.unwrap();
    let second = setting.ask(&bootstrapper("many00"), "b", "one").await.unwrap();
    let since = revocation::since(setting.door.store(), "one").unwrap();
    assert!(first < since && since <= second, "{first} {since} {second}");
    // It renews as before: that is nobody new.
    setting.create(&Identity::node("one"), catalogue::nodes(), json!({"metadata": {"name": "one"}})).await;
    assert!(setting.ask(&Identity::node("one"), "c", "one").await.unwrap() > second);
    assert_eq!(revocation::since(setting.door.store(), "one").unwrap(), since);
    setting.shutdown.cancel();
}

#[tokio::test]
async fn whom_a_person_lets_in_as_a_node_that_is_there_takes_its_place_everywhere_and_renewal_cuts_nobody() {
    let setting = Setting::new().await;
    let first = setting.ask(&bootstrapper("many00"), "a", "one").await.unwrap();
    setting.create(&Identity::node("one"), catalogue::nodes(), json!({"metadata": {"name": "one"}})).await;
    assert_eq!(setting.said("one").await, first);
    let renewed = setting.ask(&Identity::node("one"), "b", "one").await.unwrap();
    assert!(first <= setting.said("one").await && setting.said("one").await <= renewed, "its first one counts still");
    assert_eq!(setting.said("one").await, first);

    setting.request(&Identity::admin(), "c", "one").await;
    setting.approve("c").await;
    let second = setting.outcome("c", "one").await.unwrap();
    assert!(renewed < second);
    let since = revocation::since(setting.door.store(), "one").unwrap();
    assert_eq!((since, setting.said("one").await), (second, second), "for servers and for other nodes");
    assert!(setting.ask(&Identity::node("one"), "d", "one").await.unwrap() > second);
    assert_eq!(setting.said("one").await, second);
    setting.shutdown.cancel();
}

#[tokio::test]
async fn records_of_certificates_that_have_expired_go_and_nobody_comes_back_by_that() {
    let setting = Setting::with_lifetime(Duration::from_secs(1)).await;
    // Before its beginning certificates that last for a year might have been issued.
    eventually("the beginning", async || !setting.listed("coracle.dev", "noderevocationfloors").is_empty()).await;
    let first = setting.ask(&bootstrapper("many00"), "a", "one").await.unwrap();
    setting.create(&Identity::node("one"), catalogue::nodes(), json!({"metadata": {"name": "one"}})).await;
    let target = Target::object(catalogue::nodes(), "", "one");
    let deleted = coracle_api::door::DeleteOptions::default();
    setting.door.delete(&Identity::admin(), &target, &deleted).await.unwrap();
    let since = revocation::since(setting.door.store(), "one").unwrap();
    assert!(since > first);
    eventually("no record", async || setting.listed("coracle.dev", "noderevocations").is_empty()).await;
    assert!(revocation::since(setting.door.store(), "one").unwrap() >= since, "what was deleted counts again");
    let anew = setting.ask(&bootstrapper("many00"), "b", "one").await.unwrap();
    assert!(anew >= since);
    setting.shutdown.cancel();
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let reached = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn of_two_machines_that_ask_at_once_one_gets_the_name() {
    let setting = Setting::new().await;
    let machine = bootstrapper("many00");
    for round in 0..8 {
        let (a, b, node) = (format!("a{round}"), format!("b{round}"), format!("node-{round}"));
        let (one, two) = tokio::join!(setting.ask(&machine, &a, &node), setting.ask(&machine, &b, &node));
        let mut refused = [one, two].into_iter().filter_map(Result::err);
        assert_eq!((refused.next().as_deref(), refused.next()), (Some("NameTaken"), None));
    }
    setting.shutdown.cancel();
}

#[tokio::test]
async fn of_one_nodes_requests_the_latest_are_kept() {
    let setting = Setting::new().await;
    let node = Identity::node("one");
    let names: Vec<String> = (0..DONE_OF_NODE + 3).map(|number| format!("r{number:02}")).collect();
    for name in &names {
        setting.ask(&node, name, "one").await.unwrap();
    }
    let client = setting.door.client(Identity::admin());
    let kept = async {
        loop {
            let listed = client.list(catalogue::certificate_signing_requests(), &Query::default()).await.unwrap();
            let found: Vec<String> = listed.items.iter().map(|one| meta::name(one).to_owned()).collect();
            if found.len() <= DONE_OF_NODE {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let kept = tokio::time::timeout(WAIT_MAX, kept).await.expect("fewer");
    assert_eq!(kept, names[3..]);
    setting.shutdown.cancel();
}

#[test]
fn nothing_is_remembered_of_requests_that_are_gone() {
    let mut memory = Memory::default();
    let request = object("system:node:one", nodes::GROUP, &[], &["client auth"]);
    memory.asked_at.insert("u".to_owned(), 5);
    memory.given.insert("u".to_owned());
    assert_eq!(memory.subject(&request).unwrap().node, "one");
    memory.forget(&HashMap::from([("u", &request)]));
    assert_eq!((memory.asked_at.len(), memory.given.len(), memory.subjects.len()), (1, 1, 1));
    let approved = json!({"status": {"conditions": [{"type": "Approved"}]}});
    memory.forget(&HashMap::from([("u", &approved)]));
    assert_eq!((memory.asked_at.len(), memory.given.len(), memory.subjects.len()), (1, 0, 1));
    memory.forget(&HashMap::new());
    assert!(memory.asked_at.is_empty() && memory.subjects.is_empty());
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
    let approved = |time: &str| json!([{"type": "Approved", "lastUpdateTime": time}]);
    assert!(!old(approved("1970-01-01T01:30:00Z"), now), "an hour since the decision");
    assert!(old(approved("1970-01-01T00:30:00Z"), now) && old(approved("2970-01-01T00:00:00Z"), now));
}
