//! How a request to a registry proves who asks: headers made from credentials, tokens from token servers, and the ones
//! that are still good. Nothing here is ever written or printed.

use crate::{
    failure::{Class, Failure},
    registry::{Registries, TEXT_BYTES_MAX, bearer, bounded, class, said, sensitive},
};
use coracle_objects::registry_auth::{Credential, challenge::Challenge, token};
use reqwest::{StatusCode, Url, header, header::HeaderValue};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Proofs kept; beyond it the cache starts anew.
const PROOFS_MAX: usize = 1024;
/// Longest lifetime that is believed, and the part of a lifetime that is not relied on.
const LIFETIME_MAX: Duration = Duration::from_hours(1);
const MARGIN: Duration = Duration::from_secs(5);

/// Tokens are made for a repository.
type Key = (String, String, Option<Credential>);

/// See the module.
#[derive(Default)]
pub(crate) struct Proofs {
    made: Mutex<HashMap<Key, (HeaderValue, Instant)>>,
}

/// Where a token comes from and what it is to allow.
struct Grant<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scope: String,
}

impl Proofs {
    /// What was accepted lately.
    pub(crate) fn known(&self, host: &str, repository: &str, credential: Option<&Credential>) -> Option<HeaderValue> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let (proof, until) = made.get(&key(host, repository, credential))?;
        (*until > Instant::now()).then(|| proof.clone())
    }

    /// What the challenge asks for; nothing where these credentials cannot answer it.
    pub(crate) async fn make(
        &self,
        registries: &Registries,
        host: &str,
        repository: &str,
        credential: Option<&Credential>,
        challenge: &Challenge,
    ) -> Result<Option<HeaderValue>, Failure> {
        let (proof, lifetime) = match (challenge, credential) {
            (_, Some(Credential::Bearer(_))) | (Challenge::Basic, None | Some(Credential::Identity(_))) => {
                return Ok(None);
            }
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                (basic(username, password)?, LIFETIME_MAX)
            }
            (Challenge::Bearer { realm, service, scope }, credential) => {
                let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
                let grant = Grant { realm, service: service.as_deref(), scope };
                fetch(registries, host, credential, &grant).await?
            }
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= PROOFS_MAX {
            made.clear();
        }
        let until = Instant::now() + lifetime.min(LIFETIME_MAX).saturating_sub(MARGIN);
        made.insert(key(host, repository, credential), (proof.clone(), until));
        Ok(Some(proof))
    }
}

fn key(host: &str, repository: &str, credential: Option<&Credential>) -> Key {
    (host.to_owned(), repository.to_owned(), credential.cloned())
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, Failure> {
    sensitive(&coracle_objects::registry_auth::basic(username, password))
}

/// Asks a token server.
async fn fetch(
    registries: &Registries,
    host: &str,
    credential: Option<&Credential>,
    grant: &Grant<'_>,
) -> Result<(HeaderValue, Duration), Failure> {
    let bad_realm = |_| Failure::last(format!("registry {host} names a token server that is no address"));
    let mut url = Url::parse(grant.realm).map_err(bad_realm)?;
    registries.check_scheme(&url, &format!("registry {host} sends clients for tokens to"))?;
    let server = crate::registry::authority(&url);
    let client = registries.client(&server)?;
    let question = token::question(grant.service, &grant.scope, credential);
    let request = if question.is_form {
        let mut form = url.clone();
        form.query_pairs_mut().clear().extend_pairs(&question.parameters);
        let body = form.query().unwrap_or_default().to_owned();
        client.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
    } else {
        url.query_pairs_mut().extend_pairs(&question.parameters);
        client.get(url)
    };
    let request = match question.authorization {
        Some(proof) => request.header(header::AUTHORIZATION, sensitive(&proof)?),
        None => request,
    };
    let response = request.send().await.map_err(|error| Failure::transport(&server, error))?;
    let status = response.status();
    if !status.is_success() {
        let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let class = if denied { Class::Denied } else { class(status) };
        let said = said(response, &server).await;
        return Err(Failure::new(class, format!("token server {server} of registry {host} answered {status}{said}")));
    }
    let body = bounded(response, TEXT_BYTES_MAX, "the token", &server).await?;
    let wrong = || Failure::last(format!("token server {server} of registry {host} gave no token"));
    let (token, lifetime) = token::answer(&body).ok_or_else(wrong)?;
    Ok((bearer(&token)?, lifetime))
}
