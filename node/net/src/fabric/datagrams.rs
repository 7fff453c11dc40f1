//! Datagrams of pods, and of those who come to node ports: each is delivered, sent outside, answered as DNS, or lost.
//! Nothing waits and nothing is kept of a datagram; only flows through services are remembered, for their answers.

use super::{
    Shared,
    attempts::Attempts,
    bounds::Bound,
    dial::canonical,
    far::Place,
    flows::{FlowKey, FlowWay, Owner},
    openings::Opening,
    pods::{DialFailure, Pod},
    statistics::Count,
};
use crate::{
    class::{self, AddressClass},
    policy::{self, Peer, Surroundings, Way},
    services::{Origin, Protocol, Target},
};
use bytes::Bytes;
use std::{net::SocketAddr, sync::Arc, time::Instant};

/// Longest content of a datagram over IPv4, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Nobody takes the datagram, and who sent it may know.
struct NobodyThere;

impl Shared {
    /// Takes a pod's datagram; see [`super::Fabric::datagram`].
    pub(crate) fn datagram(self: &Arc<Self>, pod_uid: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let (from, to, now) = (canonical(from), canonical(to), Instant::now());
        let Some(pod) = self.pods.read().by_uid(pod_uid) else { return };
        if !pod.has(from.ip()) {
            self.counters.add(Count::Denied);
            return;
        }
        if bytes.len() > DATAGRAM_BYTES_MAX {
            self.over(&pod, Bound::DatagramSize);
            return;
        }
        if self.route_datagram(&pod, from, to, bytes, now).is_err() {
            self.counters.add(Count::DatagramsRefused);
            self.doors.datagram_refused(pod.uid(), from, to);
        }
    }

    fn route_datagram(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
        now: Instant,
    ) -> Result<(), NobodyThere> {
        let answer = self.flows.lock().answer(from, to, now);
        match answer {
            Some((flow, Owner::Pod(_))) => return self.deliver(flow.client, flow.service, bytes),
            Some((flow, Owner::Opening(opened))) => {
                self.answer_from(opened, flow.client, &bytes);
                return Ok(());
            }
            None => {}
        }
        if to == self.dns_server() {
            self.dns_datagram(pod, from, &bytes, now);
            return Ok(());
        }
        let (services, ranges) = (self.services(), self.ranges());
        let target = match policy::decide(
            pod.peer(),
            to,
            Protocol::Udp,
            Surroundings { ranges: &ranges, services: &services },
        ) {
            Err(denial) => {
                self.denied(pod, to, denial);
                self.counters.add(Count::Denied);
                return Err(NobodyThere);
            }
            Ok(Way::Pod) => return self.deliver(to, from, bytes),
            Ok(Way::Outside) => {
                self.send_outside(pod, from, to, &bytes, now);
                return Ok(());
            }
            Ok(Way::Service) => services.target(to.ip(), to.port(), Protocol::Udp),
            Ok(Way::NodePort) => services.node_port(to.port(), Protocol::Udp),
        };
        let key = FlowKey { client: from, service: to };
        let owner = || Owner::Pod(pod.uid().into());
        let target = target.ok_or(NobodyThere)?;
        let FlowWay { endpoint, .. } = match self.flow_way(Some(pod), key, owner, &target, now) {
            Ok(way) => way.ok_or(NobodyThere)?,
            Err(bound) => {
                self.over(pod, bound);
                return Ok(());
            }
        };
        if class::classify(endpoint.ip(), &self.ranges()) != AddressClass::Pod {
            self.send_outside(pod, from, endpoint, &bytes, now);
            return Ok(());
        }
        self.deliver(endpoint, from, bytes)
    }

    /// Takes a datagram from outside.
    pub(crate) fn datagram_from_outside(&self, opening: Opening, client: SocketAddr, bytes: Bytes) {
        let (client, now) = (canonical(client), Instant::now());
        let Some(target) = opening.target(&self.services()) else { return };
        let service = opening.address();
        let key = FlowKey { client, service };
        match self.flow_way(None, key, || Owner::Opening(service), &target, now) {
            Ok(Some(way)) if self.deliver(way.endpoint, way.seems_from, bytes).is_ok() => {}
            Ok(_) => self.counters.add(Count::DatagramsRefused),
            Err(bound) => self.node_port_over(&target, bound),
        }
    }

    /// The way of a flow, chosen with its first datagram; none where there is nobody.
    fn flow_way(
        &self,
        pod: Option<&Pod>,
        key: FlowKey,
        owner: impl FnOnce() -> Owner,
        target: &Target,
        now: Instant,
    ) -> Result<Option<FlowWay>, Bound> {
        let known = self.flows.lock().forward(key, &target.port, now);
        let is_in_trouble = |way: &FlowWay| self.others.put_off_until(way.endpoint.ip(), now).is_some();
        if known.is_some_and(|way| !is_in_trouble(&way)) {
            return Ok(known);
        }
        let (peer, origin) = match pod {
            Some(pod) => (pod.peer(), Origin::Inside),
            None => (Peer::Outside(key.client.ip()), Origin::Outside),
        };
        let (services, ranges) = (self.services(), self.ranges());
        let mut attempts = Attempts::new(self, target, key.client.ip(), origin);
        while let Some(endpoint) = attempts.next() {
            // A flow leaves a node that does not answer only for one that may.
            if known.is_some() && self.others.put_off_until(endpoint.ip(), now).is_some() {
                return Ok(known);
            }
            let result =
                match policy::decide_endpoint(peer, endpoint, Surroundings { ranges: &ranges, services: &services }) {
                    Ok(Way::Pod) => self.seen_by(endpoint, key.client, origin),
                    Ok(Way::Outside) => Ok(key.client),
                    Ok(Way::Service | Way::NodePort) => Err(DialFailure::Refused),
                    Err(denial) => Err(pod.map_or(DialFailure::Denied, |pod| self.denied(pod, endpoint, denial))),
                };
            match result {
                Ok(seems_from) => {
                    attempts.connected();
                    let way = FlowWay { endpoint, seems_from };
                    let kept = self.flows.lock().open(key, owner(), &target.port, way, now);
                    return kept.map(Some).ok_or(Bound::Flows);
                }
                Err(failure) => attempts.failed(failure),
            }
        }
        Ok(None)
    }

    /// As whom an endpoint sees a client, if there is one.
    fn seen_by(&self, endpoint: SocketAddr, client: SocketAddr, origin: Origin) -> Result<SocketAddr, DialFailure> {
        match (self.place_of(endpoint.ip())?, origin) {
            (_, Origin::Inside) => Ok(client),
            (Place::Here(_), Origin::Outside) => Ok(self.as_pods_see(client)),
            (Place::There(_), Origin::Outside) => self.as_far_pods_see(client),
        }
    }

    /// Gives a datagram to the pod that has the address `to`, here or elsewhere.
    fn deliver(&self, to: SocketAddr, from: SocketAddr, bytes: Bytes) -> Result<(), NobodyThere> {
        match self.place_of(to.ip()).map_err(|_| NobodyThere)? {
            Place::Here(pod) => {
                self.counters.add(Count::DatagramsDelivered);
                self.doors.deliver(pod.uid(), to, from, bytes);
            }
            Place::There(node) => {
                self.counters.add(Count::DatagramsElsewhere);
                self.others.way().ok_or(NobodyThere)?.send(&node, from, to, bytes);
            }
        }
        Ok(())
    }
}
