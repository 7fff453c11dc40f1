//! Label selectors (equality and set-based) and field selectors.

use crate::{ApiError, Kind};
use serde_json::Value;

/// A parsed label selector; the empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    // owner: objects-rules
}

impl LabelSelector {
    /// The query form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// 400 that quotes what could not be read.
    pub fn parse(_text: &str) -> Result<Self, ApiError> {
        unimplemented!("owner: objects-rules")
    }

    /// The object form with `matchLabels` and `matchExpressions`.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn from_object(_selector: &Value) -> Result<Self, ApiError> {
        unimplemented!("owner: objects-rules")
    }

    /// The plain map form of a Service's `spec.selector`; an empty map selects nothing there, which is the caller's rule.
    #[must_use]
    pub fn from_map(_map: &Value) -> Self {
        unimplemented!("owner: objects-rules")
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        unimplemented!("owner: objects-rules")
    }

    /// Whether the labels (a JSON map or null) match.
    #[must_use]
    pub fn matches(&self, _labels: &Value) -> bool {
        unimplemented!("owner: objects-rules")
    }
}

/// A parsed field selector: `metadata.name=x,status.phase!=Running`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    // owner: objects-rules
}

impl FieldSelector {
    /// Parses and checks that `kind` lets these fields be selected.
    ///
    /// # Errors
    /// 400 as Kubernetes words it: `field label not supported: x`.
    pub fn parse(_text: &str, _kind: &Kind) -> Result<Self, ApiError> {
        unimplemented!("owner: objects-rules")
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        unimplemented!("owner: objects-rules")
    }

    /// The value that `field` must equal, if the selector says so.
    #[must_use]
    pub fn required(&self, _field: &str) -> Option<&str> {
        unimplemented!("owner: objects-rules")
    }

    /// Whether the object matches.
    #[must_use]
    pub fn matches(&self, _object: &Value) -> bool {
        unimplemented!("owner: objects-rules")
    }
}
