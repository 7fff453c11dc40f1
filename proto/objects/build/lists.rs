//! How lists and maps merge: what the schemas do not say.
//!
//! From Kubernetes' API conventions and its field tags `patchStrategy`, `patchMergeKey`, `listType`, `listMapKey`,
//! `mapType` and `structType`. A list that is not named here is replaced as a whole.

/// What is known of one list.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// `Atomic`, `Set`, `Map` or `Unspecified`: variants of the crate's `ListType`.
    pub(crate) list_type: &'static str,
    /// Fields that together name an element of a `Map` list, separated by commas.
    pub(crate) map_keys: &'static str,
    /// `Replace`, `MergeByKey` or `MergeValues`: how a strategic merge patch treats it.
    pub(crate) patch: &'static str,
    /// The one field that names an element in a strategic merge patch.
    pub(crate) merge_key: &'static str,
    /// Whether a strategic merge patch may carry `$retainKeys` in an element.
    pub(crate) retain_keys: bool,
}

const ATOMIC: Rule = Rule { list_type: "Atomic", map_keys: "", patch: "Replace", merge_key: "", retain_keys: false };
/// Server-side apply sees a set, a strategic merge patch replaces it.
const SET: Rule = Rule { list_type: "Set", ..ATOMIC };
/// A set of plain values that a strategic merge patch adds to.
const MERGED_SET: Rule = Rule { list_type: "Set", patch: "MergeValues", ..ATOMIC };

/// Elements are told apart by one field, everywhere.
const fn by(key: &'static str) -> Rule {
    Rule { list_type: "Map", map_keys: key, patch: "MergeByKey", merge_key: key, retain_keys: false }
}

/// As [`by`]; what an element does not name in a patch with `$retainKeys` goes away (one-of fields).
const fn retaining(key: &'static str) -> Rule {
    Rule { retain_keys: true, ..by(key) }
}

/// A patch knows elements by `key`, server-side apply by `map_keys`.
const fn by_keys(key: &'static str, map_keys: &'static str) -> Rule {
    Rule { map_keys, ..by(key) }
}

/// Server-side apply knows elements by `map_keys`; a patch replaces the list.
const fn map_only(map_keys: &'static str) -> Rule {
    Rule { list_type: "Map", map_keys, ..ATOMIC }
}

/// A patch knows elements by `key`; server-side apply replaces the list.
const fn patch_only(key: &'static str) -> Rule {
    Rule { list_type: "Atomic", map_keys: "", ..by(key) }
}

/// Lists by type (without the leading `io.k8s.`) and field.
pub(crate) const LISTS: &[(&str, &[(&str, Rule)])] = &[
    ("api.certificates.v1.CertificateSigningRequestSpec", &[("groups", ATOMIC), ("usages", ATOMIC)]),
    ("api.certificates.v1.CertificateSigningRequestStatus", &[("conditions", map_only("type"))]),
    ("api.core.v1.Capabilities", &[("add", ATOMIC), ("drop", ATOMIC)]),
    ("api.core.v1.CephFSVolumeSource", &[("monitors", ATOMIC)]),
    ("api.core.v1.ConfigMapProjection", &[("items", ATOMIC)]),
    ("api.core.v1.ConfigMapVolumeSource", &[("items", ATOMIC)]),
    ("api.core.v1.Container", CONTAINER),
    ("api.core.v1.ContainerImage", &[("names", ATOMIC)]),
    ("api.core.v1.ContainerStatus", &[("allocatedResourcesStatus", by("name")), ("volumeMounts", by("mountPath"))]),
    ("api.core.v1.DownwardAPIProjection", &[("items", ATOMIC)]),
    ("api.core.v1.DownwardAPIVolumeSource", &[("items", ATOMIC)]),
    ("api.core.v1.EndpointSubset", &[("addresses", ATOMIC), ("notReadyAddresses", ATOMIC), ("ports", ATOMIC)]),
    ("api.core.v1.Endpoints", &[("subsets", ATOMIC)]),
    ("api.core.v1.EphemeralContainer", CONTAINER),
    ("api.core.v1.ExecAction", &[("command", ATOMIC)]),
    ("api.core.v1.FCVolumeSource", &[("targetWWNs", ATOMIC), ("wwids", ATOMIC)]),
    ("api.core.v1.HTTPGetAction", &[("httpHeaders", ATOMIC)]),
    ("api.core.v1.HostAlias", &[("hostnames", ATOMIC)]),
    ("api.core.v1.ISCSIVolumeSource", &[("portals", ATOMIC)]),
    ("api.core.v1.LinuxContainerUser", &[("supplementalGroups", ATOMIC)]),
    ("api.core.v1.LoadBalancerIngress", &[("ports", ATOMIC)]),
    ("api.core.v1.LoadBalancerStatus", &[("ingress", ATOMIC)]),
    ("api.core.v1.NamespaceSpec", &[("finalizers", ATOMIC)]),
    ("api.core.v1.NamespaceStatus", &[("conditions", by("type"))]),
    ("api.core.v1.NodeAffinity", &[("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC)]),
    ("api.core.v1.NodeSelector", &[("nodeSelectorTerms", ATOMIC)]),
    ("api.core.v1.NodeSelectorRequirement", &[("values", ATOMIC)]),
    ("api.core.v1.NodeSelectorTerm", &[("matchExpressions", ATOMIC), ("matchFields", ATOMIC)]),
    ("api.core.v1.NodeSpec", &[("podCIDRs", MERGED_SET), ("taints", ATOMIC)]),
    (
        "api.core.v1.NodeStatus",
        &[
            ("addresses", by("type")),
            ("conditions", by("type")),
            ("images", ATOMIC),
            ("runtimeHandlers", ATOMIC),
            ("volumesAttached", ATOMIC),
            ("volumesInUse", ATOMIC),
        ],
    ),
    ("api.core.v1.PersistentVolumeClaimSpec", &[("accessModes", ATOMIC)]),
    (
        "api.core.v1.PodAffinity",
        &[
            ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
            ("requiredDuringSchedulingIgnoredDuringExecution", ATOMIC),
        ],
    ),
    (
        "api.core.v1.PodAffinityTerm",
        &[("matchLabelKeys", ATOMIC), ("mismatchLabelKeys", ATOMIC), ("namespaces", ATOMIC)],
    ),
    (
        "api.core.v1.PodAntiAffinity",
        &[
            ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
            ("requiredDuringSchedulingIgnoredDuringExecution", ATOMIC),
        ],
    ),
    ("api.core.v1.PodDNSConfig", &[("nameservers", ATOMIC), ("options", ATOMIC), ("searches", ATOMIC)]),
    ("api.core.v1.PodSecurityContext", &[("supplementalGroups", ATOMIC), ("sysctls", ATOMIC)]),
    (
        "api.core.v1.PodSpec",
        &[
            ("containers", by("name")),
            ("ephemeralContainers", by("name")),
            ("hostAliases", by("ip")),
            ("imagePullSecrets", by("name")),
            ("initContainers", by("name")),
            ("readinessGates", ATOMIC),
            ("resourceClaims", retaining("name")),
            ("schedulingGates", by("name")),
            ("tolerations", ATOMIC),
            ("topologySpreadConstraints", by_keys("topologyKey", "topologyKey,whenUnsatisfiable")),
            ("volumes", retaining("name")),
        ],
    ),
    (
        "api.core.v1.PodStatus",
        &[
            ("conditions", by("type")),
            ("containerStatuses", ATOMIC),
            ("ephemeralContainerStatuses", ATOMIC),
            ("hostIPs", patch_only("ip")),
            ("initContainerStatuses", ATOMIC),
            ("podIPs", by("ip")),
            ("resourceClaimStatuses", retaining("name")),
        ],
    ),
    ("api.core.v1.ProjectedVolumeSource", &[("sources", ATOMIC)]),
    ("api.core.v1.RBDVolumeSource", &[("monitors", ATOMIC)]),
    ("api.core.v1.ResourceRequirements", &[("claims", map_only("name"))]),
    ("api.core.v1.ResourceStatus", &[("resources", map_only("resourceID"))]),
    ("api.core.v1.SecretProjection", &[("items", ATOMIC)]),
    ("api.core.v1.SecretVolumeSource", &[("items", ATOMIC)]),
    (
        "api.core.v1.ServiceSpec",
        &[
            ("clusterIPs", ATOMIC),
            ("externalIPs", ATOMIC),
            ("ipFamilies", ATOMIC),
            ("loadBalancerSourceRanges", ATOMIC),
            ("ports", by_keys("port", "port,protocol")),
        ],
    ),
    ("api.core.v1.ServiceStatus", &[("conditions", by("type"))]),
    ("api.core.v1.TopologySpreadConstraint", &[("matchLabelKeys", ATOMIC)]),
    ("api.discovery.v1.Endpoint", &[("addresses", SET)]),
    ("api.discovery.v1.EndpointHints", &[("forNodes", ATOMIC), ("forZones", ATOMIC)]),
    ("api.discovery.v1.EndpointSlice", &[("endpoints", ATOMIC), ("ports", ATOMIC)]),
    ("apimachinery.pkg.apis.meta.v1.DeleteOptions", &[("dryRun", ATOMIC)]),
    ("apimachinery.pkg.apis.meta.v1.LabelSelector", &[("matchExpressions", ATOMIC)]),
    ("apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement", &[("values", ATOMIC)]),
    (
        "apimachinery.pkg.apis.meta.v1.ObjectMeta",
        &[("finalizers", MERGED_SET), ("managedFields", ATOMIC), ("ownerReferences", by("uid"))],
    ),
    ("apimachinery.pkg.apis.meta.v1.StatusDetails", &[("causes", ATOMIC)]),
];

const CONTAINER: &[(&str, Rule)] = &[
    ("args", ATOMIC),
    ("command", ATOMIC),
    ("env", by("name")),
    ("envFrom", ATOMIC),
    ("ports", by_keys("containerPort", "containerPort,protocol")),
    ("resizePolicy", ATOMIC),
    ("volumeDevices", by("devicePath")),
    ("volumeMounts", by("mountPath")),
];

/// Types (without the leading `io.k8s.`) that server-side apply replaces as a whole.
pub(crate) const ATOMIC_TYPES: &[&str] = &[
    "api.core.v1.ConfigMapKeySelector",
    "api.core.v1.EndpointAddress",
    "api.core.v1.EndpointPort",
    "api.core.v1.LocalObjectReference",
    "api.core.v1.NodeSelector",
    "api.core.v1.NodeSelectorTerm",
    "api.core.v1.ObjectFieldSelector",
    "api.core.v1.ObjectReference",
    "api.core.v1.ResourceFieldSelector",
    "api.core.v1.SecretKeySelector",
    "api.core.v1.TypedLocalObjectReference",
    "api.discovery.v1.EndpointPort",
    "apimachinery.pkg.apis.meta.v1.LabelSelector",
    "apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Map fields that server-side apply replaces as a whole.
pub(crate) const ATOMIC_MAPS: &[(&str, &str)] =
    &[("api.core.v1.PodSpec", "nodeSelector"), ("api.core.v1.ServiceSpec", "selector")];
