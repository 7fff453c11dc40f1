//! One connection to a port of a pod.

use super::{INPUT, Line, abandoned};
use crate::context::Context;
use bytes::{Bytes, BytesMut};
use coracle_objects::{ApiError, meta};
use coracle_wire::v1::ChannelFrame;
use serde_json::Value;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
};

/// Most bytes of one frame.
const PIECE_BYTES: usize = 16 << 10;

/// Connects, and holds the session until both sides have said everything.
pub(super) async fn serve(context: &Context, pod: &Value, port: u32, line: Line) -> Result<Bytes, ApiError> {
    let failed = |error: &io::Error| {
        let (name, uid) = (meta::name(pod), meta::uid(pod));
        ApiError::internal(format!("error forwarding port {port} to pod {name}, uid {uid}: {error}"))
    };
    let stream = dial(context, pod, port).await.map_err(|error| failed(&error))?;
    carry(stream, line).await.map_err(|error| failed(&error))?;
    Ok(Bytes::new())
}

/// As inside the pod, where servers that listen on its address only are found too.
async fn dial(context: &Context, pod: &Value, port: u32) -> io::Result<UnixStream> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let to = |address: IpAddr| context.network.dial_pod(meta::uid(pod), SocketAddr::new(address, port));
    match to(Ipv4Addr::LOCALHOST.into()).await {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            let own = pod["status"]["podIP"].as_str().and_then(|address| address.parse().ok());
            match own {
                Some(own) => to(own).await,
                None => Err(refused),
            }
        }
        other => other,
    }
}

/// Carries bytes both ways; the end of one direction leaves the other open.
async fn carry(stream: impl AsyncRead + AsyncWrite, line: Line) -> io::Result<()> {
    let (from_pod, to_pod) = tokio::io::split(stream);
    let Line { input, output } = line;
    tokio::try_join!(carry_in(input, to_pod), carry_out(from_pod, output))?;
    Ok(())
}

async fn carry_in(mut input: mpsc::Receiver<ChannelFrame>, mut to_pod: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(frame) = input.recv().await {
        if frame.channel != INPUT {
            continue;
        }
        to_pod.write_all(&frame.data).await?;
        if frame.close {
            return to_pod.shutdown().await;
        }
    }
    Err(gone())
}

async fn carry_out(mut from_pod: impl AsyncRead + Unpin, output: mpsc::Sender<ChannelFrame>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        let close = from_pod.read_buf(&mut buffer).await? == 0;
        let mut data = buffer.split().freeze();
        while data.len() > PIECE_BYTES {
            let data = data.split_to(PIECE_BYTES);
            output.send(ChannelFrame { channel: INPUT, data, close: false }).await.map_err(|_| gone())?;
        }
        output.send(ChannelFrame { channel: INPUT, data, close }).await.map_err(|_| gone())?;
        if close {
            return Ok(());
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, abandoned().message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static str, close: bool) -> ChannelFrame {
        ChannelFrame { channel: INPUT, data: Bytes::from_static(text.as_bytes()), close }
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let (ours, mut pod) = UnixStream::pair().unwrap();
        let (to_pod, input) = mpsc::channel(4);
        let (output, mut from_pod) = mpsc::channel(4);
        let carrying = tokio::spawn(carry(ours, Line { input, output }));
        to_pod.send(frame("question", true)).await.unwrap();
        let mut asked = String::new();
        pod.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "question");
        let answer = vec![b'x'; 3 * PIECE_BYTES];
        let sent = answer.clone();
        let answering = tokio::spawn(async move {
            pod.write_all(&sent).await.unwrap();
        });
        let mut received = Vec::new();
        while let Some(frame) = from_pod.recv().await {
            assert!(frame.data.len() <= PIECE_BYTES);
            received.extend_from_slice(&frame.data);
            if frame.close {
                break;
            }
        }
        assert_eq!(received, answer);
        answering.await.unwrap();
        carrying.await.unwrap().unwrap();
        drop(to_pod);
    }

    #[tokio::test]
    async fn a_pod_that_does_not_read_holds_the_user_back() {
        let (ours, pod) = UnixStream::pair().unwrap();
        let (to_pod, input) = mpsc::channel(1);
        let (output, _from_pod) = mpsc::channel(1);
        let carrying = tokio::spawn(carry(ours, Line { input, output }));
        let piece = Bytes::from(vec![0; PIECE_BYTES]);
        let mut taken = 0;
        // Until the queue stays full.
        while let Ok(sent) = tokio::time::timeout(
            std::time::Duration::from_millis(200),
            to_pod.send(ChannelFrame { channel: INPUT, data: piece.clone(), close: false }),
        )
        .await
        {
            sent.unwrap();
            taken += PIECE_BYTES;
            assert!(taken < 16 << 20, "nobody reads that");
        }
        drop(pod);
        assert!(carrying.await.unwrap().is_err(), "the pod is gone");
    }
}
