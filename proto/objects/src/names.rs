//! Names that must not be swapped, and Kubernetes' rules for spelling them.

use std::fmt;

/// Where an object is: namespace ("" for cluster-scoped kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// "" for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// A namespaced object.
    #[must_use]
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// A cluster-scoped object.
    #[must_use]
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            formatter.write_str(&self.name)
        } else {
            write!(formatter, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Whether `text` is an RFC 1123 label (at most 63 of `[a-z0-9-]`, alphanumeric at both ends); `Err` is Kubernetes' text.
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn dns_label(_text: &str) -> Result<(), String> {
    unimplemented!("owner: objects-rules")
}

/// Whether `text` is an RFC 1123 subdomain (at most 253).
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn dns_subdomain(_text: &str) -> Result<(), String> {
    unimplemented!("owner: objects-rules")
}
