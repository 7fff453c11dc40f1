//! Small files that must never be seen half-written or by the wrong eyes.

use crate::ServerError;
use rand::TryRngCore as _;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Mode of files that hold a secret.
pub(crate) const SECRET: u32 = 0o600;
/// Mode of files that anybody may read.
pub(crate) const PUBLIC: u32 = 0o644;

/// Randomness in a token; it is written in hex.
const TOKEN_BYTES: usize = 32;

/// Makes `path`, for its owner only; one that is there already is made so.
pub(crate) fn private_directory(path: &Path) -> Result<(), ServerError> {
    let fail = |source| ServerError::DataDir { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fail)
}

/// Replaces `path` with `contents`: readers see the old file or the new one, also after a crash.
pub(crate) fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), ServerError> {
    replace(path, contents, mode).map_err(|source| ServerError::DataDir { path: path.to_owned(), source })
}

fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A leftover of a crash may have another mode.
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}

/// The file's text, or `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, ServerError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServerError::DataDir { path: path.to_owned(), source }),
    }
}

/// The token in the file at `path`; made up and written when there is none, or when what is there cannot be one of
/// ours: half a token would be easier to guess.
pub(crate) fn token(path: &Path) -> Result<String, ServerError> {
    if let Some(token) = read(path)?.map(|text| text.trim().to_owned()).filter(|token| !token.is_empty()) {
        if token.len() == 2 * TOKEN_BYTES && token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(token);
        }
        tracing::warn!(path = %path.display(), "what is in this file is no token of ours; a new one is made");
    }
    let mut bytes = [0_u8; TOKEN_BYTES];
    let fail = |error| ServerError::DataDir { path: path.to_owned(), source: io::Error::other(error) };
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(fail)?;
    let token = hex::encode(bytes);
    write(path, token.as_bytes(), SECRET)?;
    Ok(token)
}

/// Held for as long as a server uses a data directory; the system releases it when the process dies.
pub(crate) struct Lock {
    _file: File,
}

/// Takes the data directory, or says who has it.
pub(crate) fn lock(data_dir: &Path) -> Result<Lock, ServerError> {
    let path = data_dir.join("server.lock");
    let fail = |source| ServerError::DataDir { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(SECRET)
        .open(&path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let process = read(&path)?.unwrap_or_default().trim().to_owned();
            return Err(ServerError::Locked { path: PathBuf::from(data_dir), process });
        }
        Err(fs::TryLockError::Error(source)) => return Err(fail(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fail)?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(directory.path().join("a.new"), "left over").unwrap();
        for contents in ["one", "two, longer"] {
            write(&path, contents.as_bytes(), SECRET).unwrap();
            assert_eq!(read(&path).unwrap().unwrap(), contents);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        assert!(read(&directory.path().join("b")).unwrap().is_none());
    }

    #[test]
    fn a_token_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let token_made = token(&path).unwrap();
        assert_eq!(token_made.len(), 64);
        assert_eq!(token(&path).unwrap(), token_made);
        assert_ne!(token(&directory.path().join("other")).unwrap(), token_made);
        for damaged in ["", &token_made[..5], &"x".repeat(64)] {
            fs::write(&path, damaged).unwrap();
            let anew = token(&path).unwrap();
            assert!(anew.len() == 64 && anew != token_made, "{damaged:?} became {anew}");
        }
    }

    #[test]
    fn a_data_directory_has_one_server() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        let Err(error) = lock(directory.path()) else { panic!("locked twice") };
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        drop(held);
        assert!(lock(directory.path()).is_ok());
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = private_directory(&file.join("below")).unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
