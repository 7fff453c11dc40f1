//! What the compiler process accepts and how it refuses.

use super::*;
use crate::host::linker::COMPONENT_INTERFACES;

fn engine() -> Engine {
    EngineOptions::default().compiler().unwrap()
}

fn complaint(text_or_wasm: &[u8]) -> String {
    let wasm = match wat::parse_bytes(text_or_wasm) {
        Ok(wasm) if text_or_wasm.first() == Some(&b'(') => wasm.into_owned(),
        _ => text_or_wasm.to_vec(),
    };
    match compiled(&engine(), &wasm) {
        Err(Fault::Guest(text)) => text,
        other => panic!("{:?}", other.map(|(kind, _)| kind)),
    }
}

#[test]
fn what_is_not_a_guest_is_refused_with_the_reason() {
    for (source, expected) in [
        (&b""[..], "not WebAssembly: the file is empty"),
        (b"\x7fELF\x02", "not WebAssembly: it begins with 7f 45 4c 46 (an ELF program"),
        (b"hello, world", "not WebAssembly: it begins with 68 65 6c 6c, a module"),
        (b"\0as", "not WebAssembly: it begins with 00 61 73, a module"),
        (b"\0asm", "truncated WebAssembly: unexpected end"),
        (b"\0asm\x63\0\0\0", "malformed WebAssembly: unknown binary version"),
        (b"(module)", "the module does not export \"_start\""),
        (b"(module (memory (export \"_start\") 1))", "the module's export \"_start\" is not a function"),
        (b"(module (func (export \"_start\") (param i32)))", "the module's export \"_start\" is not a function"),
        (
            b"(module (import \"env\" \"launch\" (func)) (func (export \"_start\")))",
            "the module imports \"launch\" from \"env\", which this node does not provide",
        ),
        (
            b"(module (import \"wasi_snapshot_preview1\" \"fd_read\" (func)) (func (export \"_start\")))",
            "the module does not fit what this node provides:",
        ),
        (b"(component)", "the component exports nothing, but neither \"wasi:cli/run@0.2.x\" nor"),
    ] {
        let text = complaint(source);
        assert!(text.starts_with(expected), "{:?}: {text}", String::from_utf8_lossy(source));
    }
}

#[test]
fn who_asks_for_more_than_its_share_is_refused_with_the_share() {
    let tables = "(table 1 funcref)".repeat(65);
    let memories = "(core instance (instantiate $extra))".repeat(17);
    for (source, expected) in [
        (
            "(module (table 65537 funcref) (func (export \"_start\")))".to_owned(),
            "it asks for 65537 elements of a table, and a guest may have 65536",
        ),
        (format!("(module {tables} (func (export \"_start\")))"), "it asks for 65 tables, and a guest may have 64"),
        (
            command(&format!("(core module $extra (memory 1)) {memories}")),
            "it asks for 17 linear memories, and a guest may have 16",
        ),
        (
            command("(import \"given\" (core module $given))"),
            "the component imports \"given\", which this node does not provide",
        ),
    ] {
        let text = complaint(source.as_bytes());
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn bogus_modules_are_refused() {
    let valid = "(func (export \"_start\"))";
    for (what, source, expected) in [
        (
            "a body of the wrong type",
            "(module (func (export \"_start\") i32.const 1))".to_owned(),
            "invalid WebAssembly",
        ),
        ("64-bit memories", format!("(module (memory i64 1) {valid})"), "invalid WebAssembly"),
        ("several memories", format!("(module (memory 1) (memory 1) {valid})"), "invalid WebAssembly"),
        ("shared memory", format!("(module (memory 1 1 shared) {valid})"), "invalid WebAssembly"),
        ("too many locals", format!("(module (func (local{})) {valid})", " i64".repeat(50_001)), "invalid WebAssembly"),
        ("too large a memory", format!("(module (memory 65537) {valid})"), "invalid WebAssembly"),
    ] {
        let text = complaint(source.as_bytes());
        assert!(text.starts_with(expected), "{what}: {text}");
    }
}

/// The offset is that in the file, not in what is made of it.
#[test]
fn what_is_wrong_beside_a_bulk_instruction_is_said_of_the_file_as_it_came() {
    let module = r#"(module (memory 1)
        (func (export "_start") (memory.fill (i32.const 0) (i32.const 0) (memory.size)) i32.const 1))"#;
    let component = format!("(component {})", module.replace("(module", "(core module"));
    for text in [module, &component] {
        let wasm = wat::parse_str(text).unwrap();
        let engine = engine();
        let error = match inspect::kind(&wasm).unwrap() {
            GuestKind::Module => Module::new(&engine, &wasm).unwrap_err(),
            GuestKind::Component => Component::new(&engine, &wasm).unwrap_err(),
        };
        assert_eq!(complaint(&wasm), format!("invalid WebAssembly: {error:#}"));
    }
}

/// A command whose only use is to import `imports`.
fn command(imports: &str) -> String {
    format!(
        r#"(component
            {imports}
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.3" (instance $cli)))"#
    )
}

#[test]
fn imports_that_nobody_provides_are_named() {
    let member = r#"(instance (export "go" (func)))"#;
    for (import, expected) in [
        (
            "acme:rocket/launch@1.2.3",
            "the component imports \"acme:rocket/launch@1.2.3\", which this node does not provide",
        ),
        ("wasi:http/types@0.3.0", "the component imports \"wasi:http/types@0.3.0\", which"),
        ("wasi:cli/environment@0.3.0", "the component imports \"wasi:cli/environment@0.3.0\", which"),
        ("wasi:cli/environment@0.2.0", "the component does not fit what this node provides:"),
    ] {
        let text = complaint(command(&format!("(import \"{import}\" {member})")).as_bytes());
        assert!(text.starts_with(expected), "{import}: {text}");
    }
}

/// One name that each interface must define.
const MEMBERS: &[(&str, &str)] = &[
    ("wasi:cli/environment", "get-arguments"),
    ("wasi:cli/exit", "exit-with-code"),
    ("wasi:cli/stderr", "get-stderr"),
    ("wasi:cli/stdin", "get-stdin"),
    ("wasi:cli/stdout", "get-stdout"),
    ("wasi:cli/terminal-input", "terminal-input"),
    ("wasi:cli/terminal-output", "terminal-output"),
    ("wasi:cli/terminal-stderr", "get-terminal-stderr"),
    ("wasi:cli/terminal-stdin", "get-terminal-stdin"),
    ("wasi:cli/terminal-stdout", "get-terminal-stdout"),
    ("wasi:clocks/monotonic-clock", "subscribe-duration"),
    ("wasi:clocks/wall-clock", "now"),
    ("wasi:filesystem/preopens", "get-directories"),
    ("wasi:filesystem/types", "descriptor"),
    ("wasi:http/outgoing-handler", "handle"),
    ("wasi:http/types", "fields"),
    ("wasi:io/error", "error"),
    ("wasi:io/poll", "poll"),
    ("wasi:io/streams", "output-stream"),
    ("wasi:random/insecure", "get-insecure-random-u64"),
    ("wasi:random/insecure-seed", "insecure-seed"),
    ("wasi:random/random", "get-random-bytes"),
    ("wasi:sockets/instance-network", "instance-network"),
    ("wasi:sockets/ip-name-lookup", "resolve-addresses"),
    ("wasi:sockets/network", "network"),
    ("wasi:sockets/tcp", "tcp-socket"),
    ("wasi:sockets/tcp-create-socket", "create-tcp-socket"),
    ("wasi:sockets/udp", "udp-socket"),
    ("wasi:sockets/udp-create-socket", "create-udp-socket"),
];

#[test]
fn the_list_of_interfaces_is_what_is_linked() {
    assert_eq!(MEMBERS.iter().map(|(interface, _)| *interface).collect::<Vec<_>>(), COMPONENT_INTERFACES);
    let mut linkers = Linkers::new(&engine()).unwrap();
    let mut is_linked = |interface: &str, member: &str| {
        let mut instance = linkers.component.instance(&format!("{interface}@0.2.12")).unwrap();
        instance.func_wrap(member, |_, (): ()| Ok(())).is_err()
    };
    assert!(!is_linked("wasi:cli/nothing", "now"), "this test can fail");
    for (interface, member) in MEMBERS {
        assert!(is_linked(interface, member), "{interface}");
    }
}

#[test]
fn a_truncated_module_is_refused_wherever_it_is_cut() {
    let whole = wat::parse_str("(module (memory 1) (func (export \"_start\") nop))").unwrap();
    assert_eq!(compiled(&engine(), &whole).unwrap().0, GuestKind::Module);
    for cut in 4..whole.len() {
        let text = complaint(&whole[..cut]);
        let boundary = text.contains("does not export") || text.contains("invalid WebAssembly");
        assert!(text.contains("truncated") || boundary, "cut at {cut}: {text}");
    }
}

#[test]
fn a_giant_is_refused_by_its_size() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MAX_WASM_BYTES + 1).unwrap();
    assert_eq!(read(file), Err(Fault::Guest("larger than 256 MiB".to_owned())));
}

#[test]
fn commands_compile_and_say_their_kind() {
    let component = wat::parse_str(command("")).unwrap();
    assert_eq!(compiled(&engine(), &component).unwrap().0, GuestKind::Component);
}

/// Handles requests by ignoring them. A command as well, if there is a `run`.
fn handler(run: &str) -> String {
    format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $m
                (func (export "handle") (param i32 i32))
                (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $i "handle")))
            (instance $http (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $http))
            {run})"#
    )
}

#[test]
fn an_http_component_is_known_by_its_exports() {
    let engine = engine();
    let linkers = Linkers::new(&engine).unwrap();
    let run = r#"(func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.3" (instance $cli))"#;
    for (source, is_http) in [(handler(""), true), (handler(run), false), (command(""), false)] {
        let wasm = wat::parse_str(source).unwrap();
        let (kind, serialized) = compiled(&engine, &wasm).unwrap();
        assert_eq!(kind, GuestKind::Component);
        // SAFETY: the bytes were compiled one line above.
        let component = unsafe { Component::deserialize(&engine, serialized) }.unwrap();
        let code = Code::component(&linkers, &component).unwrap();
        assert_eq!(matches!(code, Code::Http(..)), is_http);
    }
}

#[test]
fn output_is_whole_or_absent() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("code.cwasm");
    for text in ["one", "two"] {
        let unfinished = Unfinished::beside(&output).unwrap();
        fs::write(&unfinished.0, text).unwrap();
        unfinished.finish(&output).unwrap();
    }
    let given_up = Unfinished::beside(&output).unwrap();
    fs::write(&given_up.0, "thr").unwrap();
    drop(given_up);
    assert_eq!(fs::read(&output).unwrap(), b"two");
    let missing = Unfinished::beside(&output).unwrap();
    assert!(missing.finish(&output).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
}

#[tokio::test]
async fn a_compiler_that_is_killed_at_any_moment_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // Its last word is the output; what it has made when it is killed is its root for a moment, and part of the code.
    let script = "for output; do :; done; mkdir ${output%/*}/.root-$$ && echo code >$output && kill -KILL $$";
    let command = ["/bin/sh", "-c", script, "compile"].map(OsString::from);
    let output = directory.path().join("code.new");
    let error = compile(&command, &directory.path().join("wasm"), &output).await.unwrap_err();
    assert!(matches!(&error, CompileError::Failed(what) if what.contains("SIGKILL")), "{error}");
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
