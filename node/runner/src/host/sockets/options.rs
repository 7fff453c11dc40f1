//! Socket options: kept, bounded as Linux bounds them, and given back. Nothing here changes how a connection works: its
//! other end is on the same machine, or the agent's, which knows better.

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Linux's bounds for the times and the count of keep-alive probes.
const MAX_KEEP_ALIVE_NANOS: u64 = 32_767 * NANOS_PER_SECOND;
const MAX_KEEP_ALIVE_COUNT: u32 = 127;
/// Linux's defaults.
const KEEP_ALIVE_IDLE_NANOS: u64 = 7_200 * NANOS_PER_SECOND;
const KEEP_ALIVE_INTERVAL_NANOS: u64 = 75 * NANOS_PER_SECOND;
const KEEP_ALIVE_COUNT: u32 = 9;
const HOP_LIMIT: u8 = 64;
const BUFFER_BYTES: u64 = 208 << 10;
/// Bounds of what a guest can set a buffer to.
const MIN_BUFFER_BYTES: u64 = 2 << 10;
const MAX_BUFFER_BYTES: u64 = 4 << 20;

/// The options of one socket. An accepted one has those of its listener.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) keep_alive: bool,
    keep_alive_idle_nanos: u64,
    keep_alive_interval_nanos: u64,
    keep_alive_count: u32,
    hop_limit: u8,
    receive_buffer_bytes: u64,
    send_buffer_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep_alive: false,
            keep_alive_idle_nanos: KEEP_ALIVE_IDLE_NANOS,
            keep_alive_interval_nanos: KEEP_ALIVE_INTERVAL_NANOS,
            keep_alive_count: KEEP_ALIVE_COUNT,
            hop_limit: HOP_LIMIT,
            receive_buffer_bytes: BUFFER_BYTES,
            send_buffer_bytes: BUFFER_BYTES,
        }
    }
}

/// Zero is never a value; everything else is moved into its bounds.
fn bounded<T: Ord + Default>(value: T, least: T, most: T) -> Result<T, ErrorCode> {
    if value == T::default() { Err(ErrorCode::InvalidArgument) } else { Ok(value.clamp(least, most)) }
}

impl Options {
    pub(super) fn keep_alive_idle_nanos(&self) -> u64 {
        self.keep_alive_idle_nanos
    }

    pub(super) fn set_keep_alive_idle_nanos(&mut self, value: u64) -> Result<(), ErrorCode> {
        self.keep_alive_idle_nanos = bounded(value, NANOS_PER_SECOND, MAX_KEEP_ALIVE_NANOS)?;
        Ok(())
    }

    pub(super) fn keep_alive_interval_nanos(&self) -> u64 {
        self.keep_alive_interval_nanos
    }

    pub(super) fn set_keep_alive_interval_nanos(&mut self, value: u64) -> Result<(), ErrorCode> {
        self.keep_alive_interval_nanos = bounded(value, NANOS_PER_SECOND, MAX_KEEP_ALIVE_NANOS)?;
        Ok(())
    }

    pub(super) fn keep_alive_count(&self) -> u32 {
        self.keep_alive_count
    }

    pub(super) fn set_keep_alive_count(&mut self, value: u32) -> Result<(), ErrorCode> {
        self.keep_alive_count = bounded(value, 1, MAX_KEEP_ALIVE_COUNT)?;
        Ok(())
    }

    pub(super) fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    pub(super) fn set_hop_limit(&mut self, value: u8) -> Result<(), ErrorCode> {
        self.hop_limit = bounded(value, 1, u8::MAX)?;
        Ok(())
    }

    pub(super) fn receive_buffer_bytes(&self) -> u64 {
        self.receive_buffer_bytes
    }

    pub(super) fn set_receive_buffer_bytes(&mut self, value: u64) -> Result<(), ErrorCode> {
        self.receive_buffer_bytes = bounded(value, MIN_BUFFER_BYTES, MAX_BUFFER_BYTES)?;
        Ok(())
    }

    pub(super) fn send_buffer_bytes(&self) -> u64 {
        self.send_buffer_bytes
    }

    pub(super) fn set_send_buffer_bytes(&mut self, value: u64) -> Result<(), ErrorCode> {
        self.send_buffer_bytes = bounded(value, MIN_BUFFER_BYTES, MAX_BUFFER_BYTES)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_kept_within_their_bounds() {
        let mut options = Options::default();
        assert_eq!(options.set_hop_limit(0), Err(ErrorCode::InvalidArgument));
        options.set_hop_limit(7).unwrap();
        assert_eq!(options.hop_limit(), 7);
        for (set, kept) in
            [(1, NANOS_PER_SECOND), (5 * NANOS_PER_SECOND, 5 * NANOS_PER_SECOND), (u64::MAX, MAX_KEEP_ALIVE_NANOS)]
        {
            options.set_keep_alive_idle_nanos(set).unwrap();
            options.set_keep_alive_interval_nanos(set).unwrap();
            assert_eq!((options.keep_alive_idle_nanos(), options.keep_alive_interval_nanos()), (kept, kept));
        }
        options.set_keep_alive_count(u32::MAX).unwrap();
        assert_eq!(options.keep_alive_count(), MAX_KEEP_ALIVE_COUNT);
        assert_eq!(options.set_send_buffer_bytes(0), Err(ErrorCode::InvalidArgument));
        options.set_send_buffer_bytes(u64::MAX).unwrap();
        options.set_receive_buffer_bytes(1).unwrap();
        assert_eq!((options.send_buffer_bytes(), options.receive_buffer_bytes()), (MAX_BUFFER_BYTES, MIN_BUFFER_BYTES));
    }
}
