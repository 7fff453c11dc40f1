//! Who a request comes from ([`Authenticator`]) and what they may do ([`authorize`]).
//!
//! A request without valid credentials never reaches a handler that changes or shows objects; there is no anonymous
//! user. Authorization is a pure function of the identity, the request's attributes and the objects given with them.

mod authorize;
pub mod bootstrap;
mod nodes;
pub mod revocation;
mod roles;

pub use authorize::{authorize, rules};

use crate::{
    door::{read_error, stamp},
    identity::Identity,
};
use base64::Engine as _;
use coracle_objects::{ApiError, Reason};
use coracle_store::Store;
use http::{Extensions, HeaderMap, header, request::Parts};
use revocation::NodeConnections;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::Arc};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest `Authorization` header that is looked at.
const MAX_AUTHORIZATION_BYTES: usize = 8 * 1024;

/// Request extension: who the TLS client certificate speaks for. Only the listener sets it, after the handshake has
/// verified the chain against the cluster's CA.
#[derive(Debug, Clone)]
pub struct PeerCertificates {
    identity: Arc<Identity>,
    issued_at: u64,
    not_after: i64,
}

impl PeerCertificates {
    /// Reads the subject of the first (the client's own) certificate: common name → user, organizations → groups.
    ///
    /// # Errors
    /// 401 when the certificate cannot be read or has no common name.
    pub fn new(chain: &[CertificateDer<'_>]) -> Result<Self, ApiError> {
        let certificate = chain.first().ok_or_else(unauthorized)?;
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| unauthorized())?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().find_map(|name| name.as_str().ok()).filter(|user| !user.is_empty());
        let groups: Vec<&str> = subject.iter_organization().filter_map(|name| name.as_str().ok()).collect();
        let user = user.ok_or_else(unauthorized)?;
        Ok(Self {
            identity: Arc::new(Identity::new(user, &groups)),
            issued_at: coracle_objects::nodes::issued_at(certificate.raw_serial()),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// The store's revision when it was issued; 0 where the certificate does not say.
    #[must_use]
    pub fn issued_at(&self) -> u64 {
        self.issued_at
    }

    /// When it ends, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Who the certificate speaks for.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Knows the bearer tokens; certificates bring their identity with them.
#[derive(Default)]
pub struct Authenticator {
    /// By SHA-256 of the token, so that how long a lookup takes tells nothing about a token's characters.
    tokens: HashMap<[u8; 32], Identity>,
    /// With the store, which knows bootstrap tokens and which credentials of nodes have ended.
    nodes: Option<Arc<NodeConnections>>,
}

impl Authenticator {
    /// Knows no token yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets whoever shows `token` act as `identity`. An empty token is ignored.
    #[must_use]
    pub fn with_token(mut self, token: &str, identity: Identity) -> Self {
        if !token.is_empty() {
            self.tokens.insert(Sha256::digest(token).into(), identity);
        }
        self
    }

    /// Knows the bootstrap tokens in `store`, and refuses nodes whose credentials have ended by what is there. Without it
    /// there are no such tokens, and credentials do not end before they expire.
    #[must_use]
    pub fn with_store(mut self, store: Store) -> Self {
        self.nodes = Some(NodeConnections::new(store));
        self
    }

    /// The open connections of nodes, where there is a store.
    #[must_use]
    pub fn node_connections(&self) -> Option<&Arc<NodeConnections>> {
        self.nodes.as_ref()
    }

    /// Whose request this is: by client certificate, bearer token, or basic credentials whose password is a token.
    ///
    /// # Errors
    /// 401 when nothing valid was shown.
    pub fn authenticate(&self, parts: &Parts) -> Result<Identity, ApiError> {
        self.authenticate_with(&parts.headers, &parts.extensions)
    }

    /// The same for those who hold headers and extensions apart (gRPC: `request.metadata().as_ref()`).
    ///
    /// # Errors
    /// 401 when nothing valid was shown, 403 when the request wants to be somebody else's: to ignore that would do with
    /// the rights of the one what was meant to be tried with the rights of the other.
    pub fn authenticate_with(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Identity, ApiError> {
        let identity = self.identify(headers, extensions)?;
        if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            let message =
                "impersonation is not supported: send the request without Impersonate-* headers (--as, --as-group)";
            return Err(ApiError::new(Reason::Forbidden, message));
        }
        Ok(identity)
    }

    fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Identity, ApiError> {
        if let Some(peer) = extensions.get::<PeerCertificates>() {
            let identity = peer.identity();
            if let (Some(node), Some(nodes)) = (identity.node_name(), &self.nodes)
                && !nodes.counts(node, peer.issued_at).map_err(|error| read_error(&error))?
            {
                return Err(revocation::refusal(node));
            }
            return Ok(identity.clone());
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|value| token_of(value.as_bytes()));
        let token = token.ok_or_else(unauthorized)?;
        let hash: [u8; 32] = Sha256::digest(&token).into();
        let known = self.tokens.get(&hash).cloned();
        let bootstrapper =
            || self.nodes.as_ref().and_then(|nodes| bootstrap::identify(nodes.store(), &token, stamp::now_seconds()));
        known.or_else(bootstrapper).ok_or_else(unauthorized)
    }
}

/// The token in the value of an `Authorization` header.
fn token_of(value: &[u8]) -> Option<Vec<u8>> {
    if value.len() > MAX_AUTHORIZATION_BYTES {
        return None;
    }
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii();
    let token = if scheme.eq_ignore_ascii_case(b"bearer") {
        rest.to_vec()
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
        let colon = decoded.iter().position(|&byte| byte == b':')?;
        decoded.get(colon + 1..)?.to_vec()
    } else {
        return None;
    };
    (!token.is_empty()).then_some(token)
}

fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

#[cfg(test)]
mod tests;
