//! Who may pull now. A registry that is slow, or that wants to be, holds up those who want something of it and nobody
//! else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most pulls at one time from one registry, and from all of them.
const ONE_MAX: usize = 4;
const ALL_MAX: usize = 64;

/// See the module.
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// Registries that somebody pulls from or waits for.
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A turn; given back when dropped.
pub(crate) struct Turn {
    _of_host: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL_MAX)), hosts: Mutex::default() }
    }

    /// Waits for a turn at a registry. The semaphores are never closed, so there always is one in the end.
    pub(crate) async fn take(&self, host: &str) -> Turn {
        let of_host = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            // The table's own and nobody else's: neither used nor waited for.
            hosts.retain(|_, turns| Arc::strong_count(turns) > 1);
            hosts.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(ONE_MAX))).clone()
        };
        let of_host = of_host.acquire_owned().await.ok();
        let of_all = self.all.clone().acquire_owned().await.ok();
        Turn { _of_host: of_host, _of_all: of_all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn one_registry_leaves_turns_for_others() {
        let turns = Turns::new();
        let mut taken = Vec::new();
        for _ in 0..ONE_MAX {
            taken.push(turns.take("slow.test").await);
        }
        assert!(turns.take("slow.test").now_or_never().is_none());
        taken.push(turns.take("other.test").now_or_never().unwrap());
        taken.remove(0);
        taken.push(turns.take("slow.test").now_or_never().unwrap());
        taken.clear();
        taken.push(turns.take("third.test").await);
        assert_eq!(turns.hosts.lock().unwrap().len(), 1, "what nobody uses is forgotten");
    }
}
