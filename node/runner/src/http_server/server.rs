//! The connections and requests of one container.
//!
//! ```text
//!   accepts ── Stop ──▶ closes its listener, tells idle connections to go ── all answered ──▶ exits with 0
//!      │                    │
//!      └── Kill, or too much memory, at any time ──▶ everything is dropped ──▶ the exit that says so
//! ```

use super::{gate::Gate, instance, patience::Patient};
use crate::{
    blueprint::Blueprint,
    code::Share,
    cpu::Paced,
    endings,
    host::state::GuestState,
    memory::Reservation,
    network::{
        error::SocketError,
        listener::Listener,
        stream::{Connection, Stream},
    },
    protocol::Exit,
};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use parking_lot::Mutex;
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Connections of one container. More wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// Where the container's memory does not allow that many, they get one part of so many of it, but room for a few.
const CONNECTIONS_SHARE: u64 = 4;
const MIN_CONNECTIONS: usize = 16;
/// What a connection counts as the container's memory: its buffers.
const CONNECTION_BYTES: u64 = 2 * (MAX_BUFFER_BYTES as u64);
/// How long nothing is accepted when the container has no memory left for a connection.
const OUT_OF_MEMORY: Duration = Duration::from_millis(100);
/// How long a connection is new: its first request may still be on its way when the container is asked to stop.
const NEW_CONNECTION: Duration = Duration::from_secs(2);
/// How long nothing is accepted when the process has no descriptor left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);
/// How long a client may take for the head of a request, from its first byte or from the end of the one before.
const HEAD_READ: Duration = Duration::from_mins(1);
/// What is buffered of a connection in each direction; the head of a request must fit.
const MAX_BUFFER_BYTES: usize = 32 << 10;
/// What HTTP/2 buffers of a response.
pub(super) const MAX_SEND_BUFFER_BYTES: usize = 16 << 10;
/// What an HTTP/2 client may send before somebody reads it: of one request's body, and of all on a connection.
const WINDOW_BYTES: u32 = 32 << 10;
/// Headers of a request.
const MAX_HEADERS: usize = 100;
/// Requests that an HTTP/2 connection has under way.
const MAX_STREAMS: u32 = 64;
/// How long an HTTP/2 connection may be silent before it is asked whether it is there, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Server {
    pub(super) blueprint: Blueprint,
    pub(super) code: ProxyPre<GuestState>,
    pub(super) gate: Gate,
    /// The tasks of guests, which may outlive the connections that asked for them. None are taken when the run is over.
    guests: Mutex<Option<JoinSet<()>>>,
    stopping: CancellationToken,
    /// Why the container ends before it is told to.
    ending: Mutex<Option<Exit>>,
    ended: CancellationToken,
}

impl Server {
    /// Each instance takes `share` of the pool.
    pub(crate) fn new(blueprint: Blueprint, code: ProxyPre<GuestState>, share: Share) -> Arc<Self> {
        let room = blueprint.shared.room.clone();
        Arc::new(Self {
            blueprint,
            code,
            gate: Gate::new(room, share),
            guests: Mutex::new(Some(JoinSet::new())),
            stopping: CancellationToken::new(),
            ending: Mutex::new(None),
            ended: CancellationToken::new(),
        })
    }

    /// Serves until the run ends, and says how it did. Nothing of it is left then.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) -> Exit {
        let mut connections = JoinSet::new();
        let exit = tokio::select! {
            biased;
            () = self.blueprint.signals.kill.cancelled() => endings::killed(),
            out = self.blueprint.memory.exceeded() => endings::out_of_memory(&out),
            () = self.ended.cancelled() => self.ending.lock().take().unwrap_or_else(endings::killed),
            () = self.accept(&listener, &mut connections) => endings::exited(0),
        };
        listener.close();
        connections.shutdown().await;
        let guests = self.guests.lock().take();
        if let Some(mut guests) = guests {
            guests.shutdown().await;
        }
        exit
    }

    /// Returns when the run was asked to stop and all requests are answered.
    async fn accept(self: &Arc<Self>, listener: &Listener, connections: &mut JoinSet<()>) {
        let affordable = self.blueprint.memory.part(CONNECTIONS_SHARE) / CONNECTION_BYTES;
        let max_connections = usize::try_from(affordable).unwrap_or(usize::MAX).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        loop {
            tokio::select! {
                biased;
                () = self.blueprint.signals.stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                (accepted, held) = self.next(listener), if connections.len() < max_connections => match accepted {
                    Ok(accepted) => {
                        connections.spawn(self.paced(Arc::clone(self).connection(accepted.stream, Some(held))));
                    }
                    // It was there and is lost for want of descriptors: others will be free again.
                    Err(_) => sleep(OUT_OF_DESCRIPTORS).await,
                },
            }
        }
        // Those that wait already were let in before the stop.
        while let Ok(Some(accepted)) = listener.try_accept() {
            let held = self.blueprint.memory.try_reserve(CONNECTION_BYTES);
            connections.spawn(self.paced(Arc::clone(self).connection(accepted.stream, held)));
        }
        listener.close();
        self.stopping.cancel();
        while connections.join_next().await.is_some() {}
        // Guests may still be busy with what they do after their answer.
        poll_fn(|context| self.poll_guests(context)).await;
    }

    /// The next connection, taken when there is memory for it: clients must not be able to end the container.
    async fn next(&self, listener: &Listener) -> (Result<Connection, SocketError>, Reservation) {
        loop {
            match self.blueprint.memory.try_reserve(CONNECTION_BYTES) {
                Some(held) => return (listener.accept().await, held),
                None => sleep(OUT_OF_MEMORY).await,
            }
        }
    }

    /// Ready when no guest runs.
    fn poll_guests(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut guests = self.guests.lock();
        let Some(guests) = guests.as_mut() else { return Poll::Ready(()) };
        while ready!(guests.poll_join_next(context)).is_some() {}
        Poll::Ready(())
    }

    /// The container pays for what is done for its clients.
    fn paced<F: Future>(&self, work: F) -> Paced<F> {
        self.blueprint.shared.cpu.pace(&self.blueprint.account, work)
    }

    /// Serves one connection to its end.
    async fn connection(self: Arc<Self>, stream: Stream, _held: Option<Reservation>) {
        let mut builder = Builder::new(ForStreams(Arc::clone(&self)));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_READ)
            .max_buf_size(MAX_BUFFER_BYTES)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_BUFFER_BYTES).unwrap_or(u32::MAX))
            .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let asked = CancellationToken::new();
        let service = service_fn(|request: hyper::Request<Incoming>| {
            asked.cancel();
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(instance::respond(server, request).await) }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Patient::new(stream)), service));
        let stopped = tokio::select! {
            _ = &mut connection => false,
            () = self.may_close(&asked) => true,
        };
        if stopped {
            connection.as_mut().graceful_shutdown();
            // However it ends, the client knows as much as there is to know.
            let _ = connection.await;
        }
    }

    /// Resolves when the container is asked to stop, for a new connection not before its first request.
    async fn may_close(&self, asked: &CancellationToken) {
        let is_old = sleep(NEW_CONNECTION);
        self.stopping.cancelled().await;
        tokio::select! {
            () = asked.cancelled() => {}
            () = is_old => {}
        }
    }

    /// Runs a guest beside the connection that asked for it.
    pub(super) fn spawn(&self, guest: impl Future<Output = ()> + Send + 'static) {
        if let Some(guests) = self.guests.lock().as_mut() {
            while guests.try_join_next().is_some() {}
            guests.spawn(guest);
        }
    }

    /// Ends the container; the first reason counts.
    pub(super) fn end(&self, exit: Exit) {
        self.ending.lock().get_or_insert(exit);
        self.ended.cancel();
    }
}

/// Runs what the streams of an HTTP/2 connection have to do.
#[derive(Clone)]
struct ForStreams(Arc<Server>);

impl<F> Executor<F> for ForStreams
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, work: F) {
        tokio::spawn(self.0.paced(work));
    }
}
