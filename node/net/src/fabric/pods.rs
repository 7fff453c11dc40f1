//! The pods of this node as the fabric knows them, and its only door to them. A pod is reached through [`Pods`]; what it
//! may do is counted in its [`Budget`]; when it is gone, so is everything that was done for it.

use super::bounds::{Budget, Limits};
use crate::{names::PodDns, policy::Peer};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    time::Instant,
};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Why a connection was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DialFailure {
    /// Nobody listens there (`ECONNREFUSED`).
    #[error("connection refused")]
    Refused,
    /// No way leads there (`EHOSTUNREACH`).
    #[error("no route to host")]
    Unreachable,
    /// Nobody answered (`ETIMEDOUT`).
    #[error("connection timed out")]
    TimedOut,
    /// It is not allowed (`EACCES`).
    #[error("not allowed")]
    Denied,
    /// A bound was hit; later it may work (`EAGAIN`).
    #[error("too many connections")]
    TooMany,
}

/// How the fabric reaches the pods of its node.
#[async_trait]
pub trait Pods: Send + Sync + 'static {
    /// Gives a pod one end of a connection that somebody at `from` made to the pod's address `to`. Ends when the pod took
    /// or refused it; may be dropped before that, and the descriptor must then be closed.
    async fn offer(&self, pod_uid: &str, to: SocketAddr, from: SocketAddr, stream: OwnedFd) -> Result<(), DialFailure>;

    /// Gives a pod a datagram that seems to come from `from`. Never blocks; a datagram for which there is no room is lost.
    fn deliver(&self, pod_uid: &str, to: SocketAddr, from: SocketAddr, bytes: Bytes);

    /// Tells a pod that there is nobody to take the datagrams that it sends from `from` to `to`. Never blocks.
    fn datagram_refused(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr);
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEntry {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses, none under `hostNetwork`: then it has names, and no connections.
    pub addresses: Vec<IpAddr>,
    /// How names look to it.
    pub dns: PodDns,
}

/// A pod and what is left to it.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) entry: PodEntry,
    pub(crate) budget: Arc<Budget>,
    /// Cancelled when the pod is removed, or the fabric ends.
    pub(crate) gone: CancellationToken,
}

impl Pod {
    pub(crate) fn uid(&self) -> &str {
        &self.entry.uid
    }

    pub(crate) fn peer(&self) -> Peer<'_> {
        Peer::Pod { namespace: &self.entry.namespace, name: &self.entry.name }
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.entry.addresses.contains(&address)
    }
}

/// All pods of this node, by uid and by address.
#[derive(Debug, Default)]
pub(crate) struct PodTable {
    by_uid: HashMap<String, Arc<Pod>>,
    by_address: HashMap<IpAddr, Arc<Pod>>,
}

impl PodTable {
    /// Adds a pod. One that is there already keeps its budget and gets its new addresses and names.
    pub(crate) fn add(&mut self, entry: PodEntry, limits: &Limits, stop: &CancellationToken) {
        let (budget, gone) = match self.by_uid.get(&entry.uid) {
            Some(pod) => (Arc::clone(&pod.budget), pod.gone.clone()),
            None => (Arc::new(Budget::new(limits, Instant::now())), stop.child_token()),
        };
        self.take_out(&entry.uid);
        let pod = Arc::new(Pod { entry, budget, gone });
        for address in &pod.entry.addresses {
            self.by_address.insert(*address, Arc::clone(&pod));
        }
        self.by_uid.insert(pod.entry.uid.clone(), pod);
    }

    /// Removes a pod and tells everything that works for it.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let pod = self.take_out(uid)?;
        pod.gone.cancel();
        Some(pod)
    }

    fn take_out(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let pod = self.by_uid.remove(uid)?;
        for address in &pod.entry.addresses {
            // By now the address may be another pod's.
            if self.by_address.get(address).is_some_and(|holder| holder.uid() == uid) {
                self.by_address.remove(address);
            }
        }
        Some(pod)
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<Arc<Pod>> {
        self.by_uid.get(uid).cloned()
    }

    pub(crate) fn at(&self, address: IpAddr) -> Option<Arc<Pod>> {
        self.by_address.get(&address).cloned()
    }
}
