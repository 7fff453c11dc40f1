//! SPDY/3.1 as kubectl speaks it: one connection that carries many streams, both ways.
//!
//! Frames and header compression are pure ([`frame`], [`headers`]); [`connection`] runs them over bytes. The clients
//! there are neither grant windows nor look at them: nothing here waits for a window, and a stream that nobody reads
//! holds the whole connection back, by not reading the socket.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub(super) use connection::{Connection, Finisher, Stream, StreamReader, StreamWriter};
#[cfg(test)]
pub(super) use frame::client;
