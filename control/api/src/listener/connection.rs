//! One connection, from its handshake to its end.

use super::dispatch::App;
use crate::{
    auth::PeerCertificates,
    door::stamp,
    nodelink::{MAX_FORWARDS_PER_NODE, MAX_SESSIONS_PER_NODE, SESSION_WINDOW_BYTES},
};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use std::{pin::pin, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// HTTP/2 in ALPN.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";
/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long who shows a certificate of a node that does not count any more is answered that.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How often it is looked at whether a connection's certificate has expired.
const EXPIRY_LOOK: Duration = Duration::from_mins(1);
/// HTTP/1.1: a request's head must be complete within this time; also ends idle connections.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(32);
/// HTTP/2: a silent peer is asked for a sign of life this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// … and taken for dead when none comes.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// HTTP/2: requests at a time on a user's connection.
const MAX_STREAMS: u32 = 250;
/// HTTP/2: the size of a request's headers.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// HTTP/2: what a client may send before it is read, on all its streams together.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Serves one connection until it ends, or gracefully ends it when `shutdown` is cancelled.
pub(super) async fn serve(stream: TcpStream, acceptor: TlsAcceptor, app: App, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch Nagle's algorithm off");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let stream = tokio::select! {
        () = shutdown.cancelled() => return,
        stream = handshake => stream,
    };
    match stream {
        Ok(Ok(stream)) => serve_http(stream, app, shutdown).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn serve_http(stream: TlsStream<TcpStream>, app: App, shutdown: CancellationToken) {
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(ALPN_HTTP2);
    let peer = match session.peer_certificates().map(PeerCertificates::new).transpose() {
        Ok(peer) => peer,
        Err(error) => {
            tracing::debug!(%error, "the client certificate names nobody");
            return;
        }
    };
    let node = peer.as_ref().and_then(|peer| peer.identity().node_name().map(|node| (node, peer.issued_at())));
    let entered = node.and_then(|(node, issued_at)| Some(app.node_connections()?.enter(node, issued_at)));
    // Looked at after it has entered, so that no revocation falls between. Who has a certificate that does not count any
    // more hears why, for a short time and not on the account of the node that has the name now.
    let is_over = entered.as_ref().is_some_and(|entered| !entered.counts());
    let ended = end_of(
        peer.as_ref().map(PeerCertificates::not_after),
        entered.as_ref().map(|entered| &entered.revoked),
        is_over.then_some(LAST_WORDS),
    );
    let is_node = node.is_some();
    let _counted = match node.filter(|_| !is_over).map(|(node, _)| app.count_connection(node)).transpose() {
        Ok(counted) => counted.flatten(),
        Err(error) => {
            tracing::debug!(%error, "a node's connection is not served");
            return;
        }
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        app.call(request)
    });
    let builder = builder(is_http2, is_node);
    // A connection that switches to another protocol ends here and belongs to who speaks it.
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        why = ended => {
            // Nothing is finished first: who has no right to be here any more is not served to the end.
            tracing::info!(why, "a connection is cut");
            return;
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

/// Resolves when the client's certificate does not count any more; `at_most` is how long one has that never counted.
async fn end_of(
    not_after: Option<i64>,
    revoked: Option<&CancellationToken>,
    at_most: Option<Duration>,
) -> &'static str {
    let expires = async {
        let Some(not_after) = not_after else { return std::future::pending().await };
        // Looked at again and again, since the clock may be set.
        while let Ok(left @ 0..) = u64::try_from(not_after.saturating_sub(stamp::now_seconds())) {
            tokio::time::sleep(Duration::from_secs(left + 1).min(EXPIRY_LOOK)).await;
        }
    };
    let revoked = async {
        match revoked {
            Some(revoked) => revoked.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let told = async {
        match at_most {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = told => "the node's credentials had ended before",
        () = expires => "the client's certificate has expired",
        () = revoked => "the node's credentials have ended",
    }
}

/// ALPN has decided on the version, so that no connection waits, unbounded, for its first bytes to tell.
fn builder(is_http2: bool, is_node: bool) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(SESSION_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    if is_node {
        // All sessions unread at once must leave room for the control stream and the node's own requests. The number
        // of streams has a bound of its own: every watched pod may hold a few.
        let sessions = u32::try_from(MAX_SESSIONS_PER_NODE + MAX_FORWARDS_PER_NODE).unwrap_or(u32::MAX);
        let window = SESSION_WINDOW_BYTES.saturating_mul(sessions).saturating_add(CONNECTION_WINDOW_BYTES);
        builder.http2().initial_connection_window_size(window).max_concurrent_streams(MAX_STREAMS * 4);
    }
    if is_http2 { builder.http2_only() } else { builder.http1_only() }
}
