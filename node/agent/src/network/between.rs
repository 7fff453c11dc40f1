//! This node's end of the tunnel to the other nodes: opened with the agent, told of peers and credentials as they change.
//!
//! It must never hold up the node: without a tunnel its pods still reach each other and the outside. It never says to anybody
//! that it listens where it does not.

use super::{
    notices::Notices,
    peers,
    place::{self, Place},
    relay::Relay,
};
use crate::{AgentConfig, credentials::Credentials, grpc::Connection, machine, reflector::Cache};
use coracle_net::{
    fabric::{self, About, Fabric},
    tunnel::{self, Notice, Tunnel, TunnelConfig, TunnelError, TunnelLimits},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// Reasons of events about the node.
const RELAYED: &str = "PeerRelayed";
const DIRECT: &str = "PeerDirect";
const UNREACHABLE: &str = "PeerUnreachable";
const REFUSED: &str = "PeerRefused";

/// See the module.
pub(crate) struct Between {
    tunnel: Tunnel,
    notices: mpsc::Receiver<Notice>,
    relay: Arc<Relay>,
    node_name: String,
}

/// What [`Between::keep`] looks at, and whom it tells.
pub(crate) struct Around {
    /// All nodes of the cluster.
    pub(crate) nodes: Cache,
    /// The node's credentials.
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    /// Where the server is towards which the node's address is looked at; `None` where the address is fixed.
    pub(crate) follows: Option<watch::Receiver<Vec<SocketAddr>>>,
    /// Whose node ports follow the address.
    pub(crate) fabric: Fabric,
    /// Where the node is.
    pub(crate) place: watch::Sender<Place>,
    /// Who makes events.
    pub(crate) say: Notices,
}

impl Between {
    /// Opens the tunnel and gives it to the fabric, with where others reach it. Where the address is not the machine's, as
    /// behind a router that translates, it listens on all addresses; where the port is taken, on any that is free.
    ///
    /// # Errors
    /// When there is no way to open it, or the credentials cannot be used.
    pub(crate) fn open(
        config: &AgentConfig,
        credentials: &Credentials,
        fabric: &Fabric,
    ) -> Result<(Self, String), TunnelError> {
        let relay = Arc::new(Relay::default());
        let (tunnel, notices) = open_somewhere(config, credentials, fabric, &relay)?;
        fabric.set_elsewhere(Some(Arc::new(tunnel.clone())));
        let listens = tunnel.local_address().map_err(|error| TunnelError::Listen(config.tunnel_listen, error))?;
        info!(address = %listens, "traffic of other nodes' pods comes in here (UDP)");
        let reached_at = reached_at(listens, config.address.parse().ok());
        Ok((Self { tunnel, notices, relay, node_name: config.node_name.clone() }, reached_at))
    }

    /// The tunnel itself; clones are the same.
    pub(crate) fn tunnel(&self) -> Tunnel {
        self.tunnel.clone()
    }

    /// The way through the server for peers that are not reached directly, until it is dropped.
    pub(crate) fn keep_relay(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        self.relay.clone().keep(connection, self.tunnel.clone())
    }

    /// Listens elsewhere, because the node's address is another one, and gives where others reach it now.
    fn move_to(&self, address: IpAddr) -> io::Result<String> {
        let listens = self.tunnel.local_address()?;
        let there = SocketAddr::new(address, listens.port());
        if !listens.ip().is_unspecified() {
            self.tunnel.rebind(there).map_err(io::Error::other)?;
        }
        Ok(there.to_string())
    }

    /// Follows the nodes of the cluster, the node's credentials and its address, and tells what people should hear.
    pub(crate) async fn keep(mut self, around: Around) {
        let Around { nodes, mut credentials, follows, fabric, place, say } = around;
        let mut version = nodes.version();
        let mut known = None;
        let here = |place: &watch::Sender<Place>| place.borrow().address.parse().ok();
        let mut moved = pin!(next_address(follows.as_ref(), here(&place)));
        loop {
            if *version.borrow_and_update() > 0 {
                let all = nodes.all();
                let peers = peers::of(all.iter().map(|node| &**node), &self.node_name);
                if known.as_ref() != Some(&peers) {
                    self.tunnel.set_peers(peers.clone());
                    known = Some(peers);
                }
            }
            tokio::select! {
                changed = version.changed() => if changed.is_err() { return },
                Ok(()) = credentials.changed() => {
                    let new = credentials.borrow_and_update().clone();
                    if let Err(error) = self.tunnel.set_credentials(shown(&new)) {
                        warn!(%error, "the tunnel goes on with the old credentials");
                    }
                }
                address = &mut moved => {
                    info!(%address, "the node's address is another one now");
                    let before = here(&place);
                    let (reached_at, from) = match self.move_to(address) {
                        Ok(reached_at) => (reached_at, Some(address)),
                        Err(error) => {
                            warn!(%address, %error, "the tunnel cannot follow the node's address: it is tried again");
                            (String::new(), before)
                        }
                    };
                    fabric.set_node_address(address);
                    let next = Place { address: address.to_string(), reached_at };
                    place.send_if_modified(|now| {
                        let is_news = *now != next;
                        *now = next;
                        is_news
                    });
                    moved.set(next_address(follows.as_ref(), from));
                }
                Some(notice) = self.notices.recv() => say.say(event(notice)),
            }
        }
    }
}

/// The node's next address: never, where it is fixed.
async fn next_address(follows: Option<&watch::Receiver<Vec<SocketAddr>>>, known: Option<IpAddr>) -> IpAddr {
    match (follows, known) {
        (Some(server), Some(known)) => place::moved(server, known).await,
        _ => std::future::pending().await,
    }
}

fn open_somewhere(
    config: &AgentConfig,
    credentials: &Credentials,
    fabric: &Fabric,
    relay: &Arc<Relay>,
) -> Result<(Tunnel, mpsc::Receiver<Notice>), TunnelError> {
    let memory = config.memory_bytes.or_else(|| machine::memory::now().map(|memory| memory.total_bytes));
    let open = |listen| {
        let limits = memory.map_or_else(TunnelLimits::default, TunnelLimits::for_memory);
        let tunnel = TunnelConfig { node_name: config.node_name.clone(), listen, limits };
        Tunnel::open(tunnel, shown(credentials), Arc::new(fabric.clone()), Some(relay.clone()))
    };
    let mut listen = config.tunnel_listen;
    loop {
        let error = match open(listen) {
            Err(TunnelError::Listen(_, error)) => error,
            outcome => return outcome,
        };
        let Some(next) = next_best(listen, &error) else { return Err(TunnelError::Listen(listen, error)) };
        warn!(%listen, %error, instead = %next, "other nodes cannot be awaited there");
        listen = next;
    }
}

/// Where to listen when it cannot be there.
fn next_best(listen: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable if !listen.ip().is_unspecified() => {
            let any = if listen.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            Some(SocketAddr::new(any, listen.port()))
        }
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied if listen.port() != 0 => {
            Some(SocketAddr::new(listen.ip(), 0))
        }
        _ => None,
    }
}

/// What other nodes are told; empty where there is nothing that they could use.
fn reached_at(listens: SocketAddr, own: Option<IpAddr>) -> String {
    if !listens.ip().is_unspecified() {
        return listens.to_string();
    }
    own.map_or_else(String::new, |own| SocketAddr::new(own, listens.port()).to_string())
}

fn shown(credentials: &Credentials) -> tunnel::Credentials {
    tunnel::Credentials {
        ca: vec![credentials.ca().clone()],
        chain: credentials.chain().to_vec(),
        key: credentials.key().clone_key(),
    }
}

/// A notice as an event of the node.
fn event(notice: Notice) -> fabric::Notice {
    let (reason, message, warning) = match notice {
        Notice::Relayed { node, why } => {
            (RELAYED, format!("traffic to node {node} goes through the control plane: {why}"), true)
        }
        Notice::Direct { node } => (DIRECT, format!("traffic to node {node} goes directly again"), false),
        Notice::Unreachable { node, why } => (UNREACHABLE, format!("node {node} cannot be reached: {why}"), true),
        Notice::Refused { node: Some(node), why, .. } => (REFUSED, format!("node {node} was turned away: {why}"), true),
        Notice::Refused { node: None, address, why } => {
            (REFUSED, format!("somebody at {} was turned away: {why}", address.ip()), true)
        }
    };
    fabric::Notice { about: About::Node, reason, message, warning }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_where_it_can_and_says_where_it_does() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        for (listen, error, next) in [
            ("203.0.113.5:6444", io::ErrorKind::AddrNotAvailable, Some("0.0.0.0:6444")),
            ("[2001:db8::1]:6444", io::ErrorKind::AddrNotAvailable, Some("[::]:6444")),
            ("192.0.2.1:6444", io::ErrorKind::AddrInUse, Some("192.0.2.1:0")),
            ("192.0.2.1:444", io::ErrorKind::PermissionDenied, Some("192.0.2.1:0")),
            ("0.0.0.0:6444", io::ErrorKind::AddrInUse, Some("0.0.0.0:0")),
            ("0.0.0.0:0", io::ErrorKind::AddrInUse, None),
            ("192.0.2.1:6444", io::ErrorKind::OutOfMemory, None),
        ] {
            assert_eq!(next_best(at(listen), &error.into()), next.map(at), "{listen} {error}");
        }
        let own = Some("192.0.2.9".parse().unwrap());
        assert_eq!(reached_at(at("192.0.2.1:6444"), own), "192.0.2.1:6444");
        assert_eq!(reached_at(at("0.0.0.0:6444"), own), "192.0.2.9:6444");
        assert_eq!(reached_at(at("0.0.0.0:6444"), None), "");
    }
}
