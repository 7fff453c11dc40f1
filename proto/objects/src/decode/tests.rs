//! Hostile and sloppy bytes.

use super::{MAX_BODY_BYTES, VALUES_MAX, document, json, object};
use crate::{
    Reason, catalogue,
    fields::{Document, FieldValidation},
};
use serde_json::json;

fn refusal(bytes: &[u8]) -> String {
    let error = json(bytes).expect_err("refused");
    assert_eq!(error.reason, Reason::BadRequest);
    error.message
}

#[test]
fn says_what_is_wrong_and_where() {
    let table: [(&[u8], &str); 9] = [
        (b"", "not JSON: the document is empty"),
        (b" \n", "not JSON: the document is empty"),
        (b"{\"a\": tru}", "not JSON: expected ident at line 1 column 10"),
        (b"{\"a\": 1} x", "not JSON: trailing characters at line 1 column 10"),
        (b"{\"a\": 1", "not JSON: EOF while parsing an object at line 1 column 7"),
        (b"{a: 1}", "not JSON: key must be a string at line 1 column 2"),
        (b"{\"a\": \"\xff\"}", "not JSON: invalid UTF-8 at byte offset 7"),
        (b"\x00\x01", "not JSON: expected value at line 1 column 1"),
        (b"apiVersion: v1\nkind: Pod\n", "not JSON: expected value at line 1 column 1"),
    ];
    for (bytes, message) in table {
        assert_eq!(refusal(bytes), message);
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = |open: &str, close: &str, levels: usize| {
        format!("{}1{}", open.repeat(levels), close.repeat(levels)).into_bytes()
    };
    assert!(json(&deep("[", "]", 127)).is_ok());
    for bytes in [deep("[", "]", 128), deep("{\"a\":", "}", 128), b"[".repeat(1_000_000), b"{\"a\":".repeat(500_000)] {
        assert!(refusal(&bytes).contains("more than 127 levels of nesting at line 1 column"));
    }
}

#[test]
fn size_and_number_of_values_are_bounded() {
    let error = json(&b"[".repeat(10 * 1024 * 1024)).expect_err("refused");
    assert_eq!(error.reason, Reason::RequestEntityTooLarge);
    assert_eq!(error.message, format!("the document has 10485760 bytes, the limit is {MAX_BODY_BYTES}"));

    let list = |elements: usize| format!("[{}0]", "0,".repeat(elements - 1)).into_bytes();
    assert!(json(&list(VALUES_MAX - 1)).is_ok());
    assert!(refusal(&list(VALUES_MAX)).starts_with("not JSON: more than 300000 values at line 1"));
}

#[test]
fn duplicates_are_found_wherever_they_are() {
    let text = r#"{"spec": {"containers": [{"name": "a"}, {"name": "a", "name": "b"}], "x": 1}, "spec": {"x": 2, "x": 3, "x": 4}}"#;
    let (value, duplicates) = json(text.as_bytes()).expect("is JSON");
    assert_eq!(value, json!({"spec": {"x": 4}}));
    assert_eq!(duplicates, ["spec.containers[1].name", "spec.x", "spec.x", "spec"]);
}

#[test]
fn duplicates_are_listed_up_to_a_bound() {
    let text = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(1_000));
    assert_eq!(json(text.as_bytes()).expect("is JSON").1.len(), 100);
}

#[test]
fn escapes_and_numbers_survive() {
    let text = r#"{"t":"\u00e9\ud83d\ude00\n","n":[-1,9223372036854775807,18446744073709551615,1.5,1e3],"b":[true,false,null]}"#;
    let value = json(text.as_bytes()).expect("is JSON").0;
    assert_eq!(value, json!({"t": "é😀\n", "n": [-1, i64::MAX, u64::MAX, 1.5, 1000.0], "b": [true, false, null]}));
}

#[test]
fn a_body_says_which_kind_was_expected() {
    let error = object(catalogue::pods(), b"{", FieldValidation::Warn).expect_err("refused");
    assert_eq!(
        error.message,
        "the object provided is unrecognized (must be of type Pod): not JSON: EOF while parsing an object at line 1 column 1"
    );
    let error = object(catalogue::pods(), b"[]", FieldValidation::Warn).expect_err("refused");
    assert_eq!(
        error.message,
        "the object provided is unrecognized (must be of type Pod): expected a JSON object, found list"
    );
}

#[test]
fn duplicates_are_warnings_or_refusals() {
    let text = br#"{"metadata": {"name": "a", "name": "b", "nmae": "c"}}"#;
    let warned = object(catalogue::pods(), text, FieldValidation::Warn).expect("accepted");
    assert_eq!(warned.warnings, ["duplicate field \"metadata.name\"", "unknown field \"metadata.nmae\""]);
    assert_eq!(warned.object, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}}));
    let ignored = object(catalogue::pods(), text, FieldValidation::Ignore).expect("accepted");
    assert!(ignored.warnings.is_empty());
    assert_eq!(ignored.object, warned.object);
    let error = object(catalogue::pods(), text, FieldValidation::Strict).expect_err("refused");
    assert_eq!(
        error.message,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: \
         duplicate field \"metadata.name\", unknown field \"metadata.nmae\""
    );
}

#[test]
fn bodies_that_are_not_stored() {
    let options =
        br#"{"kind":"DeleteOptions","apiVersion":"apps/v1","gracePeriodSeconds":0,"preconditions":{"uid":"u"}}"#;
    let checked = document(&Document::DELETE_OPTIONS, options, FieldValidation::Strict).expect("accepted");
    assert_eq!(checked.object["preconditions"]["uid"], "u");
    let wrong = document(&Document::DELETE_OPTIONS, br#"{"gracePeriodSeconds":"0"}"#, FieldValidation::Strict);
    assert_eq!(
        wrong.expect_err("refused").message,
        "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: \
         gracePeriodSeconds: expected integer, found string \"0\""
    );
    let binding = br#"{"target":{"kind":"Node","name":"node-1"}}"#;
    let checked = document(&Document::BINDING, binding, FieldValidation::Strict).expect("accepted");
    assert_eq!(checked.object["kind"], "Binding");
}
