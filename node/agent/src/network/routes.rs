//! Which runner a pod's containers run in, so that connections and datagrams find their way.

use super::line::Line;
use bytes::Bytes;
use coracle_net::fabric::{DialFailure, Pods};
use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// By pod uid; only pods of which something runs.
#[derive(Default)]
pub(crate) struct Routes {
    lines: Mutex<HashMap<String, Arc<Line>>>,
}

impl Routes {
    fn lines(&self) -> MutexGuard<'_, HashMap<String, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to a pod.
    fn find(&self, uid: &str) -> Option<Arc<Line>> {
        self.lines().get(uid).cloned()
    }

    /// Something of the pod runs, or is about to, in the runner at the end of `line`.
    pub(crate) fn open(&self, uid: &str, line: &Arc<Line>) {
        line.enter(uid);
        self.lines().insert(uid.to_owned(), line.clone());
    }

    /// One run less of the pod in that runner.
    pub(crate) fn close(&self, uid: &str, line: &Arc<Line>) {
        if !line.leave(uid) {
            return;
        }
        let mut lines = self.lines();
        // A successor may have opened its own way already.
        if lines.get(uid).is_some_and(|current| Arc::ptr_eq(current, line)) {
            lines.remove(uid);
        }
    }
}

#[async_trait::async_trait]
impl Pods for Routes {
    async fn offer(&self, pod_uid: &str, to: SocketAddr, from: SocketAddr, stream: OwnedFd) -> Result<(), DialFailure> {
        // Between two runs of its container a pod has an address and nobody who listens.
        let line = self.find(pod_uid).ok_or(DialFailure::Refused)?;
        line.offer(pod_uid, to, from, stream).await
    }

    fn deliver(&self, pod_uid: &str, to: SocketAddr, from: SocketAddr, bytes: Bytes) {
        if let Some(line) = self.find(pod_uid) {
            line.deliver(pod_uid, to, from, bytes);
        }
    }

    fn datagram_refused(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr) {
        if let Some(line) = self.find(pod_uid) {
            line.datagram_refused(pod_uid, from, to);
        }
    }
}
