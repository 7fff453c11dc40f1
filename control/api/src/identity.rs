//! Who asks, and for what.

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// E.g. `admin`, `system:node:one`, `system:kube-scheduler`.
    pub user: String,
    /// E.g. `system:masters`, `system:nodes`, `system:authenticated`.
    pub groups: Vec<String>,
}

/// What an identity wants to do, as RBAC sees it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    /// API group; "" for the core group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
    /// "" for cluster scope or all namespaces.
    pub namespace: &'a str,
    /// "" for collections.
    pub name: &'a str,
    /// The object as stored now, when there is one (nodes may touch only their own pods).
    pub object: Option<&'a serde_json::Value>,
    /// Field selector of a list or watch; "" when there is none.
    pub field_selector: &'a str,
}
