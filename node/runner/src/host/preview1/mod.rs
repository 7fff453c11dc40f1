//! Preview 1 for core modules: `wasmtime-wasi`'s, with sockets among the descriptors.
//!
//! Preview 1 has no way to make a socket. A module is given its listeners as open descriptors behind its directories,
//! their number in `LISTEN_FDS`, non-blocking until it says otherwise (Go, whose goroutines share one thread, relies on
//! it). [`table`] says what a number stands for, [`delegate`] passes on what concerns no socket, [`sockets`] does what
//! does, [`files`] keeps the accounts of what is written, [`copies`] those of what a call copies,
//! [`poll`] waits for both, [`preview0`] is the same for older
//! modules.

mod calls;
mod copies;
mod delegate;
mod files;
mod poll;
mod preview0;
mod sockets;
mod table;

use crate::{
    memory::MemoryAccount,
    network::listener::Listener,
    storage::volume::{Place, Volume},
};
use std::{collections::HashMap, sync::Arc};
use table::{Descriptor, Table};
use wasmtime::Result;
use wasmtime_wasi::p1::WasiP1Ctx;

pub(crate) use calls::{MODULE, add_to_linker};
pub(crate) use poll::WAIT_BYTES;
pub(crate) use preview0::add_to_linker as add_preview0_to_linker;

/// How many listeners a module is given.
pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
/// Standard input, output and error.
const STANDARD_STREAMS: usize = 3;

/// See the module.
pub(crate) struct Preview1 {
    inner: WasiP1Ctx,
    table: Table,
    /// What the wrapped context's descriptors stand for, where an account is kept.
    places: HashMap<u32, Place>,
    /// Pays for what is kept for the module.
    memory: Arc<MemoryAccount>,
    /// Which of the wrapped context's first descriptors are still the standard streams.
    is_stream: [bool; STANDARD_STREAMS],
}

impl Preview1 {
    /// Wraps a context that has `directories` open, each with its account if it has one, and adds the listeners behind
    /// them. Descriptors are `memory`'s.
    ///
    /// # Errors
    /// When there are more of them than descriptors.
    pub(crate) fn new(
        inner: WasiP1Ctx,
        directories: Vec<Option<Arc<Volume>>>,
        listeners: Vec<Listener>,
        memory: &Arc<MemoryAccount>,
    ) -> Result<Self> {
        let mut table = Table::new(memory);
        for number in 0..STANDARD_STREAMS + directories.len() {
            table.add(Descriptor::Inner(u32::try_from(number)?))?;
        }
        let mut places = HashMap::new();
        for (index, volume) in directories.into_iter().enumerate() {
            if let Some(volume) = volume {
                places.insert(u32::try_from(STANDARD_STREAMS + index)?, Place::Directory(volume));
            }
        }
        for listener in listeners {
            table.add(Descriptor::Listener { listener, nonblocking: true })?;
        }
        Ok(Self { inner, table, places, memory: Arc::clone(memory), is_stream: [true; STANDARD_STREAMS] })
    }

    /// What is wrapped.
    pub(crate) fn inner(&mut self) -> &mut WasiP1Ctx {
        &mut self.inner
    }
}
