//! What makes two list elements the same, and in which order a merged list comes out.

use serde_json::Value;
use std::collections::HashMap;

/// What tells an element apart: the value of its merge key, or the plain value itself.
pub(crate) fn identity(element: &Value, merge_key: Option<&str>) -> Option<String> {
    match merge_key {
        Some(key) => element.get(key).map(Value::to_string),
        None => Some(element.to_string()),
    }
}

/// Finds elements by identity. Kubernetes' merge keys are not always unique (port 53 for TCP and for UDP), so the
/// first of equals is matched with the first, the second with the second.
pub(crate) struct Occurrences {
    places: HashMap<String, Vec<usize>>,
}

impl Occurrences {
    pub(crate) fn new(elements: &[Value], merge_key: Option<&str>) -> Self {
        let mut places: HashMap<String, Vec<usize>> = HashMap::with_capacity(elements.len());
        for (place, element) in elements.iter().enumerate() {
            if let Some(identity) = identity(element, merge_key) {
                places.entry(identity).or_default().push(place);
            }
        }
        Self { places }
    }

    /// Where the `nth` element with this identity stands.
    pub(crate) fn nth(&self, identity: &str, nth: usize) -> Option<usize> {
        self.places.get(identity)?.get(nth).copied()
    }

    /// Where the first element with this identity stands.
    pub(crate) fn first(&self, identity: &str) -> Option<usize> {
        self.nth(identity, 0)
    }

    /// Whether any element has this identity.
    pub(crate) fn contains(&self, identity: &str) -> bool {
        self.places.contains_key(identity)
    }
}

/// Counts how often each identity came by.
#[derive(Default)]
pub(crate) struct Counter {
    seen: HashMap<String, usize>,
}

impl Counter {
    /// How often `identity` came by before.
    pub(crate) fn next(&mut self, identity: &str) -> usize {
        let count = self.seen.entry(identity.to_owned()).or_default();
        *count += 1;
        *count - 1
    }
}

/// Puts the elements of a merged list in Kubernetes' order: those that `wanted` names in its order, the others in the
/// order of `live`, and between the two as `live` had them where it knew both; what `live` did not know comes first.
pub(crate) fn arrange(merged: Vec<Value>, wanted: &[Value], live: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let wanted = Occurrences::new(wanted, merge_key);
    let live = Occurrences::new(live, merge_key);
    let place =
        |order: &Occurrences, element: &Value| identity(element, merge_key).and_then(|identity| order.first(&identity));
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for element in merged {
        match place(&wanted, &element) {
            Some(rank) => named.push((rank, place(&live, &element), element)),
            None => others.push((place(&live, &element), element)),
        }
    }
    named.sort_by_key(|(rank, _, _)| *rank);
    others.sort_by_key(|(rank, _)| rank.unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, rank, element) in named {
        while let Some(other) = others.next_if(|(other, _)| matches!((other, rank), (Some(a), Some(b)) if *a < b)) {
            result.push(other.1);
        }
        result.push(element);
    }
    result.extend(others.map(|(_, element)| element));
    result
}
