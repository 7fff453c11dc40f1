//! Compiled code, loaded once and shared by all runs of it.

use crate::{
    engine::TABLES_PER_GUEST,
    host::{files, linker::Linkers, state::GuestState},
    protocol::GuestKind,
};
use parking_lot::Mutex;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use wasmtime::{Engine, InstancePre, Module, ResourcesRequired, Store, component::Component};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Files that stay loaded while nothing runs them: a restart then costs nothing.
const MAX_LOADED: usize = 64;
/// Entry point of a preview 1 command.
pub(crate) const START: &str = "_start";
/// What a component exports that is run, and one that answers requests, less the patch of the version.
const RUN: &str = "wasi:cli/run@0.2";
const INCOMING_HANDLER: &str = "wasi:http/incoming-handler@0.2";

/// How a component is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Called once, and over when that call is.
    Command,
    /// Called for each request.
    Http,
}

/// A component that could be either is a command.
pub(crate) fn role(engine: &Engine, component: &Component) -> Option<Role> {
    let component_type = component.component_type();
    let exports = |interface: &str| {
        let patched = format!("{interface}.");
        component_type.exports(engine).any(|(name, _)| name == interface || name.starts_with(&patched))
    };
    if exports(RUN) { Some(Role::Command) } else { exports(INCOMING_HANDLER).then_some(Role::Http) }
}

/// What each instance takes of the pool that all guests of a runner share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Slots: one per linear memory, and at least one.
    pub(crate) slots: u32,
    /// Tables beyond those that the pool has for each slot.
    pub(crate) extra_tables: u32,
}

impl Share {
    fn of(needed: &ResourcesRequired) -> Self {
        let slots = needed.num_memories.max(1);
        Self { slots, extra_tables: needed.num_tables.saturating_sub(slots.saturating_mul(TABLES_PER_GUEST)) }
    }
}

/// What a component's instances need.
///
/// # Errors
/// When that cannot be known before: it instantiates modules that are given to it.
pub(crate) fn needs(component: &Component) -> wasmtime::Result<ResourcesRequired> {
    let unknown = || wasmtime::Error::msg("the component instantiates core modules that it imports");
    component.resources_required().ok_or_else(unknown)
}

/// A guest that is ready to be instantiated any number of times.
pub(crate) enum Code {
    Component(CommandPre<GuestState>, Share),
    Http(ProxyPre<GuestState>, Share),
    Module(InstancePre<GuestState>, Share),
}

impl Code {
    pub(crate) fn share(&self) -> Share {
        let (Self::Component(_, share) | Self::Http(_, share) | Self::Module(_, share)) = self;
        *share
    }

    pub(crate) fn component(linkers: &Linkers, component: &Component) -> wasmtime::Result<Self> {
        let instance = linkers.component.instantiate_pre(component)?;
        let share = Share::of(&needs(component)?);
        Ok(match role(component.engine(), component) {
            Some(Role::Http) => Self::Http(ProxyPre::new(instance)?, share),
            Some(Role::Command) | None => Self::Component(CommandPre::new(instance)?, share),
        })
    }

    pub(crate) fn module(linkers: &Linkers, module: &Module) -> wasmtime::Result<Self> {
        Ok(Self::Module(linkers.module.instantiate_pre(module)?, Share::of(&module.resources_required())))
    }
}

/// The loaded files of one runner.
pub(crate) struct CodeCache {
    engine: Engine,
    linkers: Linkers,
    root: PathBuf,
    /// Most recently used last.
    loaded: Mutex<Vec<(PathBuf, GuestKind, Arc<Code>)>>,
}

impl CodeCache {
    pub(crate) fn new(engine: Engine, root: PathBuf) -> wasmtime::Result<Self> {
        Ok(Self { linkers: Linkers::new(&engine)?, engine, root, loaded: Mutex::default() })
    }

    /// What is loaded already.
    pub(crate) fn get(&self, path: &Path, kind: GuestKind) -> Option<Arc<Code>> {
        let mut loaded = self.loaded.lock();
        let index =
            loaded.iter().position(|(loaded_path, loaded_kind, _)| loaded_path == path && *loaded_kind == kind)?;
        let entry = loaded.remove(index);
        let code = Arc::clone(&entry.2);
        loaded.push(entry);
        Some(code)
    }

    /// Loads a file; may take some milliseconds of the calling thread.
    pub(crate) fn load(&self, path: &Path, kind: GuestKind) -> wasmtime::Result<Arc<Code>> {
        let file = files::code_path(&self.root, path)?;
        // SAFETY: the file is below `code/`, which guests cannot reach and where only the agent puts files, each of
        // them written whole by our own compiler process and never changed afterwards.
        let code = unsafe {
            match kind {
                GuestKind::Component => {
                    Code::component(&self.linkers, &Component::deserialize_file(&self.engine, file)?)?
                }
                GuestKind::Module => Code::module(&self.linkers, &Module::deserialize_file(&self.engine, file)?)?,
            }
        };
        let code = Arc::new(code);
        let mut loaded = self.loaded.lock();
        if loaded.len() >= MAX_LOADED {
            loaded.remove(0);
        }
        loaded.push((path.to_owned(), kind, Arc::clone(&code)));
        Ok(code)
    }

    pub(crate) fn store(&self, state: GuestState) -> Store<GuestState> {
        Store::new(&self.engine, state)
    }
}
