//! What the catalogue says of one kind.

use crate::{ApiError, Cause};
use serde_json::Value;

/// What may be done with a kind, as discovery spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// POST to the collection.
    Create,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
    /// GET of one object.
    Get,
    /// GET of the collection.
    List,
    /// PATCH.
    Patch,
    /// PUT.
    Update,
    /// Watch.
    Watch,
}

impl Verb {
    /// The spelling in discovery.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// A path below an object, e.g. `pods/x/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `log`, `binding`, `eviction`, `finalize`, `exec`.
    pub name: &'static str,
    /// Kind of its body, e.g. `Pod`, `Binding`.
    pub kind: &'static str,
    /// What works on it.
    pub verbs: &'static [Verb],
}

impl Subresource {
    /// Whether it opens a connection (Kubernetes' `connect`): then there is no body, and the kind names the options
    /// that come as query parameters.
    #[must_use]
    pub fn connects(&self) -> bool {
        matches!(self.name, "attach" | "exec" | "portforward" | "proxy")
    }

    /// Group, version and kind of its body: of the parent's group, but for evictions.
    #[must_use]
    pub fn body(&self, parent: &Kind) -> (&'static str, &'static str, &'static str) {
        match self.name {
            "eviction" => ("policy", "v1", self.kind),
            _ => (parent.group, parent.version, self.kind),
        }
    }
}

/// A printed column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading as in `Table.columnDefinitions[].name`.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub value_type: &'static str,
    /// OpenAPI format; `name` for the first column.
    pub format: &'static str,
    /// 0: always; 1: only with `-o wide`.
    pub priority: u8,
}

/// What a kind means: one row of the catalogue.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What works on the kind itself.
    pub verbs: &'static [Verb],
    /// Paths below an object.
    pub subresources: &'static [Subresource],
    /// Columns of `kubectl get`.
    pub columns: &'static [Column],
    /// Cells of one object in the order of `columns`; `now_seconds` is Unix time, for ages.
    pub cells: fn(object: &Value, now_seconds: i64) -> Vec<Value>,
    /// Fields other than `metadata.name` and `metadata.namespace` that a field selector may name.
    pub selectable_fields: &'static [&'static str],
    /// Fills in Kubernetes' defaults; idempotent.
    pub default: fn(object: &mut Value),
    /// What a creator may not decide is reset here (status, allocated fields), as Kubernetes' strategies do.
    pub prepare_create: fn(object: &mut Value),
    /// Carries over from `old` what this (sub)resource may not change. `subresource` is "" for the object itself.
    pub prepare_update: fn(new: &mut Value, old: &Value, subresource: &str),
    /// Everything wrong with a new, defaulted object.
    pub validate_create: fn(object: &Value) -> Vec<Cause>,
    /// Everything wrong with a change.
    pub validate_update: fn(new: &Value, old: &Value, subresource: &str) -> Vec<Cause>,
}

impl Kind {
    /// A kind of which nothing is stored, so that no rule applies to it: cluster-wide and without verbs or columns, which
    /// whoever has one says.
    #[must_use]
    pub(crate) const fn unstored(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            kind,
            plural,
            singular: "",
            short_names: &[],
            categories: &[],
            namespaced: false,
            verbs: &[],
            subresources: &[],
            columns: &[],
            cells: |_, _| Vec::new(),
            selectable_fields: &[],
            default: |_| {},
            prepare_create: |_| {},
            prepare_update: |_, _, _| {},
            validate_create: |_| Vec::new(),
            validate_update: |_, _, _| Vec::new(),
        }
    }

    /// `v1` or `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether `verb` works on the kind itself.
    #[must_use]
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource called `name`.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// 404 for an object of this kind.
    #[must_use]
    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(self.group, self.plural, name)
    }

    /// 409 for an object of this kind.
    #[must_use]
    pub fn already_exists(&self, name: &str) -> ApiError {
        ApiError::already_exists(self.group, self.plural, name)
    }

    /// 409 for an object of this kind.
    #[must_use]
    pub fn conflict(&self, name: &str, detail: &str) -> ApiError {
        ApiError::conflict(self.group, self.plural, name, detail)
    }

    /// 422 for an object of this kind.
    #[must_use]
    pub fn invalid(&self, name: &str, causes: Vec<Cause>) -> ApiError {
        ApiError::invalid(self.group, self.kind, name, causes)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.group == other.group && self.version == other.version && self.kind == other.kind
    }
}

impl Eq for Kind {}
