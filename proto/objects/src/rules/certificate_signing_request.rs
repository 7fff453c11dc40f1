//! Certificate signing requests: defaults, preparation, validation and columns.
//!
//! Who asks is written into the request by the server when it is made, and never changes; what is asked is looked at by
//! who approves and who signs. Nothing here parses a certificate.

use super::{
    Causes, Path,
    access::{integer, keep, keep_all_but, list, same, text},
    age,
    metadata::{self, Scope},
    print::{condition, or_none},
};
use crate::{Cause, kind::Column, meta, names::Spelling};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
    Column { name: "SignerName", value_type: "string", format: "", priority: 0 },
    Column { name: "Requestor", value_type: "string", format: "", priority: 0 },
    Column { name: "RequestedDuration", value_type: "string", format: "", priority: 0 },
    Column { name: "Condition", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &["spec.signerName"];

/// Largest request, in bytes of PEM: larger than any key makes it.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Shortest duration that may be asked for.
const DURATION_SECONDS_MIN: i64 = 600;
/// What begins a request in PEM.
const PEM_BEGINS: &str = "-----BEGIN CERTIFICATE REQUEST-----";
/// Conditions that decide a request. Nobody takes one back, and there is no more than one of them.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
/// The usages that Kubernetes knows.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let duration = integer(spec, "expirationSeconds").map(age::human_duration).unwrap_or_default();
    vec![
        meta::name(object).into(),
        age::age(object, now_seconds).into(),
        text(spec, "signerName").into(),
        text(spec, "username").into(),
        or_none(&duration),
        state(object).into(),
    ]
}

/// `Pending`, or how it was decided and what came of it.
#[must_use]
pub fn state(object: &Value) -> String {
    let status = &object["status"];
    let has = |kind| condition(status, kind).is_some();
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied".to_owned(),
        (false, true) => "Approved".to_owned(),
        (false, false) => "Pending".to_owned(),
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(status, "certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

/// Fills in Kubernetes' defaults: there are none.
pub fn default(_object: &mut Value) {}

/// Resets what a creator may not decide: nothing is approved yet.
pub fn prepare_create(object: &mut Value) {
    if object.is_object() {
        object["status"] = json!({});
    }
}

/// Carries over from `old` what this path may not change: `approval` decides and nothing else, `status` takes the
/// certificate and does not decide.
pub fn prepare_update(new: &mut Value, old: &Value, subresource: &str) {
    let of = |base: &Value, owned: &dyn Fn(&str) -> bool| merged(base, &new["status"], &old["status"], owned);
    let status = match subresource {
        "approval" => of(&old["status"], &|kind| DECISIONS.contains(&kind)),
        "status" => of(&new["status"], &|kind| !DECISIONS.contains(&kind)),
        _ => {
            keep(new, old, "spec");
            keep(new, old, "status");
            return;
        }
    };
    if let Some(map) = new.as_object_mut() {
        map.insert("status".to_owned(), status);
        keep_all_but(new, old, "status");
    }
}

/// The status `base` whose conditions are the wanted ones of the types that are `owned`, and the old ones of all others.
fn merged(base: &Value, wanted: &Value, old: &Value, owned: &dyn Fn(&str) -> bool) -> Value {
    let is_owned = |condition: &&Value| owned(text(condition, "type"));
    let kept = list(old, "conditions").iter().filter(|condition| !is_owned(condition));
    let all: Vec<Value> = kept.chain(list(wanted, "conditions").iter().filter(is_owned)).cloned().collect();
    let mut status = base.as_object().cloned().unwrap_or_default();
    status.shift_remove("conditions");
    if !all.is_empty() {
        status.insert("conditions".to_owned(), all.into());
    }
    Value::Object(status)
}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_new(object, Scope::Cluster, Spelling::DnsSubdomain, &mut causes);
    check_spec(&object["spec"], &mut causes);
    causes.into_vec()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, _subresource: &str) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    check_conditions(new, old, &mut causes);
    let (is, was) = (&new["status"]["certificate"], &old["status"]["certificate"]);
    if was.as_str().is_some_and(|was| !was.is_empty()) && !same(is, was) {
        causes.immutable(&Path::new("status").child("certificate"), is, was);
    }
    causes.into_vec()
}

fn check_spec(spec: &Value, causes: &mut Causes) {
    let path = Path::new("spec");
    check_request(&path.child("request"), text(spec, "request"), causes);
    let (signer, signer_path) = (text(spec, "signerName"), path.child("signerName"));
    match signer.split_once('/') {
        _ if signer.is_empty() => causes.required(&signer_path, ""),
        Some((domain, name)) if !name.is_empty() => causes.spelled(&signer_path, domain, Spelling::DnsSubdomain),
        _ => {
            causes.invalid(
                &signer_path,
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            );
        }
    }
    if let Some(seconds) = integer(spec, "expirationSeconds").filter(|seconds| *seconds < DURATION_SECONDS_MIN) {
        causes.invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
    let (usages, usages_path) = (list(spec, "usages"), path.child("usages"));
    if usages.is_empty() {
        causes.required(&usages_path, "");
    }
    for (index, usage) in usages.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        if usages[..index.min(USAGES.len() + 1)].contains(usage) {
            causes.duplicate(&usages_path.index(index), usage.clone());
        } else if !usage.as_str().is_some_and(|usage| USAGES.contains(&usage)) {
            causes.not_supported(&usages_path.index(index), usage.clone(), &USAGES);
        }
    }
}

fn check_request(path: &Path, request: &str, causes: &mut Causes) {
    if request.is_empty() {
        return causes.required(path, "");
    }
    if request.len() > REQUEST_BYTES_MAX * 4 / 3 + 4 {
        return causes.too_long(path, REQUEST_BYTES_MAX);
    }
    let pem = STANDARD.decode(request).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if !pem.is_some_and(|pem| pem.trim_start().starts_with(PEM_BEGINS)) {
        causes.invalid(path, "<value omitted>", "PEM block type must be CERTIFICATE REQUEST");
    }
}

fn check_conditions(new: &Value, old: &Value, causes: &mut Causes) {
    let path = Path::new("status").child("conditions");
    let conditions = list(&new["status"], "conditions");
    let decided = |kind| conditions.iter().any(|condition| condition["type"] == kind);
    if DECISIONS.into_iter().all(decided) {
        causes.invalid(&path, "Denied", "Approved and Denied conditions are mutually exclusive");
    }
    for (index, condition) in conditions.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.index(index);
        let kind = text(condition, "type");
        if kind.is_empty() {
            causes.required(&path.child("type"), "");
        }
        let must_be_true = DECISIONS.contains(&kind) || kind == "Failed";
        match text(condition, "status") {
            "" => causes.required(&path.child("status"), ""),
            "True" => {}
            other if must_be_true => causes.not_supported(&path.child("status"), other, &["True"]),
            "False" | "Unknown" => {}
            other => causes.not_supported(&path.child("status"), other, &["True", "False", "Unknown"]),
        }
        if conditions.iter().take(index).any(|earlier| earlier["type"] == condition["type"]) {
            causes.duplicate(&path.child("type"), kind);
        }
    }
    for kind in DECISIONS.into_iter().chain(["Failed"]) {
        if condition(&old["status"], kind).is_some() && !decided(kind) {
            causes.forbidden(&path, &format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &Value) -> Value {
        let mut object = json!({"metadata": {"name": "x", "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {
            "request": STANDARD.encode(PEM_BEGINS), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["client auth"], "username": "jane",
        }});
        json_patch::merge(&mut object, body);
        object
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True"})
    }

    #[test]
    fn a_request_says_what_it_wants_and_from_whom() {
        let cases = [
            (json!({}), None),
            (json!({"spec": {"expirationSeconds": 600}}), None),
            (json!({"spec": {"expirationSeconds": 599}}), Some("spec.expirationSeconds")),
            (json!({"spec": {"request": null}}), Some("spec.request")),
            (json!({"spec": {"request": "eA=="}}), Some("spec.request")),
            (json!({"spec": {"request": "?"}}), Some("spec.request")),
            (
                json!({"spec": {"request": STANDARD.encode(format!("{PEM_BEGINS}{}", "x".repeat(REQUEST_BYTES_MAX)))}}),
                Some("spec.request"),
            ),
            (json!({"spec": {"signerName": "kubelet"}}), Some("spec.signerName")),
            (json!({"spec": {"signerName": "UP/x"}}), Some("spec.signerName")),
            (json!({"spec": {"usages": []}}), Some("spec.usages")),
            (json!({"spec": {"usages": ["fun"]}}), Some("spec.usages[0]")),
            (json!({"spec": {"usages": ["client auth", "client auth"]}}), Some("spec.usages[1]")),
        ];
        for (body, field) in cases {
            let found = validate_create(&request(&body));
            assert_eq!(found.first().map(|cause| cause.field.as_str()), field, "{body} {found:?}");
        }
    }

    #[test]
    fn each_path_changes_its_own_part() {
        let old = request(&json!({"status": {"conditions": [condition("Failed")]}}));
        let all = json!({"spec": {"username": "mallory"}, "metadata": {"labels": {"a": "b"}}, "status": {
            "certificate": "Yw==", "conditions": [condition("Approved"), condition("Other")],
        }});
        let changed = |subresource| {
            let mut new = old.clone();
            json_patch::merge(&mut new, &all);
            prepare_update(&mut new, &old, subresource);
            assert_eq!(new["spec"]["username"], "jane", "{subresource}");
            new
        };
        let whole = changed("");
        assert_eq!((&whole["status"], &whole["metadata"]["labels"]["a"]), (&old["status"], &json!("b")));
        let decided = changed("approval");
        assert_eq!(decided["status"], json!({"conditions": [condition("Failed"), condition("Approved")]}));
        assert!(decided["metadata"].get("labels").is_none());
        let issued = changed("status");
        assert_eq!(issued["status"], json!({"certificate": "Yw==", "conditions": [condition("Other")]}));
        let mut born = issued;
        prepare_create(&mut born);
        assert_eq!(born["status"], json!({}));
    }

    #[test]
    fn a_decision_is_final() {
        let with = |conditions: Value| request(&json!({"status": {"conditions": conditions}}));
        let (open, approved) = (with(json!([])), with(json!([condition("Approved")])));
        assert!(validate_update(&approved, &open, "approval").is_empty());
        let both = with(json!([condition("Approved"), condition("Denied")]));
        let no = with(json!([{"type": "Approved", "status": "False"}]));
        for (new, old, says) in [(&both, &approved, "exclusive"), (&open, &approved, "remove"), (&no, &open, "True")] {
            let causes = validate_update(new, old, "approval");
            assert!(causes[0].message.contains(says), "{causes:?}");
        }
        let mut issued = approved.clone();
        issued["status"]["certificate"] = json!("Yw==");
        assert!(validate_update(&issued, &approved, "status").is_empty());
        let mut other = issued.clone();
        other["status"]["certificate"] = json!("ZA==");
        assert!(!validate_update(&other, &issued, "status").is_empty());
    }

    #[test]
    fn what_became_of_it_is_printed() {
        let cell = |status: Value| cells(&request(&json!({"status": status})), 5);
        let pending = cell(json!({}));
        let signer = "kubernetes.io/kube-apiserver-client-kubelet";
        assert_eq!(pending, [json!("x"), json!("5s"), json!(signer), json!("jane"), json!("<none>"), json!("Pending")]);
        for (status, state) in [
            (json!({"conditions": [condition("Approved")]}), "Approved"),
            (json!({"conditions": [condition("Approved")], "certificate": "Yw=="}), "Approved,Issued"),
            (json!({"conditions": [condition("Denied")]}), "Denied"),
            (json!({"conditions": [condition("Approved"), condition("Failed")]}), "Approved,Failed"),
        ] {
            assert_eq!(cell(status)[5], state);
        }
    }
}
