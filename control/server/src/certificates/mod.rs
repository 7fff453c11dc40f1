//! Approves and signs what machines ask for that are nodes or are to become nodes, and clears away what is done with.
//!
//! ```text
//!  asked ──policy or a person──▶ Approved ──signed──▶ certificate in the status
//!    └──policy or a person──▶ Denied          └──not in order──▶ Failed
//! ```
//!
//! It must never sign what is not approved, for anybody but a node, or with a serial that is younger than the request: a
//! node that was deleted since must not come out of it with a certificate that counts.

mod policy;
mod request;
mod tokens;

use crate::pki::Authority;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_api::{
    Door,
    auth::revocation,
    door::{Body, Target, WriteOptions},
    identity::Identity,
};
use coracle_client::{
    Client, DeleteOptions, Query, Write,
    cache::{self, Cache},
    clock::{self, Clock, SystemClock},
    supervisor,
};
use coracle_objects::{ApiError, Reason, bootstrap, catalogue, meta};
use policy::{Known, Verdict};
use request::Request;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often old requests and expired tokens are looked for.
const CLEARED_EVERY: Duration = Duration::from_mins(1);
/// How long a request is kept that something has come of …
const DONE_KEPT: time::Duration = time::Duration::hours(1);
/// … and one that waits for a person.
const PENDING_KEPT: time::Duration = time::Duration::hours(24);

/// See the module.
pub(crate) struct Signer {
    pub(crate) door: Arc<Door>,
    pub(crate) authority: Arc<Authority>,
    /// How long certificates last that it signs.
    pub(crate) lifetime: Duration,
}

/// One run of it, with what it remembers.
struct Work {
    signer: Arc<Signer>,
    client: Arc<dyn Client>,
    requests: Cache,
    /// The revision at which each undecided request was made, by uid: what a node asked for before it was deleted does
    /// not count afterwards.
    asked_at: Mutex<HashMap<String, u64>>,
}

/// Runs until `shutdown`.
pub(crate) async fn run(signer: Arc<Signer>, shutdown: CancellationToken) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let client: Arc<dyn Client> = signer.door.client(Identity::signer());
    let kind = catalogue::certificate_signing_requests();
    let requests = Cache::start(&client, &clock, kind, Query::default(), cache::whole, &shutdown);
    let work = Arc::new(Work { signer, client, requests, asked_at: Mutex::new(HashMap::new()) });
    let task = supervisor::spawn("certificates", clock, shutdown, move || Arc::clone(&work).follow());
    if let Err(error) = task.await {
        tracing::error!(%error, "the supervisor of certificates ended");
    }
}

impl Work {
    async fn follow(self: Arc<Self>) {
        self.requests.synced().await;
        let mut changes = self.requests.changes();
        let mut clear = tokio::time::interval(CLEARED_EVERY);
        loop {
            let mut failed = false;
            for object in self.requests.all() {
                if let Err(error) = self.look_at(&object).await {
                    let name = meta::name(&object);
                    if matches!(error.reason, Reason::Conflict | Reason::NotFound) {
                        tracing::debug!(%error, name, "a signing request has changed: it is looked at again");
                    } else {
                        failed = true;
                        tracing::warn!(%error, name, "cannot bring a signing request in order: it is tried again");
                    }
                }
            }
            let again = async { if failed { tokio::time::sleep(AGAIN).await } else { std::future::pending().await } };
            tokio::select! {
                _ = changes.next() => {}
                () = again => {}
                _ = clear.tick() => self.clear(OffsetDateTime::now_utc()).await,
            }
        }
    }

    /// Brings one request a step further, if it is one for a node's certificate and there is a step.
    async fn look_at(&self, object: &Value) -> Result<(), ApiError> {
        let has = |kind: &str| has_condition(object, kind);
        let is_done = has("Denied") || has("Failed") || !certificate(object).is_empty();
        if is_done || object["spec"]["signerName"] != bootstrap::NODE_SIGNER {
            self.asked_at().remove(meta::uid(object));
            return Ok(());
        }
        if has("Approved") {
            return self.sign(object).await;
        }
        let asked_at = *self.asked_at().entry(meta::uid(object).to_owned()).or_insert_with(|| revision_of(object));
        let (kind, reason, message) = match self.decide(object, asked_at) {
            Verdict::Leave => return Ok(()),
            Verdict::Deny(reason, message) => ("Denied", reason, message),
            Verdict::Approve(reason, message) => match self.use_token(object).await? {
                None => ("Approved", reason, message),
                Some(used) => ("Denied", "TokenUsed", used),
            },
        };
        tracing::info!(name = meta::name(object), kind, reason, message, "decided on a signing request");
        self.write(object, "approval", |status| push(status, kind, reason, &message)).await
    }

    fn decide(&self, object: &Value, asked_at: u64) -> Verdict {
        let taken = |request: &Request| self.taken(object, request);
        let since = |node: &str| revocation::since(self.signer.door.store(), node).unwrap_or(u64::MAX);
        policy::decide(object, asked_at, &Known { taken: &taken, since: &since })
    }

    /// Why a new machine cannot have the name that it asks for: it is a node's, or another machine was given it.
    fn taken(&self, object: &Value, request: &Request) -> Option<String> {
        let (store, node) = (self.signer.door.store(), &request.node);
        let advice = format!("choose another --name, or delete it first (kubectl delete node {node})");
        match store.get(&Target::object(catalogue::nodes(), "", node.as_str()).key()) {
            Ok(None) => {}
            Ok(Some(_)) => return Some(format!("there is a node {node}: {advice}")),
            Err(error) => return Some(format!("the store cannot be read: {error}")),
        }
        let since = revocation::since(store, node).unwrap_or(u64::MAX);
        let others = self.requests.all();
        let given = others.iter().find(|other| {
            meta::uid(other) != meta::uid(object)
                && has_condition(other, "Approved")
                && !has_condition(other, "Failed")
                && revision_of(other) >= since
                && Request::of(other).is_ok_and(|other| other.node == *node && other.public_key != request.public_key)
        })?;
        let other = meta::name(given);
        Some(format!(
            "another machine was approved as {node} by request {other}: choose another --name, or delete that request"
        ))
    }

    /// Uses the requester's token up if it is for one node; says why not if it was used for another.
    async fn use_token(&self, object: &Value) -> Result<Option<String>, ApiError> {
        let user = object["spec"]["username"].as_str().unwrap_or_default();
        let Some(id) = user.strip_prefix(bootstrap::USER_PREFIX) else { return Ok(None) };
        let node = match Request::of(object) {
            Ok(request) => request.node,
            Err(why) => return Ok(Some(why)),
        };
        tokens::use_up(&*self.client, id, &node).await
    }

    async fn sign(&self, object: &Value) -> Result<(), ApiError> {
        let spec = &object["spec"];
        // A node's own request counts from when it was made; what a person or a token let in, from when it was let in.
        let renews = spec["username"].as_str().is_some_and(|user| coracle_objects::nodes::of_user(user).is_some());
        let issued_at =
            if renews { self.asked_at().get(meta::uid(object)).copied() } else { Some(revision_of(object)) };
        let lifetime = match spec["expirationSeconds"].as_u64() {
            Some(seconds) => self.signer.lifetime.min(Duration::from_secs(seconds)),
            None => self.signer.lifetime,
        };
        let signed = match (Request::of(object), issued_at) {
            (Err(why), _) => Err(why),
            (_, None) => Err("the server has restarted since it was asked; ask again".to_owned()),
            (Ok(request), Some(issued_at)) => {
                let signed = self.signer.authority.sign(&request.der, &request.node, issued_at, lifetime);
                signed.map_err(|error| format!("the request cannot be signed: {error}"))
            }
        };
        let name = meta::name(object);
        match signed {
            Ok(pem) => {
                tracing::info!(name, "signed a node's certificate");
                self.write(object, "status", |status| status["certificate"] = STANDARD.encode(pem).into()).await
            }
            Err(why) => {
                tracing::warn!(name, why, "a signing request failed");
                self.write(object, "status", |status| push(status, "Failed", "SignerValidationFailure", &why)).await
            }
        }
    }

    async fn write(&self, object: &Value, part: &str, change: impl FnOnce(&mut Value)) -> Result<(), ApiError> {
        let kind = catalogue::certificate_signing_requests();
        let target = Target::object(kind, "", meta::name(object)).with_subresource(part)?;
        let mut new = object.clone();
        if !new["status"].is_object() {
            new["status"] = json!({});
        }
        change(&mut new["status"]);
        let identity = Identity::signer();
        self.signer.door.update(&identity, &target, Body::Value(new), WriteOptions::default()).await.map(drop)
    }

    /// Removes requests that are done with or that nobody decided on, and tokens that have expired.
    async fn clear(&self, now: OffsetDateTime) {
        for object in self.requests.all() {
            if is_old(&object, now) {
                let options = DeleteOptions { uid: Some(meta::uid(&object).to_owned()), ..DeleteOptions::default() };
                let kind = catalogue::certificate_signing_requests();
                if let Err(error) = self.client.write(Write::Delete(kind, meta::key(&object), options)).await {
                    tracing::debug!(%error, "cannot remove an old signing request");
                }
            }
        }
        if let Err(error) = tokens::clear(&*self.client, now.unix_timestamp()).await {
            tracing::debug!(%error, "cannot remove expired tokens");
        }
    }

    fn asked_at(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.asked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_old(object: &Value, now: OffsetDateTime) -> bool {
    let is_pending = !["Approved", "Denied", "Failed"].iter().any(|kind| has_condition(object, kind));
    let kept = if is_pending { PENDING_KEPT } else { DONE_KEPT };
    let made = object["metadata"]["creationTimestamp"].as_str().and_then(clock::parse);
    made.is_some_and(|made| now - made > kept)
}

fn has_condition(object: &Value, kind: &str) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind)
}

fn certificate(object: &Value) -> &str {
    object["status"]["certificate"].as_str().unwrap_or_default()
}

fn revision_of(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

fn push(status: &mut Value, kind: &str, reason: &str, message: &str) {
    let now = clock::seconds_text(OffsetDateTime::now_utc());
    let condition = json!({"type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now});
    match status["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => status["conditions"] = json!([condition]),
    }
}

#[cfg(test)]
mod tests;
