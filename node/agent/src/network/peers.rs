//! The other nodes of the cluster, read from their Node objects. Pure: nobody is asked, and what makes no sense is left out.

use coracle_net::{range::Ipv4Range, tunnel::Peer};
use coracle_objects::{
    meta,
    nodes::{CREDENTIALS_SINCE_ANNOTATION, TUNNEL_ANNOTATION},
};
use serde_json::Value;
use std::net::SocketAddr;

/// Addresses of one node that are tried; what else it lists is left out.
const ADDRESSES_MAX: usize = 4;

/// The peers of the node called `own_name`. One that is being deleted is none any more, whatever it still waits for.
pub(crate) fn of<'a>(nodes: impl IntoIterator<Item = &'a Value>, own_name: &str) -> Vec<Peer> {
    let others = nodes.into_iter().filter(|node| meta::name(node) != own_name && !meta::is_terminating(node));
    others.map(peer).collect()
}

fn peer(node: &Value) -> Peer {
    let annotation = |name: &str| node["metadata"]["annotations"][name].as_str().unwrap_or_default();
    let addresses = annotation(TUNNEL_ANNOTATION).split(',').filter_map(|one| one.trim().parse().ok());
    Peer {
        node: meta::name(node).to_owned(),
        addresses: addresses.filter(is_usable).take(ADDRESSES_MAX).collect(),
        ranges: ranges(&node["spec"]),
        credentials_since: annotation(CREDENTIALS_SINCE_ANNOTATION).parse().unwrap_or_default(),
    }
}

fn is_usable(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

fn ranges(spec: &Value) -> Vec<Ipv4Range> {
    let several = spec["podCIDRs"].as_array().into_iter().flatten();
    let listed: Vec<_> = several.filter_map(|one| one.as_str()?.parse().ok()).collect();
    if listed.is_empty() {
        spec["podCIDR"].as_str().and_then(|one| one.parse().ok()).into_iter().collect()
    } else {
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_peer_is_what_its_node_object_says() {
        let node = |name: &str, annotations: Value, spec: Value| json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
        let nodes = [
            node("own", json!({}), json!({})),
            node(
                "a",
                json!({TUNNEL_ANNOTATION: "192.0.2.1:6444, [2001:db8::1]:6444,0.0.0.0:1,192.0.2.1:0,rubbish",
                    CREDENTIALS_SINCE_ANNOTATION: "77"}),
                json!({"podCIDR": "10.244.4.0/22", "podCIDRs": ["10.244.4.0/22"]}),
            ),
            node("b", json!({TUNNEL_ANNOTATION: 7}), json!({"podCIDR": "10.244.8.0/22"})),
            node("c", json!(null), json!({"podCIDR": "rubbish"})),
            json!({"metadata": {"name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {TUNNEL_ANNOTATION: "192.0.2.9:6444"}}}),
        ];
        let peers = of(&nodes, "own");
        let names: Vec<_> = peers.iter().map(|peer| peer.node.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(peers[0].addresses, ["192.0.2.1:6444", "[2001:db8::1]:6444"].map(|one| one.parse().unwrap()));
        assert_eq!((peers[0].credentials_since, peers[1].credentials_since), (77, 0));
        let ranges = |peer: &Peer| peer.ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            (ranges(&peers[0]), ranges(&peers[1])),
            (vec!["10.244.4.0/22".to_owned()], vec!["10.244.8.0/22".to_owned()])
        );
        assert!(peers[1].addresses.is_empty() && peers[2].addresses.is_empty() && peers[2].ranges.is_empty());
    }
}
