//! Cluster DNS, served inside this process at the cluster DNS address: over datagrams, and over streams for guests that
//! want that. What the cluster does not know is asked outside, within bounds; whatever a guest sends, the worst that
//! happens is that it gets no answer.

use super::{
    Shared,
    bounds::Bound,
    dial::stream_pair,
    pods::{DialFailure, Pod},
    resolver::LookUpFailure,
    statistics::Count,
};
use crate::{
    dns::{self, DnsReply, Question, Transport},
    names::{AskOutside, Kind, Lookup, NameError},
};
use bytes::Bytes;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Longest time in which all the names that a search list makes of one are asked outside.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(15);

impl Shared {
    /// Where cluster DNS is.
    pub(crate) fn dns_server(&self) -> SocketAddr {
        SocketAddr::new(self.config.dns_address, dns::PORT)
    }

    /// Answers a query that came as a datagram; later, if the outside must be asked.
    pub(crate) fn dns_datagram(self: &Arc<Self>, pod: &Arc<Pod>, from: SocketAddr, query: &[u8], now: Instant) {
        let permit = match pod.budget.dns_query(now) {
            Ok(permit) => permit,
            Err(bound) => {
                self.over(pod, bound);
                return;
            }
        };
        match dns::answer(query, &self.names(), Transport::Udp) {
            DnsReply::Answer(answer) => self.send_dns(pod, from, answer),
            DnsReply::Nothing => self.counters.add(Count::DnsFailed),
            DnsReply::Outside(question) => {
                let (shared, pod) = (Arc::clone(self), Arc::clone(pod));
                self.spawn_until(pod.gone.clone(), async move {
                    let answer = shared.ask_outside(&pod, &question, Transport::Udp).await;
                    shared.send_dns(&pod, from, answer);
                    drop(permit);
                });
            }
        }
    }

    fn send_dns(&self, pod: &Pod, to: SocketAddr, answer: Vec<u8>) {
        self.counters.add(Count::DnsAnswered);
        self.doors.deliver(pod.uid(), to, self.dns_server(), Bytes::from(answer));
    }

    /// A connection to cluster DNS: the pod's end.
    pub(crate) fn open_dns_connection(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<OwnedFd, DialFailure> {
        let permit = pod.budget.dns_connection().map_err(|bound| self.over(pod, bound))?;
        let (near, far) = stream_pair().map_err(|_| DialFailure::TooMany)?;
        let far = UnixStream::from_std(StdUnixStream::from(far)).map_err(|_| DialFailure::TooMany)?;
        let (shared, pod) = (Arc::clone(self), Arc::clone(pod));
        self.spawn_until(pod.gone.clone(), async move {
            if let Err(error) = shared.serve_dns(&pod, far).await {
                tracing::debug!(pod = pod.uid(), %error, "a DNS connection ended");
            }
            drop(permit);
        });
        Ok(near)
    }

    /// Queries and answers in turn, each after its length (RFC 1035, section 4.2.2). Ends when nothing is asked, or an
    /// answer is not read, for a while.
    async fn serve_dns(&self, pod: &Pod, mut stream: UnixStream) -> io::Result<()> {
        let idle = self.config.limits.dns_idle;
        loop {
            let mut length = [0; 2];
            if timeout(idle, stream.read(&mut length[..1])).await?? == 0 {
                return Ok(());
            }
            timeout(idle, stream.read_exact(&mut length[1..])).await??;
            let length = usize::from(u16::from_be_bytes(length));
            if length > dns::QUERY_LENGTH_MAX {
                return Err(io::Error::other("a query is too long"));
            }
            let mut query = vec![0; length];
            timeout(idle, stream.read_exact(&mut query)).await??;
            let _permit = match pod.budget.dns_query(Instant::now()) {
                Ok(permit) => permit,
                Err(bound) => {
                    self.over(pod, bound);
                    return Ok(());
                }
            };
            let reply = dns::answer(&query, &self.names(), Transport::Tcp);
            let answer = match reply {
                DnsReply::Answer(answer) => answer,
                DnsReply::Outside(question) => self.ask_outside(pod, &question, Transport::Tcp).await,
                DnsReply::Nothing => {
                    self.counters.add(Count::DnsFailed);
                    return Err(io::Error::other("that was no query"));
                }
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            timeout(idle, stream.write_all(&[&length.to_be_bytes(), &*answer].concat())).await??;
            self.counters.add(Count::DnsAnswered);
        }
    }

    /// What the outside says to a question, as bytes for the pod.
    async fn ask_outside(&self, pod: &Pod, question: &Question, transport: Transport) -> Vec<u8> {
        if !matches!(question.kind(), Kind::A | Kind::Aaaa) {
            return match pod.budget.look_up() {
                Ok(_permit) => self.upstream.ask(pod, question, transport).await,
                Err(bound) => {
                    self.over(pod, bound);
                    question.refused()
                }
            };
        }
        match self.resolve_outside(pod, question.name()).await {
            Ok(addresses) => question.addresses(&addresses),
            Err(LookUpFailure::NoName) => question.no_name(),
            Err(LookUpFailure::Failed) => question.failed(),
            Err(LookUpFailure::Over(_)) => question.refused(),
        }
    }

    async fn resolve_outside(&self, pod: &Pod, name: &str) -> Result<Vec<IpAddr>, LookUpFailure> {
        let result = self.resolver.look_up(pod, name).await;
        if let Err(LookUpFailure::Over(bound)) = result {
            self.over(pod, bound);
        }
        result
    }

    /// Looks a name up for a pod; see [`super::Fabric::look_up`].
    pub(crate) async fn look_up(&self, pod_uid: &str, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let pod = self.pods.read().by_uid(pod_uid).ok_or(NameError::Temporary)?;
        let _permit = pod.budget.dns_query(Instant::now()).map_err(|bound: Bound| {
            self.over(&pod, bound);
            NameError::Temporary
        })?;
        let lookup = self.names().look_up(&pod.entry.dns, name)?;
        let mut addresses = match lookup {
            Lookup::Found(addresses) => addresses,
            Lookup::Outside(ask) => {
                let asked = timeout(SEARCH_TIMEOUT, self.search_outside(&pod, ask)).await;
                asked.unwrap_or(Err(NameError::Temporary))?
            }
        };
        // Guests take the first one: each answer begins with another.
        if !addresses.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
        Ok(addresses)
    }

    async fn search_outside(&self, pod: &Pod, ask: AskOutside) -> Result<Vec<IpAddr>, NameError> {
        let mut nothing = NameError::NotFound;
        for name in &ask.names {
            match self.resolve_outside(pod, name).await {
                Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
                Ok(_) | Err(LookUpFailure::NoName) => {}
                Err(LookUpFailure::Failed | LookUpFailure::Over(_)) => nothing = NameError::Temporary,
            }
        }
        if ask.otherwise.is_empty() { Err(nothing) } else { Ok(ask.otherwise) }
    }
}
