//! What a node proves itself with: a directory of files, as servers write it.

use anyhow::{Context as _, Result};
use coracle_objects::nodes;
use std::{fs, path::Path};

/// The contents of such a directory.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Whose they are; the certificate says so.
    pub node_name: String,
    /// PEM of the cluster's CA.
    pub ca_pem: String,
    /// PEM of the client certificate.
    pub certificate_pem: String,
    /// PEM of its key.
    pub key_pem: String,
    /// Token for the registry.
    pub registry_token: String,
}

impl Credentials {
    /// Reads `ca.crt`, `client.crt`, `client.key` and `token`.
    ///
    /// # Errors
    /// When a file cannot be read, or the certificate is no node's.
    pub fn read(directory: &Path) -> Result<Self> {
        let required = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let certificate_pem = required("client.crt")?;
        let wrong = || format!("{} is no node's certificate", directory.join("client.crt").display());
        let user = common_name(&certificate_pem).with_context(wrong)?;
        let node_name = nodes::of_user(&user).with_context(wrong)?.to_owned();
        Ok(Self {
            node_name,
            ca_pem: required("ca.crt")?,
            certificate_pem,
            key_pem: required("client.key")?,
            registry_token: required("token")?.trim().to_owned(),
        })
    }
}

fn common_name(pem: &str) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    Some(name.as_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn written(user: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, user);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        for (name, text) in
            [("ca.crt", "ca"), ("client.crt", &certificate), ("client.key", "key"), ("token", "secret\n")]
        {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn the_certificate_says_which_node_it_is() {
        let directory = written("system:node:edge-7");
        let read = Credentials::read(directory.path()).unwrap();
        assert_eq!((read.node_name.as_str(), read.registry_token.as_str()), ("edge-7", "secret"));
        assert_eq!((read.ca_pem.as_str(), read.key_pem.as_str()), ("ca", "key"));
    }

    #[test]
    fn what_is_missing_or_somebody_elses_is_named() {
        let directory = written("admin");
        let error = Credentials::read(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("client.crt is no node's certificate"), "{error:#}");
        let directory = written("system:node:edge-7");
        fs::remove_file(directory.path().join("client.key")).unwrap();
        let error = Credentials::read(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("client.key"), "{error:#}");
    }
}
