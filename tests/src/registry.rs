//! A registry of somebody else: Debian's `docker-registry`, on a port of its own, in a directory of its own. Found in
//! `CORACLE_TEST_REGISTRY`; without it the tests fail, never skip.

mod tokens;

use crate::{kubectl::texts, site::binary, wait::eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;
pub use tokens::TokenServer;

/// The one user that is let in.
pub const USER: &str = "robot";
/// The password that belongs to [`USERS`].
pub const PASSWORD: &str = "secret-of-the-test";
/// The user and the password as bcrypt has it.
const USERS: &str = "robot:$2b$05$abcdefghijklmnopqrstuu2hir4hxhqSzdkW1wYaCdjOyk2x8X6Wm\n";

/// Whom a registry lets in, and how.
pub enum Guard<'a> {
    /// Everyone.
    Nobody,
    /// [`USER`], by name and password.
    Basic,
    /// Whoever has a token of this server.
    Tokens(&'a TokenServer),
}

/// A running registry; dropping it ends the process and removes the directory.
pub struct Registry {
    directory: TempDir,
    address: String,
    child: Child,
    tls: bool,
}

impl Registry {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not start; its log is part of the message.
    #[must_use]
    pub fn start(guard: &Guard<'_>, tls: bool) -> Self {
        let program = env::var_os("CORACLE_TEST_REGISTRY").filter(|path| !path.is_empty());
        let program = program.expect("CORACLE_TEST_REGISTRY names no docker-registry; run the tests with `make test`");
        let directory = tempfile::tempdir().expect("no temporary directory");
        let address = free_address();
        let path = |name: &str| directory.path().join(name);
        let mut http = json!({"addr": address, "secret": "of-the-registry"});
        if tls {
            certificates(directory.path());
            http["tls"] = json!({"certificate": path("server.pem"), "key": path("server.key")});
        }
        let mut config = json!({
            "version": "0.1", "log": {"level": "info"}, "http": http,
            "storage": {"filesystem": {"rootdirectory": path("storage")}},
        });
        match guard {
            Guard::Nobody => {}
            Guard::Basic => {
                fs::write(path("users"), USERS).unwrap();
                config["auth"] = json!({"htpasswd": {"realm": "test", "path": path("users")}});
            }
            Guard::Tokens(server) => config["auth"] = json!({"token": server.settings()}),
        }
        // Whatever is JSON is YAML.
        fs::write(path("config.yml"), config.to_string()).unwrap();
        docker_config(directory.path(), &address, PASSWORD);
        let child = spawn(&program, directory.path());
        let mut registry = Self { directory, address, child, tls };
        eventually("the registry to listen", || {
            if let Ok(Some(status)) = registry.child.try_wait() {
                panic!("the registry ended with {status}: {}", registry.log());
            }
            TcpStream::connect(&registry.address).map(drop).map_err(|error| format!("{error}: {}", registry.log()))
        });
        registry
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Everything it has printed, its access log included.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// How many requests of the access log begin so, e.g. `GET /v2/app/blobs/`, and were answered.
    #[must_use]
    pub fn answered(&self, request: &str) -> usize {
        let quoted = format!("\"{request}");
        self.log().lines().filter(|line| line.contains(&quoted) && line.contains("\" 200 ")).count()
    }

    /// PEM of the authority that signed its certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Its entry in `registries.json`.
    #[must_use]
    pub fn settings(&self) -> Value {
        if self.tls { json!({"ca": self.ca()}) } else { json!({"plainHttp": true}) }
    }

    /// The `coracle` command as a user has it who has logged in here.
    pub fn coracle(&self, arguments: &[&str]) -> Result<String, String> {
        let binary = binary().map_err(|error| error.to_string())?;
        let mut command = Command::new(binary);
        command.args(arguments);
        if self.tls {
            command.arg("--ca").arg(self.ca());
        } else {
            command.arg("--plain-http");
        }
        let output = command
            .env("DOCKER_CONFIG", self.directory.path())
            .env("KUBECONFIG", self.directory.path().join("no-kubeconfig"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("coracle does not run: {error}"))?;
        texts(&output)
    }

    /// Pushes files as one image; answers its name and its digest.
    ///
    /// # Panics
    /// When it is refused.
    pub fn push(&self, files: &[&Path], name: &str) -> (String, String) {
        let full = format!("{}/{name}", self.address);
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let words: Vec<&str> =
            ["push"].into_iter().chain(files.iter().map(String::as_str)).chain([full.as_str()]).collect();
        let said = self.coracle(&words).unwrap_or_else(|error| panic!("push {full}: {error}\n{}", self.log()));
        let digest = said.lines().last().unwrap_or_default().to_owned();
        assert!(digest.starts_with("sha256:"), "{said}");
        (full, digest)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // A failure means that it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Writes a Docker configuration file with the user's credentials.
pub fn docker_config(directory: &Path, host: &str, password: &str) {
    let config = json!({"auths": {host: {"username": USER, "password": password}}});
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
}

/// A port that was free a moment ago.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("no port");
    listener.local_addr().expect("it listens").to_string()
}

fn spawn(program: &OsStr, directory: &Path) -> Child {
    let log = File::create(directory.join("log")).unwrap();
    Command::new(program)
        .arg("serve")
        .arg(directory.join("config.yml"))
        .env_clear()
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// An authority of the test's own, and a certificate for loopback.
fn certificates(directory: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority of the test");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    fs::write(directory.join("server.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}
