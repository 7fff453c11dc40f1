//! Kubernetes quantities (`100m`, `1.5Gi`), exact.

use std::str::FromStr;
use thiserror::Error;

/// An amount in billionths of the unit; large enough for exabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Quantity(i128);

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(_text: &str) -> Result<Self, QuantityError> {
        unimplemented!("owner: objects-rules")
    }
}

impl Quantity {
    /// Whole units, rounded up (bytes of memory, number of pods).
    #[must_use]
    pub fn ceil(self) -> i64 {
        unimplemented!("owner: objects-rules")
    }

    /// Thousandths, rounded up (millicores).
    #[must_use]
    pub fn milli(self) -> i64 {
        unimplemented!("owner: objects-rules")
    }
}
