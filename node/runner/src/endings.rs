//! How a run ended, as the design has it: exit codes, and messages for people.

use crate::{
    host::memory::OutOfMemory,
    protocol::{Exit, ExitCause},
};
use wasmtime::WasmBacktrace;
use wasmtime_wasi::I32Exit;

/// Kubernetes keeps at most this much of a termination message.
const MAX_MESSAGE_BYTES: usize = 4096;
const TRAPPED: i32 = 134;
const KILLED: i32 = 137;

/// What became of a command.
pub(crate) fn of_command(result: wasmtime::Result<Result<(), ()>>) -> Exit {
    match result {
        Ok(Ok(())) => exited(0),
        Ok(Err(())) => exited(1),
        Err(error) => {
            if let Some(&I32Exit(code)) = error.downcast_ref() {
                exited(code)
            } else if let Some(out) = error.downcast_ref::<OutOfMemory>() {
                out_of_memory(out)
            } else {
                trapped(explanation(&error))
            }
        }
    }
}

pub(crate) fn exited(code: i32) -> Exit {
    Exit { code, cause: ExitCause::Exited, message: String::new() }
}

pub(crate) fn killed() -> Exit {
    Exit { code: KILLED, cause: ExitCause::Killed, message: String::new() }
}

pub(crate) fn out_of_memory(out: &OutOfMemory) -> Exit {
    Exit { code: KILLED, cause: ExitCause::OutOfMemory, message: out.to_string() }
}

pub(crate) fn trapped(message: String) -> Exit {
    Exit { code: TRAPPED, cause: ExitCause::Trapped, message: bounded(message) }
}

/// What happened, then where: the frames of the guest, innermost first. Bounded.
pub(crate) fn explanation(error: &wasmtime::Error) -> String {
    let cause = error.root_cause();
    bounded(match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) => format!("{cause}\n{backtrace}"),
        None => format!("{error:#}"),
    })
}

/// As much of a text as a message may have.
pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|&index| text.is_char_boundary(index)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
