//! The state that belongs to one guest's store.

use super::{
    files::{self, PathError},
    memory::MemoryMeter,
    names::{Questions, Resolver},
    sockets::Sockets,
    stdio::{Input, Output},
};
use crate::{network::pod::PodNetwork, protocol::StartGuest};
use std::path::Path;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, p1::WasiP1Ctx};

/// Resources that a guest may hold: files, sockets, streams, pollables, lookups. A connection has up to six.
const MAX_RESOURCES: usize = 64 << 10;
/// Most random bytes in one call.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// One state for both kinds of guests: the preview 1 context contains a preview 2 context.
pub(crate) struct GuestState {
    wasi: WasiP1Ctx,
    pub(crate) memory: MemoryMeter,
    pub(crate) resolver: Resolver,
    pub(crate) network: PodNetwork,
}

impl GuestState {
    pub(crate) fn new(
        start: &StartGuest,
        root: &Path,
        questions: &Questions,
        stop: CancellationToken,
        outputs: [Output; 2],
        network: PodNetwork,
    ) -> Result<Self, PathError> {
        let [stdout, stderr] = outputs;
        let mut builder = WasiCtx::builder();
        builder
            .args(&start.argv)
            .envs(&start.env)
            .stdin(Input(stop))
            .stdout(stdout)
            .stderr(stderr)
            .max_random_size(MAX_RANDOM_BYTES)
            // Nothing becomes a socket of this machine.
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        files::mount(&mut builder, root, &start.mounts)?;
        let mut wasi = builder.build_p1();
        wasi.ctx().table.set_max_capacity(MAX_RESOURCES);
        Ok(Self {
            wasi,
            memory: MemoryMeter::new(start.memory_limit_bytes),
            resolver: Resolver::new(questions.clone(), start.pod_uid.clone()),
            network,
        })
    }

    /// The view for TCP and UDP.
    pub(crate) fn sockets(&mut self) -> Sockets<'_> {
        Sockets { table: self.wasi.ctx().table, network: &self.network }
    }

    /// The preview 1 view.
    pub(crate) fn preview1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}
