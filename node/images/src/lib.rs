//! Images: references, pulling, verifying, and the content store. Knows nothing of wasmtime.
//!
//! Whatever comes from a registry is bounded, hashed while it streams to disk, and gets its final name only when it
//! is what the manifest announced; a name means an image here only when all of its modules are.

mod manifest;
mod pull;
mod reference;
mod registry;
mod store;

use crate::{
    manifest::{Layer, Manifest},
    pull::{Flight, Puller},
    registry::Registries,
    store::Store,
};
use futures::FutureExt;
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use thiserror::Error;
use tokio::sync::Semaphore;

pub use reference::Reference;

/// Most pulls at one time; others wait for their turn.
const PARALLEL_PULLS_MAX: usize = 4;

/// A registry that names without a host mean: the cluster's own.
#[derive(Clone)]
pub struct ClusterRegistry {
    /// `host:port` of the API server.
    pub address: String,
    /// PEM of the CA that signed its certificate.
    pub ca_pem: String,
    /// Bearer token.
    pub token: String,
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Only when it is not here.
    IfNotPresent,
    /// Never ask.
    Never,
}

/// One wasm file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageModule {
    /// Name within the image (layer title without `.wasm`, or the last part of the image's name).
    pub name: String,
    /// `sha256:…` of the bytes.
    pub digest: String,
    /// The verified file in the content store; read-only.
    pub path: PathBuf,
}

impl ImageModule {
    /// Whether the file still holds what its digest says. One that does not is removed, so that the next pull fetches
    /// it again. Reads all of it: call this where blocking is allowed.
    ///
    /// # Errors
    /// When it cannot be read or removed.
    pub fn verify(&self) -> io::Result<bool> {
        let is_whole = self.digest.strip_prefix("sha256:") == Some(file_sha256(&self.path)?.as_str());
        if !is_whole {
            fs::remove_file(&self.path)?;
        }
        Ok(is_whole)
    }
}

/// SHA-256 of a file's bytes, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn file_sha256(path: &Path) -> io::Result<String> {
    store::file_sha256(path)
}

/// An image that is here, whole and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Canonical reference, `HOST/NAME@sha256:…`, for `imageID`.
    pub id: String,
    /// Its modules, in the manifest's order; never empty.
    pub modules: Vec<ImageModule>,
    /// Bytes of all modules.
    pub size_bytes: u64,
    /// Whether this call fetched anything.
    pub pulled: bool,
}

/// Why an image is not here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PullError {
    /// The reference cannot be read: `InvalidImageName`.
    #[error("couldn't parse image name \"{reference}\": {detail}")]
    InvalidName {
        /// As given.
        reference: String,
        /// Why.
        detail: String,
    },
    /// Not here, and the policy is `Never`: `ErrImageNeverPull`.
    #[error("image \"{reference}\" is not present with pull policy of Never")]
    NeverPull {
        /// As given.
        reference: String,
    },
    /// The registry refused or could not be reached, or what came is not right: `ErrImagePull`.
    #[error("failed to pull image \"{reference}\": {detail}")]
    Pull {
        /// As given.
        reference: String,
        /// Why.
        detail: String,
    },
}

/// The node's images; one pull per reference however many wait.
pub struct Images {
    puller: Arc<Puller>,
    flights: Arc<Mutex<HashMap<String, Flight>>>,
}

impl Images {
    /// Opens (or makes) the content store in `directory`.
    ///
    /// # Errors
    /// When the directory or the registry's certificate cannot be used.
    pub fn open(directory: &Path, registry: ClusterRegistry) -> io::Result<Self> {
        let registries = Registries::new(registry)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("registry's certificate: {error}")))?;
        Self::with_registries(directory, registries)
    }

    fn with_registries(directory: &Path, registries: Registries) -> io::Result<Self> {
        let store = Store::open(directory)?;
        let turns = Semaphore::new(PARALLEL_PULLS_MAX);
        Ok(Self { puller: Arc::new(Puller { store, registries, turns }), flights: Arc::default() })
    }

    /// The image if it is here, whole.
    ///
    /// # Errors
    /// [`PullError::InvalidName`] only.
    pub fn local(&self, reference: &str) -> Result<Option<Image>, PullError> {
        Ok(self.puller.local(&parse(reference)?))
    }

    /// Makes sure that the image is here.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn ensure(&self, reference: &str, policy: PullPolicy) -> Result<Image, PullError> {
        let parsed = parse(reference)?;
        if policy != PullPolicy::Always
            && let Some(image) = self.puller.local(&parsed)
        {
            return Ok(image);
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NeverPull { reference: reference.to_owned() });
        }
        self.join(&parsed).await.map_err(|detail| PullError::Pull { reference: reference.to_owned(), detail })
    }

    /// Joins the pull of this name that is under way, or starts one. It goes on when the caller gives up.
    async fn join(&self, reference: &Reference) -> Result<Image, String> {
        let name = pull::index_name(reference);
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(flight) = flights.get(&name) {
                flight.clone()
            } else {
                let flight = self.start(name.clone(), reference.clone());
                flights.insert(name, flight.clone());
                flight
            }
        };
        flight.await
    }

    fn start(&self, name: String, reference: Reference) -> Flight {
        let (puller, flights) = (self.puller.clone(), self.flights.clone());
        let task = tokio::spawn(async move {
            let result = puller.pull(&reference).await;
            flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            result
        });
        task.map(|joined| joined.unwrap_or_else(|_| Err("the pull was interrupted".to_owned()))).boxed().shared()
    }
}

fn parse(reference: &str) -> Result<Reference, PullError> {
    Reference::parse(reference)
        .map_err(|detail| PullError::InvalidName { reference: reference.to_owned(), detail: detail.to_owned() })
}

#[cfg(test)]
mod tests;
