//! The `PodScheduled` condition of a pod that fits nowhere.

use coracle_client::clock;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The pod with its condition saying `message`; `None` when it says so already.
#[must_use]
pub(super) fn unschedulable(pod: &Value, message: &str, now: OffsetDateTime) -> Option<Value> {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let place = conditions.iter().position(|condition| condition["type"] == "PodScheduled");
    let old = place.map(|place| &conditions[place]);
    let is_false = old.is_some_and(|condition| condition["status"] == "False");
    if is_false && old.is_some_and(|old| old["reason"] == "Unschedulable" && old["message"] == message) {
        return None;
    }
    let since = old.filter(|_| is_false).and_then(|condition| condition["lastTransitionTime"].as_str());
    let since = since.map_or_else(|| clock::seconds_text(now), str::to_owned);
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": since,
    });
    let mut conditions = conditions.to_vec();
    match place {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
    let mut explained = pod.clone();
    if !explained["status"].is_object() {
        explained["status"] = json!({});
    }
    explained["status"]["conditions"] = conditions.into();
    Some(explained)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn the_condition_is_written_only_when_it_changes() {
        let early = datetime!(2026-01-01 00:00:00 UTC);
        let late = datetime!(2026-01-01 00:01:00 UTC);
        let pod = json!({"status": {"phase": "Pending", "conditions": [{"type": "Other", "status": "True"}]}});
        let first = unschedulable(&pod, "too big", early).unwrap();
        assert_eq!(first["status"]["conditions"][0]["type"], "Other");
        assert_eq!(unschedulable(&first, "too big", late), None);
        let second = unschedulable(&first, "too small", late).unwrap();
        let condition = &second["status"]["conditions"][1];
        assert_eq!((&condition["message"], &condition["reason"]), (&json!("too small"), &json!("Unschedulable")));
        assert_eq!(condition["lastTransitionTime"], "2026-01-01T00:00:00Z", "it was False before");
        assert!(unschedulable(&json!({}), "none", early).is_some());
    }
}
