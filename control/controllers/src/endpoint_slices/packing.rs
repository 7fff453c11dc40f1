//! Distributes endpoints over slices with as few changes as possible.

use super::ENDPOINTS_MAX;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Endpoints that have the same ports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) ports: Value,
    pub(crate) endpoints: Vec<Value>,
}

/// What becomes of slices, and what needs a new one.
#[derive(Debug, Default)]
pub(super) struct Packed<'a> {
    /// Slices that stay, with what is to be in them.
    pub(super) kept: Vec<(&'a Arc<Value>, Group)>,
    /// Contents without a slice.
    pub(super) new: Vec<Group>,
    /// Slices without contents.
    pub(super) spare: Vec<&'a Arc<Value>>,
}

/// The endpoints of a slice; none when the field is missing.
pub(super) fn endpoints_of(slice: &Value) -> Vec<Value> {
    slice["endpoints"].as_array().cloned().unwrap_or_default()
}

/// The ports of a slice; an empty list when the field is missing.
pub(super) fn ports_of(slice: &Value) -> Value {
    slice["ports"].as_array().cloned().unwrap_or_default().into()
}

/// What makes an endpoint the same endpoint: its pod, whatever its condition.
fn identity(endpoint: &Value) -> &str {
    let uid = endpoint["targetRef"]["uid"].as_str();
    uid.or(endpoint["addresses"][0].as_str()).unwrap_or_default()
}

/// Packs `groups` (each with different ports) into `slices`.
pub(super) fn pack<'a>(groups: Vec<Group>, slices: &[&'a Arc<Value>]) -> Packed<'a> {
    let mut packed = Packed::default();
    let mut unused: Vec<&Arc<Value>> = slices.to_vec();
    for group in groups {
        let (matching, others) = unused.into_iter().partition(|slice| ports_of(slice) == group.ports);
        unused = others;
        pack_group(group, matching, &mut packed);
    }
    packed.spare.extend(unused);
    packed
}

fn pack_group<'a>(group: Group, slices: Vec<&'a Arc<Value>>, packed: &mut Packed<'a>) {
    let order: Vec<String> = group.endpoints.iter().map(|endpoint| identity(endpoint).to_owned()).collect();
    let mut waiting: HashMap<String, Value> = order.iter().cloned().zip(group.endpoints).collect();
    let stays = |slice: &'a Arc<Value>, waiting: &mut HashMap<String, Value>| -> Vec<Value> {
        let known = endpoints_of(slice);
        known.iter().take(ENDPOINTS_MAX).filter_map(|endpoint| waiting.remove(identity(endpoint))).collect()
    };
    let mut filled: Vec<(&Arc<Value>, Vec<Value>)> =
        slices.into_iter().map(|slice| (slice, stays(slice, &mut waiting))).collect();
    let mut homeless = order.iter().filter_map(|identity| waiting.remove(identity)).peekable();
    // The fullest first: emptier ones may become free altogether.
    filled.sort_by_key(|(_, endpoints)| std::cmp::Reverse(endpoints.len()));
    for (_, endpoints) in &mut filled {
        let room = ENDPOINTS_MAX.saturating_sub(endpoints.len());
        if !endpoints.is_empty() {
            endpoints.extend(homeless.by_ref().take(room));
        }
    }
    let mut contents: Vec<Vec<Value>> = Vec::new();
    while homeless.peek().is_some() {
        contents.push(homeless.by_ref().take(ENDPOINTS_MAX).collect());
    }
    if contents.is_empty() && filled.iter().all(|(_, endpoints)| endpoints.is_empty()) {
        // An empty group still has its one slice.
        contents.push(Vec::new());
    }
    let mut contents = contents.into_iter();
    for (slice, mut endpoints) in filled {
        if endpoints.is_empty() {
            let Some(content) = contents.next() else {
                packed.spare.push(slice);
                continue;
            };
            endpoints = content;
        }
        packed.kept.push((slice, Group { ports: group.ports.clone(), endpoints }));
    }
    packed.new.extend(contents.map(|endpoints| Group { ports: group.ports.clone(), endpoints }));
}
