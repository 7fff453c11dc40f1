//! What a user types at a terminal. Keys are looked at as they come, even while the guest reads nothing, so that it can
//! be interrupted; what they come to waits in a short queue for the guest.

use super::{INPUT, RESIZE, Shown};
use crate::{
    exec::Writer,
    terminal::{Size, Terminal, Typed},
};
use coracle_runner::protocol::LogStream;
use coracle_wire::v1::ChannelFrame;
use std::{convert::Infallible, future::pending, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// Pieces of input that wait for the guest; each comes from one frame and is little longer.
const PIECES_MAX: usize = 16;
/// How long a command that is to have a terminal waits for its size. Clients say it at once or never.
const SIZE_PATIENCE: Duration = Duration::from_millis(500);

/// Whose terminal it is.
pub(super) enum Keyboard<'a> {
    /// The session's own.
    Own { terminal: &'a Terminal, shown: Shown, output: &'a mpsc::Sender<ChannelFrame> },
    /// The container's, where all who are attached see the echo.
    Shared,
}

impl Keyboard<'_> {
    /// Carries what the user types to the guest for as long as the session lasts; the end of it is the guest's if `ends`.
    pub(super) async fn carry(
        &self,
        first: Option<ChannelFrame>,
        mut input: mpsc::Receiver<ChannelFrame>,
        writer: &Writer,
        ends: bool,
    ) -> Infallible {
        let (pieces, mut queue) = mpsc::channel::<(Vec<u8>, bool)>(PIECES_MAX);
        let mut first = first;
        let take = async {
            // The queue lives as long as this.
            while let Ok(room) = pieces.reserve().await {
                let frame = match first.take() {
                    Some(frame) => frame,
                    None => match input.recv().await {
                        Some(frame) => frame,
                        None => break,
                    },
                };
                if frame.channel != INPUT {
                    continue;
                }
                let mut typed = self.typed(&frame, writer).await;
                typed.end |= frame.close && ends;
                if typed.end || !typed.input.is_empty() {
                    room.send((typed.input, typed.end));
                }
            }
            pending().await
        };
        let give = async {
            while let Some((bytes, end)) = queue.recv().await {
                // What a guest does not want any more is dropped.
                if !bytes.is_empty() {
                    writer.write(&bytes).await;
                }
                if end {
                    writer.end().await;
                }
            }
            pending().await
        };
        tokio::select! {
            never = take => never,
            never = give => never,
        }
    }

    /// Shows the keys and sends the signal that is among them.
    async fn typed(&self, frame: &ChannelFrame, writer: &Writer) -> Typed {
        let typed = match self {
            Self::Shared => writer.type_in(&frame.data).await.unwrap_or_default(),
            Self::Own { terminal, shown, output } => {
                let mut typed = terminal.typed(&frame.data);
                let echo = std::mem::take(&mut typed.screen);
                if typed.signal.is_some() {
                    // Seen before the end, unless there is no room; not waited for, since it may be what makes room.
                    shown.try_send(output, LogStream::Stdout, echo.into());
                } else if !echo.is_empty() {
                    // Who has gone is noticed where output is sent.
                    shown.send(output, LogStream::Stdout, echo.into()).await;
                }
                if frame.close {
                    typed.input.append(&mut terminal.rest());
                }
                typed
            }
        };
        if let Some(signal) = typed.signal {
            writer.interrupt(signal).await;
        }
        typed
    }
}

/// The size of the user's terminal, if it is said before anything else and soon; otherwise what was said instead.
pub(super) async fn size(input: &mut mpsc::Receiver<ChannelFrame>) -> (Option<Size>, Option<ChannelFrame>) {
    match timeout(SIZE_PATIENCE, input.recv()).await {
        Ok(Some(frame)) if frame.channel == RESIZE => (Size::read(&frame.data), None),
        Ok(frame) => (None, frame),
        Err(_) => (None, None),
    }
}
