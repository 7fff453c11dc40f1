//! Bulk memory instructions, made interruptible before a guest is compiled.
//!
//! The engine looks whether a turn is over at the entries of functions and the heads of loops, but not within
//! `memory.fill`, `memory.copy` and `memory.init`, which may write gigabytes. So each of these whose length is not known to be
//! small becomes a call of a function at the end of its module ([`pieces`]), which does the same piece by piece.
//!
//! ```text
//!   module: no such instruction? ── the same bytes
//!           otherwise validated, then: types, functions and code get more at their end, each instruction is a call,
//!           every other byte stays as it is, and so does each index
//!   component: the same for every module in it, however deep
//! ```
//!
//! What must never happen here: a guest that means something else afterwards (each trap and each byte written is the
//! same); one that was invalid and becomes valid; a longer instruction that stays whole; work on a module that has none.
//!
//! Those on tables stay: a table has at most [`crate::engine::MAX_TABLE_ELEMENTS`], half a MiB. What tells offsets in
//! the old code (`.debug_*`, branch hints) is left out; nothing here reads it, and it would be wrong.

mod pieces;

use std::{borrow::Cow, collections::BTreeMap, iter::Peekable, ops::Range, slice::Iter};
use wasm_encoder::{CodeSection, Component, Encode, Module, NameMap, NameSection, RawSection};
use wasmparser::{BinaryReader, Chunk, DataKind, Error, FunctionBody, MemoryType, Operator, Parser, Payload, TypeRef};

/// Raised whenever the same guest is rewritten in another way than before: part of what compiled code is known by.
pub(crate) const VERSION: u32 = 1;
/// Most that one instruction writes. If every page is touched for the first time (a copy touches twice as many), this
/// takes about a millisecond on a slow virtual machine; in memory that is there, some microseconds.
pub(crate) const PIECE_BYTES: u32 = 128 << 10;
/// How deep components may be nested. Those of tool chains are nested three deep.
const MAX_DEPTH: u32 = 100;
/// Functions of a module, as the validator has it.
const MAX_FUNCTIONS: usize = 1_000_000;
/// Custom sections that speak of offsets in the code begin so.
const ABOUT_OFFSETS: [&str; 2] = [".debug_", "metadata.code."];

/// An instruction that may write a lot, by all that does not change from one time to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bulk {
    Fill { memory: u32 },
    Copy { to: u32, from: u32 },
    Init { memory: u32, data: u32 },
}

/// One of them in the code: the bytes that are to be replaced.
#[derive(Debug, PartialEq, Eq)]
struct Site {
    bytes: Range<usize>,
    bulk: Bulk,
}

/// What of a module decides how it is rewritten.
#[derive(Debug, Default)]
struct Scan {
    types: usize,
    functions: usize,
    memories: Vec<MemoryType>,
    /// Length of each data segment.
    data_bytes: Vec<u64>,
    /// In the order of the code.
    sites: Vec<Site>,
}

/// `wasm` with its bulk memory instructions in pieces of at most `piece_bytes`; itself, if there are none. `validate` is
/// asked for each core module before it is rewritten.
///
/// # Errors
/// In words: it is malformed, invalid, or would be too large.
pub(super) fn in_pieces<'a>(
    wasm: &'a [u8],
    piece_bytes: u32,
    validate: &dyn Fn(&[u8]) -> Result<(), String>,
) -> Result<Cow<'a, [u8]>, String> {
    Rewriter { piece_bytes, validate }.any(wasm, 0)
}

struct Rewriter<'a> {
    piece_bytes: u32,
    validate: &'a dyn Fn(&[u8]) -> Result<(), String>,
}

impl Rewriter<'_> {
    fn any<'w>(&self, wasm: &'w [u8], depth: u32) -> Result<Cow<'w, [u8]>, String> {
        if Parser::is_component(wasm) { self.component(wasm, depth) } else { self.module(wasm) }
    }

    /// Copies all sections but those that hold modules and components.
    fn component<'w>(&self, wasm: &'w [u8], depth: u32) -> Result<Cow<'w, [u8]>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("components are nested more than {MAX_DEPTH} deep"));
        }
        let (mut parser, mut rest, mut component) = (Parser::new(0), wasm, Component::new());
        let mut is_changed = false;
        while !rest.is_empty() {
            let Chunk::Parsed { consumed, payload } = parser.parse(rest, true).map_err(|error| error.to_string())?
            else {
                return Err("it ends too early".to_owned());
            };
            rest = &rest[consumed..];
            let Some((id, range)) = payload.as_section() else { continue };
            // What is nested is announced before it is there.
            let data = wasm.get(range).ok_or("it ends too early")?;
            let data = match payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                    rest = rest.get(data.len()..).ok_or("it ends too early")?;
                    self.any(data, depth + 1)?
                }
                _ => Cow::Borrowed(data),
            };
            is_changed |= matches!(data, Cow::Owned(_));
            component.section(&RawSection { id, data: &data });
        }
        Ok(if is_changed { Cow::Owned(component.finish()) } else { Cow::Borrowed(wasm) })
    }

    fn module<'w>(&self, wasm: &'w [u8]) -> Result<Cow<'w, [u8]>, String> {
        let scan = Scan::of(wasm, self.piece_bytes).map_err(|error| error.to_string())?;
        if scan.sites.is_empty() {
            return Ok(Cow::Borrowed(wasm));
        }
        // Checks that nothing refers to what is only there afterwards, and lets the rest trust what it reads.
        (self.validate)(wasm)?;
        let calls = scan.calls()?;
        scan.rewrite(wasm, &calls, self.piece_bytes).map(Cow::Owned).map_err(|error| error.to_string())
    }
}

/// Which function does what, at the end of all that the module has.
type Calls = BTreeMap<Bulk, u32>;

impl Scan {
    fn of(wasm: &[u8], piece_bytes: u32) -> Result<Self, Error> {
        let mut scan = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(types) => {
                    for group in types {
                        scan.types += group?.types().len();
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => scan.functions += 1,
                            TypeRef::Memory(memory) => scan.memories.push(memory),
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(functions) => {
                    scan.functions += usize::try_from(functions.count()).unwrap_or(usize::MAX);
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        scan.memories.push(memory?);
                    }
                }
                Payload::CodeSectionEntry(body) => scan.body(&body, piece_bytes)?,
                Payload::DataSection(segments) => {
                    for segment in segments {
                        let segment = segment?;
                        // An active one is empty as soon as it is in place.
                        let is_passive = matches!(segment.kind, DataKind::Passive);
                        let bytes = if is_passive { segment.data.len() } else { 0 };
                        scan.data_bytes.push(u64::try_from(bytes).unwrap_or(u64::MAX));
                    }
                }
                _ => {}
            }
        }
        // Segments come behind the code. Nobody copies more of one than there is.
        let Self { sites, data_bytes, .. } = &mut scan;
        sites.retain(|site| match site.bulk {
            Bulk::Init { data, .. } => segment_bytes(data_bytes, data) > u64::from(piece_bytes),
            Bulk::Fill { .. } | Bulk::Copy { .. } => true,
        });
        Ok(scan)
    }

    fn body(&mut self, body: &FunctionBody<'_>, piece_bytes: u32) -> Result<(), Error> {
        let mut code = body.get_operators_reader()?;
        let mut is_short = false;
        while !code.eof() {
            let (instruction, start) = code.read_with_offset()?;
            let bulk = match instruction {
                Operator::MemoryFill { mem: memory } => Some(Bulk::Fill { memory }),
                Operator::MemoryCopy { dst_mem: to, src_mem: from } => Some(Bulk::Copy { to, from }),
                Operator::MemoryInit { data_index: data, mem: memory } => Some(Bulk::Init { memory, data }),
                _ => None,
            };
            if let Some(bulk) = bulk.filter(|_| !is_short) {
                self.sites.push(Site { bytes: start..code.original_position(), bulk });
            }
            // The length is the last operand: what comes directly before.
            is_short = match instruction {
                Operator::I32Const { value } => value.cast_unsigned() <= piece_bytes,
                Operator::I64Const { value } => value.cast_unsigned() <= u64::from(piece_bytes),
                _ => false,
            };
        }
        Ok(())
    }

    fn calls(&self) -> Result<Calls, String> {
        let mut calls = self.sites.iter().map(|site| (site.bulk, 0)).collect::<Calls>();
        let all = self.functions.saturating_add(calls.len());
        if all > MAX_FUNCTIONS {
            return Err(format!(
                "it has more functions than {MAX_FUNCTIONS}, with those for its bulk memory instructions"
            ));
        }
        for (index, call) in (self.functions..).zip(calls.values_mut()) {
            *call = u32::try_from(index).unwrap_or(u32::MAX);
        }
        Ok(calls)
    }

    fn rewrite(&self, wasm: &[u8], calls: &Calls, piece_bytes: u32) -> Result<Vec<u8>, Error> {
        let pieces = pieces::Pieces { memories: &self.memories, data_bytes: &self.data_bytes, piece_bytes };
        let (mut module, mut code) = (Module::new(), CodeSection::new());
        let (mut bodies_left, mut sites) = (0, self.sites.iter().peekable());
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload?;
            match &payload {
                Payload::CodeSectionStart { count, .. } => bodies_left = *count,
                Payload::CodeSectionEntry(body) => {
                    code.raw(&with_calls(wasm, body.range(), &mut sites, calls));
                    bodies_left -= 1;
                    if bodies_left == 0 {
                        for &bulk in calls.keys() {
                            code.function(&pieces.function(bulk));
                        }
                        module.section(&code);
                    }
                }
                Payload::CustomSection(custom) if is_about_offsets(custom.name()) => {}
                other => {
                    let Some((id, range)) = other.as_section() else { continue };
                    let data = &wasm[range];
                    let more = match other {
                        Payload::TypeSection(_) => calls.keys().map(|&bulk| pieces.signature(bulk)).collect(),
                        Payload::FunctionSection(_) => {
                            (self.types..).zip(calls).map(|(index, _)| encoded(index)).collect()
                        }
                        _ => Vec::new(),
                    };
                    module.section(&RawSection { id, data: &with_more(data, &more)? });
                }
            }
        }
        module.section(&names(calls));
        Ok(module.finish())
    }
}

fn segment_bytes(data_bytes: &[u64], data: u32) -> u64 {
    usize::try_from(data).ok().and_then(|data| data_bytes.get(data)).copied().unwrap_or(0)
}

fn is_about_offsets(section: &str) -> bool {
    ABOUT_OFFSETS.iter().any(|start| section.starts_with(start))
}

fn encoded(value: impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

/// The body of a function, with a call in the place of each site in it.
fn with_calls(wasm: &[u8], body: Range<usize>, sites: &mut Peekable<Iter<'_, Site>>, calls: &Calls) -> Vec<u8> {
    let mut code = Vec::with_capacity(body.len());
    let mut at = body.start;
    while let Some(site) = sites.next_if(|site| site.bytes.start < body.end) {
        code.extend_from_slice(&wasm[at..site.bytes.start]);
        wasm_encoder::Instruction::Call(calls[&site.bulk]).encode(&mut code);
        at = site.bytes.end;
    }
    code.extend_from_slice(&wasm[at..body.end]);
    code
}

/// A section that begins with the number of its entries, with more of them at its end.
fn with_more<'s>(section: &'s [u8], more: &[Vec<u8>]) -> Result<Cow<'s, [u8]>, Error> {
    if more.is_empty() {
        return Ok(Cow::Borrowed(section));
    }
    let mut reader = BinaryReader::new(section, 0);
    let count = reader.read_var_u32()?;
    let mut bytes = encoded(usize::try_from(count).unwrap_or(usize::MAX).saturating_add(more.len()));
    bytes.extend_from_slice(&section[reader.original_position()..]);
    for entry in more {
        bytes.extend_from_slice(entry);
    }
    Ok(Cow::Owned(bytes))
}

/// What the functions are called where a trap says where it was: names beside those that the module has.
fn names(calls: &Calls) -> NameSection {
    let (mut functions, mut section) = (NameMap::new(), NameSection::new());
    for (bulk, &index) in calls {
        let name = match bulk {
            Bulk::Fill { .. } => "memory.fill (in pieces)",
            Bulk::Copy { .. } => "memory.copy (in pieces)",
            Bulk::Init { .. } => "memory.init (in pieces)",
        };
        functions.append(index, name);
    }
    section.functions(&functions);
    section
}

#[cfg(test)]
mod tests;
