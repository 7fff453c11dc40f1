//! Rules return whatever they are given.

use crate::catalogue;
use proptest::{
    prelude::{Just, Strategy, any, prop_oneof, proptest},
    sample::select,
};
use serde_json::{Map, Value};

/// JSON of any shape whose field names are the ones that rules look at.
fn hostile() -> impl Strategy<Value = Value> {
    const FIELDS: [&str; 44] = [
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "containers",
        "initContainers",
        "volumes",
        "volumeMounts",
        "ports",
        "env",
        "valueFrom",
        "fieldRef",
        "resources",
        "limits",
        "requests",
        "livenessProbe",
        "httpGet",
        "lifecycle",
        "preStop",
        "tolerations",
        "type",
        "clusterIP",
        "clusterIPs",
        "selector",
        "sessionAffinity",
        "sessionAffinityConfig",
        "data",
        "stringData",
        "subsets",
        "addresses",
        "endpoints",
        "capacity",
        "taints",
        "projected",
        "sources",
        "items",
        "state",
        "containerStatuses",
        "conditions",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z0-9./_ é-]{0,8}".prop_map(Value::from),
        select(&["ClusterIP", "NodePort", "ExternalName", "LoadBalancer", "ClientIP", "None"][..])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 80, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((select(&FIELDS[..]), inner), 0..6).prop_map(|fields| {
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_shape_makes_a_rule_panic(new in hostile(), old in hostile()) {
        for kind in catalogue::all() {
            for subresource in ["", "status", "finalize"] {
                let mut changed = new.clone();
                (kind.default)(&mut changed);
                (kind.prepare_update)(&mut changed, &old, subresource);
                (kind.validate_update)(&changed, &old, subresource);
            }
            let mut created = new.clone();
            (kind.default)(&mut created);
            (kind.prepare_create)(&mut created);
            assert!((kind.validate_create)(&created).len() <= 100);
            assert_eq!((kind.cells)(&created, 0).len(), kind.columns.len(), "a cell per column");
            let mut again = created.clone();
            (kind.default)(&mut again);
            assert_eq!(again, created, "{}: defaulting is idempotent", kind.kind);
        }
    }
}
