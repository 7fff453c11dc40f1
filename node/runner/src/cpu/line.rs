//! The line in front of the processors: who gets the next turn. Pure: whoever calls does the waking and the waiting.
//!
//! Weighted fair queueing: every container has a virtual time that advances with what it uses, the slower the more
//! shares it has, and of those who wait the one with the least goes first. Who was away comes back at the time of the
//! line, less a tick of its own: it goes before those who have been computing, and cannot save up turns while it idles.
//!
//! Who has used less than was requested for it need not even wait until somebody's tick ends: there is a turn beyond the processors
//! for such a one, among whose threads the kernel decides.

use super::{account::Account, clock::ThreadClock};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    task::Waker,
};

/// How far a container that comes back may be behind the line: what it uses of this goes before everyone else.
const HEAD_START_NANOS: u64 = 2_000_000;
/// Turns beyond the processors for those who have used less than they requested.
pub(super) const PROMPT_TURNS: usize = 1;
/// Who computes for so long beyond the end of a tick cannot be interrupted. One that the kernel let wait does not.
const OVERDUE_NANOS: u64 = 1_000_000;

/// Where a container stands in the line.
#[derive(Debug, Default)]
pub(super) struct Standing {
    virtual_time: u128,
    seats: VecDeque<Arc<Seat>>,
    /// Under which number of its virtual time it is in the line. Zero: it is not.
    place: u64,
}

/// Where one task waits for its turn.
#[derive(Debug)]
pub(super) struct Seat(Mutex<SeatState>);

#[derive(Debug)]
enum SeatState {
    Waiting(Waker),
    Called(Turn),
    /// Nobody sits there.
    Left,
}

impl Seat {
    fn new(waker: &Waker) -> Arc<Self> {
        Arc::new(Self(Mutex::new(SeatState::Waiting(waker.clone()))))
    }

    /// The turn, once it has come. Until then `waker` is woken for it.
    pub(super) fn called(&self, waker: &Waker) -> Option<Turn> {
        let mut state = self.0.lock();
        match &mut *state {
            SeatState::Waiting(known) => known.clone_from(waker),
            SeatState::Called(_) => {
                if let SeatState::Called(turn) = mem::replace(&mut *state, SeatState::Left) {
                    return Some(turn);
                }
            }
            SeatState::Left => {}
        }
        None
    }

    /// Gives the seat up, with the turn that may have come meanwhile.
    pub(super) fn leave(&self) -> Option<Turn> {
        match mem::replace(&mut *self.0.lock(), SeatState::Left) {
            SeatState::Called(turn) => Some(turn),
            SeatState::Waiting(_) | SeatState::Left => None,
        }
    }
}

/// Leave to compute. Must be given back to [`Line::leave`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn(usize);

/// A turn that is taken.
#[derive(Debug, Default)]
struct Taken {
    /// The clock of the thread that computes, once it does.
    thread: Option<ThreadClock>,
    /// What that said when a tick ended.
    at_tick_nanos: Option<u64>,
    /// It lasts too long and counts no more.
    overdue: bool,
}

/// What became of a wish to compute.
#[derive(Debug)]
pub(super) enum Entry {
    Turn(Turn),
    Wait(Arc<Seat>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Line {
    /// Turns at once.
    turns_max: usize,
    /// Turns that may be overdue at once; more count again.
    overdue_max: usize,
    turns: Vec<Option<Taken>>,
    counted: usize,
    overdue: usize,
    waiting: BTreeMap<(u128, u64), Arc<Account>>,
    /// The virtual time of whoever was furthest when it got a turn.
    now: u128,
    places: u64,
}

impl Line {
    pub(super) fn new(turns_max: usize, overdue_max: usize) -> Self {
        Self {
            turns_max: turns_max.max(1),
            overdue_max,
            turns: Vec::new(),
            counted: 0,
            overdue: 0,
            waiting: BTreeMap::new(),
            now: 0,
            places: 0,
        }
    }

    /// A turn at once if there is one to spare, otherwise a seat whose `waker` is woken for it. Whoever is `prompt` has used
    /// less than was requested for it.
    pub(super) fn enter(&mut self, account: &Arc<Account>, waker: &Waker, prompt: bool) -> Entry {
        let mut standing = account.standing.lock();
        self.bring_forward(account, &mut standing);
        let is_free = self.counted < self.turns_max && self.waiting.is_empty();
        if is_free || (prompt && self.counted < self.turns_max + PROMPT_TURNS) {
            self.now = self.now.max(standing.virtual_time);
            return Entry::Turn(self.take());
        }
        Entry::Wait(self.sit(account, &mut standing, waker))
    }

    fn bring_forward(&self, account: &Account, standing: &mut Standing) {
        if standing.place == 0 {
            let earliest = self.now.saturating_sub(account.virtual_time(HEAD_START_NANOS));
            standing.virtual_time = standing.virtual_time.max(earliest);
        }
    }

    fn sit(&mut self, account: &Arc<Account>, standing: &mut Standing, waker: &Waker) -> Arc<Seat> {
        let seat = Seat::new(waker);
        standing.seats.push_back(Arc::clone(&seat));
        if standing.place == 0 {
            self.stand(account, standing);
        }
        seat
    }

    /// The calling thread makes use of a turn from now on.
    pub(super) fn begin(&mut self, turn: &Turn, thread: ThreadClock) {
        if let Some(taken) = self.turns.get_mut(turn.0).and_then(Option::as_mut) {
            taken.thread = Some(thread);
        }
    }

    /// Gives a turn back that lasted for `used_nanos`. Gives whom to wake.
    pub(super) fn leave(&mut self, turn: &Turn, account: &Arc<Account>, used_nanos: u64) -> Vec<Waker> {
        self.give_back(turn, account, used_nanos);
        self.call()
    }

    /// The same for one that would go on, and does if nobody comes before it.
    pub(super) fn give_way(
        &mut self,
        turn: &Turn,
        account: &Arc<Account>,
        used_nanos: u64,
        waker: &Waker,
    ) -> (Arc<Seat>, Vec<Waker>) {
        self.give_back(turn, account, used_nanos);
        let seat = {
            let mut standing = account.standing.lock();
            self.bring_forward(account, &mut standing);
            self.sit(account, &mut standing, waker)
        };
        (seat, self.call())
    }

    fn give_back(&mut self, turn: &Turn, account: &Arc<Account>, used_nanos: u64) {
        self.charge(account, used_nanos);
        match self.turns.get_mut(turn.0).and_then(Option::take) {
            Some(Taken { overdue: true, .. }) => self.overdue -= 1,
            Some(_) => self.counted -= 1,
            None => {}
        }
    }

    /// Counts what a container used.
    pub(super) fn charge(&mut self, account: &Arc<Account>, used_nanos: u64) {
        let mut standing = account.standing.lock();
        let key = (standing.virtual_time, standing.place);
        standing.virtual_time += account.virtual_time(used_nanos);
        if standing.place != 0 && self.waiting.remove(&key).is_some() {
            self.stand(account, &mut standing);
        }
    }

    /// A tick has passed; `nanos` reads clocks. Gives whom to wake because others take too long.
    pub(super) fn tick(&mut self, nanos: impl Fn(ThreadClock) -> u64) -> Vec<Waker> {
        for taken in self.turns.iter_mut().flatten().filter(|taken| !taken.overdue) {
            let Some(thread) = taken.thread else { continue };
            let now = nanos(thread);
            let since = *taken.at_tick_nanos.get_or_insert(now);
            if now.saturating_sub(since) >= OVERDUE_NANOS && self.overdue < self.overdue_max {
                taken.overdue = true;
                self.counted -= 1;
                self.overdue += 1;
            }
        }
        self.call()
    }

    /// Whether anybody computes.
    pub(super) fn is_busy(&self) -> bool {
        self.counted + self.overdue > 0
    }

    fn stand(&mut self, account: &Arc<Account>, standing: &mut Standing) {
        self.places += 1;
        standing.place = self.places;
        self.waiting.insert((standing.virtual_time, standing.place), Arc::clone(account));
    }

    fn take(&mut self) -> Turn {
        self.counted += 1;
        let free = self.turns.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.turns.push(None);
            self.turns.len() - 1
        });
        self.turns[index] = Some(Taken::default());
        Turn(index)
    }

    /// Hands free turns to those who wait.
    fn call(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.counted < self.turns_max
            && let Some(((virtual_time, _), account)) = self.waiting.pop_first()
        {
            let mut standing = account.standing.lock();
            standing.place = 0;
            let Some(seat) = standing.seats.pop_front() else { continue };
            if !standing.seats.is_empty() {
                self.stand(&account, &mut standing);
            }
            let mut state = seat.0.lock();
            if !matches!(*state, SeatState::Waiting(_)) {
                continue;
            }
            self.now = self.now.max(virtual_time);
            let turn = self.take();
            if let SeatState::Waiting(waker) = mem::replace(&mut *state, SeatState::Called(turn)) {
                woken.push(waker);
            }
        }
        woken
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
