//! Update, patch, apply and binding: read, change, check, write back on the condition that nothing else was written
//! meanwhile, and again when something was.

use super::{
    Door, Target,
    create::unexpected,
    encode::{self, Encoded},
    gate::Asked,
    read_error, stamp,
    target::{Body, WriteOptions, Written},
};
use crate::{admission, identity::Identity};
use bytes::Bytes;
use coracle_objects::{
    ApiError, Reason, apply, fields,
    fields::Checked,
    kind::Verb,
    meta,
    patch::{self, PatchType},
};
use coracle_store::{Command, Entry, Expect, Op, Outcome, Rejection};
use serde_json::Value;

/// How often a change is made anew on what others wrote meanwhile.
const ATTEMPTS: usize = 16;

/// What `apply` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There was nothing of that name.
    Created,
    /// Something differed.
    Configured,
    /// Nothing differed.
    Unchanged,
}

/// Computes the wanted object from the stored one.
pub(super) type Make<'a> = &'a (dyn Fn(&Value) -> Result<Checked, ApiError> + Send + Sync);

impl Door {
    /// Replaces an object, or the part of it that `target.subresource` names. A resource version in the body is a
    /// precondition.
    ///
    /// # Errors
    /// 400, 403, 404, 409 when the object changed meanwhile, 422, 503 without a leader.
    pub async fn update(
        &self,
        identity: &Identity,
        target: &Target,
        body: Body,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        target.require(Verb::Update)?;
        let checked = body.decode(target.kind, options.validation)?;
        self.modify(identity, "update", target, options, &|_| Ok(checked.clone())).await
    }

    /// Changes an object by a patch.
    ///
    /// # Errors
    /// As [`Self::update`]; 409 only when the patch itself carries a resource version, or others never stop writing.
    pub async fn patch(
        &self,
        identity: &Identity,
        target: &Target,
        patch: &Value,
        patch_type: PatchType,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        target.require(Verb::Patch)?;
        let make = |old: &Value| {
            let patched = patch::apply(target.kind, old, patch, patch_type)?;
            fields::check(target.kind, patched, options.validation)
        };
        self.modify(identity, "patch", target, options, &make).await
    }

    /// Creates the object, or merges it three ways with what was applied last. `target` is its collection.
    ///
    /// # Errors
    /// As [`Self::create`] and [`Self::patch`].
    pub async fn apply(
        &self,
        identity: &Identity,
        target: &Target,
        body: Body,
        options: WriteOptions,
    ) -> Result<(Applied, Written), ApiError> {
        let mut checked = body.decode(target.kind, options.validation)?;
        stamp::place(target, &mut checked.object)?;
        let wanted = checked.object;
        let name = meta::name(&wanted).to_owned();
        let object_target = Target { name, ..target.clone() };
        self.barrier().await?;
        if self.read(&object_target)?.is_none() {
            let body = Body::Value(apply::first(&wanted));
            match self.create(identity, target, body, options).await {
                Ok(written) => return Ok((Applied::Created, Written { warnings: checked.warnings, ..written })),
                // Somebody else was faster: what is there now is merged with.
                Err(error) if error.reason == Reason::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let make = |old: &Value| {
            let object = apply::three_way(target.kind, old, &wanted)?;
            Ok(Checked { object, warnings: checked.warnings.clone() })
        };
        let written = self.modify(identity, "patch", &object_target, options, &make).await?;
        let applied = if written.changed { Applied::Configured } else { Applied::Unchanged };
        Ok((applied, written))
    }

    /// Reads, changes and writes back until nobody interferes.
    pub(super) async fn modify(
        &self,
        identity: &Identity,
        verb: &str,
        target: &Target,
        options: WriteOptions,
        make: Make<'_>,
    ) -> Result<Written, ApiError> {
        for _ in 0..ATTEMPTS {
            let (entry, old) = self.load_for(identity, verb, target).await?;
            let Checked { object: mut new, mut warnings } = make(&old)?;
            prepare(target, &mut new, &old, &entry)?;
            admission::complete(self, target, &mut new);
            admission::node::admit_update(identity, target, &new, &old)?;
            self.node_writes.admit(identity, target, &new)?;
            let claims = admission::admit_update(self, target, &mut new, &old)?;
            warnings.extend(claims.warnings);
            if target.subresource.is_empty() && new.get("spec") != old.get("spec") {
                stamp::bump_generation(&mut new);
            }
            let causes = (target.kind.validate_update)(&new, &old, target.subresource);
            if !causes.is_empty() {
                return Err(target.kind.invalid(&target.name, causes));
            }
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            if new == old {
                return Ok(Written { bytes: entry.value, warnings, changed: false });
            }
            let encoded = Encoded::new(&mut new)?;
            admission::check_size(target, &encoded)?;
            let released = is_released(target, &new);
            let expect = Expect::Revision(entry.revision);
            if options.dry_run {
                return Ok(Written { bytes: encoded.at(entry.revision), warnings, changed: true });
            }
            let command = if released {
                let uniques = admission::release(target, &old);
                let revoke = admission::certificate::revoke(self, target)?;
                let ops = std::iter::once(Op::Delete { key: target.key(), expect }).chain(revoke).collect();
                Command { ops, uniques, ..Command::default() }
            } else {
                let ops = std::iter::once(encoded.put(target.key(), expect)).chain(claims.checks).collect();
                Command { ops, uniques: claims.uniques, ..Command::default() }
            };
            match self.propose(command).await? {
                Outcome::Applied(revision) => {
                    return Ok(Written { bytes: encoded.at(revision), warnings, changed: true });
                }
                // Others wrote first: look again. A resource version asked for is then found to be wrong.
                Outcome::Rejected(Rejection::Precondition { .. } | Rejection::Unique { .. }) => {}
                Outcome::Rejected(rejection) => return Err(unexpected(&rejection)),
            }
        }
        Err(target.modified())
    }

    /// The stored object, for somebody who may do `verb` with it.
    pub(super) async fn load_for(
        &self,
        identity: &Identity,
        verb: &str,
        target: &Target,
    ) -> Result<(Entry, Value), ApiError> {
        let mut entry = self.read(target)?;
        if entry.is_none() {
            // It may have been created through another server a moment ago.
            self.barrier().await?;
            entry = self.read(target)?;
        }
        let object = entry.as_ref().map(|entry| encode::decode(&entry.value)).transpose()?;
        self.authorize(identity, verb, target, Asked { object: object.as_ref(), ..Asked::default() })?;
        entry.zip(object).ok_or_else(|| target.kind.not_found(&target.name))
    }

    fn read(&self, target: &Target) -> Result<Option<Entry>, ApiError> {
        self.store().get(&target.key()).map_err(|error| read_error(&error))
    }

    /// Binds a pod to a node. `target` is the pod with subresource `binding`.
    ///
    /// # Errors
    /// 409 when the pod is bound, terminating, or not the one meant; 422 for an impossible target.
    pub async fn bind(
        &self,
        identity: &Identity,
        target: &Target,
        body: Body,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        target.require(Verb::Create)?;
        let binding = admission::binding::Binding::parse(target, body)?;
        for _ in 0..ATTEMPTS {
            let (entry, mut pod) = self.load_for(identity, "create", target).await?;
            binding.bind(target, &mut pod, stamp::now_seconds())?;
            let encoded = Encoded::new(&mut pod)?;
            if options.dry_run {
                return Ok(Written { bytes: encoded.at(entry.revision), warnings: Vec::new(), changed: true });
            }
            let put = encoded.put(target.key(), Expect::Revision(entry.revision));
            if let Outcome::Applied(revision) = self.propose(Command { ops: vec![put], ..Command::default() }).await? {
                return Ok(Written { bytes: encoded.at(revision), warnings: Vec::new(), changed: true });
            }
        }
        Err(target.modified())
    }
}

/// Checks what the body claims about the stored object and restores what it may not change.
fn prepare(target: &Target, new: &mut Value, old: &Value, entry: &Entry) -> Result<(), ApiError> {
    stamp::place(target, new)?;
    let wanted = meta::resource_version(new);
    if !wanted.is_empty() && wanted != "0" && wanted != entry.revision.0.to_string() {
        return Err(target.modified());
    }
    check_uid(target, meta::uid(new), old)?;
    stamp::carry_over(new, old);
    if target.subresource.is_empty() {
        admission::carry_allocated(target, new, old);
        (target.kind.default)(new);
    }
    (target.kind.prepare_update)(new, old, target.subresource);
    Ok(())
}

/// Refuses when `wanted` (if any) is not the stored object's uid.
pub(super) fn check_uid(target: &Target, wanted: &str, old: &Value) -> Result<(), ApiError> {
    let actual = meta::uid(old);
    if wanted.is_empty() || wanted == actual {
        return Ok(());
    }
    let detail = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}");
    Err(target.kind.conflict(&target.name, &detail))
}

/// Whether the last finalizer has just left an object that is to be deleted, so that nothing keeps it any longer.
fn is_released(target: &Target, new: &Value) -> bool {
    if !meta::is_terminating(new) || stamp::has_finalizers(new) {
        return false;
    }
    if admission::namespace::is_namespace(target) {
        return !admission::namespace::has_finalizers(new);
    }
    new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// A patch body.
///
/// # Errors
/// 400 when it is no JSON.
pub(crate) fn decode_patch(bytes: &Bytes) -> Result<Value, ApiError> {
    Ok(coracle_objects::decode::json(bytes)?.0)
}
