//! Which registry and repository a name means, and how to get there.

use super::registry::{Registry, RegistryError, RegistryOptions};
use crate::kubeconfig::Credentials;
use oci_spec::distribution::Reference;
use thiserror::Error;

/// Why a name leads nowhere.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// The name is none.
    #[error("\"{name}\" is no image name: {detail}")]
    Name {
        /// As given.
        name: String,
        /// Why.
        detail: String,
    },
    /// The name means the cluster's registry, and no cluster is known.
    #[error("{0} means the cluster's own registry, and there is no kubeconfig; begin it with HOST/ for another one")]
    NoCluster(String),
    /// The registry cannot be spoken to.
    #[error("cannot use the registry of {name}: {source}")]
    Registry {
        /// As given.
        name: String,
        /// Why; part of the message above.
        source: RegistryError,
    },
}

/// A parsed name and the registry that it means.
pub(super) struct Place {
    pub(super) registry: Registry,
    pub(super) reference: Reference,
    /// The name as given, with its tag.
    pub(super) shown: String,
}

/// A first part with a dot, a colon or `localhost` is a host, as in Docker's names.
#[must_use]
pub fn has_host(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

/// Finds out what `name` means to somebody with these credentials.
pub(super) fn place(cluster: Option<&Credentials>, options: &RegistryOptions, name: &str) -> Result<Place, PlaceError> {
    let reference = reference(cluster.map(Credentials::authority), name)?;
    let registry = match cluster {
        Some(cluster) if cluster.authority() == reference.registry() => Registry::of_cluster(cluster),
        _ => Registry::foreign(reference.registry(), options),
    };
    let registry = registry.map_err(|source| PlaceError::Registry { name: name.to_owned(), source })?;
    let shown = if name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        name.to_owned()
    } else {
        format!("{name}:{}", reference.tag().unwrap_or("latest"))
    };
    Ok(Place { registry, reference, shown })
}

fn reference(cluster: Option<&str>, name: &str) -> Result<Reference, PlaceError> {
    let full = match (has_host(name), cluster) {
        (true, _) => name.to_owned(),
        (false, Some(cluster)) => format!("{cluster}/{name}"),
        (false, None) => return Err(PlaceError::NoCluster(name.to_owned())),
    };
    Reference::try_from(full.as_str())
        .map_err(|error| PlaceError::Name { name: name.to_owned(), detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_host_mean_the_cluster() {
        for (name, registry, repository, tag) in [
            ("wait-for:1", "127.0.0.1:6443", "wait-for", "1"),
            ("team/wait-for", "127.0.0.1:6443", "team/wait-for", "latest"),
            ("127.0.0.1:6443/a/b:2", "127.0.0.1:6443", "a/b", "2"),
            ("registry.test:5000/a/b", "registry.test:5000", "a/b", "latest"),
        ] {
            let parsed = reference(Some("127.0.0.1:6443"), name).unwrap();
            assert_eq!(
                (parsed.registry(), parsed.repository(), parsed.tag()),
                (registry, repository, Some(tag)),
                "{name}"
            );
        }
        let error = reference(None, "app:1").unwrap_err().to_string();
        assert!(error.starts_with("app:1 means the cluster's own registry"), "{error}");
        let error = reference(Some("127.0.0.1:6443"), "UPPER case").unwrap_err().to_string();
        assert!(error.starts_with("\"UPPER case\" is no image name"), "{error}");
    }
}
