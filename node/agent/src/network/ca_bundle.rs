//! The machine's certificate authorities, within reach of runners: guests that make HTTPS requests trust whom the
//! machine trusts, and a runner cannot read the machine's own files.

use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tracing::warn;

/// Name of the bundle, below the agent's directory and below each runner's `code/`.
const FILE: &str = "ca-bundle.pem";
/// Characters in a line of PEM.
const PEM_LINE: usize = 64;

/// Writes the machine's authorities to a file below `data_dir`. A machine without any gets an empty one.
pub(crate) fn write(data_dir: &Path) -> io::Result<PathBuf> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "some of the machine's certificate authorities cannot be read");
    }
    let text: String = found.certs.iter().map(|certificate| pem(certificate)).collect();
    let path = data_dir.join(FILE);
    let new = data_dir.join(format!("{FILE}.new"));
    fs::write(&new, text)?;
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
    fs::rename(&new, &path)?;
    Ok(path)
}

/// Puts the bundle that [`write`] made below a runner's root, in place of one that an earlier agent put there.
pub(crate) fn link(data_dir: &Path, root: &Path) -> io::Result<()> {
    let (from, to) = (data_dir.join(FILE), root.join("code").join(FILE));
    match fs::remove_file(&to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))
}

fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<String> =
        text.as_bytes().chunks(PEM_LINE).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_gets_the_bundle_anew_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("ns");
        fs::create_dir_all(root.join("code")).unwrap();
        let bundle = write(directory.path()).unwrap();
        link(directory.path(), &root).unwrap();
        fs::remove_file(&bundle).unwrap();
        fs::write(&bundle, "newer").unwrap();
        link(directory.path(), &root).unwrap();
        assert_eq!(fs::read_to_string(root.join("code").join(FILE)).unwrap(), "newer");
    }

    #[test]
    fn certificates_are_written_as_pem() {
        let text = pem(&[7; 60]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[1].len()), (4, "-----BEGIN CERTIFICATE-----", PEM_LINE));
        assert_eq!(STANDARD.decode(lines[1..3].concat()).unwrap(), [7; 60]);
    }
}
