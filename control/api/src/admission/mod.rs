//! What is checked and filled in between decoding and storing: namespace life cycle, addresses and ports of
//! services, address ranges of nodes, bindings, evictions, tolerations of pods, sizes.
//!
//! What must be unique in the cluster is claimed by unique keys in the same command that writes the object, so that
//! two servers can never give the same address twice.

pub(crate) mod binding;
pub(crate) mod certificate;
pub(crate) mod default_tolerations;
pub(crate) mod eviction;
pub(crate) mod namespace;
pub(crate) mod node;
mod node_range;
pub(crate) mod node_writes;
mod ranges;
mod service;

use crate::door::{Door, Target, encode::Encoded};
use coracle_objects::{ApiError, Reason, catalogue};
use coracle_store::{Op, command::UniqueChange};
use serde_json::Value;

/// Largest encoded object, as etcd's default limit makes it for kube-apiserver.
const MAX_OBJECT_BYTES: usize = 1_572_864;

/// What a change takes and gives back.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Unique keys.
    pub(crate) uniques: Vec<UniqueChange>,
    /// What must still hold of other objects when the change applies.
    pub(crate) checks: Vec<Op>,
    /// For the client.
    pub(crate) warnings: Vec<String>,
}

/// Whether objects of this kind are given something that is unique in the cluster.
pub(crate) fn allocates(target: &Target) -> bool {
    target.kind == catalogue::services() || target.kind == catalogue::nodes()
}

/// Fills in what pods are given beyond their kind's own defaults: on this path nothing is allotted.
pub(crate) fn complete(door: &Door, target: &Target, object: &mut Value) {
    if target.kind == catalogue::pods() && target.subresource.is_empty() {
        door.tolerations().apply(object);
    }
}

/// Fills in what the cluster allots to a new object, or to one that `old` becomes.
pub(crate) fn allocate(
    door: &Door,
    target: &Target,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Claims, ApiError> {
    if target.kind == catalogue::services() {
        let uniques = service::allocate(door, target, object, old)?;
        Ok(Claims { uniques, ..Claims::default() })
    } else if target.kind == catalogue::nodes() {
        let mut claims = node_range::allocate(door, target, object, old)?;
        certificate::stamp_since(door, target, object, old, &mut claims)?;
        Ok(claims)
    } else {
        Ok(Claims::default())
    }
}

/// Admits a change; answers what it takes and gives back.
pub(crate) fn admit_update(door: &Door, target: &Target, new: &mut Value, old: &Value) -> Result<Claims, ApiError> {
    if target.subresource.is_empty() { allocate(door, target, new, Some(old)) } else { Ok(Claims::default()) }
}

/// Keeps what had been allotted where the change does not mention it.
pub(crate) fn carry_allocated(target: &Target, new: &mut Value, old: &Value) {
    if target.kind == catalogue::services() {
        service::carry_allocated(new, old);
    } else if target.kind == catalogue::nodes() {
        node_range::carry_allocated(new, old);
    }
}

/// What the end of an object gives back. A node's range stays with its name: see [`node_range`].
pub(crate) fn release(target: &Target, old: &Value) -> Vec<UniqueChange> {
    if target.kind == catalogue::services() { service::release(old) } else { Vec::new() }
}

/// Refuses objects that are too large to keep.
pub(crate) fn check_size(target: &Target, encoded: &Encoded) -> Result<(), ApiError> {
    let bytes = encoded.bytes.len();
    if bytes <= MAX_OBJECT_BYTES {
        return Ok(());
    }
    let (kind, name) = (target.kind.kind, &target.name);
    let message = format!("{kind} \"{name}\" is too large: {bytes} bytes, the limit is {MAX_OBJECT_BYTES} bytes");
    Err(ApiError::new(Reason::RequestEntityTooLarge, message))
}
