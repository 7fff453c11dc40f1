//! The cluster's certificates, all under `DIR/pki`: one CA that signs the server's certificate and its clients'.
//!
//! Whoever reads `pki/ca.key` is the cluster's administrator. It is read here and nowhere else.

use crate::{
    ServerError,
    files::{self, PUBLIC, SECRET},
};
use coracle_objects::nodes;
use rand::TryRngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const CA_LIFE: Duration = Duration::days(3650);
/// How long certificates of nodes last where nobody says otherwise, and those of the server and its administrator.
pub(crate) const LEAF_LIFE: Duration = Duration::days(365);
/// A certificate is renewed when less of its life is left, or less than a third.
const RENEW_BEFORE: Duration = Duration::days(30);
/// Clocks of other machines may be behind.
const BACKDATE: Duration = Duration::seconds(nodes::CERTIFICATES_BACKDATED_SECONDS);

/// The cluster's CA.
pub(crate) struct Authority {
    directory: PathBuf,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// Who a certificate is for.
pub(crate) enum Subject<'a> {
    /// The API server, under these names and addresses.
    Server(&'a [String]),
    /// A client.
    Client {
        /// Common name.
        user: &'a str,
        /// Organization; the certificate library writes one at most.
        group: &'a str,
    },
    /// A node's agent.
    Node {
        /// The node's name.
        name: &'a str,
        /// The store's revision now, which the serial begins with.
        revision: u64,
        /// The revision from which on credentials of this name count.
        since: u64,
        /// How long it lasts.
        lifetime: Duration,
    },
}

impl Authority {
    /// The CA in `DIR/pki`; made when there is none.
    pub(crate) fn open_or_create(data_dir: &Path) -> Result<Self, ServerError> {
        let directory = data_dir.join("pki");
        files::private_directory(&directory)?;
        if !directory.join("ca.crt").exists() {
            create(&directory)?;
        }
        Self::load(directory)
    }

    fn load(directory: PathBuf) -> Result<Self, ServerError> {
        let required = |name: &str| {
            let path = directory.join(name);
            let missing = || ServerError::Pki(path.clone(), "is not there".to_owned());
            files::read(&path)?.ok_or_else(missing).map(|text| (path.clone(), text))
        };
        let (certificate_path, certificate_pem) = required("ca.crt")?;
        let (key_path, key_pem) = required("ca.key")?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| unusable(&key_path, error))?;
        let certificate = certificate_der(&certificate_pem).map_err(|error| unusable(&certificate_path, error))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(&certificate_path, error))?;
        Ok(Self { directory, certificate_pem, certificate, issuer })
    }

    /// PEM of the CA's certificate.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate kept in `pki/NAME.crt`; made anew when it is missing, for somebody else, from another CA, or
    /// about to expire.
    pub(crate) fn ensure(&self, name: &str, subject: &Subject<'_>) -> Result<Issued, ServerError> {
        self.ensure_in(&self.directory, name, subject)
    }

    /// The same in another directory.
    pub(crate) fn ensure_in(&self, directory: &Path, name: &str, subject: &Subject<'_>) -> Result<Issued, ServerError> {
        let (certificate_path, key_path) =
            (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        if let (Some(certificate_pem), Some(key_pem)) = (files::read(&certificate_path)?, files::read(&key_path)?)
            && self.is_good(&certificate_pem, &key_pem, subject)
        {
            return Ok(Issued { certificate_pem, key_pem });
        }
        let issued = self.issue(subject).map_err(|error| unusable(&certificate_path, error))?;
        // Certificate and key are compared when they are read, so a crash between these two only costs a new pair.
        files::write(&key_path, issued.key_pem.as_bytes(), SECRET)?;
        files::write(&certificate_path, issued.certificate_pem.as_bytes(), PUBLIC)?;
        Ok(issued)
    }

    fn issue(&self, subject: &Subject<'_>) -> Result<Issued, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = Self::params(subject)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// PEM of a certificate for the node called `name` and the key in `request`, which is verified. Nothing else is taken
    /// from the request.
    pub(crate) fn sign(
        &self,
        request: &CertificateSigningRequestDer<'_>,
        name: &str,
        revision: u64,
        lifetime: std::time::Duration,
    ) -> Result<String, rcgen::Error> {
        let request = CertificateSigningRequestParams::from_der(request)?;
        let lifetime = Duration::try_from(lifetime).unwrap_or(LEAF_LIFE);
        let params = Self::params(&Subject::Node { name, revision, since: 0, lifetime })?;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    fn params(subject: &Subject<'_>) -> Result<CertificateParams, rcgen::Error> {
        let mut params = match subject {
            Subject::Server(names) => CertificateParams::new(names.to_vec())?,
            Subject::Client { .. } | Subject::Node { .. } => CertificateParams::default(),
        };
        let mut lifetime = LEAF_LIFE;
        params.distinguished_name = DistinguishedName::new();
        match subject {
            Subject::Server(_) => {
                params.distinguished_name.push(DnType::CommonName, "coracle-server");
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            Subject::Client { user, group } => {
                params.distinguished_name.push(DnType::CommonName, *user);
                params.distinguished_name.push(DnType::OrganizationName, *group);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Subject::Node { name, revision, lifetime: own, .. } => {
                params.distinguished_name.push(DnType::CommonName, nodes::user(name));
                params.distinguished_name.push(DnType::OrganizationName, nodes::GROUP);
                // Nodes show it to each other as well, from both ends of a connection.
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                let mut random = [0_u8; nodes::SERIAL_RANDOM_BYTES];
                rand::rngs::OsRng.try_fill_bytes(&mut random).map_err(|_| rcgen::Error::RingUnspecified)?;
                params.serial_number = Some(SerialNumber::from_slice(&nodes::serial(*revision, random)));
                lifetime = *own;
            }
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - BACKDATE, now + lifetime);
        Ok(params)
    }

    /// Whether a stored pair still serves.
    fn is_good(&self, certificate_pem: &str, key_pem: &str, subject: &Subject<'_>) -> bool {
        let (Ok(der), Ok(key)) = (certificate_der(certificate_pem), KeyPair::from_pem(key_pem)) else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
        let Ok((_, ca)) = X509Certificate::from_der(&self.certificate) else { return false };
        let left = certificate.validity().not_after.timestamp() - OffsetDateTime::now_utc().unix_timestamp();
        let is_for = |user: &str, group: &str| {
            let organizations = certificate.subject().iter_organization().filter_map(|name| name.as_str().ok());
            certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).eq([user])
                && organizations.eq([group])
        };
        let (fits, lifetime) = match subject {
            Subject::Server(names) => (names_of(&certificate) == names.iter().cloned().collect(), LEAF_LIFE),
            Subject::Client { user, group } => (is_for(user, group), LEAF_LIFE),
            Subject::Node { name, since, lifetime, .. } => {
                let counts = nodes::issued_at(certificate.raw_serial()) >= *since;
                (counts && is_for(&nodes::user(name), nodes::GROUP), *lifetime)
            }
        };
        fits && left > RENEW_BEFORE.min(lifetime / 3).whole_seconds()
            && certificate.issuer().as_raw() == ca.subject().as_raw()
            && certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    }
}

/// Names and addresses that a certificate is for.
fn names_of(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    });
    names.collect()
}

/// The server's chain and key as TLS wants them. The chain ends with the CA itself: who joins knows no more of it than
/// its hash.
pub(crate) fn tls_pair(
    issued: &Issued,
    ca: &CertificateDer<'static>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rustls_pki_types::pem::Error> {
    let mut chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    chain.push(ca.clone());
    Ok((chain, PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?))
}

fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, rustls_pki_types::pem::Error> {
    CertificateDer::from_pem_slice(pem.as_bytes())
}

fn create(directory: &Path) -> Result<(), ServerError> {
    let path = directory.join("ca.crt");
    let fail = |error: &dyn std::fmt::Display| unusable(&path, error);
    // Certificates of an earlier CA must not look like this one's: its name tells them apart.
    let mut serial = [0_u8; 4];
    rand::rngs::OsRng.try_fill_bytes(&mut serial).map_err(|error| fail(&error))?;
    let key = KeyPair::generate().map_err(|error| fail(&error))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("coracle-ca-{}", hex::encode(serial)));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - BACKDATE, now + CA_LIFE);
    let certificate = params.self_signed(&key).map_err(|error| fail(&error))?;
    // The certificate is written last: where it is, the key is.
    files::write(&directory.join("ca.key"), key.serialize_pem().as_bytes(), SECRET)?;
    files::write(&path, certificate.pem().as_bytes(), PUBLIC)
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> ServerError {
    ServerError::Pki(path.to_owned(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn certificates_are_kept_until_something_changes() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(directory.path()).unwrap();
        let (one, other) = (names(&["127.0.0.1", "localhost", "::1"]), names(&["127.0.0.2", "localhost"]));
        let first = authority.ensure("server", &Subject::Server(&one)).unwrap();
        let again = Authority::open_or_create(directory.path()).unwrap();
        let kept = again.ensure("server", &Subject::Server(&one)).unwrap();
        assert_eq!(kept.certificate_pem, first.certificate_pem);
        assert_eq!(kept.key_pem, first.key_pem);
        let moved = again.ensure("server", &Subject::Server(&other)).unwrap();
        assert_ne!(moved.certificate_pem, first.certificate_pem);
        // A pair that does not fit together, as a crash half-way leaves it.
        fs::write(directory.path().join("pki/server.key"), &first.key_pem).unwrap();
        assert_ne!(again.ensure("server", &Subject::Server(&other)).unwrap().certificate_pem, moved.certificate_pem);
    }

    #[test]
    fn a_new_authority_replaces_what_the_old_one_signed() {
        let directory = tempfile::tempdir().unwrap();
        let admin = Subject::Client { user: "admin", group: "system:masters" };
        let first = Authority::open_or_create(directory.path()).unwrap().ensure("admin", &admin).unwrap();
        fs::remove_file(directory.path().join("pki/ca.crt")).unwrap();
        let second = Authority::open_or_create(directory.path()).unwrap().ensure("admin", &admin).unwrap();
        assert_ne!(first.certificate_pem, second.certificate_pem);
    }

    #[test]
    fn subjects_carry_user_and_group() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(directory.path()).unwrap();
        let subject = Subject::Client { user: "system:node:one", group: "system:nodes" };
        let issued = authority.ensure("one", &subject).unwrap();
        assert!(authority.is_good(&issued.certificate_pem, &issued.key_pem, &subject));
        for other in [
            Subject::Client { user: "system:node:two", group: "system:nodes" },
            Subject::Client { user: "system:node:one", group: "system:masters" },
            Subject::Server(&names(&["localhost"])),
        ] {
            assert!(!authority.is_good(&issued.certificate_pem, &issued.key_pem, &other));
        }
    }

    #[test]
    fn keys_are_private_and_damage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        Authority::open_or_create(directory.path()).unwrap();
        let mode = |path: &str| fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("pki"), mode("pki/ca.key")), (0o700, 0o600));
        fs::write(directory.path().join("pki/ca.key"), "nonsense").unwrap();
        let Err(error) = Authority::open_or_create(directory.path()) else { panic!("read nonsense") };
        assert!(error.to_string().contains("pki/ca.key"), "{error}");
    }
}
