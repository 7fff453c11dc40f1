//! A machine that joins a fleet's cluster by the line that a person would type, and one who has its credentials.

use coracle_tests::{Fleet, Kubectl, eventually, pods, site::binary, wait::contains};
use coracle_wire::v1::{NodeHello, NodePing, NodeSignal, ServerSignal, node_link_client::NodeLinkClient, node_signal};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How long an answer may take on a busy machine; a server ends a silent stream only after longer.
const ANSWER_WAIT: Duration = Duration::from_secs(35);

/// See the module. Dropping it kills the process.
pub struct Machine {
    pub name: String,
    pub directory: PathBuf,
    log: PathBuf,
    address: String,
    child: Option<Child>,
    /// Length of its log when it was started last.
    said_before: usize,
}

impl Machine {
    /// Nothing runs yet. It has the address of the fleet's node `place`, which must not run.
    pub fn new(fleet: &Fleet, place: usize, name: &str) -> Self {
        let (directory, log) = (fleet.path(&format!("machine-{name}")), fleet.path(&format!("machine-{name}.log")));
        Self {
            name: name.to_owned(),
            directory,
            log,
            address: fleet.address(place).to_string(),
            child: None,
            said_before: 0,
        }
    }

    /// Types `line` (`coracle node join …`) with a name and a directory of its own.
    pub fn join(&mut self, line: &str) {
        let mut words: Vec<String> = line.split_whitespace().skip(1).map(str::to_owned).collect();
        let at = words.iter().position(|word| word == "--data-dir").expect("the line says where");
        words[at + 1] = self.directory.display().to_string();
        words.extend(["--name".to_owned(), self.name.clone()]);
        self.start(words);
    }

    /// Starts the node that has joined before.
    pub fn go_on(&mut self) {
        self.start(vec!["node".to_owned(), "--data-dir".to_owned(), self.directory.display().to_string()]);
    }

    fn start(&mut self, mut words: Vec<String>) {
        self.kill();
        words.extend(["--address".to_owned(), self.address.clone()]);
        self.said_before = self.log().len();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(binary().unwrap());
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the process has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let log = self.log.clone();
        let child = self.child.as_mut().expect("it was started");
        eventually("its end", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(fs::read_to_string(&log).unwrap_or_default()),
        })
    }

    /// Joins by `line` in vain; what it said of that.
    pub fn refused(&mut self, line: &str) -> String {
        self.join(line);
        let said = self.failed();
        assert!(!self.credentials().join("node.pem").exists(), "nothing was got");
        said
    }

    /// Waits until the process has failed; what it said since it was started.
    pub fn failed(&mut self) -> String {
        assert!(!self.ended().success(), "{}", self.log());
        self.child = None;
        self.log().split_off(self.said_before)
    }

    /// Waits until it has said `words`.
    pub fn says(&self, words: &str) {
        eventually(words, || contains(&self.log(), words));
    }

    /// Waits until the node is ready.
    pub fn until_ready(&self, kubectl: &Kubectl) {
        eventually(&format!("{} to be ready", self.name), || {
            let node = kubectl.json(&format!("get node {}", self.name));
            let node = node.map_err(|error| format!("{error}\n{}", self.log()))?;
            if pods::condition(&node, "Ready")["status"] == "True" { Ok(()) } else { Err(node["status"].to_string()) }
        });
    }

    pub fn credentials(&self) -> PathBuf {
        self.directory.join("credentials")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log());
        }
    }
}

fn endpoint(fleet: &Fleet, pair: &Path) -> Endpoint {
    let (ca, pair) = (fs::read(fleet.server_dir().join("pki/ca.crt")).unwrap(), fs::read(pair).unwrap());
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).identity(Identity::from_pem(&pair, &pair));
    Endpoint::from_shared(fleet.server_url()).unwrap().tls_config(tls).unwrap()
}

/// Connections to the server that ask for nothing, held open by whoever has a node's certificate and key.
pub struct Crowd {
    _connections: Vec<Channel>,
    _runtime: Runtime,
}

impl Crowd {
    /// So many of them, as far as the server takes them.
    pub fn open(fleet: &Fleet, pair: &Path, count: usize) -> Self {
        let (endpoint, runtime) = (endpoint(fleet, pair), Runtime::new().unwrap());
        let connect = || runtime.block_on(endpoint.connect()).ok();
        let connections: Vec<Channel> = (0..count).filter_map(|_| connect()).collect();
        assert!(!connections.is_empty(), "the server takes none");
        Self { _connections: connections, _runtime: runtime }
    }
}

/// A control stream to the server, held open by whoever has a node's certificate and key.
pub struct Held {
    runtime: Runtime,
    signals: mpsc::Sender<NodeSignal>,
    answers: Streaming<ServerSignal>,
}

impl Held {
    /// Says that it is `node`, and is believed.
    pub fn open(fleet: &Fleet, pair: &Path, node: &str) -> Self {
        let (endpoint, runtime) = (endpoint(fleet, pair), Runtime::new().unwrap());
        let (signals, queued) = mpsc::channel(4);
        let hello = NodeHello { node_name: node.to_owned(), ..NodeHello::default() };
        signals.try_send(NodeSignal { signal: Some(node_signal::Signal::Hello(hello)) }).unwrap();
        let opened = async {
            let mut client = NodeLinkClient::new(endpoint.connect().await.unwrap());
            client.control(ReceiverStream::new(queued)).await.unwrap().into_inner()
        };
        let answers = runtime.block_on(opened);
        let mut held = Self { runtime, signals, answers };
        let ping = node_signal::Signal::Ping(NodePing::default());
        held.signals.try_send(NodeSignal { signal: Some(ping) }).unwrap();
        held.next().expect("a pong");
        held
    }

    /// Waits until the server has ended it.
    pub fn until_cut(mut self) {
        while self.next().is_some() {}
    }

    /// What comes next, or nothing at the end.
    fn next(&mut self) -> Option<ServerSignal> {
        let answers = &mut self.answers;
        let next = async { tokio::time::timeout(ANSWER_WAIT, answers.message()).await };
        self.runtime.block_on(next).expect("an answer in time").ok().flatten()
    }
}

/// kubectl as whoever has this certificate and key (both in `pair`).
pub fn with_certificate(fleet: &Fleet, program: &Path, pair: &Path) -> Kubectl {
    let pair = pair.display();
    as_user(fleet, program, &format!("client-certificate: {pair}, client-key: {pair}"))
}

/// kubectl as whoever has this bearer token.
pub fn with_token(fleet: &Fleet, program: &Path, token: &str) -> Kubectl {
    as_user(fleet, program, &format!("token: {token}"))
}

fn as_user(fleet: &Fleet, program: &Path, user: &str) -> Kubectl {
    let number = fs::read_dir(fleet.path(".")).unwrap().count();
    let path = fleet.path(&format!("kubeconfig-{number}"));
    let ca = fleet.server_dir().join("pki/ca.crt");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: {}}}}}]\n\
         users: [{{name: u, user: {{{user}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
        fleet.server_url(),
        ca.display(),
    );
    fs::write(&path, text).unwrap();
    Kubectl::new(program, &path, &fleet.path(&format!("cache-{number}")))
}
