//! Datagrams to and from addresses outside the cluster: one real socket for each port that a pod sends from. Answers are
//! taken only from peers that the pod has sent to. Never to this machine.

use super::{
    Shared,
    bounds::{ALL_OUTSIDE_SOCKETS_MAX, Bound},
    dial::canonical,
    pods::Pod,
    shares::may_have_more,
    statistics::Count,
    udp_socket::UdpSocket,
};
use crate::policy::Denial;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// After a socket fails to receive, so long nothing is tried with it.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// One port of a pod, as seen from outside.
struct OutsideSocket {
    pod: Arc<Pod>,
    /// The pod's address and port.
    source: SocketAddr,
    socket: UdpSocket,
    peers: Mutex<Peers>,
    closed: CancellationToken,
}

struct Peers {
    seen: HashMap<SocketAddr, Instant>,
    used: Instant,
}

/// A port of a pod, and whether its peers have IPv6 addresses: they need a socket of their own.
type Key = (SocketAddr, bool);

/// All real datagram sockets of pods.
#[derive(Default)]
pub(crate) struct OutsideSockets {
    all: Mutex<HashMap<Key, Arc<OutsideSocket>>>,
}

impl OutsideSockets {
    /// Closes the sockets of a pod that is gone.
    pub(crate) fn remove_pod(&self, uid: &str) {
        self.close_where(|one| one.pod.uid() == uid);
    }

    /// Closes sockets that carried nothing for long, and forgets such peers of the others.
    pub(crate) fn expire(&self, now: Instant, idle: Duration) {
        let is_idle = |used: Instant| now.saturating_duration_since(used) >= idle;
        self.close_where(|one| {
            let mut peers = one.peers.lock();
            peers.seen.retain(|_, used| !is_idle(*used));
            is_idle(peers.used)
        });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all.lock().len()
    }

    fn close_where(&self, is_over: impl Fn(&OutsideSocket) -> bool) {
        self.all.lock().retain(|_, one| {
            let keep = !is_over(one);
            if !keep {
                one.closed.cancel();
            }
            keep
        });
    }

    /// Makes room for one more socket of a pod; false where the node has too many.
    fn make_room(all: &mut HashMap<Key, Arc<OutsideSocket>>, pod: &Pod, pod_max: usize) -> bool {
        let of_pod = all.iter().filter(|(_, one)| one.pod.uid() == pod.uid());
        let (count, oldest) = of_pod.fold((0, None), |(count, oldest), (key, one)| {
            let candidate = (one.peers.lock().used, *key);
            let oldest = oldest.filter(|held: &(Instant, Key)| held.0 <= candidate.0).unwrap_or(candidate);
            (count + 1, Some(oldest))
        });
        let has_its_share =
            count >= pod_max || !may_have_more(count, ALL_OUTSIDE_SOCKETS_MAX.saturating_sub(all.len()));
        if let Some((_, key)) = oldest.filter(|_| has_its_share)
            && let Some(closed) = all.remove(&key)
        {
            closed.closed.cancel();
        }
        all.len() < ALL_OUTSIDE_SOCKETS_MAX
    }
}

impl Shared {
    /// Sends a pod's datagram to an address outside. What cannot be sent is lost, as everywhere.
    pub(crate) fn send_outside(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) {
        let sent = self.outside_socket(pod, from, to, now).and_then(|one| {
            self.admit_peer(&one, to, now)?;
            Ok(one)
        });
        match sent {
            Ok(one) => {
                if one.socket.send(bytes, self.machine.way_to(to)).is_ok() {
                    self.counters.add(Count::DatagramsOutside);
                }
            }
            Err(NotSent::Over(bound)) => {
                self.over(pod, bound);
            }
            Err(NotSent::Denied) => {
                self.denied(pod, to, Denial::Node);
                self.counters.add(Count::Denied);
            }
        }
    }

    fn outside_socket(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> Result<Arc<OutsideSocket>, NotSent> {
        let key = (from, to.is_ipv6());
        let mut all = self.outside_sockets.all.lock();
        if let Some(known) = all.get(&key) {
            return Ok(Arc::clone(known));
        }
        // Asked before a socket is spent on it.
        if self.machine.is_own(to.ip()) {
            return Err(NotSent::Denied);
        }
        pod.budget.outside_peer(now).map_err(NotSent::Over)?;
        if !OutsideSockets::make_room(&mut all, pod, self.config.limits.outside_sockets) {
            return Err(NotSent::Over(Bound::OutsideSockets));
        }
        let socket = UdpSocket::bind(any_port(to.is_ipv6())).map_err(|_| NotSent::Over(Bound::OutsideSockets))?;
        let one = Arc::new(OutsideSocket {
            pod: Arc::clone(pod),
            source: from,
            socket,
            peers: Mutex::new(Peers { seen: HashMap::from([(to, now)]), used: now }),
            closed: self.stop.child_token(),
        });
        all.insert(key, Arc::clone(&one));
        drop(all);
        self.tasks.spawn(receive_answers(Arc::clone(self), Arc::clone(&one)));
        Ok(one)
    }

    fn admit_peer(&self, one: &OutsideSocket, to: SocketAddr, now: Instant) -> Result<(), NotSent> {
        let mut peers = one.peers.lock();
        peers.used = now;
        if let Some(used) = peers.seen.get_mut(&to) {
            *used = now;
            return Ok(());
        }
        if self.machine.is_own(to.ip()) {
            return Err(NotSent::Denied);
        }
        one.pod.budget.outside_peer(now).map_err(NotSent::Over)?;
        if peers.seen.len() >= self.config.limits.outside_peers {
            return Err(NotSent::Over(Bound::OutsidePeers));
        }
        peers.seen.insert(to, now);
        Ok(())
    }
}

enum NotSent {
    Over(Bound),
    Denied,
}

fn any_port(is_v6: bool) -> SocketAddr {
    let any = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(any, 0)
}

/// Brings answers from outside to the pod until the socket is closed.
async fn receive_answers(shared: Arc<Shared>, one: Arc<OutsideSocket>) {
    loop {
        let received = tokio::select! {
            () = one.closed.cancelled() => return,
            received = one.socket.receive(&shared.receive_buffer) => received,
        };
        match received {
            Ok((bytes, from)) => take_answer(&shared, &one, canonical(from), bytes),
            Err(_) => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
        }
    }
}

fn take_answer(shared: &Shared, one: &OutsideSocket, from: SocketAddr, bytes: Bytes) {
    let (peer, now) = (shared.machine.seen_from(from), Instant::now());
    let mut peers = one.peers.lock();
    let Some(used) = peers.seen.get_mut(&peer) else { return };
    *used = now;
    peers.used = now;
    drop(peers);
    let flow = shared.flows.lock().answer(peer, one.source, now);
    let seems_from = flow.map_or(peer, |(flow, _)| flow.service);
    shared.counters.add(Count::DatagramsDelivered);
    shared.doors.deliver(one.pod.uid(), one.source, seems_from, bytes);
}
