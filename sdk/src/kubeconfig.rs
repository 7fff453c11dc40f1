//! Reads kubeconfig files: where the server is, which CA to trust, who we are.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Largest kubeconfig that is read.
const MAX_KUBECONFIG_BYTES: u64 = 4 * 1024 * 1024;

/// How a user proves who they are.
#[derive(Clone)]
pub enum Proof {
    /// PEM of a client certificate and its key.
    Certificate {
        /// Certificate chain.
        certificate_pem: String,
        /// Private key.
        key_pem: String,
    },
    /// A bearer token.
    Token(String),
}

impl fmt::Debug for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Certificate { .. } => "Certificate(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// Everything needed to talk to a cluster.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// `https://HOST:PORT`.
    pub server: String,
    /// PEM of the CA to trust.
    pub ca_pem: String,
    /// Who we are.
    pub proof: Proof,
    /// Bearer token of the same user, for registry clients, which know no client certificates.
    pub registry_token: Option<String>,
    /// Namespace of the context; `default` when it names none.
    pub namespace: String,
}

/// Why no credentials could be had.
#[derive(Debug, Error)]
pub enum KubeconfigError {
    /// There is no file.
    #[error("no kubeconfig at {0}: start a cluster with `coracle dev`, or name one with --kubeconfig or $KUBECONFIG")]
    Missing(PathBuf),
    /// It, or a file that it names, cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It is larger than any kubeconfig.
    #[error("{0} is larger than {MAX_KUBECONFIG_BYTES} bytes and so is no kubeconfig")]
    TooLarge(PathBuf),
    /// It is not YAML.
    #[error("{path} is not a kubeconfig: {detail}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What the parser says.
        detail: String,
    },
    /// Something is missing or wrong inside.
    #[error("{path}: {field}: {detail}")]
    Field {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        field: String,
        /// What is wrong and what would be right.
        detail: String,
    },
}

impl Credentials {
    /// Loads `explicit`, else `$KUBECONFIG`, else `~/.kube/config`; `context` overrides the file's current one.
    pub fn load(explicit: Option<&Path>, context: Option<&str>) -> Result<Self, KubeconfigError> {
        let path = explicit.map_or_else(default_path, Path::to_path_buf);
        let text = read_bounded(&path)?;
        Self::parse(&path, &text, context)
    }

    /// Reads the text of a kubeconfig; relative file names in it are relative to `path`'s directory.
    pub fn parse(path: &Path, text: &str, context: Option<&str>) -> Result<Self, KubeconfigError> {
        let config: Value = serde_saphyr::from_str(text)
            .map_err(|error| KubeconfigError::Syntax { path: path.to_owned(), detail: error.to_string() })?;
        let file = File { path, config: &config };
        let context_name = match context {
            Some(name) => name,
            None => file.text(&config["current-context"], "current-context", "must name a context")?,
        };
        let context = file.named("contexts", "context", context_name)?;
        let cluster_name = file.text(&context["cluster"], "contexts[].context.cluster", "must name a cluster")?;
        let user_name = file.text(&context["user"], "contexts[].context.user", "must name a user")?;
        let cluster = file.named("clusters", "cluster", cluster_name)?;
        let user = file.named("users", "user", user_name)?;
        let server = file.text(&cluster["server"], "clusters[].cluster.server", "must be https://HOST:PORT")?;
        let ca_pem = file.pem(cluster, "certificate-authority")?.ok_or_else(|| {
            file.wrong("clusters[].cluster", "must have certificate-authority-data or certificate-authority")
        })?;
        Ok(Self {
            server: server.trim_end_matches('/').to_owned(),
            ca_pem,
            proof: file.proof(user)?,
            registry_token: file.token(user)?,
            namespace: context["namespace"].as_str().unwrap_or("default").to_owned(),
        })
    }

    /// `HOST:PORT` of the server, which is also the cluster's registry.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.server.strip_prefix("https://").unwrap_or(&self.server)
    }
}

fn default_path() -> PathBuf {
    if let Some(paths) = env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        // kubectl merges the files of a list; the first one holds the current context in practice.
        if let Some(first) = env::split_paths(&paths).next() {
            return first;
        }
    }
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".kube/config")
}

fn read_bounded(path: &Path) -> Result<String, KubeconfigError> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => KubeconfigError::Missing(path.to_owned()),
        _ => KubeconfigError::Read(path.to_owned(), error),
    };
    if fs::metadata(path).map_err(fail)?.len() > MAX_KUBECONFIG_BYTES {
        return Err(KubeconfigError::TooLarge(path.to_owned()));
    }
    fs::read_to_string(path).map_err(fail)
}

struct File<'a> {
    path: &'a Path,
    config: &'a Value,
}

impl File<'_> {
    fn wrong(&self, field: &str, detail: &str) -> KubeconfigError {
        KubeconfigError::Field { path: self.path.to_owned(), field: field.to_owned(), detail: detail.to_owned() }
    }

    fn text<'v>(&self, value: &'v Value, field: &str, rule: &str) -> Result<&'v str, KubeconfigError> {
        value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| self.wrong(field, rule))
    }

    /// The body of the entry called `name` in one of the three lists.
    fn named(&self, list: &str, body: &str, name: &str) -> Result<&Value, KubeconfigError> {
        let entries = self.config[list].as_array().map(Vec::as_slice).unwrap_or_default();
        entries
            .iter()
            .find(|entry| entry["name"] == name)
            .map(|entry| &entry[body])
            .ok_or_else(|| self.wrong(list, &format!("has no entry named \"{name}\"")))
    }

    /// `FIELD-data` decoded, or the contents of the file that `FIELD` names.
    fn pem(&self, holder: &Value, field: &str) -> Result<Option<String>, KubeconfigError> {
        if let Some(encoded) = holder[format!("{field}-data")].as_str() {
            let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            return decoded
                .map(Some)
                .ok_or_else(|| self.wrong(&format!("{field}-data"), "must be base64 of a PEM file"));
        }
        let Some(name) = holder[field].as_str() else { return Ok(None) };
        let path = self.path.parent().unwrap_or_else(|| Path::new(".")).join(name);
        read_bounded(&path).map(Some)
    }

    fn proof(&self, user: &Value) -> Result<Proof, KubeconfigError> {
        if let (Some(certificate_pem), Some(key_pem)) =
            (self.pem(user, "client-certificate")?, self.pem(user, "client-key")?)
        {
            return Ok(Proof::Certificate { certificate_pem, key_pem });
        }
        let token = self.token(user)?.map(Proof::Token);
        token.ok_or_else(|| self.wrong("users[].user", "must have a client certificate with its key, or a token"))
    }

    fn token(&self, user: &Value) -> Result<Option<String>, KubeconfigError> {
        if let Some(token) = user["token"].as_str() {
            return Ok(Some(token.to_owned()));
        }
        let Some(name) = user["tokenFile"].as_str() else { return Ok(None) };
        let path = self.path.parent().unwrap_or_else(|| Path::new(".")).join(name);
        Ok(Some(read_bounded(&path)?.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts:
- name: here
  context: {cluster: c, user: u, namespace: team}
- name: there
  context: {cluster: c, user: t}
clusters:
- name: c
  cluster: {server: 'https://127.0.0.1:6443/', certificate-authority-data: Q0E=}
users:
- name: u
  user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}
- name: t
  user: {token: abc}
";

    fn parse(text: &str, context: Option<&str>) -> Result<Credentials, String> {
        Credentials::parse(Path::new("/x/config"), text, context).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_certificate_and_token_contexts() {
        let here = parse(GOOD, None).unwrap();
        assert_eq!(
            (here.server.as_str(), here.authority(), here.namespace.as_str(), here.ca_pem.as_str()),
            ("https://127.0.0.1:6443", "127.0.0.1:6443", "team", "CA")
        );
        assert!(
            matches!(here.proof, Proof::Certificate { certificate_pem, key_pem } if certificate_pem == "CERT" && key_pem == "KEY")
        );
        let there = parse(GOOD, Some("there")).unwrap();
        assert_eq!(there.namespace, "default");
        assert!(matches!(there.proof, Proof::Token(token) if token == "abc"));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, context, part) in [
            (GOOD, Some("nowhere"), "contexts: has no entry named \"nowhere\""),
            ("current-context: ''", None, "current-context: must name a context"),
            ("{", None, "is not a kubeconfig"),
            (&GOOD.replace("Q0E=", "'!'"), None, "certificate-authority-data: must be base64"),
            (&GOOD.replace("token: abc", "password: x"), Some("there"), "must have a client certificate"),
        ] {
            let error = parse(text, context).unwrap_err();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
        let missing = Credentials::load(Some(Path::new("/nowhere/config")), None).unwrap_err().to_string();
        assert!(missing.contains("coracle dev"), "{missing}");
    }
}
