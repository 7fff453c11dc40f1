//! Creation.

use super::{
    Door, Target,
    encode::Encoded,
    gate::Asked,
    read_error, stamp,
    target::{Body, WriteOptions, Written},
};
use crate::{
    admission::{self, Claims},
    identity::Identity,
};
use coracle_objects::{ApiError, Reason, kind::Verb, meta};
use coracle_store::{Command, Expect, Op, Outcome, Rejection, UniqueChange};
use serde_json::Value;

/// How often a creation is tried again when the name or address that was made up for it was taken meanwhile.
pub(super) const ATTEMPTS: usize = 16;

impl Door {
    /// Creates an object. `target` is its collection.
    ///
    /// # Errors
    /// 400, 403, 404 for a missing namespace, 409 when the name is taken, 422, 503 without a leader.
    pub async fn create(
        &self,
        identity: &Identity,
        target: &Target,
        body: Body,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        match target.subresource {
            "binding" => return self.bind(identity, target, body, options).await,
            "eviction" => return self.evict(identity, target, body, options).await,
            _ => {}
        }
        target.require(Verb::Create)?;
        let checked = body.decode(target.kind, options.validation)?;
        let mut object = checked.object;
        stamp::place(target, &mut object)?;
        let new_name = meta::name(&object);
        self.authorize(identity, "create", target, Asked { new_name, ..Asked::default() })?;
        if !meta::resource_version(&object).is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        admission::node::admit_create(identity, target, &object)?;
        self.node_writes.admit(identity, target, &object)?;
        let namespace = admission::namespace::admit_create(self, target, new_name).await?;
        admission::certificate::admit_create(self, identity, target, &mut object)?;
        (target.kind.default)(&mut object);
        admission::complete(self, target, &mut object);
        (target.kind.prepare_create)(&mut object);
        let written = self.store_new(target, object, namespace, options).await?;
        let warnings = checked.warnings.into_iter().chain(written.warnings).collect();
        Ok(Written { warnings, ..written })
    }

    /// `namespace` is the check that the namespace is as it was admitted.
    async fn store_new(
        &self,
        target: &Target,
        object: Value,
        mut namespace: Option<Op>,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        let makes_up_name = meta::name(&object).is_empty();
        // What is made up (name, addresses) is made up anew when it turns out to be taken.
        let can_retry = makes_up_name || admission::allocates(target);
        let (mut next, now) = (Some(object), stamp::now_seconds());
        for _ in 0..ATTEMPTS {
            let Some(mut fresh) = next.take() else { break };
            if can_retry {
                next = Some(fresh.clone());
            }
            stamp::created(target, &mut fresh, now)?;
            let causes = (target.kind.validate_create)(&fresh);
            if !causes.is_empty() {
                return Err(target.kind.invalid(meta::name(&fresh), causes));
            }
            let target = Target { name: meta::name(&fresh).to_owned(), ..target.clone() };
            let Claims { uniques, checks, warnings } = admission::allocate(self, &target, &mut fresh, None)?;
            let encoded = Encoded::new(&mut fresh)?;
            admission::check_size(&target, &encoded)?;
            if options.dry_run {
                let taken = self.store().get(&target.key()).map_err(|error| read_error(&error))?;
                let bytes = encoded.bytes;
                let written = Written { bytes, warnings, changed: true };
                return taken.map_or(Ok(written), |_| Err(target.kind.already_exists(&target.name)));
            }
            let put = encoded.put(target.key(), Expect::Absent);
            match self.propose_new(&target, put, (uniques, checks), &mut namespace).await? {
                Outcome::Applied(revision) => {
                    return Ok(Written { bytes: encoded.at(revision), warnings, changed: true });
                }
                Outcome::Rejected(Rejection::Precondition { index: 0, .. }) if !makes_up_name => {
                    return Err(target.kind.already_exists(&target.name));
                }
                Outcome::Rejected(Rejection::Precondition { .. } | Rejection::Unique { .. }) => {}
                Outcome::Rejected(rejection) => return Err(unexpected(&rejection)),
            }
        }
        Err(ApiError::new(Reason::Timeout, format!("no free name or address was found in {ATTEMPTS} attempts")))
    }

    /// Gets a new object stored in a namespace that is as it was admitted; one that has changed is admitted anew.
    async fn propose_new(
        &self,
        target: &Target,
        put: Op,
        (uniques, checks): (Vec<UniqueChange>, Vec<Op>),
        namespace: &mut Option<Op>,
    ) -> Result<Outcome, ApiError> {
        for _ in 0..ATTEMPTS {
            let ops = std::iter::once(put.clone()).chain(namespace.clone()).chain(checks.clone()).collect();
            match self.propose(Command { ops, uniques: uniques.clone(), ..Command::default() }).await? {
                Outcome::Rejected(Rejection::Precondition { index: 1, .. }) if namespace.is_some() => {
                    *namespace = admission::namespace::admit_create(self, target, &target.name).await?;
                }
                outcome => return Ok(outcome),
            }
        }
        Err(ApiError::new(Reason::Timeout, format!("namespace {} does not stop changing", target.namespace)))
    }
}

/// For rejections that no command of this crate provokes.
pub(super) fn unexpected(rejection: &Rejection) -> ApiError {
    tracing::error!(?rejection, "the state machine rejected a change for a reason that should not arise");
    ApiError::internal("the change was rejected by the state machine")
}

impl Encoded {
    /// The operation that stores it.
    pub(super) fn put(&self, key: coracle_store::Key, expect: Expect) -> Op {
        Op::Put { key, value: self.bytes.clone(), splice_at: Some(self.splice_at), expect }
    }
}
