//! Futures whose polls are measured, limited and given their turn.

use super::{
    account::Account,
    clock::{ThreadClock, thread_nanos},
    line::{Entry, Line, PROMPT_TURNS, Seat, Turn},
    niceness::Niceness,
    overhead::Overhead,
    ticker::{self, Ticking},
};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    thread::Thread,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, Sleep, sleep_until},
};
use wasmtime::{Engine, UpdateDeadline};

/// Turns that may last too long at once.
const OVERDUE_TURNS: usize = 3;
/// Threads beyond the processors: for those that cannot be interrupted, for those who need not wait, and one for all else.
const SPARE_THREADS: usize = OVERDUE_TURNS + PROMPT_TURNS + 1;

thread_local! {
    /// Whether the guest that this thread runs was interrupted at the end of a tick.
    static GAVE_WAY: Cell<bool> = const { Cell::new(false) };
}

/// What a store does when the epoch has come to its deadline: the guest would go on, and others come first.
pub(crate) fn interrupted() -> UpdateDeadline {
    GAVE_WAY.set(true);
    UpdateDeadline::Yield(1)
}

/// How many threads the guests have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Threads {
    /// Guests that compute at once: one per processor.
    turns: usize,
    /// Threads beyond those.
    spare: usize,
}

impl Threads {
    pub(crate) fn of_this_machine() -> Self {
        let turns = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns, spare: SPARE_THREADS }
    }

    /// All together.
    pub(crate) fn count(self) -> usize {
        self.turns + self.spare
    }
}

/// What those who compute share with the ticker.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ticking: Mutex<Ticking>,
    /// Makes a thread of the guests' runtime look for timers and connections.
    pub(super) lookout: Notify,
    pub(super) overhead: Overhead,
    niceness: Niceness,
}

/// The processors, as guests get at them.
#[derive(Debug, Clone)]
pub(crate) struct Cpu {
    shared: Arc<Shared>,
    ticker: Thread,
}

impl Cpu {
    /// For guests that run in `runtime`, which has `threads`.
    pub(crate) fn start(engine: &Engine, threads: Threads, runtime: &Handle) -> io::Result<Self> {
        let line = Line::new(threads.turns, OVERDUE_TURNS);
        let shared = Arc::new(Shared {
            ticking: Mutex::new(Ticking { line, resting: false }),
            lookout: Notify::new(),
            overhead: Overhead::default(),
            niceness: Niceness::new(),
        });
        let ticker = ticker::start(engine, Arc::clone(&shared))?;
        let seen = Arc::clone(&shared);
        // A thread that has run this finds nothing else to do, and waits where timers and connections are noticed.
        runtime.spawn(async move {
            loop {
                seen.lookout.notified().await;
                seen.overhead.found_work();
            }
        });
        Ok(Self { shared, ticker })
    }

    /// Wraps the future that runs a guest of `account`: it computes when it has a turn and its limit allows, the epoch
    /// advances meanwhile, and what it uses is charged.
    ///
    /// Every moment in which a guest computes passes through the `poll` of what this returns.
    pub(crate) fn drive<F: Future>(&self, account: &Arc<Account>, guest: F) -> Driven<F> {
        Driven { guest: Box::pin(guest), meter: Meter::new(self, account), seat: None }
    }

    /// Wraps what the runner does for a guest of `account`: it waits while the limit is used up, and is charged.
    /// Its polls must be short, since it waits for no turn.
    pub(crate) fn pace<F: Future>(&self, account: &Arc<Account>, work: F) -> Paced<F> {
        Paced { work: Box::pin(work), meter: Meter::new(self, account) }
    }

    /// Does something short for `account`, which pays for it at once and whatever its limit says.
    pub(crate) fn charged<T>(&self, account: &Arc<Account>, work: impl FnOnce() -> T) -> T {
        let since = thread_nanos();
        let result = work();
        self.charge(account, since);
        result
    }

    /// Charges what the calling thread has used since its clock said `since`.
    fn charge(&self, account: &Arc<Account>, since: u64) {
        let now = thread_nanos();
        let used_nanos = now.saturating_sub(since);
        Overhead::counted_until(now);
        account.charge(used_nanos, self.shared.overhead.payment());
        self.shared.ticking.lock().line.charge(account, used_nanos);
    }

    /// How far threads stand back that compute for guests beyond their requests.
    pub(crate) fn stand_back(&self, niceness: u8) {
        self.shared.niceness.set(niceness);
    }

    /// A turn, or a seat to wait for one.
    fn enter(&self, account: &Arc<Account>, waker: &Waker) -> Entry {
        let prompt = !account.is_beyond_its_request();
        let (entry, rested) = {
            let mut ticking = self.shared.ticking.lock();
            (ticking.line.enter(account, waker, prompt), std::mem::take(&mut ticking.resting))
        };
        if rested {
            self.ticker.unpark();
        }
        entry
    }

    fn leave(&self, turn: &Turn, account: &Arc<Account>, used_nanos: u64) {
        let woken = self.shared.ticking.lock().line.leave(turn, account, used_nanos);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Who pays, and the timer of who cannot.
struct Meter {
    cpu: Cpu,
    account: Arc<Account>,
    /// Made when the limit was reached for the first time.
    timer: Option<Pin<Box<Sleep>>>,
    paused: bool,
}

impl Meter {
    fn new(cpu: &Cpu, account: &Arc<Account>) -> Self {
        Self { cpu: cpu.clone(), account: Arc::clone(account), timer: None, paused: false }
    }

    /// Ready when the limit allows to go on.
    fn poll_allowed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.paused
                && let Some(timer) = &mut self.timer
            {
                ready!(timer.as_mut().poll(context));
            }
            let Some(pause) = self.account.pause() else {
                self.paused = false;
                return Poll::Ready(());
            };
            let end = Instant::now() + pause;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(end),
                None => self.timer = Some(Box::pin(sleep_until(end))),
            }
            self.paused = true;
        }
    }
}

/// See [`Cpu::drive`].
pub(crate) struct Driven<F> {
    guest: Pin<Box<F>>,
    meter: Meter,
    /// Where it waits for its turn.
    seat: Option<Arc<Seat>>,
}

impl<F> Driven<F> {
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        loop {
            if let Some(seat) = &self.seat {
                let Some(turn) = seat.called(context.waker()) else { return Poll::Pending };
                self.seat = None;
                // Others of the same container may have used up the limit while this one waited.
                if self.meter.poll_allowed(context).is_ready() {
                    return Poll::Ready(turn);
                }
                self.meter.cpu.leave(&turn, &self.meter.account, 0);
                return Poll::Pending;
            }
            ready!(self.meter.poll_allowed(context));
            match self.meter.cpu.enter(&self.meter.account, context.waker()) {
                Entry::Turn(turn) => return Poll::Ready(turn),
                Entry::Wait(seat) => self.seat = Some(seat),
            }
        }
    }
}

impl<F: Future> Future for Driven<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let turn = ready!(this.poll_turn(context));
        let shared = &this.meter.cpu.shared;
        if this.meter.account.is_beyond_its_request() {
            shared.niceness.stand_back();
        }
        shared.ticking.lock().line.begin(&turn, ThreadClock::mine());
        let computing = Computing { turn: Some(turn), meter: &this.meter, since: shared.overhead.found_work() };
        GAVE_WAY.set(false);
        let result = this.guest.as_mut().poll(context);
        if result.is_pending() && GAVE_WAY.get() {
            this.seat = computing.give_way(context.waker());
        }
        result
    }
}

impl<F> Drop for Driven<F> {
    fn drop(&mut self) {
        if let Some(turn) = self.seat.take().and_then(|seat| seat.leave()) {
            self.meter.cpu.leave(&turn, &self.meter.account, 0);
        }
    }
}

/// A turn that goes on; also ends when the poll panics.
struct Computing<'a> {
    turn: Option<Turn>,
    meter: &'a Meter,
    since: u64,
}

impl Computing<'_> {
    /// Ends the turn of a guest that would go on, and sits down for the next one. None while its limit is used up.
    fn give_way(mut self, waker: &Waker) -> Option<Arc<Seat>> {
        let (turn, used_nanos) = self.end()?;
        let Meter { cpu, account, .. } = self.meter;
        if account.pause().is_some() {
            cpu.leave(&turn, account, used_nanos);
            return None;
        }
        let (seat, woken) = cpu.shared.ticking.lock().line.give_way(&turn, account, used_nanos, waker);
        woken.into_iter().for_each(Waker::wake);
        Some(seat)
    }

    /// Charges what was used.
    fn end(&mut self) -> Option<(Turn, u64)> {
        let turn = self.turn.take()?;
        let now = thread_nanos();
        let used_nanos = now.saturating_sub(self.since);
        Overhead::counted_until(now);
        self.meter.account.charge(used_nanos, self.meter.cpu.shared.overhead.payment());
        Some((turn, used_nanos))
    }
}

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        if let Some((turn, used_nanos)) = self.end() {
            self.meter.cpu.leave(&turn, &self.meter.account, used_nanos);
        }
    }
}

/// See [`Cpu::pace`].
pub(crate) struct Paced<F> {
    work: Pin<Box<F>>,
    meter: Meter,
}

impl<F: Future> Future for Paced<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        ready!(this.meter.poll_allowed(context));
        let since = this.meter.cpu.shared.overhead.found_work();
        let result = this.work.as_mut().poll(context);
        this.meter.cpu.charge(&this.meter.account, since);
        result
    }
}
