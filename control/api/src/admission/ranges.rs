//! Picking from ranges: cluster IPs and node ports.
//!
//! Picks start at a random place, so that two servers that pick at the same time seldom meet; that they never
//! both succeed is the state machine's doing.

use rand::Rng;
use std::net::Ipv4Addr;

/// Node ports, both ends included.
pub(super) const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Addresses at the start of the range that are picked last, so that people can ask for them by name.
const LOW_BAND_MAX: u32 = 256;
/// Offset of the address that the API server's own Service has.
const API_OFFSET: u32 = 1;

/// An IPv4 range.
#[derive(Debug, Clone, Copy)]
pub(super) struct AddressRange {
    first: u32,
    size: u32,
    prefix_length: u8,
}

impl AddressRange {
    /// From `(10.96.0.0, 16)`.
    pub(super) fn new((address, prefix_length): (Ipv4Addr, u8)) -> Self {
        let prefix_length = prefix_length.min(32);
        let size =
            u32::try_from((1_u64 << (32 - u32::from(prefix_length))).min(u64::from(u32::MAX))).unwrap_or(u32::MAX);
        let first = u32::from(address) & !(size - 1);
        Self { first, size, prefix_length }
    }

    /// Whether somebody may ask for `address`: the first and the last one belong to nobody.
    pub(super) fn allows(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.first);
        offset > 0 && offset < self.size.saturating_sub(1)
    }

    /// Every address that may be picked, from a random one on; those that people ask for by name come last.
    pub(super) fn candidates(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, end) = (self.first, self.size.saturating_sub(1));
        let low = (self.size / 16).clamp(16, LOW_BAND_MAX).min(end);
        let start = if low < end { rand::rng().random_range(low..end) } else { low };
        let offsets = (start..end).chain(low..start).chain(API_OFFSET + 1..low);
        offsets.map(move |offset| Ipv4Addr::from(first + offset))
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.first), self.prefix_length)
    }
}

/// Every node port, from a random one on.
pub(super) fn node_ports() -> impl Iterator<Item = u16> {
    let (low, high) = (*NODE_PORTS.start(), *NODE_PORTS.end());
    let start = rand::rng().random_range(NODE_PORTS);
    (start..=high).chain(low..start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_usable_address_is_a_candidate_once() {
        let range = AddressRange::new((Ipv4Addr::new(10, 96, 3, 7), 24));
        assert_eq!(range.to_string(), "10.96.3.0/24");
        let all: Vec<_> = range.candidates().collect();
        let distinct: BTreeSet<_> = all.iter().copied().collect();
        assert_eq!(all.len(), 253);
        assert_eq!(distinct.len(), 253);
        assert!(all.iter().all(|address| range.allows(*address)));
        assert!(!distinct.contains(&Ipv4Addr::new(10, 96, 3, 1)), "that one is the API's");
        assert!(range.allows(Ipv4Addr::new(10, 96, 3, 1)));
        for outside in [[10, 96, 3, 0], [10, 96, 3, 255], [10, 96, 2, 9], [10, 96, 4, 0]] {
            assert!(!range.allows(Ipv4Addr::from(outside)), "{outside:?}");
        }
    }

    #[test]
    fn tiny_ranges_do_not_panic() {
        for prefix_length in 29..=32 {
            let range = AddressRange::new((Ipv4Addr::new(10, 0, 0, 0), prefix_length));
            assert!(range.candidates().all(|address| range.allows(address)));
        }
        assert!(AddressRange::new((Ipv4Addr::UNSPECIFIED, 0)).allows(Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn every_node_port_is_a_candidate_once() {
        let all: BTreeSet<_> = node_ports().collect();
        assert_eq!(all.len(), 2768);
        assert_eq!(node_ports().count(), 2768);
    }
}
