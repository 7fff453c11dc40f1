//! Preview 1 for core modules: `wasmtime-wasi`'s, with sockets among the descriptors.
//!
//! Preview 1 has no way to make a socket. A module is given its listeners as open descriptors behind its directories,
//! their number in `LISTEN_FDS`, non-blocking until it says otherwise (Go, whose goroutines share one thread, relies on
//! it). [`table`] says what a number stands for, [`delegate`] passes on what concerns no socket, [`sockets`] does what
//! does, [`poll`] waits for both, [`preview0`] is the same for older modules.

mod calls;
mod delegate;
mod poll;
mod preview0;
mod sockets;
mod table;

use crate::{memory::MemoryAccount, network::listener::Listener};
use std::sync::Arc;
use table::{Descriptor, Table};
use wasmtime::Result;
use wasmtime_wasi::p1::WasiP1Ctx;

pub(crate) use calls::{MODULE, add_to_linker};
pub(crate) use preview0::add_to_linker as add_preview0_to_linker;

/// How many listeners a module is given.
pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
/// Standard input, output and error.
const STANDARD_STREAMS: usize = 3;

/// See the module.
pub(crate) struct Preview1 {
    inner: WasiP1Ctx,
    table: Table,
}

impl Preview1 {
    /// Wraps a context that has `directories` open, and adds the listeners behind them. Descriptors are `memory`'s.
    ///
    /// # Errors
    /// When there are more of them than descriptors.
    pub(crate) fn new(
        inner: WasiP1Ctx,
        directories: usize,
        listeners: Vec<Listener>,
        memory: &Arc<MemoryAccount>,
    ) -> Result<Self> {
        let mut table = Table::new(memory);
        for number in 0..STANDARD_STREAMS + directories {
            table.add(Descriptor::Inner(u32::try_from(number)?))?;
        }
        for listener in listeners {
            table.add(Descriptor::Listener { listener, nonblocking: true })?;
        }
        Ok(Self { inner, table })
    }

    /// What is wrapped.
    pub(crate) fn inner(&mut self) -> &mut WasiP1Ctx {
        &mut self.inner
    }
}
