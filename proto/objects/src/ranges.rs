//! The cluster's address ranges: constants that server, nodes and the virtual network agree on, and how a range is
//! written. Nothing here gives addresses out.

use std::net::Ipv4Addr;

/// IPv4 range of all pods: first address and prefix length. Every node has a part of it.
pub const POD_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 14);
/// Prefix length of the part of [`POD_RANGE`] that a node gets that does not say for how many pods it is made: 1024 addresses.
pub const NODE_RANGE_BITS: u8 = 22;
/// Prefix length of the smallest part that a node gets: 64 addresses. Larger ones are made of these.
pub const SMALLEST_NODE_RANGE_BITS: u8 = 26;
/// Prefix length of the largest part: an eighth of all.
pub const LARGEST_NODE_RANGE_BITS: u8 = 17;
/// Addresses of a node's part that no pod gets: the first two and the last.
pub const RESERVED_ADDRESSES: u32 = 3;
/// Annotation by which a node that registers says for how many pods it is made.
pub const MAX_PODS_ANNOTATION: &str = "coracle.dev/max-pods";
/// IPv4 range from which Services get their cluster IPs: first address and prefix length.
pub const SERVICE_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
/// Cluster IP of the service `kube-system/kube-dns`, where the cluster's DNS answers.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Name below which the cluster's DNS knows services and pods.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// First address and prefix length of `10.244.4.0/22`; `None` for anything that is not the canonical spelling of an
/// IPv4 range, such as one with bits set behind the prefix.
#[must_use]
pub fn parse(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, length) = text.split_once('/')?;
    let range: (Ipv4Addr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let is_canonical = range.1 <= 32 && u32::from(range.0) & !mask(range.1) == 0 && self::text(range) == text;
    is_canonical.then_some(range)
}

/// `10.244.4.0/22`.
#[must_use]
pub fn text((address, length): (Ipv4Addr, u8)) -> String {
    format!("{address}/{length}")
}

/// Whether `address` lies in a range.
#[must_use]
pub fn contains((first, length): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    u32::from(first) & mask(length) == u32::from(address) & mask(length)
}

/// Prefix length of the smallest part that has addresses for so many pods; `None` if not even the largest has.
#[must_use]
pub fn node_range_bits(pods: u32) -> Option<u8> {
    let fits = |bits: &u8| pods.checked_add(RESERVED_ADDRESSES).is_some_and(|wanted| wanted <= 1 << (32 - bits));
    (LARGEST_NODE_RANGE_BITS..=SMALLEST_NODE_RANGE_BITS).rev().find(fits)
}

/// The parts of [`POD_RANGE`] with a prefix of `bits`, in order.
pub fn node_ranges(bits: u8) -> impl ExactSizeIterator<Item = (Ipv4Addr, u8)> + Clone {
    parts(POD_RANGE, bits.clamp(LARGEST_NODE_RANGE_BITS, SMALLEST_NODE_RANGE_BITS))
}

/// Why a node that asks for a range of this size has none, and what helps.
#[must_use]
pub fn exhausted(node: &str, bits: u8) -> String {
    let (count, all) = (node_ranges(bits).len(), text(POD_RANGE));
    let way_out = if bits < SMALLEST_NODE_RANGE_BITS {
        "start it for fewer pods (--max-pods), which takes a smaller range, or delete Nodes that are no more"
    } else {
        "delete Nodes that are no more"
    };
    format!(
        "node {node} has no spec.podCIDR, and pods on it get no addresses: all {count} ranges (/{bits}) of {all} belong to \
         other nodes, at least in part; {way_out}"
    )
}

/// The smallest parts that a node's part is made of, in order.
pub fn blocks(range: (Ipv4Addr, u8)) -> impl ExactSizeIterator<Item = (Ipv4Addr, u8)> + Clone {
    parts(range, SMALLEST_NODE_RANGE_BITS.max(range.1))
}

fn parts(range: (Ipv4Addr, u8), bits: u8) -> impl ExactSizeIterator<Item = (Ipv4Addr, u8)> + Clone {
    let count = 1_u32 << (bits - range.1);
    (0..count).map(move |index| (Ipv4Addr::from(u32::from(range.0) + (index << (32 - bits))), bits))
}

/// The bits of a prefix.
fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_one_spelling() {
        for good in ["10.244.4.0/22", "10.96.0.0/16", "0.0.0.0/0", "1.2.3.4/32"] {
            assert_eq!(parse(good).map(text).as_deref(), Some(good));
        }
        for bad in ["", "10.244.4.0", "10.244.4.1/22", "10.244.4.0/33", "10.244.4.0/022", "10.244.4.0/+22", "::/0"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nodes_share_the_pods_range_without_overlap() {
        let all: Vec<_> = node_ranges(NODE_RANGE_BITS).collect();
        assert_eq!((all.len(), all[0], all[1]), (256, (POD_RANGE.0, 22), (Ipv4Addr::new(10, 244, 4, 0), 22)));
        for range in &all {
            assert!(contains(POD_RANGE, range.0) && parse(&text(*range)).is_some());
            assert_eq!(all.iter().filter(|other| contains(**other, range.0)).count(), 1, "{range:?}");
        }
    }

    #[test]
    fn a_part_is_as_large_as_its_node() {
        let sizes = [
            (0, Some(26)),
            (61, Some(26)),
            (62, Some(25)),
            (1021, Some(22)),
            (1022, Some(21)),
            (10_000, Some(18)),
            (32_765, Some(17)),
        ];
        for (pods, bits) in sizes {
            assert_eq!(node_range_bits(pods), bits, "{pods}");
        }
        assert_eq!((node_range_bits(32_766), node_range_bits(u32::MAX)), (None, None));
        let large: Vec<_> = node_ranges(18).collect();
        assert_eq!((large.len(), large[1]), (16, (Ipv4Addr::new(10, 244, 64, 0), 18)));
        let blocks: Vec<_> = blocks(large[1]).collect();
        assert_eq!((blocks.len(), blocks[0], blocks[15].0), (256, (large[1].0, 26), Ipv4Addr::new(10, 244, 67, 192)));
    }

    #[test]
    fn ranges_end_where_they_should() {
        assert!(contains(SERVICE_RANGE, CLUSTER_DNS) && !contains(POD_RANGE, CLUSTER_DNS));
        assert!(contains(POD_RANGE, Ipv4Addr::new(10, 247, 255, 255)));
        assert!(!contains(POD_RANGE, Ipv4Addr::new(10, 248, 0, 0)));
        assert!(contains((Ipv4Addr::UNSPECIFIED, 0), CLUSTER_DNS));
    }
}
