//! Exec and attach over SPDY: one stream for each direction of each channel, named by the header `streamtype`.

use super::{
    Gone,
    bridge::{FromClient, Input, STDOUT, ToClient},
    spdy::{Connection, StreamReader, StreamWriter},
    websocket::status_text,
};
use bytes::Bytes;
use serde_json::Value;
use std::time::Duration;

/// How long the client may take to open all streams.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// The protocols, the preferred ones first: whether the end is told as a `Status`, and whether there is a stream for
/// the terminal's size.
pub(super) const PROTOCOLS: [(&str, Version); 5] = [
    ("v4.channel.k8s.io", Version { status: true, resizes: true }),
    ("v3.channel.k8s.io", Version { status: false, resizes: true }),
    ("v2.channel.k8s.io", Version { status: false, resizes: false }),
    ("channel.k8s.io", Version { status: false, resizes: false }),
    // Clients that name none speak the first.
    ("", Version { status: false, resizes: false }),
];

/// What a version of the protocol has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    status: bool,
    resizes: bool,
}

/// Which channels were asked for.
#[expect(clippy::struct_excessive_bools, reason = "they are the four switches of Kubernetes' options")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directions {
    /// Bytes for the container.
    pub(crate) stdin: bool,
    /// Bytes from it.
    pub(crate) stdout: bool,
    /// More of them.
    pub(crate) stderr: bool,
    /// A terminal: its size may change.
    pub(crate) tty: bool,
}

/// The reading half.
pub(super) struct FromStreams {
    connection: Connection,
    stdin: Option<StreamReader>,
    resize: Option<StreamReader>,
}

/// The writing half.
pub(super) struct ToStreams {
    version: Version,
    error: StreamWriter,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    /// Kept to be closed at the end: clients wait for that.
    others: Vec<StreamWriter>,
    finish: super::spdy::Finisher,
}

/// Waits until the client has opened every stream that it asked for; `None` when it does not.
pub(super) async fn halves(
    mut connection: Connection,
    version: Version,
    wanted: Directions,
) -> Option<(FromStreams, ToStreams)> {
    let collected = tokio::time::timeout(STREAMS_TIMEOUT, collect(&mut connection, version, wanted)).await;
    let Ok(Some(streams)) = collected else {
        tracing::debug!("a client did not open its streams");
        return None;
    };
    let mut from = FromStreams { connection, stdin: None, resize: None };
    let finish = from.connection.finisher();
    let (mut error, mut stdout, mut stderr, mut others) = (None, None, None, Vec::new());
    for (name, stream) in streams {
        match name {
            "error" => error = Some(stream.writer),
            "stdout" => stdout = Some(stream.writer),
            "stderr" => stderr = Some(stream.writer),
            "stdin" => {
                from.stdin = Some(stream.reader);
                others.push(stream.writer);
            }
            _ => {
                from.resize = Some(stream.reader);
                others.push(stream.writer);
            }
        }
    }
    Some((from, ToStreams { version, error: error?, stdout, stderr, others, finish }))
}

async fn collect(
    connection: &mut Connection,
    version: Version,
    wanted: Directions,
) -> Option<Vec<(&'static str, super::spdy::Stream)>> {
    let expected = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty && version.resizes),
    ];
    let mut missing: Vec<&'static str> =
        expected.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect();
    let mut streams = Vec::new();
    while !missing.is_empty() {
        let stream = connection.accept().await?;
        let name = stream.headers.get("streamtype");
        match missing.iter().position(|expected| *expected == name) {
            Some(place) => streams.push((missing.swap_remove(place), stream)),
            None => stream.writer.refuse().await.ok()?,
        }
    }
    Some(streams)
}

impl FromClient for FromStreams {
    async fn next(&mut self) -> Option<Input> {
        loop {
            tokio::select! {
                biased;
                () = self.connection.closed().cancelled() => return None,
                bytes = said(&mut self.stdin) => {
                    if let Some(bytes) = bytes {
                        return Some(Input::Stdin(bytes));
                    }
                    self.stdin = None;
                    if !self.connection.closed().is_cancelled() {
                        return Some(Input::StdinEnd);
                    }
                }
                size = said(&mut self.resize) => match size {
                    Some(size) => return Some(Input::Resize(size)),
                    None => self.resize = None,
                },
            }
        }
    }
}

/// Waits for ever on a stream that is not there.
async fn said(reader: &mut Option<StreamReader>) -> Option<Bytes> {
    match reader {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

impl ToClient for ToStreams {
    async fn output(&mut self, channel: u32, bytes: Bytes) -> Result<(), Gone> {
        let stream = if channel == STDOUT { &self.stdout } else { &self.stderr };
        match stream {
            Some(stream) => stream.send(bytes).await,
            None => Ok(()),
        }
    }

    /// The connection pings by itself.
    async fn heartbeat(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    async fn end(&mut self, status: &Value) -> Result<(), Gone> {
        if let Some(text) = status_text(status, self.version.status) {
            self.error.send(text.into()).await?;
        }
        for stream in [&self.stdout, &self.stderr].into_iter().flatten().chain(&self.others).chain([&self.error]) {
            // A stream that the client has given up needs no end.
            stream.finish().await.ok();
        }
        self.finish.finish().await;
        Ok(())
    }
}
