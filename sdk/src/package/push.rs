//! Pushes a workload file to a registry: a config, one wasm layer, one manifest.

use super::{
    WASM_CONFIG, WASM_LAYER,
    inspect::{Form, InspectError, Inspection, inspect},
};
use crate::kubeconfig::Credentials;
use oci_client::{
    Reference,
    client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol, Config, ImageLayer},
    errors::OciDistributionError,
    manifest::OciImageManifest,
    secrets::RegistryAuth,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Largest workload file that is pushed.
const MAX_WORKLOAD_BYTES: u64 = 512 * 1024 * 1024;
/// Annotation that names a layer's file.
const TITLE: &str = "org.opencontainers.image.title";

/// A pushed image.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Name and tag as given, with the tag filled in.
    pub reference: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Bytes of the workload file.
    pub size_bytes: usize,
    /// What was pushed.
    pub inspection: Inspection,
}

/// Why nothing was pushed.
#[derive(Debug, Error)]
pub enum PushError {
    /// The file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// The file is too large.
    #[error("{0} is larger than {MAX_WORKLOAD_BYTES} bytes")]
    TooLarge(PathBuf),
    /// The file is no workload.
    #[error("{path}: {source}")]
    Inspect {
        /// Which file.
        path: PathBuf,
        /// Why; part of the message above.
        source: InspectError,
    },
    /// Nothing in the file could be run as a container.
    #[error("{path}: nothing to run: {rule}")]
    NotRunnable {
        /// Which file.
        path: PathBuf,
        /// What would be right.
        rule: &'static str,
    },
    /// The name is none.
    #[error("\"{name}\" is no image name: {detail}")]
    Name {
        /// As given.
        name: String,
        /// Why.
        detail: String,
    },
    /// The registry refused or could not be reached.
    #[error("cannot push {reference}: {source}")]
    Registry {
        /// What.
        reference: String,
        /// Why; part of the message above.
        source: Box<OciDistributionError>,
    },
}

/// Pushes `file` as `name` (`NAME[:TAG]`, or with a registry host) using the cluster's credentials for its own registry.
pub async fn push(credentials: &Credentials, file: &Path, name: &str) -> Result<Pushed, PushError> {
    let bytes = read(file).await?;
    let inspection = inspect(&bytes).map_err(|source| PushError::Inspect { path: file.to_owned(), source })?;
    if !inspection.runnable {
        let rule = match inspection.form {
            Form::Module => "a module must export the function _start",
            Form::Component => "a component must export wasi:cli/run",
        };
        return Err(PushError::NotRunnable { path: file.to_owned(), rule });
    }
    let reference = reference(credentials.authority(), name)?;
    let shown =
        format!("{}:{}", name.split_once(':').map_or(name, |(name, _)| name), reference.tag().unwrap_or("latest"));
    let title = file.file_name().map_or_else(|| "workload.wasm".into(), |name| name.to_string_lossy().into_owned());
    let size_bytes = bytes.len();
    let digest = send(credentials, &reference, &inspection, bytes, title)
        .await
        .map_err(|source| PushError::Registry { reference: shown.clone(), source: Box::new(source) })?;
    Ok(Pushed { reference: shown, digest, size_bytes, inspection })
}

async fn read(file: &Path) -> Result<Vec<u8>, PushError> {
    let fail = |error| PushError::Read(file.to_owned(), error);
    let length = tokio::fs::metadata(file).await.map_err(fail)?.len();
    if length > MAX_WORKLOAD_BYTES {
        return Err(PushError::TooLarge(file.to_owned()));
    }
    tokio::fs::read(file).await.map_err(fail)
}

/// A first part with a dot, a colon or `localhost` is a host, as in Docker's names.
fn reference(cluster: &str, name: &str) -> Result<Reference, PushError> {
    let has_host = name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    let full = if has_host { name.to_owned() } else { format!("{cluster}/{name}") };
    Reference::try_from(full.as_str())
        .map_err(|error| PushError::Name { name: name.to_owned(), detail: error.to_string() })
}

async fn send(
    credentials: &Credentials,
    reference: &Reference,
    inspection: &Inspection,
    bytes: Vec<u8>,
    title: String,
) -> Result<String, OciDistributionError> {
    let own = reference.registry() == credentials.authority();
    let (mut tls_certs_only, mut auth) = (Vec::new(), RegistryAuth::Anonymous);
    if own {
        tls_certs_only
            .push(Certificate { encoding: CertificateEncoding::Pem, data: credentials.ca_pem.clone().into_bytes() });
        if let Some(token) = &credentials.registry_token {
            auth = RegistryAuth::Basic("coracle".to_owned(), token.clone());
        }
    }
    let config = ClientConfig { protocol: ClientProtocol::Https, tls_certs_only, ..ClientConfig::default() };
    let client = Client::try_from(config)?;
    let layer_digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let annotations = BTreeMap::from([(TITLE.to_owned(), title)]);
    let layer = ImageLayer::new(bytes, WASM_LAYER.to_owned(), Some(annotations));
    let layers = [layer];
    let config = Config::new(config_json(inspection, &layer_digest), WASM_CONFIG.to_owned(), None);
    let mut manifest = OciImageManifest::build(&layers, &config, None);
    manifest.media_type = Some(oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned());
    manifest.artifact_type = Some(WASM_CONFIG.to_owned());
    client.push(reference, &layers, config, &auth, Some(manifest)).await?;
    client.fetch_manifest_digest(reference, &auth).await
}

/// The config of the CNCF working group's layout: what a scheduler wants to know without fetching the layer.
fn config_json(inspection: &Inspection, layer_digest: &str) -> Vec<u8> {
    let mut config = json!({ "architecture": "wasm", "os": "wasip1", "layerDigests": [layer_digest] });
    if inspection.form == Form::Component {
        config["os"] = "wasip2".into();
        config["component"] = json!({ "exports": inspection.exports, "imports": inspection.imports, "target": null });
    }
    config.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_host_mean_the_cluster() {
        for (name, registry, repository, tag) in [
            ("wait-for:1", "127.0.0.1:6443", "wait-for", "1"),
            ("team/wait-for", "127.0.0.1:6443", "team/wait-for", "latest"),
            ("registry.test:5000/a/b:2", "registry.test:5000", "a/b", "2"),
            ("localhost/a", "localhost", "a", "latest"),
        ] {
            let parsed = reference("127.0.0.1:6443", name).unwrap();
            assert_eq!(
                (parsed.registry(), parsed.repository(), parsed.tag()),
                (registry, repository, Some(tag)),
                "{name}"
            );
        }
        let error = reference("127.0.0.1:6443", "UPPER case").unwrap_err().to_string();
        assert!(error.starts_with("\"UPPER case\" is no image name"), "{error}");
    }
}
