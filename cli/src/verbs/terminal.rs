//! This process's terminal as the keyboard and screen of a session: keys are passed on as they are pressed and nothing is
//! shown or done here, since the other end does all of it. However the session ends, by a signal too, the terminal is then as
//! it was.

use anyhow::{Context as _, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::json;
use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Added to a signal's number for the exit code of what it ended.
const SIGNALLED: u8 = 128;

mod request {
    //! The one request for which there is no other call.
    nix::ioctl_read_bad!(size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
}

/// The terminal while a session has it. Dropping it gives it back.
pub(super) struct Terminal {
    before: Termios,
    resized: Signal,
    /// What ends this process, and the exit code then.
    ending: [(Signal, u8); 4],
}

impl Terminal {
    /// Takes the terminal that is standard input.
    pub(super) fn take() -> Result<Self> {
        let listen = |kind: SignalKind| signal(kind).context("cannot listen for signals");
        let ending = |kind: SignalKind| {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
            Ok::<_, anyhow::Error>((listen(kind)?, SIGNALLED + number))
        };
        // From here on a signal ends this process only when the terminal was given back.
        let ending = [
            ending(SignalKind::interrupt())?,
            ending(SignalKind::terminate())?,
            ending(SignalKind::hangup())?,
            ending(SignalKind::quit())?,
        ];
        let resized = listen(SignalKind::window_change())?;
        let before = tcgetattr(io::stdin().as_fd()).context("cannot ask the terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &raw).context("cannot set the terminal")?;
        Ok(Self { before, resized, ending })
    }

    /// How large it is, as sessions say it; nothing where it does not know.
    pub(super) fn size() -> Option<String> {
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request writes one `winsize`, to which the pointer is valid, and keeps nothing.
        unsafe { request::size(io::stdin().as_raw_fd(), &raw mut size) }.ok()?;
        let known = size.ws_col > 0 && size.ws_row > 0;
        known.then(|| json!({"Width": size.ws_col, "Height": size.ws_row}).to_string())
    }

    /// Waits for a change of its size, answered by `None`, or for a signal to end, answered by the exit code.
    pub(super) async fn next(&mut self) -> Option<u8> {
        let [interrupt, terminate, hangup, quit] = &mut self.ending;
        tokio::select! {
            _ = interrupt.0.recv() => Some(interrupt.1),
            _ = terminate.0.recv() => Some(terminate.1),
            _ = hangup.0.recv() => Some(hangup.1),
            _ = quit.0.recv() => Some(quit.1),
            _ = self.resized.recv() => None,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}
