//! Images: references, pulling, verifying, and the content store. Knows nothing of wasmtime.

use std::path::PathBuf;
use thiserror::Error;

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
#[derive(Debug, Clone, Error)]
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
    // owner: agent
}

impl Images {
    /// Opens (or makes) the content store in `directory`.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(_directory: PathBuf, _registry: ClusterRegistry) -> std::io::Result<Self> {
        unimplemented!("owner: agent")
    }

    /// Makes sure that the image is here.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn ensure(&self, _reference: &str, _policy: PullPolicy) -> Result<Image, PullError> {
        unimplemented!("owner: agent")
    }
}
