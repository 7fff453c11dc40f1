//! The peers, by name and by their pods' addresses. Values only.

use super::peers::Peer;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Directory {
    peers: HashMap<Arc<str>, Arc<Peer>>,
    /// First and last address, sorted by the first.
    ranges: Vec<(Ipv4Addr, Ipv4Addr, Arc<str>)>,
}

impl Directory {
    /// All peers but the node itself.
    pub(super) fn new(own_name: &str, peers: Vec<Peer>) -> Self {
        let peers: HashMap<Arc<str>, Arc<Peer>> = peers
            .into_iter()
            .filter(|peer| peer.node != own_name)
            .map(|peer| (Arc::from(peer.node.as_str()), Arc::new(peer)))
            .collect();
        let ranges_of = |(name, peer): (&Arc<str>, &Arc<Peer>)| -> Vec<_> {
            peer.ranges.iter().map(|range| (range.first(), range.last(), Arc::clone(name))).collect()
        };
        let mut ranges: Vec<_> = peers.iter().flat_map(ranges_of).collect();
        ranges.sort();
        Self { peers, ranges }
    }

    pub(super) fn get(&self, node: &str) -> Option<(&Arc<str>, &Arc<Peer>)> {
        self.peers.get_key_value(node)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.peers.keys()
    }

    /// In whose ranges an address lies.
    pub(super) fn node_of(&self, address: IpAddr) -> Option<Arc<str>> {
        let IpAddr::V4(address) = address else { return None };
        let after = self.ranges.partition_point(|(first, _, _)| *first <= address);
        let (_, last, name) = self.ranges.get(after.checked_sub(1)?)?;
        (address <= *last).then(|| Arc::clone(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: &str, ranges: &[&str]) -> Peer {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Peer { node: node.to_owned(), addresses: Vec::new(), ranges, credentials_since: 0 }
    }

    #[test]
    fn an_address_is_in_one_nodes_range_or_in_none() {
        let peers = vec![
            peer("a", &["10.244.0.0/26", "10.244.9.0/24"]),
            peer("b", &["10.244.0.64/26"]),
            peer("self", &["10.244.0.128/26"]),
            peer("none", &[]),
        ];
        let directory = Directory::new("self", peers);
        let rows = [
            ("10.244.0.0", Some("a")),
            ("10.244.0.63", Some("a")),
            ("10.244.0.64", Some("b")),
            ("10.244.0.127", Some("b")),
            ("10.244.0.128", None),
            ("10.244.9.255", Some("a")),
            ("10.244.10.0", None),
            ("10.0.0.1", None),
            ("fd00::1", None),
        ];
        for (address, expected) in rows {
            assert_eq!(directory.node_of(address.parse().unwrap()).as_deref(), expected, "{address}");
        }
        assert!(directory.get("self").is_none() && directory.get("none").is_some());
    }
}
