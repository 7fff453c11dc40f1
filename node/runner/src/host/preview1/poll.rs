//! Waiting for sockets, files, standard streams and clocks at once.

use super::{Preview1, table::Descriptor};
use crate::network::{listener::Listener, stream::Stream};
use futures::{
    FutureExt,
    future::{BoxFuture, pending, select_all},
};
use wasmtime_wasi::p1::{
    types::{
        self, Errno, Error, Event, EventFdReadwrite, Eventrwflags, Eventtype, Fd, Subscription,
        SubscriptionFdReadwrite, SubscriptionU,
    },
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr, GuestType};

/// What a guest may wait for at once.
const MAX_SUBSCRIPTIONS: u32 = 16 << 10;
/// What waiting for one thing takes: the subscription, as the guest wrote it and as it is passed on, and what is woken.
pub(crate) const WAIT_BYTES: u64 = 512;

/// What a guest waits for on one of its sockets.
enum Interest {
    Arrival(Listener),
    Input(Stream),
    Room(Stream),
}

impl Interest {
    fn is_ready(&self) -> bool {
        match self {
            Self::Arrival(listener) => listener.readable().now_or_never().is_some(),
            Self::Input(stream) => stream.is_readable(),
            Self::Room(stream) => stream.is_writable(),
        }
    }

    fn wait(&self) -> BoxFuture<'_, ()> {
        match self {
            Self::Arrival(listener) => listener.readable().boxed(),
            Self::Input(stream) => stream.readable().boxed(),
            Self::Room(stream) => stream.writable().boxed(),
        }
    }

    fn event(&self, userdata: types::Userdata) -> Event {
        let (type_, ended) = match self {
            Self::Arrival(_) => (Eventtype::FdRead, false),
            // Nothing to be read although it would not block: the other end has said all it will.
            Self::Input(stream) => (Eventtype::FdRead, matches!(stream.try_peek(&mut [0]), Ok(0))),
            Self::Room(_) => (Eventtype::FdWrite, false),
        };
        let flags = if ended { Eventrwflags::FD_READWRITE_HANGUP } else { Eventrwflags::empty() };
        Event { userdata, error: Errno::Success, type_, fd_readwrite: EventFdReadwrite { nbytes: 1, flags } }
    }
}

/// Subscriptions, sorted by who looks after them.
#[derive(Default)]
struct Sorted {
    sockets: Vec<(types::Userdata, Interest)>,
    /// With the numbers that the wrapped context knows.
    others: Vec<Subscription>,
    /// What can be said at once: such a descriptor is none.
    refused: Vec<Event>,
}

/// How much a guest waits for.
///
/// # Errors
/// When it is nothing, or more than it may be.
pub(super) fn bounded(count: types::Size) -> Result<types::Size, Errno> {
    if count == 0 || count > MAX_SUBSCRIPTIONS { Err(Errno::Inval) } else { Ok(count) }
}

impl Preview1 {
    pub(super) async fn poll(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<Subscription>,
        events: GuestPtr<Event>,
        count: types::Size,
    ) -> Result<types::Size, Error> {
        let places = subscriptions.as_array(bounded(count)?);
        let asked = places.iter().map(|place| Ok(memory.read(place?)?)).collect::<Result<_, Error>>()?;
        self.poll_for(memory, asked, events).await
    }

    /// The same for subscriptions that are read already.
    pub(super) async fn poll_for(
        &mut self,
        memory: &mut GuestMemory<'_>,
        asked: Vec<Subscription>,
        events: GuestPtr<Event>,
    ) -> Result<types::Size, Error> {
        let count = u32::try_from(asked.len())?;
        let _waits = self.hold(WAIT_BYTES * u64::from(count))?;
        let sorted = self.sort(asked);
        let mut happened = sorted.refused;
        if happened.is_empty() {
            let (others, sockets) = self.wait(&sorted.others, &sorted.sockets).await?;
            happened = others;
            happened.extend(sockets);
        }
        let places = events.as_array(count);
        for (event, place) in happened.iter().zip(places.iter()) {
            memory.write(place?, event.clone())?;
        }
        Ok(u32::try_from(happened.len())?)
    }

    fn sort(&self, asked: Vec<Subscription>) -> Sorted {
        let mut sorted = Sorted::default();
        for mut subscription in asked {
            let (fd, reads) = match &subscription.u {
                SubscriptionU::Clock(_) => {
                    sorted.others.push(subscription);
                    continue;
                }
                SubscriptionU::FdRead(of) => (of.file_descriptor, true),
                SubscriptionU::FdWrite(of) => (of.file_descriptor, false),
            };
            let interest = match (self.table.get(fd), reads) {
                (Ok(Descriptor::Inner(inner)), _) => {
                    let of = SubscriptionFdReadwrite { file_descriptor: Fd::from(*inner) };
                    subscription.u = if reads { SubscriptionU::FdRead(of) } else { SubscriptionU::FdWrite(of) };
                    sorted.others.push(subscription);
                    continue;
                }
                (Ok(Descriptor::Listener { listener, .. }), true) => Ok(Interest::Arrival(listener.clone())),
                (Ok(Descriptor::Stream { stream, .. }), true) => Ok(Interest::Input(stream.clone())),
                (Ok(Descriptor::Stream { stream, .. }), false) => Ok(Interest::Room(stream.clone())),
                (Ok(Descriptor::Listener { .. }), false) => Err(Errno::Notsup),
                (Err(error), _) => Err(error),
            };
            match interest {
                Ok(interest) => sorted.sockets.push((subscription.userdata, interest)),
                Err(error) => sorted.refused.push(Event {
                    userdata: subscription.userdata,
                    error,
                    type_: if reads { Eventtype::FdRead } else { Eventtype::FdWrite },
                    fd_readwrite: EventFdReadwrite { nbytes: 0, flags: Eventrwflags::empty() },
                }),
            }
        }
        sorted
    }

    /// Waits until something has happened, and says all that has: at most one event per subscription.
    async fn wait(
        &mut self,
        others: &[Subscription],
        sockets: &[(types::Userdata, Interest)],
    ) -> Result<(Vec<Event>, Vec<Event>), Error> {
        let ready = sockets.iter().any(|(_, interest)| interest.is_ready());
        let mut first = None;
        let events = {
            let sockets = async {
                if ready {
                    0
                } else if sockets.is_empty() {
                    pending().await
                } else {
                    select_all(sockets.iter().map(|(_, interest)| interest.wait())).await.1
                }
            };
            let others = async { if others.is_empty() { pending().await } else { self.wait_for_others(others).await } };
            tokio::select! {
                biased;
                events = others => events?,
                index = sockets => {
                    first = (!ready).then_some(index);
                    Vec::new()
                }
            }
        };
        let of_sockets = sockets.iter().enumerate();
        let of_sockets = of_sockets.filter(|(index, (_, interest))| first == Some(*index) || interest.is_ready());
        Ok((events, of_sockets.map(|(_, (userdata, interest))| interest.event(*userdata)).collect()))
    }

    /// Has the wrapped context wait, in a memory made for it, because its numbers are not the guest's.
    async fn wait_for_others(&mut self, subscriptions: &[Subscription]) -> Result<Vec<Event>, Error> {
        let count = u32::try_from(subscriptions.len())?;
        let subscriptions_bytes = count.checked_mul(Subscription::guest_size()).ok_or(Errno::Overflow)?;
        let events_bytes = count.checked_mul(Event::guest_size()).ok_or(Errno::Overflow)?;
        let alignment = Subscription::guest_align().max(Event::guest_align());
        let length = usize::try_from(subscriptions_bytes)? + usize::try_from(events_bytes)? + alignment;
        let mut bytes = vec![0_u8; length];
        let start = bytes.as_ptr().align_offset(alignment);
        let mut memory = GuestMemory::Unshared(bytes.get_mut(start..).ok_or(Errno::Overflow)?);

        let asked: GuestPtr<Subscription> = GuestPtr::new(0);
        let answered: GuestPtr<Event> = GuestPtr::new(subscriptions_bytes);
        for (subscription, place) in subscriptions.iter().zip(asked.as_array(count).iter()) {
            memory.write(place?, subscription.clone())?;
        }
        let happened = self.inner.poll_oneoff(&mut memory, asked, answered, count).await?;
        let events = answered.as_array(happened.min(count));
        let events = events.iter().map(|place| Ok(memory.read(place?)?));
        events.collect()
    }
}
