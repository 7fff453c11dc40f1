//! Which pod and which container a person means.

use super::{print::refusal, target};
use anyhow::{Context as _, Result, bail};
use coracle_objects::{ObjectKey, catalogue, meta};
use coracle_sdk::{Connection, connection::ListOptions};
use serde_json::Value;

/// Annotation that names the container meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A pod, and the object whose pod it is where another one was named.
#[derive(Debug)]
pub(super) struct Found {
    pub pod: Value,
    /// The service, for its ports.
    pub named: Option<Value>,
}

/// The pod that `NAME`, `pod/NAME` or another object with a selector (`svc/NAME`) stands for.
pub(super) async fn find(connection: &Connection, namespace: &str, text: &str) -> Result<Found> {
    let get = async |key: ObjectKey| connection.get(catalogue::pods(), &key).await.map_err(refusal);
    let Some((kind, name)) = text.split_once('/') else {
        return Ok(Found { pod: get(ObjectKey::namespaced(namespace, text)).await?, named: None });
    };
    let named = target::parse(&[text.to_owned()])?.into_iter().next().context("nothing is named")?;
    if named.kind.plural == catalogue::pods().plural {
        return Ok(Found { pod: get(named.key(name, namespace)).await?, named: None });
    }
    let object = connection.get(named.kind, &named.key(name, namespace)).await.map_err(refusal)?;
    let Some(label_selector) = selector(&object) else {
        bail!("{kind}/{name} has no selector, and so no pods");
    };
    let options = ListOptions { namespace: namespace.to_owned(), label_selector, ..ListOptions::default() };
    let (pods, _) = connection.list(catalogue::pods(), &options).await.map_err(refusal)?;
    let running = pods.into_iter().find(|pod| pod["status"]["phase"] == "Running" && !meta::is_terminating(pod));
    let pod = running.with_context(|| format!("{kind}/{name} has no running pod"))?;
    Ok(Found { pod, named: Some(object) })
}

/// `spec.selector` as a query, for services and for workloads.
fn selector(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = selector["matchLabels"].as_object().or(selector.as_object())?;
    let terms: Vec<String> =
        labels.iter().filter_map(|(label, value)| Some(format!("{label}={}", value.as_str()?))).collect();
    (!terms.is_empty()).then(|| terms.join(","))
}

/// The container meant of a pod that runs; says on standard error which one it is where there were several to choose from.
pub(super) fn container(pod: &Value, asked: &str) -> Result<String> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        bail!("cannot exec into a container in a completed pod; current phase is {phase}");
    }
    chosen(pod, asked)
}

/// The names in one of a pod's lists of containers.
pub(super) fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
}

/// The same as [`container`], whether the pod runs or not.
pub(super) fn chosen(pod: &Value, asked: &str) -> Result<String> {
    let name = meta::name(pod);
    let (containers, init) = (names(pod, "containers"), names(pod, "initContainers"));
    if !asked.is_empty() {
        if containers.iter().chain(&init).all(|one| one != asked) {
            bail!("container {asked} is not valid for pod {name}");
        }
        return Ok(asked.to_owned());
    }
    let annotated = meta::annotation(pod, DEFAULT_CONTAINER).filter(|one| containers.iter().any(|name| name == one));
    if let Some(annotated) = annotated {
        return Ok(annotated.to_owned());
    }
    let first = containers.first().with_context(|| format!("pod {name} has no containers"))?;
    if containers.len() + init.len() > 1 {
        let init: Vec<String> = init.iter().map(|name| format!("{name} (init)")).collect();
        let all: Vec<&str> = containers.iter().chain(&init).map(String::as_str).collect();
        say(&format!("Defaulted container \"{first}\" out of: {}", all.join(", ")));
    }
    Ok(first.clone())
}

/// Tells a person something beside the output.
#[expect(clippy::print_stderr, reason = "for people, beside what goes to standard output")]
pub(super) fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_named_annotated_or_the_first() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
        }});
        let chosen = |pod: &Value, asked: &str| container(pod, asked).map_err(|error| error.to_string());
        assert_eq!(chosen(&pod, ""), Ok("a".to_owned()));
        assert_eq!(chosen(&pod, "i"), Ok("i".to_owned()));
        assert_eq!(chosen(&pod, "x"), Err("container x is not valid for pod p".to_owned()));
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(chosen(&pod, ""), Ok("b".to_owned()));
        pod["status"] = json!({"phase": "Succeeded"});
        assert!(chosen(&pod, "").unwrap_err().contains("current phase is Succeeded"));
    }

    #[test]
    fn services_and_workloads_select_alike() {
        let service = json!({"spec": {"selector": {"app": "web", "tier": "a"}}});
        let workload = json!({"spec": {"selector": {"matchLabels": {"app": "web"}}}});
        assert_eq!(selector(&service).as_deref(), Some("app=web,tier=a"));
        assert_eq!(selector(&workload).as_deref(), Some("app=web"));
        assert_eq!(selector(&json!({"spec": {"selector": {}}})), None);
        assert_eq!(selector(&json!({"spec": {}})), None);
    }
}
