//! What a node makes of the memory that it has, where nobody says otherwise. Pure but for asking how much that is.
//!
//! A machine of 2 GiB and more is a large one: everything has its usual size. Below that the node takes on less, so that
//! what it has taken on also runs.

use crate::{guests, machine, node};
use std::ops::RangeInclusive;

/// Memory for each pod that a node takes: what an idle one costs many times, and what a small program needs.
const MEMORY_PER_POD_BYTES: u64 = 2 << 20;
/// Memory for each instance that a runner's pool has room for. A pool is address space, and bookkeeping per instance.
const MEMORY_PER_INSTANCE_BYTES: u64 = 1 << 20;
/// However little memory there is.
const PODS_LEAST: u32 = 16;
const INSTANCES_LEAST: u32 = 32;
/// Of all memory, in quarters, what compiling one module may use for itself; besides, it is held to an address space.
const COMPILER_QUARTERS: u64 = 3;
/// Where a compiler cannot even begin with less.
const COMPILER_LEAST_BYTES: u64 = 64 << 20;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pods that the node takes at most.
    pub pods_max: u32,
    /// Instances that each runner has room for.
    pub runner_instances: u32,
    /// Memory that compiling one module may use for itself, in bytes.
    pub compiler_bytes: u64,
}

impl Size {
    /// What fits this machine, or the control group that this process is in.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of(machine::memory::now().map_or(u64::MAX, |memory| memory.total_bytes))
    }

    /// What fits so many bytes.
    fn of(memory_bytes: u64) -> Self {
        let count = |each: u64, range: RangeInclusive<u32>| {
            u32::try_from(memory_bytes / each).unwrap_or(u32::MAX).clamp(*range.start(), *range.end())
        };
        Self {
            pods_max: count(MEMORY_PER_POD_BYTES, PODS_LEAST..=node::PODS_MAX_DEFAULT),
            runner_instances: count(MEMORY_PER_INSTANCE_BYTES, INSTANCES_LEAST..=guests::INSTANCES_DEFAULT),
            compiler_bytes: (memory_bytes / 4 * COMPILER_QUARTERS).max(COMPILER_LEAST_BYTES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_memory_is_less_of_everything() {
        let mib = |count: u64| count << 20;
        for (memory_bytes, pods_max, runner_instances, compiler_bytes) in [
            (mib(32), 16, 32, mib(64)),
            (mib(256), 128, 256, mib(192)),
            (mib(1024), 512, 1000, mib(768)),
            (mib(4096), 1000, 1000, mib(3072)),
            (u64::MAX, 1000, 1000, u64::MAX / 4 * 3),
        ] {
            assert_eq!(Size::of(memory_bytes), Size { pods_max, runner_instances, compiler_bytes }, "{memory_bytes}");
        }
    }
}
