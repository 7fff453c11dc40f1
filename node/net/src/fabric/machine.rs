//! The machine below the fabric: which addresses are its own, and its resolver. A pod must never reach an address of
//! its own machine: what listens there (the agent's own ports, a database, a metadata service) trusts the machine.

use super::outside_streams::{Inode, inodes};
use crate::{dns, names::HostResolver, range::Ipv4Range};
use nix::errno::Errno;
use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket},
};

/// Which name servers the machine uses.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Set on machines that may bind addresses which are not theirs.
pub(crate) const NONLOCAL_BIND: [&str; 2] =
    ["/proc/sys/net/ipv4/ip_nonlocal_bind", "/proc/sys/net/ipv6/ip_nonlocal_bind"];
/// All IPv4 routes, those to the machine itself among them.
const ROUTES: &str = "/proc/thread-self/net/fib_trie";
/// All TCP sockets, those of machines without IPv6 in the first alone.
const STREAMS: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
/// All IPv6 addresses of the machine.
const ADDRESSES_V6: &str = "/proc/thread-self/net/if_inet6";

/// What the fabric asks of the machine. Tests have one of their own.
pub(crate) trait Machine: Send + Sync + 'static {
    /// Whether a connection to `address` would end on this machine. Asked for each dial: addresses come and go.
    fn is_own(&self, address: IpAddr) -> bool;

    /// The machine's resolver; blocks. Names that are not known give an error whose kind is `NotFound`, an empty list
    /// means that the name exists without addresses.
    fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>>;

    /// The name servers that the machine uses, read each time.
    fn name_servers(&self) -> Vec<SocketAddr>;

    /// The inodes of all its streams that some process has; blocks. `None` where it does not say.
    fn streams(&self) -> Option<HashSet<Inode>> {
        let tables = STREAMS.map(|path| fs::read_to_string(path).ok());
        let [Some(v4), v6] = tables else { return None };
        Some(inodes(&v4).chain(inodes(&v6.unwrap_or_default())).collect())
    }

    /// Where packets for an address outside are sent: there. Tests have servers of their own.
    fn way_to(&self, outside: SocketAddr) -> SocketAddr {
        outside
    }

    /// The address outside from which packets from `way` seem to come.
    fn seen_from(&self, way: SocketAddr) -> SocketAddr {
        way
    }
}

/// The machine that this process runs on.
pub(crate) struct ThisMachine;

impl Machine for ThisMachine {
    fn is_own(&self, address: IpAddr) -> bool {
        if address.is_loopback() || address.is_unspecified() {
            return true;
        }
        // A socket can be bound to the machine's own addresses only: exact and always up to date.
        match UdpSocket::bind(SocketAddr::new(address, 0)) {
            Ok(_) => !binds_anything(address) || is_listed(address),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EADDRNOTAVAIL) => is_listed(address),
                // The machine knows no such addresses.
                Some(Errno::EAFNOSUPPORT) => false,
                _ => true,
            },
        }
    }

    fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // The final dot keeps the machine's own search list out of it.
        let name = format!("{}.", name.trim_end_matches('.'));
        match (name.as_str(), 0).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.map(|one| one.ip()).collect()),
            Err(error) => Err(sort(error)),
        }
    }

    fn name_servers(&self) -> Vec<SocketAddr> {
        let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        HostResolver::parse(&text).servers.into_iter().map(|address| SocketAddr::new(address, dns::PORT)).collect()
    }
}

/// The standard library gives only the text of `getaddrinfo`'s error.
fn sort(error: io::Error) -> io::Error {
    let text = error.to_string();
    let passing = ["emporary", "ry again", "ystem error", "emory"];
    if passing.iter().any(|part| text.contains(part)) { error } else { io::Error::new(io::ErrorKind::NotFound, text) }
}

fn binds_anything(address: IpAddr) -> bool {
    let setting = NONLOCAL_BIND[usize::from(address.is_ipv6())];
    fs::read_to_string(setting).is_ok_and(|text| text.trim() != "0")
}

fn is_listed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => fs::read_to_string(ROUTES).is_ok_and(|text| has_local_route(&text, address)),
        IpAddr::V6(address) => {
            let hex = format!("{:032x}", address.to_bits());
            fs::read_to_string(ADDRESSES_V6).is_ok_and(|text| text.lines().any(|line| line.starts_with(&hex)))
        }
    }
}

/// Whether the table leads the address to the machine itself: `|-- FIRST` followed by `/LENGTH host LOCAL`.
fn has_local_route(table: &str, address: Ipv4Addr) -> bool {
    let mut first = None;
    for line in table.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            first = leaf.parse::<Ipv4Addr>().ok();
        } else if let (Some(first), Some(length)) = (first, line.strip_suffix(" host LOCAL")) {
            let length = length.strip_prefix('/').and_then(|length| length.parse().ok());
            if length.is_some_and(|length| Ipv4Range::new(first, length).contains(address)) {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_known() {
        let own = ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::"];
        for address in own {
            assert!(ThisMachine.is_own(address.parse().unwrap()), "{address}");
        }
        // Addresses for documentation that no machine has; 192.0.2.0/24 is in use on some build machines.
        for address in ["203.0.113.7", "198.51.100.9", "2001:db8::1"] {
            assert!(!ThisMachine.is_own(address.parse().unwrap()), "{address}");
        }
        let routed = UdpSocket::bind("0.0.0.0:0").unwrap();
        if routed.connect("203.0.113.7:9").is_ok() {
            let address = routed.local_addr().unwrap().ip();
            assert!(ThisMachine.is_own(address) && is_listed(address), "{address}");
        }
        assert!(is_listed("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn local_routes_are_read() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 192.0.2.0\n\
                     /24 link UNICAST\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert!(has_local_route(table, "192.0.2.2".parse().unwrap()));
        let range = "  |-- 203.0.113.0\n     /24 host LOCAL\n";
        assert!(has_local_route(range, "203.0.113.77".parse().unwrap()));
        assert!(!has_local_route(range, "203.0.114.77".parse().unwrap()));
        for other in ["192.0.2.0", "192.0.2.255", "192.0.2.22", "0.0.0.0"] {
            assert!(!has_local_route(table, other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_from_a_resolver_that_does_not_answer() {
        let unknown = "failed to lookup address information: Name or service not known";
        let busy = "failed to lookup address information: Temporary failure in name resolution";
        assert_eq!(sort(io::Error::other(unknown)).kind(), io::ErrorKind::NotFound);
        assert_eq!(sort(io::Error::other(busy)).kind(), io::ErrorKind::Other);
    }
}
