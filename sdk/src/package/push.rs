//! Pushes workload files to a registry as one image: a config, a wasm layer for each, one manifest.

use super::{
    WASM_CONFIG, WASM_LAYER,
    inspect::{Form, InspectError, Inspection, inspect},
    place::{Place, PlaceError, place},
    registry::{RegistryError, RegistryOptions, digest},
};
use crate::kubeconfig::Credentials;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Largest workload file that is pushed.
const MAX_WORKLOAD_BYTES: u64 = 512 * 1024 * 1024;
/// Most files in one image.
const MAX_FILES: usize = 64;
/// Media type of the manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Annotation that names a layer's file.
const TITLE: &str = "org.opencontainers.image.title";

/// One file of a pushed image.
#[derive(Debug, Clone)]
pub struct PushedFile {
    /// Its title in the image; `command[0]` picks it by this, with or without `.wasm`.
    pub title: String,
    /// Its length.
    pub size_bytes: usize,
    /// What it is.
    pub inspection: Inspection,
}

/// A pushed image.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Name and tag as given, with the tag filled in.
    pub reference: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// What was pushed.
    pub files: Vec<PushedFile>,
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
    /// Too many files, or two that could not be told apart.
    #[error("{0}")]
    Files(String),
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
    /// The name leads nowhere.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The registry refused or could not be reached.
    #[error("cannot push {reference}: {source}")]
    Registry {
        /// What.
        reference: String,
        /// Why; part of the message above.
        source: RegistryError,
    },
}

/// A file that was read and found good.
struct Workload {
    file: PushedFile,
    bytes: Vec<u8>,
}

/// Pushes `files` as one image `name`: `[HOST/]NAME[:TAG]`, without a host in the cluster's own registry.
pub async fn push(
    cluster: Option<&Credentials>,
    options: &RegistryOptions,
    files: &[PathBuf],
    name: &str,
) -> Result<Pushed, PushError> {
    if files.is_empty() || files.len() > MAX_FILES {
        return Err(PushError::Files(format!("{} files; an image has from 1 to {MAX_FILES}", files.len())));
    }
    let mut workloads = Vec::with_capacity(files.len());
    let mut titles = BTreeSet::new();
    for path in files {
        let workload = workload(path).await?;
        if !titles.insert(workload.file.title.clone()) {
            return Err(PushError::Files(format!("two files are called {}", workload.file.title)));
        }
        workloads.push(workload);
    }
    let place = place(cluster, options, name)?;
    if place.reference.digest().is_some() {
        let detail = "a push names a tag; the digest follows from the content".to_owned();
        return Err(PlaceError::Name { name: name.to_owned(), detail }.into());
    }
    let pushed = workloads.iter().map(|workload| workload.file.clone()).collect();
    let digest = send(&place, workloads).await;
    let digest = digest.map_err(|source| PushError::Registry { reference: place.shown.clone(), source })?;
    Ok(Pushed { reference: place.shown, digest, files: pushed })
}

async fn workload(path: &Path) -> Result<Workload, PushError> {
    let bytes = read(path).await?;
    let inspection = inspect(&bytes).map_err(|source| PushError::Inspect { path: path.to_owned(), source })?;
    if !inspection.runnable {
        let rule = match inspection.form {
            Form::Module => "a module must export the function _start",
            Form::Component => "a component must export wasi:cli/run or wasi:http/incoming-handler",
        };
        return Err(PushError::NotRunnable { path: path.to_owned(), rule });
    }
    let title = path.file_name().map_or_else(|| "workload.wasm".into(), |name| name.to_string_lossy().into_owned());
    Ok(Workload { file: PushedFile { title, size_bytes: bytes.len(), inspection }, bytes })
}

async fn read(file: &Path) -> Result<Vec<u8>, PushError> {
    let fail = |error| PushError::Read(file.to_owned(), error);
    let length = tokio::fs::metadata(file).await.map_err(fail)?.len();
    if length > MAX_WORKLOAD_BYTES {
        return Err(PushError::TooLarge(file.to_owned()));
    }
    tokio::fs::read(file).await.map_err(fail)
}

async fn send(place: &Place, workloads: Vec<Workload>) -> Result<String, RegistryError> {
    let (registry, repository) = (&place.registry, place.reference.repository());
    let config = config_json(&workloads);
    let config_size = config.len();
    let mut layers: Vec<Value> = Vec::with_capacity(workloads.len());
    for Workload { file, bytes } in workloads {
        let digest = registry.blob(repository, bytes.into()).await?;
        layers.push(json!({
            "mediaType": WASM_LAYER, "digest": digest, "size": file.size_bytes, "annotations": { TITLE: file.title },
        }));
    }
    let config = registry.blob(repository, config.into()).await?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": WASM_CONFIG,
        "config": { "mediaType": WASM_CONFIG, "digest": config, "size": config_size },
        "layers": layers,
    });
    let tag = place.reference.tag().unwrap_or("latest");
    registry.manifest(repository, tag, MANIFEST, manifest.to_string().into()).await
}

/// The config of the CNCF working group's layout: what a scheduler wants to know without fetching the layers. What a
/// component needs and offers is said where there is only one.
fn config_json(workloads: &[Workload]) -> Vec<u8> {
    let digests: Vec<String> = workloads.iter().map(|workload| digest(&workload.bytes)).collect();
    let mut config = json!({ "architecture": "wasm", "os": "wasip1", "layerDigests": digests });
    let is_component = |workload: &Workload| workload.file.inspection.form == Form::Component;
    if workloads.iter().any(is_component) {
        config["os"] = "wasip2".into();
    }
    if let [only] = workloads
        && is_component(only)
    {
        let found = &only.file.inspection;
        config["component"] = json!({ "exports": found.exports, "imports": found.imports, "target": null });
    }
    config.to_string().into_bytes()
}
