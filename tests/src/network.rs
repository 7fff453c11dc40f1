//! The network as seen from both sides: HTTP and datagrams from the host, and pods that run the probe.

use crate::{Cluster, Kubectl, eventually, guest, pods};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

/// How long one answer may take before it counts as none.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Longest answer that is read, in bytes.
const ANSWER_LENGTH_MAX: u64 = 128 << 20;

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Everything before the body.
    pub head: String,
    /// The body, put together if it came in chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.find(|header| header.0.eq_ignore_ascii_case(name)).map(|header| header.1.trim())
    }
}

/// `GET path` over a connection of its own.
pub fn get(server: SocketAddr, path: &str) -> Result<Answer, String> {
    request(server, "GET", path, b"")
}

/// `POST path` with this body over a connection of its own.
pub fn post(server: SocketAddr, path: &str, body: &[u8]) -> Result<Answer, String> {
    request(server, "POST", path, body)
}

fn request(server: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
    let fails = |error: io::Error| format!("{method} http://{server}{path}: {error}");
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_WAIT).map_err(fails)?;
    stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(fails)?;
    stream.set_write_timeout(Some(ANSWER_WAIT)).map_err(fails)?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    // A server may answer while the body is still on its way: it is read at the same time.
    let mut sender = stream.try_clone().map_err(fails)?;
    let mut bytes = Vec::new();
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || sender.write_all(head.as_bytes()).and_then(|()| sender.write_all(body)));
        let received = (&mut stream).take(ANSWER_LENGTH_MAX).read_to_end(&mut bytes);
        // What the server said before it hung up counts more than that it did.
        drop(sending.join());
        received
    })
    .map_err(fails)?;
    parse(&bytes).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned();
        format!("{method} http://{server}{path}: no whole answer in {} bytes: {shown:?}", bytes.len())
    })
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut answer = Answer { status: head.split(' ').nth(1)?.parse().ok()?, head, body: bytes[end + 4..].to_vec() };
    if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        answer.body = dechunk(&answer.body)?;
    } else if let Some(length) = answer.header("content-length").and_then(|text| text.parse::<usize>().ok())
        && answer.body.len() != length
    {
        return None;
    }
    Some(answer)
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

/// Sends one datagram from the host and answers the reply.
pub fn datagram(server: SocketAddr, payload: &[u8]) -> Result<Vec<u8>, String> {
    let fails = |error: io::Error| format!("udp {server}: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(fails)?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(fails)?;
    socket.send_to(payload, server).map_err(fails)?;
    let mut reply = vec![0; 1 << 16];
    let length = socket.recv(&mut reply).map_err(fails)?;
    reply.truncate(length);
    Ok(reply)
}

/// A cluster that has the probe as `probe:1`.
#[must_use]
pub fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.push(&guest("probe.wasm"), "probe:1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

/// A pod `name`, label `app=LABEL`, that serves `http=8080 echo=9000 sink=9001 udp=9002` and names its ports so.
#[must_use]
pub fn server(name: &str, label: &str) -> Value {
    let roles = ["serve", "http=8080", "echo=9000", "sink=9001", "udp=9002"];
    let mut pod = pods::pod(
        name,
        "Always",
        &json!({"image": "probe:1", "args": roles, "ports": [
        {"name": "http", "containerPort": 8080}, {"name": "echo", "containerPort": 9000},
        {"name": "sink", "containerPort": 9001}, {"name": "udp", "containerPort": 9002, "protocol": "UDP"}]}),
    );
    pod["metadata"]["labels"] = json!({"app": label});
    pod
}

/// A pod that runs these probe commands once, separated by `--`.
#[must_use]
pub fn client(name: &str, commands: &[&[&str]]) -> Value {
    pods::pod(name, "Never", &json!({"image": "probe:1", "args": commands.join(&"--")}))
}

/// Runs probe commands in a pod of its own (`NAME` or `NAME -n NAMESPACE`) to their end and answers what they printed.
///
/// # Panics
/// When the pod is refused or does not end well.
pub fn probe(kubectl: &Kubectl, pod: &str, commands: &[&[&str]]) -> String {
    let (name, namespace) = pod.split_once(" -n ").unwrap_or((pod, "default"));
    pods::apply(kubectl, namespace, &[client(name, commands)]);
    pods::phase(kubectl, pod, "Succeeded");
    kubectl.run(&format!("logs {pod}")).unwrap_or_else(|error| panic!("logs {pod}: {error}"))
}

/// The pod's address, once it has one.
pub fn address(kubectl: &Kubectl, pod: &str) -> IpAddr {
    eventually(&format!("the address of {pod}"), || {
        let object = kubectl.json(&format!("get pod {pod}"))?;
        let address = object["status"]["podIP"].as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| object["status"].to_string())
    })
}

/// Waits until the service (`NAME` or `NAME -n NAMESPACE`) has so many ready endpoints, also in its slices: those are what
/// nodes go by, and they may come after what people look at.
pub fn endpoints(kubectl: &Kubectl, service: &str, count: usize) {
    let (name, namespace) = service.split_once(' ').unwrap_or((service, ""));
    let of_service = format!("get endpointslices -l kubernetes.io/service-name={name} {namespace}");
    let many = |value: &Value| value.as_array().cloned().unwrap_or_default();
    eventually(&format!("{count} endpoints of {service}"), || {
        let object = kubectl.json(&format!("get endpoints {service}"))?;
        let subsets = many(&object["subsets"]);
        let found: usize = subsets.iter().map(|one| many(&one["addresses"]).len()).max().unwrap_or(0);
        if found != count {
            return Err(object["subsets"].to_string());
        }
        let listed: BTreeSet<String> =
            subsets.iter().flat_map(|one| many(&one["addresses"])).map(|one| one["ip"].to_string()).collect();
        let slices = kubectl.json(&of_service)?;
        let all = many(&slices["items"]).into_iter().flat_map(|slice| many(&slice["endpoints"]));
        let ready = all.filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let told_to_nodes: BTreeSet<String> = ready.map(|endpoint| endpoint["addresses"][0].to_string()).collect();
        if told_to_nodes == listed { Ok(()) } else { Err(format!("slices: {told_to_nodes:?}, endpoints: {listed:?}")) }
    });
}

/// Where the host reaches a service's port (by name; empty for the only one).
///
/// # Panics
/// When the service has none.
pub fn node_port(cluster: &Cluster, service: &str, port: &str) -> SocketAddr {
    SocketAddr::new(cluster.host(), node_port_number(&cluster.kubectl(), service, port))
}

/// The node port of a service's port (by name; empty for the only one), the same on every node.
///
/// # Panics
/// When the service has none.
pub fn node_port_number(kubectl: &Kubectl, service: &str, port: &str) -> u16 {
    let object = kubectl.json(&format!("get service {service}")).unwrap_or_else(|error| panic!("{error}"));
    let ports = object["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let found = ports.iter().find(|one| port.is_empty() || one["name"] == port);
    let number = found.and_then(|one| one["nodePort"].as_u64()).and_then(|number| u16::try_from(number).ok());
    number.unwrap_or_else(|| panic!("{service} has no node port {port}: {object}"))
}

/// A service that selects `app=LABEL`.
#[must_use]
pub fn service(name: &str, label: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec.get("selector").is_none() && !label.is_empty() {
        spec["selector"] = json!({"app": label});
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}
