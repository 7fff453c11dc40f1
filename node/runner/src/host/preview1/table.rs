//! A module's descriptor numbers, and what is behind each: something of `wasmtime-wasi`'s own, or a socket.
//!
//! As in POSIX, a new descriptor gets the lowest number that is free.

use crate::{
    memory::{MemoryAccount, Reservation},
    network::{listener::Listener, stream::Stream},
};
use std::sync::Arc;
use wasmtime_wasi::p1::types::{Errno, Fd};

/// Descriptors of one guest.
pub(super) const MAX_DESCRIPTORS: usize = 4 << 10;
/// What a number counts as the container's memory, with all that is behind it.
const DESCRIPTOR_BYTES: u64 = 1 << 10;

/// What a number stands for.
#[derive(Debug)]
pub(super) enum Descriptor {
    /// A standard stream, file or directory, by its number in the context that this one wraps.
    Inner(u32),
    /// A listener that the guest was given.
    Listener { listener: Listener, nonblocking: bool },
    /// A connection that it accepted.
    Stream { stream: Stream, nonblocking: bool },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    numbers: Vec<Option<Descriptor>>,
    held: Reservation,
}

impl Table {
    /// What is in it is `memory`'s.
    pub(super) fn new(memory: &Arc<MemoryAccount>) -> Self {
        Self { numbers: Vec::new(), held: Reservation::none(memory) }
    }

    pub(super) fn get(&self, fd: Fd) -> Result<&Descriptor, Errno> {
        self.numbers.get(index(fd)).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    pub(super) fn get_mut(&mut self, fd: Fd) -> Result<&mut Descriptor, Errno> {
        self.numbers.get_mut(index(fd)).and_then(Option::as_mut).ok_or(Errno::Badf)
    }

    /// The number behind this one, unless it is a socket, to which `otherwise` is the answer.
    pub(super) fn inner(&self, fd: Fd, otherwise: Errno) -> Result<Fd, Errno> {
        match self.get(fd)? {
            Descriptor::Inner(inner) => Ok(Fd::from(*inner)),
            Descriptor::Listener { .. } | Descriptor::Stream { .. } => Err(otherwise),
        }
    }

    /// # Errors
    /// `Mfile` when there are as many as there may be.
    pub(super) fn room(&self) -> Result<(), Errno> {
        self.lowest_free().map(|_| ())
    }

    /// Where there is no memory for it the container ends, so that nobody needs to be told.
    ///
    /// # Errors
    /// As [`Self::room`].
    pub(super) fn add(&mut self, descriptor: Descriptor) -> Result<Fd, Errno> {
        let free = self.lowest_free()?;
        if free == self.numbers.len() {
            let count = u64::try_from(free + 1).map_err(|_| Errno::Mfile)?;
            let _ = self.held.resize(count * DESCRIPTOR_BYTES);
            self.numbers.push(Some(descriptor));
        } else {
            self.numbers[free] = Some(descriptor);
        }
        Ok(Fd::from(u32::try_from(free).map_err(|_| Errno::Mfile)?))
    }

    pub(super) fn remove(&mut self, fd: Fd) -> Result<Descriptor, Errno> {
        self.numbers.get_mut(index(fd)).and_then(Option::take).ok_or(Errno::Badf)
    }

    /// Puts a descriptor under a number that has, or had, one.
    pub(super) fn put(&mut self, fd: Fd, descriptor: Descriptor) -> Result<(), Errno> {
        *self.numbers.get_mut(index(fd)).ok_or(Errno::Badf)? = Some(descriptor);
        Ok(())
    }

    fn lowest_free(&self) -> Result<usize, Errno> {
        let free = self.numbers.iter().position(Option::is_none).unwrap_or(self.numbers.len());
        if free < MAX_DESCRIPTORS { Ok(free) } else { Err(Errno::Mfile) }
    }
}

fn index(fd: Fd) -> usize {
    usize::try_from(u32::from(fd)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn number(fd: Fd) -> u32 {
        fd.into()
    }

    #[test]
    fn the_lowest_free_number_is_next() {
        let mut table = Table::new(&MemoryAccount::new(None, &Arc::default()));
        for expected in 0..4 {
            assert_eq!(number(table.add(Descriptor::Inner(expected)).unwrap()), expected);
        }
        table.remove(Fd::from(1)).unwrap();
        assert_eq!(table.remove(Fd::from(1)).unwrap_err(), Errno::Badf);
        assert_eq!(table.get(Fd::from(1)).unwrap_err(), Errno::Badf);
        assert_eq!(number(table.add(Descriptor::Inner(9)).unwrap()), 1);
        assert_eq!(number(table.inner(Fd::from(1), Errno::Inval).unwrap()), 9);
        assert_eq!(number(table.add(Descriptor::Inner(10)).unwrap()), 4);
        assert_eq!(table.get(Fd::from(u32::MAX)).unwrap_err(), Errno::Badf);
    }

    #[test]
    fn there_is_an_end_of_numbers() {
        let mut table = Table::new(&MemoryAccount::new(None, &Arc::default()));
        for inner in 0..u32::try_from(MAX_DESCRIPTORS).unwrap() {
            table.room().unwrap();
            table.add(Descriptor::Inner(inner)).unwrap();
        }
        assert_eq!(table.room().unwrap_err(), Errno::Mfile);
        assert_eq!(table.add(Descriptor::Inner(0)).unwrap_err(), Errno::Mfile);
        table.remove(Fd::from(7)).unwrap();
        assert_eq!(number(table.add(Descriptor::Inner(0)).unwrap()), 7);
    }

    #[test]
    fn numbers_count_as_memory() {
        let account = MemoryAccount::new(Some(10 * DESCRIPTOR_BYTES), &Arc::default());
        let mut table = Table::new(&account);
        for inner in 0..10 {
            table.add(Descriptor::Inner(inner)).unwrap();
        }
        assert!(account.exceeded().now_or_never().is_none());
        table.add(Descriptor::Inner(10)).unwrap();
        assert!(account.exceeded().now_or_never().is_some());
        drop(table);
        assert_eq!(account.used_bytes(), 0);
    }
}
