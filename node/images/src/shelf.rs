//! What is here, for how long nobody has used it, and how it is taken away again. Nothing goes that a pull under way
//! needs, or that somebody found a moment ago: finding and taking away exclude each other.

use crate::{
    Images,
    manifest::{self, Form, Manifest},
    pull::{Puller, index_name},
    reference::Reference,
    store::Store,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt as _,
    sync::{MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// Size of the blocks that the kernel counts a file's space in.
const BLOCK_BYTES: u64 = 512;

/// An image that is here under some name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// The names that mean it, with their registries; never empty.
    pub names: Vec<String>,
    /// When it was last pulled or found for somebody.
    pub last_used: SystemTime,
}

/// What [`Images::sweep`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Space that was given back, in bytes.
    pub freed_bytes: u64,
    /// Digests of all modules that are still needed.
    pub modules: BTreeSet<String>,
}

/// What pulls under way need.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    /// How many pulls need a manifest or a layer, by digest.
    pinned: HashMap<String, usize>,
    /// Archives being unpacked: what they hold is known when all of it is written.
    unpacking: usize,
}

/// Keeps what a pull needs until it is dropped.
pub(crate) struct Pin<'a> {
    puller: &'a Puller,
    digests: Vec<String>,
    unpacks: bool,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut kept = self.puller.shelf();
        kept.unpacking -= usize::from(self.unpacks);
        for digest in &self.digests {
            if let Some(count) = kept.pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    kept.pinned.remove(digest);
                }
            }
        }
    }
}

impl Puller {
    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing of these is taken away while the answer is held.
    pub(crate) fn pin(&self, digests: impl IntoIterator<Item = String>) -> Pin<'_> {
        let digests: Vec<String> = digests.into_iter().collect();
        let mut kept = self.shelf();
        for digest in &digests {
            *kept.pinned.entry(digest.clone()).or_default() += 1;
        }
        Pin { puller: self, digests, unpacks: false }
    }

    /// Nothing at all is taken away while the answer is held.
    pub(crate) fn pin_all(&self) -> Pin<'_> {
        self.shelf().unpacking += 1;
        Pin { puller: self, digests: Vec::new(), unpacks: true }
    }
}

/// Everything that some manifests lead to.
#[derive(Default)]
struct Needed {
    blobs: HashSet<String>,
    /// Archives of which only the modules are kept.
    archives: HashSet<String>,
    modules: BTreeSet<String>,
}

impl Needed {
    fn add_manifest(&mut self, store: &Store, digest: &str) {
        let Some(bytes) = store.read(digest) else { return };
        self.blobs.insert(digest.to_owned());
        // The name only says what a module without one is called.
        let Ok(Manifest::Image(layers)) = manifest::parse(&bytes, "module") else { return };
        for layer in layers {
            match layer.form {
                Form::Module => {
                    self.modules.insert(layer.digest.clone());
                    self.blobs.insert(layer.digest);
                }
                Form::Tar => self.add_archive(store, layer.digest),
            }
        }
    }

    fn add_archive(&mut self, store: &Store, digest: String) {
        let contents = store.contents(&digest).unwrap_or_default();
        for module in contents.modules {
            self.blobs.insert(module.digest.clone());
            self.modules.insert(module.digest);
        }
        self.archives.insert(digest);
    }
}

fn is_unused(about: &Metadata, unused_for: Duration) -> bool {
    // A clock that was set back says nothing.
    about.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age >= unused_for)
}

impl Images {
    /// Digests of the images that these references mean now, and of those with these ids ([`crate::Image::id`]).
    pub fn in_use<'a>(
        &self,
        references: impl IntoIterator<Item = &'a str>,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> BTreeSet<String> {
        let named = references.into_iter().filter_map(|reference| {
            let name = index_name(&Reference::parse(reference).ok()?);
            Some(self.puller.store.lookup(&name)?.manifest)
        });
        let held = ids.into_iter().filter_map(|id| Reference::parse(id).ok()?.digest);
        named.chain(held).collect()
    }

    /// All images that have a name here, in no order.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn stored(&self) -> io::Result<Vec<StoredImage>> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in self.puller.store.entries()? {
            names.entry(entry.manifest).or_default().push(entry.name);
        }
        let image = |(digest, names): (String, Vec<String>)| {
            // What has lost its manifest is of no use to anybody.
            let last_used = self.puller.store.last_used(&digest).unwrap_or(SystemTime::UNIX_EPOCH);
            StoredImage { digest, names, last_used }
        };
        Ok(names.into_iter().map(image).collect())
    }

    /// Makes all names forget an image, unless somebody used it within `unused_for` or pulls it. Whether they did; its
    /// space comes back with [`Self::sweep`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget(&self, digest: &str, unused_for: Duration) -> io::Result<bool> {
        let kept = self.puller.shelf();
        let store = &self.puller.store;
        let used = store.last_used(digest).and_then(|at| at.elapsed().ok()).is_some_and(|age| age < unused_for);
        if used || kept.pinned.contains_key(digest) {
            return Ok(false);
        }
        for entry in store.entries()?.iter().filter(|entry| entry.manifest == digest) {
            store.forget(&entry.name)?;
        }
        Ok(true)
    }

    /// Removes whatever no name, none of the images with the digests `wanted` and no pull under way needs, and that was
    /// written before `unused_for`. While an archive is being unpacked, nothing.
    ///
    /// # Errors
    /// When the disk refuses; what was removed before stays so.
    pub fn sweep(&self, wanted: &BTreeSet<String>, unused_for: Duration) -> io::Result<Swept> {
        let kept = self.puller.shelf();
        let store = &self.puller.store;
        let mut needed = Needed::default();
        for entry in store.entries()? {
            needed.add_manifest(store, &entry.manifest);
        }
        for digest in wanted {
            needed.add_manifest(store, digest);
        }
        for digest in kept.pinned.keys() {
            needed.add_manifest(store, digest);
            needed.blobs.insert(digest.clone());
            needed.add_archive(store, digest.clone());
        }
        let mut freed_bytes = 0;
        if kept.unpacking == 0 {
            let is_needless = |set: &HashSet<String>, digest: &str, about: &Metadata| {
                !set.contains(digest) && is_unused(about, unused_for)
            };
            store.retain(|place, digest, about| {
                let set = if place.holds_archives() { &needed.archives } else { &needed.blobs };
                let goes = is_needless(set, digest, about);
                freed_bytes += if goes { about.blocks() * BLOCK_BYTES } else { 0 };
                !goes
            })?;
        }
        Ok(Swept { freed_bytes, modules: needed.modules })
    }
}
