//! The range from which a node's pods get their addresses: a part of the cluster's pod range, given once.
//!
//! ```text
//!  free ──created──▶ held by a name ──deleted──▶ still held by the name ──created again──▶ the same range
//!                                                        └── no other is free ──▶ held by another name
//! ```
//!
//! A range stays with the *name* of its node when the Node object goes: its machine may still run pods with addresses
//! from it, and gets the same range back when it registers again. Another node gets it only when no range is free, on
//! the condition (in the same command) that no Node of the old name exists.

use super::Claims;
use crate::door::{Door, Target, read_error};
use coracle_objects::{ApiError, Cause, catalogue, meta, ranges};
use coracle_store::{Expect, Op, command::UniqueChange};
use rand::Rng;
use serde_json::{Value, json};

/// One field and the list that has superseded it.
const FIELDS: [&str; 2] = ["podCIDR", "podCIDRs"];

/// The range asked for or held; "" when there is none.
fn range_of(node: &Value) -> &str {
    let spec = &node["spec"];
    let single = spec["podCIDR"].as_str().unwrap_or_default();
    if single.is_empty() { spec["podCIDRs"][0].as_str().unwrap_or_default() } else { single }
}

/// Keeps the range where a change does not mention it.
pub(super) fn carry_allocated(new: &mut Value, old: &Value) {
    let held = range_of(old);
    if held.is_empty() || !range_of(new).is_empty() || !new.is_object() {
        return;
    }
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    for field in FIELDS {
        if let Some(value) = old["spec"].get(field) {
            new["spec"][field] = value.clone();
        }
    }
}

/// Gives a node its range where it has none yet; answers what is taken.
pub(super) fn allocate(
    door: &Door,
    target: &Target,
    node: &mut Value,
    old: Option<&Value>,
) -> Result<Claims, ApiError> {
    // A range once given does not change: validation refuses other values.
    if old.is_some_and(|old| !range_of(old).is_empty()) || !node.is_object() {
        return Ok(Claims::default());
    }
    let allocation = Allocation { door, name: &target.name };
    let asked = range_of(node).to_owned();
    let (range, claims) = if asked.is_empty() {
        match allocation.pick()? {
            Some(found) => found,
            None => return Ok(Claims { warnings: vec![exhausted(&target.name)], ..Claims::default() }),
        }
    } else {
        let claims = allocation.named(&asked)?.map_err(|detail| {
            let cause = Cause::invalid("spec.podCIDRs[0]", &Value::from(asked.as_str()), &detail);
            target.kind.invalid(meta::name(node), vec![cause])
        })?;
        (asked, claims)
    };
    if !node["spec"].is_object() {
        node["spec"] = json!({});
    }
    let spec = &mut node["spec"];
    spec["podCIDR"] = Value::from(range.as_str());
    if spec["podCIDRs"].as_array().is_none_or(Vec::is_empty) {
        spec["podCIDRs"] = json!([range]);
    }
    Ok(claims)
}

fn exhausted(name: &str) -> String {
    let (count, all) = (ranges::node_ranges().len(), ranges::text(ranges::POD_RANGE));
    format!(
        "node {name} has no spec.podCIDR, and pods on it get no addresses: all {count} ranges (/{}) of {all} belong to other nodes",
        ranges::NODE_RANGE_BITS
    )
}

/// How a range could be had.
enum Access {
    /// It is free, or this name's own.
    Free,
    /// It was that of a node that is not there any more.
    Abandoned(String),
    /// It is the named node's.
    Taken(String),
}

struct Allocation<'a> {
    door: &'a Door,
    name: &'a str,
}

impl Allocation<'_> {
    fn holder(&self, range: &str) -> Result<Option<String>, ApiError> {
        self.door.store().unique_holder(&key(range)).map_err(|error| read_error(&error))
    }

    fn access(&self, range: &str) -> Result<Access, ApiError> {
        let Some(holder) = self.holder(range)?.filter(|holder| holder != self.name) else { return Ok(Access::Free) };
        let found = self.door.store().get(&node_key(&holder)).map_err(|error| read_error(&error))?;
        Ok(if found.is_some() { Access::Taken(holder) } else { Access::Abandoned(holder) })
    }

    /// The range that this name had before, or else a free one, or else one whose node is gone. Where there is a
    /// choice it is random, so that servers that choose at the same time seldom meet.
    fn pick(&self) -> Result<Option<(String, Claims)>, ApiError> {
        let (mut free, mut abandoned) = (Vec::new(), Vec::new());
        for range in ranges::node_ranges().map(ranges::text) {
            if self.holder(&range)?.is_some_and(|holder| holder == self.name) {
                return Ok(Some((range.clone(), self.claim(&range, None))));
            }
            match self.access(&range)? {
                Access::Free => free.push(range),
                Access::Abandoned(holder) => abandoned.push((range, holder)),
                Access::Taken(_) => {}
            }
        }
        // The first node of a cluster gets the first range.
        let chosen = if free.len() == ranges::node_ranges().len() { 0 } else { any(free.len()) };
        if let Some(range) = free.get(chosen) {
            return Ok(Some((range.clone(), self.claim(range, None))));
        }
        let chosen = abandoned.get(any(abandoned.len()));
        Ok(chosen.map(|(range, holder)| (range.clone(), self.claim(range, Some(holder)))))
    }

    /// A range that somebody asked for by name. The inner error says why it cannot be had.
    fn named(&self, range: &str) -> Result<Result<Claims, String>, ApiError> {
        if !ranges::node_ranges().any(|one| ranges::text(one) == range) {
            let (bits, all) = (ranges::NODE_RANGE_BITS, ranges::text(ranges::POD_RANGE));
            return Ok(Err(format!("must be one of the ranges with prefix /{bits} in {all}")));
        }
        Ok(match self.access(range)? {
            Access::Free => Ok(self.claim(range, None)),
            Access::Abandoned(holder) => Ok(self.claim(range, Some(&holder))),
            Access::Taken(holder) => Err(format!("provided range is already allocated to node {holder}")),
        })
    }

    fn claim(&self, range: &str, former: Option<&str>) -> Claims {
        let mut claims = Claims::default();
        if let Some(former) = former {
            // Taken for the former holder first, which fails when a third one was faster.
            claims.uniques.push(UniqueChange { key: key(range), holder: Some(former.to_owned()) });
            claims.uniques.push(UniqueChange { key: key(range), holder: None });
            claims.checks.push(Op::Check { key: node_key(former), expect: Expect::Absent });
        }
        claims.uniques.push(UniqueChange { key: key(range), holder: Some(self.name.to_owned()) });
        claims
    }
}

/// A random index below `count`, or 0.
fn any(count: usize) -> usize {
    if count == 0 { 0 } else { rand::rng().random_range(0..count) }
}

fn key(range: &str) -> String {
    format!("podcidr/{range}")
}

fn node_key(name: &str) -> coracle_store::Key {
    Target::object(catalogue::nodes(), "", name).key()
}

#[cfg(test)]
mod tests;
