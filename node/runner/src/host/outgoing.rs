//! Requests that guests make: HTTP/1.1 over a connection of the pod network, which the agent dials like any other.

use super::{names::Resolver, paced_body::PacedBody, resources::BODY_CHUNK_BYTES, trust::Trust};
use crate::{
    network::{error::SocketError, pod::PodNetwork, stream::Stream},
    protocol::LookupFailure,
};
use http_body_util::BodyExt;
use hyper::{
    Request, Response, Uri,
    body::Body,
    client::conn::http1::{self, SendRequest},
    http::uri::{Authority, PathAndQuery, Scheme},
};
use hyper_util::rt::TokioIo;
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, p2::bindings::http::types::ErrorCode};

/// Requests that one instance has under way.
const MAX_REQUESTS: usize = 64;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// What is buffered of a connection in each direction; the head of a response must fit.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// What a request counts as the container's memory while it is under way, and what more if it is encrypted.
const REQUEST_BYTES: u64 = 2 * (MAX_BUFFER_BYTES as u64);
const SECURE_BYTES: u64 = 64 << 10;
/// How long a connection may take, a response to begin, and a body to go on, unless the guest says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_mins(10);
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_mins(10);

type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// What one instance sends its requests with.
#[derive(Debug)]
pub(crate) struct Outgoing {
    way: Way,
    permits: Arc<Semaphore>,
}

/// How to reach others.
#[derive(Debug, Clone)]
struct Way {
    resolver: Resolver,
    network: PodNetwork,
    trust: Arc<Trust>,
}

impl Outgoing {
    pub(crate) fn new(resolver: Resolver, network: PodNetwork, trust: Arc<Trust>) -> Self {
        Self { way: Way { resolver, network, trust }, permits: Arc::new(Semaphore::new(MAX_REQUESTS)) }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let way = self.way.clone();
        let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        let held = way.network.memory().reserve(REQUEST_BYTES + if secure { SECURE_BYTES } else { 0 });
        Box::new(async move {
            let permit = permit.map_err(|_| Error::ConnectionLimitReached)?;
            // The container ends; what its guest is told does not matter any more.
            let held = held.map_err(|out| Error::InternalError(Some(out.to_string())))?;
            let (response, connection) = way.send(request, options.unwrap_or_default()).await?;
            let driven: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async move {
                let _here = (permit, held);
                connection.await
            });
            Ok((response, driven))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        if error.is_timeout() {
            ErrorCode::HttpResponseTimeout
        } else if error.is_incomplete_message() {
            ErrorCode::HttpResponseIncomplete
        } else if error.is_closed() || error.is_canceled() {
            ErrorCode::ConnectionTerminated
        } else {
            ErrorCode::HttpProtocolError
        }
    }
}

impl Way {
    /// Gives the response once its head is there, and what must be kept going until its body is.
    async fn send(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<(Response<WasiBody>, AbortOnDropJoinHandle<Result<(), Error>>), Error> {
        let authority = request.uri().authority().cloned().ok_or(Error::HttpRequestUriInvalid)?;
        let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        let limit = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let connected = timeout(limit, self.connect(&authority, secure)).await;
        let (mut sender, connection) = connected.map_err(|_| Error::ConnectionTimeout)??;

        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
        let limit = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
        let response = timeout(limit, sender.send_request(request)).await;
        let response = response.map_err(|_| Error::ConnectionReadTimeout)??;
        let pace = options.between_bytes_timeout.unwrap_or(BETWEEN_BYTES_TIMEOUT);
        Ok((response.map(|body| PacedBody::new(body, pace).boxed_unsync()), connection))
    }

    async fn connect(&self, authority: &Authority, secure: bool) -> Result<Connected<WasiBody>, Error> {
        let host = authority.host();
        // Before anybody is bothered.
        let tls = if secure { Some(self.trust.connector().await.map_err(|error| unsupported(&error))?) } else { None };
        let stream = self.dial(host, authority.port_u16().unwrap_or(if secure { 443 } else { 80 })).await?;
        match tls {
            Some(tls) => handshake(secured(&tls, host, stream).await?).await,
            None => handshake(stream).await,
        }
    }

    async fn dial(&self, host: &str, port: u16) -> Result<Stream, Error> {
        let addresses = self.resolver.addresses(host.to_owned()).await.map_err(|failure| match failure {
            LookupFailure::NotFound => Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None },
            LookupFailure::Temporary => Error::DnsTimeout,
            LookupFailure::Invalid => Error::HttpRequestUriInvalid,
        })?;
        let mut error = Error::DestinationNotFound;
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            match self.network.connect(None, SocketAddr::new(address, port)).await {
                Ok(connection) => return Ok(connection.stream),
                Err(failure) => error = dial_error(failure),
            }
        }
        Err(error)
    }
}

type Connected<B> = (SendRequest<B>, AbortOnDropJoinHandle<Result<(), Error>>);

async fn handshake<B>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Connected<B>, Error>
where
    B: Body<Error = Error, Data: Send> + Send + 'static,
{
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MAX_BUFFER_BYTES).handshake(TokioIo::new(stream)).await?;
    Ok((sender, spawn(async move { connection.await.map_err(Error::from) })))
}

async fn secured(
    tls: &TlsConnector,
    host: &str,
    stream: Stream,
) -> Result<tokio_rustls::client::TlsStream<Stream>, Error> {
    use rustls::pki_types::ServerName;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
    tls.connect(name, stream).await.map_err(|error| tls_error(&error))
}

fn unsupported(text: &str) -> Error {
    Error::InternalError(Some(format!("no https: {text}")))
}

fn dial_error(error: SocketError) -> Error {
    match error {
        SocketError::Refused => Error::ConnectionRefused,
        SocketError::Unreachable => Error::DestinationIpUnroutable,
        SocketError::TimedOut => Error::ConnectionTimeout,
        SocketError::Denied => Error::DestinationIpProhibited,
        SocketError::TooMany => Error::ConnectionLimitReached,
        _ => Error::DestinationUnavailable,
    }
}

fn tls_error(error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: Some(format!("{alert:?}")) }
        }
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}
