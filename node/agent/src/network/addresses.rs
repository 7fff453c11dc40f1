//! Which pod of this node has which address. The range they are from belongs to the Node object and is remembered on
//! disk, so that pods keep their addresses when the agent starts without the control plane.
//!
//! It must never give an address to two pods, nor one that is not from the node's range, nor one that was freed a moment
//! ago, also by an earlier agent.

use super::rests::Rests;
use crate::clock;
use coracle_net::{
    addresses::{AddressPool, PoolError},
    range::Ipv4Range,
};
use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

/// Name of the file that remembers the node's range.
const FILE: &str = "pod-range";
/// Name of the file that remembers which addresses were freed lately.
const RESTS_FILE: &str = "pod-addresses-freed";
/// How long a pod waits for a range that is not known yet before it says so.
pub(crate) const RANGE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a pod gets no address now; asking again may help.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum NoAddress {
    #[error("the node has no spec.podCIDR yet, from which pods get their addresses")]
    NoRange,
    #[error(transparent)]
    Pool(#[from] PoolError),
}

struct State {
    pool: Option<AddressPool>,
    rests: Rests,
    /// By pod uid; those remembered from an earlier agent may come before the pool is there.
    held: HashMap<String, Ipv4Addr>,
}

/// See the module.
pub(crate) struct Addresses {
    file: PathBuf,
    state: Mutex<State>,
    known: watch::Sender<bool>,
    patience: Duration,
}

impl Addresses {
    /// With the range that an earlier agent learnt, if there is one below `data_dir`. `patience` is how long pods wait
    /// for the range where it is not known yet.
    pub(crate) fn open(data_dir: &Path, patience: Duration) -> Self {
        let known = watch::Sender::new(false);
        let rests = Rests::open(data_dir.join(RESTS_FILE), clock::now());
        let state = Mutex::new(State { pool: None, rests, held: HashMap::new() });
        let addresses = Self { file: data_dir.join(FILE), state, known, patience };
        match fs::read_to_string(&addresses.file).map(|text| text.trim().parse()) {
            Ok(Ok(range)) => addresses.start(range),
            Ok(Err(error)) => warn!(%error, "the remembered range of pod addresses cannot be read"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, "the remembered range of pod addresses cannot be read"),
        }
        addresses
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's range, if it is known.
    pub(crate) fn range(&self) -> Option<Ipv4Range> {
        self.state().pool.as_ref().map(AddressPool::range)
    }

    /// Changes when the node's range becomes known, or is another one.
    pub(crate) fn changes(&self) -> watch::Receiver<bool> {
        self.known.subscribe()
    }

    /// Whether the node's range is known.
    pub(crate) fn is_ready(&self) -> bool {
        *self.known.borrow()
    }

    /// The Node object says that this is the node's range. Pods that have addresses from another one keep them.
    pub(crate) fn set_range(&self, range: &str) {
        let range: Ipv4Range = match range.parse() {
            Ok(range) => range,
            Err(error) => return warn!(%error, "the node's spec.podCIDR cannot be used"),
        };
        if self.state().pool.as_ref().is_some_and(|pool| pool.range() == range) {
            return;
        }
        if let Err(error) = remember(&self.file, range) {
            warn!(%error, "cannot remember the range of pod addresses; it is needed to start without the control plane");
        }
        self.start(range);
    }

    fn start(&self, range: Ipv4Range) {
        info!(%range, "pods get their addresses from this range");
        let mut pool = AddressPool::new(range);
        let mut state = self.state();
        for address in state.rests.addresses() {
            // One that is not from this range, or freed twice, is nobody's concern.
            if pool.reserve(address).is_ok() {
                pool.release(address, Instant::now());
            }
        }
        for (uid, address) in &state.held {
            if let Err(error) = pool.reserve(*address) {
                warn!(uid, %error, "a pod has an address that is not from the node's range");
            }
        }
        state.pool = Some(pool);
        drop(state);
        self.known.send_replace(true);
    }

    /// Keeps an address for the pod that had it before this agent started, unless another pod has it.
    pub(crate) fn reserve(&self, uid: &str, address: Ipv4Addr) {
        let mut state = self.state();
        if state.held.contains_key(uid) || state.held.values().any(|held| *held == address) {
            return;
        }
        if let Some(pool) = &mut state.pool
            && let Err(error) = pool.reserve(address)
        {
            return warn!(uid, %error, "a pod cannot have the address that it had");
        }
        state.held.insert(uid.to_owned(), address);
    }

    /// The pod's address, a new one if it has none. Waits a little where the node's range is not known yet.
    ///
    /// # Errors
    /// When there is none to be had now.
    pub(crate) async fn take(&self, uid: &str) -> Result<Ipv4Addr, NoAddress> {
        let mut known = self.known.subscribe();
        // Without a range those remembered are still good.
        if self.get(uid).is_none() {
            let _ = tokio::time::timeout(self.patience, known.wait_for(|known| *known)).await;
        }
        let mut state = self.state();
        if let Some(address) = state.held.get(uid) {
            return Ok(*address);
        }
        let pool = state.pool.as_mut().ok_or(NoAddress::NoRange)?;
        let address = pool.allocate(Instant::now())?;
        state.held.insert(uid.to_owned(), address);
        Ok(address)
    }

    /// The address that a pod has.
    pub(crate) fn get(&self, uid: &str) -> Option<Ipv4Addr> {
        self.state().held.get(uid).copied()
    }

    /// Gives a pod's address back, if it has one.
    pub(crate) fn release(&self, uid: &str) {
        let mut state = self.state();
        let Some(address) = state.held.remove(uid) else { return };
        state.rests.note(address, clock::now());
        if let Some(pool) = &mut state.pool {
            pool.release(address, Instant::now());
        }
    }
}

fn remember(file: &Path, range: Ipv4Range) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut new = NamedTempFile::new_in(directory)?;
    write!(new, "{range}")?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn pods_have_different_addresses_and_keep_them() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(directory.path(), Duration::ZERO);
        assert_eq!(addresses.take("a").await, Err(NoAddress::NoRange));
        addresses.set_range("10.244.4.0/29");
        let (first, second) = (addresses.take("a").await.unwrap(), addresses.take("b").await.unwrap());
        assert_ne!(first, second);
        assert_eq!(addresses.take("a").await.unwrap(), first);
        addresses.release("a");
        let third = addresses.take("c").await.unwrap();
        assert!(third != first && third != second, "{first} was freed a moment ago");
        assert_eq!(addresses.get("a"), None);
    }

    #[tokio::test]
    async fn a_full_range_says_so_until_somebody_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(directory.path(), Duration::ZERO);
        addresses.set_range("10.244.4.0/29");
        let mut given = BTreeSet::new();
        for uid in ["a", "b", "c", "d", "e", "f"] {
            match addresses.take(uid).await {
                Ok(address) => assert!(given.insert(address)),
                Err(error) => {
                    assert!(error.to_string().contains("10.244.4.0/29"), "{error}");
                    return;
                }
            }
        }
        panic!("more addresses than the range has: {given:?}");
    }

    #[tokio::test]
    async fn a_next_agent_keeps_range_and_addresses() {
        let directory = tempfile::tempdir().unwrap();
        Addresses::open(directory.path(), Duration::ZERO).set_range("10.244.4.0/22");
        let addresses = Addresses::open(directory.path(), Duration::ZERO);
        assert!(addresses.is_ready());
        let had = address("10.244.4.9");
        addresses.reserve("a", had);
        addresses.reserve("thief", had);
        addresses.reserve("stranger", address("10.1.1.1"));
        assert_eq!((addresses.get("thief"), addresses.get("stranger")), (None, None));
        assert_eq!(addresses.take("a").await.unwrap(), had);
        assert_ne!(addresses.take("b").await.unwrap(), had);
    }

    #[tokio::test]
    async fn what_an_earlier_agent_freed_rests_on() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Addresses::open(directory.path(), Duration::ZERO);
        let earlier = open();
        // Five addresses.
        earlier.set_range("10.244.4.0/29");
        let (kept, freed) = (earlier.take("a").await.unwrap(), earlier.take("b").await.unwrap());
        earlier.release("b");
        let addresses = open();
        addresses.reserve("a", kept);
        while let Ok(address) = addresses.take(&format!("{}", rand::random::<u64>())).await {
            assert_ne!(address, freed);
        }
        assert_eq!(addresses.state().held.len(), 4, "all but the one that rests");
    }

    #[tokio::test]
    async fn what_was_reserved_before_the_range_is_known_is_not_given_out() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(directory.path(), Duration::ZERO);
        let had = address("10.244.4.2");
        addresses.reserve("a", had);
        assert_eq!(addresses.take("a").await.unwrap(), had, "without the control plane");
        addresses.set_range("10.244.4.0/22");
        for uid in ["b", "c", "d"] {
            assert_ne!(addresses.take(uid).await.unwrap(), had);
        }
        fs::write(directory.path().join(FILE), "rubbish").unwrap();
        assert!(!Addresses::open(directory.path(), Duration::ZERO).is_ready());
    }
}
