//! URL paths to what they mean.

use coracle_objects::{Kind, catalogue, metrics, reviews};

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`.
    Index,
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`.
    Health(Check),
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`.
    Resources(String, String),
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3Index,
    /// `/openapi/v3/PATH`.
    OpenApiV3(String),
    /// Objects.
    Objects(ObjectPath),
    /// `/apis/metrics.k8s.io/v1beta1/…`.
    Metrics(MetricsPath),
    /// A question about the asker, at `/apis/GROUP/VERSION/PLURAL`.
    Review(&'static Kind),
}

/// What nodes or pods use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetricsPath {
    pub(super) kind: &'static Kind,
    /// "" for nodes, and for all namespaces.
    pub(super) namespace: String,
    /// "" for all.
    pub(super) name: String,
}

impl MetricsPath {
    fn parse(segments: &[&str]) -> Option<Self> {
        let (namespace, plural, name) = match *segments {
            ["namespaces", namespace, plural] => (namespace, plural, ""),
            ["namespaces", namespace, plural, name] => (namespace, plural, name),
            [plural] => ("", plural, ""),
            [plural, name] => ("", plural, name),
            _ => return None,
        };
        let kind = metrics::by_plural(plural)?;
        let is_placed = if kind.namespaced { !namespace.is_empty() || name.is_empty() } else { namespace.is_empty() };
        is_placed.then(|| Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// Which of the health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Whether the process works.
    Live,
    /// Whether a pod could run.
    Ready,
}

/// An object, a collection, or a path below an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectPath {
    pub(super) kind: &'static Kind,
    /// "" for cluster scope and for all namespaces.
    pub(super) namespace: String,
    /// "" for collections.
    pub(super) name: String,
    /// "" for the object itself.
    pub(super) subresource: String,
    /// What follows the subresource `proxy`.
    pub(super) tail: String,
}

impl Route {
    /// What `path` means; `None` when it means nothing.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        if let ["apis", group, version, plural] = *segments.as_slice()
            && let Some(kind) = reviews::by_resource(group, version, plural)
        {
            return Some(Self::Review(kind));
        }
        Some(match segments.as_slice() {
            [] => Self::Index,
            ["version"] => Self::Version,
            ["healthz" | "livez"] => Self::Health(Check::Live),
            ["readyz"] => Self::Health(Check::Ready),
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiV3Index,
            ["openapi", "v3", rest @ ..] => Self::OpenApiV3(rest.join("/")),
            ["api", version] => Self::Resources(String::new(), (*version).to_owned()),
            ["apis", group] => Self::Group((*group).to_owned()),
            ["apis", group, version] => Self::Resources((*group).to_owned(), (*version).to_owned()),
            ["api", version, rest @ ..] => Self::Objects(ObjectPath::parse("", version, rest)?),
            ["apis", metrics::GROUP, metrics::VERSION, rest @ ..] => Self::Metrics(MetricsPath::parse(rest)?),
            ["apis", group, version, rest @ ..] => Self::Objects(ObjectPath::parse(group, version, rest)?),
            _ => return None,
        })
    }
}

impl ObjectPath {
    fn parse(group: &str, version: &str, segments: &[&str]) -> Option<Self> {
        let kind = |plural: &str| catalogue::by_resource(group, version, plural);
        let (namespace, plural, rest) = match segments {
            ["namespaces", _name, below]
                if kind("namespaces").is_some_and(|kind| kind.subresource(below).is_some()) =>
            {
                ("", "namespaces", &segments[1..])
            }
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest),
            [plural, rest @ ..] => ("", *plural, rest),
            [] => return None,
        };
        let kind = kind(plural)?;
        let (name, subresource, tail) = match rest {
            [] => ("", "", String::new()),
            [name] => (*name, "", String::new()),
            [name, subresource] => (*name, kind.subresource(subresource)?.name, String::new()),
            [name, "proxy", tail @ ..] => (*name, kind.subresource("proxy")?.name, tail.join("/")),
            _ => return None,
        };
        let is_placed = kind.namespaced != namespace.is_empty();
        // All namespaces can be listed together; one object is always in one.
        let spans_namespaces = kind.namespaced && name.is_empty();
        if !is_placed && !spans_namespaces {
            return None;
        }
        let own = str::to_owned;
        Some(Self { kind, namespace: own(namespace), name: own(name), subresource: own(subresource), tail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(path: &str) -> Option<String> {
        match Route::parse(path)? {
            Route::Objects(path) => {
                Some(format!("{} {:?} {:?} {:?}", path.kind.plural, path.namespace, path.name, path.subresource))
            }
            Route::Metrics(path) => Some(format!("metrics {} {:?} {:?}", path.kind.plural, path.namespace, path.name)),
            other => Some(format!("{other:?}")),
        }
    }

    #[test]
    fn paths_mean_what_they_mean_in_kubernetes() {
        let cases = [
            ("/api/v1/pods", Some(r#"pods "" "" """#)),
            ("/api/v1/namespaces/a/pods", Some(r#"pods "a" "" """#)),
            ("/api/v1/namespaces/a/pods/x", Some(r#"pods "a" "x" """#)),
            ("/api/v1/namespaces/a/pods/x/status", Some(r#"pods "a" "x" "status""#)),
            ("/api/v1/namespaces/a/pods/x/log", Some(r#"pods "a" "x" "log""#)),
            ("/api/v1/namespaces", Some(r#"namespaces "" "" """#)),
            ("/api/v1/namespaces/a", Some(r#"namespaces "" "a" """#)),
            ("/api/v1/namespaces/a/", Some(r#"namespaces "" "a" """#)),
            ("/api/v1/namespaces/a/status", Some(r#"namespaces "" "a" "status""#)),
            ("/api/v1/namespaces/a/finalize", Some(r#"namespaces "" "a" "finalize""#)),
            ("/api/v1/nodes/one", Some(r#"nodes "" "one" """#)),
            ("/apis/coordination.k8s.io/v1/namespaces/a/leases/x", Some(r#"leases "a" "x" """#)),
            ("/api/v1/pods/x", None),
            ("/api/v1/namespaces/a/nodes/one", None),
            ("/api/v1/namespaces/a/pods/x/nothing", None),
            ("/api/v1/namespaces/a/pods/x/status/y", None),
            ("/api/v1/unknown", None),
            ("/api/v2/pods", None),
            ("/apis/apps/v1/deployments", None),
            ("/nothing", None),
            ("/api/v1/nodes/one/proxy/stats/summary", Some(r#"nodes "" "one" "proxy""#)),
            ("/api/v1/namespaces/a/pods/x/proxy/y", None),
            ("/apis/metrics.k8s.io/v1beta1", Some(r#"Resources("metrics.k8s.io", "v1beta1")"#)),
            ("/apis/metrics.k8s.io/v1beta1/nodes", Some(r#"metrics nodes "" """#)),
            ("/apis/metrics.k8s.io/v1beta1/nodes/one", Some(r#"metrics nodes "" "one""#)),
            ("/apis/metrics.k8s.io/v1beta1/pods", Some(r#"metrics pods "" """#)),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/x", Some(r#"metrics pods "a" "x""#)),
            ("/apis/metrics.k8s.io/v1beta1/pods/x", None),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/a/nodes", None),
            ("/apis/metrics.k8s.io/v1beta1/services", None),
            ("/api", Some("CoreVersions")),
            ("/apis/apps/v1", Some(r#"Resources("apps", "v1")"#)),
            ("/openapi/v3/apis/apps/v1", Some(r#"OpenApiV3("apis/apps/v1")"#)),
            ("/readyz", Some("Health(Ready)")),
        ];
        for (path, expected) in cases {
            assert_eq!(objects(path).as_deref(), expected, "{path}");
        }
    }
}
