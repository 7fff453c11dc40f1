//! Whether one may talk to another: one pure function, asked for every connection and every datagram.
//!
//! Today's rule: pods reach pods, services and node ports of the cluster, and the outside world. They never reach this
//! machine's loopback, its other ports, link-local and group addresses, or the control plane, by whatever name or service they
//! come. Who only has an address asks again once it is known which endpoint is meant.

use crate::{
    class::{self, AddressClass, Ranges},
    services::{Protocol, Services},
};
use std::net::{IpAddr, SocketAddr};
use thiserror::Error;

/// Somebody who talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer<'a> {
    /// A pod of the cluster.
    Pod {
        /// Its namespace, by which policies will select it.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A pod of another node, or whoever came to a node port there: that node stands for it.
    Elsewhere {
        /// The node.
        node: &'a str,
    },
    /// Whoever came to a node port.
    Outside(IpAddr),
}

/// What the rule looks at beside the two who talk.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The cluster's and the node's addresses.
    pub ranges: &'a Ranges,
    /// The service table: which node ports there are.
    pub services: &'a Services,
}

/// Where a connection that is allowed goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To a pod.
    Pod,
    /// To a service's address; the endpoint that is chosen is asked about again, by [`decide_endpoint`].
    Service,
    /// To a port of this node that a service has; likewise.
    NodePort,
    /// Out of the cluster, by a real socket.
    Outside,
}

/// Why a connection is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denial {
    /// The machine's loopback.
    #[error("the host's loopback is out of a pod's reach")]
    Loopback,
    /// Link-local, cloud metadata among it.
    #[error("link-local addresses are out of a pod's reach")]
    LinkLocal,
    /// Groups and broadcast.
    #[error("group addresses are out of a pod's reach")]
    Group,
    /// No address at all.
    #[error("this address is nobody's")]
    Nobody,
    /// The node, and no service's port there.
    #[error("of the node only node ports are in a pod's reach")]
    Node,
    /// The control plane.
    #[error("the control plane is out of a pod's reach")]
    ControlPlane,
    /// It came from outside and goes out again.
    #[error("nobody from outside or from another node is sent out again")]
    Transit,
}

/// The decision.
pub type Verdict = Result<Way, Denial>;

/// Whether `from` may talk to the address and port `to`.
///
/// # Errors
/// [`Denial`] says why not.
pub fn decide(from: Peer<'_>, to: SocketAddr, protocol: Protocol, around: Surroundings<'_>) -> Verdict {
    let address = class::normalise(to.ip());
    let class = class::classify(address, around.ranges);
    // Whoever has these addresses as a service's or a node's, has them for that.
    match class {
        AddressClass::Service => return Ok(Way::Service),
        AddressClass::Node if around.services.node_port(to.port(), protocol).is_some() => return Ok(Way::NodePort),
        AddressClass::Node if around.services.target(address, to.port(), protocol).is_some() => {
            return Ok(Way::Service);
        }
        AddressClass::Outside if around.services.knows_address(address) => return Ok(Way::Service),
        _ => {}
    }
    decide_endpoint(from, to, around)
}

/// Whether `from` may talk to `to` itself, services left aside: the rule for the endpoint that a service chose. Endpoints
/// are written by users, so everything is asked again.
///
/// # Errors
/// [`Denial`] says why not.
pub fn decide_endpoint(from: Peer<'_>, to: SocketAddr, around: Surroundings<'_>) -> Verdict {
    let address = class::normalise(to.ip());
    // By a translator or a tunnel it would be reached as well.
    let arrives_at = class::destination(address);
    let is_refused =
        |one: &SocketAddr| class::destination(one.ip()) == arrives_at && (one.port() == 0 || one.port() == to.port());
    if around.ranges.servers.iter().any(is_refused) {
        return Err(Denial::ControlPlane);
    }
    match class::classify(address, around.ranges) {
        // NetworkPolicy objects are asked here, once they are served: `from` and the pod that has the address are known.
        AddressClass::Pod => Ok(Way::Pod),
        AddressClass::Outside => match from {
            Peer::Pod { .. } => Ok(Way::Outside),
            Peer::Outside(_) | Peer::Elsewhere { .. } => Err(Denial::Transit),
        },
        // A service behind a service: nobody chooses a second time.
        AddressClass::Service | AddressClass::Unspecified | AddressClass::Reserved => Err(Denial::Nobody),
        AddressClass::Node => Err(Denial::Node),
        AddressClass::Loopback => Err(Denial::Loopback),
        AddressClass::LinkLocal => Err(Denial::LinkLocal),
        AddressClass::Multicast | AddressClass::Broadcast => Err(Denial::Group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const POD: Peer<'static> = Peer::Pod { namespace: "default", name: "web" };

    fn services() -> Services {
        let service = |name: &str, address: &str, rest: serde_json::Value| {
            let mut service = json!({
                "metadata": {"namespace": "default", "name": name},
                "spec": {"type": "NodePort", "clusterIP": address, "ports": [{"port": 80, "nodePort": 30080}]},
            });
            service["spec"]["externalIPs"] = rest;
            service
        };
        Services::build(&[service("web", "10.96.0.20", json!(["198.51.100.7"]))], &[], "n1")
    }

    fn verdict(from: Peer<'_>, to: &str, protocol: Protocol) -> Verdict {
        let ranges = Ranges {
            pods: "10.244.0.0/16".parse().unwrap(),
            services: "10.96.0.0/16".parse().unwrap(),
            node_addresses: vec!["192.0.2.9".parse().unwrap(), "127.0.0.2".parse().unwrap()],
            servers: ["192.0.2.50:6443", "192.0.2.60:0", "10.244.0.99:6443"].map(|text| text.parse().unwrap()).to_vec(),
        };
        let services = services();
        let around = Surroundings { ranges: &ranges, services: &services };
        decide(from, to.parse().unwrap(), protocol, around)
    }

    #[test]
    fn pods_reach_the_cluster_and_the_world_and_nothing_of_the_machine() {
        let rows = [
            ("10.244.0.5:80", Ok(Way::Pod)),
            ("10.96.0.20:80", Ok(Way::Service)),
            ("10.96.0.20:81", Ok(Way::Service)),
            ("10.96.9.9:80", Ok(Way::Service)),
            ("198.51.100.7:80", Ok(Way::Service)),
            ("198.51.100.8:80", Ok(Way::Outside)),
            ("[2001:db8::1]:443", Ok(Way::Outside)),
            ("192.0.2.9:30080", Ok(Way::NodePort)),
            ("192.0.2.9:30081", Err(Denial::Node)),
            ("192.0.2.9:22", Err(Denial::Node)),
            ("[::ffff:192.0.2.9]:22", Err(Denial::Node)),
            ("127.0.0.1:6443", Err(Denial::Loopback)),
            ("127.0.0.2:30080", Err(Denial::Loopback)),
            ("[::1]:80", Err(Denial::Loopback)),
            ("[::ffff:127.0.0.1]:80", Err(Denial::Loopback)),
            ("169.254.169.254:80", Err(Denial::LinkLocal)),
            ("[fe80::1]:80", Err(Denial::LinkLocal)),
            ("224.0.0.251:5353", Err(Denial::Group)),
            ("255.255.255.255:67", Err(Denial::Group)),
            ("[ff02::1]:80", Err(Denial::Group)),
            ("0.0.0.0:80", Err(Denial::Nobody)),
            ("[::]:80", Err(Denial::Nobody)),
            ("240.0.0.1:80", Err(Denial::Nobody)),
            ("192.0.2.50:6443", Err(Denial::ControlPlane)),
            ("[::ffff:192.0.2.50]:6443", Err(Denial::ControlPlane)),
            ("[64:ff9b::192.0.2.50]:6443", Err(Denial::ControlPlane)),
            ("[2002:c000:232::1]:6443", Err(Denial::ControlPlane)),
            ("192.0.2.50:443", Ok(Way::Outside)),
            ("192.0.2.60:1", Err(Denial::ControlPlane)),
            ("10.244.0.99:6443", Err(Denial::ControlPlane)),
        ];
        for (to, expected) in rows {
            assert_eq!(verdict(POD, to, Protocol::Tcp), expected, "{to}");
        }
        assert_eq!(verdict(POD, "192.0.2.9:30080", Protocol::Udp), Err(Denial::Node), "the node port is TCP");
    }

    #[test]
    fn who_comes_from_outside_reaches_pods_only() {
        let from = Peer::Outside("203.0.113.5".parse().unwrap());
        for (to, expected) in [
            ("10.244.0.5:80", Ok(Way::Pod)),
            ("198.51.100.8:80", Err(Denial::Transit)),
            ("127.0.0.1:80", Err(Denial::Loopback)),
        ] {
            assert_eq!(verdict(from, to, Protocol::Tcp), expected, "{to}");
            assert_eq!(verdict(Peer::Elsewhere { node: "n2" }, to, Protocol::Tcp), expected, "{to} from another node");
        }
    }

    #[test]
    fn an_endpoint_is_asked_about_for_itself() {
        let ranges = Ranges {
            pods: "10.244.0.0/16".parse().unwrap(),
            services: "10.96.0.0/16".parse().unwrap(),
            node_addresses: vec!["192.0.2.9".parse().unwrap()],
            servers: vec!["192.0.2.50:6443".parse().unwrap()],
        };
        let services = services();
        let around = Surroundings { ranges: &ranges, services: &services };
        for (to, expected) in [
            ("10.244.0.5:80", Ok(Way::Pod)),
            ("198.51.100.7:80", Ok(Way::Outside)),
            ("10.96.0.20:80", Err(Denial::Nobody)),
            ("192.0.2.9:30080", Err(Denial::Node)),
            ("127.0.0.1:6443", Err(Denial::Loopback)),
            ("192.0.2.50:6443", Err(Denial::ControlPlane)),
        ] {
            assert_eq!(decide_endpoint(POD, to.parse().unwrap(), around), expected, "{to}");
        }
    }

    proptest! {
        #[test]
        fn no_clothes_get_anybody_past_the_rule(address in any::<u32>(), port in 1..=u16::MAX) {
            let v4 = std::net::Ipv4Addr::from(address);
            let plain = verdict(POD, &SocketAddr::from((v4, port)).to_string(), Protocol::Tcp);
            let (high, low) = ((address >> 16) as u16, (address & 0xffff) as u16);
            let dressed = [
                std::net::Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, high, low]),
                std::net::Ipv6Addr::from([0, 0, 0, 0, 0, 0, high, low]),
                std::net::Ipv6Addr::from([0x64, 0xff9b, 0, 0, 0, 0, high, low]),
                std::net::Ipv6Addr::from([0x2002, high, low, 0, 0, 0, 0, 1]),
            ];
            for (index, v6) in dressed.into_iter().enumerate() {
                let dressed = verdict(POD, &SocketAddr::from((v6, port)).to_string(), Protocol::Tcp);
                if index == 0 {
                    prop_assert_eq!(dressed, plain, "{}", v6);
                }
                if plain.is_err() {
                    prop_assert!(dressed.is_err(), "{} is {:?} and {} is {:?}", v4, plain, v6, dressed);
                }
            }
        }

        #[test]
        fn nothing_of_the_machine_is_ever_reached(last in any::<[u8; 3]>(), port in 1..=u16::MAX) {
            for first in [0_u8, 127, 224, 239, 240, 255] {
                let to = SocketAddr::from(([first, last[0], last[1], last[2]], port));
                prop_assert!(verdict(POD, &to.to_string(), Protocol::Tcp).is_err(), "{to}");
            }
            let to = SocketAddr::from(([169, 254, last[1], last[2]], port));
            prop_assert_eq!(verdict(POD, &to.to_string(), Protocol::Udp), Err(Denial::LinkLocal));
        }
    }
}
