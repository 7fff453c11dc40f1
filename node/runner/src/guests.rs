//! The runs of this runner: starts, stops and kills them as the agent says.
//!
//! A run may join another: it is made from what the other has and counted into the same account, and ends with it.

use crate::{
    child,
    code::CodeCache,
    cpu::{Account, Cpu, Threads},
    endings,
    host::{
        names::{ANSWER_TIMEOUT, Questions},
        stdin::Input,
        stdio::Credit,
        trust::Trust,
    },
    http_server::Room,
    link::{self, Outbox},
    memory::{Ceiling, MemoryAccount, Reservation},
    network::switch::Switch,
    protocol::{Exit, ExitCause, FromRunner, JOINED_RUNS_MAX, RunId, RunSample, SIGNAL_MAX, StartGuest, ToRunner},
    run,
    storage::Accounts,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wasmtime::Engine;

/// What all runs share.
pub(crate) struct Shared {
    pub(crate) code: CodeCache,
    pub(crate) root: PathBuf,
    pub(crate) cpu: Cpu,
    pub(crate) accounts: Accounts,
    pub(crate) questions: Questions,
    pub(crate) outbox: Outbox,
    pub(crate) switch: Arc<Switch>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) room: Room,
    /// What all guests may use together.
    pub(crate) ceiling: Arc<Ceiling>,
    runs: Mutex<HashMap<RunId, Known>>,
}

impl Shared {
    /// The run is over; its id is no longer known, and what joined it ends.
    pub(crate) fn forget(&self, start: &StartGuest) {
        let mut runs = self.runs.lock();
        if let Some(known) = runs.remove(&start.run) {
            known.over.cancel();
        }
        if let Some(target) = start.joins.as_ref().and_then(|target| runs.get_mut(target)) {
            target.joined = target.joined.saturating_sub(1);
        }
    }

    /// What every run has used so far.
    fn samples(&self) -> Vec<RunSample> {
        let runs = self.runs.lock();
        // Those that joined another are counted there.
        let own = runs.iter().filter(|(_, known)| known.start.joins.is_none());
        own.map(|(run, Known { start, seat, .. })| {
            let (pod_received_bytes, pod_sent_bytes) = self.switch.traffic(&start.pod_uid);
            RunSample {
                run: run.clone(),
                cpu_nanos: seat.cpu.used_nanos(),
                memory_bytes: seat.memory.used_bytes(),
                pod_received_bytes,
                pod_sent_bytes,
            }
        })
        .collect()
    }
}

/// A run as frames and other runs find it.
struct Known {
    start: Arc<StartGuest>,
    seat: Seat,
    /// Cancelled when the run is over.
    over: CancellationToken,
    /// How many runs have joined it.
    joined: u32,
}

/// What a run is given beside its description. One that joins another has the other's accounts.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) signals: Signals,
    pub(crate) stdin: Input,
    pub(crate) cpu: Arc<Account>,
    pub(crate) memory: Arc<MemoryAccount>,
    /// Where somebody waits for what it writes.
    pub(crate) credit: Option<Arc<Credit>>,
}

/// What all guests may use of the machine.
pub(crate) struct MachineShare {
    pub(crate) threads: Threads,
    pub(crate) ceiling: Arc<Ceiling>,
}

/// What the agent can tell a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// End-of-file on standard input, and no new connections.
    pub(crate) stop: CancellationToken,
    /// Ends it whatever it does.
    pub(crate) kill: CancellationToken,
    /// The signal that it is ended for, where it is one: set before `kill`.
    interrupted: Arc<OnceLock<u8>>,
}

impl Signals {
    fn interrupt(&self, signal: u8) {
        // Who is killed already is not asked again.
        if !self.kill.is_cancelled() && self.interrupted.set(signal.min(SIGNAL_MAX)).is_ok() {
            self.kill.cancel();
        }
    }

    /// Names the signal in how a run ended, where one ended it.
    pub(crate) fn named(&self, exit: Exit) -> Exit {
        match self.interrupted.get() {
            Some(signal) if exit.cause == ExitCause::Killed => endings::interrupted(*signal),
            _ => exit,
        }
    }
}

/// See the module.
pub(crate) struct Guests {
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Guests {
    pub(crate) fn new(
        engine: Engine,
        root: PathBuf,
        max_instances: u32,
        outbox: Outbox,
        switch: Arc<Switch>,
        share: MachineShare,
        runtime: Handle,
    ) -> wasmtime::Result<Self> {
        let MachineShare { threads, ceiling } = share;
        let shared = Shared {
            cpu: Cpu::start(&engine, threads, &runtime)?,
            code: CodeCache::new(engine, root.clone())?,
            trust: Arc::new(Trust::new(&root)),
            accounts: Accounts::new(root.clone())?,
            root,
            questions: Questions::new(outbox.prompt.clone(), ANSWER_TIMEOUT),
            outbox,
            switch,
            room: Room::new(usize::try_from(max_instances)?),
            ceiling,
            runs: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), runtime })
    }

    /// Acts on a frame. Never waits.
    pub(crate) fn handle(&self, frame: ToRunner) {
        match frame {
            ToRunner::Start(start) => self.start(*start),
            ToRunner::Stop(run) => self.signal(&run, |signals| signals.stop.cancel()),
            ToRunner::Kill(run) => self.signal(&run, |signals| signals.kill.cancel()),
            ToRunner::Interrupt { run, signal } => self.signal(&run, |signals| signals.interrupt(signal)),
            ToRunner::EndForMemory { run, used_bytes, ceiling_bytes } => {
                // One that has ended has given back what it had.
                if let Some(known) = self.shared.runs.lock().get(&run) {
                    known.seat.memory.end_for_node(used_bytes, ceiling_bytes);
                }
            }
            ToRunner::OutputTaken { run, bytes } => self.output_taken(&run, bytes),
            ToRunner::Input { run, bytes, end } => self.input(&run, &bytes, end),
            ToRunner::LookupAnswer { question, result } => self.shared.questions.answer(question, result),
            ToRunner::StandBack { niceness } => self.shared.cpu.stand_back(niceness),
            ToRunner::Sample { question } => {
                let chunks = link::sampled(question, self.shared.samples());
                let lane = self.shared.outbox.prompt.clone();
                // The runtime of the link: guests that compute must not delay it.
                tokio::spawn(async move {
                    for chunk in chunks {
                        let _ = lane.send(chunk).await;
                    }
                });
            }
        }
    }

    fn start(&self, start: StartGuest) {
        let seated = self.seat(start);
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            match seated {
                Ok((start, seat)) => run::run(&shared, &start, &seat).await,
                Err((run, message)) => {
                    let _ = shared.outbox.prompt.send(FromRunner::StartFailed { run, message }).await;
                }
            }
        });
    }

    /// Makes the run known, with what it has of its own or of the run that it joins.
    fn seat(&self, mut start: StartGuest) -> Result<(Arc<StartGuest>, Seat), (RunId, String)> {
        let mut runs = self.shared.runs.lock();
        let refuse = |message: &str| Err((start.run.clone(), message.to_owned()));
        if runs.contains_key(&start.run) {
            return refuse("a run of that name is already there");
        }
        let mut signals = Signals::default();
        let mut window = None;
        let (cpu, memory) = match &start.joins {
            None => (
                Account::new(start.cpu_limit_millis, start.cpu_request_millis),
                MemoryAccount::new(start.memory_limit_bytes, &self.shared.ceiling),
            ),
            Some(target) => {
                let Some(target) = runs.get_mut(target) else { return refuse("the container is not running") };
                if target.start.joins.is_some() {
                    return refuse("a run that has joined another cannot be joined");
                }
                let account = &target.seat.memory;
                let Some(held) = account.try_reserve(Input::window_bytes(start.stdin)) else {
                    return refuse("the container has no memory left for the input of another command");
                };
                window = Some(held);
                if target.joined >= JOINED_RUNS_MAX {
                    let message = format!("{JOINED_RUNS_MAX} commands run in the container already");
                    return Err((start.run, message));
                }
                target.joined += 1;
                start = joined(start, &target.start);
                signals.kill = target.over.child_token();
                (Arc::clone(&target.seat.cpu), Arc::clone(&target.seat.memory))
            }
        };
        let credit = start.joins.is_some().then(Credit::new);
        let window = window.unwrap_or_else(|| {
            let mut own = Reservation::none(&memory);
            // Where there is no memory for it the run ends as soon as it begins.
            let _ = own.resize(Input::window_bytes(start.stdin));
            own
        });
        let seat = Seat {
            stdin: Input::new(start.stdin, start.terminal, &signals.stop, window),
            signals,
            cpu,
            memory,
            credit,
        };
        let start = Arc::new(start);
        let known = Known { start: Arc::clone(&start), seat: seat.clone(), over: CancellationToken::new(), joined: 0 };
        runs.insert(start.run.clone(), known);
        Ok((start, seat))
    }

    fn signal(&self, run: &RunId, act: impl FnOnce(&Signals)) {
        // A run that has ended has said so; the agent's frame crossed with it.
        if let Some(known) = self.shared.runs.lock().get(run) {
            act(&known.seat.signals);
        }
    }

    fn output_taken(&self, run: &RunId, bytes: u32) {
        if let Some(credit) = self.shared.runs.lock().get(run).and_then(|known| known.seat.credit.as_ref()) {
            credit.give(bytes);
        }
    }

    fn input(&self, run: &RunId, bytes: &[u8], end: bool) {
        let pushed = self.shared.runs.lock().get(run).map(|known| known.seat.stdin.push(bytes, end));
        if pushed.is_some_and(|pushed| pushed.is_err()) {
            child::complain("the agent sent more input than there is room for; it was dropped");
        }
    }
}

/// What `target` has, with another command, other streams, and the variables that it has not. Its ports stay its own.
fn joined(start: StartGuest, target: &StartGuest) -> StartGuest {
    let StartGuest { run, code, kind, argv, stdin, joins, terminal, env, .. } = start;
    let mut guest = StartGuest { run, code, kind, argv, stdin, joins, terminal, ..target.clone() };
    guest.env.extend(env.into_iter().filter(|(name, _)| target.env.iter().all(|(known, _)| known != name)));
    guest.network.listen.clear();
    guest
}
