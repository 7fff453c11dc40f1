//! That a rewritten guest does the same as before, byte for byte and trap for trap, and can be interrupted.

use super::*;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};
use wasmtime::{
    Config, Engine, Instance, Linker, Memory, Store, Trap, UpdateDeadline, Val,
    component::{Component as CompiledComponent, Linker as ComponentLinker},
};

/// Also what guests are not offered, so that the rewriter is right when they are.
fn engine() -> Engine {
    let mut config = Config::new();
    config.wasm_multi_memory(true).wasm_memory64(true).epoch_interruption(true).memory_reservation(1 << 20);
    Engine::new(&config).unwrap()
}

fn rewritten(wasm: &[u8], piece_bytes: u32) -> Cow<'_, [u8]> {
    let engine = engine();
    let validate = |wasm: &[u8]| wasmtime::Module::validate(&engine, wasm).map_err(|error| format!("{error:#}"));
    in_pieces(wasm, piece_bytes, &validate).unwrap()
}

/// Of the memories of [`every_instruction`]: do they have 64-bit addresses? The second comes from elsewhere, twice.
const MEMORIES: [bool; 5] = [false, false, false, true, true];
const SEGMENTS: [usize; 3] = [0, 5, 3000];
const PAGE: u64 = 1 << 16;

/// Exports memories and a function for each instruction on each of them; its operands are all 64 bits wide.
fn every_instruction() -> Vec<u8> {
    let operand = |parameter: u32, is_long: bool| {
        let get = format!("(local.get {parameter})");
        if is_long { get } else { format!("(i32.wrap_i64 {get})") }
    };
    let mut functions = Vec::new();
    let mut function = |name: String, instruction: String, longs: [bool; 3]| {
        let [to, from, length] = [0, 1, 2].map(|index| operand(index, longs[usize::try_from(index).unwrap()]));
        functions
            .push(format!("(func (export \"{name}\") (param i64 i64 i64) ({instruction} {to} {from} {length}))\n"));
    };
    for (to, &is_long) in MEMORIES.iter().enumerate() {
        function(format!("fill {to}"), format!("memory.fill {to}"), [is_long, false, is_long]);
        for (from, &other) in MEMORIES.iter().enumerate() {
            let longs = [is_long, other, is_long && other];
            function(format!("copy {to} {from}"), format!("memory.copy {to} {from}"), longs);
        }
        for data in 0..=SEGMENTS.len() {
            function(format!("init {to} {data}"), format!("memory.init {to} {data}"), [is_long, false, false]);
        }
    }
    for data in 0..=SEGMENTS.len() {
        functions.push(format!("(func (export \"drop {data}\") (param i64 i64 i64) (data.drop {data}))\n"));
    }
    let segments = SEGMENTS.map(|bytes| {
        let text = (0..bytes).map(|at| format!("\\{:02x}", (at * 7 + 1) % 251)).collect::<Vec<_>>().concat();
        format!("(data \"{text}\")\n")
    });
    let text = format!(
        r#"(module
            (import "other" "memory" (memory 1)) (import "other" "memory" (memory 1))
            (memory (export "a") 1) (memory (export "b") i64 1) (memory (export "c") i64 2)
            {} (data (memory 0) (i32.const 9) "active") {functions})"#,
        segments.concat(),
        functions = functions.concat()
    );
    wat::parse_str(text).unwrap()
}

struct Guest {
    store: Store<()>,
    instance: Instance,
    memories: Vec<Memory>,
}

impl Guest {
    fn new(engine: &Engine, wasm: &[u8]) -> Self {
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1);
        let other = wat::parse_str("(module (memory (export \"memory\") 1))").unwrap();
        let other = Instance::new(&mut store, &wasmtime::Module::new(engine, other).unwrap(), &[]).unwrap();
        let mut linker = Linker::new(engine);
        linker.instance(&mut store, "other", other).unwrap();
        let module = wasmtime::Module::new(engine, wasm).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let mut memories = vec![other.get_memory(&mut store, "memory").unwrap()];
        memories.extend(["a", "b", "c"].map(|name| instance.get_memory(&mut store, name).unwrap()));
        for (seed, memory) in memories.iter().enumerate() {
            for (at, byte) in memory.data_mut(&mut store).iter_mut().enumerate() {
                *byte = u8::try_from((at * 31 + at / 256 + seed) % 256).unwrap();
            }
        }
        Self { store, instance, memories }
    }

    fn call(&mut self, name: &str, operands: [u64; 3]) -> Option<Trap> {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        let result = function.call(&mut self.store, &operands.map(|value| Val::I64(value.cast_signed())), &mut []);
        result.err().map(|error| *error.downcast_ref().unwrap())
    }

    fn bytes(&self) -> Vec<&[u8]> {
        self.memories.iter().map(|memory| memory.data(&self.store)).collect()
    }
}

/// Near the beginning, near the end, anywhere, or far away.
fn address(random: &mut StdRng, end: u64) -> u64 {
    match random.random_range(0..10) {
        0..4 => random.random_range(0..60),
        4..6 => end.saturating_sub(random.random_range(0..60)),
        6..9 => random.random_range(0..=end),
        _ => *[end + 1, u64::from(u32::MAX), 1 << 32, u64::MAX - 3, u64::MAX].choose(random).unwrap(),
    }
}

#[test]
fn every_guest_does_the_same_as_before() {
    let (engine, wasm) = (engine(), every_instruction());
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut names = (0..MEMORIES.len())
        .flat_map(|to| {
            let copies = (0..MEMORIES.len()).map(move |from| format!("copy {to} {from}"));
            let inits = (0..=SEGMENTS.len()).map(move |data| format!("init {to} {data}"));
            copies.chain(inits).chain([format!("fill {to}")])
        })
        .collect::<Vec<_>>();
    // So often that segments are there for a while.
    names.extend((0..=SEGMENTS.len()).map(|data| format!("drop {data}")));
    for piece_bytes in [1, 7, 64, 1000, 40_000] {
        let mut plain = Guest::new(&engine, &wasm);
        let mut pieces = Guest::new(&engine, &rewritten(&wasm, piece_bytes));
        let (mut traps, mut done) = (0, 0);
        for _ in 0..600 {
            let name = names.choose(&mut random).unwrap();
            let end = if name.contains('4') { 2 * PAGE } else { PAGE };
            let operands = match name.split_once(' ').unwrap() {
                ("init", _) => [address(&mut random, end), address(&mut random, 5), address(&mut random, 3000)],
                _ => [address(&mut random, end), address(&mut random, end), address(&mut random, end)],
            };
            let trap = plain.call(name, operands);
            assert_eq!(pieces.call(name, operands), trap, "{name} {operands:?}, pieces of {piece_bytes}, seed {seed}");
            assert!(pieces.bytes() == plain.bytes(), "{name} {operands:?}, pieces of {piece_bytes}, seed {seed}");
            *(if trap.is_some() { &mut traps } else { &mut done }) += 1;
        }
        assert!(traps > 50 && done > 50, "{traps} traps, {done} without");
    }
}

/// Every way in which two ranges can lie to each other, each length against each piece.
#[test]
fn ranges_may_overlap() {
    let (engine, wasm) = (engine(), every_instruction());
    for piece_bytes in [1, 3, 8] {
        let mut plain = Guest::new(&engine, &wasm);
        let mut pieces = Guest::new(&engine, &rewritten(&wasm, piece_bytes));
        for (to, from, length) in
            (0..14).flat_map(|to| (0..14).flat_map(move |from| (0..20).map(move |length| (to, from, length))))
        {
            // One memory under two names.
            for name in ["copy 0 1", "copy 2 2", "copy 4 4"] {
                let operands = [to, from, length];
                assert_eq!((pieces.call(name, operands), plain.call(name, operands)), (None, None));
                for (ours, theirs) in pieces.bytes().iter().zip(plain.bytes()) {
                    assert_eq!(ours[..40], theirs[..40], "{name} {operands:?}, pieces of {piece_bytes}");
                }
            }
        }
    }
}

#[test]
fn what_needs_nothing_stays_as_it_is() {
    for text in [
        "(module (func (export \"_start\")))",
        "(module (memory 1) (table 9 funcref) (elem func)
            (func (table.fill (i32.const 0) (ref.null func) (i32.const 9)) (elem.drop 0)))",
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 1) (i32.const 131072))))",
        "(module (memory i64 1) (func (memory.copy (i64.const 0) (i64.const 1) (i64.const 131072))))",
        // No segment has more than a piece.
        "(module (memory 1) (data \"some\") (func (memory.init 0 (i32.const 0) (i32.const 0) (i32.const -1))))",
        "(component (core module (func)) (component (core module (memory 1))))",
    ] {
        let wasm = wat::parse_str(text).unwrap();
        assert!(matches!(rewritten(&wasm, PIECE_BYTES), Cow::Borrowed(_)), "{text}");
    }
    for text in [
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 1) (i32.const 131073))))",
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 1) (i32.const -1))))",
        "(module (memory i64 1) (func (memory.fill (i64.const 0) (i32.const 1) (i64.const -1))))",
        // What comes directly before is no length.
        "(module (memory 1) (func (param i32) local.get 0 i32.const 1 local.get 0 (block (drop (i32.const 7))) memory.fill))",
    ] {
        let wasm = wat::parse_str(text).unwrap();
        assert!(matches!(rewritten(&wasm, PIECE_BYTES), Cow::Owned(_)), "{text}");
    }
}

/// How often the engine could have interrupted a call.
fn checks(engine: &Engine, wasm: &[u8]) -> u32 {
    let checks = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&checks);
    let mut store = Store::new(engine, ());
    // No time at all, each time again.
    store.set_epoch_deadline(0);
    store.epoch_deadline_callback(move |_| {
        counted.fetch_add(1, Relaxed);
        Ok(UpdateDeadline::Continue(0))
    });
    if Parser::is_component(wasm) {
        let component = CompiledComponent::new(engine, wasm).unwrap();
        let instance = ComponentLinker::new(engine).instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        run.call(&mut store, ()).unwrap();
    } else {
        let module = wasmtime::Module::new(engine, wasm).unwrap();
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        instance.get_typed_func::<(), ()>(&mut store, "run").unwrap().call(&mut store, ()).unwrap();
    }
    checks.load(Relaxed)
}

#[test]
fn the_engine_looks_between_pieces() {
    let megabyte = "\\07".repeat(1 << 20);
    let segment = format!("(data $data \"{megabyte}\")");
    for (body, more) in [
        ("(memory.fill (i32.const 5) (i32.const 7) (i32.const 4194304))", ""),
        ("(memory.copy (i32.const 1) (i32.const 0) (i32.const 4194304))", ""),
        ("(memory.copy (i32.const 0) (i32.const 1) (i32.const 4194304))", ""),
        ("(memory.init $data (i32.const 3) (i32.const 0) (i32.const 1048576))", segment.as_str()),
    ] {
        let module = format!("(module $m (memory 65) {more} (func (export \"run\") {body}))");
        let inner = module.replace("(module", "(core module");
        let component = format!(
            r#"(component (component $c {inner}
                (core instance $i (instantiate $m)) (func (export "run") (canon lift (core func $i "run"))))
                (instance $c (instantiate $c)) (export "run" (func $c "run")))"#
        );
        let engine = engine();
        for text in [module, component] {
            let wasm = wat::parse_str(&text).unwrap();
            let (before, after) = (checks(&engine, &wasm), checks(&engine, &rewritten(&wasm, PIECE_BYTES)));
            assert!(before <= 3 && after >= 8, "{body}: {before}, then {after}");
        }
    }
}

#[test]
fn traps_name_what_they_know() {
    let text = r#"(module $m (memory 1)
        (func $culprit (param $length i32) (memory.fill (i32.const 0) (i32.const 7) (local.get $length)))
        (func $caller (export "run") (call $culprit (i32.const 200000))))"#;
    let wasm = wat::parse_str(text).unwrap();
    let engine = engine();
    let module = wasmtime::Module::new(&engine, rewritten(&wasm, PIECE_BYTES)).unwrap();
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(1);
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let error = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap().call(&mut store, ()).unwrap_err();
    let text = format!("{error:?}");
    for expected in ["m!memory.fill (in pieces)", "m!culprit", "m!caller", "out of bounds memory access"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn what_tells_old_offsets_is_left_out_and_the_rest_is_kept() {
    let text = r#"(module (memory 1) (@custom ".debug_info" "a") (@custom "metadata.code.branch_hint" "\00")
        (@custom "producers" "\00")
        (func (param i32) (memory.fill (local.get 0) (local.get 0) (local.get 0))))"#;
    let wasm = wat::parse_str(text).unwrap();
    let customs = |wasm: &[u8]| {
        let parser = Parser::new(0).parse_all(wasm);
        let names = parser.filter_map(|payload| match payload.unwrap() {
            Payload::CustomSection(custom) => Some(custom.name().to_owned()),
            _ => None,
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(customs(&wasm), [".debug_info", "metadata.code.branch_hint", "producers"]);
    assert_eq!(customs(&rewritten(&wasm, PIECE_BYTES)), ["producers", "name"]);
}

#[test]
fn nobody_is_made_valid() {
    let engine = engine();
    let validate = |wasm: &[u8]| wasmtime::Module::validate(&engine, wasm).map_err(|error| format!("{error:#}"));
    // Calls the function, and uses the type, that would only be there afterwards.
    for call in [
        "(call 1 (i32.const 0) (i32.const 0) (i32.const 0))",
        "(i32.const 0) (i32.const 0) (i32.const 0) (block (type 1) unreachable)",
    ] {
        let text = format!(
            "(module (memory 1) (func (param i32) (memory.fill (local.get 0) (local.get 0) (local.get 0)) {call}))"
        );
        let wasm = wat::parse_str(&text).unwrap();
        assert!(wasmtime::Module::new(&engine, &wasm).is_err());
        in_pieces(&wasm, PIECE_BYTES, &validate).unwrap_err();
        // The test can fail: unchecked, it is valid.
        let unchecked = in_pieces(&wasm, PIECE_BYTES, &|_| Ok(())).unwrap();
        wasmtime::Module::new(&engine, unchecked).unwrap();
    }
}

#[test]
fn what_is_cut_or_garbled_is_an_error_or_as_it_was() {
    let module = r#"(module (memory 1) (data "some")
        (func (param i32) (memory.fill (local.get 0) (local.get 0) (local.get 0))))"#;
    let component = format!("(component (component {}) (core module))", module.replace("(module", "(core module"));
    let engine = engine();
    let validate = |wasm: &[u8]| wasmtime::Module::validate(&engine, wasm).map_err(|error| format!("{error:#}"));
    for text in [module, &component] {
        let wasm = wat::parse_str(text).unwrap();
        for end in 0..wasm.len() {
            let _ = in_pieces(&wasm[..end], 1, &validate);
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut garbled = wasm.clone();
                garbled[end] = byte;
                if let Ok(result) = in_pieces(&garbled, 1, &validate) {
                    // Nothing that the engine refused gets past it because of this.
                    assert!(result == garbled || !Parser::is_core_wasm(&garbled) || validate(&garbled).is_ok());
                }
            }
        }
    }
}

#[test]
fn nesting_has_a_bound() {
    let nested = |depth: usize| {
        (0..depth).fold(Component::new().finish(), |inner, _| {
            let mut outer = Component::new();
            outer.section(&RawSection { id: 4, data: &inner });
            outer.finish()
        })
    };
    in_pieces(&nested(100), PIECE_BYTES, &|_| Ok(())).unwrap();
    assert!(in_pieces(&nested(101), PIECE_BYTES, &|_| Ok(())).unwrap_err().contains("nested"));
}
