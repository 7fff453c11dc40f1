//! The endpoints of a service, tried one after the other for one connection. Whatever happens to the one who tries, also
//! that it is dropped in the middle, the balancer hears how each attempt ended.

use super::pods::DialFailure;
use crate::{
    balance::Balancer,
    services::{Origin, Target},
};
use parking_lot::Mutex;
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
    vec,
};

pub(crate) struct Attempts<'a> {
    balancer: &'a Mutex<Balancer>,
    target: &'a Target,
    client: IpAddr,
    candidates: vec::IntoIter<SocketAddr>,
    current: Option<SocketAddr>,
    failure: DialFailure,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(balancer: &'a Mutex<Balancer>, target: &'a Target, client: IpAddr, origin: Origin) -> Self {
        let candidates = balancer.lock().order(target, client, origin, Instant::now()).into_iter();
        Self { balancer, target, client, candidates, current: None, failure: DialFailure::Refused }
    }

    /// The next endpoint to try; the last attempt has been settled before.
    pub(crate) fn next(&mut self) -> Option<SocketAddr> {
        self.withdraw();
        self.current = self.candidates.next();
        if let Some(endpoint) = self.current {
            self.balancer.lock().dialling(&self.target.port.id, endpoint);
        }
        self.current
    }

    /// The endpoint took it.
    pub(crate) fn connected(&mut self) {
        if let Some(endpoint) = self.current.take() {
            self.balancer.lock().connected(self.target, self.client, endpoint, Instant::now());
        }
    }

    /// The endpoint did not take it.
    pub(crate) fn failed(&mut self, failure: DialFailure) {
        self.failure = failure;
        if let Some(endpoint) = self.current.take() {
            self.balancer.lock().failed(&self.target.port.id, endpoint, Instant::now());
        }
    }

    /// Why nobody took it: what the last one said, or refused where nobody could be asked.
    pub(crate) fn failure(&self) -> DialFailure {
        self.failure
    }

    fn withdraw(&mut self) {
        if let Some(endpoint) = self.current.take() {
            self.balancer.lock().withdrawn(&self.target.port.id, endpoint);
        }
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}
