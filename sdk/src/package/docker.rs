//! The user's credentials for registries, as `docker login` and others keep them.

use coracle_objects::registry_auth::Keyring;
use std::{
    env, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Largest file that is read.
const MAX_CONFIG_BYTES: u64 = 4 * 1024 * 1024;

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum DockerConfigError {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It is not what it should be.
    #[error("{path}: {detail}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where in it, and what is wrong; never a secret.
        detail: String,
    },
}

/// Reads `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`; no file means no credentials. Credential helpers
/// are programs of others and are not started.
pub fn keyring() -> Result<Keyring, DockerConfigError> {
    let directory = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    match directory.or_else(home) {
        Some(directory) => read(&directory.join("config.json")),
        None => Ok(Keyring::default()),
    }
}

fn read(path: &Path) -> Result<Keyring, DockerConfigError> {
    let fail = |error| DockerConfigError::Read(path.to_owned(), error);
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Keyring::default()),
        other => other.map_err(fail)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    let content = |detail| DockerConfigError::Content { path: path.to_owned(), detail };
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(content(format!("longer than {MAX_CONFIG_BYTES} bytes")));
    }
    Keyring::from_config_json(&bytes).map_err(content)
}
