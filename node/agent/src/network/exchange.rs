//! Between runners and the fabric: whose connection it is, and how long the cluster's services are waited for at first.

use super::{Switch, addresses::Addresses, notices::Notices, routes::Routes};
use crate::reflector::Cache;
use async_trait::async_trait;
use bytes::Bytes;
use coracle_net::{
    fabric::{DialFailure, Fabric, PodEntry},
    names::{HostResolver, NameError, PodDns},
};
use coracle_objects::{
    meta,
    ranges::{self, CLUSTER_DNS, SERVICE_RANGE},
};
use coracle_runner::protocol::{LookupFailure, LookupResult};
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a dial to a service, or the lookup of a name, waits for the first table of services.
pub(crate) const TABLES_PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Exchange {
    fabric: Fabric,
    addresses: Arc<Addresses>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) notices: Notices,
    /// Whether services and their endpoints are known.
    tables: watch::Sender<bool>,
    host: HostResolver,
    patience: Duration,
}

impl Exchange {
    /// `routes` are those that the fabric uses; `host` is how the node looks names up, and `patience`
    /// how long the first table of services is waited for.
    pub(crate) fn new(
        fabric: Fabric,
        routes: Arc<Routes>,
        addresses: Arc<Addresses>,
        notices: Notices,
        host: HostResolver,
        patience: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { fabric, addresses, routes, notices, tables: watch::Sender::new(false), host, patience })
    }

    /// The fabric that it leads to.
    pub(crate) fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// The pod's end as it may call itself: its own address, whatever the runner says.
    fn own_end(&self, pod_uid: &str, from: SocketAddr) -> Result<SocketAddr, DialFailure> {
        let address = self.addresses.get(pod_uid).ok_or(DialFailure::Unreachable)?;
        Ok(SocketAddr::new(IpAddr::V4(address), from.port()))
    }

    async fn tables_known(&self) -> bool {
        let mut tables = self.tables.subscribe();
        tokio::time::timeout(self.patience, tables.wait_for(|known| *known)).await.is_ok_and(|known| known.is_ok())
    }

    /// Makes a connection for a pod. Dropping the future gives it up.
    pub(super) async fn dial(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        let from = self.own_end(pod_uid, from)?;
        let is_service = matches!(to.ip(), IpAddr::V4(address) if ranges::contains(SERVICE_RANGE, address));
        if is_service && !self.tables_known().await {
            return Err(DialFailure::TimedOut);
        }
        self.fabric.dial(pod_uid, from, to).await
    }

    /// Sends a datagram of a pod on its way.
    pub(super) fn datagram(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        if let Ok(from) = self.own_end(pod_uid, from) {
            self.fabric.datagram(pod_uid, from, to, bytes);
        }
    }

    /// What a name stands for in a pod.
    pub(crate) async fn look_up(&self, pod_uid: &str, name: &str) -> LookupResult {
        if !self.tables_known().await {
            return Err(LookupFailure::Temporary);
        }
        self.fabric.look_up(pod_uid, name).await.map_err(|error| match error {
            NameError::NotFound => LookupFailure::NotFound,
            NameError::Invalid => LookupFailure::Invalid,
            NameError::Temporary => LookupFailure::Temporary,
        })
    }

    /// Keeps the fabric's services and the node's range up to date; several changes at once make one new table. A node needs
    /// its range also without pods: as it, other nodes' pods see the clients of its node ports.
    pub(crate) async fn keep_services(self: Arc<Self>, services: Cache, slices: Cache, stop: CancellationToken) {
        let (mut services_version, mut slices_version) = (services.version(), slices.version());
        let mut range = self.addresses.changes();
        let keep = async {
            loop {
                range.mark_unchanged();
                self.fabric.set_node_ranges(self.addresses.range());
                let known = *services_version.borrow_and_update() > 0 && *slices_version.borrow_and_update() > 0;
                if known {
                    let (all_services, all_slices) = (services.all(), slices.all());
                    self.fabric
                        .set_services(all_services.iter().map(|one| &**one), all_slices.iter().map(|one| &**one));
                    self.tables.send_replace(true);
                }
                tokio::select! {
                    changed = services_version.changed() => if changed.is_err() { return },
                    changed = slices_version.changed() => if changed.is_err() { return },
                    changed = range.changed() => if changed.is_err() { return },
                }
            }
        };
        tokio::select! {
            () = keep => {}
            () = stop.cancelled() => {}
        }
    }

    /// Ends every connection and listener.
    pub(crate) async fn shutdown(&self) {
        self.fabric.shutdown().await;
    }
}

#[async_trait]
impl Switch for Exchange {
    fn add(&self, pod: &Value, address: Ipv4Addr) {
        // A new node learns its range after the fabric was made, but before its first pod.
        self.fabric.set_node_ranges(self.addresses.range());
        self.fabric.add_pod(PodEntry {
            uid: meta::uid(pod).to_owned(),
            namespace: meta::namespace(pod).to_owned(),
            name: meta::name(pod).to_owned(),
            addresses: vec![IpAddr::V4(address)],
            dns: PodDns::of(pod, &[IpAddr::V4(address)], IpAddr::V4(CLUSTER_DNS), &self.host),
        });
    }

    fn remove(&self, uid: &str) {
        self.fabric.remove_pod(uid);
    }

    async fn dial_into(&self, uid: &str, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        self.fabric.dial_into(uid, to).await
    }

    async fn dial_for(&self, uid: &str, host: &str, port: u16) -> Result<OwnedFd, DialFailure> {
        let address = if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            address
        } else {
            let found = self.look_up(uid, host).await.map_err(|_| DialFailure::Unreachable)?;
            *found.first().ok_or(DialFailure::Unreachable)?
        };
        // Nothing of it is bound there; the fabric puts the pod's own address before it.
        let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.dial(uid, from, SocketAddr::new(address, port)).await
    }
}
