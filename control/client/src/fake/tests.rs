//! The fake behaves as the door does where controllers look.

use super::*;
use crate::{DeleteOptions, Part};
use coracle_objects::{catalogue, meta};
use serde_json::json;

fn fake() -> Fake {
    Fake::new(&ManualClock::new())
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "labels": {"app": name}}, "spec": {}})
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced("a", name)
}

fn delete(name: &str, grace: Option<i64>) -> Write {
    let options = DeleteOptions { grace_period_seconds: grace, ..DeleteOptions::default() };
    Write::Delete(catalogue::pods(), key(name), options)
}

#[tokio::test]
async fn writes_answer_with_what_is_stored_and_check_preconditions() {
    let (fake, pods) = (fake(), catalogue::pods());
    let created = fake.write(Write::Create(pods, pod("web"))).await.unwrap();
    assert_eq!((meta::resource_version(&created), meta::uid(&created).is_empty()), ("1", false));
    let again = fake.write(Write::Create(pods, pod("web"))).await.unwrap_err();
    assert_eq!(again.reason, Reason::AlreadyExists);

    let mut changed = Value::clone(&created);
    changed["spec"]["x"] = 1.into();
    changed["status"] = json!({"phase": "Running"});
    let updated = fake.write(Write::Update(pods, Part::Object, changed.clone())).await.unwrap();
    assert_eq!((&updated["spec"]["x"], &updated["status"]), (&json!(1), &Value::Null), "the status is another part");
    let stale = fake.write(Write::Update(pods, Part::Status, changed.clone())).await.unwrap_err();
    assert_eq!(stale.reason, Reason::Conflict);
    changed["metadata"]["resourceVersion"] = updated["metadata"]["resourceVersion"].clone();
    let status = fake.write(Write::Update(pods, Part::Status, changed)).await.unwrap();
    assert_eq!(status["status"]["phase"], "Running");
    let same = fake.write(Write::Update(pods, Part::Status, Value::clone(&status))).await.unwrap();
    assert_eq!(meta::resource_version(&same), meta::resource_version(&status), "no change, no revision");
    assert_eq!(fake.writes().len(), 6);
}

#[tokio::test]
async fn bound_pods_terminate_and_others_go_at_once() {
    let (fake, pods) = (fake(), catalogue::pods());
    for name in ["bound", "free"] {
        fake.put(pods, pod(name));
    }
    let bind = |uid: &str| Write::Bind { pod: key("bound"), uid: uid.to_owned(), node: "n".to_owned() };
    assert_eq!(fake.write(bind("other")).await.unwrap_err().reason, Reason::Conflict);
    let bound = fake.write(bind("uid-1")).await.unwrap();
    assert_eq!(bound["status"]["conditions"][0]["status"], "True");
    assert_eq!(fake.write(bind("uid-1")).await.unwrap_err().reason, Reason::Conflict);

    fake.write(delete("free", None)).await.unwrap();
    assert!(fake.peek(pods, &key("free")).is_none());
    assert!(meta::is_terminating(&fake.write(delete("bound", None)).await.unwrap()));
    fake.write(delete("bound", Some(0))).await.unwrap();
    assert!(fake.peek(pods, &key("bound")).is_none());
}

#[tokio::test]
async fn a_namespace_goes_when_its_last_finalizer_goes() {
    let (fake, namespaces) = (fake(), catalogue::namespaces());
    fake.put(namespaces, json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    let gone = Write::Delete(namespaces, ObjectKey::cluster("a"), DeleteOptions::default());
    let mut namespace = Value::clone(&fake.write(gone).await.unwrap());
    assert_eq!(namespace["status"]["phase"], "Terminating");
    let refused = fake.write(Write::Create(catalogue::pods(), pod("late"))).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Forbidden);
    namespace["spec"]["finalizers"] = json!([]);
    fake.write(Write::Update(namespaces, Part::Finalize, namespace)).await.unwrap();
    assert!(fake.peek(namespaces, &ObjectKey::cluster("a")).is_none());
}

#[tokio::test]
async fn a_watch_yields_who_enters_and_who_leaves_its_selection() {
    let (fake, pods) = (fake(), catalogue::pods());
    let query = Query { label_selector: "app=web".to_owned(), ..Query::default() };
    let mut watch = fake.watch(pods, &query, "0").await.unwrap();
    fake.put(pods, pod("other"));
    fake.put(pods, pod("web"));
    let mut left = pod("web");
    left["metadata"]["labels"]["app"] = "former".into();
    fake.put(pods, left);
    assert!(matches!(watch.next().await, Some(Ok(Event::Applied(pod))) if meta::name(&pod) == "web"));
    assert!(matches!(watch.next().await, Some(Ok(Event::Deleted(pod))) if meta::resource_version(&pod) == "3"));
    fake.compact();
    assert!(watch.next().await.is_none(), "cut");
    let expired = fake.watch(pods, &query, "3").await.err().map(|error| error.reason);
    assert_eq!(expired, Some(Reason::Expired));
    let listing = fake.list(pods, &query).await.unwrap();
    assert!(listing.items.is_empty() && fake.watch(pods, &query, &listing.resource_version).await.is_ok());
}
