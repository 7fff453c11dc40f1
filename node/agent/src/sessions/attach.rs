//! Attaching to a container: what it writes from now on, and its standard input where it has one.

use super::{Line, Shown, abandoned, container, exec::feed, keyboard::Keyboard, running};
use crate::{context::Context, exec::Writer, output::Attached};
use bytes::Bytes;
use coracle_objects::{ApiError, Reason};
use coracle_runner::protocol::LogStream;
use coracle_wire::v1::{self, ChannelFrame};
use serde_json::Value;
use std::future::pending;
use tokio::sync::mpsc;

/// Holds the session until the container's run is over.
pub(super) async fn serve(
    context: &Context,
    pod: &Value,
    request: v1::AttachRequest,
    line: Line,
) -> Result<Bytes, ApiError> {
    let spec = container(pod, &request.container)?;
    // The container decided when it started.
    let tty = spec["tty"] == true;
    if request.tty && !tty {
        let text = format!("Unable to use a TTY - container {} did not allocate one", request.container);
        return Err(ApiError::bad_request(text));
    }
    let run = running(pod, &request.container)?;
    let namespace_uid = context.namespace_uid(pod)?;
    let attached = context.guests.attach(&namespace_uid, &run).await.ok_or_else(|| {
        let text =
            format!("cannot attach to container \"{}\": it has ended or has too many readers", request.container);
        ApiError::new(Reason::TooManyRequests, text)
    })?;
    let shown = Shown { stdout: request.stdout, stderr: request.stderr, tty };
    let writer = Writer::of(context.guests.clone(), namespace_uid, run);
    let Line { mut input, output } = line;
    let has_input = request.stdin && spec["stdin"] == true;
    let ends = spec["stdinOnce"] == true;
    let written = async {
        if has_input && tty {
            match Keyboard::Shared.carry(None, input, &writer, ends).await {}
        }
        if has_input {
            match feed(input, &writer, ends).await {}
        }
        // Nobody will read it.
        while input.recv().await.is_some() {}
        pending::<()>().await;
    };
    tokio::select! {
        shown = show(attached, shown, &output) => shown.map(|()| Bytes::new()),
        () = written => Err(abandoned()),
    }
}

async fn show(mut attached: Attached, shown: Shown, output: &mpsc::Sender<ChannelFrame>) -> Result<(), ApiError> {
    while let Some((stream, bytes)) = attached.reader.next().await {
        if !shown.send(output, stream, bytes).await {
            return Err(abandoned());
        }
        let missed = attached.missed();
        if missed > 0 {
            let end = if shown.tty { "\r\n" } else { "\n" };
            let notice =
                format!("{end}[{missed} bytes of output were skipped: they came faster than they were read]{end}");
            shown.send(output, LogStream::Stderr, notice.into()).await;
        }
    }
    Ok(())
}
