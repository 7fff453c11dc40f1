//! What every instance of a run is made from: a command's only one, or one for each request.

use crate::{
    cpu::{self, Account},
    guests::{Seat, Shared, Signals},
    host::{
        state::{GuestState, StateError, Surroundings, given_bytes},
        stdin::Input,
        stdio::{Credit, Output},
    },
    memory::{MemoryAccount, Reservation},
    network::{
        error::SocketError,
        listener::{Listener, MAX_BACKLOG},
        pod::PodNetwork,
    },
    protocol::{FromRunner, LogStream, StartGuest},
    storage::volume::Volume,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use wasmtime::Store;

/// What a host call may copy out of a guest at once. What of it outlives the moment at which the call is made, because the
/// call waits, is counted; the rest is no more than this for each thread that runs guests.
const HOST_CALL_BYTES: usize = 16 << 20;

/// See the module.
pub(crate) struct Blueprint {
    pub(crate) shared: Arc<Shared>,
    pub(crate) start: Arc<StartGuest>,
    pub(crate) signals: Signals,
    /// What all instances use together.
    pub(crate) memory: Arc<MemoryAccount>,
    network: PodNetwork,
    stdin: Input,
    /// What it uses of the CPU is charged to this.
    pub(crate) account: Arc<Account>,
    credit: Option<Arc<Credit>>,
    volumes: Vec<Option<Arc<Volume>>>,
    /// Counts `start`; each instance has a copy of its own.
    _held: Reservation,
}

impl Blueprint {
    /// `volumes` are the accounts of the mounts, in their order.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        start: &Arc<StartGuest>,
        seat: &Seat,
        volumes: Vec<Option<Arc<Volume>>>,
    ) -> Self {
        let Seat { signals, stdin, cpu, memory, credit } = seat.clone();
        let stop = signals.stop.clone();
        let mut held = Reservation::none(&memory);
        // One that is too large ends the container.
        let _ = held.resize(given_bytes(start));
        Self {
            _held: held,
            volumes,
            shared: Arc::clone(shared),
            start: Arc::clone(start),
            network: shared.switch.open(&start.pod_uid, &start.network, stop, Arc::clone(&memory)),
            signals,
            stdin,
            account: cpu,
            memory,
            credit,
        }
    }

    /// Listeners on all TCP ports of the container, in their order.
    ///
    /// # Errors
    /// For people, when another container of the pod has one of them.
    pub(crate) fn listeners(&self) -> Result<Vec<Listener>, String> {
        let ports = &self.start.network.listen;
        let once = ports.iter().enumerate().filter(|(index, port)| !ports[..*index].contains(port));
        once.map(|(_, port)| self.listen(*port)).collect()
    }

    /// The listener of an HTTP component.
    ///
    /// # Errors
    /// For people, when the container declares no port.
    pub(crate) fn http_listener(&self) -> Result<Listener, String> {
        match self.start.network.listen.first() {
            Some(port) => self.listen(*port),
            None if self.start.joins.is_some() => {
                Err("the module answers HTTP requests and cannot be run as a command".to_owned())
            }
            None => {
                Err("the component answers HTTP requests, but its container declares no TCP port to serve them on: \
                 add a containerPort to its ports"
                    .to_owned())
            }
        }
    }

    fn listen(&self, port: u16) -> Result<Listener, String> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        self.network.listen(address, MAX_BACKLOG).map_err(|error| match error {
            SocketError::AddressInUse => format!("TCP port {port} is in use in this pod"),
            error => format!("cannot listen on TCP port {port}: {error}"),
        })
    }

    /// Standard output and standard error for one instance. Each needs its own: a stream promises its writer room that
    /// another one must not take.
    pub(crate) fn outputs(&self) -> [Output; 2] {
        [LogStream::Stdout, LogStream::Stderr].map(|stream| {
            let lane = self.shared.outbox.ordered.clone();
            Output::new(self.start.run.clone(), stream, lane, self.credit.clone(), self.start.terminal, &self.memory)
        })
    }

    /// A store with nothing in it yet.
    pub(crate) fn store(
        &self,
        outputs: [Output; 2],
        listeners: Vec<Listener>,
    ) -> Result<Store<GuestState>, StateError> {
        let state = GuestState::new(Surroundings {
            start: &self.start,
            root: &self.shared.root,
            questions: &self.shared.questions,
            stdin: self.stdin.clone(),
            network: self.network.clone(),
            trust: Arc::clone(&self.shared.trust),
            memory: Arc::clone(&self.memory),
            outputs,
            volumes: &self.volumes,
            listeners,
        })?;
        let mut store = self.shared.code.store(state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOST_CALL_BYTES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(cpu::interrupted()));
        Ok(store)
    }

    /// Writes to the container's standard error on the runner's own behalf.
    pub(crate) async fn complain(&self, text: String) {
        let frame =
            FromRunner::Log { run: self.start.run.clone(), stream: LogStream::Stderr, bytes: text.into_bytes() };
        let _ = self.shared.outbox.ordered.send(frame).await;
    }
}
