//! Who is let in, and to what, by tables.

use super::*;
use crate::identity::Attributes;
use serde_json::json;

fn headers(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
}

#[test]
fn tokens_are_read_from_bearer_and_basic_credentials() {
    let authenticator = Authenticator::new().with_token("s3cret", Identity::admin()).with_token("", Identity::admin());
    let basic = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    let cases = [
        ("Bearer s3cret".to_owned(), true),
        ("bearer  s3cret ".to_owned(), true),
        (basic("anyone:s3cret"), true),
        (basic(":s3cret"), true),
        ("Bearer s3cre".to_owned(), false),
        ("Bearer ".to_owned(), false),
        ("Bearer".to_owned(), false),
        ("s3cret".to_owned(), false),
        (basic("s3cret"), false),
        (basic("s3cret:"), false),
        ("Basic ###".to_owned(), false),
        ("Digest s3cret".to_owned(), false),
        (format!("Bearer {}", "x".repeat(MAX_AUTHORIZATION_BYTES)), false),
    ];
    for (value, valid) in cases {
        let answer = authenticator.authenticate_with(&headers(&value), &Extensions::new());
        assert_eq!(answer.is_ok(), valid, "{value}");
        if let Err(error) = answer {
            assert_eq!(error.code(), 401);
        }
    }
    assert!(authenticator.authenticate_with(&HeaderMap::new(), &Extensions::new()).is_err());
}

#[test]
fn impersonation_is_refused_and_never_ignored() {
    let authenticator = Authenticator::new().with_token("s3cret", Identity::admin());
    for (name, valid) in [
        ("impersonate-user", false),
        ("Impersonate-Group", false),
        ("impersonate-uid", false),
        ("impersonate-extra-scopes", false),
        ("x-impersonate-user", true),
    ] {
        let mut sent = headers("Bearer s3cret");
        sent.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "bob".parse().unwrap());
        let answer = authenticator.authenticate_with(&sent, &Extensions::new());
        assert_eq!(answer.as_ref().map_err(ApiError::code).err(), (!valid).then_some(403), "{name}");
        sent.remove(header::AUTHORIZATION);
        assert_eq!(authenticator.authenticate_with(&sent, &Extensions::new()).unwrap_err().code(), 401, "{name}");
    }
}

#[test]
fn a_certificate_that_cannot_be_read_is_nobody() {
    assert!(PeerCertificates::new(&[]).is_err());
    assert!(PeerCertificates::new(&[CertificateDer::from(vec![1, 2, 3])]).is_err());
}

/// `verb group/resource/subresource namespace/name`, `-` for empty.
fn attributes(text: &'static str) -> Attributes<'static> {
    let mut words = text.split(' ');
    let mut next = |separator| words.next().unwrap().split(separator).map(|part| if part == "-" { "" } else { part });
    let verb = next(' ').next().unwrap();
    let mut target = next('/');
    let (group, resource, subresource) =
        (target.next().unwrap(), target.next().unwrap(), target.next().unwrap_or_default());
    let mut place = next('/');
    let (namespace, name) = (place.next().unwrap(), place.next().unwrap());
    Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() }
}

#[test]
fn roles_allow_what_they_list_and_nothing_else() {
    let cases = [
        (Identity::admin(), "delete -/namespaces -/default", true),
        (Identity::scheduler(), "list -/pods -/-", true),
        (Identity::scheduler(), "create -/pods/binding a/b", true),
        (Identity::scheduler(), "patch -/pods/status a/b", true),
        (Identity::scheduler(), "create -/events a/b", true),
        (Identity::scheduler(), "update -/pods a/b", false),
        (Identity::scheduler(), "get -/secrets a/b", false),
        (Identity::scheduler(), "get -/pods/log a/b", false),
        (Identity::controller_manager(), "update -/namespaces/finalize -/a", true),
        (Identity::controller_manager(), "delete -/secrets a/b", true),
        (Identity::controller_manager(), "create discovery.k8s.io/endpointslices a/b", true),
        (Identity::controller_manager(), "create -/pods/binding a/b", false),
        (Identity::controller_manager(), "update -/secrets a/b", false),
        (Identity::new("somebody", &[]), "get -/pods a/b", false),
        (Identity::new("somebody", &["system:nodes"]), "list -/services -/-", false),
        (Identity::new("system:node:one", &[]), "list -/services -/-", false),
        (Identity::new("system:node:", &["system:nodes"]), "list -/services -/-", false),
    ];
    for (identity, text, allowed) in cases {
        assert_eq!(authorize(&identity, &attributes(text)).is_ok(), allowed, "{} {text}", identity.user);
    }
}

#[test]
fn a_node_touches_its_own_and_nothing_else() {
    let cases = [
        ("watch -/services -/-", false),
        ("list discovery.k8s.io/endpointslices -/-", false),
        ("get -/namespaces -/default", false),
        ("get -/configmaps default/x", false),
        ("update -/services a/b", false),
        ("create -/nodes -/one", true),
        ("create -/nodes -/two", false),
        ("update -/nodes/status -/one", true),
        ("update -/nodes/status -/two", false),
        ("get -/nodes -/two", false),
        ("watch -/nodes -/-", false),
        ("get -/nodes -/one", true),
        ("delete -/nodes -/one", false),
        ("update coordination.k8s.io/leases kube-node-lease/one", true),
        ("update coordination.k8s.io/leases kube-node-lease/two", false),
        ("update coordination.k8s.io/leases default/one", false),
        ("create -/events default/x", true),
        ("delete -/events default/x", false),
        ("create -/pods default/x", true),
        ("create -/pods/binding default/x", false),
        ("update -/pods default/x", false),
        ("list -/secrets default/-", false),
        ("get -/secrets default/x", false),
        ("delete -/namespaces -/default", false),
    ];
    for (text, allowed) in cases {
        assert_eq!(authorize(&Identity::node("one"), &attributes(text)).is_ok(), allowed, "{text}");
    }
}

#[test]
fn a_node_sees_only_pods_that_are_bound_to_it() {
    let node = Identity::node("one");
    for (verb, field_selector) in
        [("list", ""), ("watch", ""), ("list", "spec.nodeName=one"), ("watch", "spec.nodeName=one")]
    {
        let attributes = Attributes { verb, resource: "pods", field_selector, ..Attributes::default() };
        assert!(authorize(&node, &attributes).is_err(), "{verb} {field_selector}");
    }
    let (own, foreign, unbound) =
        (json!({"spec": {"nodeName": "one"}}), json!({"spec": {"nodeName": "two"}}), json!({"spec": {}}));
    for text in ["get -/pods a/b", "delete -/pods a/b", "update -/pods/status a/b", "patch -/pods/status a/b"] {
        for (object, allowed) in [(Some(&own), true), (None, true), (Some(&foreign), false), (Some(&unbound), false)] {
            let attributes = Attributes { object, ..attributes(text) };
            assert_eq!(authorize(&node, &attributes).is_ok(), allowed, "{text} {object:?}");
        }
    }
}

#[test]
fn a_refusal_reads_as_in_kubernetes() {
    let user = Identity::new("x", &[]);
    let cases = [
        (
            "list -/pods y/-",
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\"",
        ),
        (
            "get -/pods/log y/z",
            "pods \"z\" is forbidden: User \"x\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"y\"",
        ),
        (
            "create coordination.k8s.io/leases -/z",
            "leases.coordination.k8s.io is forbidden: User \"x\" cannot create resource \"leases\" in API group \
             \"coordination.k8s.io\" at the cluster scope",
        ),
    ];
    for (text, message) in cases {
        let error = authorize(&user, &attributes(text)).unwrap_err();
        assert_eq!((error.code(), error.message.as_str()), (403, message));
    }
}
