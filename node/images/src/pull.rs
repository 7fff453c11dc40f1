//! One pull: manifest, then every layer that is not here yet, each of them only once however many images want it.

use crate::{
    Image, ImageModule, Local, download,
    failure::{Class, Failure},
    manifest::{self, Form, Layer, Manifest},
    reference::{Reference, parse_digest},
    registry::{Access, Registries},
    shelf::Shelf,
    store::{Contents, Extracted, Store},
    tar,
    turns::Turns,
};
use bytes::Bytes;
use coracle_objects::registry_auth::Keyring;
use futures::future::{BoxFuture, Shared};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// A pull that many may wait for.
pub(crate) type Flight = Shared<BoxFuture<'static, Result<Image, Failure>>>;

/// How often a manifest is asked for again when the registry is away.
const MANIFEST_RETRIES: u32 = 3;

/// Everything a pull needs.
pub(crate) struct Puller {
    pub(crate) store: Store,
    pub(crate) registries: Registries,
    pub(crate) turns: Turns,
    /// Before the first retry; it doubles.
    pub(crate) retry_delay: Duration,
    /// Layers being fetched.
    pub(crate) busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while something is found, and while something is taken away.
    pub(crate) shelf: Mutex<Shelf>,
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
    pub(crate) fn local(&self, reference: &Reference, keyring: &Keyring) -> Local {
        let _kept = self.shelf();
        let Some(entry) = self.store.lookup(&index_name(reference)) else { return Local::Absent };
        let layers = self.store.read(&entry.manifest).and_then(|bytes| {
            let parsed = manifest::parse(&bytes, reference.base_name());
            if let Ok(Manifest::Image(layers)) = parsed { Some(layers) } else { None }
        });
        let Some(layers) = layers else { return Local::Absent };
        match self.image(reference, &entry.manifest, &layers, false) {
            Ok(image) if self.store.may_use(&entry, &self.registries.usable(reference, keyring)) => Local::Here(image),
            Ok(image) => Local::Withheld(image),
            Err(_) => Local::Absent,
        }
    }

    /// What is here of a digest.
    pub(crate) fn held(&self, reference: &Reference) -> Option<Image> {
        let _kept = self.shelf();
        let digest = reference.digest.as_deref()?;
        match manifest::parse(&self.store.read(digest)?, reference.base_name()) {
            Ok(Manifest::Image(layers)) => self.image(reference, digest, &layers, false).ok(),
            Ok(_) | Err(_) => None,
        }
    }

    /// Pulls, verifies and remembers.
    pub(crate) async fn pull(&self, reference: &Reference, keyring: &Keyring) -> Result<Image, Failure> {
        let _turn = self.turns.take(reference.host.as_deref().unwrap_or_default()).await;
        let (digest, bytes, layers, access) = self.manifest(reference, keyring).await?;
        let _pin = self.pin(layers.iter().map(|layer| layer.digest.clone()).chain([digest.clone()]));
        let mut pulled = false;
        for layer in &layers {
            pulled |= self.fetch(reference, keyring, layer).await?;
        }
        let image = self.image(reference, &digest, &layers, false);
        let mut image = image.map_err(|what| Failure::last(format!("{reference} {what}")))?;
        pulled |= self.keep(&index_name(reference), &digest, &bytes, &access)?;
        image.pulled = pulled;
        Ok(image)
    }

    /// The image manifest behind the reference, through at most one index, verified where a digest is known.
    async fn manifest(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<(String, Bytes, Vec<Layer>, Access), Failure> {
        let mut version = reference.version().to_owned();
        for _ in 0..2 {
            let (bytes, access) = self.manifest_bytes(reference, keyring, &version).await?;
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
            if parse_digest(&version).is_ok() && version != digest {
                return Err(Failure::last(format!("the manifest that came for {version} has digest {digest}")));
            }
            let parsed = manifest::parse(&bytes, reference.base_name());
            match parsed.map_err(|what| Failure::last(format!("{reference} {what}")))? {
                Manifest::Image(layers) => return Ok((digest, bytes, layers, access)),
                Manifest::Index(entry) => version = entry,
            }
        }
        Err(Failure::last(format!("{reference} is not a wasm workload image: its index names another index")))
    }

    async fn manifest_bytes(
        &self,
        reference: &Reference,
        keyring: &Keyring,
        version: &str,
    ) -> Result<(Bytes, Access), Failure> {
        let mut tries = 0;
        loop {
            match self.registries.manifest(reference, keyring, version).await {
                Err(failure) if failure.class == Class::Passing && tries < MANIFEST_RETRIES => {
                    tokio::time::sleep(self.retry_delay * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    /// Makes sure that a layer is here; says whether this call fetched it.
    async fn fetch(&self, reference: &Reference, keyring: &Keyring, layer: &Layer) -> Result<bool, Failure> {
        if self.has(layer) {
            return Ok(false);
        }
        let lock =
            self.busy.lock().unwrap_or_else(PoisonError::into_inner).entry(layer.digest.clone()).or_default().clone();
        let result = {
            let _one = lock.lock().await;
            if self.has(layer) { Ok(false) } else { self.fetch_alone(reference, keyring, layer).await.map(|()| true) }
        };
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // This and the table's: nobody waits for it any more.
        if Arc::strong_count(&lock) <= 2 {
            busy.remove(&layer.digest);
        }
        result
    }

    fn has(&self, layer: &Layer) -> bool {
        match layer.form {
            Form::Module => self.store.holds(&layer.digest, layer.size_bytes),
            Form::Tar => self.store.contents(&layer.digest).is_some(),
        }
    }

    async fn fetch_alone(&self, reference: &Reference, keyring: &Keyring, layer: &Layer) -> Result<(), Failure> {
        download::blob(self, reference, keyring, layer).await?;
        if layer.form == Form::Module {
            return Ok(());
        }
        let _pin = self.pin_all();
        let (store, digest) = (self.store.clone(), layer.digest.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack(&store, &digest)).await;
        let unpacked = unpacked.unwrap_or_else(|_| Err(io::Error::other("it was interrupted")));
        unpacked.map_err(|error| Failure::last(format!("{reference}: cannot unpack layer {}: {error}", layer.digest)))
    }

    /// Stores the manifest and makes the name mean it; says whether the name meant something else before.
    fn keep(&self, name: &str, digest: &str, bytes: &[u8], access: &Access) -> Result<bool, Failure> {
        let unwritten = |what: &str, error: io::Error| Failure::last(format!("cannot write the {what}: {error}"));
        if self.store.read(digest).is_none() {
            self.store.put(digest, bytes).map_err(|error| unwritten("manifest", error))?;
        }
        let is_new = self.store.lookup(name).is_none_or(|entry| entry.manifest != digest);
        self.store.remember(name, digest, access).map_err(|error| unwritten("index", error))?;
        Ok(is_new)
    }

    fn image(&self, reference: &Reference, digest: &str, layers: &[Layer], pulled: bool) -> Result<Image, String> {
        let mut modules: Vec<Extracted> = Vec::new();
        for layer in layers {
            if !self.has(layer) {
                return Err("is not all here".to_owned());
            }
            match layer.form {
                Form::Module => modules.push(Extracted {
                    name: layer.name.clone(),
                    digest: layer.digest.clone(),
                    size_bytes: layer.size_bytes,
                }),
                Form::Tar => {
                    let contents = self.store.contents(&layer.digest).unwrap_or_default();
                    let replaced = |name: &String| contents.modules.iter().any(|module| module.name == *name);
                    modules.retain(|module| !contents.gone.contains(&module.name) && !replaced(&module.name));
                    modules.extend(contents.modules);
                }
            }
        }
        if modules.is_empty() {
            return Err("is not a wasm workload image: there is no .wasm file in its layers".to_owned());
        }
        self.store.touch(digest);
        let path = |module: &Extracted| self.store.blob_path(&module.digest).ok_or("has a digest that is not valid");
        Ok(Image {
            id: format!("{}@{digest}", self.registries.full_name(reference)),
            size_bytes: modules.iter().map(|module| module.size_bytes).sum(),
            modules: modules
                .iter()
                .map(|module| {
                    Ok(ImageModule { name: module.name.clone(), digest: module.digest.clone(), path: path(module)? })
                })
                .collect::<Result<_, &str>>()?,
            pulled,
        })
    }
}

/// Takes the modules out of an archive, which goes.
fn unpack(store: &Store, digest: &str) -> io::Result<()> {
    let path = store.blob_path(digest).ok_or_else(|| io::Error::other("not a digest"))?;
    let mut contents = Contents::default();
    let result = tar::read(BufReader::new(File::open(path)?), &mut |found| match found {
        tar::Found::Gone { path } => {
            contents.gone.push(manifest::module_name(path, path));
            bounded(contents.gone.len())
        }
        tar::Found::Module { path, bytes, size_bytes } => {
            let name = manifest::module_name(path, path);
            if contents.modules.iter().any(|module| module.name == name) {
                return Err(io::Error::other(format!("it {}", manifest::two_modules(&name))));
            }
            let digest = store.take(bytes, size_bytes)?;
            contents.modules.push(Extracted { name, digest, size_bytes });
            bounded(contents.modules.len())
        }
    });
    let result = result.and_then(|()| store.remember_contents(digest, &contents));
    // Whatever came of it, what is not wanted any more must not fill the disk.
    store.remove(digest).and(result)
}

fn bounded(count: usize) -> io::Result<()> {
    if count > manifest::MODULES_MAX {
        return Err(io::Error::other(format!("it has more than {} modules", manifest::MODULES_MAX)));
    }
    Ok(())
}
