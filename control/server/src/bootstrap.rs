//! What every cluster has from its first start on, made through the door; doing it again changes nothing.

use crate::KUBERNETES_SERVICE_IP;
use coracle_client::{Client, Part, Write};
use coracle_objects::{ApiError, ObjectKey, Reason, catalogue, ranges::CLUSTER_DNS};
use serde_json::{Value, json};
use std::time::Duration;

/// Namespaces that are always there.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// How often a store that has no leader yet is asked again, and how long in between.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// Creates what is missing.
pub(crate) async fn run(client: &dyn Client, port: u16) -> Result<(), ApiError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match create_missing(client, port).await {
            Err(error) if error.reason == Reason::ServiceUnavailable && attempts < ATTEMPTS => {
                tracing::debug!(%error, "the store is not ready yet");
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn create_missing(client: &dyn Client, port: u16) -> Result<(), ApiError> {
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        unless_there(client.write(Write::Create(catalogue::namespaces(), namespace)).await)?;
    }
    match client.write(Write::Create(catalogue::services(), dns_service())).await {
        // In a store from before there was a DNS, its address may belong to somebody.
        Err(error) if error.reason == Reason::Invalid => {
            tracing::warn!(%error, "the cluster's DNS has no service: pods still reach it at its address");
        }
        outcome => unless_there(outcome)?,
    }
    let key = ObjectKey::namespaced("default", "kubernetes");
    match client.get(catalogue::services(), &key).await {
        Ok(service) => {
            // After a restart the server may listen on another port.
            let mut service = Value::clone(&service);
            if !move_target(&mut service, port) {
                return Ok(());
            }
            client.write(Write::Update(catalogue::services(), Part::Object, service)).await.map(drop)
        }
        Err(error) if error.reason == Reason::NotFound => {
            unless_there(client.write(Write::Create(catalogue::services(), kubernetes_service(port))).await)
        }
        Err(error) => Err(error),
    }
}

/// Points the service's port, if somebody has left it one, at `port`; `false` when there is nothing to change.
fn move_target(service: &mut Value, port: u16) -> bool {
    match service.pointer_mut("/spec/ports/0").and_then(Value::as_object_mut) {
        Some(fields) if fields.get("targetPort") != Some(&json!(port)) => {
            fields.insert("targetPort".to_owned(), json!(port));
            true
        }
        _ => false,
    }
}

fn unless_there<T>(outcome: Result<T, ApiError>) -> Result<(), ApiError> {
    match outcome {
        Err(error) if error.reason != Reason::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The cluster's DNS as a service; it selects no pods, since every node answers for itself.
fn dns_service() -> Value {
    let port = |name, protocol| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": 53});
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": CLUSTER_DNS.to_string(),
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

/// The API itself as a service; it selects no pods.
fn kubernetes_service(port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": KUBERNETES_SERVICE_IP.to_string(),
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_follows_the_port_where_it_has_one() {
        let mut service = kubernetes_service(1);
        assert!(!move_target(&mut service, 1));
        assert!(move_target(&mut service, 2));
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 2);
        for edited in [json!({"spec": {}}), json!({"spec": {"ports": []}}), json!({"spec": {"ports": null}}), json!({})]
        {
            assert!(!move_target(&mut edited.clone(), 2), "{edited}");
        }
    }
}
