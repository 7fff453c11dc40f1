//! Which ports of a pod are taken, for one protocol, and by whom. Values only: no sockets, no waiting.
//!
//! As on Linux, a port is taken per address, and a socket on the unspecified address takes it on all addresses of its
//! family. A port stays taken while its holder is there and is free at once afterwards. Ports that a guest does not
//! choose are drawn at random, so that another one cannot tell them from those it was given itself.

use super::error::SocketError;
use rand::Rng;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

/// Linux's default range.
pub(crate) const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// Random draws before the range is searched from one end to the other.
const DRAWS: usize = 32;

/// The ports of one protocol.
#[derive(Debug)]
pub(crate) struct Ports<T> {
    taken: HashMap<u16, Vec<(IpAddr, T)>>,
}

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Self { taken: HashMap::new() }
    }
}

impl<T> Ports<T> {
    /// Takes a port for `holder`; port 0 means any ephemeral one. Says which one it is.
    ///
    /// # Errors
    /// `AddressInUse` when it is taken, or when none is free.
    pub(crate) fn claim(&mut self, address: SocketAddr, holder: T) -> Result<SocketAddr, SocketError> {
        let port = match address.port() {
            0 => self.draw(address.ip()).ok_or(SocketError::AddressInUse)?,
            port if self.is_free(address.ip(), port) => port,
            _ => return Err(SocketError::AddressInUse),
        };
        self.taken.entry(port).or_default().push((address.ip(), holder));
        Ok(SocketAddr::new(address.ip(), port))
    }

    /// Gives back what [`Self::claim`] returned.
    pub(crate) fn free(&mut self, address: SocketAddr) {
        if let Some(holders) = self.taken.get_mut(&address.port()) {
            holders.retain(|(taken, _)| *taken != address.ip());
            if holders.is_empty() {
                self.taken.remove(&address.port());
            }
        }
    }

    /// Who holds exactly this address.
    pub(crate) fn holder(&mut self, address: SocketAddr) -> Option<&mut T> {
        let holders = self.taken.get_mut(&address.port())?;
        holders.iter_mut().find(|(taken, _)| *taken == address.ip()).map(|(_, holder)| holder)
    }

    /// Whom something sent to `to` reaches.
    pub(crate) fn reached(&self, to: SocketAddr) -> Option<&T> {
        let holders = self.taken.get(&to.port())?;
        holders.iter().find(|(taken, _)| overlap(*taken, to.ip())).map(|(_, holder)| holder)
    }

    fn is_free(&self, address: IpAddr, port: u16) -> bool {
        self.taken.get(&port).is_none_or(|holders| !holders.iter().any(|(taken, _)| overlap(*taken, address)))
    }

    fn draw(&self, address: IpAddr) -> Option<u16> {
        let mut random = rand::rng();
        let drawn = (0..DRAWS).map(|_| random.random_range(EPHEMERAL)).find(|port| self.is_free(address, *port));
        drawn.or_else(|| {
            let middle = random.random_range(EPHEMERAL);
            let all = (middle..=*EPHEMERAL.end()).chain(*EPHEMERAL.start()..middle);
            all.into_iter().find(|port| self.is_free(address, *port))
        })
    }
}

/// Whether two addresses cannot both have the same port.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ports_conflict_as_on_linux() {
        for (first, second, conflict) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "10.244.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::]:80", false),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::1]:80", "[::]:80", true),
        ] {
            let mut ports = Ports::default();
            assert_eq!(ports.claim(at(first), 1), Ok(at(first)));
            let expected = if conflict { Err(SocketError::AddressInUse) } else { Ok(at(second)) };
            assert_eq!(ports.claim(at(second), 2), expected, "{first} and {second}");
            ports.free(at(first));
            if conflict {
                assert_eq!(ports.claim(at(second), 2), Ok(at(second)), "{first} was freed");
            }
        }
    }

    #[test]
    fn the_holder_of_the_address_is_reached() {
        let mut ports = Ports::default();
        for (address, name) in [("127.0.0.1:80", "loopback"), ("10.244.0.2:80", "pod"), ("0.0.0.0:81", "all")] {
            ports.claim(at(address), name).unwrap();
        }
        for (to, name) in [
            ("127.0.0.1:80", Some("loopback")),
            ("127.0.0.2:80", None),
            ("10.244.0.2:80", Some("pod")),
            ("127.0.0.9:81", Some("all")),
            ("[::1]:81", None),
            ("127.0.0.1:82", None),
        ] {
            assert_eq!(ports.reached(at(to)).copied(), name, "{to}");
        }
        assert!(ports.holder(at("127.0.0.1:81")).is_none());
        *ports.holder(at("0.0.0.0:81")).unwrap() = "other";
        assert_eq!(ports.reached(at("127.0.0.1:81")), Some(&"other"));
    }

    #[test]
    fn all_ephemeral_ports_can_be_had_once_and_not_in_order() {
        let mut ports = Ports::default();
        let mut drawn = Vec::new();
        while let Ok(address) = ports.claim(at("10.244.0.2:0"), ()) {
            drawn.push(address.port());
        }
        assert_eq!(drawn.len(), EPHEMERAL.len());
        assert!(drawn.iter().all(|port| EPHEMERAL.contains(port)));
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
        let in_order = drawn[..1000].windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(1)).count();
        assert!(in_order < 100, "{in_order} of 1000 follow their predecessor");
        // Another address has its own.
        ports.claim(at("127.0.0.1:0"), ()).unwrap();
    }
}
