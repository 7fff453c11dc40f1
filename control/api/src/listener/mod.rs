//! The one TLS port: connections, their limits, and who gets which request.
//!
//! HTTP/1.1 and HTTP/2 are told apart by ALPN, gRPC by its content type. A client certificate is optional; one that
//! the cluster's CA has not signed ends the handshake. Nothing here waits without a bound.

mod connection;
mod dispatch;
mod services;

#[cfg(test)]
mod tests;

pub use dispatch::App;
pub use services::Services;

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use std::{io, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections served at a time; more wait in the system's queue.
pub const MAX_CONNECTIONS: usize = 16 * 1024;
/// How long requests that run may take to end when the server stops.
const DRAIN_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };
/// Pause after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The server's certificate and key, or the CA, cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Certificates(#[from] rustls::Error),
    /// Client certificates cannot be checked against the CA.
    #[error("client certificates cannot be checked: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// TLS for the port: the server's `chain` and `key`, and client certificates checked against `ca`.
///
/// # Errors
/// When one of them cannot be used.
pub fn tls_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: CertificateDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![connection::ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves `app` on `listener` until `shutdown` is cancelled; then takes no more connections, lets those that run end,
/// and cuts off what has not ended in a few seconds.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, app: App, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let cut_off = CancellationToken::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let serving = connection::serve(stream, acceptor.clone(), app.clone(), shutdown.clone());
                let cut_off = cut_off.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = serving => {}
                        () = cut_off.cancelled() => {}
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "cutting off connections that have not ended");
        cut_off.cancel();
        connections.wait().await;
    }
}
