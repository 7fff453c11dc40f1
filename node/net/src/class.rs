//! What kind of address something is, from the point of view of a pod. Pure arithmetic: nothing is looked up.

use crate::range::Ipv4Range;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses outside link-local ranges at which clouds hand out credentials of the machine.
const METADATA: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254))];

/// First octet of "this network" (RFC 1122).
const THIS_NETWORK: u8 = 0;
/// First octet from which addresses are reserved (RFC 1112, section 4).
const RESERVED_FROM: u8 = 240;
/// `64:ff9b::/96`: IPv4 through a translator (RFC 6052).
const TRANSLATED: [u16; 6] = [0x0064, 0xff9b, 0, 0, 0, 0];
/// `64:ff9b:1::/48`: the same, for local use (RFC 8215).
const TRANSLATED_LOCAL: [u16; 3] = [0x0064, 0xff9b, 0x0001];
/// `2002::/16`: IPv4 by tunnel (RFC 3056).
const TUNNELLED: u16 = 0x2002;

/// What the cluster's and the node's own addresses are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// All pods of the cluster.
    pub pods: Ipv4Range,
    /// All virtual service addresses of the cluster.
    pub services: Ipv4Range,
    /// The addresses of this machine.
    pub node_addresses: Vec<IpAddr>,
    /// Where the control plane is, which no pod reaches. Port 0 means every port there.
    pub servers: Vec<SocketAddr>,
}

/// What kind of address something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// In the cluster's pod range.
    Pod,
    /// In the cluster's service range.
    Service,
    /// This machine's own.
    Node,
    /// Loopback, IPv4 or IPv6.
    Loopback,
    /// Link-local, and where clouds serve a machine's metadata.
    LinkLocal,
    /// A group.
    Multicast,
    /// Everybody on the link.
    Broadcast,
    /// `0.0.0.0/8` and `::`, which mean "this machine" to many systems.
    Unspecified,
    /// `240.0.0.0/4`: nobody's.
    Reserved,
    /// Anything else.
    Outside,
}

/// An address as it is meant: IPv4 written as IPv6 (`::ffff:a.b.c.d`) is IPv4.
#[must_use]
pub fn normalise(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The address at which something sent to `address` would arrive: the IPv4 address that a translated or tunnelled IPv6
/// address stands for, otherwise the address itself as [`normalise`] has it.
#[must_use]
pub fn destination(address: IpAddr) -> IpAddr {
    match normalise(address) {
        IpAddr::V6(v6) => embedded_v4(v6).map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What kind of address `address` is.
#[must_use]
pub fn classify(address: IpAddr, ranges: &Ranges) -> AddressClass {
    let address = normalise(address);
    if METADATA.contains(&address) {
        return AddressClass::LinkLocal;
    }
    let special = match address {
        IpAddr::V4(address) => class_of_v4(address, ranges),
        IpAddr::V6(address) => class_of_v6(address, ranges),
    };
    // Loopback and its like are what they are, also where a node lists them as its own.
    if special == AddressClass::Outside && ranges.node_addresses.iter().any(|one| normalise(*one) == address) {
        return AddressClass::Node;
    }
    special
}

fn class_of_v4(address: Ipv4Addr, ranges: &Ranges) -> AddressClass {
    let first = address.octets()[0];
    if address.is_broadcast() {
        AddressClass::Broadcast
    } else if address.is_loopback() {
        AddressClass::Loopback
    } else if address.is_link_local() {
        AddressClass::LinkLocal
    } else if address.is_multicast() {
        AddressClass::Multicast
    } else if first == THIS_NETWORK {
        AddressClass::Unspecified
    } else if first >= RESERVED_FROM {
        AddressClass::Reserved
    } else if ranges.services.contains(address) {
        AddressClass::Service
    } else if ranges.pods.contains(address) {
        AddressClass::Pod
    } else {
        AddressClass::Outside
    }
}

fn class_of_v6(address: Ipv6Addr, ranges: &Ranges) -> AddressClass {
    if address.is_loopback() {
        AddressClass::Loopback
    } else if address.is_unspecified() {
        AddressClass::Unspecified
    } else if address.is_multicast() {
        AddressClass::Multicast
    } else if address.is_unicast_link_local() {
        AddressClass::LinkLocal
    } else if let Some(inner) = embedded_v4(address) {
        // A translator on the machine's way out would deliver to the IPv4 address: the same rules hold for it. It is
        // no way to pods and services, which nobody reaches through a translator.
        match classify(IpAddr::V4(inner), ranges) {
            AddressClass::Outside => AddressClass::Outside,
            AddressClass::Pod | AddressClass::Service => AddressClass::Reserved,
            special => special,
        }
    } else {
        AddressClass::Outside
    }
}

/// The IPv4 address that a translated, tunnelled or "compatible" IPv6 address stands for.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    if segments[..6] == TRANSLATED || segments[..3] == TRANSLATED_LOCAL || segments[..6] == [0; 6] {
        return Some(join(segments[6], segments[7]));
    }
    (segments[0] == TUNNELLED).then(|| join(segments[1], segments[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        Ranges {
            pods: "10.244.0.0/16".parse().unwrap(),
            services: "10.96.0.0/16".parse().unwrap(),
            node_addresses: ["192.0.2.9", "127.0.0.2", "2001:db8::9"].map(|text| text.parse().unwrap()).to_vec(),
            servers: Vec::new(),
        }
    }

    #[test]
    fn every_address_has_its_class() {
        use AddressClass as Is;
        let rows = [
            ("10.244.0.0", Is::Pod),
            ("10.244.7.9", Is::Pod),
            ("10.244.255.255", Is::Pod),
            ("10.245.0.0", Is::Outside),
            ("10.243.255.255", Is::Outside),
            ("10.96.0.1", Is::Service),
            ("10.96.255.255", Is::Service),
            ("10.97.0.0", Is::Outside),
            ("192.0.2.9", Is::Node),
            ("192.0.2.8", Is::Outside),
            ("2001:db8::9", Is::Node),
            ("2001:db8::a", Is::Outside),
            ("127.0.0.1", Is::Loopback),
            ("127.0.0.2", Is::Loopback),
            ("127.255.255.255", Is::Loopback),
            ("::1", Is::Loopback),
            ("169.254.0.1", Is::LinkLocal),
            ("169.254.169.254", Is::LinkLocal),
            ("fe80::1", Is::LinkLocal),
            ("febf::1", Is::LinkLocal),
            ("fec0::1", Is::Outside),
            ("100.100.100.200", Is::LinkLocal),
            ("100.100.100.201", Is::Outside),
            ("fd00:ec2::254", Is::LinkLocal),
            ("fd00:ec2::253", Is::Outside),
            ("224.0.0.1", Is::Multicast),
            ("239.255.255.255", Is::Multicast),
            ("ff02::1", Is::Multicast),
            ("255.255.255.255", Is::Broadcast),
            ("240.0.0.1", Is::Reserved),
            ("255.255.255.254", Is::Reserved),
            ("0.0.0.0", Is::Unspecified),
            ("0.1.2.3", Is::Unspecified),
            ("::", Is::Unspecified),
            ("198.51.100.1", Is::Outside),
            ("203.0.113.1", Is::Outside),
            ("192.168.1.1", Is::Outside),
            ("8.8.8.8", Is::Outside),
            ("2606:4700::1111", Is::Outside),
            ("fd00::1", Is::Outside),
        ];
        for (text, expected) in rows {
            assert_eq!(classify(text.parse().unwrap(), &ranges()), expected, "{text}");
        }
    }

    #[test]
    fn ipv4_in_ipv6_clothes_is_seen_through() {
        use AddressClass as Is;
        let rows = [
            ("::ffff:127.0.0.1", Is::Loopback),
            ("::ffff:169.254.169.254", Is::LinkLocal),
            ("::ffff:10.244.0.5", Is::Pod),
            ("::ffff:10.96.0.10", Is::Service),
            ("::ffff:192.0.2.9", Is::Node),
            ("::ffff:0.0.0.0", Is::Unspecified),
            ("::ffff:8.8.8.8", Is::Outside),
            ("::127.0.0.1", Is::Loopback),
            ("::2", Is::Unspecified),
            ("64:ff9b::7f00:1", Is::Loopback),
            ("64:ff9b::a9fe:a9fe", Is::LinkLocal),
            ("64:ff9b::808:808", Is::Outside),
            ("64:ff9b::c000:209", Is::Node),
            ("64:ff9b::af4:5", Is::Reserved),
            ("64:ff9b:1::a9fe:a9fe", Is::LinkLocal),
            ("2002:7f00:1::", Is::Loopback),
            ("2002:a9fe:a9fe::1", Is::LinkLocal),
            ("2002:a60:a::1", Is::Reserved),
            ("2002:808:808::1", Is::Outside),
        ];
        for (text, expected) in rows {
            assert_eq!(classify(text.parse().unwrap(), &ranges()), expected, "{text}");
        }
    }

    #[test]
    fn services_win_over_a_pod_range_around_them() {
        let mut ranges = ranges();
        ranges.pods = "10.0.0.0/8".parse().unwrap();
        assert_eq!(classify("10.96.0.1".parse().unwrap(), &ranges), AddressClass::Service);
        assert_eq!(classify("10.97.0.1".parse().unwrap(), &ranges), AddressClass::Pod);
    }
}
