//! Terminals for guests, which have none of their own: what a kernel does between a keyboard, a program and a screen. A
//! user's own terminal is in raw mode meanwhile and does nothing of it.
//!
//! ```text
//!  keys ──▶ Discipline ──whole lines──▶ guest's standard input
//!               │ echo
//!               ▼
//!  screen ◀── one stream ◀── "\n" becomes "\r\n" ◀── guest's standard output and standard error
//! ```
//!
//! A command has one for its session; a container whose `tty` is true has one that all who are attached share, and what
//! it shows is the container's log. Nothing here waits or sends: that is for whoever owns the streams.

mod discipline;
mod size;

#[cfg(test)]
pub(crate) use discipline::SIGINT;
pub(crate) use discipline::Typed;
pub(crate) use size::Size;

use bytes::Bytes;
use discipline::Discipline;
use std::sync::{Mutex, PoisonError};

/// What programs believe a terminal to be that says nothing else about itself.
pub(crate) const KIND: (&str, &str) = ("TERM", "xterm");

/// A [`Discipline`] that several may use.
#[derive(Default)]
pub(crate) struct Terminal(Mutex<Discipline>);

impl Terminal {
    /// Keys were pressed.
    pub(crate) fn typed(&self, keys: &[u8]) -> Typed {
        self.discipline().typed(keys)
    }

    /// The keyboard is gone: what of a line is left.
    pub(crate) fn rest(&self) -> Vec<u8> {
        self.discipline().rest()
    }

    /// What the screen gets for what a guest wrote.
    pub(crate) fn shown(&self, written: &[u8]) -> Bytes {
        self.discipline().shown(written).into()
    }

    fn discipline(&self) -> std::sync::MutexGuard<'_, Discipline> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
