//! What nodes need to join that the server makes credentials for itself.

use crate::{
    ServerError,
    files::{self, PUBLIC},
    pki::{Authority, LEAF_LIFE, Subject},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the credentials of a node lie: `nodes/NAME` in the server's directory. What is there may be copied to the node's
/// machine.
#[must_use]
pub fn node_directory(data_dir: &Path, node: &str) -> PathBuf {
    data_dir.join("nodes").join(node)
}

/// Makes what is missing of a node's credentials, at this revision of the store. Those made before the revision `since` do
/// not count any more.
pub(crate) fn ensure(
    authority: &Authority,
    data_dir: &Path,
    node: &str,
    (revision, since): (u64, u64),
    lifetime: Duration,
) -> Result<(), ServerError> {
    if !is_node_name(node) {
        return Err(ServerError::NodeName(node.to_owned()));
    }
    let directory = node_directory(data_dir, node);
    files::private_directory(&directory)?;
    let lifetime = lifetime.try_into().unwrap_or(LEAF_LIFE);
    let subject = Subject::Node { name: node, revision, since, lifetime };
    authority.ensure_in(&directory, "client", &subject)?;
    files::write(&directory.join("ca.crt"), authority.certificate_pem().as_bytes(), PUBLIC)
}

/// A DNS subdomain, as names of Nodes are; it also is a safe name for a directory.
pub(crate) fn is_node_name(name: &str) -> bool {
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
        let ensured = |revision, since| {
            ensure(&authority, data_dir, "one", (revision, since), Duration::from_mins(10)).unwrap();
            contents()
        };
        let made = ensured(5, 0);
        assert_eq!(ensured(7, 5), made);
        assert_eq!(made[0], authority.certificate_pem());
        let anew = ensured(8, 6);
        assert_ne!(anew[1], made[1], "the node was deleted since");
        assert_eq!(ensured(9, 8), anew);
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
