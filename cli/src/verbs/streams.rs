//! This process's standard streams as those of a session.
//!
//! Without `-t` a terminal stays as it is: it shows and edits the line that is typed, sends it whole, turns Ctrl-D into the end
//! of input and Ctrl-C into this process's end, with which the session ends. With it all of this is done at the other end.

use super::{pods::say, print::refusal, terminal::Terminal};
use anyhow::{Result, anyhow};
use bytes::Bytes;
use clap::Args;
use coracle_sdk::sessions::{Event, INPUT, Outcome, RESIZE, STDERR, SessionReader, SessionWriter};
use std::{
    convert::Infallible,
    future::pending,
    io::{self, ErrorKind, IsTerminal as _, Read as _},
    pin::pin,
    process::ExitCode,
    thread,
};
use tokio::sync::{Notify, mpsc};

/// Read of standard input at once.
const INPUT_BYTES: usize = 16 * 1024;
/// Exit code of what failed in another way than by itself.
const FAILED: u8 = 1;

/// Which streams, and how.
#[derive(Debug, Args)]
pub(super) struct StreamArgs {
    /// Pass this command's standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Make this terminal the container's: with -i, and where standard input is a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The container, where the pod has several
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub container: String,
}

impl StreamArgs {
    /// Whether a terminal is asked for and can be had; says why it cannot.
    pub(super) fn terminal(&self) -> bool {
        let can = self.stdin && io::stdin().is_terminal();
        if self.tty && !can {
            say("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        self.tty && can
    }

    /// Carries the session to its end, which becomes this process's; with `raw`, on this terminal.
    pub(super) async fn carry(&self, mut reader: SessionReader, writer: SessionWriter, raw: bool) -> Result<ExitCode> {
        let mut terminal = if raw { Some(Terminal::take()?) } else { None };
        if terminal.is_some() {
            tell_size(&writer).await;
        }
        // Standard input cannot be given up once it is read, so it has a thread that nobody waits for.
        let (sender, mut typed) = mpsc::channel(1);
        if self.stdin {
            thread::spawn(move || read_input(&sender));
        } else {
            drop(sender);
        }
        let (sink, stdin) = (writer.clone(), self.stdin);
        let typing = tokio::spawn(async move {
            while let Some(bytes) = typed.recv().await {
                if !sink.send(INPUT, bytes).await {
                    return;
                }
            }
            if stdin {
                sink.close(INPUT).await;
            }
        });
        let resized = Notify::new();
        let ended = {
            let (mut showing, mut telling) = (pin!(show(&mut reader)), pin!(tell_sizes(&writer, &resized)));
            loop {
                tokio::select! {
                    outcome = &mut showing => break Ok(outcome),
                    never = &mut telling => match never {},
                    signalled = told(&mut terminal) => match signalled {
                        Some(code) => break Err(code),
                        None => resized.notify_one(),
                    },
                }
            }
        };
        typing.abort();
        // Before anything more is said on it.
        drop(terminal);
        let outcome = match ended {
            Ok(outcome) => outcome?,
            Err(code) => return Ok(ExitCode::from(code)),
        };
        match outcome {
            Outcome::Success => Ok(ExitCode::SUCCESS),
            Outcome::Exited(code) => {
                say(&format!("command terminated with exit code {code}"));
                Ok(ExitCode::from(u8::try_from(code).unwrap_or(FAILED)))
            }
            Outcome::Failed(error) => Err(anyhow!("{error}")),
        }
    }
}

fn read_input(sender: &mpsc::Sender<Bytes>) {
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return say(&format!("error: cannot read standard input: {error}")),
        }
    }
}

/// What the terminal says, where there is one.
async fn told(terminal: &mut Option<Terminal>) -> Option<u8> {
    match terminal {
        Some(terminal) => terminal.next().await,
        None => pending().await,
    }
}

async fn tell_size(writer: &SessionWriter) {
    if let Some(size) = Terminal::size() {
        // A session that is over says so elsewhere.
        writer.send(RESIZE, size.into()).await;
    }
}

/// Tells each change of the size. The other end may take nothing for long, and output and signals must not wait for that.
async fn tell_sizes(writer: &SessionWriter, resized: &Notify) -> Infallible {
    loop {
        resized.notified().await;
        tell_size(writer).await;
    }
}

async fn show(reader: &mut SessionReader) -> Result<Outcome> {
    loop {
        match reader.next().await.map_err(refusal)? {
            Event::Data(STDERR, bytes) => write(&mut io::stderr().lock(), &bytes)?,
            Event::Data(_, bytes) => write(&mut io::stdout().lock(), &bytes)?,
            Event::Closed(_) => {}
            Event::Ended(outcome) => return Ok(outcome),
        }
    }
}

fn write(out: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}
