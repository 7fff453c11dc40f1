//! Starting everything in its order, and stopping it in the reverse.

use crate::{
    KUBERNETES_SERVICE_IP, Patience, SERVICE_RANGE, ServerConfig, ServerError, bootstrap,
    certificates::{self, Signer},
    credentials,
    files::{self, Lock, SECRET},
    kubeconfig,
    pki::{self, Authority, Issued, Subject},
};
use coracle_api::{
    Door, DoorConfig,
    auth::{Authenticator, revocation},
    door::RANGE_REST,
    identity::{GROUP_MASTERS, Identity},
    listener::{self, Services},
    nodelink::NodeLinks,
    registry::Registry,
};
use coracle_objects::{catalogue, meta};
use coracle_raft::{Replica, ReplicaConfig};
use coracle_store::{Key, Store};
use serde_json::Value;
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Raft id of the only server.
const SERVER_ID: u64 = 1;
/// How long controllers and scheduler may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A started server.
pub struct RunningServer {
    /// Where it really listens.
    pub address: SocketAddr,
    stopped: JoinHandle<Option<String>>,
}

impl RunningServer {
    /// Waits until everything has stopped: after the shutdown token was cancelled, or because the server cannot go on.
    ///
    /// # Errors
    /// When it did not stop because it was asked to.
    pub async fn stopped(self) -> Result<(), ServerError> {
        match self.stopped.await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(ServerError::Failed(reason)),
            Err(error) => Err(ServerError::Failed(error.to_string())),
        }
    }
}

/// Makes certificates where there are none, opens the store, and starts API, controllers and scheduler.
///
/// # Errors
/// When something in the data directory or the address cannot be used.
pub async fn start(config: ServerConfig, shutdown: CancellationToken) -> Result<RunningServer, ServerError> {
    let data_dir = &config.data_dir;
    files::private_directory(data_dir)?;
    let lock = files::lock(data_dir)?;
    let fail = |source| ServerError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let Access { tls, authenticator, authority } = Access::prepare(&config, address)?;
    let store_dir = data_dir.join("store");
    files::private_directory(&store_dir)?;
    let replica = Replica::open(ReplicaConfig::new(store_dir, SERVER_ID)).await?;
    if let Err(error) = ensure_nodes(&config, &authority, replica.store()) {
        replica.shutdown().await;
        return Err(error);
    }
    let authenticator = Arc::new(authenticator.with_store(replica.store().clone()));
    let control_plane = ControlPlane::new(data_dir, replica, authenticator, config.patience.clone())?;
    let signer = Arc::new(Signer {
        door: Arc::clone(&control_plane.door),
        authority: Arc::new(authority),
        lifetime: config.certificate_lifetime,
    });
    if let Err(error) = bootstrap::run(&*control_plane.door.client(Identity::admin()), address.port()).await {
        control_plane.replica.shutdown().await;
        return Err(ServerError::Bootstrap(error));
    }
    let app = control_plane.services().into_app()?;
    let stopped = tokio::spawn(control_plane.run(listener, tls, app, signer, (shutdown, lock)));
    tracing::info!(%address, name = config.name, "server started");
    Ok(RunningServer { address, stopped })
}

/// Credentials for the nodes that are asked for, as good as the store says they have to be.
fn ensure_nodes(config: &ServerConfig, authority: &Authority, store: &Store) -> Result<(), ServerError> {
    for node in &config.nodes {
        let since = revocation::since(store, node).map_err(|error| ServerError::Failed(error.to_string()))?;
        let revisions = (store.revision().0, since);
        credentials::ensure(authority, &config.data_dir, node, revisions, config.certificate_lifetime)?;
    }
    Ok(())
}

/// Certificates, tokens and the files that hold them.
struct Access {
    tls: Arc<rustls::ServerConfig>,
    authenticator: Authenticator,
    authority: Authority,
}

impl Access {
    fn prepare(config: &ServerConfig, address: SocketAddr) -> Result<Self, ServerError> {
        let data_dir = &config.data_dir;
        let authority = Authority::open_or_create(data_dir)?;
        let server = authority.ensure("server", &Subject::Server(&server_names(address, &config.names)))?;
        let admin = authority.ensure("admin", &Subject::Client { user: "admin", group: GROUP_MASTERS })?;
        let token = files::token(&data_dir.join("admin.token"))?;
        let authenticator = Authenticator::new().with_token(&token, Identity::admin());
        let tls = tls(data_dir, &server, &authority)?;
        let text = kubeconfig::render(address, authority.certificate_pem(), &admin, &token);
        files::write(&data_dir.join("kubeconfig"), text.as_bytes(), SECRET)?;
        Ok(Self { tls, authenticator, authority })
    }
}

fn tls(data_dir: &Path, server: &Issued, authority: &Authority) -> Result<Arc<rustls::ServerConfig>, ServerError> {
    let unusable =
        |error: rustls_pki_types::pem::Error| ServerError::Pki(data_dir.join("pki/server.crt"), error.to_string());
    let (chain, key) = pki::tls_pair(server, authority.certificate()).map_err(unusable)?;
    Ok(listener::tls_config(chain, key, authority.certificate().clone())?)
}

/// Names under which the API is reached.
fn server_names(address: SocketAddr, others: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.push(KUBERNETES_SERVICE_IP.to_string());
    let service =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    names.extend(service.map(str::to_owned));
    let listen = kubeconfig::reachable(address).ip().to_string();
    for name in std::iter::once(&listen).chain(others) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Everything that runs.
struct ControlPlane {
    replica: Replica,
    door: Arc<Door>,
    links: Arc<NodeLinks>,
    registry: Arc<Registry>,
    authenticator: Arc<Authenticator>,
    controllers: coracle_controllers::Settings,
}

impl ControlPlane {
    fn new(
        data_dir: &Path,
        replica: Replica,
        authenticator: Arc<Authenticator>,
        patience: Patience,
    ) -> Result<Self, ServerError> {
        let blob_dir = data_dir.join("blobs");
        files::private_directory(&blob_dir)?;
        let store = replica.store().clone();
        let proposer = Arc::new(replica.clone());
        let registry = Registry::open(blob_dir.clone(), proposer.clone(), store.clone())
            .map_err(|source| ServerError::DataDir { path: blob_dir.clone(), source })?;
        let door = Door::new(DoorConfig {
            proposer,
            store: store.clone(),
            service_range: SERVICE_RANGE,
            range_rest: RANGE_REST,
            blob_dir,
            tolerations: patience.tolerations,
        });
        let links = NodeLinks::new(door.closing().clone());
        door.set_log_reader(Arc::clone(&links) as _);
        door.set_node_links(Arc::clone(&links));
        let connected = Arc::clone(&links);
        door.set_ready_check(Box::new(move || missing(&store, &|node| connected.is_connected(node))));
        let controllers = patience.controllers;
        Ok(Self { replica, door, links, registry: Arc::new(registry), authenticator, controllers })
    }

    fn services(&self) -> Services {
        Services {
            door: Arc::clone(&self.door),
            links: Arc::clone(&self.links),
            registry: Arc::clone(&self.registry),
            authenticator: Arc::clone(&self.authenticator),
        }
    }

    /// Runs until `shutdown` is cancelled and everything has stopped; says why when the store could not go on.
    async fn run(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        app: listener::App,
        signer: Arc<Signer>,
        (shutdown, lock): (CancellationToken, Lock),
    ) -> Option<String> {
        let loops = CancellationToken::new();
        let scheduler = coracle_scheduler::run(self.door.client(Identity::scheduler()), loops.clone());
        let controllers = self.door.client(Identity::controller_manager());
        let controllers = coracle_controllers::run(controllers, self.controllers.clone(), loops.clone());
        let certificates = certificates::run(signer, loops.clone());
        let background = [tokio::spawn(scheduler), tokio::spawn(controllers), tokio::spawn(certificates)];
        if let Some(connections) = self.authenticator.node_connections() {
            tokio::spawn(Arc::clone(connections).run(loops.clone()));
        }
        let stop_serving = shutdown.child_token();
        let serving = tokio::spawn(listener::serve(listener, tls, app, stop_serving.clone()));
        let failure = tokio::select! {
            () = shutdown.cancelled() => None,
            failure = self.replica.stopped() => Some(failure.unwrap_or_else(|| "the store has stopped".to_owned())),
        };
        stop_serving.cancel();
        // Loops first, so that none of them mistakes the end of its watches for a failure.
        loops.cancel();
        self.door.close();
        for task in background {
            let abort = task.abort_handle();
            if tokio::time::timeout(STOP_TIMEOUT, task).await.is_err() {
                tracing::warn!("a control loop did not stop in time");
                abort.abort();
            }
        }
        if let Err(error) = serving.await {
            tracing::error!(%error, "the listener failed");
        }
        self.replica.shutdown().await;
        drop(lock);
        failure
    }
}

/// What is missing before a pod could run: a node that is ready, and is there: after a restart the store still shows
/// what nodes said before it.
fn missing(store: &Store, is_connected: &dyn Fn(&str) -> bool) -> Vec<String> {
    let nodes = match store.list(&Key::prefix("", catalogue::nodes().plural, None), None, 0, None) {
        Ok(page) => page.entries,
        Err(error) => return vec![format!("the store cannot be read: {error}")],
    };
    let ready = nodes.iter().any(|entry| {
        let node: Result<Value, _> = serde_json::from_slice(&entry.value);
        node.is_ok_and(|node| is_ready(&node) && is_connected(meta::name(&node)))
    });
    if ready { Vec::new() } else { vec!["no node is ready".to_owned()] }
}

fn is_ready(node: &Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_the_certificate_follow_the_address() {
        let names = server_names("127.0.0.7:1".parse().unwrap(), &["a.example".to_owned(), "localhost".to_owned()]);
        assert!(names.contains(&"127.0.0.7".to_owned()));
        assert!(names.contains(&"10.96.0.1".to_owned()) && names.contains(&"a.example".to_owned()));
        assert_eq!(names.iter().filter(|name| *name == "localhost").count(), 1);
        let everywhere = server_names("0.0.0.0:1".parse().unwrap(), &[]);
        assert_eq!(everywhere.iter().filter(|name| *name == "127.0.0.1").count(), 1);
    }

    #[test]
    fn a_node_is_ready_when_it_says_so() {
        let node = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(is_ready(&node("Ready", "True")));
        assert!(!is_ready(&node("Ready", "Unknown")));
        assert!(!is_ready(&node("MemoryPressure", "True")));
        assert!(!is_ready(&json!({})));
    }
}
