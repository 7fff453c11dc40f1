//! The endpoints of a service, tried one after the other for one connection. Whatever happens to the one who tries, also
//! that it is dropped in the middle, the balancer hears how each attempt ended. Where one endpoint of another node failed, those of
//! other nodes come before the rest of that node's: most likely it is the node.

use super::{Shared, pods::DialFailure};
use crate::{
    balance::CANDIDATES_MAX,
    services::{Origin, Target},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// The endpoints of a node where one has just failed come after those of which nothing is known, and before those that failed
/// themselves.
const NODE_PUT_OFF: Duration = Duration::from_millis(1);

pub(crate) struct Attempts<'a> {
    shared: &'a Shared,
    target: &'a Target,
    client: IpAddr,
    origin: Origin,
    /// To be tried, the first one last; made anew after each failure.
    candidates: Vec<SocketAddr>,
    tried: Vec<SocketAddr>,
    failed_nodes: Vec<Arc<str>>,
    current: Option<SocketAddr>,
    failure: DialFailure,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(shared: &'a Shared, target: &'a Target, client: IpAddr, origin: Origin) -> Self {
        let mut attempts = Self {
            shared,
            target,
            client,
            origin,
            candidates: Vec::new(),
            tried: Vec::new(),
            failed_nodes: Vec::new(),
            current: None,
            failure: DialFailure::Refused,
        };
        attempts.look_again();
        attempts
    }

    fn look_again(&mut self) {
        let now = Instant::now();
        let others = &self.shared.others;
        let put_off = |endpoint: SocketAddr| {
            let on_failed_node = !self.failed_nodes.is_empty()
                && others.node_of(endpoint.ip()).is_some_and(|node| self.failed_nodes.contains(&node));
            let until = others.put_off_until(endpoint.ip(), now);
            until.max(on_failed_node.then(|| now + NODE_PUT_OFF))
        };
        let order = self.shared.balancer.lock().order_with(self.target, self.client, self.origin, now, put_off);
        self.candidates = order.into_iter().filter(|one| !self.tried.contains(one)).collect();
        self.candidates.truncate(CANDIDATES_MAX.saturating_sub(self.tried.len()));
        self.candidates.reverse();
    }

    /// The next endpoint to try; the last attempt has been settled before.
    pub(crate) fn next(&mut self) -> Option<SocketAddr> {
        self.withdraw();
        self.current = self.candidates.pop();
        if let Some(endpoint) = self.current {
            self.tried.push(endpoint);
            self.shared.balancer.lock().dialling(&self.target.port.id, endpoint);
        }
        self.current
    }

    /// Whether the current endpoint is the last one that will be tried.
    pub(crate) fn is_last(&self) -> bool {
        self.candidates.is_empty()
    }

    /// The endpoint took it.
    pub(crate) fn connected(&mut self) {
        if let Some(endpoint) = self.current.take() {
            self.shared.balancer.lock().connected(self.target, self.client, endpoint, Instant::now());
        }
    }

    /// The endpoint did not take it.
    pub(crate) fn failed(&mut self, failure: DialFailure) {
        self.failure = failure;
        let Some(endpoint) = self.current.take() else { return };
        self.shared.balancer.lock().failed(&self.target.port.id, endpoint, Instant::now());
        self.failed_nodes.extend(self.shared.others.node_of(endpoint.ip()));
        if !self.candidates.is_empty() {
            self.look_again();
        }
    }

    /// Why nobody took it: what the last one said, or refused where nobody could be asked.
    pub(crate) fn failure(&self) -> DialFailure {
        self.failure
    }

    fn withdraw(&mut self) {
        if let Some(endpoint) = self.current.take() {
            self.shared.balancer.lock().withdrawn(&self.target.port.id, endpoint);
        }
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}
