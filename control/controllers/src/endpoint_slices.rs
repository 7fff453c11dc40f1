//! The endpoint slices of a service: its addresses in objects of at most [`ENDPOINTS_MAX`].
//!
//! Whoever is in a slice stays in it, so that one changed pod changes one slice. Names follow from the service's uid and
//! a number: planned twice on the same state, the second creation meets the first instead of making another slice.

mod packing;

use crate::service_backends::{self, Backend};
use coracle_client::{DeleteOptions, Part, Write};
use coracle_objects::{catalogue, meta};
pub(crate) use packing::Group;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Label that names the service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Says that a slice is ours.
pub const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");

/// Endpoints in one slice.
pub const ENDPOINTS_MAX: usize = 100;

/// Characters of a name's end, as Kubernetes generates names: no vowels, no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether a slice is ours and belongs to the service called `service`.
#[must_use]
pub fn is_ours(slice: &Value, service: &str) -> bool {
    meta::label(slice, SERVICE_NAME) == Some(service) && meta::label(slice, MANAGED_BY.0) == Some(MANAGED_BY.1)
}

/// The writes that bring `slices` (ours, of this service) in line with `service` and `pods`.
#[must_use]
pub fn plan(service: Option<&Value>, pods: &[Arc<Value>], slices: &[Arc<Value>]) -> Vec<Write> {
    let Some(service) = service else {
        return slices.iter().map(delete).collect();
    };
    if service_backends::selector(service).is_none() {
        return Vec::new();
    }
    // Slices of a former service of the same name go with it.
    let (own, former): (Vec<_>, Vec<_>) = slices.iter().partition(|slice| belongs_to(slice, service));
    let packed = packing::pack(wanted(service, pods), &own);
    let mut writes: Vec<Write> = former.into_iter().map(delete).collect();
    let labels = service_backends::labels(service, &[(SERVICE_NAME, meta::name(service)), MANAGED_BY]);
    let mut spare = packed.spare.into_iter();
    for (slice, group) in packed.kept {
        writes.extend(update(slice, &labels, &group));
    }
    let taken: BTreeSet<&str> = slices.iter().map(|slice| meta::name(slice)).collect();
    let mut names = (0_u32..)
        .map(|number| generated_name(service, &number.to_be_bytes()))
        .filter(|name| !taken.contains(name.as_str()));
    for group in packed.new {
        match spare.next() {
            // Written over rather than deleted and made anew.
            Some(slice) => writes.extend(update(slice, &labels, &group)),
            None => writes.extend(names.next().map(|name| create(service, &name, &labels, &group))),
        }
    }
    writes.extend(spare.map(delete));
    writes
}

/// What should be there: endpoints by the ports that they have. Without any, one empty slice says so.
fn wanted(service: &Value, pods: &[Arc<Value>]) -> Vec<Group> {
    let is_portless = service["spec"]["ports"].as_array().is_none_or(Vec::is_empty);
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for backend in service_backends::backends(service, pods) {
        if backend.ports.is_empty() && !is_portless {
            continue;
        }
        let ports = kept_ports(&backend.ports);
        let group = groups.entry(ports.to_string()).or_insert_with(|| Group { ports, endpoints: Vec::new() });
        group.endpoints.push(endpoint(service, &backend));
    }
    if groups.is_empty() {
        return vec![Group { ports: json!([]), endpoints: Vec::new() }];
    }
    groups.into_values().collect()
}

/// Ports as the API keeps them in a slice: only so can they be compared with a slice's.
pub(crate) fn kept_ports(ports: &[Value]) -> Value {
    let mut slice = json!({"ports": ports});
    (catalogue::endpoint_slices().default)(&mut slice);
    slice["ports"].take()
}

fn endpoint(service: &Value, backend: &Backend) -> Value {
    let mut endpoint = json!({
        "addresses": [backend.address.to_string()],
        "conditions": {
            "ready": backend.is_ready(service), "serving": backend.is_serving, "terminating": backend.is_terminating,
        },
    });
    if let Some(hostname) = &backend.hostname {
        endpoint["hostname"] = hostname.as_str().into();
    }
    if !backend.node_name.is_empty() {
        endpoint["nodeName"] = backend.node_name.as_str().into();
    }
    endpoint["targetRef"] = backend.target.clone();
    endpoint
}

fn belongs_to(slice: &Value, service: &Value) -> bool {
    let references = slice["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    references.into_iter().any(|reference| reference["uid"] == meta::uid(service))
}

/// The write that removes a slice.
pub(crate) fn delete(slice: &Arc<Value>) -> Write {
    let options = DeleteOptions { uid: Some(meta::uid(slice).to_owned()), ..DeleteOptions::default() };
    Write::Delete(catalogue::endpoint_slices(), meta::key(slice), options)
}

fn update(slice: &Value, labels: &Value, group: &Group) -> Option<Write> {
    let mut wanted = slice.clone();
    wanted["metadata"]["labels"] = labels.clone();
    if packing::endpoints_of(slice) != group.endpoints {
        wanted["endpoints"] = group.endpoints.clone().into();
    }
    if packing::ports_of(slice) != group.ports {
        wanted["ports"] = group.ports.clone();
    }
    (wanted != *slice).then_some(Write::Update(catalogue::endpoint_slices(), Part::Object, wanted))
}

fn create(service: &Value, name: &str, labels: &Value, group: &Group) -> Write {
    Write::Create(catalogue::endpoint_slices(), slice((service, "Service"), name, labels, "IPv4", group))
}

/// A slice that belongs to `owner`, an object of API version `v1` and the kind given with it.
pub(crate) fn slice(
    (owner, kind): (&Value, &str),
    name: &str,
    labels: &Value,
    address_type: &str,
    group: &Group,
) -> Value {
    let reference = json!({
        "apiVersion": "v1", "kind": kind, "name": meta::name(owner), "uid": meta::uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": meta::namespace(owner), "name": name, "labels": labels, "ownerReferences": [reference],
        },
        "addressType": address_type, "endpoints": group.endpoints, "ports": group.ports,
    })
}

/// `NAME-xxxxx` of something that belongs to `owner`, the same for the same owner and `what`.
pub(crate) fn generated_name(owner: &Value, what: &[u8]) -> String {
    // FNV-1a.
    let bytes = meta::uid(owner).bytes().chain(what.iter().copied());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut name = format!("{}-", meta::name(owner));
    for _ in 0..5 {
        let place = usize::try_from(hash % 27).unwrap_or(0);
        name.push(char::from(ALPHABET[place]));
        hash /= 27;
    }
    name
}

#[cfg(test)]
pub(crate) mod tests;
