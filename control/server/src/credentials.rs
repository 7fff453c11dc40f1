//! What nodes need to join, and the tokens that the server knows.

use crate::{
    ServerError,
    files::{self, PUBLIC},
    pki::{self, Authority, Issued, Subject},
};
use coracle_api::{
    auth::Authenticator,
    identity::{GROUP_NODES, Identity},
};
use coracle_objects::nodes;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a node needs to join; written at `DIR/nodes/NAME/` by [`node_credentials`].
#[derive(Debug, Clone)]
pub struct NodeCredentials {
    /// Whose they are.
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

impl NodeCredentials {
    /// Reads what [`node_credentials`] has written to `directory`, which may have been copied to another machine.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub fn read(directory: &Path) -> Result<Self, ServerError> {
        let required = |name: &str| {
            let path = directory.join(name);
            let missing = || ServerError::DataDir { path: path.clone(), source: io::ErrorKind::NotFound.into() };
            files::read(&path)?.ok_or_else(missing)
        };
        let certificate_pem = required("client.crt")?;
        let wrong = || ServerError::Pki(directory.join("client.crt"), "is no node's certificate".to_owned());
        let user = pki::common_name(&certificate_pem).ok_or_else(wrong)?;
        let node_name = nodes::of_user(&user).ok_or_else(wrong)?.to_owned();
        Ok(Self {
            node_name,
            ca_pem: required("ca.crt")?,
            certificate_pem,
            key_pem: required("client.key")?,
            registry_token: required("token")?.trim().to_owned(),
        })
    }
}

/// Credentials for a node of this cluster, made with the CA in `data_dir` and kept in `nodes/NAME` below it.
///
/// # Errors
/// When the CA is not there or cannot be read, or the name cannot be a node's.
pub fn node_credentials(data_dir: &Path, node: &str) -> Result<NodeCredentials, ServerError> {
    ensure(&Authority::open(data_dir)?, data_dir, node)
}

/// Makes what is missing of a node's credentials.
pub(crate) fn ensure(authority: &Authority, data_dir: &Path, node: &str) -> Result<NodeCredentials, ServerError> {
    if !is_node_name(node) {
        return Err(ServerError::NodeName(node.to_owned()));
    }
    let directory = directory_of(data_dir, node);
    files::private_directory(&directory)?;
    let user = nodes::user(node);
    let subject = Subject::Client { user: &user, group: GROUP_NODES };
    let issued = authority.ensure_in(&directory, "client", &subject)?;
    let registry_token = files::token(&directory.join("token"))?;
    let ca_pem = authority.certificate_pem().to_owned();
    files::write(&directory.join("ca.crt"), ca_pem.as_bytes(), PUBLIC)?;
    let node_name = node.to_owned();
    let Issued { certificate_pem, key_pem } = issued;
    Ok(NodeCredentials { node_name, ca_pem, certificate_pem, key_pem, registry_token })
}

/// Everybody who has a token: the administrator, and the nodes with a directory under `nodes/`.
pub(crate) fn authenticator(data_dir: &Path, admin_token: &str) -> Result<Authenticator, ServerError> {
    let mut authenticator = Authenticator::new().with_token(admin_token, Identity::admin());
    let nodes = data_dir.join("nodes");
    let fail = |source| ServerError::DataDir { path: nodes.clone(), source };
    let entries = match fs::read_dir(&nodes) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(authenticator),
        Err(error) => return Err(fail(error)),
    };
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        let Some(node) = name.to_str().filter(|node| is_node_name(node)) else { continue };
        if let Some(token) = files::read(&directory_of(data_dir, node).join("token"))? {
            authenticator = authenticator.with_token(token.trim(), Identity::node(node));
        }
    }
    Ok(authenticator)
}

fn directory_of(data_dir: &Path, node: &str) -> PathBuf {
    data_dir.join("nodes").join(node)
}

/// A DNS subdomain, as names of Nodes are; it also is a safe name for a directory.
fn is_node_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = label.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_credentials_are_made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path();
        assert!(node_credentials(data_dir, "one").is_err(), "there is no CA yet");
        let authority = Authority::open_or_create(data_dir).unwrap();
        let made = ensure(&authority, data_dir, "one").unwrap();
        let again = node_credentials(data_dir, "one").unwrap();
        let read = NodeCredentials::read(&data_dir.join("nodes/one")).unwrap();
        for other in [&again, &read] {
            assert_eq!(other.certificate_pem, made.certificate_pem);
            assert_eq!(other.registry_token, made.registry_token);
            assert_eq!(other.node_name, "one");
        }
        let authenticator = authenticator(data_dir, "admin-token").unwrap();
        for (token, user) in [(made.registry_token.as_str(), "system:node:one"), ("admin-token", "admin")] {
            let mut request = http::Request::new(());
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert(http::header::AUTHORIZATION, value);
            let (parts, ()) = request.into_parts();
            assert_eq!(authenticator.authenticate(&parts).unwrap().user, user);
        }
    }

    #[test]
    fn names_that_are_no_node_names_are_refused() {
        let cases = [
            ("node-1", true),
            ("edge-7.site.example", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("Node", false),
            ("-a", false),
            ("a-", false),
            ("a..b", false),
        ];
        for (name, expected) in cases {
            assert_eq!(is_node_name(name), expected, "{name}");
        }
    }
}
