//! Questions that the machine's resolver cannot answer (other records than addresses), asked of the name servers that the
//! machine itself uses, and of nobody else.

use super::{machine::Machine, pods::Pod, shares::Shares};
use crate::dns::{Question, Transport};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Questions of all pods under way.
const RUNNING_MAX: usize = 64;
/// Longest wait for one server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Servers that are asked, as resolvers do.
const SERVERS_MAX: usize = 3;
/// Longest answer over UDP, in bytes.
const ANSWER_LENGTH_MAX: usize = 65_535;

pub(crate) struct Upstream {
    machine: Arc<dyn Machine>,
    running: Arc<Shares>,
}

impl Upstream {
    pub(crate) fn new(machine: Arc<dyn Machine>) -> Self {
        Self { machine, running: Shares::new(RUNNING_MAX) }
    }

    /// The answer for the pod; one that says "failed" where no server gave one.
    pub(crate) async fn ask(&self, pod: &Pod, question: &Question, transport: Transport) -> Vec<u8> {
        let Some(_share) = self.running.try_take(pod.uid()) else { return question.refused() };
        for server in self.machine.name_servers().into_iter().take(SERVERS_MAX) {
            match timeout(SERVER_TIMEOUT, ask_server(server, question, transport)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server did not answer"),
                Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
            }
        }
        question.failed()
    }
}

async fn ask_server(server: SocketAddr, question: &Question, transport: Transport) -> io::Result<Vec<u8>> {
    let id = rand::random();
    let query = question.forward(id);
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; ANSWER_LENGTH_MAX];
    let relayed = loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is somebody who guesses: the right answer may still come.
        if let Some(relayed) = question.relay(&buffer[..length], id) {
            break relayed;
        }
    };
    // Who asked by UDP is told that it was cut and comes back by TCP.
    if !relayed.is_truncated || transport == Transport::Udp {
        return Ok(relayed.bytes);
    }
    let whole = ask_by_stream(server, &query).await?;
    let whole = question.relay(&whole, id);
    whole.map(|whole| whole.bytes).ok_or_else(|| io::Error::other("it answered another question"))
}

async fn ask_by_stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
