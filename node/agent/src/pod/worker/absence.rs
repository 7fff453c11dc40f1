//! A pod on a node that is cut off: it stays for as long as it tolerates a node that nothing is heard of, since after that
//! the control plane may have another one run in its place; and begins anew once the server says that it is still wanted.
//!
//! It must never run where the control plane has reason to think that it does not.

use super::{Done, Ending, Work, Worker};
use crate::{
    events::Severity,
    link::PODS,
    pod::spec::{self, RestartPolicy},
    static_pods::manifest::is_static_uid,
};
use coracle_objects::{
    ApiError, Reason, meta, nodes,
    taints::{self, Effect, Patience, Taint},
};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// The reason of a pod that ended because its node was cut off for too long.
const UNREACHABLE: &str = "NodeUnreachable";
/// How soon a server that did not say whether the pod is wanted is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long a pod stays on a node after the control plane has taken that for unreachable; `None`: for ever.
pub(crate) fn tolerated(pod: &Value) -> Option<Duration> {
    let unreachable = Taint { key: nodes::TAINT_UNREACHABLE.into(), value: "".into(), effect: Effect::NoExecute };
    match taints::patience(&unreachable, &taints::of_pod(&pod["spec"])) {
        Patience::None => Some(Duration::ZERO),
        Patience::For(duration) => Some(duration),
        Patience::Forever => None,
    }
}

impl Worker {
    /// Ends the pod's runs when it may run elsewhere by now, and asks whether it is wanted when the server is there again.
    /// Answers when to look again.
    pub(super) fn absence(&mut self, now: Instant) -> Option<Instant> {
        let over = self.state.is_finished() && !self.state.is_busy();
        if self.frozen || self.ending.is_some() || over || is_static_uid(meta::uid(&self.pod)) {
            return None;
        }
        let contact = &self.context.contact;
        let (silence, lease) = (contact.silence(), contact.lease());
        if self.state.away {
            return if silence <= lease { self.ask_whether_wanted(now) } else { None };
        }
        if contact.is_disowned() {
            self.leave("The node was deleted, or another machine is it now: the pod is not wanted here".to_owned());
            return None;
        }
        let most = lease.saturating_add(tolerated(&self.pod)?);
        if silence < most {
            // A time too far off to be told is never.
            return now.checked_add(most.saturating_sub(silence));
        }
        self.leave(format!(
            "The control plane has not been reached for {} s, which is longer than the pod tolerates: it may run elsewhere",
            silence.as_secs()
        ));
        None
    }

    /// The control plane may have given the pod's work to another one.
    fn leave(&mut self, message: String) {
        let grace = spec::grace(&self.pod);
        info!(pod = meta::name(&self.pod), message);
        self.context.recorder.record(&self.pod, "", Severity::Warning, UNREACHABLE, &message);
        if self.state.restart_policy == RestartPolicy::Never && self.state.is_busy() {
            self.state.failed = Some((UNREACHABLE.to_owned(), message));
            return self.end(Ending::Failed, grace);
        }
        self.state.leave();
        self.stop_all(grace);
    }

    fn ask_whether_wanted(&mut self, now: Instant) -> Option<Instant> {
        if self.works.values().any(|(work, _)| *work == Work::Ask) {
            return None;
        }
        if let Some(at) = self.ask_at.filter(|at| *at > now) {
            return Some(at);
        }
        let (link, key, uid) = (self.context.link.clone(), meta::key(&self.pod), meta::uid(&self.pod).to_owned());
        self.spawn(Work::Ask, async move {
            Done::Asked(link.get(PODS, &key).await.map(|pod| meta::uid(&pod) == uid && !meta::is_terminating(&pod)))
        });
        None
    }

    /// What the server said. Of a pod that is not wanted the listing or the watch says more.
    pub(super) fn asked(&mut self, answer: Result<bool, ApiError>) {
        let wanted = match answer {
            Ok(wanted) => wanted,
            Err(error) if error.reason == Reason::NotFound => false,
            Err(error) => {
                info!(pod = meta::name(&self.pod), %error, "it is not known whether the pod is still wanted");
                false
            }
        };
        if wanted {
            let message = "The control plane is there again, and the pod is still wanted";
            self.context.recorder.record(&self.pod, "", Severity::Normal, "NodeReachable", message);
            self.state.come_back();
        } else {
            self.ask_at = Some(self.context.pace.now() + ASK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_say_how_long_they_stay() {
        let unreachable = "node.kubernetes.io/unreachable";
        for (tolerations, expected) in [
            (json!(null), Some(0)),
            (json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]), Some(0)),
            (
                json!([{"key": unreachable, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]),
                Some(300),
            ),
            (json!([{"key": unreachable, "operator": "Exists", "tolerationSeconds": -5}]), Some(0)),
            (json!([{"key": unreachable, "operator": "Exists", "effect": "NoSchedule"}]), Some(0)),
            (json!([{"key": unreachable, "operator": "Exists", "effect": "NoExecute"}]), None),
            (json!([{"operator": "Exists"}]), None),
        ] {
            let pod = json!({"spec": {"tolerations": tolerations}});
            assert_eq!(tolerated(&pod), expected.map(Duration::from_secs), "{pod}");
        }
    }
}
