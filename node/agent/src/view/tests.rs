//! A view against a control plane in memory.

use super::*;
use crate::{
    fake::{FakeLink, eventually},
    reflector::Cache,
};
use coracle_objects::{ObjectKey, meta};
use serde_json::json;

fn object(name: &str) -> Value {
    json!({"metadata": {"namespace": "default", "name": name, "uid": format!("u-{name}")}})
}

fn names(cache: &Cache) -> Vec<String> {
    cache.all().iter().map(|object| meta::name(object).to_owned()).collect()
}

struct Running {
    caches: Caches,
    pods: Cache,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(link: &Arc<FakeLink>, directory: Option<&Path>) -> Self {
        let (caches, pods, stop) = (Caches::new(), Cache::new(), CancellationToken::new());
        let view = View::open(link.clone(), caches.clone(), Box::new(pods.clone()), directory);
        let task = tokio::spawn(view.run(stop.clone()));
        Self { caches, pods, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn everybody_learns_through_breaks_and_lost_history() {
    let link = FakeLink::new();
    link.put(SERVICES, object("a"));
    link.put(PODS, object("p"));
    let running = Running::start(&link, None);
    let services = &running.caches.services;
    eventually("the first", || names(services) == ["a"] && names(&running.pods) == ["p"]).await;
    link.put(SERVICES, object("b"));
    eventually("the second", || names(services) == ["a", "b"]).await;
    link.break_watches();
    link.remove(SERVICES, &ObjectKey::namespaced("default", "a"));
    link.remove(PODS, &ObjectKey::namespaced("default", "p"));
    eventually("what went meanwhile", || names(services) == ["b"] && names(&running.pods).is_empty()).await;
    link.forget_history();
    link.put(SERVICES, object("c"));
    eventually("after history", || names(services) == ["b", "c"]).await;
    assert!(running.caches.secrets.is_known(), "there are none");
    running.stop().await;
}

#[tokio::test]
async fn a_start_without_any_server_knows_what_was_known() {
    let directory = tempfile::tempdir().unwrap();
    let link = FakeLink::new();
    link.put(SECRETS, object("s"));
    link.put(SERVICES, object("a"));
    link.put(PODS, object("p"));
    let running = Running::start(&link, Some(directory.path()));
    eventually("all", || names(&running.pods) == ["p"] && names(&running.caches.services) == ["a"]).await;
    link.put(SERVICES, object("b"));
    eventually("all", || names(&running.caches.services) == ["a", "b"]).await;
    running.stop().await;

    link.set_down(true);
    let running = Running::start(&link, Some(directory.path()));
    assert_eq!(
        (names(&running.caches.services), names(&running.caches.secrets)),
        (vec!["a".into(), "b".into()], vec!["s".into()])
    );
    assert!(!running.pods.is_known(), "which pods there are only servers say");
    link.remove(SERVICES, &ObjectKey::namespaced("default", "a"));
    link.put(PODS, object("q"));
    link.set_down(false);
    eventually("what changed", || names(&running.pods) == ["p", "q"] && names(&running.caches.services) == ["b"]).await;
    assert_eq!(link.wholes(), 1, "only what changed is told");
    running.stop().await;
}

#[tokio::test]
async fn who_reads_it_sees_what_is_another_one_now() {
    let (caches, pods) = (Caches::new(), Cache::new());
    let mut view = View::open(FakeLink::new(), caches.clone(), Box::new(pods), None);
    let update = |whole: bool, names: &[&str]| Update {
        whole,
        changes: names.iter().map(|name| Change::Applied(SERVICES, object(name))).collect(),
        revision: 1,
        ..Update::default()
    };
    let versions = || -> Vec<String> {
        caches.services.all().iter().map(|service| meta::resource_version(service).to_owned()).collect()
    };
    view.take(update(true, &["a", "b"])).await;
    let first = versions();
    assert!(first.iter().all(|version| !version.is_empty()), "{first:?}");
    view.take(update(false, &["a"])).await;
    let second = versions();
    assert!(second[0] != first[0] && second[1] == first[1], "{first:?} {second:?}");
}
