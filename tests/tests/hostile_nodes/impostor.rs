//! Who has a node's real credentials and speaks for itself: gRPC to the control plane, from a host of its own. It keeps
//! no promise that the agent keeps.

use coracle_tests::hosts::{Host, Realm};
use coracle_wire::v1::{
    CreateRequest, DeleteRequest, GetRequest, ListRequest, Object, Resource, UpdateRequest, WatchRequest,
    node_link_client::NodeLinkClient, objects_client::ObjectsClient,
};
use serde_json::Value;
use std::{fs, future::Future, time::Duration};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How long an answer may take on a busy machine before it counts as none.
const ANSWER_WAIT: Duration = Duration::from_mins(2);

/// See the module.
pub struct Impostor {
    runtime: Runtime,
    pub channel: Channel,
}

impl Impostor {
    /// One on `host` with the credentials of `node`.
    pub fn new(realm: &Realm, host: &Host, node: &str) -> Self {
        let file = |name: &str| {
            let path = realm.credentials(node).join(name);
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(file("ca.crt")))
            .identity(Identity::from_pem(file("client.crt"), file("client.key")));
        let endpoint = Endpoint::from_shared(format!("https://{}", realm.server_address())).unwrap();
        let endpoint = endpoint.tls_config(tls).unwrap().connect_timeout(ANSWER_WAIT);
        // Threads of the runtime, and so their sockets, are on the host on which it was made.
        let runtime = host.namespace().run(|| Builder::new_multi_thread().worker_threads(2).enable_all().build());
        let runtime = runtime.unwrap();
        let channel = {
            let _entered = runtime.enter();
            endpoint.connect_lazy()
        };
        Self { runtime, channel }
    }

    /// Has it do something, on its host.
    pub fn does<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let work = self.runtime.spawn(async move { tokio::time::timeout(ANSWER_WAIT, work).await });
        self.runtime.block_on(work).expect("it ends").expect("it ends in time")
    }

    /// Has it do something meanwhile.
    pub fn begins<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    pub fn objects(&self) -> ObjectsClient<Channel> {
        ObjectsClient::new(self.channel.clone())
    }

    pub fn link(&self) -> NodeLinkClient<Channel> {
        NodeLinkClient::new(self.channel.clone())
    }

    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value, Status> {
        let request = GetRequest { resource: Some(wire(kind)), namespace: namespace.to_owned(), name: name.to_owned() };
        let mut client = self.objects();
        self.does(async move { client.get(request).await }).map(|answer| object(&answer.into_inner()))
    }

    pub fn list(&self, kind: Kind, field_selector: &str) -> Result<usize, Status> {
        let field_selector = field_selector.to_owned();
        let request = ListRequest { resource: Some(wire(kind)), field_selector, ..ListRequest::default() };
        let mut client = self.objects();
        self.does(async move { client.list(request).await }).map(|answer| answer.into_inner().items.len())
    }

    /// Begins a watch and answers the first thing that it says.
    pub fn watch(&self, kind: Kind, field_selector: &str) -> Result<(), Status> {
        let field_selector = field_selector.to_owned();
        let request = WatchRequest { resource: Some(wire(kind)), field_selector, ..WatchRequest::default() };
        let mut client = self.objects();
        self.does(async move { client.watch(request).await?.into_inner().message().await }).map(|_| ())
    }

    pub fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Value, Status> {
        self.create_below(kind, namespace, "", "", object)
    }

    /// Creates a subresource of the object called `name`.
    pub fn create_below(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, Status> {
        let request = CreateRequest {
            resource: Some(wire(kind)),
            namespace: namespace.to_owned(),
            json: body.to_string().into(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..CreateRequest::default()
        };
        let mut client = self.objects();
        self.does(async move { client.create(request).await }).map(|answer| object(&answer.into_inner()))
    }

    pub fn update(&self, kind: Kind, subresource: &str, body: &Value) -> Result<Value, Status> {
        let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default().to_owned();
        let request = UpdateRequest {
            resource: Some(wire(kind)),
            namespace: text("namespace"),
            name: text("name"),
            subresource: subresource.to_owned(),
            json: body.to_string().into(),
            ..UpdateRequest::default()
        };
        let mut client = self.objects();
        self.does(async move { client.update(request).await }).map(|answer| object(&answer.into_inner()))
    }

    /// Changes an object as it is now, again when somebody else has changed it meanwhile.
    pub fn change(
        &self,
        (kind, subresource): (Kind, &str),
        (namespace, name): (&str, &str),
        change: impl Fn(&mut Value),
    ) -> Result<Value, Status> {
        loop {
            let mut object = self.get(kind, namespace, name)?;
            change(&mut object);
            match self.update(kind, subresource, &object) {
                Err(conflict) if conflict.code() == Code::Aborted => {}
                outcome => return outcome,
            }
        }
    }

    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<(), Status> {
        let request = DeleteRequest {
            resource: Some(wire(kind)),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..DeleteRequest::default()
        };
        let mut client = self.objects();
        self.does(async move { client.delete(request).await }).map(|_| ())
    }
}

/// Group and plural; all of them are in version 1.
pub type Kind = (&'static str, &'static str);

pub const NODES: Kind = ("", "nodes");
pub const PODS: Kind = ("", "pods");
pub const SECRETS: Kind = ("", "secrets");
pub const CONFIG_MAPS: Kind = ("", "configmaps");
pub const LEASES: Kind = ("coordination.k8s.io", "leases");
pub const SLICES: Kind = ("discovery.k8s.io", "endpointslices");

fn wire((group, plural): Kind) -> Resource {
    Resource { group: group.to_owned(), version: "v1".to_owned(), plural: plural.to_owned() }
}

fn object(object: &Object) -> Value {
    serde_json::from_slice(&object.json).unwrap()
}
