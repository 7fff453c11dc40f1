//! What may change of a pod.

use super::{lines, pod};
use crate::rules::pod::{prepare_update, validate_update};
use serde_json::{Value, json};

const SPEC: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\nchanged: ";

fn old() -> Value {
    pod(&json!({
        "metadata": {"uid": "u", "resourceVersion": "5"},
        "spec": {
            "initContainers": [{"name": "i", "image": "init:1"}],
            "containers": [{"name": "a", "image": "app:1"}, {"name": "b", "image": "app:1"}],
            "nodeName": "n", "tolerations": [{"key": "k", "operator": "Exists"}], "activeDeadlineSeconds": 10,
        },
    }))
}

#[test]
fn little_of_a_spec_may_change() {
    let containers = |a: &str, command: &Value| {
        let mut both = old()["spec"]["containers"].clone();
        both[0]["image"] = a.into();
        both[1]["command"] = command.clone();
        both
    };
    let cases: Vec<(Value, Vec<String>)> = vec![
        (json!({}), vec![]),
        (json!({"metadata": {"labels": {"a": "b"}}}), vec![]),
        (json!({"spec": {"containers": containers("app:2", &json!([]))}}), vec![]),
        (json!({"spec": {"activeDeadlineSeconds": 5}}), vec![]),
        (
            json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}, {"key": "l", "operator": "Exists"}]}}),
            vec![],
        ),
        (
            json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
            vec![
                "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add, remove or update the annotation of a mirror pod"
                    .to_owned(),
            ],
        ),
        (
            json!({"spec": {"activeDeadlineSeconds": 11}}),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"
                    .to_owned(),
            ],
        ),
        (
            json!({"spec": {"activeDeadlineSeconds": null}}),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"
                    .to_owned(),
            ],
        ),
        (
            json!({"spec": {"tolerations": []}}),
            vec![
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
                    .to_owned(),
            ],
        ),
        (
            json!({"spec": {"containers": [old()["spec"]["containers"][0]]}}),
            vec!["spec.containers: Forbidden: pod updates may not add or remove containers".to_owned()],
        ),
        (
            json!({"spec": {"initContainers": null}}),
            vec!["spec.initContainers: Forbidden: pod updates may not add or remove containers".to_owned()],
        ),
        (
            json!({"spec": {"containers": containers("app:2", &json!(["x"])), "dnsPolicy": "Default"}}),
            vec![format!("{SPEC}spec.containers[1].command, spec.dnsPolicy")],
        ),
        (json!({"spec": {"nodeName": "m"}}), vec![format!("{SPEC}spec.nodeName")]),
        (
            json!({"spec": {"terminationGracePeriodSeconds": 1}}),
            vec![format!("{SPEC}spec.terminationGracePeriodSeconds")],
        ),
        (json!({"metadata": {"uid": "v"}}), vec!["metadata.uid: Invalid value: \"v\": field is immutable".to_owned()]),
    ];
    for (patch, expected) in cases {
        let (old, mut new) = (old(), old());
        json_patch::merge(&mut new, &patch);
        assert_eq!(lines(&validate_update(&new, &old, "")), expected, "{patch}");
    }
}

#[test]
fn a_negative_grace_period_may_become_one() {
    let was = pod(&json!({"spec": {"terminationGracePeriodSeconds": -1}}));
    let is = pod(&json!({"spec": {"terminationGracePeriodSeconds": 1}}));
    assert_eq!(lines(&validate_update(&is, &was, "")), Vec::<String>::new());
}

#[test]
fn finalizers_are_not_added_to_what_is_going() {
    let mut was = old();
    was["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
    let mut is = was.clone();
    is["metadata"]["finalizers"] = json!(["example.com/x"]);
    assert_eq!(
        lines(&validate_update(&is, &was, "")),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers [\"example.com/x\"]"
        ]
    );
}

#[test]
fn each_path_writes_its_own_part() {
    let was = old();
    let wanted = json!({
        "metadata": {"name": "p", "namespace": "default", "resourceVersion": "4", "labels": {"a": "b"}},
        "spec": {"nodeName": "other"}, "status": {"phase": "Running"},
    });

    let mut is = wanted.clone();
    prepare_update(&mut is, &was, "status");
    assert_eq!(is["status"], json!({"phase": "Running", "qosClass": "BestEffort"}));
    assert_eq!(is["spec"], was["spec"]);
    assert_eq!(is["metadata"]["resourceVersion"], "4", "the writer's precondition");
    assert_eq!((&is["metadata"]["uid"], is["metadata"].get("labels")), (&json!("u"), None));

    let mut is = wanted.clone();
    prepare_update(&mut is, &was, "");
    assert_eq!((&is["status"], &is["spec"]), (&was["status"], &wanted["spec"]));
}

#[test]
fn what_has_ended_for_good_stays_ended() {
    let ended = |code: i64| json!([{"name": "a", "state": {"terminated": {"exitCode": code}}}]);
    let running = json!([{"name": "a", "state": {"running": {}}}]);
    let refusal = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state";
    let cases = [
        ("Never", ended(0), true),
        ("Never", ended(1), true),
        ("OnFailure", ended(0), true),
        ("OnFailure", ended(1), false),
        ("Always", ended(0), false),
    ];
    for (policy, was, refused) in cases {
        let mut old = pod(&json!({"spec": {"restartPolicy": policy}}));
        old["status"]["containerStatuses"] = was.clone();
        let mut new = old.clone();
        new["status"]["containerStatuses"] = running.clone();
        let expected: &[&str] = if refused { &[refusal] } else { &[] };
        assert_eq!(lines(&validate_update(&new, &old, "status")), expected, "{policy} {was}");
    }
    let (old, mut new) = (old(), old());
    new["status"]["qosClass"] = json!("Guaranteed");
    assert_eq!(
        lines(&validate_update(&new, &old, "status")),
        ["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"]
    );
}
