//! The gRPC connection to a cluster: typed calls whose refusals are Kubernetes' `Status` errors.

use crate::kubeconfig::{Credentials, Proof};
use coracle_objects::{ApiError, Kind, ObjectKey, Reason, catalogue, meta};
pub use coracle_wire::v1::LogRequest;
pub use coracle_wire::v1::watch_event::Type as Change;
use coracle_wire::{STATUS_TRAILER, v1};
use serde_json::{Value, json};
use std::time::Duration;
use thiserror::Error;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Largest message taken from a server: a full page of objects.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call did not succeed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The server refused; the message says why.
    #[error("{0}")]
    Refused(ApiError),
    /// No answer.
    #[error("cannot reach the cluster at {server}: {detail}")]
    Unreachable {
        /// Address.
        server: String,
        /// What the transport says.
        detail: String,
    },
    /// The credentials cannot be used.
    #[error("cannot use these credentials: {0}")]
    Credentials(String),
    /// The server sent something that is no JSON object.
    #[error("the server sent an object that cannot be read")]
    Garbled(#[source] serde_json::Error),
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The object is new.
    Created,
    /// It was changed.
    Configured,
    /// It was as wanted already.
    Unchanged,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Empty: all namespaces.
    pub namespace: String,
    /// Query form.
    pub label_selector: String,
    /// Query form.
    pub field_selector: String,
}

/// Adds the bearer token, where there is one.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connection to one cluster; cheap to clone, opened on first use.
#[derive(Clone)]
pub struct Connection {
    server: String,
    objects: v1::objects_client::ObjectsClient<InterceptedService<Channel, Bearer>>,
    logs: v1::pod_logs_client::PodLogsClient<InterceptedService<Channel, Bearer>>,
    sessions: v1::pod_sessions_client::PodSessionsClient<InterceptedService<Channel, Bearer>>,
}

impl Connection {
    /// Prepares a connection; nothing is sent yet.
    pub fn new(credentials: &Credentials) -> Result<Self, CallError> {
        let unusable = |error: &dyn std::fmt::Display| CallError::Credentials(error.to_string());
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&credentials.ca_pem));
        let mut bearer = Bearer(None);
        match &credentials.proof {
            Proof::Certificate { certificate_pem, key_pem } => {
                tls = tls.identity(Identity::from_pem(certificate_pem, key_pem));
            }
            Proof::Token(token) => {
                let mut value: MetadataValue<Ascii> =
                    format!("Bearer {token}").parse().map_err(|error| unusable(&error))?;
                value.set_sensitive(true);
                bearer = Bearer(Some(value));
            }
        }
        let channel = Endpoint::from_shared(credentials.server.clone())
            .map_err(|error| unusable(&error))?
            .tls_config(tls)
            .map_err(|error| unusable(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .connect_lazy();
        let objects = v1::objects_client::ObjectsClient::with_interceptor(channel.clone(), bearer.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let logs = v1::pod_logs_client::PodLogsClient::with_interceptor(channel.clone(), bearer.clone());
        let sessions = v1::pod_sessions_client::PodSessionsClient::with_interceptor(channel, bearer);
        Ok(Self { server: credentials.server.clone(), objects, logs, sessions })
    }

    /// One object.
    pub async fn get(&self, kind: &Kind, key: &ObjectKey) -> Result<Value, CallError> {
        let request =
            v1::GetRequest { resource: Some(resource(kind)), namespace: key.namespace.clone(), name: key.name.clone() };
        let answer = self.objects.clone().get(request).await.map_err(|status| self.refused(&status))?;
        object(&answer.into_inner().json)
    }

    /// All objects that match, and the resource version that the list shows.
    pub async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<(Vec<Value>, String), CallError> {
        let answer = self.list_request(kind, options, false).await?;
        let items = answer.items.iter().map(|json| object(json)).collect::<Result<_, _>>()?;
        Ok((items, answer.resource_version))
    }

    /// The `Table` that the server prints of all objects that match, and the resource version that it shows.
    pub async fn table(&self, kind: &Kind, options: &ListOptions) -> Result<(Value, String), CallError> {
        let answer = self.list_request(kind, options, true).await?;
        Ok((object(&answer.table)?, answer.resource_version))
    }

    async fn list_request(
        &self,
        kind: &Kind,
        options: &ListOptions,
        table: bool,
    ) -> Result<v1::ListResponse, CallError> {
        let request = v1::ListRequest {
            resource: Some(resource(kind)),
            namespace: options.namespace.clone(),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            table,
            ..v1::ListRequest::default()
        };
        let answer = self.objects.clone().list(request).await.map_err(|status| self.refused(&status))?;
        Ok(answer.into_inner())
    }

    /// Changes after `resource_version`; the type is `ADDED`, `MODIFIED`, `DELETED`.
    pub async fn watch(
        &self,
        kind: &Kind,
        options: &ListOptions,
        resource_version: &str,
    ) -> Result<impl Stream<Item = Result<(Change, Value), CallError>> + use<>, CallError> {
        let request = v1::WatchRequest {
            resource: Some(resource(kind)),
            namespace: options.namespace.clone(),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: resource_version.to_owned(),
            bookmarks: false,
        };
        let answer = self.objects.clone().watch(request).await.map_err(|status| self.refused(&status))?;
        let this = self.clone();
        Ok(answer.into_inner().map(move |event| {
            let event = event.map_err(|status| this.refused(&status))?;
            let body = object(&event.object)?;
            match event.r#type() {
                Change::Error => Err(CallError::Refused(ApiError::from_status(&body))),
                change => Ok((change, body)),
            }
        }))
    }

    /// Creates the object or merges it into what is there, as `kubectl apply` does.
    pub async fn apply(&self, kind: &Kind, namespace: &str, wanted: &Value) -> Result<(Applied, Value), CallError> {
        let request = v1::ApplyRequest {
            resource: Some(resource(kind)),
            namespace: namespace.to_owned(),
            json: wanted.to_string().into(),
            field_validation: "Strict".to_owned(),
            dry_run: false,
        };
        let answer = self.objects.clone().apply(request).await.map_err(|status| self.refused(&status))?.into_inner();
        let applied = match answer.change() {
            v1::apply_response::Change::Created => Applied::Created,
            v1::apply_response::Change::Configured => Applied::Configured,
            _ => Applied::Unchanged,
        };
        Ok((applied, object(&answer.json)?))
    }

    /// Creates the object.
    pub async fn create(&self, kind: &Kind, namespace: &str, wanted: &Value) -> Result<Value, CallError> {
        let request = v1::CreateRequest {
            resource: Some(resource(kind)),
            namespace: namespace.to_owned(),
            json: wanted.to_string().into(),
            ..v1::CreateRequest::default()
        };
        let answer = self.objects.clone().create(request).await.map_err(|status| self.refused(&status))?;
        object(&answer.into_inner().json)
    }

    /// Replaces the object, or the part of it that `subresource` names ("" for the object itself). A resource version in it
    /// is a precondition.
    pub async fn update(&self, kind: &Kind, subresource: &str, wanted: &Value) -> Result<Value, CallError> {
        let request = v1::UpdateRequest {
            resource: Some(resource(kind)),
            namespace: meta::namespace(wanted).to_owned(),
            name: meta::name(wanted).to_owned(),
            subresource: subresource.to_owned(),
            json: wanted.to_string().into(),
            ..v1::UpdateRequest::default()
        };
        let answer = self.objects.clone().update(request).await.map_err(|status| self.refused(&status))?;
        object(&answer.into_inner().json)
    }

    /// Changes an object by a merge patch (RFC 7396); a resource version in it is a precondition.
    pub async fn merge(&self, kind: &Kind, key: &ObjectKey, patch: &Value) -> Result<Value, CallError> {
        let request = v1::PatchRequest {
            resource: Some(resource(kind)),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            content_type: "application/merge-patch+json".to_owned(),
            patch: patch.to_string().into(),
            field_validation: "Strict".to_owned(),
            ..v1::PatchRequest::default()
        };
        let answer = self.objects.clone().patch(request).await.map_err(|status| self.refused(&status))?;
        object(&answer.into_inner().json)
    }

    /// Asks a pod to go, as one does who empties its node; only if it still has this uid.
    pub async fn evict(
        &self,
        pod: &ObjectKey,
        uid: &str,
        grace_period_seconds: Option<i64>,
    ) -> Result<Value, CallError> {
        let mut options = json!({"preconditions": {"uid": uid}});
        if let Some(seconds) = grace_period_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"namespace": pod.namespace, "name": pod.name}, "deleteOptions": options,
        });
        let request = v1::CreateRequest {
            resource: Some(resource(catalogue::pods())),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            subresource: "eviction".to_owned(),
            json: eviction.to_string().into(),
            ..v1::CreateRequest::default()
        };
        let answer = self.objects.clone().create(request).await.map_err(|status| self.refused(&status))?;
        object(&answer.into_inner().json)
    }

    /// Asks for a deletion; `grace_period_seconds` `None` means the object's own.
    pub async fn delete(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        grace_period_seconds: Option<i64>,
    ) -> Result<Value, CallError> {
        let request = v1::DeleteRequest {
            resource: Some(resource(kind)),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            grace_period_seconds: grace_period_seconds.unwrap_or(-1),
            ..v1::DeleteRequest::default()
        };
        let answer = self.objects.clone().delete(request).await.map_err(|status| self.refused(&status))?;
        object(&answer.into_inner().json)
    }

    /// A container's log, in chunks.
    pub async fn logs(
        &self,
        request: LogRequest,
    ) -> Result<impl Stream<Item = Result<bytes::Bytes, CallError>> + use<>, CallError> {
        let answer = self.logs.clone().read(request).await.map_err(|status| self.refused(&status))?;
        let this = self.clone();
        Ok(answer.into_inner().map(move |chunk| chunk.map(|chunk| chunk.data).map_err(|status| this.refused(&status))))
    }

    pub(crate) fn sessions(&self) -> v1::pod_sessions_client::PodSessionsClient<InterceptedService<Channel, Bearer>> {
        self.sessions.clone()
    }

    pub(crate) fn refused(&self, status: &Status) -> CallError {
        if let Some(bytes) = status.metadata().get_bin(STATUS_TRAILER).and_then(|value| value.to_bytes().ok())
            && let Ok(body) = serde_json::from_slice::<Value>(&bytes)
        {
            return CallError::Refused(ApiError::from_status(&body));
        }
        // Errors of the transport itself carry a source; everything else came from the server.
        if let Some(source) = std::error::Error::source(status) {
            let mut detail = source.to_string();
            let mut next = source.source();
            while let Some(cause) = next {
                detail = format!("{detail}: {cause}");
                next = cause.source();
            }
            return CallError::Unreachable { server: self.server.clone(), detail };
        }
        let message = if status.message().is_empty() { status.code().description() } else { status.message() };
        CallError::Refused(ApiError::new(Reason::InternalError, message))
    }
}

fn resource(kind: &Kind) -> v1::Resource {
    v1::Resource { group: kind.group.to_owned(), version: kind.version.to_owned(), plural: kind.plural.to_owned() }
}

fn object(json: &[u8]) -> Result<Value, CallError> {
    if json.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(json).map_err(CallError::Garbled)
}
