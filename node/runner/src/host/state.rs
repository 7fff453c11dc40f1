//! The state that belongs to one guest's store.

use super::{
    file_limits::Places,
    files::{self, PathError},
    memory::MemoryMeter,
    names::{Questions, Resolver},
    outgoing::Outgoing,
    preview1::{LISTEN_FDS, Preview1},
    resources::{MAX_FIELDS_BYTES, MAX_RESOURCES, ResourceMeter},
    sockets::Sockets,
    stdin::Input,
    stdio::Output,
    trust::Trust,
};
use crate::{
    memory::MemoryAccount,
    network::{listener::Listener, pod::PodNetwork},
    protocol::StartGuest,
    storage::volume::Volume,
};
use std::{path::Path, sync::Arc};
use thiserror::Error;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Most random bytes in one call.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// What a mount takes beside its paths.
const MOUNT_BYTES: usize = 256;

/// What a guest is given to begin with, in bytes: arguments, environment and mounts.
pub(crate) fn given_bytes(start: &StartGuest) -> u64 {
    let variables = start.env.iter().map(|(name, value)| name.len() + value.len());
    let mounts = start.mounts.iter().map(|mount| MOUNT_BYTES + mount.source.as_os_str().len() + mount.target.len());
    let bytes = start.argv.iter().map(String::len).chain(variables).chain(mounts).sum::<usize>();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Why a guest's state could not be made.
#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("too many directories and ports: {0}")]
    Descriptors(wasmtime::Error),
}

/// One state for all kinds of guests: the preview 1 context contains a preview 2 context.
pub(crate) struct GuestState {
    wasi: Preview1,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pub(crate) places: Places,
    pub(crate) memory: MemoryMeter,
    resources: ResourceMeter,
    pub(crate) resolver: Resolver,
    pub(crate) network: PodNetwork,
}

/// What a guest is put into: the same for all instances of a run, but for the last two.
pub(crate) struct Surroundings<'a> {
    pub(crate) start: &'a StartGuest,
    pub(crate) root: &'a Path,
    pub(crate) questions: &'a Questions,
    pub(crate) stdin: Input,
    pub(crate) network: PodNetwork,
    pub(crate) trust: Arc<Trust>,
    pub(crate) memory: Arc<MemoryAccount>,
    pub(crate) outputs: [Output; 2],
    /// The accounts of the mounts, in their order.
    pub(crate) volumes: &'a [Option<Arc<Volume>>],
    /// A module's open listeners.
    pub(crate) listeners: Vec<Listener>,
}

impl GuestState {
    pub(crate) fn new(around: Surroundings<'_>) -> Result<Self, StateError> {
        let Surroundings { start, network, .. } = around;
        let [stdout, stderr] = around.outputs;
        let mut builder = WasiCtx::builder();
        builder
            .args(&start.argv)
            .stdin(around.stdin)
            .stdout(stdout)
            .stderr(stderr)
            .max_random_size(MAX_RANDOM_BYTES)
            // Nothing becomes a socket of this machine.
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        if around.listeners.is_empty() {
            builder.envs(&start.env);
        } else {
            for (name, value) in start.env.iter().filter(|(name, _)| name != LISTEN_FDS) {
                builder.env(name, value);
            }
            builder.env(LISTEN_FDS, around.listeners.len().to_string());
        }
        if let Some(directory) = &start.working_dir {
            builder.initial_cwd(directory);
        }
        let opened = files::mount(&mut builder, around.root, &start.mounts)?;
        let accounts: Vec<_> = opened.iter().map(|index| around.volumes.get(*index).cloned().flatten()).collect();
        let mut wasi = Preview1::new(builder.build_p1(), accounts.clone(), around.listeners, &around.memory)
            .map_err(StateError::Descriptors)?;
        wasi.inner().ctx().table.set_max_capacity(MAX_RESOURCES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS_BYTES);
        let resolver = Resolver::new(around.questions.clone(), start.pod_uid.clone());
        Ok(Self {
            wasi,
            http,
            places: Places::new(accounts),
            outgoing: Outgoing::new(resolver.clone(), network.clone(), around.trust),
            resources: ResourceMeter::new(&around.memory, given_bytes(start)),
            memory: MemoryMeter::new(around.memory),
            resolver,
            network,
        })
    }

    /// The view for TCP and UDP.
    pub(crate) fn sockets(&mut self) -> Sockets<'_> {
        let table = self.wasi.inner().ctx().table;
        self.resources.look(table);
        Sockets { table, network: &self.network }
    }

    /// The preview 1 view.
    pub(crate) fn preview1(&mut self) -> &mut Preview1 {
        &mut self.wasi
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let view = self.wasi.inner().ctx();
        self.resources.look(view.table);
        view
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let table = self.wasi.inner().ctx().table;
        self.resources.look(table);
        WasiHttpCtxView { hooks: &mut self.outgoing, table, ctx: &mut self.http }
    }
}
