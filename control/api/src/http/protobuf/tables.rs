//! Field numbers of the messages that are read, as Kubernetes' API fixes them for ever.

/// One field of a message.
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) kind: &'static Type,
    /// A pointer in Go: where it is written, it is set, even to zero. Other fields are written always.
    pub(super) keeps_zero: bool,
}

/// What a field holds.
pub(super) enum Type {
    Text,
    /// Base64 in JSON.
    Bytes,
    Integer,
    Boolean,
    Time,
    IntOrString,
    Message(&'static [Field]),
    List(&'static Type),
    /// From text.
    Map(&'static Type),
}

/// The message of a kind.
pub(super) fn of(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    match (api_version, kind) {
        ("v1", "ConfigMap") => Some(CONFIG_MAP),
        ("v1", "Secret") => Some(SECRET),
        ("v1", "Namespace") => Some(NAMESPACE),
        ("v1", "Service") => Some(SERVICE),
        ("certificates.k8s.io/v1", "CertificateSigningRequest") => Some(SIGNING_REQUEST),
        ("authentication.k8s.io/v1", "SelfSubjectReview") => Some(SELF_REVIEW),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => Some(ACCESS_REVIEW),
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => Some(RULES_REVIEW),
        // Sent under the version of the group that the object belongs to.
        (_, "DeleteOptions") => Some(DELETE_OPTIONS),
        _ => None,
    }
}

const fn field(number: u64, name: &'static str, kind: &'static Type) -> Field {
    Field { number, name, kind, keeps_zero: false }
}

const fn pointer(number: u64, name: &'static str, kind: &'static Type) -> Field {
    Field { number, name, kind, keeps_zero: true }
}

const TEXTS: &Type = &Type::List(&Type::Text);
const TEXT_MAP: &Type = &Type::Map(&Type::Text);
const METADATA: Field = field(1, "metadata", &Type::Message(OBJECT_META));

const OBJECT_META: &[Field] = &[
    field(1, "name", &Type::Text),
    field(2, "generateName", &Type::Text),
    field(3, "namespace", &Type::Text),
    field(4, "selfLink", &Type::Text),
    field(5, "uid", &Type::Text),
    field(6, "resourceVersion", &Type::Text),
    field(7, "generation", &Type::Integer),
    field(8, "creationTimestamp", &Type::Time),
    field(9, "deletionTimestamp", &Type::Time),
    pointer(10, "deletionGracePeriodSeconds", &Type::Integer),
    field(11, "labels", TEXT_MAP),
    field(12, "annotations", TEXT_MAP),
    field(13, "ownerReferences", &Type::List(&Type::Message(OWNER_REFERENCE))),
    field(14, "finalizers", TEXTS),
];

const OWNER_REFERENCE: &[Field] = &[
    field(1, "kind", &Type::Text),
    field(3, "name", &Type::Text),
    field(4, "uid", &Type::Text),
    field(5, "apiVersion", &Type::Text),
    pointer(6, "controller", &Type::Boolean),
    pointer(7, "blockOwnerDeletion", &Type::Boolean),
];

const CONFIG_MAP: &[Field] = &[
    METADATA,
    field(2, "data", TEXT_MAP),
    field(3, "binaryData", &Type::Map(&Type::Bytes)),
    pointer(4, "immutable", &Type::Boolean),
];

const SECRET: &[Field] = &[
    METADATA,
    field(2, "data", &Type::Map(&Type::Bytes)),
    field(3, "type", &Type::Text),
    field(4, "stringData", TEXT_MAP),
    pointer(5, "immutable", &Type::Boolean),
];

const NAMESPACE: &[Field] = &[
    METADATA,
    field(2, "spec", &Type::Message(&[field(1, "finalizers", TEXTS)])),
    field(3, "status", &Type::Message(&[field(1, "phase", &Type::Text)])),
];

const SIGNING_REQUEST: &[Field] = &[
    METADATA,
    field(2, "spec", &Type::Message(SIGNING_REQUEST_SPEC)),
    field(3, "status", &Type::Message(SIGNING_REQUEST_STATUS)),
];

const SIGNING_REQUEST_SPEC: &[Field] = &[
    field(1, "request", &Type::Bytes),
    field(2, "username", &Type::Text),
    field(3, "uid", &Type::Text),
    field(4, "groups", TEXTS),
    field(5, "usages", TEXTS),
    field(7, "signerName", &Type::Text),
    pointer(8, "expirationSeconds", &Type::Integer),
];

const SIGNING_REQUEST_STATUS: &[Field] = &[
    field(1, "conditions", &Type::List(&Type::Message(SIGNING_REQUEST_CONDITION))),
    field(2, "certificate", &Type::Bytes),
];

const SIGNING_REQUEST_CONDITION: &[Field] = &[
    field(1, "type", &Type::Text),
    field(2, "reason", &Type::Text),
    field(3, "message", &Type::Text),
    field(4, "lastUpdateTime", &Type::Time),
    field(5, "lastTransitionTime", &Type::Time),
    field(6, "status", &Type::Text),
];

// Of reviews' statuses a client writes only what is empty.
const SELF_REVIEW: &[Field] = &[METADATA, field(2, "status", &Type::Message(&[field(1, "userInfo", USER_INFO)]))];

const USER_INFO: &Type = &Type::Message(&[field(1, "username", &Type::Text), field(2, "uid", &Type::Text)]);

const ACCESS_REVIEW: &[Field] = &[
    METADATA,
    field(2, "spec", &Type::Message(ACCESS_REVIEW_SPEC)),
    field(3, "status", &Type::Message(ACCESS_REVIEW_STATUS)),
];

const ACCESS_REVIEW_SPEC: &[Field] = &[
    field(1, "resourceAttributes", &Type::Message(RESOURCE_ATTRIBUTES)),
    field(2, "nonResourceAttributes", &Type::Message(&[field(1, "path", &Type::Text), field(2, "verb", &Type::Text)])),
];

const RESOURCE_ATTRIBUTES: &[Field] = &[
    field(1, "namespace", &Type::Text),
    field(2, "verb", &Type::Text),
    field(3, "group", &Type::Text),
    field(4, "version", &Type::Text),
    field(5, "resource", &Type::Text),
    field(6, "subresource", &Type::Text),
    field(7, "name", &Type::Text),
];

const ACCESS_REVIEW_STATUS: &[Field] = &[
    field(1, "allowed", &Type::Boolean),
    field(2, "reason", &Type::Text),
    field(3, "evaluationError", &Type::Text),
    field(4, "denied", &Type::Boolean),
];

const RULES_REVIEW: &[Field] = &[
    METADATA,
    field(2, "spec", &Type::Message(&[field(1, "namespace", &Type::Text)])),
    field(
        3,
        "status",
        &Type::Message(&[field(3, "incomplete", &Type::Boolean), field(4, "evaluationError", &Type::Text)]),
    ),
];

const SERVICE: &[Field] = &[
    METADATA,
    field(2, "spec", &Type::Message(SERVICE_SPEC)),
    // A client does not decide it; an empty one is always written.
    field(3, "status", &Type::Message(&[field(1, "loadBalancer", &Type::Message(&[]))])),
];

const SERVICE_SPEC: &[Field] = &[
    field(1, "ports", &Type::List(&Type::Message(SERVICE_PORT))),
    field(2, "selector", TEXT_MAP),
    field(3, "clusterIP", &Type::Text),
    field(4, "type", &Type::Text),
    field(5, "externalIPs", TEXTS),
    field(7, "sessionAffinity", &Type::Text),
    field(8, "loadBalancerIP", &Type::Text),
    field(9, "loadBalancerSourceRanges", TEXTS),
    field(10, "externalName", &Type::Text),
    field(11, "externalTrafficPolicy", &Type::Text),
    field(12, "healthCheckNodePort", &Type::Integer),
    field(13, "publishNotReadyAddresses", &Type::Boolean),
    field(14, "sessionAffinityConfig", &Type::Message(&[field(1, "clientIP", CLIENT_IP)])),
    pointer(17, "ipFamilyPolicy", &Type::Text),
    field(18, "clusterIPs", TEXTS),
    field(19, "ipFamilies", TEXTS),
    pointer(20, "allocateLoadBalancerNodePorts", &Type::Boolean),
    pointer(21, "loadBalancerClass", &Type::Text),
    pointer(22, "internalTrafficPolicy", &Type::Text),
    pointer(23, "trafficDistribution", &Type::Text),
];

const CLIENT_IP: &Type = &Type::Message(&[pointer(1, "timeoutSeconds", &Type::Integer)]);

const SERVICE_PORT: &[Field] = &[
    field(1, "name", &Type::Text),
    field(2, "protocol", &Type::Text),
    field(3, "port", &Type::Integer),
    field(4, "targetPort", &Type::IntOrString),
    field(5, "nodePort", &Type::Integer),
    pointer(6, "appProtocol", &Type::Text),
];

const DELETE_OPTIONS: &[Field] = &[
    pointer(1, "gracePeriodSeconds", &Type::Integer),
    field(2, "preconditions", &Type::Message(PRECONDITIONS)),
    pointer(3, "orphanDependents", &Type::Boolean),
    pointer(4, "propagationPolicy", &Type::Text),
    field(5, "dryRun", TEXTS),
];

const PRECONDITIONS: &[Field] = &[pointer(1, "uid", &Type::Text), pointer(2, "resourceVersion", &Type::Text)];
