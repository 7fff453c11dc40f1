//! Approves and signs what machines ask for that are nodes or are to become nodes, and clears away what is done with.
//!
//! ```text
//!  asked ──policy or a person──▶ Approved ──signed──▶ certificate in the status
//!    └──policy or a person──▶ Denied          └──not in order──▶ Failed
//! ```
//!
//! It must never sign what is not approved, for anybody but a node, or for a node's own request with a serial that is
//! younger than the request: a node that was deleted since must not come out of it with a certificate that counts. Of a new
//! machine nothing counts that was issued under its name before, nowhere and before it has its own: whoever has that is
//! another one, or has lost it.

mod policy;
mod request;
mod tokens;

use crate::pki::Authority;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_api::{
    Door,
    auth::revocation::{self, floor::Raiser},
    door::{Body, Target, WriteOptions},
    identity::Identity,
};
use coracle_client::{
    Client, DeleteOptions, Query, Write,
    cache::{self, Cache},
    clock::{self, Clock, SystemClock},
    supervisor,
};
use coracle_objects::{ApiError, Reason, bootstrap, catalogue, meta, nodes};
use policy::{Known, Verdict};
use request::{Request, Subject};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
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

/// How many requests are kept of one node that something has come of, …
const DONE_OF_NODE: usize = 8;
/// … and of others: fewer than each may have at once, so that there is always room for new ones.
const DONE_OF_TOKEN: usize = 256;

/// One run of it, with what it remembers.
struct Work {
    signer: Arc<Signer>,
    client: Arc<dyn Client>,
    requests: Cache,
    memory: Mutex<Memory>,
    raiser: tokio::sync::Mutex<Raiser>,
}

/// What is remembered of requests, by uid, while they are there.
#[derive(Debug, Default)]
struct Memory {
    /// The revision at which an undecided request was made: what a node asked for before it was deleted does not count
    /// afterwards.
    asked_at: HashMap<String, u64>,
    /// What it is for, read once; `None` when it cannot be read.
    subjects: HashMap<String, Option<Subject>>,
    /// Those approved just now, of which the cache may not know yet.
    given: HashSet<String>,
}

impl Memory {
    /// Forgets requests that are gone, and what the cache knows by now.
    fn forget(&mut self, listed: &HashMap<&str, &Value>) {
        self.asked_at.retain(|uid, _| listed.contains_key(uid.as_str()));
        self.subjects.retain(|uid, _| listed.contains_key(uid.as_str()));
        self.given.retain(|uid| listed.get(uid.as_str()).is_some_and(|object| !has_condition(object, "Approved")));
    }

    fn subject(&mut self, object: &Value) -> Option<&Subject> {
        let uid = meta::uid(object).to_owned();
        self.subjects.entry(uid).or_insert_with(|| Subject::of(object)).as_ref()
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(signer: Arc<Signer>, shutdown: CancellationToken) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let client: Arc<dyn Client> = signer.door.client(Identity::signer());
    let kind = catalogue::certificate_signing_requests();
    let requests = Cache::start(&client, &clock, kind, Query::default(), cache::whole, &shutdown);
    let raiser = Raiser::new(&signer.door, signer.lifetime);
    let work = Arc::new(Work { signer, client, requests, memory: Mutex::default(), raiser: raiser.into() });
    let task = supervisor::spawn("certificates", clock, shutdown, move || Arc::clone(&work).follow());
    if let Err(error) = task.await {
        tracing::error!(%error, "the supervisor of certificates ended");
    }
}

impl Work {
    async fn follow(self: Arc<Self>) {
        self.requests.synced().await;
        // Before the first certificate: it counts how long they last.
        let mut raiser = self.raiser.lock().await;
        while !raise(&mut raiser, &self.signer.door).await {
            tokio::time::sleep(AGAIN).await;
        }
        let mut changes = self.requests.changes();
        let mut clear = tokio::time::interval(CLEARED_EVERY);
        let mut rise = tokio::time::interval(raiser.interval());
        loop {
            let mut failed = false;
            let all = self.requests.all();
            let listed = all.iter().map(|object| (meta::uid(object), &**object));
            self.memory().forget(&listed.collect());
            for object in in_excess(&all) {
                self.remove(object).await;
            }
            for object in all {
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
                _ = rise.tick() => drop(raise(&mut raiser, &self.signer.door).await),
            }
        }
    }

    /// Brings one request a step further, if it is one for a node's certificate and there is a step.
    async fn look_at(&self, object: &Value) -> Result<(), ApiError> {
        let has = |kind: &str| has_condition(object, kind);
        if is_done(object) || object["spec"]["signerName"] != bootstrap::NODE_SIGNER {
            self.memory().asked_at.remove(meta::uid(object));
            return Ok(());
        }
        if has("Approved") {
            return self.sign(object).await;
        }
        let uid = meta::uid(object).to_owned();
        let asked_at = *self.memory().asked_at.entry(uid.clone()).or_insert_with(|| revision_of(object));
        let (kind, reason, message) = match self.decide(object, asked_at)? {
            Verdict::Leave => return Ok(()),
            Verdict::Deny(reason, message) => ("Denied", reason, message),
            Verdict::Approve(reason, message) => match self.use_token(object).await? {
                None => ("Approved", reason, message),
                Some(used) => ("Denied", "TokenUsed", used),
            },
        };
        tracing::info!(name = meta::name(object), kind, reason, message, "decided on a signing request");
        self.write(object, "approval", |status| push(status, kind, reason, &message)).await?;
        if kind == "Approved" {
            self.memory().given.insert(uid);
        }
        Ok(())
    }

    fn decide(&self, object: &Value, asked_at: u64) -> Result<Verdict, ApiError> {
        let taken = |request: &Request| self.taken(object, request);
        let since = |node: &str| revocation::since(self.signer.door.store(), node).map_err(unreadable);
        policy::decide(object, asked_at, &Known { taken: &taken, since: &since })
    }

    /// Why a new machine cannot have the name that it asks for: it is a node's, or another machine was given it.
    fn taken(&self, object: &Value, request: &Request) -> Result<Option<String>, ApiError> {
        let (store, node) = (self.signer.door.store(), &request.node);
        let advice = format!("choose another --name, or delete it first (kubectl delete node {node})");
        let key = Target::object(catalogue::nodes(), "", node.as_str()).key();
        if store.get(&key).map_err(unreadable)?.is_some() {
            return Ok(Some(format!("there is a node {node}: {advice}")));
        }
        let since = revocation::since(store, node).map_err(unreadable)?;
        let (others, mut memory) = (self.requests.all(), self.memory());
        let given = others.iter().find(|other| {
            let is_given = memory.given.contains(meta::uid(other))
                || has_condition(other, "Approved") && !has_condition(other, "Failed") && revision_of(other) >= since;
            is_given
                && meta::uid(other) != meta::uid(object)
                && memory
                    .subject(other)
                    .is_some_and(|other| other.node == *node && other.public_key != request.public_key)
        });
        Ok(given.map(|given| {
            format!(
                "another machine was approved as {node} by request {}: choose another --name, or delete that request",
                meta::name(given)
            )
        }))
    }

    /// Uses the requester's token up if it is for one node; says why not if it was used for another.
    async fn use_token(&self, object: &Value) -> Result<Option<String>, ApiError> {
        let user = object["spec"]["username"].as_str().unwrap_or_default();
        let Some(id) = user.strip_prefix(bootstrap::USER_PREFIX) else { return Ok(None) };
        let node = match Request::of(object) {
            Ok(request) => request.node,
            Err(why) => return Ok(Some(why)),
        };
        tokens::use_up(&*self.client, id, &node, meta::uid(object)).await
    }

    async fn sign(&self, object: &Value) -> Result<(), ApiError> {
        let spec = &object["spec"];
        let renews = spec["username"].as_str().is_some_and(|user| nodes::of_user(user).is_some());
        let request = Request::of(object);
        let issued_at = match &request {
            // A node's own request counts from when it was made.
            _ if renews => self.memory().asked_at.get(meta::uid(object)).copied(),
            // Whom a person or a token let in is a new machine: nothing counts that others have under its name.
            Ok(request) => Some(revocation::begin_anew(&self.signer.door, &request.node).await?),
            Err(_) => None,
        };
        let lifetime = match spec["expirationSeconds"].as_u64() {
            Some(seconds) => self.signer.lifetime.min(Duration::from_secs(seconds)),
            None => self.signer.lifetime,
        };
        let signed = match (request, issued_at) {
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
                self.remove(&object).await;
            }
        }
        if let Err(error) = tokens::clear(&*self.client, now.unix_timestamp()).await {
            tracing::debug!(%error, "cannot remove expired tokens");
        }
    }

    async fn remove(&self, object: &Value) {
        let options = DeleteOptions { uid: Some(meta::uid(object).to_owned()), ..DeleteOptions::default() };
        let kind = catalogue::certificate_signing_requests();
        if let Err(error) = self.client.write(Write::Delete(kind, meta::key(object), options)).await {
            tracing::debug!(%error, "cannot remove an old signing request");
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts time, and removes records of revoked certificates that have expired; whether that worked.
async fn raise(raiser: &mut Raiser, door: &Door) -> bool {
    let outcome = raiser.advance(door, Instant::now()).await;
    if let Err(error) = &outcome {
        tracing::warn!(%error, "cannot look through the records of revoked certificates: it is tried again");
    }
    outcome.is_ok()
}

/// Nothing is decided then: it is looked at again.
fn unreadable(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, format!("the store cannot be read: {error}"))
}

/// Whether a request has been kept for long enough, since it was decided on if it was.
fn is_old(object: &Value, now: OffsetDateTime) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let is_pending = !["Approved", "Denied", "Failed"].iter().any(|kind| has_condition(object, kind));
    let kept = if is_pending { PENDING_KEPT } else { DONE_KEPT };
    // People write conditions too: a time to come is no reason to keep a request for ever.
    let times = conditions.map(|condition| &condition["lastUpdateTime"]);
    let times = times.chain([&object["metadata"]["creationTimestamp"]]);
    let last = times.filter_map(|time| clock::parse(time.as_str()?)).filter(|time| *time <= now).max();
    last.is_some_and(|last| now - last > kept)
}

/// Requests that something has come of and that are too many of one machine or node: the oldest, those without a
/// certificate first.
fn in_excess(all: &[Arc<Value>]) -> Vec<&Value> {
    let mut done: HashMap<&str, Vec<&Value>> = HashMap::new();
    for object in all {
        let user = object["spec"]["username"].as_str().unwrap_or_default();
        let is_machine = user.starts_with(bootstrap::USER_PREFIX) || nodes::of_user(user).is_some();
        if is_machine && is_done(object) {
            done.entry(user).or_default().push(object);
        }
    }
    let excess = done.into_iter().flat_map(|(user, mut requests)| {
        let kept = if nodes::of_user(user).is_some() { DONE_OF_NODE } else { DONE_OF_TOKEN };
        requests.sort_by_key(|request| (!certificate(request).is_empty(), revision_of(request)));
        requests.truncate(requests.len().saturating_sub(kept));
        requests
    });
    excess.collect()
}

fn is_done(object: &Value) -> bool {
    has_condition(object, "Denied") || has_condition(object, "Failed") || !certificate(object).is_empty()
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
