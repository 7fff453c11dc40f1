//! What a request is about and how it wants to be treated; the same for HTTP, gRPC and in-process callers.

use bytes::Bytes;
use coracle_objects::{
    ApiError, Kind, decode,
    fields::{self, Checked, FieldValidation},
    kind::Verb,
};
use coracle_store::Key;
use serde_json::Value;

/// An object, a collection, or a path below an object.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which kind.
    pub kind: &'static Kind,
    /// "" for cluster-scoped kinds, and for all namespaces.
    pub namespace: String,
    /// "" for collections.
    pub name: String,
    /// "" for the object itself.
    pub subresource: &'static str,
}

impl Target {
    /// The whole collection, of one namespace or ("") of all.
    #[must_use]
    pub fn collection(kind: &'static Kind, namespace: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: String::new(), subresource: "" }
    }

    /// One object.
    #[must_use]
    pub fn object(kind: &'static Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into(), subresource: "" }
    }

    /// Resolves a subresource by name.
    ///
    /// # Errors
    /// 404 when the kind has none of that name.
    pub fn with_subresource(mut self, name: &str) -> Result<Self, ApiError> {
        if !name.is_empty() {
            let found = self.kind.subresource(name).ok_or_else(|| self.kind.not_found(&self.name))?;
            self.subresource = found.name;
        }
        Ok(self)
    }

    /// Where the object is kept.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::object(self.kind.group, self.kind.plural, &self.namespace, &self.name)
    }

    /// The key prefix of everything a list or watch of this target may see. `name` narrows it to one object's
    /// neighbourhood; callers still filter, because it is a prefix.
    #[must_use]
    pub fn prefix(&self, name: Option<&str>) -> String {
        let namespace = if self.kind.namespaced && self.namespace.is_empty() { None } else { Some(&*self.namespace) };
        let mut prefix = Key::prefix(self.kind.group, self.kind.plural, namespace);
        if let (Some(name), Some(_)) = (name, namespace) {
            prefix.push_str(name);
        }
        prefix
    }

    /// Refuses what the catalogue says does not work here.
    ///
    /// # Errors
    /// 405.
    pub fn require(&self, verb: Verb) -> Result<(), ApiError> {
        let allowed = match self.kind.subresource(self.subresource) {
            // Connections have doors of their own; nothing is read or written through them as objects are.
            Some(subresource) => !subresource.connects() && subresource.verbs.contains(&verb),
            None => self.kind.allows(verb),
        };
        if allowed { Ok(()) } else { Err(method_not_allowed()) }
    }

    /// 409 for this object.
    #[must_use]
    pub fn modified(&self) -> ApiError {
        let detail = "the object has been modified; please apply your changes to the latest version and try again";
        self.kind.conflict(&self.name, detail)
    }
}

/// 405 as kube-apiserver words it.
#[must_use]
pub(crate) fn method_not_allowed() -> ApiError {
    ApiError::new(
        coracle_objects::Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

/// How a write is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Do everything but keep the result.
    pub dry_run: bool,
    /// What happens to unknown and duplicate fields.
    pub validation: FieldValidation,
}

/// An object as it was handed in.
#[derive(Debug, Clone)]
pub enum Body {
    /// JSON.
    Json(Bytes),
    /// From code in this process.
    Value(Value),
}

impl Body {
    /// The checked and pruned object.
    ///
    /// # Errors
    /// 400 when it is no object of `kind`.
    pub fn decode(self, kind: &Kind, validation: FieldValidation) -> Result<Checked, ApiError> {
        match self {
            Self::Json(bytes) => decode::object(kind, &bytes, validation),
            Self::Value(value) => fields::check(kind, value, validation),
        }
    }
}

/// What a write left behind.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as stored (or, for a dry run, as it would be).
    pub bytes: Bytes,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
    /// Whether anything was written (or would be, were it not for the dry run).
    pub changed: bool,
}

/// What a deletion left behind.
#[derive(Debug, Clone)]
pub struct Removed {
    /// The object as it stays, or as it last was.
    pub bytes: Bytes,
    /// Whether it is gone.
    pub gone: bool,
}

/// Conditions and manner of a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `None`: the object's own.
    pub grace_period_seconds: Option<i64>,
    /// Only if the object still has this uid.
    pub uid: Option<String>,
    /// Only if the object is still at this resource version.
    pub resource_version: Option<String>,
    /// Do everything but keep the result.
    pub dry_run: bool,
    /// What the object owns stays and forgets its owner.
    pub orphans: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::catalogue;

    #[test]
    fn prefixes_cover_what_is_asked_for() {
        let pods = catalogue::pods();
        assert_eq!(Target::collection(pods, "").prefix(None), "/pods/");
        assert_eq!(Target::collection(pods, "").prefix(Some("x")), "/pods/", "a name alone does not narrow");
        assert_eq!(Target::collection(pods, "a").prefix(None), "/pods/a/");
        assert_eq!(Target::collection(pods, "a").prefix(Some("x")), "/pods/a/x");
        assert_eq!(Target::collection(catalogue::nodes(), "").prefix(None), "/nodes//");
        assert_eq!(Target::object(catalogue::nodes(), "", "one").key().0, "/nodes//one");
    }
}
