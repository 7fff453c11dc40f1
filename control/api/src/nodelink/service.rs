//! The gRPC service that node agents call.

use super::{
    Feed, NodeBounds,
    bounds::{Bucket, Rate},
    lease::LeaseKeeper,
    links::{Connected, NodeLinks, Signals},
    session::Opened,
};
use crate::{Door, auth::Authenticator};
use coracle_wire::v1::{
    FollowRequest, NodeHello, NodeSignal, RelayedPackets, ServerSignal, SessionFrame, ViewUpdate,
    node_link_server::NodeLink, node_signal, server_signal, session_frame,
};
use futures::stream::BoxStream;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a stream may take to say what it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A control stream that is silent for longer is taken for dead; agents ping several times within it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(40);
/// Pings of a node: a second's, and at once.
const PING_RATE: Rate = Rate { per_second: 4.0, burst: 100.0 };
/// Frames to a node that wait for it to read them.
const SESSION_QUEUE: usize = 4;

/// Serves control and session streams.
pub struct NodeLinkService {
    links: Arc<NodeLinks>,
    authenticator: Arc<Authenticator>,
    door: Arc<Door>,
    feed: Arc<Feed>,
    bounds: Arc<NodeBounds>,
}

impl NodeLinkService {
    /// A service that feeds `links`, and tells nodes what is behind `door`.
    #[must_use]
    pub fn new(
        links: Arc<NodeLinks>,
        authenticator: Arc<Authenticator>,
        door: Arc<Door>,
        bounds: Arc<NodeBounds>,
    ) -> Self {
        let feed = Feed::new(door.store().clone(), door.closing().clone());
        Self { links, authenticator, door, feed, bounds }
    }

    /// The name of the node that calls.
    fn caller<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let identity = self.authenticator.authenticate_with(request.metadata().as_ref(), request.extensions());
        let identity = identity.map_err(|error| Status::unauthenticated(error.message))?;
        let refusal = || Status::permission_denied(format!("user \"{}\" is not a node", identity.user));
        identity.node_name().map(str::to_owned).ok_or_else(refusal)
    }
}

#[tonic::async_trait]
impl NodeLink for NodeLinkService {
    type ControlStream = ReceiverStream<Result<ServerSignal, Status>>;
    type SessionStream = ReceiverStream<Result<SessionFrame, Status>>;
    type RelayStream = BoxStream<'static, Result<RelayedPackets, Status>>;

    async fn relay(&self, request: Request<Streaming<RelayedPackets>>) -> Result<Response<Self::RelayStream>, Status> {
        let node = self.caller(&request)?;
        let (route, to_node) = self.links.relays.enter(&node, self.links.closing());
        tokio::spawn(route.carry(request.into_inner()));
        Ok(Response::new(to_node))
    }

    type FollowStream = BoxStream<'static, Result<ViewUpdate, Status>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let node = self.caller(&request)?;
        self.bounds.view(&node)?;
        let ended = self.door.closing().child_token();
        Ok(Response::new(self.feed.follow(&node, request.get_ref(), ended).await?))
    }

    async fn control(&self, request: Request<Streaming<NodeSignal>>) -> Result<Response<Self::ControlStream>, Status> {
        let node = self.caller(&request)?;
        let (signals, receiver) = NodeLinks::signal_channel();
        let links = Arc::clone(&self.links);
        let door = Arc::clone(&self.door);
        // The answer begins before the node says hello: a client may wait for it before it sends anything.
        tokio::spawn(async move {
            if let Err(status) = serve_control(links, &node, request.into_inner(), &signals, door).await {
                tracing::debug!(node, status = status.message(), "control stream ended");
                // Fails only when the node has gone, and then there is nobody to tell.
                signals.try_send(Err(status)).ok();
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn session(
        &self,
        request: Request<Streaming<SessionFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = self.caller(&request)?;
        let (to_node, receiver) = mpsc::channel(SESSION_QUEUE);
        let links = Arc::clone(&self.links);
        tokio::spawn(async move {
            let refusals = to_node.clone();
            if let Err(status) = begin_session(&links, &node, request.into_inner(), to_node).await {
                refusals.try_send(Err(status)).ok();
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Hello, then pings, until the stream ends.
async fn serve_control(
    links: Arc<NodeLinks>,
    node: &str,
    mut inbound: Streaming<NodeSignal>,
    signals: &Signals,
    door: Arc<Door>,
) -> Result<(), Status> {
    let lease = match next(&mut inbound, HELLO_TIMEOUT).await?.and_then(|message| message.signal) {
        Some(node_signal::Signal::Hello(NodeHello { node_name, lease_seconds })) if node_name == node => {
            LeaseKeeper::start(door, node, lease_seconds)
        }
        Some(node_signal::Signal::Hello(NodeHello { node_name, .. })) => {
            let message = format!("the credentials are those of node \"{node}\", not of \"{node_name}\"");
            return Err(Status::permission_denied(message));
        }
        _ => return Err(Status::invalid_argument("a control stream begins with hello")),
    };
    let connected = links.connect(node, signals.clone());
    tracing::info!(node, "node connected");
    let outcome = answer_pings(&connected, &mut inbound, signals, &lease).await;
    tracing::info!(node, "node disconnected");
    outcome
}

async fn answer_pings(
    connected: &Connected,
    inbound: &mut Streaming<NodeSignal>,
    signals: &Signals,
    lease: &LeaseKeeper,
) -> Result<(), Status> {
    let mut pings = Bucket::new(PING_RATE);
    loop {
        let message = tokio::select! {
            () = connected.ended.cancelled() => {
                return Err(Status::aborted("a newer connection of this node has taken over, or the server stops"));
            }
            message = next(inbound, IDLE_TIMEOUT) => message?,
        };
        match message.map(|message| message.signal) {
            None => return Ok(()),
            Some(Some(node_signal::Signal::Ping(_))) => {
                if !pings.take(Instant::now()) {
                    return Err(Status::resource_exhausted("too many pings"));
                }
                let pong = tokio::select! {
                    () = connected.ended.cancelled() => continue,
                    pong = lease.renew() => ServerSignal { signal: Some(server_signal::Signal::Pong(pong)) },
                };
                // A node that does not read its control stream is as good as gone; waiting for it would hide that.
                signals.try_send(Ok(pong)).map_err(|_| Status::resource_exhausted("signals are not being read"))?;
            }
            Some(_) => return Err(Status::invalid_argument("only pings follow the hello")),
        }
    }
}

async fn begin_session(
    links: &NodeLinks,
    node: &str,
    mut from_node: Streaming<SessionFrame>,
    to_node: mpsc::Sender<Result<SessionFrame, Status>>,
) -> Result<(), Status> {
    match next(&mut from_node, HELLO_TIMEOUT).await?.and_then(|message| message.frame) {
        Some(session_frame::Frame::SessionId(id)) => links.opened(node, &id, Opened { from_node, to_node }),
        _ => Err(Status::invalid_argument("a session's first frame names the session")),
    }
}

/// The next message, or `None` at the stream's end.
async fn next<T>(stream: &mut Streaming<T>, limit: Duration) -> Result<Option<T>, Status> {
    match tokio::time::timeout(limit, stream.message()).await {
        Ok(message) => message,
        Err(_) => Err(Status::deadline_exceeded("nothing was sent for too long")),
    }
}
