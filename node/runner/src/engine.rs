//! The engine: which WebAssembly this node runs, and how instances get their memory.

use crate::compile::bulk;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::OnceLock,
};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Result, WasmBacktraceDetails,
};

/// Raised whenever the host interface or these settings change in a way that wasmtime's own hash does not cover.
const SETTINGS_VERSION: u32 = 1;
/// Address space per linear memory: all that 32-bit addresses reach, so that compiled code needs no bounds checks.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
/// A core instance is a few KiB of bookkeeping; this bounds what a strange module makes of it.
const MAX_INSTANCE_BYTES: usize = 1 << 20;
/// Elements of a table: Python's own has about ten thousand. Address space only, until touched.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 1 << 16;
/// Core instances of one guest. A component of the usual tool chains has three, an interpreter some twenty. The pool
/// only counts them, so that each guest has its own.
pub(crate) const MAX_CORE_INSTANCES: usize = 128;
/// Linear memories of one guest: each takes a slot of the pool, as a guest with one does.
pub(crate) const MAX_MEMORIES: usize = 16;
/// Tables of one guest.
pub(crate) const MAX_TABLES: usize = 64;
/// Tables that the pool has for each guest. What a guest has more comes from [`EXTRA_TABLES`], which all share.
pub(crate) const TABLES_PER_GUEST: u32 = 3;
pub(crate) const EXTRA_TABLES: u32 = 64;
/// Stack of a guest's fiber, and how much of it wasm may use; the rest is for host functions.
const FIBER_STACK_BYTES: usize = 2 << 20;
pub(crate) const WASM_STACK_BYTES: usize = 1 << 20;
/// What of a stack stays with the pool when its guest has ended: guests rarely use more.
const KEPT_STACK_BYTES: usize = 16 << 10;

/// How instances get their memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// From a pool for this many guests, reserved at once.
    Pooled(u32),
    /// From the system, one by one: slower, but it works in a small address space.
    OnDemand,
}

/// What is chosen per machine. Compiled code depends on it. A smaller reservation costs bounds checks, and no guest of a
/// pool can have a larger memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EngineOptions {
    memory_reservation_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { memory_reservation_bytes: MEMORY_RESERVATION_BYTES }
    }
}

impl EngineOptions {
    /// On the command line of runner and compiler.
    pub(crate) const FLAG: &str = "--memory-reservation-bytes";

    /// Reads the value of the flag: at least one page of wasm.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let bytes = value.parse::<u64>().ok()?;
        (1 << 16..=MEMORY_RESERVATION_BYTES).contains(&bytes).then_some(Self { memory_reservation_bytes: bytes })
    }

    /// An engine that compiles, and can try what it compiled.
    pub(crate) fn compiler(self) -> Result<Engine> {
        let mut config = self.config(Allocation::OnDemand);
        config.cranelift_opt_level(OptLevel::Speed);
        Engine::new(&config)
    }

    /// An engine that runs what [`Self::compiler`] compiled, whatever the allocation, and has no compiler.
    pub(crate) fn engine(self, allocation: Allocation) -> Result<Engine> {
        Engine::new(self.config(allocation).enable_compiler(false))
    }

    fn config(self, allocation: Allocation) -> Config {
        let mut config = Config::new();
        config
            .wasm_memory64(false)
            .wasm_multi_memory(false)
            .wasm_backtrace_details(WasmBacktraceDetails::Disable)
            .epoch_interruption(true)
            .async_stack_size(FIBER_STACK_BYTES)
            .max_wasm_stack(WASM_STACK_BYTES)
            // So that what one guest has used of its stack is not with the runner for ever.
            .async_stack_zeroing(true)
            .memory_init_cow(true)
            .memory_reservation(self.memory_reservation_bytes)
            .allocation_strategy(match allocation {
                Allocation::Pooled(guests) => InstanceAllocationStrategy::Pooling(self.pool(guests)),
                Allocation::OnDemand => InstanceAllocationStrategy::OnDemand,
            });
        config
    }

    fn pool(self, guests: u32) -> PoolingAllocationConfig {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(guests)
            .total_core_instances(guests.saturating_mul(count(MAX_CORE_INSTANCES)))
            .total_memories(guests)
            .total_tables(guests.saturating_mul(TABLES_PER_GUEST).saturating_add(EXTRA_TABLES))
            .total_stacks(guests)
            .async_stack_keep_resident(KEPT_STACK_BYTES)
            .max_core_instance_size(MAX_INSTANCE_BYTES)
            .max_component_instance_size(MAX_INSTANCE_BYTES)
            .max_tables_per_module(count(MAX_TABLES))
            .table_elements(MAX_TABLE_ELEMENTS)
            .max_memory_size(usize::try_from(self.memory_reservation_bytes).unwrap_or(usize::MAX));
        pool
    }
}

/// What code compiled by this build, on this processor, is compatible with.
pub(crate) fn fingerprint() -> &'static str {
    static FINGERPRINT: OnceLock<String> = OnceLock::new();
    FINGERPRINT.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        (SETTINGS_VERSION, bulk::VERSION, bulk::PIECE_BYTES).hash(&mut hasher);
        match EngineOptions::default().compiler() {
            Ok(engine) => engine.precompile_compatibility_hash().hash(&mut hasher),
            // Nothing compiles or runs without an engine, so there is nothing to confuse it with.
            Err(error) => tracing::error!(%error, "no wasm engine on this machine"),
        }
        format!("{:016x}", hasher.finish())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn fingerprints_are_stable_and_file_name_safe() {
        let text = fingerprint();
        assert_eq!(text.len(), 16);
        assert!(text.chars().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(text, fingerprint());
    }

    #[test]
    fn code_loads_whatever_the_allocation_but_not_with_another_reservation() {
        let options = EngineOptions::default();
        let compiled = options.compiler().unwrap().precompile_module(EMPTY).unwrap();
        let pooled = options.engine(Allocation::Pooled(2)).unwrap();
        let other = EngineOptions::parse("1048576").unwrap().engine(Allocation::Pooled(2)).unwrap();
        // SAFETY: the bytes were compiled three lines above.
        unsafe {
            wasmtime::Module::deserialize(&pooled, &compiled).unwrap();
            wasmtime::Module::deserialize(&other, &compiled).unwrap_err();
        }
    }

    #[test]
    fn reservations_are_bounded() {
        for (value, good) in [
            ("65535", false),
            ("65536", true),
            ("4294967296", true),
            ("4294967297", false),
            ("-1", false),
            ("x", false),
        ] {
            assert_eq!(EngineOptions::parse(value).is_some(), good, "{value}");
        }
    }

    #[test]
    fn ten_thousand_instances_can_be_reserved() {
        EngineOptions::default().engine(Allocation::Pooled(10_000)).unwrap();
    }
}
