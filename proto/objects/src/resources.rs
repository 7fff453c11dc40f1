//! Amounts of resources as integers: what pods ask for, what nodes have. Pure; by it pods are placed, and shown.

use crate::quantity::Quantity;
use serde_json::Value;

/// Amounts of each resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Millicores.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Others by name, ordered.
    pub extended: Vec<(Box<str>, i64)>,
}

impl Resources {
    /// Reads a resource list such as `status.allocatable`. `pods` is not among the resources. What is no quantity
    /// counts as nothing: the API has refused it.
    #[must_use]
    pub fn from_list(list: &Value) -> Self {
        let mut resources = Self::default();
        for (name, value) in list.as_object().into_iter().flatten() {
            let quantity = Quantity::from_value(value).unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity.milli(),
                "memory" => resources.memory = quantity.ceil(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.ceil(),
                "pods" => {}
                _ => *resources.extended_mut(name) = quantity.ceil(),
            }
        }
        resources
    }

    /// The amount of an extended resource.
    #[must_use]
    pub fn extended(&self, name: &str) -> i64 {
        self.place(name).map_or(0, |place| self.extended[place].1)
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.extended.binary_search_by(|(other, _)| (**other).cmp(name))
    }

    fn extended_mut(&mut self, name: &str) -> &mut i64 {
        let place = match self.place(name) {
            Ok(place) => place,
            Err(place) => {
                self.extended.insert(place, (name.into(), 0));
                place
            }
        };
        &mut self.extended[place].1
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each amount to that of `other` where that is more.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let mine = self.extended_mut(name);
            *mine = with(*mine, *amount);
        }
    }
}

fn is_sidecar(init_container: &Value) -> bool {
    init_container["restartPolicy"] == "Always"
}

/// What a pod needs of a node: its app containers and sidecars together, or the init container that needs most (with the
/// sidecars started before it) if that is more, plus overhead. See Kubernetes' "resource sharing within containers".
pub fn total(spec: &Value, of_container: impl Fn(&Value) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in spec["containers"].as_array().into_iter().flatten() {
        running.add(&of_container(container));
    }
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        let needs = of_container(container);
        let mut at_once = sidecars.clone();
        at_once.add(&needs);
        starting.raise_to(&at_once);
        if is_sidecar(container) {
            sidecars.add(&needs);
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    running.add(&Resources::from_list(&spec["overhead"]));
    running
}

/// What one container asks for.
#[must_use]
pub fn requests_of(container: &Value) -> Resources {
    Resources::from_list(&container["resources"]["requests"])
}

/// What a pod asks for.
#[must_use]
pub fn requested(spec: &Value) -> Resources {
    total(spec, requests_of)
}

/// What a pod may use at most; what has no limit counts as nothing.
#[must_use]
pub fn limited(spec: &Value) -> Resources {
    total(spec, |container| Resources::from_list(&container["resources"]["limits"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn sidecar(cpu: &str, memory: &str) -> Value {
        let mut container = container(cpu, memory);
        container["restartPolicy"] = "Always".into();
        container
    }

    #[test]
    fn a_pod_needs_its_containers_together_or_its_largest_init_container() {
        let table = [
            ("apps add up", json!({"containers": [container("100m", "1Mi"), container("0.2", "1Mi")]}), (300, 2)),
            (
                "an init container may need more of one resource",
                json!({"containers": [container("100m", "8Mi")], "initContainers": [container("1", "1Mi"), container("2", "2Mi")]}),
                (2000, 8),
            ),
            (
                "sidecars count beside apps and beside later init containers",
                json!({
                    "containers": [container("100m", "1Mi")],
                    "initContainers": [container("350m", "1Mi"), sidecar("200m", "4Mi"), container("250m", "2Mi")],
                }),
                (450, 6),
            ),
            (
                "overhead is added",
                json!({"containers": [container("1", "1Mi")], "overhead": {"cpu": "50m"}}),
                (1050, 1),
            ),
            ("nothing", json!({"containers": [{}]}), (0, 0)),
        ];
        for (name, spec, (cpu, mebibytes)) in table {
            let resources = requested(&spec);
            assert_eq!((resources.cpu_milli, resources.memory), (cpu, mebibytes << 20), "{name}");
        }
    }

    #[test]
    fn other_resources_are_kept_by_name() {
        let mut resources = Resources::from_list(&json!({"example.com/b": "2", "example.com/a": 3, "pods": "110"}));
        assert_eq!((resources.extended("example.com/a"), resources.extended("pods")), (3, 0));
        resources.subtract(&Resources::from_list(&json!({"example.com/a": 1, "ephemeral-storage": "1Ki"})));
        assert_eq!((resources.extended("example.com/a"), resources.ephemeral_storage), (2, -1024));
    }
}
