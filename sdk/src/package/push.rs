//! Pushes a workload file to a registry: a config, one wasm layer, one manifest.

use super::{
    WASM_CONFIG, WASM_LAYER,
    inspect::{Form, InspectError, Inspection, inspect},
    registry::{Registry, RegistryError, digest},
};
use crate::kubeconfig::Credentials;
use oci_spec::distribution::Reference;
use serde_json::json;
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Largest workload file that is pushed.
const MAX_WORKLOAD_BYTES: u64 = 512 * 1024 * 1024;
/// Media type of the manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
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
    /// The name means a registry that is not the cluster's.
    #[error("{name}: pushing to other registries than the cluster's own is not supported: leave out the host {host}")]
    Foreign {
        /// As given.
        name: String,
        /// The host in it.
        host: String,
    },
    /// The registry refused or could not be reached.
    #[error("cannot push {reference}: {source}")]
    Registry {
        /// What.
        reference: String,
        /// Why; part of the message above.
        source: RegistryError,
    },
}

/// Pushes `file` as `name` (`NAME[:TAG]`) to the cluster's own registry.
pub async fn push(credentials: &Credentials, file: &Path, name: &str) -> Result<Pushed, PushError> {
    let bytes = read(file).await?;
    let inspection = inspect(&bytes).map_err(|source| PushError::Inspect { path: file.to_owned(), source })?;
    if !inspection.runnable {
        let rule = match inspection.form {
            Form::Module => "a module must export the function _start",
            Form::Component => "a component must export wasi:cli/run or wasi:http/incoming-handler",
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
        .map_err(|source| PushError::Registry { reference: shown.clone(), source })?;
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
    let reference = Reference::try_from(full.as_str())
        .map_err(|error| PushError::Name { name: name.to_owned(), detail: error.to_string() })?;
    if reference.registry() != cluster {
        return Err(PushError::Foreign { name: name.to_owned(), host: reference.registry().to_owned() });
    }
    if reference.digest().is_some() {
        let detail = "a push names a tag; the digest follows from the content".to_owned();
        return Err(PushError::Name { name: name.to_owned(), detail });
    }
    Ok(reference)
}

async fn send(
    credentials: &Credentials,
    reference: &Reference,
    inspection: &Inspection,
    bytes: Vec<u8>,
    title: String,
) -> Result<String, RegistryError> {
    let registry = Registry::new(credentials)?;
    let repository = reference.repository();
    let layer_size = bytes.len();
    let config = config_json(inspection, &digest(&bytes));
    let config_size = config.len();
    let layer = registry.blob(repository, bytes.into()).await?;
    let config = registry.blob(repository, config.into()).await?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": WASM_CONFIG,
        "config": { "mediaType": WASM_CONFIG, "digest": config, "size": config_size },
        "layers": [{
            "mediaType": WASM_LAYER, "digest": layer, "size": layer_size, "annotations": { TITLE: title },
        }],
    });
    let tag = reference.tag().unwrap_or("latest");
    registry.manifest(repository, tag, MANIFEST, manifest.to_string().into()).await
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
            ("127.0.0.1:6443/a/b:2", "127.0.0.1:6443", "a/b", "2"),
        ] {
            let parsed = reference("127.0.0.1:6443", name).unwrap();
            assert_eq!(
                (parsed.registry(), parsed.repository(), parsed.tag()),
                (registry, repository, Some(tag)),
                "{name}"
            );
        }
        let error = reference("127.0.0.1:6443", "registry.test:5000/a").unwrap_err().to_string();
        assert!(error.contains("leave out the host registry.test:5000"), "{error}");
        let error = reference("127.0.0.1:6443", "UPPER case").unwrap_err().to_string();
        assert!(error.starts_with("\"UPPER case\" is no image name"), "{error}");
    }
}
