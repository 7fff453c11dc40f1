//! A certificate signing request for people: who asks for a certificate of whom, which the object holds encoded. Nothing here
//! judges a request; what is in it is a stranger's, and is printed without what a terminal would obey.

use super::{
    super::print::{columns, one_line},
    scalar,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_objects::rules::certificate_signing_request;
use serde_json::Value;
use std::io::{self, Write};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
    prelude::FromDer as _,
    x509::AttributeTypeAndValue,
};

/// What a request that is none is called.
const UNREADABLE: &str = "<cannot be read>";

/// For whom the certificate would be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Subject {
    common_names: Vec<String>,
    organizations: Vec<String>,
    /// Everything else that the subject has, as `OID=VALUE`.
    others: Vec<String>,
    /// Names and addresses besides the subject.
    alternatives: Vec<String>,
}

impl Subject {
    /// `None` for what is no request.
    fn of(object: &Value) -> Option<Self> {
        let pem = STANDARD.decode(object["spec"]["request"].as_str()?).ok()?;
        let pem = Pem::iter_from_buffer(&pem).next()?.ok()?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let (mut subject, text) = (Self::default(), |one: &AttributeTypeAndValue<'_>| {
            one.as_str().map_or_else(|_| format!("{:?}", one.as_slice()), one_line)
        });
        for one in request.certification_request_info.subject.iter_attributes() {
            match one.attr_type().to_id_string().as_str() {
                "2.5.4.3" => subject.common_names.push(text(one)),
                "2.5.4.10" => subject.organizations.push(text(one)),
                other => subject.others.push(format!("{other}={}", text(one))),
            }
        }
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                subject.alternatives.extend(names.general_names.iter().map(alternative));
            }
        }
        Some(subject)
    }
}

fn alternative(name: &GeneralName<'_>) -> String {
    one_line(&match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress([a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
        other => other.to_string(),
    })
}

/// Everything below the labels and annotations.
pub(super) fn describe(out: &mut impl Write, object: &Value) -> io::Result<()> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let list = |value: &Value| {
        let items: Vec<String> = value.as_array().into_iter().flatten().map(|one| one_line(&scalar(one))).collect();
        or_none(&items)
    };
    let row = |title: &str, text: String| vec![title.to_owned(), text];
    let mut rows = vec![
        row("Requesting User:", one_line(&scalar(&spec["username"]))),
        row("Groups:", list(&spec["groups"])),
        row("Signer:", one_line(&scalar(&spec["signerName"]))),
    ];
    if let Some(seconds) = spec["expirationSeconds"].as_i64() {
        rows.push(row("Requested Duration:", format!("{seconds}s")));
    }
    rows.push(row("Usages:", list(&spec["usages"])));
    rows.push(row("Status:", certificate_signing_request::state(object)));
    columns(out, &rows, &mut Vec::new())?;
    for one in status["conditions"].as_array().into_iter().flatten() {
        let [kind, reason, message] = ["type", "reason", "message"].map(|field| one_line(&scalar(&one[field])));
        writeln!(out, "  {kind} ({reason}): {message}")?;
    }
    let Some(subject) = Subject::of(object) else { return writeln!(out, "Subject: {UNREADABLE}") };
    writeln!(out, "Subject:")?;
    let mut rows = vec![
        row("  Common Name:", or_none(&subject.common_names)),
        row("  Organization:", or_none(&subject.organizations)),
    ];
    for (title, more) in [("  Other:", subject.others), ("  Alternative Names:", subject.alternatives)] {
        if !more.is_empty() {
            rows.push(row(title, more.join(", ")));
        }
    }
    columns(out, &rows, &mut Vec::new())
}

fn or_none(items: &[String]) -> String {
    if items.is_empty() { "<none>".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Made once, with a key that is gone: CN=system:node:edge, O=system:nodes.
    const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----\n\
        MIHtMIGUAgEAMDIxFTATBgNVBAoMDHN5c3RlbTpub2RlczEZMBcGA1UEAwwQc3lz\n\
        dGVtOm5vZGU6ZWRnZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCgE/l1kqf5K\n\
        +8y4wrLxYfGpfaygoynP9pkMQWDYWHzz4lEmtiI8tNMLkqopqU6ECLFY1IaW1dvD\n\
        6XU4OBsicf2gADAKBggqhkjOPQQDAgNIADBFAiBJeOXqj4o6blCeEFHE0z0quc8u\n\
        vlYiPnl8pYKy6lIubgIhAIkLbXO9d5BxaJdk3pJp+6JLjw+geia7ofG7pD19+XxR\n\
        -----END CERTIFICATE REQUEST-----\n";

    fn shown(object: &Value) -> String {
        let mut out = Vec::new();
        describe(&mut out, object).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_says_who_asks_for_whom() {
        let mut object = json!({
            "spec": {
                "request": STANDARD.encode(REQUEST), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"], "username": "system:bootstrap:abcdef",
                "groups": ["system:bootstrappers", "system:authenticated"],
            },
            "status": {"conditions": [{"type": "Denied", "status": "True", "reason": "NameTaken", "message": "no\u{1b}[31m"}]},
        });
        insta::assert_snapshot!(shown(&object), @r"
        Requesting User:   system:bootstrap:abcdef
        Groups:            system:bootstrappers, system:authenticated
        Signer:            kubernetes.io/kube-apiserver-client-kubelet
        Usages:            digital signature, client auth
        Status:            Denied
          Denied (NameTaken): no [31m
        Subject:
          Common Name:    system:node:edge
          Organization:   system:nodes
        ");
        object["spec"]["request"] = STANDARD.encode("nothing").into();
        object["status"] = json!({});
        let text = shown(&object);
        assert!(text.contains("Pending") && text.ends_with("Subject: <cannot be read>\n"), "{text}");
    }
}
