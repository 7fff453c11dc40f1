//! A program on a terminal of its own, as a person sees it: keys go in, and what it shows comes out.

use crate::{eventually, wait::contains};
use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Read from the terminal at once, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// See the module. Dropping it ends the program.
pub struct Pty {
    child: Child,
    keyboard: File,
    /// Kept, so that the terminal's settings outlive the program.
    _line: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts `command` on a terminal of this size.
    ///
    /// # Panics
    /// When there is no terminal to be had, or the program does not start.
    #[must_use]
    pub fn start(mut command: Command, columns: u16, lines: u16) -> Self {
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(&size, None).expect("a terminal");
        let (keyboard, line) = (File::from(ends.master), File::from(ends.slave));
        let copy = || line.try_clone().expect("a descriptor");
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("the program starts");
        let screen = Arc::<Mutex<Vec<u8>>>::default();
        let (seen, mut output) = (Arc::clone(&screen), keyboard.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let mut piece = vec![0; PIECE_BYTES];
            // The end is an error here: nobody holds the other end any more.
            while let Ok(count @ 1..) = output.read(&mut piece) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..count]);
            }
        });
        Self { child, keyboard, _line: line, screen }
    }

    /// Presses keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("keys are taken");
    }

    /// Everything that was shown so far, control characters and all.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until this was shown.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn until(&self, part: &str) {
        eventually("the screen", || contains(&self.shown(), part));
    }

    /// Whether keys are passed to the program as they are pressed, neither shown nor edited here.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let settings = tcgetattr(&self.keyboard).expect("settings");
        !settings.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Sends the program a signal.
    ///
    /// # Panics
    /// When it is not there.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the program is there");
    }

    /// Waits for the program's end: its exit code.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn end(&mut self) -> i32 {
        eventually("the program to end", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
            other => Err(format!("{other:?}, screen {:?}", self.shown())),
        })
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
