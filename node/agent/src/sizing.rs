//! What a node makes of the memory that it has, where nobody says otherwise. Pure but for asking how much that is.
//!
//! A machine of 2 GiB and more is a large one: everything has its usual size. Below that the node takes on less, so that
//! what it has taken on also runs.

use crate::{guests, machine, node};
use nix::{
    libc,
    sys::resource::{Resource, getrlimit},
};
use std::ops::RangeInclusive;

/// Memory for each pod that a node takes: what an idle one costs many times, and what a small program needs.
const MEMORY_PER_POD_BYTES: u64 = 2 << 20;
/// Memory for each instance that a runner's pool has room for. A pool is address space, and bookkeeping per instance.
const MEMORY_PER_INSTANCE_BYTES: u64 = 1 << 20;
/// However little memory there is.
const PODS_LEAST: u32 = 16;
const INSTANCES_LEAST: u32 = 32;
/// Address space that each instance of a runner takes: what compiled code can reach, and what guards it.
const ADDRESSES_PER_INSTANCE_BYTES: u64 = (4 << 30) + (64 << 20);
/// Address space that a runner takes for itself, most of it for what its threads might allocate.
const ADDRESSES_OF_RUNNER_BYTES: u64 = 2 << 30;
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
    /// What fits this machine, or the control group and the limits that this process is in.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of(machine::memory::now().map_or(u64::MAX, |memory| memory.total_bytes), address_space())
    }

    /// What fits so many bytes of memory, where a process may have so many of addresses.
    fn of(memory_bytes: u64, address_bytes: u64) -> Self {
        let count = |each: u64, range: RangeInclusive<u32>| {
            u32::try_from(memory_bytes / each).unwrap_or(u32::MAX).clamp(*range.start(), *range.end())
        };
        let instances = count(MEMORY_PER_INSTANCE_BYTES, INSTANCES_LEAST..=guests::INSTANCES_DEFAULT);
        Self {
            pods_max: count(MEMORY_PER_POD_BYTES, PODS_LEAST..=node::PODS_MAX_DEFAULT),
            // With room for none it is tried all the same: whoever fails then says why.
            runner_instances: instances.min(instances_within(address_bytes)).max(1),
            compiler_bytes: (memory_bytes / 4 * COMPILER_QUARTERS).max(COMPILER_LEAST_BYTES),
        }
    }
}

/// Address space that a process of this node may have, in bytes.
fn address_space() -> u64 {
    getrlimit(Resource::RLIMIT_AS).map_or(libc::RLIM_INFINITY, |(soft, _)| soft)
}

fn instances_within(address_bytes: u64) -> u32 {
    let left = address_bytes.saturating_sub(ADDRESSES_OF_RUNNER_BYTES);
    u32::try_from(left / ADDRESSES_PER_INSTANCE_BYTES).unwrap_or(u32::MAX)
}

/// What people are told where processes may have so little address space that runners are smaller for it.
#[must_use]
pub(crate) fn narrowness() -> Option<String> {
    narrowness_of(address_space())
}

fn narrowness_of(address_bytes: u64) -> Option<String> {
    let room = match instances_within(address_bytes) {
        guests::INSTANCES_DEFAULT.. => return None,
        0 => "has room for no guest".to_owned(),
        count => format!("has room for {count} instances, so that more pods take more processes"),
    };
    Some(format!(
        "a process of this node may have {} MiB of address space (`ulimit -v`, or LimitAS= of its service), and each \
         guest takes 4096 of them whatever it uses: a runner {room}; start the node without this limit, and give it a \
         limit of memory instead",
        address_bytes >> 20
    ))
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
            assert_eq!(
                Size::of(memory_bytes, u64::MAX),
                Size { pods_max, runner_instances, compiler_bytes },
                "{memory_bytes}"
            );
        }
    }

    #[test]
    fn little_address_space_is_fewer_instances_and_is_said() {
        let gib = |count: u64| count << 30;
        for (address_bytes, instances, said) in [
            (gib(1), 1, Some("has room for no guest")),
            (gib(8), 1, Some("may have 8192 MiB of address space")),
            (gib(16), 3, Some("has room for 3 instances")),
            (gib(1024), 251, Some("has room for 251 instances")),
            (gib(8192), 1000, None),
            (libc::RLIM_INFINITY, 1000, None),
        ] {
            assert_eq!(Size::of(u64::MAX, address_bytes).runner_instances, instances, "{address_bytes}");
            let words = narrowness_of(address_bytes);
            assert_eq!(words.is_some(), said.is_some(), "{words:?}");
            assert!(said.is_none_or(|said| words.as_ref().is_some_and(|words| words.contains(said))), "{words:?}");
        }
    }
}
