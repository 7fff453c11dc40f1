//! What of the machine is not for pods, and below which remainder pods have to go. Pure.

use crate::stats::summary::{DiskUse, MachineUse};
use coracle_objects::quantity::Quantity;
use serde_json::Value;
use std::fmt;
use thiserror::Error;

const MIB: u64 = 1 << 20;
/// Less available memory is pressure, as for a kubelet, but never more of a small machine than [`SMALL_PERCENT`].
const MEMORY_MIN_BYTES: u64 = 100 * MIB;
const SMALL_PERCENT: u32 = 5;

/// An amount, or a part of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes, or a number of things.
    Count(u64),
    /// Hundredths of the whole.
    Percent(u32),
    /// The smaller of both.
    Least(u64, u32),
}

impl Amount {
    fn of(self, whole: u64) -> u64 {
        let percent = |part: u32| u64::try_from(u128::from(whole) * u128::from(part) / 100).unwrap_or(u64::MAX);
        match self {
            Self::Count(count) => count,
            Self::Percent(part) => percent(part),
            Self::Least(count, part) => count.min(percent(part)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(part) = text.strip_suffix('%') {
            return part.parse().ok().filter(|part| *part <= 100).map(Self::Percent);
        }
        bytes(text).map(Self::Count)
    }
}

fn bytes(text: &str) -> Option<u64> {
    let quantity = Quantity::from_value(&Value::from(text)).ok()?;
    u64::try_from(quantity.ceil()).ok()
}

/// Below what remainder a resource is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// `memory.available`.
    pub memory: Amount,
    /// `nodefs.available`.
    pub disk: Amount,
    /// `nodefs.inodesFree`.
    pub inodes: Amount,
    /// `pid.available`.
    pub processes: Amount,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory: Amount::Least(MEMORY_MIN_BYTES, SMALL_PERCENT),
            disk: Amount::Percent(5),
            inodes: Amount::Percent(5),
            processes: Amount::Percent(5),
        }
    }
}

/// A description that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{part:?} is not {wanted}")]
pub struct ParseError {
    part: String,
    wanted: &'static str,
}

impl Thresholds {
    /// Reads `memory.available<100Mi,nodefs.available<5%`; what is not named keeps its default.
    ///
    /// # Errors
    /// Names the part that cannot be read.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let wanted = "SIGNAL<AMOUNT, where SIGNAL is memory.available, nodefs.available, nodefs.inodesFree or \
             pid.available and AMOUNT a quantity or a percentage";
        let mut thresholds = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let fail = || ParseError { part: part.to_owned(), wanted };
            let (signal, amount) = part.split_once('<').ok_or_else(fail)?;
            let place = match signal.trim() {
                "memory.available" => &mut thresholds.memory,
                "nodefs.available" => &mut thresholds.disk,
                "nodefs.inodesFree" => &mut thresholds.inodes,
                "pid.available" => &mut thresholds.processes,
                _ => return Err(fail()),
            };
            *place = Amount::parse(amount.trim()).ok_or_else(fail)?;
        }
        Ok(thresholds)
    }
}

/// What the machine keeps for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes.
    pub storage_bytes: u64,
}

impl Reserved {
    /// Reads `cpu=500m,memory=256Mi,ephemeral-storage=1Gi`.
    ///
    /// # Errors
    /// Names the part that cannot be read.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let wanted = "RESOURCE=QUANTITY, where RESOURCE is cpu, memory or ephemeral-storage";
        let mut reserved = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let fail = || ParseError { part: part.to_owned(), wanted };
            let (resource, amount) = part.split_once('=').ok_or_else(fail)?;
            match resource.trim() {
                "cpu" => {
                    let quantity = Quantity::from_value(&Value::from(amount.trim())).map_err(|_| fail())?;
                    reserved.cpu_milli = u64::try_from(quantity.milli()).map_err(|_| fail())?;
                }
                "memory" => reserved.memory_bytes = bytes(amount.trim()).ok_or_else(fail)?,
                "ephemeral-storage" => reserved.storage_bytes = bytes(amount.trim()).ok_or_else(fail)?,
                _ => return Err(fail()),
            }
        }
        Ok(reserved)
    }
}

/// What pods may ask for: thousandths of a CPU, bytes of memory, bytes of storage.
pub(crate) fn allocatable(
    (cpu_milli, memory_bytes, storage_bytes): (u64, u64, u64),
    reserved: &Reserved,
    thresholds: &Thresholds,
) -> (u64, u64, u64) {
    let left =
        |whole: u64, kept: u64, threshold: Amount| whole.saturating_sub(kept).saturating_sub(threshold.of(whole));
    (
        cpu_milli.saturating_sub(reserved.cpu_milli),
        left(memory_bytes, reserved.memory_bytes, thresholds.memory),
        left(storage_bytes, reserved.storage_bytes, thresholds.disk),
    )
}

/// A resource of which too little is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) resource: Resource,
    pub(crate) threshold: u64,
    pub(crate) available: u64,
}

/// What can run short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resource {
    Memory,
    Disk,
    Inodes,
    Processes,
}

impl fmt::Display for Resource {
    /// As kubelet's messages name it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Processes => "pids",
        })
    }
}

/// Everything that is short now, what hurts most first. What cannot be measured (an empty whole) is not short.
pub(crate) fn shortages(thresholds: &Thresholds, machine: &MachineUse, processes: Option<(u64, u64)>) -> Vec<Shortage> {
    let DiskUse { capacity_bytes, available_bytes, inodes, inodes_free } = machine.disk;
    let (used, most) = processes.unwrap_or_default();
    let rows = [
        (Resource::Memory, thresholds.memory, machine.memory_bytes, machine.memory_available_bytes),
        (Resource::Disk, thresholds.disk, capacity_bytes, available_bytes),
        (Resource::Inodes, thresholds.inodes, inodes, inodes_free),
        (Resource::Processes, thresholds.processes, most, most.saturating_sub(used)),
    ];
    let short = rows.into_iter().filter_map(|(resource, amount, whole, available)| {
        let threshold = amount.of(whole);
        (whole > 0 && available < threshold).then_some(Shortage { resource, threshold, available })
    });
    short.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn descriptions_are_read() {
        let read = Thresholds::parse("memory.available<1Gi,nodefs.available<12%").unwrap();
        assert_eq!((read.memory, read.disk), (Amount::Count(GIB), Amount::Percent(12)));
        assert_eq!(read.inodes, Thresholds::default().inodes);
        assert_eq!(Thresholds::parse("").unwrap(), Thresholds::default());
        for (text, named) in [
            ("memory.available", "memory.available"),
            ("nodefs.available<101%", "nodefs.available<101%"),
            ("cpu.available<1", "cpu.available<1"),
            ("memory.available<-1", "memory.available<-1"),
        ] {
            let error = Thresholds::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{named:?} is not SIGNAL<AMOUNT")), "{error}");
        }
        let reserved = Reserved::parse("cpu=500m,memory=256Mi").unwrap();
        assert_eq!(reserved, Reserved { cpu_milli: 500, memory_bytes: 256 * MIB, storage_bytes: 0 });
        assert!(Reserved::parse("disk=1Gi").unwrap_err().to_string().contains("disk=1Gi"));
    }

    #[test]
    fn pods_get_what_is_left() {
        let reserved = Reserved { cpu_milli: 500, memory_bytes: GIB, storage_bytes: 0 };
        let whole = (2000, 8 * GIB, 100 * GIB);
        let thresholds = Thresholds::default();
        assert_eq!(allocatable(whole, &reserved, &thresholds), (1500, 7 * GIB - 100 * MIB, 95 * GIB));
        let router = (1000, 256 * MIB, GIB);
        let memory = allocatable(router, &Reserved::default(), &thresholds).1;
        assert_eq!(memory, 256 * MIB - 256 * MIB * 5 / 100, "a small machine keeps less back");
        assert_eq!(allocatable((100, 1, 1), &reserved, &thresholds).0, 0);
    }

    #[test]
    fn what_is_short_is_named() {
        let disk = DiskUse { capacity_bytes: 100, available_bytes: 4, inodes: 0, inodes_free: 0 };
        let machine =
            MachineUse { memory_bytes: 8 * GIB, memory_available_bytes: 50 * MIB, disk, ..MachineUse::default() };
        let found = shortages(&Thresholds::default(), &machine, Some((1, 1000)));
        let expected = [
            Shortage { resource: Resource::Memory, threshold: 100 * MIB, available: 50 * MIB },
            Shortage { resource: Resource::Disk, threshold: 5, available: 4 },
        ];
        assert_eq!(found, expected);
        let processes = shortages(&Thresholds::default(), &MachineUse::default(), Some((999, 1000)));
        assert_eq!(processes[0].resource, Resource::Processes);
    }
}
