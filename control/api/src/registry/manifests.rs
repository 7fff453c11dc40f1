//! Manifests and tags in the store, under `_registry/manifests/REPOSITORY/DIGEST` and `_registry/tags/REPOSITORY/TAG`.

use super::{
    error::{Code, Refusal},
    path::{Digest, Reference},
};
use bytes::Bytes;
use coracle_store::{Command, Expect, Key, Op, Outcome, Proposer, Rejection, Store};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, sync::Arc};

/// How often a change is tried again when somebody else was first.
const ATTEMPTS: usize = 16;
/// Entries read at once.
const PAGE: usize = 1000;

/// A stored manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) content: Bytes,
}

impl Manifest {
    /// What its content hashes to.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&Sha256::digest(&self.content))
    }

    /// The media type, a line feed, the bytes as they came.
    fn encode(&self) -> Bytes {
        Bytes::from([self.media_type.as_bytes(), b"\n", &self.content].concat())
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let end = value.iter().position(|&byte| byte == b'\n')?;
        let media_type = String::from_utf8(value.slice(..end).to_vec()).ok()?;
        Some(Self { media_type, content: value.slice(end + 1..) })
    }
}

/// The stored manifests and tags.
pub(super) struct Manifests {
    pub(super) proposer: Arc<dyn Proposer>,
    pub(super) store: Store,
}

impl Manifests {
    /// The manifest that a tag or digest names.
    pub(super) async fn get(&self, repository: &str, reference: &Reference) -> Result<Option<Manifest>, Refusal> {
        self.proposer.read_barrier().await?;
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match self.store.get(&tag_key(repository, tag))? {
                Some(entry) => Digest::parse(&String::from_utf8_lossy(&entry.value))?,
                None => return Ok(None),
            },
        };
        let entry = self.store.get(&manifest_key(repository, &digest))?;
        Ok(entry.and_then(|entry| Manifest::decode(&entry.value)))
    }

    /// Stores a manifest, and the tag with it, in one step.
    pub(super) async fn put(
        &self,
        repository: &str,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<Digest, Refusal> {
        let digest = manifest.digest();
        self.change(|| {
            let mut ops = Vec::new();
            let key = manifest_key(repository, &digest);
            if self.store.get(&key)?.is_none() {
                ops.push(Op::Put { key, value: manifest.encode(), splice_at: None, expect: Expect::Absent });
            }
            if let Reference::Tag(tag) = reference {
                let key = tag_key(repository, tag);
                let value = Bytes::from(digest.as_str().to_owned());
                match self.store.get(&key)? {
                    Some(entry) if entry.value == value => {}
                    entry => {
                        let expect = entry.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                        ops.push(Op::Put { key, value, splice_at: None, expect });
                    }
                }
            }
            Ok(ops)
        })
        .await?;
        Ok(digest)
    }

    /// Removes a tag, or a manifest with all tags that name it. `false` when there is no such thing.
    pub(super) async fn delete(&self, repository: &str, reference: &Reference) -> Result<bool, Refusal> {
        self.change(|| {
            let key = match reference {
                Reference::Tag(tag) => tag_key(repository, tag),
                Reference::Digest(digest) => manifest_key(repository, digest),
            };
            let Some(entry) = self.store.get(&key)? else { return Ok(Vec::new()) };
            let mut ops = vec![Op::Delete { key, expect: Expect::Revision(entry.revision) }];
            if let Reference::Digest(digest) = reference {
                self.each(&tag_key(repository, "").0, |key, value, revision| {
                    if value.as_ref() == digest.as_str().as_bytes() {
                        ops.push(Op::Delete { key: key.clone(), expect: Expect::Revision(revision) });
                    }
                })?;
            }
            Ok(ops)
        })
        .await
    }

    /// All tags of a repository in order; `None` when there is no such repository.
    pub(super) async fn tags(&self, repository: &str) -> Result<Option<Vec<String>>, Refusal> {
        self.proposer.read_barrier().await?;
        let prefix = tag_key(repository, "").0;
        let mut tags = Vec::new();
        self.each(&prefix, |key, _, _| tags.extend(key.0.strip_prefix(&prefix).map(str::to_owned)))?;
        if tags.is_empty() {
            let manifests = self.store.list(&format!("_registry/manifests/{}/", flat(repository)), None, 1, None)?;
            return Ok((!manifests.entries.is_empty()).then_some(tags));
        }
        Ok(Some(tags))
    }

    /// All repositories in order.
    pub(super) async fn repositories(&self) -> Result<Vec<String>, Refusal> {
        self.proposer.read_barrier().await?;
        let prefix = "_registry/manifests/";
        let mut names = BTreeSet::new();
        self.each(prefix, |key, _, _| {
            let rest = key.0.strip_prefix(prefix).and_then(|rest| rest.split_once('/'));
            names.extend(rest.map(|(name, _)| name.replace(':', "/")));
        })?;
        Ok(names.into_iter().collect())
    }

    /// All manifests of a repository that say `subject` is what they are about.
    pub(super) async fn referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<Manifest>, Refusal> {
        self.proposer.read_barrier().await?;
        let mut found = Vec::new();
        self.each(&format!("_registry/manifests/{}/", flat(repository)), |_, value, _| {
            let manifest = Manifest::decode(value).filter(|manifest| {
                let content: Result<Value, _> = serde_json::from_slice(&manifest.content);
                content.is_ok_and(|content| content["subject"]["digest"] == subject.as_str())
            });
            found.extend(manifest);
        })?;
        Ok(found)
    }

    fn each(&self, prefix: &str, mut visit: impl FnMut(&Key, &Bytes, coracle_store::Revision)) -> Result<(), Refusal> {
        let mut after = None;
        loop {
            let page = self.store.list(prefix, after.as_ref(), PAGE, None)?;
            for entry in &page.entries {
                visit(&entry.key, &entry.value, entry.revision);
            }
            after = page.entries.into_iter().next_back().map(|entry| entry.key);
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Proposes what `plan` makes of the state now, again when somebody else changed it first. `false` when there was
    /// nothing to do.
    async fn change(&self, mut plan: impl FnMut() -> Result<Vec<Op>, Refusal>) -> Result<bool, Refusal> {
        self.proposer.read_barrier().await?;
        for _ in 0..ATTEMPTS {
            let ops = plan()?;
            if ops.is_empty() {
                return Ok(false);
            }
            match self.proposer.propose(Command { ops, ..Command::default() }).await? {
                Outcome::Applied(_) => return Ok(true),
                Outcome::Rejected(Rejection::Precondition { .. }) => {}
                Outcome::Rejected(rejection) => {
                    tracing::error!(?rejection, "a manifest was refused");
                    return Err(Refusal::new(Code::Unknown, "the store refused the change"));
                }
            }
        }
        Err(Refusal::new(Code::Unavailable, "others keep changing the same tag; try again"))
    }
}

/// Repository names hold slashes, keys part their fields by them: a colon, which no name has, stands in.
fn flat(repository: &str) -> String {
    repository.replace('/', ":")
}

fn manifest_key(repository: &str, digest: &Digest) -> Key {
    Key::object("_registry", "manifests", &flat(repository), digest.as_str())
}

fn tag_key(repository: &str, tag: &str) -> Key {
    Key::object("_registry", "tags", &flat(repository), tag)
}
