//! The cluster's own registry: the OCI distribution API under `/v2/`.
//!
//! Blobs are content-addressed files beside the database and never enter the log; manifests and tags are committed
//! like everything else. A blob can be seen only once it is complete, its digest has been checked and it is on disk;
//! a manifest only once all that it refers to is there. Everything that a client sizes has a named bound.

mod answers;
mod blobs;
mod error;
mod http;
mod manifests;
mod path;
mod uploads;

#[cfg(test)]
mod tests;

pub use http::routes;

use blobs::Blobs;
use coracle_store::{Proposer, Store};
use manifests::Manifests;
use std::{io, path::PathBuf, sync::Arc};
use uploads::Uploads;

/// Largest blob.
pub const MAX_BLOB_BYTES: u64 = 512 * 1024 * 1024;
/// Largest manifest.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// Uploads under way at a time.
pub const MAX_UPLOADS: usize = 64;

/// Blobs, manifests and what is being uploaded.
pub struct Registry {
    blobs: Arc<Blobs>,
    uploads: Uploads,
    manifests: Manifests,
}

impl Registry {
    /// Opens the blobs in `blob_dir` and forgets uploads that an earlier process has left.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(blob_dir: PathBuf, proposer: Arc<dyn Proposer>, store: Store) -> io::Result<Self> {
        let blobs = Arc::new(Blobs::open(blob_dir)?);
        Ok(Self { uploads: Uploads::new(Arc::clone(&blobs)), manifests: Manifests { proposer, store }, blobs })
    }
}
