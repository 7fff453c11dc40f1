//! Saying what is wrong with a file that should be a guest.

use crate::{
    code,
    engine::{MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES},
    host::linker::COMPONENT_INTERFACES,
    protocol::GuestKind,
};
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::{Engine, ResourcesRequired, UnknownImportError, component::Component};

const MAGIC: &[u8] = b"\0asm";
/// What people push by mistake, by how it begins.
const LOOKALIKES: &[(&[u8], &str)] = &[
    (b"\x7fELF", "an ELF program for this machine, not compiled for WebAssembly"),
    (b"#!", "a script"),
    (b"(module", "WebAssembly text; it must be assembled first"),
    (b"(component", "WebAssembly text; it must be assembled first"),
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"MZ", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
];

/// Core module or component, or why it is neither. Looks at the structure only: every section must be there in full.
pub(super) fn kind(wasm: &[u8]) -> Result<GuestKind, String> {
    if wasm.is_empty() {
        return Err("not WebAssembly: the file is empty".to_owned());
    }
    if !wasm.starts_with(MAGIC) {
        return Err(not_wasm(wasm));
    }
    let mut kind = None;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::Version { encoding, .. }) => {
                kind.get_or_insert(match encoding {
                    Encoding::Module => GuestKind::Module,
                    Encoding::Component => GuestKind::Component,
                });
            }
            Ok(_) => {}
            Err(error) => {
                // Whatever is missed at the very end is missed because the file ends there.
                let cut = error.message().contains("unexpected end") || error.offset() >= wasm.len();
                let what = if cut { "truncated" } else { "malformed" };
                return Err(format!(
                    "{what} WebAssembly: {} at offset {} of {} bytes",
                    error.message(),
                    error.offset(),
                    wasm.len()
                ));
            }
        }
    }
    kind.ok_or_else(|| "not WebAssembly: it ends after its first bytes".to_owned())
}

fn not_wasm(bytes: &[u8]) -> String {
    let first = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let guess = LOOKALIKES.iter().find(|(start, _)| bytes.starts_with(start));
    let guess = guess.map_or(String::new(), |(_, what)| format!(" ({what})"));
    format!("not WebAssembly: it begins with {first}{guess}, a module or component with 00 61 73 6d")
}

/// What an instance begins with must fit into what one guest may have of the pool that all share.
pub(super) fn fits(needed: &ResourcesRequired) -> Result<(), String> {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    for (what, asked, most) in [
        ("linear memories", u64::from(needed.num_memories), count(MAX_MEMORIES)),
        ("tables", u64::from(needed.num_tables), count(MAX_TABLES)),
        ("elements of a table", needed.max_initial_table_size.unwrap_or(0), count(MAX_TABLE_ELEMENTS)),
    ] {
        if asked > most {
            return Err(format!("it asks for {asked} {what}, and a guest may have {most}"));
        }
    }
    Ok(())
}

/// A component must export what this node knows how to start.
pub(super) fn component_can_start(engine: &Engine, component: &Component) -> Result<(), String> {
    if code::role(engine, component).is_some() {
        return Ok(());
    }
    let component_type = component.component_type();
    let mut names = component_type.exports(engine).map(|(name, _)| name).collect::<Vec<_>>();
    names.truncate(8);
    let names = if names.is_empty() { "nothing".to_owned() } else { format!("\"{}\"", names.join("\", \"")) };
    Err(format!(
        "the component exports {names}, but neither \"wasi:cli/run@0.2.x\" nor \"wasi:http/incoming-handler@0.2.x\", by \
         which this node starts it"
    ))
}

/// Names the imports that nobody provides; `error` is what the linker said.
pub(super) fn component_link_error(engine: &Engine, component: &Component, error: &wasmtime::Error) -> String {
    let component_type = component.component_type();
    let missing = component_type
        .imports(engine)
        .map(|(name, _)| name)
        .filter(|name| !is_provided(name))
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>();
    match missing.as_slice() {
        [] => format!("the component does not fit what this node provides: {error:#}"),
        [one] => format!("the component imports {one}, which this node does not provide"),
        several => format!("the component imports {}, which this node does not provide", several.join(", ")),
    }
}

fn is_provided(name: &str) -> bool {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    (version == "0.2" || version.starts_with("0.2.")) && COMPONENT_INTERFACES.contains(&interface)
}

/// Names the import of a core module that nobody provides.
pub(super) fn module_link_error(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<UnknownImportError>() {
        Some(import) => format!(
            "the module imports \"{}\" from \"{}\", which this node does not provide",
            import.name(),
            import.module()
        ),
        None => format!("the module does not fit what this node provides: {error:#}"),
    }
}
