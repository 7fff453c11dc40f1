//! What nodes need to join that the server makes credentials for itself.

use crate::{
    ServerError,
    files::{self, PUBLIC},
    pki::{Authority, Subject},
};
use coracle_api::identity::GROUP_NODES;
use coracle_objects::nodes;
use std::path::{Path, PathBuf};

/// Where the credentials of a node lie: `nodes/NAME` in the server's directory. What is there may be copied to the node's
/// machine.
#[must_use]
pub fn node_directory(data_dir: &Path, node: &str) -> PathBuf {
    data_dir.join("nodes").join(node)
}

/// Makes what is missing of a node's credentials.
pub(crate) fn ensure(authority: &Authority, data_dir: &Path, node: &str) -> Result<(), ServerError> {
    if !is_node_name(node) {
        return Err(ServerError::NodeName(node.to_owned()));
    }
    let directory = node_directory(data_dir, node);
    files::private_directory(&directory)?;
    let user = nodes::user(node);
    let subject = Subject::Client { user: &user, group: GROUP_NODES };
    authority.ensure_in(&directory, "client", &subject)?;
    files::write(&directory.join("ca.crt"), authority.certificate_pem().as_bytes(), PUBLIC)
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
        let authority = Authority::open_or_create(data_dir).unwrap();
        let contents = || {
            let read = |name: &str| std::fs::read_to_string(node_directory(data_dir, "one").join(name)).unwrap();
            ["ca.crt", "client.crt", "client.key"].map(read)
        };
        ensure(&authority, data_dir, "one").unwrap();
        let made = contents();
        ensure(&authority, data_dir, "one").unwrap();
        assert_eq!(contents(), made);
        assert_eq!(made[0], authority.certificate_pem());
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
