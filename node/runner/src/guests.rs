//! The runs of this runner: starts, stops and kills them as the agent says.

use crate::{
    code::CodeCache,
    host::{
        names::{ANSWER_TIMEOUT, Questions},
        trust::Trust,
    },
    http_server::Room,
    link::Outbox,
    network::switch::Switch,
    protocol::{FromRunner, RunId, StartGuest, ToRunner},
    run,
    ticker::Ticker,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
    sync::Arc,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wasmtime::Engine;

/// What all runs share.
pub(crate) struct Shared {
    pub(crate) code: CodeCache,
    pub(crate) root: PathBuf,
    pub(crate) ticker: Ticker,
    pub(crate) questions: Questions,
    pub(crate) outbox: Outbox,
    pub(crate) switch: Arc<Switch>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) room: Room,
    runs: Mutex<HashMap<RunId, Signals>>,
}

impl Shared {
    /// The run is over; its id is no longer known.
    pub(crate) fn forget(&self, run: &RunId) {
        self.runs.lock().remove(run);
    }
}

/// What the agent can tell a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// End-of-file on standard input, and no new connections.
    pub(crate) stop: CancellationToken,
    /// Ends it whatever it does.
    pub(crate) kill: CancellationToken,
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
        runtime: Handle,
    ) -> wasmtime::Result<Self> {
        let shared = Shared {
            ticker: Ticker::start(&engine)?,
            code: CodeCache::new(engine, root.clone())?,
            trust: Arc::new(Trust::new(&root)),
            root,
            questions: Questions::new(outbox.prompt.clone(), ANSWER_TIMEOUT),
            outbox,
            switch,
            room: Room::new(usize::try_from(max_instances)?),
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
            ToRunner::LookupAnswer { question, result } => self.shared.questions.answer(question, result),
        }
    }

    fn start(&self, start: StartGuest) {
        let signals = match self.shared.runs.lock().entry(start.run.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => Some(place.insert(Signals::default()).clone()),
        };
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            let Some(signals) = signals else {
                let message = "a run of that name is already there".to_owned();
                let _ = shared.outbox.prompt.send(FromRunner::StartFailed { run: start.run, message }).await;
                return;
            };
            run::run(&shared, &Arc::new(start), &signals).await;
        });
    }

    fn signal(&self, run: &RunId, act: impl FnOnce(&Signals)) {
        // A run that has ended has said so; the agent's frame crossed with it.
        if let Some(signals) = self.shared.runs.lock().get(run) {
            act(signals);
        }
    }
}
