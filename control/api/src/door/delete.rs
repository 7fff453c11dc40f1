//! Deletion: at once, or gracefully, or when the last finalizer is gone.

use super::{
    Door, Target,
    change::check_uid,
    encode::Encoded,
    gate::Asked,
    read::ListOptions,
    stamp,
    target::{Body, DeleteOptions, Removed, WriteOptions, Written},
};
use crate::{admission, identity::Identity};
use bytes::Bytes;
use coracle_objects::{ApiError, kind::Verb, meta};
use coracle_store::{Command, Entry, Expect, Op, Outcome};
use serde_json::Value;

/// How often a deletion looks again after somebody else wrote.
const ATTEMPTS: usize = 16;
/// Grace of a pod that names none, as Kubernetes defaults it.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Objects that one deletion of a collection takes at once.
pub(super) const COLLECTION_PAGE: usize = 500;

/// What is to be done with an object that somebody wants gone.
enum Plan {
    /// Nothing keeps it.
    Remove,
    /// It stays for now, changed so.
    Keep(Box<Value>),
    /// It is being deleted already; nothing changes.
    Unchanged,
}

impl Door {
    /// Deletes an object, or marks it so that it goes once its grace is over and its finalizers are gone.
    ///
    /// # Errors
    /// 403, 404, 409 when a precondition does not hold, 503 without a leader.
    pub async fn delete(
        &self,
        identity: &Identity,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Removed, ApiError> {
        target.require(Verb::Delete)?;
        self.delete_as(identity, "delete", target, options).await
    }

    /// Deletes everything in `target` that is selected; answers what was there, in order.
    ///
    /// # Errors
    /// As [`Self::delete`]; what was deleted before the failure stays deleted.
    pub async fn delete_collection(
        &self,
        identity: &Identity,
        target: &Target,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Bytes>, ApiError> {
        target.require(Verb::DeleteCollection)?;
        let field_selector = list.selection.field_text();
        self.authorize(identity, "deletecollection", target, Asked { field_selector, ..Asked::default() })?;
        let mut answers = Vec::new();
        let mut page = ListOptions { limit: COLLECTION_PAGE, ..list.clone() };
        loop {
            let listed = self.list_unchecked(target, &page).await?;
            for entry in listed.entries {
                let (namespace, name) = place_of(&entry);
                let one = Target::object(target.kind, namespace, name);
                match self.delete_as(identity, "deletecollection", &one, options).await {
                    Ok(removed) => answers.push(removed.bytes),
                    Err(error) if error.reason == coracle_objects::Reason::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if listed.continue_token.is_empty() {
                return Ok(answers);
            }
            page.continue_token = listed.continue_token;
        }
    }

    /// Asks a pod to go, for somebody who empties its node. `target` is the pod with subresource `eviction`.
    ///
    /// # Errors
    /// As [`Self::delete`]; 400 and 422 for a body that is no eviction of this pod.
    pub async fn evict(
        &self,
        identity: &Identity,
        target: &Target,
        body: Body,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        target.require(Verb::Create)?;
        let options = admission::eviction::options(target, body, options)?;
        let removed = self.delete_as(identity, "create", target, &options).await?;
        Ok(Written { bytes: removed.bytes, warnings: Vec::new(), changed: true })
    }

    async fn delete_as(
        &self,
        identity: &Identity,
        verb: &str,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Removed, ApiError> {
        for _ in 0..ATTEMPTS {
            let (entry, old) = self.load_for(identity, verb, target).await?;
            check_preconditions(target, options, &entry, &old)?;
            admission::namespace::admit_delete(target)?;
            if options.orphans && !options.dry_run {
                self.disown_dependents(identity, target, &old).await?;
            }
            let expect = Expect::Revision(entry.revision);
            let revoke = admission::certificate::revoke(self, target)?;
            let (command, changed) = match plan(target, &old, options, stamp::now_seconds()) {
                Plan::Unchanged => return Ok(Removed { bytes: entry.value, gone: false }),
                Plan::Remove => {
                    let ops = std::iter::once(Op::Delete { key: target.key(), expect }).chain(revoke).collect();
                    (Command { ops, uniques: admission::release(target, &old), ..Command::default() }, None)
                }
                Plan::Keep(mut marked) => {
                    if target.subresource == "eviction" {
                        admission::eviction::mark(&mut marked, stamp::now_seconds());
                    }
                    let encoded = Encoded::new(&mut marked)?;
                    let ops = std::iter::once(encoded.put(target.key(), expect)).chain(revoke).collect();
                    (Command { ops, ..Command::default() }, Some(encoded))
                }
            };
            let revision = if options.dry_run {
                entry.revision
            } else if let Outcome::Applied(revision) = self.propose(command).await? {
                revision
            } else {
                continue;
            };
            let gone = changed.is_none();
            let bytes = changed.map_or(entry.value, |encoded| encoded.at(revision));
            return Ok(Removed { bytes, gone });
        }
        Err(target.modified())
    }
}

/// Namespace and name of a stored object, from its key.
fn place_of(entry: &Entry) -> (String, String) {
    let mut parts = entry.key.0.splitn(4, '/').skip(2).map(str::to_owned);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn check_preconditions(target: &Target, options: &DeleteOptions, entry: &Entry, old: &Value) -> Result<(), ApiError> {
    check_uid(target, options.uid.as_deref().unwrap_or_default(), old)?;
    let actual = entry.revision.0.to_string();
    match options.resource_version.as_deref() {
        Some(wanted) if !wanted.is_empty() && wanted != actual => {
            let detail = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {actual}"
            );
            Err(target.kind.conflict(&target.name, &detail))
        }
        _ => Ok(()),
    }
}

fn plan(target: &Target, old: &Value, options: &DeleteOptions, now_seconds: i64) -> Plan {
    if admission::namespace::is_namespace(target) {
        return plan_namespace(old, now_seconds);
    }
    let grace = if target.kind == coracle_objects::catalogue::pods() { pod_grace(old, options) } else { 0 };
    if grace == 0 && !stamp::has_finalizers(old) {
        return Plan::Remove;
    }
    let mut marked = old.clone();
    let since = if meta::is_terminating(old) {
        let before = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if grace >= before {
            return Plan::Unchanged;
        }
        // A shorter grace counts from when deletion was first asked for.
        let until = old["metadata"]["deletionTimestamp"].as_str().and_then(stamp::parse_timestamp);
        until.map_or(now_seconds, |until| until - before)
    } else {
        now_seconds
    };
    mark(&mut marked, since.saturating_add(grace), grace);
    Plan::Keep(Box::new(marked))
}

fn plan_namespace(old: &Value, now_seconds: i64) -> Plan {
    let kept = stamp::has_finalizers(old) || admission::namespace::has_finalizers(old);
    if !kept {
        return Plan::Remove;
    }
    if meta::is_terminating(old) {
        return Plan::Unchanged;
    }
    let mut marked = old.clone();
    mark(&mut marked, now_seconds, 0);
    stamp::metadata(&mut marked).shift_remove("deletionGracePeriodSeconds");
    marked["status"]["phase"] = Value::from("Terminating");
    Plan::Keep(Box::new(marked))
}

fn mark(object: &mut Value, at_seconds: i64, grace: i64) {
    stamp::bump_generation(object);
    let metadata = stamp::metadata(object);
    metadata.insert("deletionTimestamp".to_owned(), Value::from(stamp::timestamp(at_seconds)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(grace));
}

/// How long a pod is given. Nobody would stop the containers of a pod that is on no node, and one that has ended has
/// none left.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    let is_bound = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !is_bound || has_ended {
        return 0;
    }
    let own = || pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_GRACE_SECONDS);
    let grace = options.grace_period_seconds.unwrap_or_else(own);
    if grace < 0 { 1 } else { grace }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::catalogue;
    use serde_json::json;

    const NOW: i64 = 1_000;

    fn planned(target: &Target, old: &Value, grace: Option<i64>) -> String {
        let options = DeleteOptions { grace_period_seconds: grace, ..DeleteOptions::default() };
        match plan(target, old, &options, NOW) {
            Plan::Remove => "remove".to_owned(),
            Plan::Unchanged => "unchanged".to_owned(),
            Plan::Keep(marked) => {
                let metadata = &marked["metadata"];
                let at = metadata["deletionTimestamp"].as_str().and_then(stamp::parse_timestamp).unwrap();
                format!("keep until {at} grace {}", metadata["deletionGracePeriodSeconds"])
            }
        }
    }

    #[test]
    fn pods_go_gracefully() {
        let target = Target::object(catalogue::pods(), "a", "x");
        let bound = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let plain = json!({"metadata": {}, "spec": {"nodeName": "n"}});
        let unbound = json!({"metadata": {}, "spec": {"terminationGracePeriodSeconds": 20}});
        let ended = json!({"metadata": {}, "spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}});
        let held = json!({"metadata": {"finalizers": ["x"]}, "spec": {}});
        let ending = json!({
            "metadata": {"deletionTimestamp": stamp::timestamp(NOW + 10), "deletionGracePeriodSeconds": 20}, "spec": {"nodeName": "n"},
        });
        let cases = [
            (&bound, None, "keep until 1020 grace 20"),
            (&bound, Some(5), "keep until 1005 grace 5"),
            (&bound, Some(-1), "keep until 1001 grace 1"),
            (&bound, Some(0), "remove"),
            (&plain, None, "keep until 1030 grace 30"),
            (&unbound, None, "remove"),
            (&ended, None, "remove"),
            (&held, None, "keep until 1000 grace 0"),
            (&ending, None, "unchanged"),
            (&ending, Some(25), "unchanged"),
            (&ending, Some(5), "keep until 995 grace 5"),
            (&ending, Some(0), "remove"),
        ];
        for (pod, grace, expected) in cases {
            assert_eq!(planned(&target, pod, grace), expected, "{pod} {grace:?}");
        }
    }

    #[test]
    fn other_kinds_go_at_once_unless_finalizers_hold_them() {
        let target = Target::object(catalogue::config_maps(), "a", "x");
        assert_eq!(planned(&target, &json!({"metadata": {}}), Some(30)), "remove");
        let held = json!({"metadata": {"finalizers": ["x"]}});
        assert_eq!(planned(&target, &held, None), "keep until 1000 grace 0");
        let marked = json!({
            "metadata": {"finalizers": ["x"], "deletionTimestamp": stamp::timestamp(NOW), "deletionGracePeriodSeconds": 0},
        });
        assert_eq!(planned(&target, &marked, None), "unchanged");
    }

    #[test]
    fn namespaces_wait_for_their_finalizers() {
        let target = Target::object(catalogue::namespaces(), "", "x");
        let live = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Plan::Keep(marked) = plan(&target, &live, &DeleteOptions::default(), NOW) else { panic!("it stays") };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert!(meta::is_terminating(&marked));
        assert_eq!(planned(&target, &json!({"metadata": {}, "spec": {}}), None), "remove");
        assert!(matches!(plan(&target, &marked, &DeleteOptions::default(), NOW), Plan::Unchanged));
    }
}
