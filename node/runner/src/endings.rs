//! How a run ended, as the design has it: exit codes, and messages for people.

use crate::{
    memory::OutOfMemory,
    protocol::{Exit, ExitCause},
};
use std::fmt::{self, Write};
use wasmtime::WasmBacktrace;
use wasmtime_wasi::I32Exit;

/// Kubernetes keeps at most this much of a termination message.
const MAX_MESSAGE_BYTES: usize = 4096;
const TRAPPED: i32 = 134;
const KILLED: i32 = 137;
/// Added to the number of the signal that ended it.
const SIGNALLED: i32 = 128;

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

/// Ended by a signal that it does not handle, as shells count.
pub(crate) fn interrupted(signal: u8) -> Exit {
    exited(SIGNALLED + i32::from(signal))
}

pub(crate) fn out_of_memory(out: &OutOfMemory) -> Exit {
    Exit { code: KILLED, cause: ExitCause::OutOfMemory, message: out.to_string() }
}

pub(crate) fn trapped(message: String) -> Exit {
    Exit { code: TRAPPED, cause: ExitCause::Trapped, message: bounded(message) }
}

/// What happened, then where: the frames of the guest, innermost first, by name where the module has names. Bounded.
pub(crate) fn explanation(error: &wasmtime::Error) -> String {
    let cause = error.root_cause();
    let mut text = Bounded::default();
    // Names are the guest's, and may be long: what does not fit is not even made. That is the only way to fail.
    let _ = match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) => write!(text, "{cause}\n{backtrace}"),
        None => write!(text, "{error:#}"),
    };
    text.0
}

/// As much of a text as a message may have.
pub(crate) fn bounded(text: String) -> String {
    if text.len() <= MAX_MESSAGE_BYTES {
        return text;
    }
    let mut bounded = Bounded::default();
    let _ = bounded.write_str(&text);
    bounded.0
}

/// A message that ends where it is as long as it may be.
#[derive(Debug, Default)]
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_MESSAGE_BYTES - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|&index| text.is_char_boundary(index)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(bounded("short".to_owned()), "short");
        let long = bounded(format!("x{}", "é".repeat(MAX_MESSAGE_BYTES)));
        assert_eq!(long.len(), MAX_MESSAGE_BYTES - 1);
        let mut text = Bounded::default();
        assert!(write!(text, "{:4000}{:200}", "a", "b").is_err());
        assert_eq!(text.0.len(), MAX_MESSAGE_BYTES);
    }
}
