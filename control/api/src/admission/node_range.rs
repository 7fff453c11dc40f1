//! The range from which a node's pods get their addresses: a part of the cluster's pod range, given once.
//!
//! ```text
//!  free ──created──▶ held by a name ──deleted──▶ still held by the name ──created again──▶ the same range
//!                                                        └── no other is free ──▶ held by another name
//! ```
//!
//! A range stays with the *name* of its node when the Node object goes: its machine may still run pods with addresses
//! from it, and gets the same range back when it registers again. Another node gets it only when no range is free and it
//! has rested a while, on the condition (in the same command) that no Node of the old name exists.
//!
//! A node that is made for many pods says so when it registers ([`ranges::MAX_PODS_ANNOTATION`]) and gets a larger range.
//! What is held are always the smallest parts of it, so that ranges of all sizes exclude each other.

use super::Claims;
use crate::{
    auth::revocation,
    door::{Door, Target, read_error, stamp},
};
use coracle_objects::{ApiError, Cause, catalogue, meta, ranges};
use coracle_store::{Expect, Op, command::UniqueChange};
use rand::Rng;
use serde_json::{Value, json};
use std::{cell::RefCell, collections::HashMap, net::Ipv4Addr, rc::Rc};

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
    let allocation = Allocation::new(door, &target.name)?;
    let asked = range_of(node).to_owned();
    let (range, claims) = if asked.is_empty() {
        let bits = wanted_bits(target, node)?;
        match allocation.pick(bits)? {
            Some(found) => found,
            None => return Ok(Claims { warnings: vec![ranges::exhausted(&target.name, bits)], ..Claims::default() }),
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

/// How large a range the node asks for.
fn wanted_bits(target: &Target, node: &Value) -> Result<u8, ApiError> {
    let Some(text) = meta::annotation(node, ranges::MAX_PODS_ANNOTATION) else { return Ok(ranges::NODE_RANGE_BITS) };
    text.parse().ok().and_then(ranges::node_range_bits).ok_or_else(|| {
        let path = format!("metadata.annotations[{}]", ranges::MAX_PODS_ANNOTATION);
        let most = (1_u32 << (32 - ranges::LARGEST_NODE_RANGE_BITS)) - ranges::RESERVED_ADDRESSES;
        let cause = Cause::invalid(&path, &Value::from(text), &format!("must be a number of pods, at most {most}"));
        target.kind.invalid(meta::name(node), vec![cause])
    })
}

type Range = (Ipv4Addr, u8);

/// How a range could be had.
enum Access {
    /// All of it is free, or this name's own.
    Free,
    /// Parts of it were those of nodes that are not there any more.
    Abandoned,
    /// A part of it is the named node's.
    Taken(String),
}

struct Allocation<'a> {
    door: &'a Door,
    name: &'a str,
    /// Who holds each of the smallest parts, in order; "" for nobody.
    holders: Vec<Rc<str>>,
    /// How the parts of each holder can be had.
    ends: RefCell<HashMap<Rc<str>, End>>,
}

/// What is known of a holder.
#[derive(Clone, Copy)]
enum End {
    /// Its Node is there, or was a moment ago.
    Not,
    /// Its Node has been gone for long enough.
    Gone,
}

impl<'a> Allocation<'a> {
    fn new(door: &'a Door, name: &'a str) -> Result<Self, ApiError> {
        let mut holders: Vec<Rc<str>> = Vec::new();
        let nobody: Rc<str> = "".into();
        for block in ranges::node_ranges(ranges::SMALLEST_NODE_RANGE_BITS) {
            let holder = door.store().unique_holder(&key(block)).map_err(|error| read_error(&error))?;
            // The parts of one range lie side by side.
            let same = holders.last().filter(|last| holder.as_deref() == Some(&***last)).cloned();
            holders.push(same.or_else(|| holder.map(Rc::from)).unwrap_or_else(|| nobody.clone()));
        }
        Ok(Self { door, name, holders, ends: RefCell::default() })
    }

    /// The smallest parts of a range, with their holders.
    fn parts(&self, range: Range) -> impl Iterator<Item = (Range, &Rc<str>)> {
        let first = (u32::from(range.0) - u32::from(ranges::POD_RANGE.0)) >> (32 - ranges::SMALLEST_NODE_RANGE_BITS);
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        ranges::blocks(range).zip(self.holders.iter().skip(first))
    }

    /// The smallest parts of a range that others hold, or held.
    fn others(&self, range: Range) -> impl Iterator<Item = (Range, &Rc<str>)> {
        self.parts(range).filter(|(_, holder)| !holder.is_empty() && ***holder != *self.name)
    }

    fn access(&self, range: Range) -> Result<Access, ApiError> {
        let mut access = Access::Free;
        for (_, holder) in self.others(range) {
            match self.end_of(holder)? {
                End::Not => return Ok(Access::Taken(holder.to_string())),
                End::Gone => access = Access::Abandoned,
            }
        }
        Ok(access)
    }

    fn end_of(&self, holder: &Rc<str>) -> Result<End, ApiError> {
        if let Some(end) = self.ends.borrow().get(holder) {
            return Ok(*end);
        }
        let store = self.door.store();
        let is_there = store.get(&node_key(holder)).map_err(|error| read_error(&error))?.is_some();
        let deleted_at = revocation::deleted_at(store, holder).map_err(|error| read_error(&error))?;
        let rests = stamp::now_seconds().saturating_sub(deleted_at) < self.door.range_rest_seconds();
        let end = if is_there || rests { End::Not } else { End::Gone };
        self.ends.borrow_mut().insert(Rc::clone(holder), end);
        Ok(end)
    }

    /// The smallest parts that this name holds.
    fn own(&self) -> Vec<Range> {
        let all = ranges::node_ranges(ranges::SMALLEST_NODE_RANGE_BITS).zip(&self.holders);
        all.filter(|(_, holder)| ***holder == *self.name).map(|(block, _)| block).collect()
    }

    /// The range that this name had before, or else a free one, or else one whose nodes are gone. Where there is a
    /// choice it is random, so that servers that choose at the same time seldom meet.
    fn pick(&self, bits: u8) -> Result<Option<(String, Claims)>, ApiError> {
        let own = self.own();
        let all = ranges::node_ranges(bits);
        let is_own = |range: &Range| self.parts(*range).all(|(_, holder)| **holder == *self.name);
        if let Some(range) = all.clone().find(is_own) {
            return Ok(Some((ranges::text(range), self.claim(range, &own))));
        }
        let (mut free, mut abandoned) = (Vec::new(), Vec::new());
        for range in all.clone() {
            match self.access(range)? {
                Access::Free => free.push(range),
                Access::Abandoned => abandoned.push(range),
                Access::Taken(_) => {}
            }
        }
        // The first node of a cluster gets the first range.
        let chosen = if free.len() == all.len() { 0 } else { any(free.len()) };
        let Some(range) = free.get(chosen).or_else(|| abandoned.get(any(abandoned.len()))) else { return Ok(None) };
        Ok(Some((ranges::text(*range), self.claim(*range, &own))))
    }

    /// A range that somebody asked for by name. The inner error says why it cannot be had.
    fn named(&self, text: &str) -> Result<Result<Claims, String>, ApiError> {
        let sizes = ranges::LARGEST_NODE_RANGE_BITS..=ranges::SMALLEST_NODE_RANGE_BITS;
        let known = |range: &Range| sizes.contains(&range.1) && ranges::node_ranges(range.1).any(|one| one == *range);
        let Some(range) = ranges::parse(text).filter(known) else {
            let (least, most) = (ranges::LARGEST_NODE_RANGE_BITS, ranges::SMALLEST_NODE_RANGE_BITS);
            let all = ranges::text(ranges::POD_RANGE);
            return Ok(Err(format!("must be one of the ranges with a prefix from /{least} to /{most} in {all}")));
        };
        Ok(match self.access(range)? {
            Access::Free | Access::Abandoned => Ok(self.claim(range, &self.own())),
            Access::Taken(holder) => Err(format!("provided range is already allocated to node {holder}")),
        })
    }

    /// Takes all parts of a range and gives back what else this name holds: it had a range of another size.
    fn claim(&self, range: Range, own: &[Range]) -> Claims {
        let mut claims = Claims::default();
        let mut checked: Option<&Rc<str>> = None;
        for (block, former) in self.others(range) {
            // Taken for the former holder first, which fails when a third one was faster.
            claims.uniques.push(UniqueChange { key: key(block), holder: Some(former.to_string()) });
            claims.uniques.push(UniqueChange { key: key(block), holder: None });
            let check = Op::Check { key: node_key(former), expect: Expect::Absent };
            if checked != Some(former) && !claims.checks.contains(&check) {
                claims.checks.push(check);
            }
            checked = Some(former);
        }
        for block in own.iter().filter(|block| !ranges::contains(range, block.0)) {
            claims.uniques.push(UniqueChange { key: key(*block), holder: None });
        }
        let mine = |block| UniqueChange { key: key(block), holder: Some(self.name.to_owned()) };
        claims.uniques.extend(ranges::blocks(range).map(mine));
        claims
    }
}

/// A random index below `count`, or 0.
fn any(count: usize) -> usize {
    if count == 0 { 0 } else { rand::rng().random_range(0..count) }
}

fn key(block: Range) -> String {
    format!("podcidr/{}", ranges::text(block))
}

fn node_key(name: &str) -> coracle_store::Key {
    Target::object(catalogue::nodes(), "", name).key()
}

#[cfg(test)]
mod tests;
