//! A container's memory limit: what its guests have of linear memory and tables, and what the runner holds for them.
//!
//! Nothing whose size a guest chooses is kept by the runner without being counted here, unless a named constant makes it
//! small. Who goes beyond the limit does not get an error to live with: the account is over, and every run on it ends.
//! What *others* do to a container (connections, datagrams) is counted too, but never ends it: there, what does not fit
//! is refused.

use parking_lot::Mutex;
use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What the runner holds at most for a container that has no limit.
pub(crate) const MAX_UNLIMITED_BUFFER_BYTES: u64 = 256 << 20;
/// Of what a container may have, the part that its buffers may take before each of them gets little.
const ROOMY_SHARE: u64 = 8;
/// How often the process is looked at while more is counted than its guests may have.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What ends a container that outgrew what it may have, whatever its guest would have done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum OutOfMemory {
    #[error("memory limit of {limit_bytes} bytes exceeded: {wanted_bytes} bytes wanted")]
    Limit { limit_bytes: u64, wanted_bytes: u64 },
    #[error(
        "the container has no memory limit, and the runner holds at most {limit_bytes} bytes for such a one: \
         {wanted_bytes} bytes wanted"
    )]
    Buffers { limit_bytes: u64, wanted_bytes: u64 },
    #[error(
        "the guests of this namespace's runner use {used_bytes} bytes of the {ceiling_bytes} that they may have \
         together, and this container counts {counted_bytes} of them"
    )]
    Ceiling { ceiling_bytes: u64, used_bytes: u64, counted_bytes: u64 },
    #[error(
        "the guests of this node use {used_bytes} bytes of the {ceiling_bytes} that they may have together, and this \
         container, which counts {counted_bytes} of them, goes first"
    )]
    Node { ceiling_bytes: u64, used_bytes: u64, counted_bytes: u64 },
}

/// What all instances and all runs of one container use together. A command has one instance, an HTTP component one per
/// request.
#[derive(Debug)]
pub(crate) struct MemoryAccount {
    limit_bytes: Option<u64>,
    used_bytes: AtomicU64,
    /// The part of it that the runner holds, which is not linear memory or a table.
    buffer_bytes: AtomicU64,
    why: OnceLock<OutOfMemory>,
    over: CancellationToken,
    ceiling: Arc<Ceiling>,
}

impl MemoryAccount {
    pub(crate) fn new(limit_bytes: Option<u64>, ceiling: &Arc<Ceiling>) -> Arc<Self> {
        let account = Arc::new(Self {
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(0),
            why: OnceLock::new(),
            over: CancellationToken::new(),
            ceiling: Arc::clone(ceiling),
        });
        ceiling.enlist(&account);
        account
    }

    /// Counts linear memory or a table of a guest. Whoever calls it gives the same number of bytes back.
    ///
    /// # Errors
    /// When it is too much: the container ends.
    pub(crate) fn grow(&self, by_bytes: u64) -> Result<(), OutOfMemory> {
        self.add(by_bytes).inspect_err(|out| self.end(*out))
    }

    /// Takes back what [`Self::grow`] counted.
    pub(crate) fn shrink(&self, by_bytes: u64) {
        self.used_bytes.fetch_sub(by_bytes, Relaxed);
        self.ceiling.counted_bytes.fetch_sub(by_bytes, Relaxed);
    }

    /// Counts something that the runner is about to keep because the guest said so.
    ///
    /// # Errors
    /// When it is too much: the container ends.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, OutOfMemory> {
        let mut reservation = Reservation::none(self);
        reservation.resize(bytes)?;
        Ok(reservation)
    }

    /// Counts something that the runner is about to keep because somebody else said so; `None` when there is no room.
    pub(crate) fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        self.add_buffer(bytes).ok()?;
        Some(Reservation { account: Arc::clone(self), bytes })
    }

    /// Of `share` parts of what the container may have, one, in bytes.
    pub(crate) fn part(&self, share: u64) -> u64 {
        self.limit_bytes.unwrap_or(MAX_UNLIMITED_BUFFER_BYTES) / share
    }

    /// Whether the runner holds so little for the container that one more buffer may be large.
    pub(crate) fn is_roomy(&self) -> bool {
        self.buffer_bytes.load(Relaxed) < self.part(ROOMY_SHARE)
    }

    /// Why the container is over, if it has outgrown what it may have.
    pub(crate) fn excess(&self) -> Option<OutOfMemory> {
        self.why.get().copied()
    }

    /// Resolves when the container has outgrown what it may have.
    pub(crate) async fn exceeded(&self) -> OutOfMemory {
        loop {
            self.over.cancelled().await;
            // Always there by now.
            if let Some(why) = self.excess() {
                return why;
            }
        }
    }

    /// Ends the container for the sake of the node.
    pub(crate) fn end_for_node(&self, used_bytes: u64, ceiling_bytes: u64) {
        self.end(OutOfMemory::Node { ceiling_bytes, used_bytes, counted_bytes: self.used_bytes() });
    }

    /// Ends the container; the first reason counts.
    pub(crate) fn end(&self, why: OutOfMemory) {
        let _ = self.why.set(why);
        self.over.cancel();
    }

    fn add(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let limit_bytes = self.limit_bytes.unwrap_or(u64::MAX);
        let result = self
            .used_bytes
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|wanted| *wanted <= limit_bytes));
        result.map_err(|used| OutOfMemory::Limit { limit_bytes, wanted_bytes: used.saturating_add(bytes) })?;
        self.ceiling.add(bytes);
        Ok(())
    }

    fn add_buffer(&self, bytes: u64) -> Result<(), OutOfMemory> {
        self.add(bytes)?;
        let buffers = self.buffer_bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if self.limit_bytes.is_none() && buffers > MAX_UNLIMITED_BUFFER_BYTES {
            self.subtract_buffer(bytes);
            return Err(OutOfMemory::Buffers { limit_bytes: MAX_UNLIMITED_BUFFER_BYTES, wanted_bytes: buffers });
        }
        Ok(())
    }

    fn subtract_buffer(&self, bytes: u64) {
        self.buffer_bytes.fetch_sub(bytes, Relaxed);
        self.shrink(bytes);
    }

    /// All that is counted now, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }
}

/// Something that the runner keeps for a container; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    account: Arc<MemoryAccount>,
    bytes: u64,
}

impl Reservation {
    /// Nothing yet.
    pub(crate) fn none(account: &Arc<MemoryAccount>) -> Self {
        Self { account: Arc::clone(account), bytes: 0 }
    }

    /// Counts so much from now on.
    ///
    /// # Errors
    /// When it is too much: the container ends.
    pub(crate) fn resize(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if let Some(more @ 1..) = bytes.checked_sub(self.bytes) {
            self.account.add_buffer(more).inspect_err(|out| self.account.end(*out))?;
        } else {
            self.account.subtract_buffer(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.subtract_buffer(self.bytes);
    }
}

/// What all guests of a runner may use together, so that a runner does not die of containers without limits.
///
/// What is counted may be far from what is used: a guest reserves what it never touches. So the count is only what
/// decides when to look at the process itself, which is [`Ceiling::guard`]'s to do.
#[derive(Debug)]
pub(crate) struct Ceiling {
    max_bytes: u64,
    counted_bytes: AtomicU64,
    crossed: Notify,
    accounts: Mutex<Vec<Weak<MemoryAccount>>>,
}

impl Default for Ceiling {
    /// No ceiling at all.
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl Ceiling {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, counted_bytes: AtomicU64::new(0), crossed: Notify::new(), accounts: Mutex::default() }
    }

    fn enlist(&self, account: &Arc<MemoryAccount>) {
        let mut accounts = self.accounts.lock();
        // Whenever the list would have to grow, those that are gone leave it.
        if accounts.len() == accounts.capacity() {
            accounts.retain(|account| account.strong_count() > 0);
        }
        accounts.push(Arc::downgrade(account));
    }

    fn add(&self, bytes: u64) {
        let before = self.counted_bytes.fetch_add(bytes, Relaxed);
        if before <= self.max_bytes && before.saturating_add(bytes) > self.max_bytes {
            self.crossed.notify_one();
        }
    }

    /// Ends containers while the process uses more than its guests may have; `used_bytes` says how much that is. Sleeps
    /// as long as what is counted is below the ceiling.
    pub(crate) async fn guard(&self, mut used_bytes: impl FnMut() -> Option<u64>) {
        loop {
            if self.counted_bytes.load(Relaxed) <= self.max_bytes {
                self.crossed.notified().await;
                continue;
            }
            if let Some(used_bytes) = used_bytes()
                && used_bytes > self.max_bytes
            {
                self.end_one(used_bytes);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends the container that counts most among those without a limit; if all have one, the one that counts most.
    fn end_one(&self, used_bytes: u64) {
        let alive = self.accounts.lock().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        if alive.iter().any(|account| account.why.get().is_some()) {
            // The last one has not given back yet what it had.
            return;
        }
        if let Some(account) = alive.iter().max_by_key(|account| (account.limit_bytes.is_none(), account.used_bytes()))
        {
            let counted_bytes = account.used_bytes();
            account.end(OutOfMemory::Ceiling { ceiling_bytes: self.max_bytes, used_bytes, counted_bytes });
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
