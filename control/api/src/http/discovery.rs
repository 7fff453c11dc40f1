//! What this server serves: discovery, OpenAPI, version.

use super::{accept::Accept, answer, nothing_there, path::Route};
use axum::response::Response;
use bytes::Bytes;
use coracle_objects::{ApiError, KUBERNETES_VERSION, discovery, openapi};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

const AGGREGATED_TYPE: HeaderValue =
    HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
/// What clients ask for.
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Answers every route that is about kinds and not about objects.
pub(super) fn answer(route: &Route, headers: &HeaderMap, accept: Accept) -> Result<Response, ApiError> {
    let found = |value: Option<Value>| value.map(ok).ok_or_else(nothing_there);
    match route {
        Route::CoreVersions if accept == Accept::AggregatedDiscovery => Ok(aggregated(true)),
        Route::Groups if accept == Accept::AggregatedDiscovery => Ok(aggregated(false)),
        Route::CoreVersions => Ok(ok(discovery::core_versions())),
        Route::Groups => Ok(ok(discovery::groups())),
        Route::Group(group) => found(discovery::group(group)),
        Route::Resources(group, version) => found(discovery::resources(group, version)),
        Route::OpenApiV2 if wants_protobuf(headers) => {
            Ok(answer::typed(openapi::V2_PROTOBUF_CONTENT_TYPE, Bytes::from_static(openapi::v2_protobuf())))
        }
        Route::OpenApiV2 => Ok(answer::bytes(StatusCode::OK, Bytes::from_static(openapi::v2_json()))),
        Route::OpenApiV3Index => Ok(ok(openapi::v3_index())),
        Route::OpenApiV3(path) => {
            let document = openapi::v3_json(path).ok_or_else(nothing_there)?;
            Ok(answer::bytes(StatusCode::OK, Bytes::from_static(document)))
        }
        Route::Index => Ok(ok(index())),
        Route::Version | Route::Health(_) | Route::Objects(_) | Route::Metrics(_) | Route::Review(_) => {
            Err(nothing_there())
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is used as a function value")]
fn ok(value: Value) -> Response {
    answer::json(StatusCode::OK, &value)
}

fn aggregated(core: bool) -> Response {
    let mut response = ok(discovery::aggregated(core));
    response.headers_mut().insert(header::CONTENT_TYPE, AGGREGATED_TYPE);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn wants_protobuf(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    asked.any(|value| value.split(',').any(|one| one.trim() == OPENAPI_V2_PROTOBUF))
}

fn index() -> Value {
    let groups = discovery::groups();
    let groups = groups["groups"].as_array().into_iter().flatten().flat_map(|group| {
        let name = group["name"].as_str().unwrap_or_default().to_owned();
        let versions = group["versions"].as_array().into_iter().flatten();
        let versions = versions.filter_map(|version| Some(format!("/apis/{}", version["groupVersion"].as_str()?)));
        std::iter::once(format!("/apis/{name}")).chain(versions.collect::<Vec<_>>())
    });
    let fixed = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
    let mut paths: Vec<String> = fixed.into_iter().map(str::to_owned).chain(groups).collect();
    paths.sort_unstable();
    json!({"paths": paths})
}

/// `/version`, in the shape of `version.Info`; `gitVersion` names the Kubernetes release whose types are served.
pub(super) fn version() -> Value {
    let (major, minor) = KUBERNETES_VERSION;
    let own = env!("CARGO_PKG_VERSION");
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+coracle-{own}"),
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
