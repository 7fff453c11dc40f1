//! A pod's dial: where the address leads, and one end of the connection. Nothing is dialled that
//! [`crate::policy`] does not allow, and an endpoint that a service chose is asked about again.
//!
//! ```text
//! to ──▶ cluster DNS ─────────────────────────▶ served here, over a socket pair
//!    ──▶ pod of this node ────────────────────▶ socket pair, one end offered to the pod
//!    ──▶ service, node port ──▶ an endpoint ──▶ as the endpoint's address; the next one when it fails
//!    ──▶ outside ─────────────────────────────▶ real socket
//!    ──▶ pod of another node ─────────────────▶ socket pair, one end carried to the node
//!    ──▶ anything else ───────────────────────▶ refused or denied at once
//! ```

use super::{
    Shared,
    attempts::Attempts,
    bounds::Bound,
    far::Place,
    notices::About,
    pods::{DialFailure, Pod},
    statistics::Count,
};
use crate::{
    class::normalise,
    policy::{self, Denial, Surroundings, Way},
    services::{Origin, Protocol, Target},
};
use std::{
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::Instant,
};

/// Reason of the event when a pod is over a bound.
pub(crate) const OVER_BOUND: &str = "NetworkLimit";
/// Reason of the event when a pod wants to go where it may not.
pub(crate) const DENIED: &str = "NetworkDenied";

/// Two ends of a connection inside the cluster, neither of which blocks.
pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((one.into(), other.into()))
}

/// IPv4 in IPv6 clothes is IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(normalise(address.ip()), address.port())
}

impl Shared {
    /// Dials for a pod; see [`super::Fabric::dial`].
    pub(crate) async fn dial(
        self: &Arc<Self>,
        pod_uid: &str,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<OwnedFd, DialFailure> {
        let result = self.dial_within_bounds(pod_uid, canonical(from), canonical(to)).await;
        self.counters.add(match &result {
            Ok((_, count)) => *count,
            Err(failure) => Count::from(*failure),
        });
        result.map(|(stream, _)| stream)
    }

    async fn dial_within_bounds(
        self: &Arc<Self>,
        pod_uid: &str,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(OwnedFd, Count), DialFailure> {
        let Some(pod) = self.pods.read().by_uid(pod_uid) else { return Err(DialFailure::Denied) };
        if !pod.has(from.ip()) {
            return Err(DialFailure::Denied);
        }
        let _permit = pod.budget.dial(Instant::now()).map_err(|bound| self.over(&pod, bound))?;
        tokio::select! {
            biased;
            () = pod.gone.cancelled() => Err(DialFailure::Refused),
            result = self.dial_by_address(&pod, from, to) => result,
        }
    }

    async fn dial_by_address(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(OwnedFd, Count), DialFailure> {
        if to == self.dns_server() {
            return Ok((self.open_dns_connection(pod)?, Count::Connected));
        }
        let (services, ranges) = (self.services(), self.ranges());
        let target = match policy::decide(
            pod.peer(),
            to,
            Protocol::Tcp,
            Surroundings { ranges: &ranges, services: &services },
        ) {
            Err(denial) => return Err(self.denied(pod, to, denial)),
            Ok(Way::Pod) => return Ok((self.connect_pod(from, to, true).await?, Count::Connected)),
            Ok(Way::Outside) => return Ok((self.connect_outside(pod, to).await?, Count::ConnectedOutside)),
            Ok(Way::Service) => services.target(to.ip(), to.port(), Protocol::Tcp),
            Ok(Way::NodePort) => services.node_port(to.port(), Protocol::Tcp),
        };
        let target = target.ok_or(DialFailure::Refused)?;
        self.connect_service(pod, from, &target).await
    }

    /// The endpoints in turn, until one takes it.
    async fn connect_service(
        &self,
        pod: &Pod,
        from: SocketAddr,
        target: &Target,
    ) -> Result<(OwnedFd, Count), DialFailure> {
        let mut attempts = Attempts::new(self, target, from.ip(), Origin::Inside);
        while let Some(endpoint) = attempts.next() {
            let (services, ranges) = (self.services(), self.ranges());
            let result = match policy::decide_endpoint(
                pod.peer(),
                endpoint,
                Surroundings { ranges: &ranges, services: &services },
            ) {
                Ok(Way::Pod) => {
                    let is_last = attempts.is_last();
                    self.connect_pod(from, endpoint, is_last).await.map(|stream| (stream, Count::Connected))
                }
                Ok(Way::Outside) => {
                    self.connect_outside(pod, endpoint).await.map(|stream| (stream, Count::ConnectedOutside))
                }
                Ok(Way::Service | Way::NodePort) => Err(DialFailure::Refused),
                Err(denial) => Err(self.denied(pod, endpoint, denial)),
            };
            match result {
                Ok(connection) => {
                    attempts.connected();
                    return Ok(connection);
                }
                Err(failure) => attempts.failed(failure),
            }
        }
        Err(attempts.failure())
    }

    /// A connection to whichever pod has the address `to`, here or elsewhere. `is_last`: nobody else will be tried.
    async fn connect_pod(&self, from: SocketAddr, to: SocketAddr, is_last: bool) -> Result<OwnedFd, DialFailure> {
        match self.place_of(to.ip())? {
            Place::Here(pod) => {
                let (near, far) = stream_pair().map_err(|_| DialFailure::TooMany)?;
                self.offer(&pod, to, from, far).await?;
                Ok(near)
            }
            Place::There(node) => {
                self.connect_there(&node, from, to, is_last).await?.stream().map_err(|_| DialFailure::TooMany)
            }
        }
    }

    /// Connects the node itself to one of its pods; see [`super::Fabric::dial_into`].
    pub(crate) async fn dial_into(&self, pod_uid: &str, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        let result = self.connect_into(pod_uid, canonical(to)).await;
        self.counters.add(result.as_ref().map_or_else(|failure| Count::from(*failure), |_| Count::Connected));
        result
    }

    async fn connect_into(&self, pod_uid: &str, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        let Some(pod) = self.pods.read().by_uid(pod_uid) else { return Err(DialFailure::Unreachable) };
        if !pod.has(to.ip()) && !to.ip().is_loopback() {
            return Err(DialFailure::Denied);
        }
        let _permit = pod.budget.node_dial().map_err(|bound| self.over(&pod, bound))?;
        let (near, far) = stream_pair().map_err(|_| DialFailure::TooMany)?;
        self.offer(&pod, to, self.node_as_seen_at(to), far).await?;
        Ok(near)
    }

    /// Offers a stream to a pod, which has a bounded time to take it.
    pub(crate) async fn offer(
        &self,
        pod: &Pod,
        to: SocketAddr,
        from: SocketAddr,
        stream: OwnedFd,
    ) -> Result<(), DialFailure> {
        let offered = self.doors.offer(pod.uid(), to, from, stream);
        tokio::select! {
            biased;
            () = pod.gone.cancelled() => Err(DialFailure::Refused),
            result = tokio::time::timeout(self.config.limits.offer_timeout, offered) => {
                result.unwrap_or(Err(DialFailure::TimedOut))
            }
        }
    }

    /// Counts and reports that a pod is over a bound.
    pub(crate) fn over(&self, pod: &Pod, bound: Bound) -> DialFailure {
        self.counters.hit(bound);
        let about = About::Pod(pod.uid().to_owned());
        let text = || format!("refused: {}", bound.text());
        self.reporter.warn(about, OVER_BOUND, bound.text(), text, Instant::now());
        DialFailure::TooMany
    }

    /// Reports that a pod wants to go where it may not.
    pub(crate) fn denied(&self, pod: &Pod, to: SocketAddr, denial: Denial) -> DialFailure {
        let about = About::Pod(pod.uid().to_owned());
        let text = || format!("{to} is not reached from here: {denial}");
        // Wherever it wants to go: a scan of all addresses is one thing to hear of.
        self.reporter.warn(about, DENIED, "", text, Instant::now());
        match denial {
            // To a pod these look like addresses that nobody has.
            Denial::LinkLocal | Denial::Group | Denial::Nobody => DialFailure::Refused,
            Denial::Loopback | Denial::Node | Denial::ControlPlane | Denial::Transit => DialFailure::Denied,
        }
    }
}
