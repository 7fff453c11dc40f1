//! Whom guests' https requests trust: the certificate authorities that the agent put beside the runner's code. The
//! machine's own files are out of a runner's reach.

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// Where the authorities are, relative to the runner's root.
const BUNDLE: &str = "code/ca-bundle.pem";
/// Most that is read of it.
const MAX_BUNDLE_BYTES: u64 = 4 << 20;
/// The only protocol that is spoken inside.
const HTTP1: &[u8] = b"http/1.1";

/// Read when the first guest asks for https; a runner whose guests do not pays nothing.
#[derive(Debug)]
pub(crate) struct Trust {
    bundle: PathBuf,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Trust {
    pub(crate) fn new(root: &Path) -> Self {
        Self { bundle: root.join(BUNDLE), config: OnceCell::new() }
    }

    /// What makes TLS of a stream.
    ///
    /// # Errors
    /// When there are no authorities to trust; another attempt looks again.
    pub(crate) async fn connector(&self) -> Result<TlsConnector, String> {
        let config = self.config.get_or_try_init(|| async {
            let bundle = self.bundle.clone();
            tokio::task::spawn_blocking(move || config(&bundle)).await.map_err(|error| error.to_string())?
        });
        Ok(TlsConnector::from(Arc::clone(config.await?)))
    }
}

fn config(bundle: &Path) -> Result<Arc<ClientConfig>, String> {
    let mut bytes = Vec::new();
    File::open(bundle)
        .and_then(|file| file.take(MAX_BUNDLE_BYTES).read_to_end(&mut bytes))
        .map_err(|error| format!("this node gave no certificate authorities to trust: {error}"))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    if roots.is_empty() {
        return Err("this node's certificate authorities cannot be read".to_owned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_authorities_nothing_is_trusted() {
        let root = tempfile::tempdir().unwrap();
        let trust = Trust::new(root.path());
        let complaint = async || trust.connector().await.err().unwrap();
        assert!(complaint().await.contains("no certificate authorities"));
        std::fs::create_dir(root.path().join("code")).unwrap();
        std::fs::write(root.path().join(BUNDLE), "nothing in here").unwrap();
        assert!(complaint().await.contains("cannot be read"));
    }
}
