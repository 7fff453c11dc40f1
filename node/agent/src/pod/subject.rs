//! One run of one container, as its probes and hooks know it.

use crate::pod::spec;
use coracle_objects::meta;
use coracle_runner::protocol::RunId;
use serde_json::Value;
use std::{net::Ipv4Addr, sync::Arc};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) pod: Arc<Value>,
    pub(crate) namespace_uid: String,
    /// Which container: init containers, then app containers.
    pub(crate) index: usize,
    /// The run that is probed, and which commands join.
    pub(crate) run: RunId,
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
}

impl Subject {
    /// The container's part of the spec; null where the pod has no such container.
    pub(crate) fn container(&self) -> &Value {
        spec::containers(&self.pod).nth(self.index).unwrap_or(&Value::Null)
    }

    /// The container's name.
    pub(crate) fn name(&self) -> &str {
        spec::text(self.container(), "name")
    }

    /// The pod's uid.
    pub(crate) fn pod_uid(&self) -> &str {
        meta::uid(&self.pod)
    }

    /// Where events about the container point.
    pub(crate) fn field_path(&self) -> String {
        spec::field_path(self.name(), self.index < spec::init_containers(&self.pod).len())
    }

    /// The number of a port that is given by its number or by the name that the container gives it.
    ///
    /// # Errors
    /// What people read when there is no such port.
    pub(crate) fn port(&self, port: &Value) -> Result<u16, String> {
        let number = match port {
            Value::String(name) => {
                let ports = spec::items(self.container(), "ports");
                let named = ports.iter().find(|one| one["name"] == *name).map(|one| one["containerPort"].as_u64());
                named.unwrap_or_else(|| name.parse().ok())
            }
            other => other.as_u64(),
        };
        let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
        number.ok_or_else(|| format!("container {} has no port {port}", self.name()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// Container `app` of pod `default/p` at 10.244.0.7, with more fields.
    pub(crate) fn subject(more: Value) -> Subject {
        let Value::Object(more) = more else { panic!("an object is wanted") };
        let mut container = json!({"name": "app", "ports": [{"name": "http", "containerPort": 8080}]});
        container.as_object_mut().unwrap().extend(more);
        let pod = json!({
            "metadata": {"namespace": "default", "name": "p", "uid": "u1"},
            "spec": {"containers": [container]},
        });
        Subject {
            pod: Arc::new(pod),
            namespace_uid: "ns-1".to_owned(),
            index: 0,
            run: RunId("r0".to_owned()),
            address: Ipv4Addr::new(10, 244, 0, 7),
        }
    }

    #[test]
    fn ports_have_numbers_and_names() {
        let subject = subject(json!({}));
        assert_eq!(subject.port(&json!(80)), Ok(80));
        assert_eq!(subject.port(&json!("http")), Ok(8080));
        assert_eq!(subject.port(&json!("81")), Ok(81));
        for none in [json!("https"), json!(0), json!(70_000), Value::Null] {
            let error = subject.port(&none).unwrap_err();
            assert!(error.contains("container app has no port"), "{none}: {error}");
        }
        assert_eq!(subject.field_path(), "spec.containers{app}");
    }
}
