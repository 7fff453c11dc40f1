//! What a signing request for a node's certificate has to look like, and what one does look like. Values only; whether it
//! is granted is decided elsewhere.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_objects::nodes;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use serde_json::Value;
use x509_parser::{
    certification_request::X509CertificationRequest, extensions::ParsedExtension, prelude::FromDer as _,
};

/// Usages of which each request names the first and may name the others.
const USAGES: [&str; 3] = ["client auth", "digital signature", "key encipherment"];

/// A request for the certificate of a node, in order in itself.
#[derive(Debug)]
pub(crate) struct Request {
    /// The node that it is for.
    pub(crate) node: String,
    /// The whole.
    pub(crate) der: CertificateSigningRequestDer<'static>,
    /// The key that it is for, encoded.
    pub(crate) public_key: Vec<u8>,
}

/// For whom a request is, whether or not it is in order.
#[derive(Debug)]
pub(crate) struct Subject {
    /// The node that it is for.
    pub(crate) node: String,
    /// The key that it is for, encoded.
    pub(crate) public_key: Vec<u8>,
}

impl Subject {
    /// Reads the `CertificateSigningRequest` object without checking it; `None` when it names no single node.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let pem = STANDARD.decode(object["spec"]["request"].as_str()?).ok()?;
        let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
        let information = &request.certification_request_info;
        let mut names = information.subject.iter_common_name();
        let node = nodes::of_user(names.next()?.as_str().ok()?)?.to_owned();
        names.next().is_none().then(|| Self { node, public_key: information.subject_pki.raw.to_vec() })
    }
}

impl Request {
    /// Reads the `CertificateSigningRequest` object.
    ///
    /// # Errors
    /// What is wrong with it, for people to read.
    pub(crate) fn of(object: &Value) -> Result<Self, String> {
        let spec = &object["spec"];
        check_usages(&spec["usages"])?;
        let unreadable = || "spec.request cannot be read".to_owned();
        let pem = spec["request"].as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or_else(unreadable)?;
        let der = CertificateSigningRequestDer::from_pem_slice(&pem).map_err(|_| unreadable())?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|_| unreadable())?;
        request.verify_signature().map_err(|_| "the request is not signed with its own key".to_owned())?;
        let information = &request.certification_request_info;
        let subject = &information.subject;
        let names: Vec<&str> = subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect();
        let groups: Vec<&str> = subject.iter_organization().filter_map(|name| name.as_str().ok()).collect();
        let parts = subject.iter_attributes().count();
        if groups != [nodes::GROUP] {
            return Err(format!(
                "the subject's organization must be {} and nothing else, it is {groups:?}",
                nodes::GROUP
            ));
        }
        let node = match names[..] {
            [name] if parts == 2 => nodes::of_user(name),
            _ => None,
        };
        let node = node.ok_or_else(|| {
            format!("the subject's common name must be {}NAME and nothing else, it is {names:?}", nodes::USER_PREFIX)
        })?;
        if !crate::credentials::is_node_name(node) {
            let rule = "lower-case letters, digits, '-' and '.', and letters or digits at both ends";
            return Err(format!("the subject's common name must have a node's name, and {node:?} is none ({rule})"));
        }
        let alternative = request.requested_extensions().into_iter().flatten();
        if alternative.into_iter().any(|extension| matches!(extension, ParsedExtension::SubjectAlternativeName(_))) {
            return Err("a node's client certificate has no other names or addresses".to_owned());
        }
        let (node, public_key) = (node.to_owned(), information.subject_pki.raw.to_vec());
        Ok(Self { node, der, public_key })
    }
}

fn check_usages(usages: &Value) -> Result<(), String> {
    let usages: Vec<&str> = usages.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_known = usages.iter().all(|usage| USAGES.contains(usage));
    if is_known && usages.contains(&USAGES[0]) {
        return Ok(());
    }
    Err(format!("usages must be {} and at most {}, they are {usages:?}", USAGES[0], USAGES[1..].join(", ")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use serde_json::json;

    /// A request object for this subject, with a key of its own.
    pub(crate) fn object(user: &str, group: &str, other_names: &[&str], usages: &[&str]) -> Value {
        let names: Vec<String> = other_names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, user);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({"metadata": {"name": "x", "uid": "u", "resourceVersion": "5"}, "spec": {
            "request": STANDARD.encode(pem), "usages": usages, "signerName": coracle_objects::bootstrap::NODE_SIGNER,
        }})
    }

    #[test]
    fn a_request_is_for_one_node_and_nothing_more() {
        type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str], &'a str);
        let usages = ["digital signature", "client auth"];
        let good = Request::of(&object("system:node:one", "system:nodes", &[], &usages)).unwrap();
        assert_eq!(good.node, "one");
        let subject = Subject::of(&object("system:node:one", "system:nodes", &[], &usages)).unwrap();
        assert_eq!((subject.node.as_str(), subject.public_key.len()), ("one", good.public_key.len()));
        assert!(Subject::of(&object("admin", "system:nodes", &[], &usages)).is_none());
        let cases: [Case<'_>; 9] = [
            ("system:node:one", "system:masters", &[], &usages, "organization"),
            ("admin", "system:nodes", &[], &usages, "common name"),
            ("system:node:", "system:nodes", &[], &usages, "common name"),
            ("system:node:../../x", "system:nodes", &[], &usages, "\"../../x\" is none"),
            ("system:node:One", "system:nodes", &[], &usages, "\"One\" is none"),
            ("system:node:one", "system:nodes", &["kubernetes"], &usages, "other names"),
            ("system:node:one", "system:nodes", &[], &["client auth", "server auth"], "usages"),
            ("system:node:one", "system:nodes", &[], &["digital signature"], "usages"),
            ("system:node:one", "system:nodes", &[], &[], "usages"),
        ];
        for (user, group, names, usages, says) in cases {
            let error = Request::of(&object(user, group, names, usages)).unwrap_err();
            assert!(error.contains(says), "{user} {group}: {error}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut wrong = object("system:node:one", "system:nodes", &[], &["client auth"]);
        let pem = String::from_utf8(STANDARD.decode(wrong["spec"]["request"].as_str().unwrap()).unwrap()).unwrap();
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        *der.last_mut().unwrap() ^= 1;
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(der)
        );
        for (request, says) in
            [(forged.as_str(), "not signed"), ("", "cannot be read"), ("-----BEGIN", "cannot be read")]
        {
            wrong["spec"]["request"] = STANDARD.encode(request).into();
            let error = Request::of(&wrong).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
