//! Fetches the modules of an image into files.

use super::{
    place::{PlaceError, place},
    registry::{Registry, RegistryError, RegistryOptions, digest},
};
use crate::kubeconfig::Credentials;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;
use tokio::{fs, io::AsyncWriteExt as _};

/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// Most modules of one image.
const MAX_MODULES: usize = 64;
/// Largest module.
const MAX_MODULE_BYTES: u64 = 512 * 1024 * 1024;
/// What may be answered for a manifest.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json";
const SUFFIX: &str = ".wasm";
const TITLE: &str = "org.opencontainers.image.title";

/// One fetched module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledModule {
    /// Where it is now.
    pub path: PathBuf,
    /// `sha256:…` of it.
    pub digest: String,
    /// Its length.
    pub size_bytes: u64,
}

/// A fetched image.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Name and tag as given, with the tag filled in.
    pub reference: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Its modules, in the manifest's order.
    pub modules: Vec<PulledModule>,
}

/// Why an image was not fetched.
#[derive(Debug, Error)]
pub enum PullError {
    /// The name leads nowhere.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The registry refused or could not be reached.
    #[error("cannot pull {reference}: {source}")]
    Registry {
        /// What.
        reference: String,
        /// Why; part of the message above.
        source: RegistryError,
    },
    /// What the registry has is no workload image, or not what it says.
    #[error("{reference} {detail}")]
    Image {
        /// What.
        reference: String,
        /// What is wrong.
        detail: String,
    },
    /// A file cannot be written.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
}

/// Fetches every module of `name` into `directory`, under its title. Nothing that exists is overwritten.
pub async fn pull(
    cluster: Option<&Credentials>,
    options: &RegistryOptions,
    name: &str,
    directory: &Path,
) -> Result<Pulled, PullError> {
    let place = place(cluster, options, name)?;
    let (registry, repository) = (&place.registry, place.reference.repository());
    let image = |detail: String| PullError::Image { reference: place.shown.clone(), detail };
    let failed = |source| PullError::Registry { reference: place.shown.clone(), source };
    let mut version = place.reference.digest().or(place.reference.tag()).unwrap_or("latest").to_owned();
    let mut base = repository.rsplit('/').next().unwrap_or(repository).to_owned();
    base.push_str(SUFFIX);
    // Through at most one index.
    for _ in 0..2 {
        let bytes = manifest(registry, repository, &version).await.map_err(failed)?;
        let manifest_digest = digest(&bytes);
        if version.starts_with("sha256:") && version != manifest_digest {
            return Err(image(format!("is another manifest than asked for: {manifest_digest}")));
        }
        let parsed: Value =
            serde_json::from_slice(&bytes).map_err(|error| image(format!("has an unreadable manifest: {error}")))?;
        if let Some(entries) = parsed["manifests"].as_array() {
            let wasm = entries.iter().find(|entry| entry["platform"]["architecture"] == "wasm").or(entries.first());
            version = wasm.and_then(|entry| entry["digest"].as_str()).unwrap_or_default().to_owned();
            continue;
        }
        let mut modules = Vec::new();
        for layer in layers(&parsed).map_err(&image)? {
            let path = directory.join(file_name(layer).unwrap_or(&base));
            modules.push(fetch(registry, repository, layer, &path).await.map_err(|fault| match fault {
                Fault::Registry(source) => failed(source),
                Fault::Image(detail) => image(detail),
                Fault::Write(error) => PullError::Write(path.clone(), error),
            })?);
        }
        return Ok(Pulled { reference: place.shown.clone(), digest: manifest_digest, modules });
    }
    Err(image("is an index of indexes".to_owned()))
}

/// The layers that are modules.
fn layers(manifest: &Value) -> Result<Vec<&Value>, String> {
    let all = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_wasm = |layer: &&Value| {
        layer["mediaType"].as_str().is_some_and(|kind| kind == super::WASM_LAYER || kind.ends_with("+wasm"))
            || layer["annotations"][TITLE].as_str().is_some_and(|title| title.ends_with(SUFFIX))
    };
    let found: Vec<&Value> = all.iter().filter(is_wasm).collect();
    match found.len() {
        0 => Err("has no layer that is a wasm file".to_owned()),
        count if count > MAX_MODULES => Err(format!("has more than {MAX_MODULES} modules")),
        _ => Ok(found),
    }
}

/// The last part of a title, where it is a plain name.
fn file_name(layer: &Value) -> Option<&str> {
    let name = layer["annotations"][TITLE].as_str()?.rsplit('/').next()?;
    (!matches!(name, "" | "." | "..") && !name.contains(char::is_control)).then_some(name)
}

async fn manifest(registry: &Registry, repository: &str, version: &str) -> Result<Vec<u8>, RegistryError> {
    let mut response = registry.get(repository, &format!("manifests/{version}"), ACCEPT).await?;
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| registry.broken(error))? {
        if bytes.len() + part.len() > MAX_MANIFEST_BYTES {
            return Err(registry.wrong(&format!("sends a manifest of more than {MAX_MANIFEST_BYTES} bytes")));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

enum Fault {
    Registry(RegistryError),
    Image(String),
    Write(io::Error),
}

/// Fetches one layer; what is not what was announced is removed.
async fn fetch(registry: &Registry, repository: &str, layer: &Value, path: &Path) -> Result<PulledModule, Fault> {
    let digest = layer["digest"].as_str().unwrap_or_default();
    let hex = digest.strip_prefix("sha256:").filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let size_bytes = layer["size"].as_u64().filter(|size| *size <= MAX_MODULE_BYTES);
    let (Some(hex), Some(size_bytes)) = (hex, size_bytes) else {
        return Err(Fault::Image(format!("names a layer without a good digest and size: {digest:?}")));
    };
    let mut file = fs::File::create_new(path).await.map_err(Fault::Write)?;
    let written = write(registry, repository, digest, size_bytes, &mut file).await;
    let verified = written.and_then(|actual| {
        if actual == hex {
            Ok(())
        } else {
            Err(Fault::Image(format!("has bytes of digest sha256:{actual} as {digest}")))
        }
    });
    if let Err(fault) = verified {
        fs::remove_file(path).await.map_err(Fault::Write)?;
        return Err(fault);
    }
    Ok(PulledModule { path: path.to_owned(), digest: digest.to_owned(), size_bytes })
}

async fn write(
    registry: &Registry,
    repository: &str,
    digest: &str,
    size_bytes: u64,
    file: &mut fs::File,
) -> Result<String, Fault> {
    let response = registry.get(repository, &format!("blobs/{digest}"), "*/*").await;
    let mut response = response.map_err(Fault::Registry)?;
    let (mut hasher, mut left) = (Sha256::new(), size_bytes);
    while let Some(part) = response.chunk().await.map_err(|error| Fault::Registry(registry.broken(error)))? {
        let rest = left.checked_sub(part.len() as u64);
        left = rest.ok_or_else(|| Fault::Image(format!("has more than {size_bytes} bytes as {digest}")))?;
        hasher.update(&part);
        file.write_all(&part).await.map_err(Fault::Write)?;
    }
    file.sync_all().await.map_err(Fault::Write)?;
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn titles_become_plain_names() {
        for (title, name) in [("a.wasm", Some("a.wasm")), ("../../x/b.wasm", Some("b.wasm")), ("..", None), ("", None)]
        {
            assert_eq!(file_name(&json!({"annotations": {TITLE: title}})), name, "{title}");
        }
        assert_eq!(file_name(&json!({})), None);
    }
}
