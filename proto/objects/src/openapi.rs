//! `OpenAPI` documents, derived from the field table and the catalogue.

use serde_json::Value;

/// `GET /openapi/v3`: the index of group versions.
#[must_use]
pub fn v3_index() -> Value {
    unimplemented!("owner: objects-fields")
}

/// `GET /openapi/v3/PATH` with PATH `api/v1` or `apis/GROUP/VERSION`.
#[must_use]
pub fn v3(_path: &str) -> Option<Value> {
    unimplemented!("owner: objects-fields")
}

/// `GET /openapi/v2` as JSON.
#[must_use]
pub fn v2() -> Value {
    unimplemented!("owner: objects-fields")
}

/// `GET /openapi/v2` as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
#[must_use]
pub fn v2_protobuf() -> Vec<u8> {
    unimplemented!("owner: objects-fields")
}
