//! The door: Kubernetes' HTTP API, gRPC and the registry on one TLS port; authentication, authorization, admission.

pub mod auth;
pub mod identity;
pub mod nodelink;

use coracle_client::Client;
use coracle_store::{Proposer, Store};
use identity::Identity;
use std::{path::PathBuf, sync::Arc};

/// What the door stands on.
pub struct DoorConfig {
    /// Where changes go.
    pub proposer: Arc<dyn Proposer>,
    /// Where reads come from.
    pub store: Store,
    /// IPv4 range from which Services get their cluster IPs, e.g. `10.96.0.0/16`.
    pub service_range: (std::net::Ipv4Addr, u8),
    /// Where the registry keeps blobs.
    pub blob_dir: PathBuf,
}

/// The request pipeline: decode → authorize → admit → store → answer. HTTP, gRPC and in-process clients share it.
pub struct Door {
    // owner: api-door
}

impl Door {
    /// Sets up the pipeline.
    #[must_use]
    pub fn new(_config: DoorConfig) -> Arc<Self> {
        unimplemented!("owner: api-door")
    }

    /// The door for code in this process, as `identity`.
    #[must_use]
    pub fn client(self: &Arc<Self>, _identity: Identity) -> Arc<dyn Client> {
        unimplemented!("owner: api-door")
    }
}
