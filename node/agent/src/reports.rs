//! Writes pods' statuses to the control plane: per pod only the newest, in order, until it is there; then the
//! deletion, if that was the last word. Nothing is lost while the server is away, and nothing piles up.

use crate::{
    link::{Link, PODS},
    pod::{spec, status::OWN_CONDITIONS},
    retry::Reconnect,
    static_pods::manifest::is_static_uid,
};
use coracle_objects::{ApiError, Reason, meta, static_pods::MIRROR_ANNOTATION};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Pods whose status is written at one time.
const PARALLEL_WRITES_MAX: usize = 16;

/// What a pod's owner wants to be known.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The pod as last seen.
    pub(crate) pod: Arc<Value>,
    pub(crate) status: Value,
    /// Everything has ended: delete the object after writing.
    pub(crate) then_delete: bool,
}

#[derive(Default)]
struct Pending {
    newest: HashMap<String, Report>,
    writing: HashSet<String>,
}

/// Takes reports from the pods' owners.
pub(crate) struct Reports {
    link: Arc<dyn Link>,
    pending: Mutex<Pending>,
    changed: Notify,
    work: Notify,
    /// A write has ended.
    written: Notify,
}

impl Reports {
    pub(crate) fn new(link: Arc<dyn Link>) -> Arc<Self> {
        Arc::new(Self {
            link,
            pending: Mutex::default(),
            changed: Notify::new(),
            work: Notify::new(),
            written: Notify::new(),
        })
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what is to be said of a pod.
    pub(crate) fn submit(&self, report: Report) {
        self.pending().newest.insert(meta::uid(&report.pod).to_owned(), report);
        self.changed.notify_one();
        self.work.notify_one();
    }

    /// Told whenever something about a pod is to be said, for one who waits.
    pub(crate) fn work(&self) -> &Notify {
        &self.work
    }

    /// Waits until all that was submitted has been said.
    pub(crate) async fn settled(&self) {
        loop {
            let written = self.written.notified();
            {
                let pending = self.pending();
                if pending.newest.is_empty() && pending.writing.is_empty() {
                    return;
                }
            }
            written.await;
        }
    }

    /// The pod is gone: nothing is said of it any more.
    pub(crate) fn forget(&self, uid: &str) {
        self.pending().newest.remove(uid);
    }

    /// The next pod with news that nobody writes at the moment.
    fn take(&self) -> Option<(String, Report)> {
        let mut pending = self.pending();
        let uid = pending.newest.keys().find(|uid| !pending.writing.contains(*uid))?.clone();
        let report = pending.newest.remove(&uid)?;
        pending.writing.insert(uid.clone());
        Some((uid, report))
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(PARALLEL_WRITES_MAX));
        let work = async {
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else { return };
                let (uid, report) = loop {
                    if let Some(next) = self.take() {
                        break next;
                    }
                    self.changed.notified().await;
                };
                let (this, stop) = (self.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = this.write(&uid, report) => {}
                        () = stop.cancelled() => {}
                    }
                    this.pending().writing.remove(&uid);
                    this.written.notify_waiters();
                    this.changed.notify_one();
                    drop(slot);
                });
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    async fn write(&self, uid: &str, mut report: Report) {
        let mut reconnect = Reconnect::new();
        loop {
            match self.try_write(uid, &report).await {
                Ok(()) => return,
                Err(error) => match error.reason {
                    Reason::NotFound => return debug!(uid, "the pod is gone, its status with it"),
                    _ if is_refusal(&error) => return warn!(uid, %error, "the server refuses a pod's status"),
                    reason => {
                        if reason != Reason::Conflict {
                            debug!(uid, %error, "cannot write a pod's status yet");
                        }
                        tokio::time::sleep(reconnect.delay()).await;
                    }
                },
            }
            if let Some(newer) = self.pending().newest.remove(uid) {
                report = newer;
            }
        }
    }

    async fn try_write(&self, uid: &str, report: &Report) -> Result<(), ApiError> {
        let key = meta::key(&report.pod);
        if is_static_uid(uid) {
            let mut mirror = self.link.get(PODS, &key).await?;
            // What shows another pod, or none yet, is not this one's.
            if meta::annotation(&mirror, MIRROR_ANNOTATION) == Some(uid) {
                mirror["status"] = merged(&report.status, &mirror["status"]);
                self.link.update(PODS, "status", &mirror).await?;
            }
            return Ok(());
        }
        let mut object = Value::clone(&report.pod);
        object["status"] = report.status.clone();
        match self.link.update(PODS, "status", &object).await {
            // What the server will not take must not keep a pod from going.
            Err(error) if report.then_delete && is_refusal(&error) => warn!(uid, %error, "a last status was refused"),
            Err(error) if error.reason == Reason::Conflict => {
                let mut fresh = self.link.get(PODS, &key).await?;
                if meta::uid(&fresh) != uid {
                    return Err(ApiError::not_found("", "pods", &key.name));
                }
                fresh["status"] = merged(&report.status, &fresh["status"]);
                self.link.update(PODS, "status", &fresh).await?;
            }
            other => drop(other?),
        }
        if report.then_delete {
            match self.link.delete(PODS, &key, 0, uid).await {
                // Gone, or another pod has its name by now.
                Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Whether trying again is of no use.
fn is_refusal(error: &ApiError) -> bool {
    matches!(error.reason, Reason::Invalid | Reason::BadRequest | Reason::Forbidden)
}

/// Conditions that others wrote since are kept.
fn merged(ours: &Value, theirs: &Value) -> Value {
    let mut merged = ours.clone();
    let kind = |condition: &Value| condition["type"].as_str().unwrap_or_default().to_owned();
    let of_others: Vec<&Value> =
        spec::items(theirs, "conditions").iter().filter(|one| !OWN_CONDITIONS.contains(&kind(one).as_str())).collect();
    if let Some(conditions) = merged["conditions"].as_array_mut() {
        // What others wrote since is newer than what we saw of it.
        conditions.retain(|ours| of_others.iter().all(|one| one["type"] != ours["type"]));
        conditions.extend(of_others.into_iter().cloned());
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeLink;
    use coracle_objects::ObjectKey;
    use serde_json::json;

    fn key() -> ObjectKey {
        ObjectKey::namespaced("default", "p")
    }

    fn report(pod: &Value, phase: &str, then_delete: bool) -> Report {
        Report { pod: Arc::new(pod.clone()), status: json!({"phase": phase, "conditions": []}), then_delete }
    }

    fn phase(link: &FakeLink) -> String {
        link.stored(PODS, &key()).map(|pod| pod["status"]["phase"].to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn the_newest_status_gets_there_through_conflicts_and_absence() {
        let link = FakeLink::new();
        let pod = link.put(PODS, json!({"metadata": {"namespace": "default", "name": "p", "uid": "u"}, "status": {}}));
        let reports = Reports::new(link.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(reports.clone().run(stop.clone()));
        reports.submit(report(&pod, "Pending", false));
        link.wait("pending", |link| phase(link) == "\"Pending\"").await;

        // The object that the owner knows is old by now, and somebody added a condition.
        let mut other = link.stored(PODS, &key()).unwrap();
        other["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
        link.put(PODS, other);
        link.set_down(true);
        reports.submit(report(&pod, "Running", false));
        link.wait("the writer finds it away", |link| link.refused() > 1).await;
        reports.submit(report(&pod, "Failed", false));
        link.set_down(false);
        link.wait("the newest", |link| phase(link) == "\"Failed\"").await;
        let stored = link.stored(PODS, &key()).unwrap();
        assert_eq!(stored["status"]["conditions"][0]["type"], "PodScheduled");

        // Another has changed its mind since the owner looked; the owner's own conditions are the owner's.
        let said = |gate: &str, ready: &str| json!([{"type": "Ready", "status": ready}, {"type": "example.com/gate", "status": gate}]);
        let mut other = link.stored(PODS, &key()).unwrap();
        other["status"]["conditions"] = said("True", "False");
        link.put(PODS, other);
        let status = json!({"phase": "Running", "conditions": said("False", "True")});
        reports.submit(Report { pod: Arc::new(pod.clone()), status, then_delete: false });
        link.wait("both conditions", |link| {
            link.stored(PODS, &key()).unwrap()["status"]["conditions"] == said("True", "True")
        })
        .await;

        reports.submit(report(&pod, "Succeeded", true));
        link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_pod_of_the_same_name_is_left_alone() {
        let link = FakeLink::new();
        let pod = link.put(PODS, json!({"metadata": {"namespace": "default", "name": "p", "uid": "old"}}));
        let successor =
            json!({"metadata": {"namespace": "default", "name": "p", "uid": "new"}, "status": {"phase": "Pending"}});
        link.put(PODS, successor);
        let reports = Reports::new(link.clone());
        reports.write("old", report(&pod, "Failed", true)).await;
        assert_eq!(phase(&link), "\"Pending\"");
    }
}
