//! A token server made for the tests: it gives the one user tokens that `docker-registry` believes, and counts them. Its
//! HTTP is just enough for that.

use super::{PASSWORD, USER};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{CertificateParams, DnType, KeyPair, SigningKey as _};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

const ISSUER: &str = "token-server-of-the-test";
const SERVICE: &str = "registry-of-the-test";
/// Lifetime of a token.
const SECONDS: u64 = 300;

/// A running token server. Its threads end with the test program.
pub struct TokenServer {
    directory: TempDir,
    address: String,
    given: Arc<AtomicUsize>,
}

struct Signer {
    key: KeyPair,
    certificate: String,
}

impl TokenServer {
    /// Starts one on loopback.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("no temporary directory");
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, ISSUER);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("tokens.pem"), certificate.pem()).unwrap();
        let signer = Arc::new(Signer { key, certificate: STANDARD.encode(certificate.der()) });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let given = Arc::new(AtomicUsize::new(0));
        let counter = given.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (signer, counter) = (signer.clone(), counter.clone());
                // A client that goes away is its own affair.
                thread::spawn(move || drop(serve(&stream, &signer, &counter)));
            }
        });
        Self { directory, address, given }
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many tokens it has given.
    #[must_use]
    pub fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }

    /// What a registry must know of it.
    #[must_use]
    pub fn settings(&self) -> Value {
        let bundle: PathBuf = self.directory.path().join("tokens.pem");
        json!({
            "realm": format!("http://{}/token", self.address), "service": SERVICE, "issuer": ISSUER,
            "rootcertbundle": bundle,
        })
    }
}

fn serve(stream: &TcpStream, signer: &Signer, given: &AtomicUsize) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let mut is_known = false;
    for line in lines.by_ref() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        is_known |= name.eq_ignore_ascii_case("authorization") && value.trim() == expected;
    }
    let (status, body) = if is_known {
        given.fetch_add(1, Ordering::SeqCst);
        ("200 OK", json!({"token": signer.token(&scopes(&request)), "expires_in": SECONDS}).to_string())
    } else {
        ("401 Unauthorized", json!({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}).to_string())
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// `repository:NAME:ACTIONS` of the request's query.
fn scopes(request: &str) -> Vec<Value> {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let texts = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    texts
        .filter_map(|text| {
            let text = text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
            let mut parts = text.splitn(3, ':').map(str::to_owned);
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
        })
        .collect()
}

impl Signer {
    fn token(&self, access: &[Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": USER, "aud": SERVICE, "nbf": now - 10, "iat": now, "exp": now + SECONDS,
            "jti": now.to_string(), "access": access,
        });
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encoded(&header), encoded(&claims));
        let signature = plain(&self.key.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The two numbers of an ECDSA signature, 32 bytes each, out of their DER.
fn plain(der: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let (length, after) = (usize::from(rest[1]), &rest[2..]);
        let digits = &after[..length];
        let first = digits.iter().position(|byte| *byte != 0).unwrap_or(length);
        let digits = &digits[first..];
        numbers.extend(std::iter::repeat_n(0, 32 - digits.len()));
        numbers.extend_from_slice(digits);
        rest = &after[length..];
    }
    numbers
}
