//! Whose database this is: written once, when the cluster is founded, and compared at every start.

use crate::core::CoreConfig;
use crate::error::OpenError;
use coracle_store::backend::{Backend, BackendError, Batch, Family};

const KEY: &[u8] = b"identity";
const VERSION: u8 = 1;

/// A server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    pub(crate) server_id: u64,
}

impl Identity {
    pub(crate) fn found(config: &CoreConfig) -> Self {
        let cluster_id = config.cluster_id.clone().unwrap_or_else(|| config.new_cluster_id.clone());
        Self { cluster_id, server_id: config.server_id }
    }

    pub(crate) fn load(backend: &dyn Backend) -> Result<Option<Self>, BackendError> {
        let Some(bytes) = backend.get(Family::Meta, KEY)? else { return Ok(None) };
        let identity = bytes.split_first().filter(|(version, _)| **version == VERSION).and_then(|(_, rest)| {
            let (server_id, cluster_id) = rest.split_first_chunk::<8>()?;
            let cluster_id = std::str::from_utf8(cluster_id).ok()?.to_owned();
            Some(Self { cluster_id, server_id: u64::from_be_bytes(*server_id) })
        });
        identity.map(Some).ok_or_else(|| BackendError::Damaged("its identity is not of this version or torn".into()))
    }

    pub(crate) fn put(&self, batch: &mut Batch) {
        batch.put_with(Family::Meta, KEY, |out| {
            out.push(VERSION);
            out.extend_from_slice(&self.server_id.to_be_bytes());
            out.extend_from_slice(self.cluster_id.as_bytes());
        });
    }

    pub(crate) fn check(&self, config: &CoreConfig) -> Result<(), OpenError> {
        if self.server_id != config.server_id {
            return Err(OpenError::OtherServer { found: self.server_id, expected: config.server_id });
        }
        match &config.cluster_id {
            Some(expected) if *expected != self.cluster_id => {
                Err(OpenError::OtherCluster { found: self.cluster_id.clone(), expected: expected.clone() })
            }
            _ => Ok(()),
        }
    }
}
