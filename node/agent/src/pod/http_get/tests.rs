//! Requests of probes and hooks against listeners of the test's own.

use super::*;
use crate::pod::subject::tests::subject;
use serde_json::json;

#[test]
fn what_cannot_be_asked_is_told() {
    let of = |action: Value| Request::of(&subject(json!({})), &action, "x").map(|_| ());
    assert_eq!(of(json!({"port": "nope"})), Err("container app has no port \"nope\"".to_owned()));
    let header = |name: &str, value: &str| json!({"port": 80, "httpHeaders": [{"name": name, "value": value}]});
    for bad in [header("a b", "c"), header("a", "b\nc")] {
        assert!(of(bad.clone()).unwrap_err().contains("cannot be sent"), "{bad}");
    }
}

#[test]
fn a_usual_port_is_not_named() {
    let host = |action: Value| {
        let subject = subject(json!({}));
        let request = Request::of(&subject, &action, "x").unwrap();
        host_header(&subject, &request.target)
    };
    assert_eq!(host(json!({"port": 80})), "10.244.0.7");
    assert_eq!(host(json!({"port": 443, "scheme": "HTTPS"})), "10.244.0.7");
    assert_eq!(host(json!({"port": 443})), "10.244.0.7:443");
    assert_eq!(host(json!({"port": 80, "host": "::1"})), "[::1]");
}
