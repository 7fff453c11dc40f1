//! What selectors select, and what they refuse.

use super::{FieldSelector, LabelSelector};
use crate::{
    Kind,
    rules::{config_map, event, node, pod},
};
use serde_json::{Value, json};

#[test]
fn query_form_matches_as_kubernetes_does() {
    let labels = json!({"app": "web", "tier": "front", "empty": "", "n": "5"});
    let cases = [
        ("", true),
        ("  ", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web , tier = front", true),
        ("app=api", false),
        ("app!=api", true),
        ("gone!=x", true),
        ("app!=web", false),
        ("app in (web,api)", true),
        ("app in (api)", false),
        ("app notin (api)", true),
        ("app notin (web)", false),
        ("gone notin (a)", true),
        ("gone in (a)", false),
        ("app", true),
        ("gone", false),
        ("!gone", true),
        ("!app", false),
        ("empty=", true),
        ("empty in ()", true),
        ("empty in (,a)", true),
        ("app=", false),
        ("n>4", true),
        ("n>5", false),
        ("n<6", true),
        ("app<6", false),
        ("gone<6", false),
        ("in in (in)", false),
        ("app in (in, notin, web)", true),
        ("app=web,tier notin (back),!gone", true),
    ];
    for (text, expected) in cases {
        let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(selector.matches(&labels), expected, "{text:?}");
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        assert_eq!(again, selector, "{text:?} printed as {selector}");
    }
    assert!(!LabelSelector::parse("a").unwrap().matches(&Value::Null));
    assert!(LabelSelector::parse("!a").unwrap().matches(&Value::Null));
}

#[test]
fn query_form_says_what_is_wrong() {
    let cases = [
        ("a,", "unable to parse requirement: found '', expected: identifier after ','"),
        (",a", "unable to parse requirement: found ',', expected: identifier"),
        ("a=b=c", "unable to parse requirement: found '=', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b', expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=!b", "unable to parse requirement: found '!', expected: identifier"),
        ("!a=b", "unable to parse requirement: found '=', expected: ',' or 'end of string'"),
    ];
    for (text, expected) in cases {
        let error = LabelSelector::parse(text).unwrap_err();
        assert_eq!((error.code(), error.message.as_str()), (400, expected), "{text:?}");
    }
    let long = format!("a={}", "b".repeat(64));
    for (text, part) in [
        ("a>x", "the value must be an integer"),
        ("-a", "name part must consist of"),
        ("a=%", "a valid label must be"),
        (long.as_str(), "must be no more than 63 characters"),
    ] {
        let error = LabelSelector::parse(text).unwrap_err();
        assert!(error.message.contains(part), "{text:?}: {error}");
    }
}

#[test]
fn object_form_combines_labels_and_expressions() {
    let selector = LabelSelector::from_object(&json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["front", "mid"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }))
    .unwrap();
    assert_eq!(selector.to_string(), "app=web,!old,tier in (front,mid)");
    assert!(selector.matches(&json!({"app": "web", "tier": "mid"})));
    assert!(!selector.matches(&json!({"app": "web", "tier": "mid", "old": ""})));
    assert!(LabelSelector::from_object(&Value::Null).unwrap().is_empty());

    let wrong = [
        (
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
            "matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}),
            "matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator",
        ),
    ];
    for (selector, expected) in wrong {
        assert_eq!(LabelSelector::from_object(&selector).unwrap_err().message, expected);
    }
}

#[test]
fn map_form_wants_every_pair() {
    let selector = LabelSelector::from_map(&json!({"app": "web", "tier": "front"}));
    assert!(selector.matches(&json!({"app": "web", "tier": "front", "more": "x"})));
    assert!(!selector.matches(&json!({"app": "web"})));
    assert!(LabelSelector::from_map(&Value::Null).is_empty());
}

fn kind(name: &'static str, selectable: &'static [&'static str]) -> Kind {
    Kind {
        group: "",
        version: "v1",
        kind: name,
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: &[],
        subresources: &[],
        columns: &[],
        cells: |_, _| Vec::new(),
        selectable_fields: selectable,
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _, _| {},
        validate_create: |_| Vec::new(),
        validate_update: |_, _, _| Vec::new(),
    }
}

#[test]
fn field_selectors_compare_missing_as_empty() {
    let pod = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"restartPolicy": "Always"}});
    let event = json!({"involvedObject": {"kind": "Pod", "name": "a,b"}, "source": {"component": "kubelet"}});
    let node = json!({"metadata": {"name": "n"}, "spec": {}});
    let (pods, events, nodes) =
        (kind("Pod", pod::SELECTABLE), kind("Event", event::SELECTABLE), kind("Node", node::SELECTABLE));
    let cases = [
        (&pods, &pod, "", true),
        (&pods, &pod, "metadata.name=a", true),
        (&pods, &pod, "metadata.name==a,metadata.namespace!=c", true),
        (&pods, &pod, "metadata.name=b", false),
        (&pods, &pod, "spec.nodeName=", true),
        (&pods, &pod, "spec.nodeName!=", false),
        (&pods, &pod, "spec.nodeName=n", false),
        (&pods, &pod, "status.phase!=Running,spec.restartPolicy=Always", true),
        (&pods, &pod, "spec.hostNetwork=false", true),
        (&events, &event, "involvedObject.kind=Pod,source=kubelet", true),
        (&events, &event, "involvedObject.name=a\\,b", true),
        (&nodes, &node, "spec.unschedulable=false", true),
        (&nodes, &node, "spec.unschedulable=true", false),
    ];
    for (kind, object, text, expected) in cases {
        let selector = FieldSelector::parse(text, kind).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(selector.matches(object), expected, "{text:?}");
        assert_eq!(FieldSelector::parse(&selector.to_string(), kind).unwrap(), selector);
    }
    let selector = FieldSelector::parse("spec.nodeName=n,status.phase!=Failed", &pods).unwrap();
    assert_eq!((selector.required("spec.nodeName"), selector.required("status.phase")), (Some("n"), None));
    assert!(!selector.is_empty());
}

#[test]
fn field_selectors_refuse_what_they_do_not_know() {
    let (pods, maps) = (kind("Pod", pod::SELECTABLE), kind("ConfigMap", config_map::SELECTABLE));
    let cases = [
        (&pods, "spec.containers=x", "field label not supported: spec.containers"),
        (&maps, "data=x", "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        (&pods, "metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        (
            &pods,
            "metadata.name=\\x",
            "invalid selector: 'metadata.name=\\x'; invalid field selector: invalid escape sequence: \\x",
        ),
        (
            &pods,
            "metadata.name=a=b",
            "invalid selector: 'metadata.name=a=b'; invalid field selector: unescaped character in value: =",
        ),
    ];
    for (kind, text, expected) in cases {
        let error = FieldSelector::parse(text, kind).unwrap_err();
        assert_eq!((error.code(), error.message.as_str()), (400, expected), "{text:?}");
    }
}
