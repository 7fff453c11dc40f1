//! Counts linear memory and tables of one instance against its container's limit.

use crate::{
    engine::{MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES},
    memory::{MemoryAccount, OutOfMemory},
};
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// Bytes that an element of a table takes.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// See the module. What it counted is given back with it.
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

    /// What pays for this and everything else of the container.
    pub(crate) fn account(&self) -> &Arc<MemoryAccount> {
        &self.account
    }

    fn grow(&mut self, by_bytes: u64) -> Result<(), OutOfMemory> {
        self.last_growth_bytes = 0;
        self.account.grow(by_bytes)?;
        self.last_growth_bytes = by_bytes;
        // No overflow: the account holds at least as much.
        self.used_bytes += by_bytes;
        Ok(())
    }

    /// The growth that was just granted did not take place after all.
    fn take_back(&mut self) {
        let bytes = std::mem::take(&mut self.last_growth_bytes);
        self.used_bytes -= bytes;
        self.account.shrink(bytes);
    }
}

impl Drop for MemoryMeter {
    fn drop(&mut self) {
        self.account.shrink(self.used_bytes);
    }
}

fn difference(current: usize, desired: usize) -> u64 {
    u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX)
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // First the container's limit, then the module's own: who asks for too much is ended, not refused.
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
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 1 << 16;

    fn account(pages: Option<usize>) -> Arc<MemoryAccount> {
        MemoryAccount::new(pages.map(|pages| u64::try_from(pages * PAGE).unwrap()), &Arc::default())
    }

    #[test]
    fn memory_and_tables_count_together_up_to_the_limit() {
        let limit_bytes = u64::try_from(2 * PAGE).unwrap();
        let mut meter = MemoryMeter::new(account(Some(2)));
        assert!(meter.memory_growing(0, PAGE, None).unwrap());
        assert!(meter.table_growing(0, 100, None).unwrap());
        let error = meter.memory_growing(PAGE, 2 * PAGE, None).unwrap_err();
        let expected = OutOfMemory::Limit { limit_bytes, wanted_bytes: limit_bytes + 800 };
        assert_eq!(error.downcast_ref::<OutOfMemory>(), Some(&expected));
    }

    #[test]
    fn growth_that_does_not_happen_is_not_counted() {
        let account = account(Some(2));
        let mut meter = MemoryMeter::new(Arc::clone(&account));
        assert!(!meter.memory_growing(0, 2 * PAGE, Some(PAGE)).unwrap(), "beyond what the module allows itself");
        assert!(meter.memory_growing(0, 2 * PAGE, None).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert!(!meter.table_growing(0, MAX_TABLE_ELEMENTS + 1, None).unwrap());
        meter.table_grow_failed(wasmtime::Error::msg("refused")).unwrap();
        assert!(meter.memory_growing(0, PAGE, None).unwrap());
        assert!(meter.memory_growing(PAGE, 4 * PAGE, None).is_err());
        meter.memory_grow_failed(wasmtime::Error::msg("refused")).unwrap();
        assert_eq!(account.used_bytes(), u64::try_from(PAGE).unwrap());
    }

    #[test]
    fn instances_of_one_container_share_its_limit_and_give_back_what_they_had() {
        let account = account(Some(2));
        let mut first = MemoryMeter::new(Arc::clone(&account));
        let mut second = MemoryMeter::new(Arc::clone(&account));
        assert!(first.memory_growing(0, PAGE, None).unwrap());
        assert!(second.memory_growing(0, PAGE, None).unwrap());
        assert!(second.memory_growing(PAGE, 2 * PAGE, None).is_err(), "the first has the rest");
        drop(first);
        assert!(second.memory_growing(PAGE, 2 * PAGE, None).unwrap());
        drop(second);
        assert_eq!(account.used_bytes(), 0);
    }

    #[test]
    fn without_a_limit_everything_counts_and_nothing_is_refused() {
        let mut meter = MemoryMeter::new(account(None));
        assert!(meter.memory_growing(0, usize::MAX, None).unwrap());
    }
}
