//! Flows of datagrams through services: which endpoint a client's datagrams go to, and which address its answers come
//! from. A table with bounds; the time is passed in, nothing is sent from here.

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
    /// A node port that somebody outside talks to.
    NodePort(u16),
}

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
    endpoint: SocketAddr,
    used: Instant,
}

#[derive(Debug)]
pub(crate) struct Flows {
    by_key: HashMap<FlowKey, Flow>,
    /// By endpoint and client. Where a client reaches one endpoint by two services, answers come from the one that it
    /// used last.
    answers: HashMap<(SocketAddr, SocketAddr), FlowKey>,
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

    /// Where a datagram of a known flow goes. A flow whose endpoint should get nothing more is forgotten.
    pub(crate) fn forward(&mut self, key: FlowKey, port: &Arc<ServicePort>, now: Instant) -> Option<SocketAddr> {
        let flow = self.by_key.get_mut(&key)?;
        let is_idle = now.saturating_duration_since(flow.used) >= self.idle;
        let same = Arc::ptr_eq(&flow.port, port);
        if is_idle || !(same || flow.port.id == port.id && port.endpoints.eligible(false).contains(&flow.endpoint)) {
            self.remove(key);
            return None;
        }
        flow.port = Arc::clone(port);
        flow.used = now;
        self.answers.insert((flow.endpoint, key.client), key);
        Some(flow.endpoint)
    }

    /// Remembers a new flow; false where the owner or the node has too many.
    pub(crate) fn open(
        &mut self,
        key: FlowKey,
        owner: Owner,
        port: &Arc<ServicePort>,
        endpoint: SocketAddr,
        now: Instant,
    ) -> bool {
        self.remove(key);
        let count = self.per_owner.get(&owner).copied().unwrap_or_default();
        if count >= self.owner_max || self.by_key.len() >= self.all_max {
            return false;
        }
        self.per_owner.insert(owner.clone(), count + 1);
        self.by_key.insert(key, Flow { owner, port: Arc::clone(port), endpoint, used: now });
        self.answers.insert((endpoint, key.client), key);
        true
    }

    /// For a datagram from an endpoint to a client: the service address that it seems to come from, and by whom the
    /// client is reached.
    pub(crate) fn answer(
        &mut self,
        endpoint: SocketAddr,
        client: SocketAddr,
        now: Instant,
    ) -> Option<(SocketAddr, Owner)> {
        let key = *self.answers.get(&(endpoint, client))?;
        let flow = self.by_key.get_mut(&key)?;
        if now.saturating_duration_since(flow.used) >= self.idle {
            self.remove(key);
            return None;
        }
        flow.used = now;
        Some((key.service, flow.owner.clone()))
    }

    /// Forgets flows that carried nothing for long.
    pub(crate) fn expire(&mut self, now: Instant) {
        let idle = self.idle;
        self.remove_where(|_, flow| now.saturating_duration_since(flow.used) >= idle);
    }

    /// Forgets the flows of a pod that is gone, and those to it.
    pub(crate) fn remove_pod(&mut self, uid: &str, addresses: &[IpAddr]) {
        self.remove_where(|_, flow| {
            matches!(&flow.owner, Owner::Pod(owner) if &**owner == uid) || addresses.contains(&flow.endpoint.ip())
        });
    }

    /// Forgets flows to service ports and endpoints that are gone.
    pub(crate) fn forget(&mut self, gone: &Gone) {
        if !gone.ports.is_empty() || !gone.endpoints.is_empty() {
            self.remove_where(|_, flow| {
                gone.ports.contains(&flow.port.id) || gone.endpoints.contains(&(flow.port.id.clone(), flow.endpoint))
            });
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    fn remove_where(&mut self, is_over: impl Fn(&FlowKey, &Flow) -> bool) {
        let over: Vec<FlowKey> =
            self.by_key.iter().filter(|(key, flow)| is_over(key, flow)).map(|(key, _)| *key).collect();
        for key in over {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: FlowKey) {
        let Some(flow) = self.by_key.remove(&key) else { return };
        let answer = (flow.endpoint, key.client);
        if self.answers.get(&answer) == Some(&key) {
            self.answers.remove(&answer);
        }
        if let Some(count) = self.per_owner.get_mut(&flow.owner) {
            *count -= 1;
            if *count == 0 {
                self.per_owner.remove(&flow.owner);
            }
        }
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

    fn owner(uid: &str) -> Owner {
        Owner::Pod(uid.into())
    }

    #[test]
    fn answers_come_from_the_service_until_the_flow_is_idle() {
        let (start, idle) = (Instant::now(), Duration::from_mins(1));
        let mut flows = Flows::new(2, 10, idle);
        let (port, endpoint) = (port(&["10.244.0.2"]), "10.244.0.2:7".parse().unwrap());
        assert_eq!(flows.forward(key(1), &port, start), None);
        assert!(flows.open(key(1), owner("a"), &port, endpoint, start));
        let late = start + idle / 2;
        assert_eq!(flows.answer(endpoint, key(1).client, late), Some((key(1).service, owner("a"))));
        assert_eq!(flows.answer(endpoint, key(2).client, late), None);
        let later = late + idle / 2;
        assert_eq!(flows.forward(key(1), &port, later), Some(endpoint));
        flows.expire(later + idle / 2);
        assert_eq!(flows.len(), 1);
        assert_eq!(flows.answer(endpoint, key(1).client, later + idle), None);
        assert_eq!((flows.len(), flows.per_owner.len(), flows.answers.len()), (0, 0, 0));
    }

    #[test]
    fn each_owner_and_the_node_have_a_bound() {
        let now = Instant::now();
        let mut flows = Flows::new(2, 3, Duration::from_mins(1));
        let (port, endpoint) = (port(&["10.244.0.2"]), "10.244.0.2:7".parse().unwrap());
        let mut open = |client, who: &str| flows.open(key(client), owner(who), &port, endpoint, now);
        assert_eq!([open(1, "a"), open(2, "a"), open(3, "a")], [true, true, false]);
        assert_eq!([open(4, "b"), open(5, "c"), open(4, "b")], [true, false, true]);
        flows.remove_pod("a", &[]);
        assert!(flows.open(key(5), owner("c"), &port, endpoint, now));
        flows.remove_pod("nobody", &[endpoint.ip()]);
        assert_eq!((flows.len(), flows.per_owner.len(), flows.answers.len()), (0, 0, 0));
    }

    #[test]
    fn a_change_of_the_service_moves_only_the_flows_that_it_concerns() {
        let now = Instant::now();
        let mut flows = Flows::new(9, 9, Duration::from_mins(1));
        let before = port(&["10.244.0.2", "10.244.0.3"]);
        let (second, third) = ("10.244.0.2:7".parse().unwrap(), "10.244.0.3:7".parse().unwrap());
        assert!(flows.open(key(2), owner("a"), &before, second, now));
        assert!(flows.open(key(3), owner("a"), &before, third, now));
        let after = port(&["10.244.0.3"]);
        assert_eq!(flows.forward(key(2), &after, now), None);
        assert_eq!(flows.forward(key(3), &after, now), Some(third));
        assert_eq!(flows.len(), 1);
        let gone = Gone { ports: [after.id.clone()].into(), ..Gone::default() };
        flows.forget(&gone);
        assert_eq!(flows.len(), 0);
    }
}
