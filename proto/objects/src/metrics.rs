//! Kinds of the metrics API (`metrics.k8s.io`): computed from what nodes say of themselves, never stored, never
//! written. Discovery lists them; the catalogue of what is stored does not know them.

use crate::{
    Kind,
    kind::{Column, Verb},
    meta,
};
use serde_json::{Value, json};

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";

const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "CPU", value_type: "string", format: "", priority: 0 },
    Column { name: "Memory", value_type: "string", format: "", priority: 0 },
    Column { name: "Window", value_type: "string", format: "", priority: 0 },
];

const fn kind(
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    cells: fn(&Value, i64) -> Vec<Value>,
) -> Kind {
    Kind {
        namespaced,
        verbs: &[Verb::Get, Verb::List],
        columns: COLUMNS,
        cells,
        ..Kind::unstored(GROUP, VERSION, kind, plural)
    }
}

static NODES: Kind = kind("NodeMetrics", "nodes", false, node_cells);
static PODS: Kind = kind("PodMetrics", "pods", true, pod_cells);

/// `NodeMetrics`.
#[must_use]
pub fn nodes() -> &'static Kind {
    &NODES
}

/// `PodMetrics`.
#[must_use]
pub fn pods() -> &'static Kind {
    &PODS
}

/// Both.
#[must_use]
pub fn all() -> [&'static Kind; 2] {
    [&NODES, &PODS]
}

/// The kind at `/apis/GROUP/VERSION/PLURAL`.
#[must_use]
pub fn by_plural(plural: &str) -> Option<&'static Kind> {
    all().into_iter().find(|kind| kind.plural == plural)
}

/// What something used: CPU in billionths of a core, averaged over some seconds, and memory that it needs now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Billionths of a core.
    pub cpu_nanocores: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

impl Usage {
    /// As the API spells it: a `ResourceList`.
    #[must_use]
    pub fn to_json(self) -> Value {
        let Self { cpu_nanocores, memory_bytes } = self;
        json!({"cpu": format!("{cpu_nanocores}n"), "memory": format!("{}Ki", memory_bytes / 1024)})
    }

    fn from_json(usage: &Value) -> Self {
        let number = |name: &str, unit: &str| {
            usage[name].as_str().and_then(|text| text.strip_suffix(unit)?.parse().ok()).unwrap_or(0_u64)
        };
        Self { cpu_nanocores: number("cpu", "n"), memory_bytes: number("memory", "Ki").saturating_mul(1024) }
    }
}

fn node_cells(object: &Value, _now_seconds: i64) -> Vec<Value> {
    cells(object, Usage::from_json(&object["usage"]))
}

fn pod_cells(object: &Value, _now_seconds: i64) -> Vec<Value> {
    let containers = object["containers"].as_array().into_iter().flatten();
    let total =
        containers.map(|container| Usage::from_json(&container["usage"])).fold(Usage::default(), |sum, one| Usage {
            cpu_nanocores: sum.cpu_nanocores.saturating_add(one.cpu_nanocores),
            memory_bytes: sum.memory_bytes.saturating_add(one.memory_bytes),
        });
    cells(object, total)
}

fn cells(object: &Value, usage: Usage) -> Vec<Value> {
    let total = usage.to_json();
    vec![meta::name(object).into(), total["cpu"].clone(), total["memory"].clone(), object["window"].clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_show_the_sum_of_a_pods_containers() {
        let usage = |cpu_nanocores, memory_bytes| Usage { cpu_nanocores, memory_bytes }.to_json();
        let pod = json!({
            "metadata": {"name": "p"}, "window": "10s",
            "containers": [{"name": "a", "usage": usage(1_000, 2048)}, {"name": "b", "usage": usage(500, 1024)}],
        });
        assert_eq!((pods().cells)(&pod, 0), [json!("p"), json!("1500n"), json!("3Ki"), json!("10s")]);
        let node = json!({"metadata": {"name": "n"}, "window": "10s", "usage": usage(7, 5 << 20)});
        assert_eq!((nodes().cells)(&node, 0), [json!("n"), json!("7n"), json!("5120Ki"), json!("10s")]);
        assert_eq!(by_plural("pods"), Some(pods()));
        assert_eq!(by_plural("services"), None);
    }
}
