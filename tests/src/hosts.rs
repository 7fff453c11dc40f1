//! Hosts of the test's own, with real addresses: network namespaces on one bridge, some of them behind a router that
//! translates addresses. What happens to networks can be done to this one: partitions, loss, other addresses and
//! sizes of packets, and (by [`Wire`]) delay and disorder.
//!
//! Needs root, `ip` and `nft`, and says so aloud. Nothing of it is seen outside of its namespaces, and nothing stays
//! of it, so any number of tests may have the same addresses at once.

mod booted;
mod clock;
mod namespace;
mod realm;
pub mod reuse;
mod wire;

pub use booted::Booted;
pub use clock::WrongClock;
pub use namespace::Namespace;
pub use realm::{Realm, SERVER};
pub use wire::{Weather, Wire};

use std::{
    net::Ipv4Addr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

/// The network that all hosts and routers are on: RFC 5737 keeps it for examples.
const NETWORK: [u8; 3] = [192, 0, 2];
/// The first host's last byte.
const FIRST_HOST: u8 = 10;
/// What lies behind each router, as RFC 1918 has it.
const BEHIND: [u8; 3] = [192, 168, 77];
/// The router and the host behind it.
const ROUTER: u8 = 1;
const HIDDEN: u8 = 2;

/// A host with one interface, `eth0`.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: Namespace,
    /// Its own address; others cannot use it when there is a router in between.
    address: Ipv4Addr,
    router: Option<Namespace>,
    /// The bridge's interface that leads to the host, or to its router.
    port: String,
}

impl Host {
    /// What the test calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own address; others cannot use it when it is behind a router.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where its processes run.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The size of its packets, in bytes, from now on: what is larger is lost on the way to it, without a word.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn set_mtu(&self, bytes: u16) {
        // Else packets that the kernel has not yet cut into pieces would pass whole.
        self.namespace.ip(&format!("link set eth0 mtu {bytes} gso_max_segs 1"));
    }

    /// Gives it another address. Its connections do not survive that; nobody is told.
    ///
    /// # Panics
    /// When it is behind a router, or the kernel refuses.
    pub fn renumber(&mut self, last: u8) {
        assert!(self.router.is_none(), "{} is behind a router", self.name);
        let fresh = on(NETWORK, last);
        // In this order: the second address of a network goes with the first one.
        self.namespace.ip(&format!("addr del {}/24 dev eth0", self.address));
        self.namespace.ip(&format!("addr add {fresh}/24 dev eth0"));
        self.address = fresh;
    }

    /// Gives the router that it is behind another address and a memory without connections.
    ///
    /// # Panics
    /// When there is none, or the kernel refuses.
    pub fn renumber_router(&self, last: u8) {
        let router = self.router.as_ref().unwrap_or_else(|| panic!("{} is behind no router", self.name));
        router.ip("addr flush dev eth0");
        router.ip(&format!("addr add {}/24 dev eth0", on(NETWORK, last)));
    }
}

const fn on(network: [u8; 3], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(network[0], network[1], network[2], last)
}

/// The bridge that joins the hosts, and what it does to packets.
#[derive(Debug)]
pub struct Lan {
    switch: Namespace,
    hosts: AtomicU8,
    /// Rules of the chain by which it judges packets.
    faults: Mutex<Vec<String>>,
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Lan {
    /// One without hosts.
    ///
    /// # Panics
    /// When the machine does not let it be made.
    #[must_use]
    pub fn new() -> Self {
        let switch = Namespace::new();
        switch.ip("link add lan type bridge forward_delay 0");
        switch.ip("link set lan up");
        switch.nft("add table bridge faults; add chain bridge faults forward { type filter hook forward priority 0; }");
        Self { switch, hosts: AtomicU8::new(FIRST_HOST), faults: Mutex::default() }
    }

    /// The namespace of the bridge.
    #[must_use]
    pub const fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// A host on the bridge.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let namespace = Namespace::new();
        let (port, address) = self.attach(&namespace);
        Host { name: name.to_owned(), namespace, address, router: None, port }
    }

    /// A host behind a router that hides it: connections leave under the router's address and a port that nobody can
    /// foretell, and nothing comes in but answers.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn host_behind_router(&self, name: &str) -> Host {
        let (namespace, router) = (Namespace::new(), Namespace::new());
        let (port, _) = self.attach(&router);
        let (inner, address) = (on(BEHIND, ROUTER), on(BEHIND, HIDDEN));
        router.ip(&format!("link add inner type veth peer name eth0 netns {}", namespace.path()));
        router.ip(&format!("addr add {inner}/24 dev inner"));
        router.ip("link set inner up");
        namespace.ip(&format!("addr add {address}/24 dev eth0"));
        namespace.ip("link set eth0 up");
        namespace.ip(&format!("route add default via {inner}"));
        router.write("/proc/sys/net/ipv4/ip_forward", "1");
        router.nft(
            "add table ip nat; \
             add chain ip nat out { type nat hook postrouting priority 100; }; \
             add rule ip nat out oifname eth0 masquerade fully-random; \
             add chain ip nat through { type filter hook forward priority 0; policy drop; }; \
             add rule ip nat through iifname inner accept; \
             add rule ip nat through ct state established,related accept; \
             add chain ip nat in { type filter hook input priority 0; }; \
             add rule ip nat in iifname eth0 ct state new drop",
        );
        Host { name: name.to_owned(), namespace, address, router: Some(router), port }
    }

    /// Gives a namespace `eth0` on the bridge; answers the bridge's end and the address.
    fn attach(&self, namespace: &Namespace) -> (String, Ipv4Addr) {
        let last = self.hosts.fetch_add(1, Ordering::Relaxed);
        let (port, address) = (format!("port{last}"), on(NETWORK, last));
        self.switch.ip(&format!("link add {port} type veth peer name eth0 netns {}", namespace.path()));
        self.switch.ip(&format!("link set {port} master lan up"));
        namespace.ip(&format!("addr add {address}/24 dev eth0"));
        namespace.ip("link set eth0 up");
        (port, address)
    }

    /// Loses everything between these two, without a word to either, until [`Lan::heal`].
    pub fn cut(&self, one: &Host, other: &Host) {
        self.judge(|rules| {
            for (from, to) in [(one, other), (other, one)] {
                rules.push(format!("iifname {} oifname {} drop", from.port, to.port));
            }
        });
    }

    /// Loses everything between this one and all others, until [`Lan::heal`].
    pub fn isolate(&self, host: &Host) {
        let port = &host.port;
        self.judge(|rules| rules.extend([format!("iifname {port} drop"), format!("oifname {port} drop")]));
    }

    /// Loses so many of a thousand packets (at most 999), whosesoever they are, until [`Lan::heal`].
    pub fn lose(&self, permille: u16) {
        self.judge(|rules| rules.push(format!("numgen random mod 1000 < {permille} drop")));
    }

    /// Loses everything of this protocol (`udp`, `tcp`) that goes to this port of anybody, until [`Lan::heal`].
    pub fn block(&self, protocol: &str, port: u16) {
        self.judge(|rules| rules.push(format!("{protocol} dport {port} drop")));
    }

    /// Ends all of these faults.
    pub fn heal(&self) {
        self.judge(Vec::clear);
    }

    fn judge(&self, change: impl FnOnce(&mut Vec<String>)) {
        let mut rules = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut rules);
        let added = rules.iter().map(|rule| format!("; add rule bridge faults forward {rule}"));
        self.switch.nft(&format!("flush chain bridge faults forward{}", added.collect::<String>()));
    }
}
