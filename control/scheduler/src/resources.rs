//! CPU and memory by which nodes are compared.

use coracle_objects::resources::{requests_of, total};
use serde_json::Value;

/// What a container without a request counts as when nodes are compared (never when they are filtered), as in
/// kube-scheduler: otherwise any number of such pods would look free.
const ASSUMED_CPU_MILLI: i64 = 100;
const ASSUMED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// CPU and memory by which nodes are compared: containers without a request count as a small one.
#[must_use]
pub fn assumed(spec: &Value) -> (i64, i64) {
    let resources = total(spec, |container| {
        let mut needs = requests_of(container);
        let requests = &container["resources"]["requests"];
        if requests["cpu"].is_null() {
            needs.cpu_milli = ASSUMED_CPU_MILLI;
        }
        if requests["memory"].is_null() {
            needs.memory = ASSUMED_MEMORY_BYTES;
        }
        needs
    });
    (resources.cpu_milli, resources.memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn containers_without_requests_count_when_nodes_are_compared() {
        assert_eq!(assumed(&json!({"containers": [{}, container("1", "1Mi")]})), (1100, (200 << 20) + (1 << 20)));
        let zero = json!({"containers": [container("0", "0")]});
        assert_eq!(assumed(&zero), (0, 0), "an explicit zero stays zero");
    }
}
