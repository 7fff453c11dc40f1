//! Requests and limits: what may be asked for, what a pod asks for as a whole, and the class that follows from it.

use super::{
    super::{
        Causes, Path,
        access::{list, map_len, pairs},
    },
    container::is_sidecar,
};
use crate::{names::Spelling, quantity::Quantity};
use serde_json::Value;
use std::collections::BTreeMap;

/// Amounts by resource name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, Quantity>);

impl Resources {
    /// The amount of one resource; none is zero.
    #[must_use]
    pub fn get(&self, resource: &str) -> Quantity {
        self.0.get(resource).copied().unwrap_or_default()
    }

    /// Thousandths of a CPU, rounded up.
    #[must_use]
    pub fn cpu_milli(&self) -> i64 {
        self.get("cpu").milli()
    }

    /// Bytes of memory, rounded up.
    #[must_use]
    pub fn memory_bytes(&self) -> i64 {
        self.get("memory").ceil()
    }

    /// Bytes of local storage, rounded up.
    #[must_use]
    pub fn ephemeral_storage_bytes(&self) -> i64 {
        self.get("ephemeral-storage").ceil()
    }

    /// All amounts, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Quantity)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn read(owner: &Value, field: &str) -> Self {
        let amounts = pairs(owner, field)
            .filter_map(|(name, amount)| Quantity::from_value(amount).ok().map(|quantity| (name.to_owned(), quantity)));
        Self(amounts.collect())
    }

    fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.get(name).saturating_add(*amount);
            self.0.insert(name.clone(), sum);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if !self.0.contains_key(name) || self.get(name) < *amount {
                self.0.insert(name.clone(), *amount);
            }
        }
    }
}

/// What the whole pod asks for: all that run together, which are app containers and sidecars; or what an init container
/// needs beside the sidecars that began before it, if that is more; and the overhead. The scheduler counts with it and
/// `describe` shows it.
#[must_use]
pub fn requests(pod: &Value) -> Resources {
    effective(pod, "requests")
}

/// What the whole pod may use, by the same rule.
#[must_use]
pub fn limits(pod: &Value) -> Resources {
    effective(pod, "limits")
}

fn effective(pod: &Value, field: &str) -> Resources {
    let spec = &pod["spec"];
    let mut total = Resources::default();
    for container in list(spec, "containers") {
        total.add(&Resources::read(&container["resources"], field));
    }
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in list(spec, "initContainers") {
        let own = Resources::read(&container["resources"], field);
        let mut at_once = sidecars.clone();
        at_once.add(&own);
        starting.raise_to(&at_once);
        if is_sidecar(container) {
            sidecars.add(&own);
        }
    }
    total.add(&sidecars);
    total.raise_to(&starting);
    let mut overhead = Resources::read(spec, "overhead");
    if field == "limits" {
        // Overhead is no limit of its own: it widens those that are there.
        overhead.0.retain(|name, _| total.0.contains_key(name));
    }
    total.add(&overhead);
    total
}

/// How likely a pod is to be ended when a node runs out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, equal to its requests.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl QosClass {
    /// As `status.qosClass` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod, by its containers' and init containers' CPU and memory.
#[must_use]
pub fn qos_class(pod: &Value) -> QosClass {
    let spec = &pod["spec"];
    let counted = |owner: &Value, field: &str| {
        let mut amounts = Resources::read(owner, field);
        amounts.0.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO);
        amounts
    };
    let (mut requests, mut limits, mut all_limited) = (Resources::default(), Resources::default(), true);
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        let limited = counted(&container["resources"], "limits");
        all_limited &= limited.0.len() == 2;
        limits.add(&limited);
        requests.add(&counted(&container["resources"], "requests"));
    }
    if requests.is_empty() && limits.is_empty() {
        QosClass::BestEffort
    } else if all_limited && requests == limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// Names of resources that Kubernetes itself defines have no domain, or its own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && Spelling::QualifiedName.allows(&format!("requests.{name}"))
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn check_name(path: &Path, name: &str, causes: &mut Causes) {
    let before = causes.len();
    causes.spelled(path, name, Spelling::QualifiedName);
    if causes.len() > before {
        return;
    }
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            causes.invalid(path, name, "must be a standard resource type or fully qualified");
            causes.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        causes.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn check_amount(path: &Path, name: &str, amount: &Value, causes: &mut Causes) -> Option<Quantity> {
    match Quantity::from_value(amount) {
        Err(error) => {
            causes.invalid(path, amount.clone(), &error.to_string());
            None
        }
        Ok(quantity) => {
            if quantity.is_negative() {
                causes.invalid(path, quantity.to_string(), "must be greater than or equal to 0");
            }
            if is_extended(name) && !quantity.is_whole() {
                causes.invalid(path, quantity.to_string(), "must be an integer");
            }
            Some(quantity)
        }
    }
}

/// `resources` of a container: names, amounts, and requests within limits.
pub(super) fn check(resources: &Value, path: &Path, causes: &mut Causes) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    for (name, amount) in pairs(resources, "limits") {
        if causes.is_full() {
            return;
        }
        check_name(&limits_path.key(name), name, causes);
        check_amount(&limits_path.key(name), name, amount, causes);
    }
    for (name, amount) in pairs(resources, "requests") {
        if causes.is_full() {
            return;
        }
        check_name(&requests_path.key(name), name, causes);
        let Some(request) = check_amount(&requests_path.key(name), name, amount, causes) else { continue };
        let limit = resources["limits"].get(name).map(Quantity::from_value);
        let overcommits = is_native(name) && !is_huge_page(name);
        match limit {
            Some(Ok(limit)) if !overcommits && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                causes.invalid(&requests_path, request.to_string(), &detail);
            }
            Some(Ok(limit)) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                causes.invalid(&requests_path, request.to_string(), &detail);
            }
            None if !overcommits => causes.required(&limits_path, "Limit must be set for non overcommitable resources"),
            _ => {}
        }
    }
    if map_len(resources, "claims") > 0 || !list(resources, "claims").is_empty() {
        causes.forbidden(&path.child("claims"), "resource claims are not supported");
    }
}

/// `overhead` of a pod: amounts as in limits.
pub(super) fn check_overhead(spec: &Value, path: &Path, causes: &mut Causes) {
    for (name, amount) in pairs(spec, "overhead") {
        if causes.is_full() {
            return;
        }
        check_name(&path.key(name), name, causes);
        check_amount(&path.key(name), name, amount, causes);
    }
}
