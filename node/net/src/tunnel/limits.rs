//! What the tunnel may use and how long it waits. Numbers only.

use std::time::Duration;

/// What a tunnel may use, and how patient it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelLimits {
    /// Connections between pods that one peer may have open here at a time.
    pub streams_per_peer: u32,
    /// Bytes of one connection, in one direction, that wait for a pod to read them.
    pub stream_window_bytes: u32,
    /// Bytes that wait for pods that have stopped to read, of all connections. Of all that comes from one peer, stalled or not,
    /// four times as much may wait.
    pub stalled_bytes: u32,
    /// A pod that has read nothing for so long, although something waits, has stopped to read.
    pub stall: Duration,
    /// Bytes to one peer that are sent and not acknowledged.
    pub send_window_bytes: u64,
    /// How long a direct connection to a peer may take to be made.
    pub direct_timeout: Duration,
    /// After which time of trying directly the relay is tried beside it.
    pub relay_delay: Duration,
    /// How long a pod may take to take a connection.
    pub answer_timeout: Duration,
    /// A silent connection is tried this often, so that boxes between the nodes remember it.
    pub keep_alive: Duration,
    /// A connection on which nothing came for so long is over.
    pub silence: Duration,
    /// A connection without streams and datagrams for so long is closed.
    pub unused: Duration,
    /// How long what is open may go on after the peer's certificate has expired. Nothing new is opened meanwhile.
    pub expired_grace: Duration,
    /// How often a peer that is reached through the relay is tried directly, at first; later up to
    /// [`DIRECT_RETRY_MAX`].
    pub direct_retry: Duration,
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self {
            streams_per_peer: 2048,
            stream_window_bytes: 512 * 1024,
            stalled_bytes: 32 * 1024 * 1024,
            stall: Duration::from_secs(5),
            send_window_bytes: 8 * 1024 * 1024,
            direct_timeout: Duration::from_secs(3),
            relay_delay: Duration::from_millis(700),
            answer_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(12),
            silence: Duration::from_secs(30),
            unused: Duration::from_mins(3),
            expired_grace: Duration::from_mins(5),
            direct_retry: Duration::from_secs(5),
        }
    }
}

/// Of a machine's memory, what may wait for pods that have stopped to read, and what may be under way to one peer: one part of so
/// many. More than by default it never is.
const PARTS_STALLED: u64 = 32;
const PARTS_SENT: u64 = 64;
/// However little memory there is, in bytes.
const STALLED_LEAST_BYTES: u32 = 2 * 1024 * 1024;
const SENT_LEAST_BYTES: u64 = 1024 * 1024;

impl TunnelLimits {
    /// What fits a machine with so many bytes of memory.
    #[must_use]
    pub fn for_memory(memory_bytes: u64) -> Self {
        let most = Self::default();
        let stalled = u32::try_from(memory_bytes / PARTS_STALLED).unwrap_or(u32::MAX);
        Self {
            stalled_bytes: stalled.clamp(STALLED_LEAST_BYTES, most.stalled_bytes),
            send_window_bytes: (memory_bytes / PARTS_SENT).clamp(SENT_LEAST_BYTES, most.send_window_bytes),
            ..most
        }
    }

    /// Bytes of one of a peer's connections that may wait: more than can be stalled, so that the others go on, and with all of
    /// its connections no more than may wait of one peer.
    pub(super) fn receive_window_bytes(&self) -> u32 {
        self.stalled_bytes.saturating_mul(WAITING_PER_STALLED) / WINDOWS
    }

    /// Connections that may stall at a time: each takes a window.
    pub(super) fn stalled_max(&self) -> usize {
        usize::try_from(self.stalled_bytes / self.stream_window_bytes.max(1)).unwrap_or(usize::MAX).max(1)
    }
}

/// Longest pause between two attempts to reach a relayed peer directly.
pub(super) const DIRECT_RETRY_MAX: Duration = Duration::from_mins(1);
/// Pauses after failed attempts to reach a peer at all: the first, which doubles, and the longest. Dials fail at once meanwhile.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// Pause before the next of a peer's addresses is tried beside those before it.
pub(super) const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Addresses of a peer that are tried.
pub(super) const ADDRESSES_MAX: usize = 4;
/// Connections with one peer at a time; more than one are there only while one follows another.
pub(super) const LINKS_MAX: usize = 3;
/// As many may bring bytes that wait.
const WINDOWS: u32 = 3;
const _: () = assert!(LINKS_MAX == WINDOWS as usize);
/// What may wait of one peer, in what may be stalled of all.
const WAITING_PER_STALLED: u32 = 4;
/// A connection that is not the preferred one is closed after so long without use.
pub(super) const SURPLUS: Duration = Duration::from_secs(10);
/// How often connections are looked after.
pub(super) const CARE: Duration = Duration::from_secs(2);
/// Connections of strangers whose handshake is under way: more are turned away.
pub(super) const HANDSHAKES_MAX: usize = 128;
/// With so many handshakes under way, strangers have to show first that their address is theirs.
pub(super) const HANDSHAKES_UNCHECKED: usize = 32;
/// How long a stranger's handshake may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a stream's first bytes may take.
pub(super) const HEADER: Duration = Duration::from_secs(5);
/// How long a dial waits for a sign of life from the peer before it takes the connection for broken: this, and four round
/// trips, up to [`SIGN_OF_LIFE_MAX`].
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_millis(400);
/// See [`SIGN_OF_LIFE`].
pub(super) const SIGN_OF_LIFE_MAX: Duration = Duration::from_secs(2);
/// Datagrams for a peer, and their bytes, that wait for a connection.
pub(super) const PENDING: (usize, usize) = (64, 256 * 1024);
/// Relayed packets that wait to be read; more are lost.
pub(super) const RELAYED_QUEUE: usize = 512;
/// Buffers that the kernel is asked for, in bytes. Where it gives less there is more loss under load.
pub(super) const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_has_room_beside_what_is_stalled_and_all_stay_within_the_bound() {
        for memory in [0, 256 << 20, 1 << 40] {
            let limits = TunnelLimits::for_memory(memory);
            let (window, stalled) = (u64::from(limits.receive_window_bytes()), u64::from(limits.stalled_bytes));
            assert!(window > stalled, "{memory}");
            assert!(window * u64::try_from(LINKS_MAX).unwrap() <= 4 * stalled, "{memory}");
        }
    }

    #[test]
    fn less_memory_is_less_that_waits() {
        let of = |mib: u64| {
            let limits = TunnelLimits::for_memory(mib << 20);
            (limits.stalled_bytes >> 20, limits.send_window_bytes >> 20, limits.stalled_max())
        };
        assert_eq!([of(0), of(256), of(1 << 20)], [(2, 1, 4), (8, 4, 16), (32, 8, 64)]);
    }
}
