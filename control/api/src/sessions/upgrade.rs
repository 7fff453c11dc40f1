//! The HTTP side: which protocol a request asks to switch to, the answer, and who speaks it afterwards.

use super::{
    SessionSlot, bridge,
    forward::{self, Opener},
    forward_channels,
    spdy::Connection,
    streams::{self, Directions},
    websocket,
};
use crate::nodelink::Session;
use axum::{body::Body, response::Response};
use coracle_objects::{ApiError, Reason};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

/// What SPDY is called.
const SPDY: &str = "SPDY/3.1";
/// The protocols that a client of SPDY offers, and the one that is chosen.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// How long a client may take to read that its connection is switched.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Port-forward over SPDY.
const FORWARD: &str = "portforward.k8s.io";
/// The same inside of a WebSocket.
const FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A request to switch protocols.
pub(crate) struct Upgrade {
    pending: OnUpgrade,
    /// The WebSocket's key; `None` for SPDY.
    key: Option<HeaderValue>,
    /// Protocols that the client offers, the preferred ones first.
    offered: Vec<String>,
}

/// How a client of exec or attach will speak.
#[derive(Clone, Copy)]
pub(crate) enum ContainerProtocol {
    WebSocket(websocket::Channels),
    Spdy(streams::Version),
}

/// How a client of port-forward will speak.
#[derive(Clone, Copy)]
pub(crate) enum ForwardProtocol {
    Spdy,
    /// SPDY inside of a WebSocket's messages.
    Tunnel,
    Channels(websocket::Channels),
}

/// A switch that is agreed on: the name of the protocol, and what it means.
pub(crate) struct Agreed<P> {
    upgrade: Upgrade,
    name: &'static str,
    protocol: P,
}

impl Upgrade {
    /// Reads what a request asks for.
    ///
    /// # Errors
    /// 400 when it asks for no switch, or for one that is not known.
    pub(crate) fn from_request(parts: &Parts) -> Result<Self, ApiError> {
        let required = || ApiError::bad_request("Upgrade request required");
        let headers = &parts.headers;
        let pending = parts.extensions.get::<OnUpgrade>().cloned().ok_or_else(required)?;
        if !words(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
            return Err(required());
        }
        let to = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).ok_or_else(required)?;
        if to.eq_ignore_ascii_case(SPDY) {
            let offered = words(headers, &STREAM_PROTOCOL).map(str::to_owned).collect();
            return Ok(Self { pending, key: None, offered });
        }
        if !to.eq_ignore_ascii_case("websocket") {
            return Err(ApiError::bad_request(format!("cannot upgrade to \"{to}\": only to websocket and {SPDY}")));
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(ApiError::bad_request("Sec-WebSocket-Version must be 13"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        let key = key.ok_or_else(|| ApiError::bad_request("Sec-WebSocket-Key is missing"))?;
        let offered = words(headers, &header::SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
        Ok(Self { pending, key: Some(key), offered })
    }

    /// Chooses how exec and attach are spoken.
    ///
    /// # Errors
    /// 403 when the client offers nothing that is known.
    pub(crate) fn for_container(self) -> Result<Agreed<ContainerProtocol>, ApiError> {
        if self.key.is_some() {
            let known = websocket::PROTOCOLS.map(|(name, channels)| (name, ContainerProtocol::WebSocket(channels)));
            return self.agree(&known);
        }
        let known = streams::PROTOCOLS.map(|(name, version)| (name, ContainerProtocol::Spdy(version)));
        self.agree(&known)
    }

    /// Chooses how port-forward is spoken.
    ///
    /// # Errors
    /// As [`Self::for_container`].
    pub(crate) fn for_forward(self) -> Result<Agreed<ForwardProtocol>, ApiError> {
        if self.key.is_none() {
            return self.agree(&[(FORWARD, ForwardProtocol::Spdy)]);
        }
        let mut known = vec![(FORWARD_TUNNEL, ForwardProtocol::Tunnel)];
        // The fifth version is not for port-forward.
        let channels = websocket::PROTOCOLS.into_iter().skip(1);
        known.extend(channels.map(|(name, channels)| (name, ForwardProtocol::Channels(channels))));
        self.agree(&known)
    }

    /// The first that the client offers and we know; a client that offers none means the one without a name.
    fn agree<P: Copy>(self, known: &[(&'static str, P)]) -> Result<Agreed<P>, ApiError> {
        let nameless = [String::new()];
        let offered = if self.offered.is_empty() { &nameless[..] } else { &self.offered };
        let chosen = offered.iter().find_map(|name| known.iter().find(|(own, _)| own == name)).copied();
        let (name, protocol) = chosen.ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
            let message = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {:?}, server accepts {names:?}",
                self.offered,
            );
            ApiError::new(Reason::Forbidden, message)
        })?;
        Ok(Agreed { upgrade: self, name, protocol })
    }
}

/// The words of a header that may stand more than once, each with words between commas.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

impl<P> Agreed<P> {
    /// `101 Switching Protocols`.
    fn response(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let named = HeaderValue::from_static(self.name);
        if let Some(key) = &self.upgrade.key {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            // Base64 is always a valid value.
            if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            }
            if !self.name.is_empty() {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, named);
            }
            return response;
        }
        headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
        if !self.name.is_empty() {
            headers.insert(STREAM_PROTOCOL, named);
        }
        response
    }

    /// Answers, and lets `speak` have the connection after that.
    fn switch<F>(self, slot: SessionSlot, speak: impl FnOnce(Upgraded, P) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send,
        P: Send + 'static,
    {
        let response = self.response();
        tokio::spawn(async move {
            match timeout(SWITCH_TIMEOUT, self.upgrade.pending).await {
                Ok(Ok(upgraded)) => speak(upgraded, self.protocol).await,
                Ok(Err(error)) => tracing::debug!(%error, "a connection was not switched"),
                Err(_) => tracing::debug!("a client did not read that its connection is switched"),
            }
            drop(slot);
        });
        response
    }
}

impl Agreed<ForwardProtocol> {
    /// Whether the request must name the ports.
    pub(crate) fn needs_ports(&self) -> bool {
        matches!(self.protocol, ForwardProtocol::Channels(_))
    }
}

fn spdy(upgraded: Upgraded) -> Connection {
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    Connection::start(reader, writer)
}

/// Answers a request for exec or attach whose session is open.
pub(crate) fn serve_container(
    agreed: Agreed<ContainerProtocol>,
    wanted: Directions,
    session: Session,
    slot: SessionSlot,
    closing: CancellationToken,
) -> Response {
    agreed.switch(slot, async move |upgraded, protocol| match protocol {
        ContainerProtocol::WebSocket(channels) => {
            let (from, mut to) = websocket::halves(websocket::accept(upgraded).await, channels);
            if matches!(timeout(SWITCH_TIMEOUT, to.greet(wanted.stdout)).await, Ok(Ok(()))) {
                bridge::run(session, from, to, &closing).await;
            }
        }
        ContainerProtocol::Spdy(version) => {
            if let Some((from, to)) = streams::halves(spdy(upgraded), version, wanted).await {
                bridge::run(session, from, to, &closing).await;
            }
        }
    })
}

/// Answers a request for port-forward. `ports` are for clients that have a channel for each.
pub(crate) fn serve_forward(
    agreed: Agreed<ForwardProtocol>,
    opener: Opener,
    ports: Vec<u16>,
    slot: SessionSlot,
    closing: CancellationToken,
) -> Response {
    agreed.switch(slot, async move |upgraded, protocol| match protocol {
        ForwardProtocol::Spdy => forward::serve(spdy(upgraded), opener, &closing).await,
        ForwardProtocol::Tunnel => {
            let (reader, writer) = websocket::bytes(websocket::accept(upgraded).await);
            forward::serve(Connection::start(reader, writer), opener, &closing).await;
        }
        ForwardProtocol::Channels(channels) => {
            let socket = websocket::accept(upgraded).await;
            forward_channels::serve(socket, channels, &ports, &opener, &closing).await;
        }
    })
}
