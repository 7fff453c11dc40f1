//! The memory backend: for tests and simulation. It can be crashed: what was not synced is lost from some point on.
//!
//! Like a write-ahead log, a crash keeps a prefix of the batches: all up to the last synced one, and of the later ones as many
//! as the seed says. A batch that the crash tears in the middle is dropped whole, as a checksum would do.

use super::{Backend, BackendError, Batch, Family, Visitor, Write};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

type Families = [BTreeMap<Bytes, Bytes>; Family::ALL.len()];

/// Families in memory, with the batches since the last sync remembered.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What readers see.
    current: Families,
    /// What surely survives.
    durable: Families,
    /// Written since, in order.
    unsynced: Vec<Batch>,
    fail_writes: bool,
}

impl MemoryBackend {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is left after the machine lost power now; `seed` decides how much of what was not synced. The crashed backend
    /// refuses further writes.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut inner = self.inner.lock();
        inner.fail_writes = true;
        let choices = inner.unsynced.len() as u64 + 1;
        let kept = usize::try_from(scramble(seed) % choices).unwrap_or(0);
        let mut durable = inner.durable.clone();
        for batch in &inner.unsynced[..kept] {
            write_to(&mut durable, batch);
        }
        Self { inner: Mutex::new(Inner { current: durable.clone(), durable, ..Inner::default() }) }
    }

    /// How many batches a crash could lose.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.inner.lock().unsynced.len()
    }

    /// Lets every later write fail, as a disk does.
    pub fn fail_writes(&self) {
        self.inner.lock().fail_writes = true;
    }
}

impl Backend for MemoryBackend {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.inner.lock().current[family.index()].get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        // Copied out (the bytes are shared) so that a visitor may call back.
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let pairs: Vec<(Bytes, Bytes)> = self.inner.lock().current[family.index()]
            .range::<[u8], _>((Bound::Included(start), upper))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, value) in pairs {
            if let ControlFlow::Break(()) = visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, family: Family) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        let inner = self.inner.lock();
        Ok(inner.current[family.index()].last_key_value().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn write(&self, batch: &Batch, sync: bool) -> Result<(), BackendError> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.fail_writes {
            return Err(BackendError::Io("the simulated disk has failed".into()));
        }
        write_to(&mut inner.current, batch);
        if sync {
            for earlier in inner.unsynced.drain(..) {
                write_to(&mut inner.durable, &earlier);
            }
            write_to(&mut inner.durable, batch);
        } else {
            inner.unsynced.push(batch.clone());
        }
        Ok(())
    }
}

fn write_to(families: &mut Families, batch: &Batch) {
    for (family, write) in batch.iter() {
        let map = &mut families[family.index()];
        match write {
            Write::Put { key, value } => {
                map.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            }
            Write::Delete { key } => {
                map.remove(key);
            }
            Write::DeleteRange { start, end } => {
                if start < end {
                    let doomed: Vec<Bytes> = map
                        .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in doomed {
                        map.remove(&key);
                    }
                }
            }
        }
    }
}

/// One round of a well-mixing permutation, so that neighbouring seeds choose differently.
fn scramble(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
