//! Discovery documents, derived from the catalogue.

use serde_json::Value;

/// `GET /api`: `APIVersions`.
#[must_use]
pub fn core_versions() -> Value {
    unimplemented!("owner: objects-fields")
}

/// `GET /apis`: `APIGroupList`.
#[must_use]
pub fn groups() -> Value {
    unimplemented!("owner: objects-fields")
}

/// `GET /apis/GROUP`: `APIGroup`.
#[must_use]
pub fn group(_group: &str) -> Option<Value> {
    unimplemented!("owner: objects-fields")
}

/// `GET /api/v1` or `/apis/GROUP/VERSION`: `APIResourceList`.
#[must_use]
pub fn resources(_group: &str, _version: &str) -> Option<Value> {
    unimplemented!("owner: objects-fields")
}

/// `GET /api` or `/apis` for `apidiscovery.k8s.io/v2` `APIGroupDiscoveryList`; `core` picks `/api`.
#[must_use]
pub fn aggregated(_core: bool) -> Value {
    unimplemented!("owner: objects-fields")
}
