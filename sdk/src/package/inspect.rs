//! What a workload file is, read from its bytes without running anything.

use thiserror::Error;
use wasmparser::{ComponentExternalKind, Parser, Payload, Validator, WasmFeatures};

/// What a component must export, one of them: a command, or a handler of HTTP requests.
const STARTS: [&str; 2] = ["wasi:cli/run@", "wasi:http/incoming-handler@"];
/// Most imports and exports that are kept; a file with more is refused.
const MAX_NAMES: usize = 10_000;

/// Core module or component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A core wasm module (WASI preview 1).
    Module,
    /// A component (WASI 0.2).
    Component,
}

/// What a workload file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Module or component.
    pub form: Form,
    /// What it needs: `wasi:cli/environment@0.2.0`, or `wasi_snapshot_preview1.fd_write`.
    pub imports: Vec<String>,
    /// What it offers.
    pub exports: Vec<String>,
    /// Whether its outermost exports say that it can run as a container.
    pub runnable: bool,
}

/// Why a file is no workload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InspectError {
    /// No wasm at all.
    #[error("not WebAssembly: the file begins with {0} instead of \"\\0asm\"")]
    NotWasm(String),
    /// Truncated or invalid.
    #[error("not valid WebAssembly at byte {offset}: {detail}")]
    Invalid {
        /// Where.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// More names than any real workload has.
    #[error("the file has more than {MAX_NAMES} imports and exports")]
    TooManyNames,
}

/// Validates `bytes` and lists their outermost imports and exports.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(InspectError::NotWasm(beginning(bytes)));
    }
    let invalid = |error: wasmparser::BinaryReaderError| InspectError::Invalid {
        offset: error.offset() as u64,
        detail: error.message().to_owned(),
    };
    let mut validator = Validator::new_with_features(WasmFeatures::default() | WasmFeatures::COMPONENT_MODEL);
    validator.validate_all(bytes).map_err(invalid)?;
    let form = if Parser::is_component(bytes) { Form::Component } else { Form::Module };
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0_usize);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if depth == 0 => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    imports.push(format!("{}.{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(invalid)?.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind == ComponentExternalKind::Instance || export.kind == ComponentExternalKind::Func {
                        exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
        if imports.len() + exports.len() > MAX_NAMES {
            return Err(InspectError::TooManyNames);
        }
    }
    let runnable = exports.iter().any(|name| match form {
        Form::Module => name == "_start",
        Form::Component => STARTS.iter().any(|start| name.starts_with(start)),
    });
    Ok(Inspection { form, imports, exports, runnable })
}

fn beginning(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing (it is empty)".to_owned();
    }
    let shown = &bytes[..bytes.len().min(8)];
    format!("\"{}\"", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn tells_modules_from_garbage() {
        let module = inspect(EMPTY_MODULE).unwrap();
        assert_eq!((module.form, module.runnable), (Form::Module, false));
        assert_eq!(inspect(b"\0asm\x0d\0\x01\0").unwrap().form, Form::Component);
        assert!(matches!(inspect(b"#!/bin/sh\n"), Err(InspectError::NotWasm(start)) if start == "\"#!/bin/s\""));
        assert!(matches!(inspect(b""), Err(InspectError::NotWasm(_))));
    }

    #[test]
    fn commands_and_http_handlers_can_be_run() {
        // (component (instance) (export NAME (instance 0))), all section lengths in one byte.
        let exporting = |name: &str| {
            let length = u8::try_from(name.len()).unwrap();
            let export = [&[1, 0, length], name.as_bytes(), &[5, 0, 0]].concat();
            let instance = [5, 3, 1, 1, 0];
            [&b"\0asm\x0d\0\x01\0"[..], &instance, &[11, u8::try_from(export.len()).unwrap()], &export].concat()
        };
        for (name, runnable) in [
            ("wasi:cli/run@0.2.3", true),
            ("wasi:http/incoming-handler@0.2.0", true),
            ("wasi:http/outgoing-handler@0.2.0", false),
        ] {
            assert_eq!(inspect(&exporting(name)).unwrap().runnable, runnable, "{name}");
        }
    }

    #[test]
    fn a_truncated_module_names_the_place() {
        // A type section that promises 5 bytes and ends.
        let error = inspect(b"\0asm\x01\0\0\0\x01\x05\x01").unwrap_err();
        assert!(matches!(error, InspectError::Invalid { offset: 8.., .. }), "{error}");
    }

    #[test]
    fn lists_imports_and_exports() {
        // (module (import "env" "f" (func)) (func (export "_start")))
        let bytes = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x09\x01\x03env\x01f\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\x01\x0a\x04\x01\x02\0\x0b";
        let module = inspect(bytes).unwrap();
        assert_eq!(module.imports, ["env.f"]);
        assert_eq!(module.exports, ["_start"]);
        assert!(module.runnable);
    }
}
