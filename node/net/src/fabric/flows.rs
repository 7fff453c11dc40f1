//! Flows of datagrams through services: which endpoint a client's datagrams go to, and which address its answers come
//! from. A table with bounds; the time is passed in, nothing is sent from here.

use super::shares::may_have_more;
use crate::services::{Gone, ServicePort};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// For whom a flow is kept: the bound is theirs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A pod that talks to a service.
    Pod(Arc<str>),
    /// A node port or external address that somebody outside talks to.
    Opening(SocketAddr),
}

/// Ports that are tried for a client of a node port whose own port somebody else seems to have.
const PORTS_TRIED: u16 = 64;

/// Endpoints that a flow has left from which answers are still taken: those that were on their way.
const LEFT_MAX: usize = 4;

/// Who talks to which service address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    owner: Owner,
    port: Arc<ServicePort>,
    way: FlowWay,
    /// Where answers came from before, the newest last.
    left: Vec<Answer>,
    used: Instant,
}

/// An endpoint, and where the datagrams that it gets seem to come from.
type Answer = (SocketAddr, SocketAddr);

/// How the datagrams of a flow reach its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowWay {
    /// Where they go.
    pub(crate) endpoint: SocketAddr,
    /// Where they seem to come from: that is where the endpoint answers to.
    pub(crate) seems_from: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Flows {
    by_key: HashMap<FlowKey, Flow>,
    /// By endpoint and where its datagrams seem to come from. Where a pod reaches one endpoint by two services, answers come
    /// from the one that it used last.
    answers: HashMap<Answer, FlowKey>,
    per_owner: HashMap<Owner, usize>,
    owner_max: usize,
    all_max: usize,
    idle: Duration,
}

impl Flows {
    pub(crate) fn new(owner_max: usize, all_max: usize, idle: Duration) -> Self {
        let (by_key, answers, per_owner) = Default::default();
        Self { by_key, answers, per_owner, owner_max, all_max, idle }
    }

    /// Where a datagram of a known flow goes. Nothing where its endpoint should get nothing more; what that still answers is
    /// taken until the flow is idle.
    pub(crate) fn forward(&mut self, key: FlowKey, port: &Arc<ServicePort>, now: Instant) -> Option<FlowWay> {
        let flow = self.by_key.get_mut(&key)?;
        if now.saturating_duration_since(flow.used) >= self.idle {
            self.take(key);
            return None;
        }
        let same = Arc::ptr_eq(&flow.port, port);
        if !(same || flow.port.id == port.id && port.endpoints.eligible(false).contains(&flow.way.endpoint)) {
            return None;
        }
        flow.port = Arc::clone(port);
        flow.used = now;
        self.answers.insert((flow.way.endpoint, flow.way.seems_from), key);
        Some(flow.way)
    }

    /// Remembers a new flow, or that one has another endpoint now. It has another port there where two clients from outside
    /// would look like one. `None` where the owner has too many, or all that it may while the node has few left.
    pub(crate) fn open(
        &mut self,
        key: FlowKey,
        owner: Owner,
        port: &Arc<ServicePort>,
        mut way: FlowWay,
        now: Instant,
    ) -> Option<FlowWay> {
        let (before, idle) = (self.take(key), self.idle);
        let is_fresh = |(_, used): &(_, Instant)| now.saturating_duration_since(*used) < idle;
        let mut left = before.filter(is_fresh).map(|(answers, _)| answers).unwrap_or_default();
        let count = self.per_owner.get(&owner).copied().unwrap_or_default();
        if count >= self.owner_max || !may_have_more(count, self.all_max.saturating_sub(self.by_key.len())) {
            return None;
        }
        if matches!(owner, Owner::Opening(_)) {
            let own = way.seems_from.port();
            let free = (0..PORTS_TRIED).map(|step| own.wrapping_add(step).max(1)).find(|port| {
                way.seems_from.set_port(*port);
                !self.answers.contains_key(&(way.endpoint, way.seems_from))
            });
            way.seems_from.set_port(free?);
        }
        self.per_owner.insert(owner.clone(), count + 1);
        let answer = (way.endpoint, way.seems_from);
        left.retain(|one| *one != answer && !self.answers.contains_key(one));
        left.drain(..left.len().saturating_sub(LEFT_MAX));
        self.answers.extend(left.iter().chain([&answer]).map(|one| (*one, key)));
        self.by_key.insert(key, Flow { owner, port: Arc::clone(port), way, left, used: now });
        Some(way)
    }

    /// For a datagram from an endpoint: the flow that it is an answer to, and by whom the client is reached.
    pub(crate) fn answer(&mut self, endpoint: SocketAddr, to: SocketAddr, now: Instant) -> Option<(FlowKey, Owner)> {
        let key = *self.answers.get(&(endpoint, to))?;
        let flow = self.by_key.get_mut(&key)?;
        if now.saturating_duration_since(flow.used) >= self.idle {
            self.take(key);
            return None;
        }
        flow.used = now;
        Some((key, flow.owner.clone()))
    }

    /// Forgets flows that carried nothing for long.
    pub(crate) fn expire(&mut self, now: Instant) {
        let idle = self.idle;
        self.remove_where(|_, flow| now.saturating_duration_since(flow.used) >= idle);
    }

    /// Forgets the flows of a pod that is gone, and those to it.
    pub(crate) fn remove_pod(&mut self, uid: &str, addresses: &[IpAddr]) {
        self.remove_where(|_, flow| {
            matches!(&flow.owner, Owner::Pod(owner) if &**owner == uid) || addresses.contains(&flow.way.endpoint.ip())
        });
        self.forget_left(|_, endpoint| addresses.contains(&endpoint.ip()));
    }

    /// Forgets flows to service ports and endpoints that are gone: their addresses may be others' soon.
    pub(crate) fn forget(&mut self, gone: &Gone) {
        if !gone.ports.is_empty() || !gone.endpoints.is_empty() {
            let is_gone = |port: &ServicePort, endpoint| gone.endpoints.contains(&(port.id.clone(), endpoint));
            self.remove_where(|_, flow| gone.ports.contains(&flow.port.id) || is_gone(&flow.port, flow.way.endpoint));
            self.forget_left(is_gone);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Forgets endpoints that flows have left.
    fn forget_left(&mut self, is_gone: impl Fn(&ServicePort, SocketAddr) -> bool) {
        for (key, flow) in &mut self.by_key {
            let gone = flow.left.extract_if(.., |(endpoint, _)| is_gone(&flow.port, *endpoint));
            for answer in gone {
                if self.answers.get(&answer) == Some(key) {
                    self.answers.remove(&answer);
                }
            }
        }
    }

    fn remove_where(&mut self, is_over: impl Fn(&FlowKey, &Flow) -> bool) {
        let over: Vec<FlowKey> =
            self.by_key.iter().filter(|(key, flow)| is_over(key, flow)).map(|(key, _)| *key).collect();
        for key in over {
            self.take(key);
        }
    }

    /// Forgets a flow; answers from where they have come to it, the newest last, and how long ago it was used.
    fn take(&mut self, key: FlowKey) -> Option<(Vec<Answer>, Instant)> {
        let flow = self.by_key.remove(&key)?;
        let mut answers = flow.left;
        answers.push((flow.way.endpoint, flow.way.seems_from));
        for answer in &answers {
            if self.answers.get(answer) == Some(&key) {
                self.answers.remove(answer);
            }
        }
        if let Some(count) = self.per_owner.get_mut(&flow.owner) {
            *count -= 1;
            if *count == 0 {
                self.per_owner.remove(&flow.owner);
            }
        }
        Some((answers, flow.used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{Protocol, Services};
    use serde_json::json;

    fn port(ready: &[&str]) -> Arc<ServicePort> {
        let service = json!({
            "metadata": {"namespace": "default", "name": "echo"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 7, "protocol": "UDP"}]},
        });
        let endpoints: Vec<_> = ready.iter().map(|address| json!({"addresses": [address]})).collect();
        let slice = json!({
            "metadata": {"namespace": "default", "name": "echo-1", "labels": {"kubernetes.io/service-name": "echo"}},
            "ports": [{"port": 7, "protocol": "UDP"}], "endpoints": endpoints,
        });
        let services = Services::build([&service], [&slice], "n1");
        services.target("10.96.0.7".parse().unwrap(), 7, Protocol::Udp).unwrap().port
    }

    fn key(client: u16) -> FlowKey {
        FlowKey { client: SocketAddr::from(([10, 244, 0, 1], client)), service: "10.96.0.7:7".parse().unwrap() }
    }

    fn way(client: u16, endpoint: &str) -> FlowWay {
        FlowWay { endpoint: endpoint.parse().unwrap(), seems_from: key(client).client }
    }

    fn opening() -> Owner {
        Owner::Opening("192.0.2.9:30007".parse().unwrap())
    }

    fn owner(uid: &str) -> Owner {
        Owner::Pod(uid.into())
    }

    #[test]
    fn answers_come_from_the_service_until_the_flow_is_idle() {
        let (start, idle) = (Instant::now(), Duration::from_mins(1));
        let mut flows = Flows::new(2, 10, idle);
        let (port, way) = (port(&["10.244.0.2"]), way(1, "10.244.0.2:7"));
        assert_eq!(flows.forward(key(1), &port, start), None);
        assert_eq!(flows.open(key(1), owner("a"), &port, way, start), Some(way));
        let late = start + idle / 2;
        assert_eq!(flows.answer(way.endpoint, key(1).client, late), Some((key(1), owner("a"))));
        assert_eq!(flows.answer(way.endpoint, key(2).client, late), None);
        let later = late + idle / 2;
        assert_eq!(flows.forward(key(1), &port, later), Some(way));
        flows.expire(later + idle / 2);
        assert_eq!(flows.len(), 1);
        assert_eq!(flows.answer(way.endpoint, key(1).client, later + idle), None);
        assert_eq!((flows.len(), flows.per_owner.len(), flows.answers.len()), (0, 0, 0));
    }

    #[test]
    fn each_owner_and_the_node_have_a_bound() {
        let now = Instant::now();
        let mut flows = Flows::new(2, 3, Duration::from_mins(1));
        let (port, endpoint) = (port(&["10.244.0.2"]), "10.244.0.2:7");
        let mut open =
            |client, who: &str| flows.open(key(client), owner(who), &port, way(client, endpoint), now).is_some();
        assert_eq!([open(1, "a"), open(2, "a"), open(3, "a")], [true, true, false]);
        assert_eq!([open(4, "b"), open(5, "c"), open(4, "b")], [true, false, true]);
        flows.remove_pod("a", &[]);
        assert!(flows.open(key(5), owner("c"), &port, way(5, endpoint), now).is_some());
        flows.remove_pod("nobody", &["10.244.0.2".parse().unwrap()]);
        assert_eq!((flows.len(), flows.per_owner.len(), flows.answers.len()), (0, 0, 0));
    }

    #[test]
    fn an_owner_leaves_as_many_to_the_others_as_it_has() {
        let now = Instant::now();
        let mut flows = Flows::new(8, 8, Duration::from_mins(1));
        let (port, endpoint) = (port(&["10.244.0.2"]), "10.244.0.2:7");
        let mut opened = |who: &str, clients: std::ops::Range<u16>| {
            clients.filter(|one| flows.open(key(*one), owner(who), &port, way(*one, endpoint), now).is_some()).count()
        };
        assert_eq!([opened("a", 0..10), opened("b", 10..20), opened("c", 20..30)], [4, 2, 1]);
    }

    #[test]
    fn a_change_of_the_service_moves_only_the_flows_that_it_concerns() {
        let now = Instant::now();
        let mut flows = Flows::new(9, 9, Duration::from_mins(1));
        let before = port(&["10.244.0.2", "10.244.0.3"]);
        let (second, third) = (way(2, "10.244.0.2:7"), way(3, "10.244.0.3:7"));
        assert!(flows.open(key(2), owner("a"), &before, second, now).is_some());
        assert!(flows.open(key(3), owner("a"), &before, third, now).is_some());
        let after = port(&["10.244.0.3"]);
        assert_eq!(flows.forward(key(2), &after, now), None);
        assert_eq!(flows.forward(key(3), &after, now), Some(third));
        assert_eq!(flows.len(), 2);
        let gone = Gone { ports: [after.id.clone()].into(), ..Gone::default() };
        flows.forget(&gone);
        assert_eq!(flows.len(), 0);
    }

    #[test]
    fn endpoints_that_a_flow_has_left_answer_until_it_is_idle() {
        let (start, idle) = (Instant::now(), Duration::from_mins(1));
        let mut flows = Flows::new(9, 9, idle);
        let all: Vec<_> = (0..LEFT_MAX + 3).map(|last| way(1, &format!("10.244.0.{}:7", last + 2))).collect();
        let heard = |flows: &mut Flows, now| -> Vec<bool> {
            all.iter().map(|way| flows.answer(way.endpoint, way.seems_from, now).is_some()).collect()
        };
        for (turn, way) in all.iter().enumerate() {
            let ready = port(&[&way.endpoint.ip().to_string()]);
            assert_eq!(flows.forward(key(1), &ready, start), None, "not to the one before");
            assert_eq!(flows.open(key(1), owner("a"), &ready, *way, start), Some(*way));
            assert!(heard(&mut flows, start)[turn.saturating_sub(LEFT_MAX)..=turn].iter().all(|is| *is));
        }
        assert_eq!(heard(&mut flows, start), [false, false, true, true, true, true, true]);
        assert_eq!((flows.len(), flows.answers.len()), (1, LEFT_MAX + 1));
        // Back to one of them.
        let back = port(&["10.244.0.7"]);
        assert_eq!(flows.open(key(1), owner("a"), &back, all[5], start), Some(all[5]));
        assert_eq!((flows.len(), flows.answers.len()), (1, LEFT_MAX + 1));
        // One that is gone answers no more, whoever has its address.
        let gone = Gone { endpoints: [(back.id.clone(), all[6].endpoint)].into(), ..Gone::default() };
        flows.forget(&gone);
        flows.remove_pod("nobody", &[all[4].endpoint.ip()]);
        assert_eq!(heard(&mut flows, start), [false, false, true, true, false, true, false]);
        assert_eq!((flows.len(), flows.answers.len()), (1, LEFT_MAX - 1));
        // After a rest it is another flow.
        let late = start + idle;
        assert_eq!(flows.open(key(1), owner("a"), &back, all[5], late), Some(all[5]));
        assert_eq!(heard(&mut flows, late).iter().filter(|is| **is).count(), 1);
        flows.expire(late + idle);
        assert_eq!((flows.len(), flows.per_owner.len(), flows.answers.len()), (0, 0, 0));
    }

    #[test]
    fn clients_from_outside_that_would_look_alike_get_ports_of_their_own() {
        let now = Instant::now();
        let mut flows = Flows::new(9, 9, Duration::from_mins(1));
        let (port, shown) = (port(&["10.244.0.2"]), way(65_535, "10.244.0.2:7"));
        let mut seen = Vec::new();
        for last in 1..=3 {
            let key = FlowKey { client: SocketAddr::from(([127, 0, 0, last], 65_535)), ..key(0) };
            let opened = flows.open(key, opening(), &port, shown, now).unwrap();
            assert_eq!(flows.forward(key, &port, now), Some(opened));
            assert_eq!(flows.answer(shown.endpoint, opened.seems_from, now), Some((key, opening())));
            seen.push(opened.seems_from.port());
        }
        assert_eq!(seen, [65_535, 1, 2]);
    }
}
