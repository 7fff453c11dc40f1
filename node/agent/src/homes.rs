//! The directories of namespaces, `DIR/ns/UID`: volumes and code of the pods that are here, and the root of their runners.
//!
//! Whoever makes something there stays for as long as it does so ([`Homes::stay`]). A home is removed, and its user
//! forgotten, when nobody stays and nothing can come back: the server has no such namespace, or no file describes a pod of
//! it. Looked at is what is on disk, so that it does not matter which process made it and when that was killed.
//!
//! It must never remove a home before it is known which pods and namespaces there are.

use crate::{
    guests::Guests, ledger::is_file_name, pod::volumes, reflector::Cache, sandbox::Owners, static_pods::is_static_home,
};
use coracle_objects::meta;
use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What begins the name of a home that is being removed. No namespace has such a uid.
const LEAVING: &str = ".leaving-";
/// How long until what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Homes {
    directory: PathBuf,
    owners: Arc<Owners>,
    /// How many stay in which; held while one is taken away, so that nobody comes meanwhile.
    stays: Mutex<HashMap<String, usize>>,
    /// Changes when the last one has left a home.
    left: watch::Sender<u64>,
}

/// Somebody's stay in a home, which is there to be made until this is dropped.
pub(crate) struct Stay {
    homes: Arc<Homes>,
    namespace_uid: String,
}

impl Stay {
    /// Where it stays.
    pub(crate) fn namespace_uid(&self) -> &str {
        &self.namespace_uid
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut stays = self.homes.stays();
        let left = stays.get_mut(&self.namespace_uid).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            stays.remove(&self.namespace_uid);
            drop(stays);
            self.homes.left.send_modify(|count| *count += 1);
        }
    }
}

/// What has to be known before anything is removed.
pub(crate) struct Known {
    /// The namespaces that there are, once they were listed.
    pub(crate) namespaces: Cache,
    /// Whether all pods that the server has for this node are known.
    pub(crate) pods: watch::Receiver<bool>,
    /// Whether all static pods are known.
    pub(crate) statics: watch::Receiver<bool>,
}

impl Homes {
    /// Those below `data_dir`, each with a user among `owners`.
    pub(crate) fn new(data_dir: &Path, owners: Arc<Owners>) -> Arc<Self> {
        let (directory, left) = (data_dir.join("ns"), watch::Sender::new(0));
        Arc::new(Self { directory, owners, stays: Mutex::default(), left })
    }

    fn stays(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the home of a namespace from being removed; does not make it.
    pub(crate) fn stay(self: &Arc<Self>, namespace_uid: &str) -> Stay {
        *self.stays().entry(namespace_uid.to_owned()).or_default() += 1;
        Stay { homes: self.clone(), namespace_uid: namespace_uid.to_owned() }
    }

    /// The homes that are on disk: by the uids of their namespaces, with where they are.
    pub(crate) fn all(&self) -> Vec<(String, PathBuf)> {
        let paths = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let named = paths.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)));
        named.filter(|(name, _)| is_file_name(name)).collect()
    }

    /// Removes homes as they become superfluous, until `stop`.
    pub(crate) async fn tidy(self: Arc<Self>, guests: Arc<dyn Guests>, mut known: Known, stop: CancellationToken) {
        let (mut version, mut left) = (known.namespaces.version(), self.left.subscribe());
        loop {
            left.borrow_and_update();
            let is_listed = *version.borrow_and_update() > 0;
            let from_server = is_listed && *known.pods.borrow_and_update();
            let from_files = *known.statics.borrow_and_update();
            let namespaces: BTreeSet<String> =
                known.namespaces.all().iter().map(|one| meta::uid(one).to_owned()).collect();
            let (homes, guests) = (self.clone(), guests.clone());
            let look = tokio::task::spawn_blocking(move || {
                homes.remove_unless(&*guests, |uid| {
                    if is_static_home(uid) { !from_files } else { !from_server || namespaces.contains(uid) }
                })
            });
            let failure = look.await.unwrap_or_else(|_| Err(io::Error::other("it was interrupted"))).err();
            if let Some(error) = &failure {
                warn!(%error, "cannot remove what a namespace left; it is tried again");
            }
            tokio::select! {
                Ok(()) = version.changed() => {}
                Ok(()) = left.changed() => {}
                Ok(()) = known.pods.changed() => {}
                Ok(()) = known.statics.changed() => {}
                () = tokio::time::sleep(RETRY), if failure.is_some() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Removes every home that `is_wanted` does not want and where nobody stays, and what an interrupted removal left.
    /// Goes on behind a failure and answers the first.
    fn remove_unless(&self, guests: &dyn Guests, is_wanted: impl Fn(&str) -> bool) -> io::Result<()> {
        let mut results = vec![self.remove_leaving()];
        let on_disk = self.all().into_iter().map(|(uid, _)| uid);
        let all: BTreeSet<String> = on_disk.chain(self.owners.namespaces()).collect();
        for uid in all.into_iter().filter(|uid| !is_wanted(uid)) {
            let stays = self.stays();
            if !stays.contains_key(&uid) {
                guests.dismiss(&uid);
                results.push(self.take_away(&uid));
            }
        }
        results.push(self.remove_leaving());
        results.into_iter().collect()
    }

    /// At once, however much is in it: from now on a home of this name is a new one.
    fn take_away(&self, uid: &str) -> io::Result<()> {
        let home = self.directory.join(uid);
        match fs::rename(&home, self.directory.join(format!("{LEAVING}{uid}"))) {
            Ok(()) => info!(namespace_uid = uid, "removing what is left of a namespace"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.owners.forget(uid)
    }

    fn remove_leaving(&self) -> io::Result<()> {
        let mut result = Ok(());
        for entry in fs::read_dir(&self.directory)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(LEAVING) {
                result = result.and(volumes::in_memory::remove_namespace(&entry.path()));
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
