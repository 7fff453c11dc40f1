//! The functions that stand for bulk memory instructions.
//!
//! ```text
//!   length <= a piece? ──▶ the instruction itself
//!   a range that ends beyond its memory or segment? ──▶ the instruction itself, which traps and writes nothing
//!   to higher addresses? ──▶ piece by piece from behind, so that nothing is overwritten before it is read
//!   otherwise            ──▶ piece by piece from the front
//! ```
//!
//! Two memories may be one under two names, so that the direction is chosen for all. Nothing else runs while a guest is
//! interrupted, so nobody sees half of it: memories are never shared.
//!
//! What must never happen here: a trap after the first byte is written; a loop that goes on without a check.

use super::{Bulk, segment_bytes};
use wasm_encoder::{BlockType, Encode, Function, InstructionSink, ValType};
use wasmparser::MemoryType;

/// The first byte of a function's type.
const FUNCTION_TYPE: u8 = 0x60;
/// A page, unless a memory says otherwise.
const PAGE_BYTES_LOG2: u32 = 16;
/// The parameters: where to, where from (or what), how much.
const TO: u32 = 0;
const FROM: u32 = 1;
const LENGTH: u32 = 2;

/// What a module has.
pub(super) struct Pieces<'a> {
    pub(super) memories: &'a [MemoryType],
    pub(super) data_bytes: &'a [u64],
    pub(super) piece_bytes: u32,
}

/// How far a range may go.
#[derive(Debug, Clone, Copy)]
enum Extent {
    Memory { index: u32, page_bytes_log2: u32 },
    Segment { bytes: u64 },
}

/// A parameter that is an address.
#[derive(Debug, Clone, Copy)]
struct Place {
    parameter: u32,
    address: ValType,
    extent: Extent,
}

/// All about one instruction.
struct Operands {
    to: Place,
    /// None where it is the byte to fill with.
    from: Option<Place>,
    length: ValType,
}

impl Pieces<'_> {
    /// The encoded type of the function for `bulk`: what the instruction takes.
    pub(super) fn signature(&self, bulk: Bulk) -> Vec<u8> {
        let operands = self.operands(bulk);
        let second = operands.from.map_or(ValType::I32, |from| from.address);
        let mut bytes = vec![FUNCTION_TYPE];
        [operands.to.address, second, operands.length].encode(&mut bytes);
        0_u32.encode(&mut bytes);
        bytes
    }

    /// The function for `bulk`.
    pub(super) fn function(&self, bulk: Bulk) -> Function {
        let mut function = Function::new([]);
        let piece = i64::from(self.piece_bytes);
        let mut writer = Writer { code: function.instructions(), bulk, operands: self.operands(bulk), piece };
        writer.whole();
        function
    }

    fn operands(&self, bulk: Bulk) -> Operands {
        match bulk {
            Bulk::Fill { memory } => {
                let to = self.place(TO, memory);
                Operands { to, from: None, length: to.address }
            }
            Bulk::Copy { to, from } => {
                let (to, from) = (self.place(TO, to), self.place(FROM, from));
                let is_long = [to, from].iter().all(|place| place.address == ValType::I64);
                Operands { to, from: Some(from), length: if is_long { ValType::I64 } else { ValType::I32 } }
            }
            Bulk::Init { memory, data } => {
                let extent = Extent::Segment { bytes: segment_bytes(self.data_bytes, data) };
                let from = Place { parameter: FROM, address: ValType::I32, extent };
                Operands { to: self.place(TO, memory), from: Some(from), length: ValType::I32 }
            }
        }
    }

    /// Which memory it is has been validated.
    fn place(&self, parameter: u32, index: u32) -> Place {
        let memory = usize::try_from(index).ok().and_then(|index| self.memories.get(index));
        let page_bytes_log2 = memory.and_then(|memory| memory.page_size_log2).unwrap_or(PAGE_BYTES_LOG2);
        let is_long = memory.is_some_and(|memory| memory.memory64);
        let address = if is_long { ValType::I64 } else { ValType::I32 };
        Place { parameter, address, extent: Extent::Memory { index, page_bytes_log2 } }
    }
}

struct Writer<'a> {
    code: InstructionSink<'a>,
    bulk: Bulk,
    operands: Operands,
    piece: i64,
}

impl Writer<'_> {
    fn whole(&mut self) {
        self.is_longer_than_a_piece();
        self.code.i32_eqz();
        self.instruction_if();
        for place in [Some(self.operands.to), self.operands.from].into_iter().flatten() {
            self.is_out_of_bounds(place);
            self.instruction_if();
        }
        if let Some(from) = self.operands.from.filter(|_| matches!(self.bulk, Bulk::Copy { .. })) {
            self.wide(self.operands.to.parameter, self.operands.to.address);
            self.wide(from.parameter, from.address);
            self.code.i64_gt_u().if_(BlockType::Empty);
            self.backwards();
            self.code.return_().end();
        }
        self.forwards();
        self.code.end();
    }

    /// Leaves whether the length is more than a piece.
    fn is_longer_than_a_piece(&mut self) {
        self.code.local_get(LENGTH);
        self.piece(self.operands.length);
        match self.operands.length {
            ValType::I64 => self.code.i64_gt_u(),
            _ => self.code.i32_gt_u(),
        };
    }

    /// If so: the instruction with all that was given, and that is it.
    fn instruction_if(&mut self) {
        self.code.if_(BlockType::Empty).local_get(TO).local_get(FROM).local_get(LENGTH);
        self.instruction();
        self.code.return_().end();
    }

    /// The instruction itself.
    fn instruction(&mut self) {
        match self.bulk {
            Bulk::Fill { memory } => self.code.memory_fill(memory),
            Bulk::Copy { to, from } => self.code.memory_copy(to, from),
            Bulk::Init { memory, data } => self.code.memory_init(memory, data),
        };
    }

    /// Leaves whether the range from `place` on ends beyond its extent: the length is too much for all of it, or for
    /// what is behind the address. Neither can overflow.
    fn is_out_of_bounds(&mut self, place: Place) {
        self.wide(LENGTH, self.operands.length);
        self.extent(place);
        self.code.i64_gt_u();
        self.wide(place.parameter, place.address);
        self.extent(place);
        self.wide(LENGTH, self.operands.length);
        self.code.i64_sub().i64_gt_u().i32_or();
    }

    /// Leaves how far a range in `place` may go, as 64 bits.
    fn extent(&mut self, place: Place) {
        match place.extent {
            Extent::Segment { bytes } => {
                self.code.i64_const(bytes.cast_signed());
            }
            Extent::Memory { index, page_bytes_log2 } => {
                self.code.memory_size(index);
                if place.address == ValType::I32 {
                    self.code.i64_extend_i32_u();
                }
                self.code.i64_const(i64::from(page_bytes_log2)).i64_shl();
            }
        }
    }

    /// Leaves a parameter as 64 bits.
    fn wide(&mut self, parameter: u32, of: ValType) {
        self.code.local_get(parameter);
        if of == ValType::I32 {
            self.code.i64_extend_i32_u();
        }
    }

    /// Leaves the length of a piece.
    fn piece(&mut self, of: ValType) {
        match of {
            ValType::I64 => self.code.i64_const(self.piece),
            _ => self.code.i32_const(i32::try_from(self.piece).unwrap_or(i32::MAX)),
        };
    }

    fn add(&mut self, of: ValType) {
        match of {
            ValType::I64 => self.code.i64_add(),
            _ => self.code.i32_add(),
        };
    }

    /// The length is now less by a piece.
    fn one_piece_less(&mut self) {
        self.code.local_get(LENGTH);
        self.piece(self.operands.length);
        match self.operands.length {
            ValType::I64 => self.code.i64_sub(),
            _ => self.code.i32_sub(),
        };
        self.code.local_set(LENGTH);
    }

    fn forwards(&mut self) {
        self.code.loop_(BlockType::Empty).local_get(TO).local_get(FROM);
        self.piece(self.operands.length);
        self.instruction();
        for place in [Some(self.operands.to), self.operands.from].into_iter().flatten() {
            self.code.local_get(place.parameter);
            self.piece(place.address);
            self.add(place.address);
            self.code.local_set(place.parameter);
        }
        self.one_piece_less();
        self.again_and_the_rest();
    }

    fn backwards(&mut self) {
        self.code.loop_(BlockType::Empty);
        self.one_piece_less();
        for place in [Some(self.operands.to), self.operands.from].into_iter().flatten() {
            self.code.local_get(place.parameter).local_get(LENGTH);
            if self.operands.length != place.address {
                self.code.i64_extend_i32_u();
            }
            self.add(place.address);
        }
        self.piece(self.operands.length);
        self.instruction();
        self.again_and_the_rest();
    }

    /// The end of the loop, and what is left when it is no more than a piece.
    fn again_and_the_rest(&mut self) {
        self.is_longer_than_a_piece();
        self.code.br_if(0).end().local_get(TO).local_get(FROM).local_get(LENGTH);
        self.instruction();
    }
}
