//! A container's memory limit.

use crate::engine::MAX_TABLE_ELEMENTS;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use thiserror::Error;
use wasmtime::ResourceLimiter;

/// Bytes that an element of a table takes.
const TABLE_ELEMENT_BYTES: u64 = 8;
/// Core instances of one guest; an interpreter as a component has about twenty.
const MAX_CORE_INSTANCES: usize = 128;

/// The error that ends a guest which outgrew its limit, whatever the guest would have done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("memory limit of {limit_bytes} bytes exceeded: {wanted_bytes} bytes wanted")]
pub(crate) struct OutOfMemory {
    pub(crate) limit_bytes: u64,
    pub(crate) wanted_bytes: u64,
}

/// What all instances of one container use together. A command has one instance, an HTTP component one per request.
#[derive(Debug, Default)]
pub(crate) struct MemoryAccount {
    limit_bytes: Option<u64>,
    used_bytes: AtomicU64,
}

impl MemoryAccount {
    pub(crate) fn new(limit_bytes: Option<u64>) -> Arc<Self> {
        Arc::new(Self { limit_bytes, ..Self::default() })
    }

    /// What is in use now.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    /// Gives what was counted: all of it, short of counting beyond 64 bits.
    fn take(&self, by_bytes: u64) -> Result<u64, OutOfMemory> {
        let mut used_bytes = self.used_bytes.load(Relaxed);
        loop {
            let wanted_bytes = used_bytes.saturating_add(by_bytes);
            if let Some(limit_bytes) = self.limit_bytes
                && wanted_bytes > limit_bytes
            {
                return Err(OutOfMemory { limit_bytes, wanted_bytes });
            }
            match self.used_bytes.compare_exchange_weak(used_bytes, wanted_bytes, Relaxed, Relaxed) {
                Ok(_) => return Ok(wanted_bytes - used_bytes),
                Err(now) => used_bytes = now,
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Relaxed);
    }
}

/// Counts linear memory and tables of one instance; what it counted is given back with it.
#[derive(Debug)]
pub(crate) struct MemoryMeter {
    account: Arc<MemoryAccount>,
    used_bytes: u64,
    last_growth_bytes: u64,
}

impl MemoryMeter {
    pub(crate) fn new(account: Arc<MemoryAccount>) -> Self {
        Self { account, used_bytes: 0, last_growth_bytes: 0 }
    }

    fn grow(&mut self, by_bytes: u64) -> Result<(), OutOfMemory> {
        self.last_growth_bytes = self.account.take(by_bytes)?;
        // No overflow: the account holds at least as much.
        self.used_bytes += self.last_growth_bytes;
        Ok(())
    }

    /// The growth that was just granted did not take place after all.
    fn take_back(&mut self) {
        let bytes = std::mem::take(&mut self.last_growth_bytes);
        self.used_bytes -= bytes;
        self.account.give_back(bytes);
    }
}

impl Drop for MemoryMeter {
    fn drop(&mut self) {
        self.account.give_back(self.used_bytes);
    }
}

fn difference(current: usize, desired: usize) -> u64 {
    u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX)
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(difference(current, desired))?;
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.take_back();
            return Ok(false);
        }
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > maximum.unwrap_or(MAX_TABLE_ELEMENTS).min(MAX_TABLE_ELEMENTS) {
            self.last_growth_bytes = 0;
            return Ok(false);
        }
        self.grow(difference(current, desired).saturating_mul(TABLE_ELEMENT_BYTES))?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn memories(&self) -> usize {
        MAX_CORE_INSTANCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 1 << 16;

    #[test]
    fn memory_and_tables_count_together_up_to_the_limit() {
        let limit = u64::try_from(2 * PAGE).unwrap();
        let mut meter = MemoryMeter::new(MemoryAccount::new(Some(limit)));
        assert!(meter.memory_growing(0, PAGE, None).unwrap());
        assert!(meter.table_growing(0, 100, None).unwrap());
        let error = meter.memory_growing(PAGE, 2 * PAGE, None).unwrap_err();
        let expected = OutOfMemory { limit_bytes: limit, wanted_bytes: limit + 800 };
        assert_eq!(error.downcast_ref::<OutOfMemory>(), Some(&expected));
    }

    #[test]
    fn exactly_the_limit_is_allowed() {
        let mut meter = MemoryMeter::new(MemoryAccount::new(Some(u64::try_from(PAGE).unwrap())));
        assert!(meter.memory_growing(0, PAGE, None).unwrap());
    }

    #[test]
    fn growth_that_does_not_happen_is_not_counted() {
        let mut meter = MemoryMeter::new(MemoryAccount::new(Some(u64::try_from(2 * PAGE).unwrap())));
        assert!(!meter.memory_growing(0, 2 * PAGE, Some(PAGE)).unwrap(), "beyond what the module allows itself");
        assert!(meter.memory_growing(0, 2 * PAGE, None).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert!(!meter.table_growing(0, MAX_TABLE_ELEMENTS + 1, None).unwrap());
        meter.table_grow_failed(wasmtime::Error::msg("refused")).unwrap();
        assert!(meter.memory_growing(0, 2 * PAGE, None).unwrap());
    }

    #[test]
    fn instances_of_one_container_share_its_limit_and_give_back_what_they_had() {
        let account = MemoryAccount::new(Some(u64::try_from(2 * PAGE).unwrap()));
        let mut first = MemoryMeter::new(Arc::clone(&account));
        let mut second = MemoryMeter::new(Arc::clone(&account));
        assert!(first.memory_growing(0, PAGE, None).unwrap());
        assert!(second.memory_growing(0, PAGE, None).unwrap());
        assert!(second.memory_growing(PAGE, 2 * PAGE, None).is_err(), "the first has the rest");
        drop(first);
        assert!(second.memory_growing(PAGE, 2 * PAGE, None).unwrap());
        drop(second);
        assert_eq!(account.used_bytes.load(Relaxed), 0);
    }

    #[test]
    fn without_a_limit_everything_counts_and_nothing_is_refused() {
        let mut meter = MemoryMeter::new(MemoryAccount::new(None));
        assert!(meter.memory_growing(0, usize::MAX, None).unwrap());
        assert!(meter.table_growing(0, 10, None).unwrap());
    }
}
