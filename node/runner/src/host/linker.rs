//! Everything that a guest can import, in one place.

use super::{file_limits, file_streams, names, paths, preview1, sockets, special_files, state::GuestState};
use wasmtime::{Engine, Linker as ModuleLinker, Result, component::Linker as ComponentLinker};
use wasmtime_wasi::{I32Exit, p2};

/// The interfaces that components find, all of WASI 0.2 but `wasi:clocks/timezone`, and HTTP both ways; used to say which import is
/// missing. Version 0.2 with any patch.
pub(crate) const COMPONENT_INTERFACES: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// What components and modules link against.
pub(crate) struct Linkers {
    pub(crate) component: ComponentLinker<GuestState>,
    pub(crate) module: ModuleLinker<GuestState>,
}

impl Linkers {
    pub(crate) fn new(engine: &Engine) -> Result<Self> {
        let mut component = ComponentLinker::new(engine);
        p2::add_to_linker_async(&mut component)?;
        component.allow_shadowing(true);
        file_streams::add_to_linker(&mut component)?;
        special_files::add_to_linker(&mut component)?;
        paths::add_to_linker(&mut component)?;
        names::add_to_linker(&mut component)?;
        sockets::add_to_linker(&mut component)?;
        file_limits::add_to_linker(&mut component)?;
        component.allow_shadowing(false);
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;

        let mut module = ModuleLinker::new(engine);
        preview1::add_to_linker(&mut module)?;
        module.allow_shadowing(true);
        module.func_wrap(preview1::MODULE, "proc_exit", exit_with)?;
        module.allow_shadowing(false);
        preview1::add_preview0_to_linker(&mut module)?;
        Ok(Self { component, module })
    }
}

/// Preview 1 reserves codes from 126 on and `wasmtime-wasi` makes an error of them. A container's exit code is what a
/// process's would be: the low eight bits, whatever they are.
fn exit_with(code: i32) -> Result<()> {
    Err(I32Exit(code & 0xff).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Allocation, EngineOptions};

    #[test]
    fn our_interfaces_replace_those_of_the_machine() {
        let engine = EngineOptions::default().engine(Allocation::OnDemand).unwrap();
        let mut linker = ComponentLinker::<GuestState>::new(&engine);
        p2::add_to_linker_async(&mut linker).unwrap();
        assert!(names::add_to_linker(&mut linker).is_err(), "not the version that wasmtime-wasi links");
        assert!(file_limits::add_to_linker(&mut linker).is_err(), "nor these");
        assert!(file_streams::add_to_linker(&mut linker).is_err(), "nor these");
        assert!(special_files::add_to_linker(&mut linker).is_err(), "nor this");
        assert!(paths::add_to_linker(&mut linker).is_err(), "nor these");
    }
}
