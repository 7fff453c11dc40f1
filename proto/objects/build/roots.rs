//! The kinds whose types go into the field table, with everything that they refer to.

use k8s_openapi::{
    api::{
        certificates::v1::CertificateSigningRequest,
        coordination::v1::Lease,
        core::v1::{Binding, ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service},
        discovery::v1::EndpointSlice,
        policy::v1::Eviction,
    },
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, Status, WatchEvent},
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

/// Schemas by definition name, e.g. `io.k8s.api.core.v1.Pod`.
pub(crate) fn definitions() -> Map<String, Value> {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    macro_rules! add {
        ($($root:ty),* $(,)?) => { $(generator.subschema_for::<$root>();)* };
    }
    add!(
        Binding,
        CertificateSigningRequest,
        ConfigMap,
        DeleteOptions,
        EndpointSlice,
        Endpoints,
        Event,
        Eviction,
        Lease,
        ListMeta,
        Namespace,
        Node,
        Pod,
        Secret,
        Service,
        Status,
        WatchEvent<Pod>,
    );
    generator.take_definitions(false)
}
