//! Changes that are applied but not yet written: they cover the shared state for later commands of the same batch, and
//! become it on publication.

use super::{MachineError, damaged, utf8};
use crate::backend::{Backend, Batch, Family};
use crate::codec::CodecError;
use crate::command::{Key, Revision};
use crate::record::{Change, Current, meta};
use crate::state::{Shared, State};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

pub(super) struct Staged {
    shared: Arc<Shared>,
    objects: BTreeMap<Key, Option<Current>>,
    counters: BTreeMap<String, i64>,
    uniques: BTreeMap<String, Option<String>>,
    changes: Vec<Change>,
}

impl Staged {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            objects: BTreeMap::new(),
            counters: BTreeMap::new(),
            uniques: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn object(&self, key: &Key) -> Option<Current> {
        match self.objects.get(key) {
            Some(staged) => staged.clone(),
            None => self.shared.state.read().objects.get(key).cloned(),
        }
    }

    pub(super) fn object_revision(&self, key: &Key) -> Option<Revision> {
        match self.objects.get(key) {
            Some(staged) => staged.as_ref().map(|current| current.revision),
            None => self.shared.state.read().objects.get(key).map(|current| current.revision),
        }
    }

    pub(super) fn counter(&self, name: &str) -> i64 {
        let staged = self.counters.get(name).copied();
        staged.or_else(|| self.shared.state.read().counters.get(name).copied()).unwrap_or(0)
    }

    pub(super) fn unique(&self, key: &str) -> Option<String> {
        match self.uniques.get(key) {
            Some(staged) => staged.clone(),
            None => self.shared.state.read().uniques.get(key).cloned(),
        }
    }

    pub(super) fn set_object(&mut self, key: &Key, current: Option<Current>, change: Change) {
        self.objects.insert(key.clone(), current);
        self.changes.push(change);
    }

    /// A counter at zero is not kept.
    pub(super) fn add_counter(&mut self, batch: &mut Batch, name: &str, delta: i64) {
        let value = self.counter(name).saturating_add(delta);
        let key = [meta::COUNTER, name].concat();
        if value == 0 {
            batch.delete(Family::Meta, key.as_bytes());
        } else {
            batch.put(Family::Meta, key.as_bytes(), &value.to_be_bytes());
        }
        self.counters.insert(name.to_owned(), value);
    }

    pub(super) fn set_unique(&mut self, batch: &mut Batch, key: &str, holder: Option<&str>) {
        let record = [meta::UNIQUE, key].concat();
        match holder {
            Some(holder) => batch.put(Family::Meta, record.as_bytes(), holder.as_bytes()),
            None => batch.delete(Family::Meta, record.as_bytes()),
        }
        self.uniques.insert(key.to_owned(), holder.map(str::to_owned));
    }

    /// Makes everything staged the shared state, at `revision`, and tells watchers.
    pub(super) fn publish(&mut self, revision: Revision) {
        let mut replaced = Vec::with_capacity(self.objects.len());
        {
            let mut guard = self.shared.state.write();
            let state = &mut *guard;
            for (key, current) in std::mem::take(&mut self.objects) {
                replaced.push(match current {
                    Some(current) => state.objects.insert(key, current),
                    None => state.objects.remove(&key),
                });
            }
            for (name, value) in std::mem::take(&mut self.counters) {
                if value == 0 {
                    state.counters.remove(&name);
                } else {
                    state.counters.insert(name, value);
                }
            }
            for (key, holder) in std::mem::take(&mut self.uniques) {
                match holder {
                    Some(holder) => state.uniques.insert(key, holder),
                    None => state.uniques.remove(&key),
                };
            }
            state.revision = revision;
            self.shared.hub.lock().publish(std::mem::take(&mut self.changes), revision);
        }
        // Freed only now, when no reader waits.
        drop(replaced);
    }
}

/// Loads counters and unique keys.
pub(super) fn load_meta(
    backend: &dyn Backend,
    state: &mut State,
    damage: &mut Option<MachineError>,
) -> Result<(), MachineError> {
    let State { counters, uniques, .. } = state;
    load_prefix(backend, meta::COUNTER, damage, |name, value| {
        let bytes = value.try_into().map_err(|_| CodecError::Truncated(value.len()))?;
        counters.insert(name, i64::from_be_bytes(bytes));
        Ok(())
    })?;
    load_prefix(backend, meta::UNIQUE, damage, |key, holder| {
        uniques.insert(key, utf8(holder)?);
        Ok(())
    })
}

fn load_prefix(
    backend: &dyn Backend,
    prefix: &str,
    damage: &mut Option<MachineError>,
    mut load: impl FnMut(String, &[u8]) -> Result<(), CodecError>,
) -> Result<(), MachineError> {
    backend.scan(Family::Meta, prefix.as_bytes(), None, &mut |key, value| {
        let Some(name) = key.strip_prefix(prefix.as_bytes()) else { return ControlFlow::Break(()) };
        match utf8(name).and_then(|name| load(name, value)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(source) => {
                *damage = Some(damaged(prefix, source));
                ControlFlow::Break(())
            }
        }
    })?;
    Ok(())
}
