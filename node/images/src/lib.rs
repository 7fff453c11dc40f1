//! Images: references, pulling, verifying, and the content store. Knows nothing of wasmtime.
//!
//! Whatever comes from a registry is bounded, hashed while it streams to disk, and gets its final name only when it
//! is what the manifest announced; a name means an image here only when all of its modules are.

mod download;
mod failure;
mod manifest;
mod proofs;
mod pull;
mod reference;
mod registry;
mod settings;
mod shelf;
mod store;
mod tar;
mod turns;

use crate::{
    failure::{Class, Failure},
    pull::{Flight, Puller},
    registry::Registries,
    store::Store,
    turns::Turns,
};
use coracle_objects::registry_auth::{Credential, Keyring};
use futures::FutureExt;
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use thiserror::Error;

pub use reference::Reference;
pub use settings::{RegistrySettings, SettingsError};
pub use shelf::{StoredImage, Swept};

/// Pause before the first retry.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// A registry that names without a host mean: the cluster's own.
#[derive(Clone)]
pub struct ClusterRegistry {
    /// `host:port` of the API server.
    pub address: String,
    /// PEM of the CA that signed its certificate.
    pub ca_pem: String,
    /// Bearer token; empty: none.
    pub token: String,
    /// What is shown to it in TLS, if anything.
    pub identity: Option<ClientIdentity>,
}

/// Gives the PEM of a client certificate and its key, as they are now: the same `Arc` for as long as they are the same.
pub type ClientIdentity = Arc<dyn Fn() -> Arc<str> + Send + Sync>;

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

/// What is here for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// The image, whole.
    Here(Image),
    /// The image, but it was pulled with credentials that the asker does not have: only the registry can tell
    /// whether they may use it.
    Withheld(Image),
    /// Nothing, or not all of it.
    Absent,
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
    /// It is here, the policy is `Never`, and it was pulled with credentials that this pod does not have:
    /// `ErrImageNeverPull`.
    #[error(
        "image \"{reference}\" was pulled with credentials that this pod does not have, and its pull policy is Never"
    )]
    Withheld {
        /// As given.
        reference: String,
    },
    /// The registry is away: `RegistryUnavailable`.
    #[error("image pull failed for {reference} because the registry is unavailable: {detail}")]
    Unavailable {
        /// As given.
        reference: String,
        /// Why.
        detail: String,
    },
    /// The registry refused, or what came is not right: `ErrImagePull`.
    #[error("failed to pull image \"{reference}\": {detail}")]
    Pull {
        /// As given.
        reference: String,
        /// Why.
        detail: String,
    },
}

/// Which pull it is: the same name with the same credentials.
type FlightKey = (String, Vec<Credential>);

/// The node's images; one pull per reference, and one download per digest, however many wait. Copies share everything.
#[derive(Clone)]
pub struct Images {
    puller: Arc<Puller>,
    flights: Arc<Mutex<HashMap<FlightKey, Flight>>>,
}

impl Images {
    /// Opens (or makes) the content store in `directory`.
    ///
    /// # Errors
    /// When the directory or the registry's certificate cannot be used.
    pub fn open(directory: &Path, registry: ClusterRegistry, settings: RegistrySettings) -> io::Result<Self> {
        let registries = Registries::new(registry, settings)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("registry's certificate: {error}")))?;
        Self::with_registries(directory, registries, RETRY_DELAY)
    }

    fn with_registries(directory: &Path, registries: Registries, retry_delay: Duration) -> io::Result<Self> {
        let store = Store::open(directory)?;
        let turns = Turns::new();
        let puller = Puller { store, registries, turns, retry_delay, busy: Mutex::default(), shelf: Mutex::default() };
        Ok(Self { puller: Arc::new(puller), flights: Arc::default() })
    }

    /// What is here for a name, and for one who has these credentials.
    ///
    /// # Errors
    /// [`PullError::InvalidName`] only.
    pub fn local(&self, reference: &str, keyring: &Keyring) -> Result<Local, PullError> {
        Ok(self.puller.local(&parse(reference)?, keyring))
    }

    /// The image that [`Image::id`] names, under whatever name it was pulled, if all of it is here. Says nothing about who
    /// may use it: for containers that run it already.
    #[must_use]
    pub fn held(&self, id: &str) -> Option<Image> {
        self.puller.held(&parse(id).ok()?)
    }

    /// Makes sure that the image is here, for one who has these credentials.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn ensure(&self, reference: &str, policy: PullPolicy, keyring: &Keyring) -> Result<Image, PullError> {
        let parsed = parse(reference)?;
        let named = || reference.to_owned();
        match (self.puller.local(&parsed, keyring), policy) {
            (Local::Here(image), PullPolicy::IfNotPresent | PullPolicy::Never) => return Ok(image),
            (Local::Withheld(_), PullPolicy::Never) => return Err(PullError::Withheld { reference: named() }),
            (Local::Absent, PullPolicy::Never) => return Err(PullError::NeverPull { reference: named() }),
            (_, PullPolicy::Always) | (Local::Withheld(_) | Local::Absent, PullPolicy::IfNotPresent) => {}
        }
        self.join(&parsed, keyring).await.map_err(|Failure { class, text: detail }| match class {
            Class::Passing => PullError::Unavailable { reference: named(), detail },
            Class::Denied | Class::Missing | Class::Final => PullError::Pull { reference: named(), detail },
        })
    }

    /// Joins the pull of this name that is under way, or starts one. It goes on when the caller gives up.
    async fn join(&self, reference: &Reference, keyring: &Keyring) -> Result<Image, Failure> {
        let credentials = self.puller.registries.usable(reference, keyring).into_iter().cloned().collect();
        let key = (pull::index_name(reference), credentials);
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(flight) = flights.get(&key) {
                flight.clone()
            } else {
                let flight = self.start(key.clone(), reference.clone(), keyring.clone());
                flights.insert(key, flight.clone());
                flight
            }
        };
        flight.await
    }

    fn start(&self, key: FlightKey, reference: Reference, keyring: Keyring) -> Flight {
        let (puller, flights) = (self.puller.clone(), self.flights.clone());
        let task = tokio::spawn(async move {
            let result = puller.pull(&reference, &keyring).await;
            flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            result
        });
        task.map(|joined| joined.unwrap_or_else(|_| Err(Failure::last("the pull was interrupted")))).boxed().shared()
    }
}

fn parse(reference: &str) -> Result<Reference, PullError> {
    Reference::parse(reference)
        .map_err(|detail| PullError::InvalidName { reference: reference.to_owned(), detail: detail.to_owned() })
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod foreign_tests;
