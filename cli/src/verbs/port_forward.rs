//! `coracle port-forward`.

use super::{ScopeArgs, pods, print::refusal};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use coracle_objects::{Reason, meta};
use coracle_sdk::{
    Connection, Credentials,
    connection::CallError,
    sessions::{Event, INPUT, Outcome, PortForwardRequest, SessionReader, SessionWriter},
};
use serde_json::Value;
use std::{
    io::{self, ErrorKind, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
};

/// Connections at a time; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 100;
/// Read of a connection at once.
const PIECE_BYTES: usize = 16 * 1024;
/// How long nothing is accepted when this process has no descriptor left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Reach ports of a pod from this machine, until this command ends.
#[derive(Debug, Args)]
pub(crate) struct PortForward {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Addresses to listen on: IP addresses, or localhost
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
    /// The pod: NAME, pod/NAME, or what selects pods, such as svc/NAME
    pod: String,
    /// LOCAL:REMOTE, or PORT for both; without LOCAL (:REMOTE) any free one. REMOTE may be a name
    #[arg(required = true)]
    ports: Vec<String>,
}

/// A port of this machine, and one of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

/// Where connections go.
struct Place {
    credentials: Credentials,
    pod: String,
    slots: Arc<Semaphore>,
    /// The pod is gone.
    lost: mpsc::Sender<anyhow::Error>,
}

impl PortForward {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, credentials) = self.scope.connect_as()?;
        let found = pods::find(&connection, &credentials.namespace, &self.pod).await?;
        let phase = found.pod["status"]["phase"].as_str().unwrap_or_default();
        if phase != "Running" {
            bail!("unable to forward port because pod is not running. Current status={phase}");
        }
        let wanted = self.ports.iter().map(|text| pair(text, &found)).collect::<Result<Vec<_>>>()?;
        let (lost, mut ended) = mpsc::channel(1);
        let place = Arc::new(Place {
            credentials,
            pod: meta::name(&found.pod).to_owned(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            lost,
        });
        for pair in wanted {
            for listener in listen(&self.address, pair.local).await? {
                let address = listener.local_addr()?;
                let mut out = io::stdout().lock();
                writeln!(out, "Forwarding from {address} -> {}", pair.remote)?;
                out.flush()?;
                tokio::spawn(accept(listener, pair.remote, Arc::clone(&place)));
            }
        }
        match ended.recv().await {
            Some(error) => Err(error.context("lost connection to pod")),
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

/// Reads `LOCAL:REMOTE`; a service's port stands for the port of its pods behind it.
fn pair(text: &str, found: &pods::Found) -> Result<Pair> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0);
    let remote_number = match &found.named {
        Some(service) if service["kind"] == "Service" => behind(service, &found.pod, remote)?,
        _ => number(remote).or_else(|| container_port(&found.pod, remote)),
    };
    let remote_number =
        remote_number.with_context(|| format!("pod {} has no port \"{remote}\"", meta::name(&found.pod)))?;
    let local_number = match local {
        "" | "0" => 0,
        same if same == remote => number(same).unwrap_or(remote_number),
        other => number(other).with_context(|| format!("\"{other}\" is not a port: it must be between 1 and 65535"))?,
    };
    Ok(Pair { local: local_number, remote: remote_number })
}

fn container_port(pod: &Value, name: &str) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.filter_map(|container| container["ports"].as_array()).flatten();
    ports.find(|port| port["name"] == name)?["containerPort"].as_u64()?.try_into().ok()
}

fn behind(service: &Value, pod: &Value, port: &str) -> Result<Option<u16>> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found =
        ports.find(|one| one["name"] == port || one["port"].as_u64().is_some_and(|own| own.to_string() == port));
    let found = found.with_context(|| format!("service {} has no port {port}", meta::name(service)))?;
    Ok(match &found["targetPort"] {
        Value::String(name) => container_port(pod, name),
        Value::Null => found["port"].as_u64().and_then(|number| number.try_into().ok()),
        number => number.as_u64().and_then(|number| number.try_into().ok()),
    })
}

/// One listener for each address; of `localhost`'s two, one is enough.
async fn listen(addresses: &[String], port: u16) -> Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for text in addresses {
        let addresses: Vec<IpAddr> = match text.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            other => {
                vec![other.parse().with_context(|| format!("\"{other}\" is neither an IP address nor localhost"))?]
            }
        };
        let mut failure = None;
        let before = listeners.len();
        for address in addresses {
            // A port that was any is the same for all.
            let port = match listeners.first() {
                Some(first) if port == 0 => first.local_addr()?.port(),
                _ => port,
            };
            match TcpListener::bind((address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(error) => failure = Some(anyhow!("unable to listen on {address} port {port}: {error}")),
            }
        }
        if let Some(failure) = failure.filter(|_| listeners.len() == before) {
            return Err(failure);
        }
    }
    Ok(listeners)
}

async fn accept(listener: TcpListener, remote: u16, place: Arc<Place>) {
    let local = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    loop {
        let Ok(slot) = Arc::clone(&place.slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if error.kind() != ErrorKind::ConnectionAborted {
                    pods::say(&format!("error: cannot accept a connection: {error}"));
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
                continue;
            }
        };
        pods::say(&format!("Handling connection for {local}"));
        let place = Arc::clone(&place);
        tokio::spawn(async move {
            if let Err(error) = forward(stream, remote, &place).await {
                pods::say(&format!("error: {error:#}"));
                if is_gone(&error) {
                    let _ = place.lost.try_send(error);
                }
            }
            drop(slot);
        });
    }
}

/// Whether there is no use in trying again.
fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CallError::Refused(refusal)) if refusal.reason == Reason::NotFound)
}

/// Carries one connection, over a connection of its own to the server: what nobody reads holds up itself only.
async fn forward(stream: TcpStream, remote: u16, place: &Place) -> Result<()> {
    let connection = Connection::new(&place.credentials).context("cannot use the kubeconfig")?;
    let request = PortForwardRequest {
        namespace: place.credentials.namespace.clone(),
        pod: place.pod.clone(),
        port: remote.into(),
        ..PortForwardRequest::default()
    };
    let (reader, writer) = connection.port_forward(request).await?;
    let (from_client, to_client) = stream.into_split();
    // A client that has gone ends the session, and so does the session's end.
    tokio::select! {
        done = carry_out(reader, to_client) => done,
        error = carry_in(from_client, writer) => Err(error),
    }
}

async fn carry_in(mut from_client: OwnedReadHalf, writer: SessionWriter) -> anyhow::Error {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let going = match from_client.read(&mut buffer).await {
            Ok(0) => {
                writer.close(INPUT).await;
                false
            }
            Ok(count) => writer.send(INPUT, bytes::Bytes::copy_from_slice(&buffer[..count])).await,
            Err(error) => return anyhow!("the connection broke: {error}"),
        };
        if !going {
            return std::future::pending().await;
        }
    }
}

async fn carry_out(mut reader: SessionReader, mut to_client: OwnedWriteHalf) -> Result<()> {
    loop {
        match reader.next().await.map_err(refusal)? {
            Event::Data(_, bytes) => to_client.write_all(&bytes).await.context("the connection broke")?,
            Event::Closed(_) => to_client.shutdown().await.context("the connection broke")?,
            Event::Ended(Outcome::Failed(error)) => bail!("{error}"),
            Event::Ended(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(named: Option<Value>) -> pods::Found {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "ports": ports}]}});
        pods::Found { pod, named }
    }

    #[test]
    fn ports_are_read() {
        let pod = found(None);
        for (text, local, remote) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            (":80", 0, 80),
            ("0:80", 0, 80),
            ("http", 8080, 8080),
            ("9:http", 9, 8080),
        ] {
            assert_eq!(pair(text, &pod).unwrap(), Pair { local, remote }, "{text}");
        }
        for text in ["", ":", "x", "80:x", "x:80", "70000", "0"] {
            assert!(pair(text, &pod).is_err(), "{text}");
        }
    }

    #[test]
    fn a_services_port_is_its_pods() {
        let ports = json!([{"name": "web", "port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081},
            {"port": 82}, {"port": 83, "targetPort": "nothing"}]);
        let service = found(Some(json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}})));
        for (text, local, remote) in
            [("80", 80, 8080), ("5000:80", 5000, 8080), ("web", 8080, 8080), ("81", 81, 8081), ("82", 82, 82)]
        {
            assert_eq!(pair(text, &service).unwrap(), Pair { local, remote }, "{text}");
        }
        for text in ["83", "8080", "http"] {
            assert!(pair(text, &service).is_err(), "{text}");
        }
    }
}
