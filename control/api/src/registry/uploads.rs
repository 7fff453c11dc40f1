//! Uploads under way: a file that grows and its hash so far.

use super::{
    MAX_BLOB_BYTES, MAX_UPLOADS,
    blobs::Blobs,
    error::{Code, Refusal},
    path::Digest,
};
use axum::body::Body;
use futures::StreamExt as _;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::{collections::HashMap, fs, path::PathBuf, sync::Arc, time::Duration};
use tokio::{fs::File, io::AsyncWriteExt as _, time::Instant};
use uuid::Uuid;

/// A client that sends nothing for longer has gone away.
const STALL_TIMEOUT: Duration = Duration::from_mins(1);
/// An upload that nobody has touched for longer makes room for a new one.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// All uploads.
pub(super) struct Uploads {
    blobs: Arc<Blobs>,
    running: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    repository: String,
    touched: Instant,
    upload: Arc<tokio::sync::Mutex<Upload>>,
}

/// One upload. Dropping it removes its file.
pub(super) struct Upload {
    path: PathBuf,
    file: File,
    hash: Sha256,
    /// Bytes written.
    pub(super) size: u64,
    /// A write has failed, so that the file may hold less, or other things, than has been hashed.
    is_damaged: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Gone already when it has become a blob.
        fs::remove_file(&self.path).ok();
    }
}

impl Uploads {
    pub(super) fn new(blobs: Arc<Blobs>) -> Self {
        Self { blobs, running: Mutex::default() }
    }

    /// Begins an upload and answers its id.
    pub(super) async fn begin(&self, repository: &str) -> Result<String, Refusal> {
        let id = Uuid::new_v4().to_string();
        let path = self.blobs.uploads().join(&id);
        let file = File::options().write(true).create_new(true).open(&path).await?;
        let upload = Arc::new(tokio::sync::Mutex::new(Upload::new(path, file)));
        let now = Instant::now();
        let mut running = self.running.lock();
        if running.len() >= MAX_UPLOADS {
            running.retain(|_, entry| now.duration_since(entry.touched) < IDLE_TIMEOUT);
        }
        if running.len() >= MAX_UPLOADS {
            let message = format!("{MAX_UPLOADS} uploads are under way; try again when one has ended");
            return Err(Refusal::new(Code::TooManyRequests, message));
        }
        running.insert(id.clone(), Entry { repository: repository.to_owned(), touched: now, upload });
        Ok(id)
    }

    /// The upload, which must have been begun in `repository`.
    pub(super) fn find(&self, repository: &str, id: &str) -> Result<Arc<tokio::sync::Mutex<Upload>>, Refusal> {
        let mut running = self.running.lock();
        let entry = running.get_mut(id).filter(|entry| entry.repository == repository).ok_or_else(unknown)?;
        entry.touched = Instant::now();
        Ok(Arc::clone(&entry.upload))
    }

    /// Forgets an upload; its file goes with the last request that uses it.
    pub(super) fn cancel(&self, repository: &str, id: &str) -> Result<(), Refusal> {
        self.find(repository, id)?;
        self.running.lock().remove(id);
        Ok(())
    }

    /// Completes an upload: when its content has `digest` it becomes a blob; otherwise nothing is left of it.
    pub(super) async fn finish(&self, repository: &str, id: &str, digest: &Digest) -> Result<(), Refusal> {
        let upload = self.find(repository, id)?;
        let mut upload = upload.lock().await;
        // From here on the upload ends, whatever comes of it; a second request that waited finds nothing.
        if self.running.lock().remove(id).is_none() {
            return Err(unknown());
        }
        upload.flush().await?;
        if upload.is_damaged {
            return Err(damaged());
        }
        let actual = Digest::of(&upload.hash.clone().finalize());
        if actual != *digest {
            let message = format!("the content is {}, not {}", actual.as_str(), digest.as_str());
            return Err(Refusal::new(Code::DigestInvalid, message));
        }
        if !self.blobs.holds(digest).await? {
            upload.file.sync_all().await?;
            self.blobs.keep(upload.path.clone(), digest).await?;
        }
        Ok(())
    }
}

impl Upload {
    fn new(path: PathBuf, file: File) -> Self {
        Self { path, file, hash: Sha256::new(), size: 0, is_damaged: false }
    }

    /// Appends a request's body. What has arrived when it breaks off stays, and can be continued.
    pub(super) async fn append(&mut self, body: Body) -> Result<(), Refusal> {
        let mut chunks = body.into_data_stream();
        loop {
            let chunk = match tokio::time::timeout(STALL_TIMEOUT, chunks.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => {
                    return Err(Refusal::new(Code::BlobUploadInvalid, format!("the body broke off: {error}")));
                }
                Err(_) => return Err(Refusal::new(Code::BlobUploadInvalid, "nothing was sent for too long")),
            };
            let size = self.size + chunk.len() as u64;
            if size > MAX_BLOB_BYTES {
                return Err(too_large());
            }
            self.write(&chunk).await?;
            self.size = size;
        }
        self.flush().await
    }

    /// Writes and hashes, both or (after a failure, or when it is dropped half-way) neither to be trusted.
    async fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.is_damaged, true) {
            return Err(damaged());
        }
        self.file.write_all(chunk).await?;
        self.hash.update(chunk);
        self.is_damaged = false;
        Ok(())
    }

    /// Waits for what the file has taken to be written: only then do its failures show.
    async fn flush(&mut self) -> Result<(), Refusal> {
        let flushed = self.file.flush().await;
        self.is_damaged |= flushed.is_err();
        Ok(flushed?)
    }
}

fn damaged() -> Refusal {
    Refusal::new(Code::BlobUploadInvalid, "the upload could not be written; begin a new one")
}

/// A blob beyond the limit.
pub(super) fn too_large() -> Refusal {
    Refusal::new(Code::SizeInvalid, format!("a blob may have {MAX_BLOB_BYTES} bytes at most"))
}

fn unknown() -> Refusal {
    Refusal::new(Code::BlobUploadUnknown, "there is no such upload; it may have ended or been given up")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first failure of a full disk shows when more is written, or flushed; by then it has been hashed.
    #[tokio::test]
    async fn what_could_not_be_written_never_becomes_a_blob() {
        let directory = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(Arc::new(Blobs::open(directory.path().to_owned()).unwrap()));
        let id = uploads.begin("a").await.unwrap();
        let upload = uploads.find("a", &id).unwrap();
        upload.lock().await.file = File::options().write(true).open("/dev/full").await.unwrap();
        assert!(upload.lock().await.append(Body::from("lost")).await.is_err());
        // There is room again, and the client goes on where the server says it is.
        let path = upload.lock().await.path.clone();
        upload.lock().await.file = File::options().write(true).open(path).await.unwrap();
        let more = upload.lock().await.append(Body::from(" and found")).await;
        let digest = Digest::of(&Sha256::digest(b"lost and found"));
        let finished = uploads.finish("a", &id, &digest).await;
        assert!(more.is_err() && finished.is_err(), "{more:?} {finished:?}");
        assert!(!uploads.blobs.holds(&digest).await.unwrap());
    }
}
