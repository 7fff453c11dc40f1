//! When the control plane was last heard, and so for how long the node has been cut off: by a clock that no change of the
//! wall clock moves and that goes on while the machine sleeps, over restarts of the agent and of the machine.
//!
//! It counts from when the ping was *sent* with which the node's lease was renewed, as the server cannot have begun to count
//! earlier. It must never say that the node was cut off for less time than the server thinks.

use crate::clock;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;
use tokio::sync::watch;
use tracing::warn;

/// Name of the file in the data directory.
pub(crate) const FILE: &str = "contact.json";
/// How much of the time since the last contact a power cut may add: the file is written no more often, for the sake of
/// flash memory.
const SAVE_INTERVAL_MS: i64 = 60_000;
/// A server that says for this long that the node is none of its own means it.
const DISOWNED_AFTER: Duration = Duration::from_secs(20);
/// The machine has slept when its two clocks differ by more.
const SLEPT_MS: i64 = 5_000;

/// A moment of this boot, in milliseconds since it began; before it, where the contact was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

impl Moment {
    fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// What all clocks say at a time, and what is written of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reading {
    /// Which boot of the machine it is.
    boot_id: String,
    /// Since then, sleep included.
    uptime_ms: i64,
    /// Since 1970.
    wall_ms: i64,
    /// The server has disowned the node since.
    #[serde(default)]
    disowned: bool,
}

impl Reading {
    fn now() -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let wall_ms = i64::try_from(clock::now().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        Self { boot_id, uptime_ms: uptime_ms(), wall_ms, disowned: false }
    }

    /// When it was, as this boot counts. From one boot to the next only the wall clock leads; one that went backwards in
    /// between tells nothing, and the time that the machine was off does not count then.
    fn on(&self, now: &Self) -> Moment {
        if self.boot_id == now.boot_id && self.uptime_ms <= now.uptime_ms {
            Moment(self.uptime_ms)
        } else {
            Moment(now.uptime_ms.saturating_sub(now.wall_ms.saturating_sub(self.wall_ms).max(0)))
        }
    }
}

/// Time since the machine began, sleep included: the first number of `/proc/uptime`, in seconds with two decimals.
fn uptime_ms() -> i64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let mut parts = text.split_whitespace().next().unwrap_or_default().splitn(2, '.');
    let mut number = || parts.next().and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0);
    let (seconds, hundredths) = (number(), number());
    seconds.saturating_mul(1000).saturating_add(hundredths.saturating_mul(10))
}

/// What the server thinks of the node, by what it answers when it answers at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Wanted,
    /// It is none of the cluster's, it said first at this time, and nothing else since.
    Doubted(Instant),
    /// It has said so for long enough.
    Disowned,
}

struct State {
    heard: Moment,
    saved: Option<Moment>,
    /// The newest sign of life was not taken.
    lost: bool,
    standing: Standing,
    /// Both clocks when they were last compared.
    compared: (Moment, Instant),
}

/// See the module.
pub(crate) struct Contact {
    file: PathBuf,
    /// After how long without a word the server takes the node for gone.
    lease: Duration,
    state: Mutex<State>,
    /// Changes when what waits by this clock has to look again.
    news: watch::Sender<u64>,
}

impl Contact {
    /// Goes on from what `data_dir` remembers; a node that was never heard counts from now.
    pub(crate) fn open(data_dir: &Path, lease: Duration) -> Self {
        let (file, now) = (data_dir.join(FILE), Reading::now());
        let saved: Option<Reading> = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| warn!(%error, "it is not known when the control plane was last heard"))
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(%error, "it is not known when the control plane was last heard");
                None
            }
        };
        let moment = Moment(now.uptime_ms);
        let was_disowned = saved.as_ref().is_some_and(|saved| saved.disowned);
        let standing = if was_disowned { Standing::Disowned } else { Standing::Wanted };
        let saved = saved.map(|saved| saved.on(&now));
        let state =
            State { heard: saved.unwrap_or(moment), saved, lost: false, standing, compared: (moment, Instant::now()) };
        Self { file, lease, state: Mutex::new(state), news: watch::Sender::new(0) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now: to be asked for before something is sent to the server.
    #[expect(clippy::unused_self, reason = "the moments of one contact compare with each other alone")]
    pub(crate) fn now(&self) -> Moment {
        Moment(uptime_ms())
    }

    /// The server has renewed the lease with what was sent then.
    pub(crate) fn made(&self, sent: Moment) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.heard, sent);
        state.lost = false;
        let returned = std::mem::replace(&mut state.standing, Standing::Wanted) == Standing::Disowned;
        let due = returned || state.saved.is_none_or(|saved| sent.0.saturating_sub(saved.0) >= SAVE_INTERVAL_MS);
        if due {
            state.saved = Some(sent);
        }
        drop(state);
        if due {
            self.write(sent, false);
        }
        if returned || sent.since(before) > self.lease {
            self.news.send_modify(|news| *news += 1);
        }
    }

    /// The server did not answer, or not with a renewed lease.
    pub(crate) fn missed(&self) {
        let (now, mut state) = (self.now(), self.state());
        let unsaved = (state.saved != Some(state.heard)).then_some(state.heard);
        state.saved = Some(state.heard);
        state.lost = true;
        let (moment, instant) = std::mem::replace(&mut state.compared, (now, Instant::now()));
        let awake_ms = i64::try_from(instant.elapsed().as_millis()).unwrap_or(i64::MAX);
        let slept = now.0.saturating_sub(moment.0).saturating_sub(awake_ms) > SLEPT_MS;
        let is_disowned = state.standing == Standing::Disowned;
        drop(state);
        if let Some(heard) = unsaved {
            self.write(heard, is_disowned);
        }
        if slept {
            self.news.send_modify(|news| *news += 1);
        }
    }

    /// The server answered that this node's credentials are over.
    pub(crate) fn disowned(&self) {
        let mut state = self.state();
        match state.standing {
            Standing::Wanted => state.standing = Standing::Doubted(Instant::now()),
            Standing::Doubted(since) if since.elapsed() >= DISOWNED_AFTER => {
                state.standing = Standing::Disowned;
                let heard = state.heard;
                drop(state);
                self.write(heard, true);
                self.news.send_modify(|news| *news += 1);
            }
            Standing::Doubted(_) | Standing::Disowned => {}
        }
    }

    /// Whether the server has gone on saying that this node is none of its own any more, so that its pods are not, either.
    /// A new agent still knows.
    pub(crate) fn is_disowned(&self) -> bool {
        self.state().standing == Standing::Disowned
    }

    /// Whether the server did not answer when it was asked last.
    pub(crate) fn is_lost(&self) -> bool {
        self.state().lost
    }

    /// For how long nothing has been heard.
    pub(crate) fn silence(&self) -> Duration {
        self.now().since(self.state().heard)
    }

    /// After how long without a word the server takes the node for gone.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// Changes when the server is heard again after it may have taken the node for gone, when it has disowned the node, and
    /// when the machine has slept.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Remembers a moment, beside the caller.
    fn write(&self, heard: Moment, disowned: bool) {
        let (file, now) = (self.file.clone(), Reading::now());
        let ago_ms = now.uptime_ms.saturating_sub(heard.0);
        let then = Reading { uptime_ms: heard.0, wall_ms: now.wall_ms.saturating_sub(ago_ms), disowned, ..now };
        let write = move || {
            if let Err(error) = replace(&file, &then) {
                warn!(%error, "cannot remember when the control plane was last heard");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(write)),
            Err(_) => write(),
        }
    }
}

fn replace(file: &Path, reading: &Reading) -> io::Result<()> {
    let mut new = NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
    serde_json::to_writer(&mut new, reading)?;
    new.as_file().sync_all()?;
    new.persist(file).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
impl Contact {
    /// As if nothing had been heard for so much longer.
    pub(crate) fn lose(&self, longer: Duration) {
        let mut state = self.state();
        state.heard.0 -= i64::try_from(longer.as_millis()).unwrap();
        state.lost = true;
        drop(state);
        self.news.send_modify(|news| *news += 1);
    }

    /// As if the server had disowned the node for long enough.
    pub(crate) fn disown(&self) {
        self.disowned();
        let long_ago = Instant::now().checked_sub(DISOWNED_AFTER).expect("the machine has been on for longer");
        self.state().standing = Standing::Doubted(long_ago);
        self.disowned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(40);

    fn reading(boot_id: &str, uptime_ms: i64, wall_ms: i64) -> Reading {
        Reading { boot_id: boot_id.to_owned(), uptime_ms, wall_ms, disowned: false }
    }

    #[test]
    fn only_a_new_boot_asks_the_wall_clock() {
        let saved = reading("a", 5_000, 1_000_000);
        for (now, heard, why) in [
            (reading("a", 9_000, 1_004_000), 5_000, "the same boot"),
            (reading("a", 9_000, 99_000_000), 5_000, "a wall clock that jumped ahead is nothing to a boot"),
            (reading("a", 9_000, 0), 5_000, "nor one that jumped back"),
            (reading("b", 2_000, 1_600_000), 2_000 - 600_000, "the machine was off for ten minutes, nearly"),
            (reading("b", 2_000, 7), 2_000, "a machine without a clock of its own does not know"),
        ] {
            assert_eq!(saved.on(&now), Moment(heard), "{why}");
        }
    }

    #[test]
    fn silence_is_counted_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let contact = Contact::open(directory.path(), LEASE);
        assert!(contact.silence() < Duration::from_secs(5), "a new node has not been cut off yet");
        let earlier = Moment(contact.now().0 - 300_000);
        contact.made(earlier);
        let again = Contact::open(directory.path(), LEASE);
        assert!((300..310).contains(&again.silence().as_secs()), "{:?}", again.silence());
        fs::write(directory.path().join(FILE), "{\"bootId\":").unwrap();
        assert!(Contact::open(directory.path(), LEASE).silence() < Duration::from_secs(5), "damage is survived");
    }

    #[test]
    fn the_file_is_written_seldom_and_when_the_contact_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let contact = Contact::open(directory.path(), LEASE);
        let begun = contact.now();
        let saved = || {
            let bytes = fs::read(directory.path().join(FILE)).unwrap();
            serde_json::from_slice::<Reading>(&bytes).unwrap().uptime_ms - begun.0
        };
        for (after_ms, expected) in [(0, 0), (10_000, 0), (59_000, 0), (61_000, 61_000), (70_000, 61_000)] {
            contact.made(Moment(begun.0 + after_ms));
            assert_eq!(saved(), expected, "after {after_ms} ms");
        }
        contact.missed();
        assert_eq!((saved(), contact.is_lost()), (70_000, true));
    }

    #[test]
    fn a_node_is_disowned_when_the_server_goes_on_saying_so() {
        let directory = tempfile::tempdir().unwrap();
        let contact = Contact::open(directory.path(), LEASE);
        contact.disowned();
        contact.disowned();
        assert!(!contact.is_disowned(), "a word is no proof");
        let news = contact.news();
        contact.disown();
        assert!(contact.is_disowned() && news.has_changed().unwrap());
        let next = Contact::open(directory.path(), LEASE);
        assert!(next.is_disowned(), "a new agent starts nothing");
        next.made(next.now());
        assert!(!next.is_disowned());
        assert!(!Contact::open(directory.path(), LEASE).is_disowned());
    }

    #[test]
    fn who_waits_hears_of_a_return() {
        let directory = tempfile::tempdir().unwrap();
        let contact = Contact::open(directory.path(), LEASE);
        contact.lose(Duration::from_secs(100));
        let news = contact.news();
        assert!(contact.silence() >= Duration::from_secs(100));
        contact.made(contact.now());
        assert!(news.has_changed().unwrap() && contact.silence() < LEASE);
        let news = contact.news();
        contact.made(contact.now());
        assert!(!news.has_changed().unwrap(), "a contact that was never lost is no news");
    }
}
