//! Who asks, and for what.

use coracle_objects::nodes;
use std::fmt;

/// Group of those who may do everything.
pub const GROUP_MASTERS: &str = "system:masters";
/// Group of all node agents.
pub const GROUP_NODES: &str = nodes::GROUP;
/// Group that every authenticated user is in.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// The scheduler in the server's process.
pub const USER_SCHEDULER: &str = "system:kube-scheduler";
/// The controllers in the server's process.
pub const USER_CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// Who approves and signs certificates, in the server's process.
pub const USER_SIGNER: &str = "system:coracle-signer";

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// E.g. `admin`, `system:node:one`, `system:kube-scheduler`.
    pub user: String,
    /// E.g. `system:masters`, `system:nodes`, `system:authenticated`.
    pub groups: Vec<String>,
}

impl Identity {
    /// `user` in `groups`, and in the group of all authenticated users.
    #[must_use]
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        if !groups.iter().any(|group| group == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        Self { user: user.into(), groups }
    }

    /// The administrator that `coracle dev` makes credentials for.
    #[must_use]
    pub fn admin() -> Self {
        Self::new("admin", &[GROUP_MASTERS])
    }

    /// The agent of the node called `name`.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::new(nodes::user(name), &[GROUP_NODES])
    }

    /// The scheduler.
    #[must_use]
    pub fn scheduler() -> Self {
        Self::new(USER_SCHEDULER, &[])
    }

    /// The controllers.
    #[must_use]
    pub fn controller_manager() -> Self {
        Self::new(USER_CONTROLLER_MANAGER, &[])
    }

    /// Who approves and signs certificates.
    #[must_use]
    pub fn signer() -> Self {
        Self::new(USER_SIGNER, &[])
    }

    /// Whether it belongs to `group`.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose agent this is.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        nodes::of_user(&self.user).filter(|_| self.is_in(GROUP_NODES))
    }
}

/// What an identity wants to do, as RBAC sees it.
#[derive(Clone, Copy, Default)]
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
    /// "" for collections. For `create` the name that the body asks for, since a node may create only what bears
    /// its own name.
    pub name: &'a str,
    /// The object as stored now (nodes may touch only their own pods). `None` means that there is none: whoever
    /// asks about a named object must look before.
    pub object: Option<&'a serde_json::Value>,
    /// Field selector of a list or watch; "" when there is none.
    pub field_selector: &'a str,
}

impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, subresource, namespace, name, field_selector, .. } = self;
        write!(formatter, "{verb} {group}/{resource}/{subresource} {namespace}/{name} [{field_selector}]")
    }
}
