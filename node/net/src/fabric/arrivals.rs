//! What comes from other nodes for pods of this one. A node is believed about its own pods' addresses and about nothing
//! else: whatever else it says is refused, and it reaches this node's pods only, by their own addresses.

use super::{
    Fabric, Shared,
    bounds::Bound,
    dial::canonical,
    flows::Owner,
    notices::About,
    pods::{DialFailure, Pod},
    statistics::Count,
};
use crate::{
    policy::{self, Peer, Surroundings, Way},
    tunnel::Arrivals,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Instant};

/// Reason of the event when another node sends what it may not.
const NOT_ITS_OWN: &str = "NodeTrafficDenied";

impl Shared {
    /// The pod of this node that somebody on `node` who says to be at `from` may talk to at `to`.
    fn arrived_for(&self, node: &str, from: SocketAddr, to: SocketAddr) -> Result<Arc<Pod>, DialFailure> {
        let (services, ranges) = (self.services(), self.ranges());
        let verdict = policy::decide_endpoint(
            Peer::Elsewhere { node },
            to,
            Surroundings { ranges: &ranges, services: &services },
        );
        if verdict != Ok(Way::Pod) {
            return Err(self.not_its_own(node, from, to));
        }
        self.pods.read().at(to.ip()).ok_or(DialFailure::Refused)
    }

    /// Whether the address is one that the node speaks for.
    fn speaks_for(&self, node: &str, from: SocketAddr) -> bool {
        self.others.node_of(from.ip()).is_some_and(|owner| &*owner == node)
    }

    fn not_its_own(&self, node: &str, from: SocketAddr, to: SocketAddr) -> DialFailure {
        let text = || format!("node {node} sends as {from} to {to}, which it may not");
        self.reporter.warn(About::Node, NOT_ITS_OWN, "", text, Instant::now());
        DialFailure::Denied
    }

    async fn take_connection(
        &self,
        node: &str,
        from: SocketAddr,
        to: SocketAddr,
        stream: OwnedFd,
    ) -> Result<(), DialFailure> {
        if !self.speaks_for(node, from) {
            return Err(self.not_its_own(node, from, to));
        }
        let pod = self.arrived_for(node, from, to)?;
        let Some(_share) = self.arrivals.try_take(node) else {
            self.counters.hit(Bound::Arrivals);
            return Err(DialFailure::TooMany);
        };
        self.offer(&pod, to, from, stream).await
    }

    /// A datagram from another node: an answer within a flow of this node's, or something new for a pod.
    fn take_datagram(&self, node: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) -> Result<(), DialFailure> {
        if !self.speaks_for(node, from) {
            return Err(self.not_its_own(node, from, to));
        }
        let answer = self.flows.lock().answer(from, to, Instant::now());
        let (from, to, pod) = match answer {
            Some((flow, Owner::Opening(opened))) => {
                self.answer_from(opened, flow.client, &bytes);
                return Ok(());
            }
            Some((flow, Owner::Pod(_))) => {
                let pod = self.pods.read().at(flow.client.ip()).ok_or(DialFailure::Refused)?;
                (flow.service, flow.client, pod)
            }
            None => (from, to, self.arrived_for(node, from, to)?),
        };
        self.counters.add(Count::DatagramsDelivered);
        self.doors.deliver(pod.uid(), to, from, bytes);
        Ok(())
    }
}

#[async_trait]
impl Arrivals for Fabric {
    async fn connect(&self, node: &str, from: SocketAddr, to: SocketAddr, stream: OwnedFd) -> Result<(), DialFailure> {
        self.0.others.alive(node);
        let result = self.0.take_connection(node, canonical(from), canonical(to), stream).await;
        self.0.counters.add(result.as_ref().map_or_else(|failure| Count::from(*failure), |()| Count::Arrived));
        result
    }

    fn datagram(&self, node: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        self.0.others.alive(node);
        let (from, to) = (canonical(from), canonical(to));
        match self.0.take_datagram(node, from, to, bytes) {
            Ok(()) => {}
            Err(DialFailure::Denied) => self.0.counters.add(Count::Denied),
            Err(_) => {
                self.0.counters.add(Count::DatagramsRefused);
                if let Some(way) = self.0.others.way() {
                    way.say_refused(node, from, to);
                }
            }
        }
    }

    fn datagram_refused(&self, node: &str, from: SocketAddr, to: SocketAddr) {
        let (from, to) = (canonical(from), canonical(to));
        // Only who has the address may say that nobody is there.
        if !self.0.speaks_for(node, to) {
            self.0.counters.add(Count::Denied);
            return;
        }
        let flow = self.0.flows.lock().answer(to, from, Instant::now());
        let (from, to) = match flow {
            Some((_, Owner::Opening(_))) => return,
            Some((flow, Owner::Pod(_))) => (flow.client, flow.service),
            None => (from, to),
        };
        let pod = self.0.pods.read().at(from.ip());
        if let Some(pod) = pod {
            self.0.doors.datagram_refused(pod.uid(), from, to);
        }
    }
}
