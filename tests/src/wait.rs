//! Waiting for a condition, with a bound; never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a condition may take on a slow and busy machine before it counts as never.
pub const LIMIT: Duration = Duration::from_mins(3);
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `condition` until it answers `Ok`; after [`LIMIT`] panics with its last error.
///
/// # Panics
/// When the condition does not come true in time.
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Result<T, String>) -> T {
    within(LIMIT, what, condition)
}

/// As [`eventually`], with a bound of one's own.
///
/// # Panics
/// When the condition does not come true in time.
pub fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{what}: not within {limit:?}: {error}"),
        }
        thread::sleep(PAUSE);
    }
}

/// `Ok` when `text` contains `part`.
pub fn contains(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("{text:?} lacks {part:?}")) }
}
