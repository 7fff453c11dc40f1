//! The node's credentials: what it shows to servers and to other nodes, where they lie, and who learns of new ones.
//!
//! They must never be within a runner's reach, never be printed, and never be half of one pair and half of another:
//! certificate and key are one file.

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Name of the directory in the data directory that holds what the node got when it joined, and since.
pub const DIRECTORY: &str = "credentials";
/// The cluster's CA, in a directory of credentials.
const CA_FILE: &str = "ca.crt";
/// Certificate and key in one, in a directory of credentials that the agent writes.
const PAIR_FILE: &str = "node.pem";
/// The same in two, as the server makes them for a node.
const CERTIFICATE_FILE: &str = "client.crt";
const KEY_FILE: &str = "client.key";
/// What begins the key in [`PAIR_FILE`], behind the certificates.
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY";
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why there are no credentials.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A file cannot be read or written.
    #[error("cannot use {0}")]
    File(PathBuf, #[source] io::Error),
    /// What was read are no credentials of a node.
    #[error("these are no node's credentials: {0}")]
    Unusable(String),
}

/// A node's credentials, checked: certificate and key fit the name, and can be read. Who has an `Arc` of them may keep it;
/// new ones come as another.
#[derive(Clone)]
pub struct Credentials {
    node_name: String,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
    identity_pem: Arc<str>,
    ca: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    not_before: i64,
    not_after: i64,
    issued_at: u64,
}

impl Credentials {
    /// From PEM: the cluster's CA, the node's certificate (with what is between it and the CA, if anything), its key.
    ///
    /// # Errors
    /// When one of them cannot be read, or the certificate is no node's.
    pub fn from_pem(ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, CredentialsError> {
        let unusable = |what: &str, error: &dyn fmt::Display| CredentialsError::Unusable(format!("{what}: {error}"));
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| unusable("the CA", &error))?;
        let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable("the certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| unusable("the key", &error))?;
        let own = chain.first().ok_or_else(|| unusable("the certificate", &"there is none"))?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|error| unusable("the certificate", &error))?;
        let user = parsed.subject().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
        let node_name = coracle_objects::nodes::of_user(user)
            .ok_or_else(|| unusable("the certificate", &format!("it is for \"{user}\"")))?
            .to_owned();
        let pair = rcgen::KeyPair::from_pem(key_pem).map_err(|error| unusable("the key", &error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(unusable("the certificate", &"it is for another key"));
        }
        let issued_at = coracle_objects::nodes::issued_at(parsed.raw_serial());
        let (not_before, not_after) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        Ok(Self {
            node_name,
            ca_pem: ca_pem.to_owned(),
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            identity_pem: format!("{}\n{}", certificate_pem.trim_end(), key_pem).into(),
            ca,
            chain,
            key: Arc::new(key),
            not_before,
            not_after,
            issued_at,
        })
    }

    /// What lies in `directory`: written by [`Credentials::write`], or made by a server for a node.
    ///
    /// # Errors
    /// When a file is missing, or they are no node's credentials.
    pub fn read(directory: &Path) -> Result<Self, CredentialsError> {
        let ca_pem = text(&directory.join(CA_FILE))?;
        let pair = directory.join(PAIR_FILE);
        if pair.exists() {
            let pair = text(&pair)?;
            let (chain, key) = pair.split_at(pair.find(KEY_BEGINS).unwrap_or(pair.len()));
            return Self::from_pem(&ca_pem, chain, key);
        }
        Self::from_pem(&ca_pem, &text(&directory.join(CERTIFICATE_FILE))?, &text(&directory.join(KEY_FILE))?)
    }

    /// Whether `directory` has credentials that the agent wrote.
    #[must_use]
    pub fn are_in(directory: &Path) -> bool {
        directory.join(PAIR_FILE).exists()
    }

    /// Writes them to `directory`, made for this user only. They are there, or the earlier ones are, also after a crash.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn write(&self, directory: &Path) -> Result<(), CredentialsError> {
        make_private(directory)?;
        write_private(&directory.join(CA_FILE), self.ca_pem.as_bytes())?;
        write_private(&directory.join(PAIR_FILE), self.identity_pem.as_bytes())
    }

    /// The node's name, as the certificate has it.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// PEM of the cluster's CA.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// PEM of the certificate, with what is between it and the CA.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// PEM of the key.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// PEM of certificate and key in one.
    #[must_use]
    pub fn identity_pem(&self) -> &Arc<str> {
        &self.identity_pem
    }

    /// The cluster's CA.
    #[must_use]
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The node's certificate first, then what is between it and the CA.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// From when until when the certificate counts, in seconds since 1970.
    #[must_use]
    pub fn validity(&self) -> (i64, i64) {
        (self.not_before, self.not_after)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_name, not_after, .. } = self;
        formatter
            .debug_struct("Credentials")
            .field("node_name", node_name)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

/// Owns what the node's credentials are now; everyone else watches it.
pub(crate) struct Wallet {
    directory: PathBuf,
    current: watch::Sender<Arc<Credentials>>,
}

impl Wallet {
    /// Begins with `given`, or with those in `data_dir` where these are the same node's, of the same cluster, and were
    /// issued later: the agent has renewed them since.
    pub(crate) fn open(data_dir: &Path, given: Credentials) -> Self {
        let directory = data_dir.join(DIRECTORY);
        let kept = Credentials::are_in(&directory).then(|| Credentials::read(&directory)).and_then(|read| {
            read.inspect_err(|error| tracing::warn!(%error, "the credentials that were kept cannot be used")).ok()
        });
        let newer = kept.filter(|kept| {
            let age = |credentials: &Credentials| (credentials.issued_at, credentials.not_after);
            kept.node_name == given.node_name && kept.ca == given.ca && age(kept) > age(&given)
        });
        Self { directory, current: watch::Sender::new(Arc::new(newer.unwrap_or(given))) }
    }

    /// What they are, now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Credentials>> {
        self.current.subscribe()
    }

    /// From now on these; they are on disk before anybody uses them.
    pub(crate) fn replace(&self, new: Credentials) -> Result<(), CredentialsError> {
        new.write(&self.directory)?;
        self.current.send_replace(Arc::new(new));
        Ok(())
    }
}

/// Makes `directory` for this user only.
pub(crate) fn make_private(directory: &Path) -> Result<(), CredentialsError> {
    let fail = |error| CredentialsError::File(directory.to_owned(), error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(fail)
}

/// Replaces the file at `path` by one that only this user reads: it is the old or the new one, also after a crash.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), CredentialsError> {
    let write = || {
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        let mut file = NamedTempFile::new_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(|error: io::Error| CredentialsError::File(path.to_owned(), error))
}

/// A file's text, if it is no larger than such files are.
pub(crate) fn text(path: &Path) -> Result<String, CredentialsError> {
    let read = || {
        if fs::metadata(path)?.len() > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fs::read_to_string(path)
    };
    read().map_err(|error| CredentialsError::File(path.to_owned(), error))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    /// A cluster of its own, and who it makes credentials for.
    pub(crate) struct Cluster(CertifiedIssuer<'static, KeyPair>);

    impl Cluster {
        pub(crate) fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        pub(crate) fn ca_pem(&self) -> String {
            self.0.pem()
        }

        /// Certificate and key for `user`, that last `seconds` from now.
        pub(crate) fn pair(&self, user: &str, seconds: i64) -> (String, String) {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, user);
            params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
        }

        /// The certificate for a signing request object, as its status has it.
        pub(crate) fn sign(&self, request: &serde_json::Value, seconds: i64) -> String {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            let pem = STANDARD.decode(request["spec"]["request"].as_str().unwrap()).unwrap();
            let pem = String::from_utf8(pem).unwrap();
            let mut request = rcgen::CertificateSigningRequestParams::from_pem(&pem).unwrap();
            request.params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
            STANDARD.encode(request.signed_by(&self.0).unwrap().pem())
        }

        pub(crate) fn node(&self, name: &str, seconds: i64) -> Credentials {
            let (certificate, key) = self.pair(&coracle_objects::nodes::user(name), seconds);
            Credentials::from_pem(&self.ca_pem(), &certificate, &key).unwrap()
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_nobody_else_can() {
        let directory = tempfile::tempdir().unwrap();
        let (cluster, path) = (Cluster::new(), directory.path().join("a/b"));
        assert!(!Credentials::are_in(&path) && Credentials::read(&path).is_err());
        let made = cluster.node("one", 60);
        made.write(&path).unwrap();
        let read = Credentials::read(&path).unwrap();
        assert_eq!((read.node_name(), read.chain(), read.validity()), ("one", made.chain(), made.validity()));
        assert_eq!(read.key(), made.key());
        for file in [CA_FILE, PAIR_FILE] {
            assert_eq!(fs::metadata(path.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        assert!(!format!("{read:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let cluster = Cluster::new();
        let (of_one, key_of_one) = cluster.pair("system:node:one", 60);
        let (of_two, _) = cluster.pair("system:node:two", 60);
        let (of_jane, key_of_jane) = cluster.pair("jane", 60);
        assert!(Credentials::from_pem(&cluster.ca_pem(), &of_one, &key_of_one).is_ok());
        for (certificate, key, says) in [
            (&of_two, &key_of_one, "another key"),
            (&of_jane, &key_of_jane, "\"jane\""),
            (&String::new(), &key_of_one, "certificate"),
            (&of_one, &of_one, "key"),
        ] {
            let error = Credentials::from_pem(&cluster.ca_pem(), certificate, key).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_was_renewed_is_used_after_a_restart_where_it_is_still_the_same_node() {
        let directory = tempfile::tempdir().unwrap();
        let (cluster, other) = (Cluster::new(), Cluster::new());
        let given = cluster.node("one", 100);
        let wallet = Wallet::open(directory.path(), given.clone());
        let mut watching = wallet.watch();
        let renewed = cluster.node("one", 200);
        wallet.replace(renewed.clone()).unwrap();
        assert_eq!(watching.borrow_and_update().validity(), renewed.validity());
        let after = |given: Credentials| Wallet::open(directory.path(), given).watch().borrow().chain().to_vec();
        assert_eq!(after(given), renewed.chain());
        for (newcomer, why) in [
            (cluster.node("one", 300), "given anew"),
            (cluster.node("two", 100), "another node"),
            (other.node("one", 100), "another cluster"),
        ] {
            assert_eq!(after(newcomer.clone()), newcomer.chain(), "{why}");
        }
    }
}
