//! One pull: manifest, then every module that is not here yet.

use crate::{
    Image, ImageModule, Layer, Manifest, manifest,
    reference::{Reference, parse_digest},
    registry::Registries,
    store::Store,
};
use bytes::Bytes;
use futures::{
    StreamExt,
    future::{BoxFuture, Shared},
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// A pull that many may wait for.
pub(crate) type Flight = Shared<BoxFuture<'static, Result<Image, String>>>;

/// Everything a pull needs.
pub(crate) struct Puller {
    pub(crate) store: Store,
    pub(crate) registries: Registries,
    pub(crate) turns: Semaphore,
}

/// The name under which the index knows an image.
pub(crate) fn index_name(reference: &Reference) -> String {
    // The cluster's registry may change its address; its images stay the same.
    let host = reference.host.as_deref().unwrap_or("cluster");
    let separator = if reference.digest.is_some() { '@' } else { ':' };
    format!("{host}/{}{separator}{}", reference.repository, reference.version())
}

impl Puller {
    /// What the index has for the name, if all of it is here.
    pub(crate) fn local(&self, reference: &Reference) -> Option<Image> {
        let digest = self.store.lookup(&index_name(reference))?;
        let bytes = self.store.read(&digest)?;
        let Ok(Manifest::Image(layers)) = manifest::parse(&bytes, reference.base_name()) else { return None };
        let whole = layers.iter().all(|layer| self.store.holds(&layer.digest, layer.size_bytes));
        whole.then(|| self.image(reference, &digest, &layers, false)).flatten()
    }

    /// Pulls, verifies and remembers.
    pub(crate) async fn pull(&self, reference: &Reference) -> Result<Image, String> {
        let _turn = self.turns.acquire().await.map_err(|_| "pulling has ended".to_owned())?;
        let (digest, bytes, layers) = self.manifest(reference).await?;
        let mut pulled = false;
        for layer in &layers {
            if !self.store.holds(&layer.digest, layer.size_bytes) {
                self.fetch(reference, layer).await?;
                pulled = true;
            }
        }
        pulled |= self.keep(&index_name(reference), &digest, &bytes)?;
        self.image(reference, &digest, &layers, pulled).ok_or_else(|| "its digest is not valid".to_owned())
    }

    /// The image manifest behind the reference, through at most one index, verified where a digest is known.
    async fn manifest(&self, reference: &Reference) -> Result<(String, Bytes, Vec<Layer>), String> {
        let mut version = reference.version().to_owned();
        for _ in 0..2 {
            let bytes = self.registries.manifest(reference, &version).await?;
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
            if parse_digest(&version).is_ok() && version != digest {
                return Err(format!("the manifest that came for {version} has digest {digest}"));
            }
            let parsed = manifest::parse(&bytes, reference.base_name());
            match parsed.map_err(|what| format!("{reference} {what}"))? {
                Manifest::Image(layers) => return Ok((digest, bytes, layers)),
                Manifest::Index(entry) => version = entry,
            }
        }
        Err(format!("{reference} is not a wasm workload image: its index names another index"))
    }

    async fn fetch(&self, reference: &Reference, layer: &Layer) -> Result<(), String> {
        let mut stream = self.registries.blob(reference, &layer.digest).await?;
        let started = self.store.begin(&layer.digest, layer.size_bytes);
        let mut writer = started.map_err(|error| format!("cannot write blob {}: {error}", layer.digest))?;
        while let Some(part) = stream.next().await {
            writer.write(&part?)?;
        }
        let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
        finished.map_err(|_| "writing was interrupted".to_owned())?
    }

    /// Stores the manifest and makes the name mean it; says whether the name meant something else before.
    fn keep(&self, name: &str, digest: &str, bytes: &[u8]) -> Result<bool, String> {
        if self.store.read(digest).is_none() {
            let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let started = self.store.begin(digest, size_bytes);
            let mut writer = started.map_err(|error| format!("cannot write the manifest: {error}"))?;
            writer.write(bytes)?;
            writer.finish()?;
        }
        if self.store.lookup(name).as_deref() == Some(digest) {
            return Ok(false);
        }
        self.store.remember(name, digest).map_err(|error| format!("cannot write the index: {error}"))?;
        Ok(true)
    }

    fn image(&self, reference: &Reference, digest: &str, layers: &[Layer], pulled: bool) -> Option<Image> {
        let module = |layer: &Layer| {
            let path = self.store.blob_path(&layer.digest)?;
            Some(ImageModule { name: layer.name.clone(), digest: layer.digest.clone(), path })
        };
        Some(Image {
            id: format!("{}@{digest}", self.registries.full_name(reference)),
            modules: layers.iter().map(module).collect::<Option<_>>()?,
            size_bytes: layers.iter().map(|layer| layer.size_bytes).sum(),
            pulled,
        })
    }
}
