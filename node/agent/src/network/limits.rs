//! How many descriptors this process may have: every connection passes through it as one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// More descriptors than this are of no use: tables in the kernel grow with them.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Raises the soft limit on open descriptors as far as the system lets it; runners inherit it.
pub(crate) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS_MAX).max(soft);
        debug!(soft, hard, wanted, "limit on open descriptors");
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    });
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit on open descriptors: pods may run out of connections early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        raise_descriptor_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= hard.min(DESCRIPTORS_MAX), "{soft} of {hard}");
    }
}
