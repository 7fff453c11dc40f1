//! Credentials for registries, in the formats of Docker's configuration file and of pull secrets, and which of them
//! fit an image. Pure; it must never print a password.

pub mod challenge;
pub mod token;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::{cmp::Reverse, fmt};

/// Type of a secret with a Docker configuration file, and its key.
const CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
/// Type of a secret in the older form, and its key.
const CONFIG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");
/// Most entries that are read from one file or secret.
const ENTRIES_MAX: usize = 1024;

/// How a client proves to a registry who it is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A user's name and password.
    Password {
        /// Name.
        username: String,
        /// Password.
        password: String,
    },
    /// A refresh token for the registry's token server (`identitytoken`).
    Identity(String),
    /// A bearer token for the registry itself (`registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credential(…)")
    }
}

/// The value of an `Authorization` header with a name and a password (RFC 7617).
#[must_use]
pub fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// Which images an entry is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// Labels of the host name; each may hold `*` and `?`.
    labels: Vec<String>,
    port: Option<String>,
    /// Beginning of the repository; "" fits every one.
    path: String,
}

/// Credentials by registry and path. The longest path is tried first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    entries: Vec<(Pattern, Credential)>,
}

impl Keyring {
    /// Reads a Docker configuration file: `{"auths": {"HOST/PATH": {"auth": BASE64, …}}}`.
    ///
    /// # Errors
    /// What is wrong and at which entry; no secret is part of it.
    pub fn from_config_json(bytes: &[u8]) -> Result<Self, String> {
        let value = parse(bytes)?;
        match &value["auths"] {
            Value::Null => Ok(Self::default()),
            Value::Object(auths) => Self::from_entries("auths", auths),
            _ => Err("auths: must be an object".to_owned()),
        }
    }

    /// Reads the older form, which is the value of `auths` alone.
    ///
    /// # Errors
    /// What is wrong and at which entry; no secret is part of it.
    pub fn from_config(bytes: &[u8]) -> Result<Self, String> {
        match parse(bytes)? {
            Value::Object(auths) => Self::from_entries("", &auths),
            _ => Err("must be an object".to_owned()),
        }
    }

    /// Reads a pull secret as the API has it.
    ///
    /// # Errors
    /// What is wrong and where; no secret is part of it.
    pub fn from_secret(secret: &Value) -> Result<Self, String> {
        let kind = secret["type"].as_str().unwrap_or_default();
        let key = match kind {
            kind if kind == CONFIG_JSON.0 => CONFIG_JSON.1,
            kind if kind == CONFIG.0 => CONFIG.1,
            other => return Err(format!("its type is {other:?}, not {} or {}", CONFIG_JSON.0, CONFIG.0)),
        };
        let text = secret["data"][key].as_str().ok_or_else(|| format!("data[{key}]: missing"))?;
        let bytes = STANDARD.decode(text).map_err(|_| format!("data[{key}]: not base64"))?;
        let read = if key == CONFIG_JSON.1 { Self::from_config_json(&bytes) } else { Self::from_config(&bytes) };
        read.map_err(|what| format!("data[{key}]: {what}"))
    }

    fn from_entries(field: &str, auths: &serde_json::Map<String, Value>) -> Result<Self, String> {
        if auths.len() > ENTRIES_MAX {
            return Err(format!("{field}: more than {ENTRIES_MAX} entries"));
        }
        let mut keyring = Self::default();
        for (name, entry) in auths {
            let wrong = |what: &str| format!("{field}[{name:?}]: {what}");
            let pattern = Pattern::parse(name).ok_or_else(|| wrong("is no registry"))?;
            // An entry without credentials says that a credential helper has them; there is none here.
            if let Some(credential) = credential(entry).map_err(wrong)? {
                keyring.entries.push((pattern, credential));
            }
        }
        keyring.sort();
        Ok(keyring)
    }

    /// Adds the entries of another one; on a tie its own come first.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.sort();
    }

    fn sort(&mut self) {
        self.entries.sort_by_key(|(pattern, _)| Reverse(pattern.path.len()));
    }

    /// Credentials that may be sent to `host` for `repository`, best first.
    #[must_use]
    pub fn matching(&self, host: &str, repository: &str) -> Vec<&Credential> {
        let fitting = self.entries.iter().filter(|(pattern, _)| pattern.fits(host, repository));
        let mut found: Vec<&Credential> = Vec::new();
        for (_, credential) in fitting {
            if !found.contains(&credential) {
                found.push(credential);
            }
        }
        found
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    // serde_json's own text may quote what it read.
    serde_json::from_slice(bytes)
        .map_err(|error| format!("not JSON at line {} column {}", error.line(), error.column()))
}

fn credential(entry: &Value) -> Result<Option<Credential>, &'static str> {
    if !entry.is_object() {
        return Err("must be an object");
    }
    let text = |field: &str| entry[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Credential::Bearer(token)));
    }
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::Identity(token)));
    }
    if let Some(auth) = text("auth") {
        let bytes = STANDARD.decode(auth.trim()).map_err(|_| "auth is not base64")?;
        let both = String::from_utf8(bytes).map_err(|_| "auth is not text")?;
        let (username, password) = both.split_once(':').ok_or("auth lacks a colon between name and password")?;
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Some(Credential::Password { username: username.to_owned(), password }));
    }
    Ok(text("username")
        .map(|username| Credential::Password { username, password: text("password").unwrap_or_default() }))
}

impl Pattern {
    fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // Docker's file names registries by the address of their API as well.
        let path = match path.split_once('/') {
            Some(("v1" | "v2", path)) => path,
            None if matches!(path, "v1" | "v2") => "",
            _ => path,
        };
        let (host, port) = split_port(authority);
        let labels: Vec<String> = host.to_ascii_lowercase().split('.').map(str::to_owned).collect();
        let sound = labels.iter().all(|label| !label.is_empty());
        sound.then(|| Self { labels, port: port.map(str::to_owned), path: path.trim_end_matches('/').to_owned() })
    }

    fn fits(&self, host: &str, repository: &str) -> bool {
        let (name, port) = split_port(host);
        let name = name.to_ascii_lowercase();
        let labels: Vec<&str> = name.split('.').collect();
        self.port.as_deref() == port
            && self.labels.len() == labels.len()
            && self.labels.iter().zip(&labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
            && repository.starts_with(&self.path)
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Shell patterns of `*` and `?`, in time that grows with the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((star_at, tried)) = star else { return false };
                star = Some((star_at, tried + 1));
                at = star_at + 1;
                from = tried + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ring(names: &[&str]) -> Keyring {
        let auths: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({"username": name, "password": "p"}))).collect();
        Keyring::from_config_json(json!({"auths": auths}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn entries_fit_by_host_port_and_path() {
        let rows: &[(&str, &str, &str, bool)] = &[
            ("r.test", "r.test", "a", true),
            ("r.test", "R.test", "a", true),
            ("r.test", "x.r.test", "a", false),
            ("r.test", "r.test:5000", "a", false),
            ("r.test:5000", "r.test:5000", "a", true),
            ("r.test:5000", "r.test", "a", false),
            ("https://r.test/v1/", "r.test", "a/b", true),
            ("http://r.test/v2/team", "r.test", "team/b", true),
            ("r.test/v2", "r.test", "team/b", true),
            ("r.test/team", "r.test", "team/b", true),
            ("r.test/team/", "r.test", "other/b", false),
            ("*.r.test", "eu.r.test", "a", true),
            ("*.r.test", "r.test", "a", false),
            ("*.r.test", "x.eu.r.test", "a", false),
            ("e?-*.r.test", "eu-west-1.r.test", "a", true),
            ("e?-*.r.test", "us-west-1.r.test", "a", false),
            ("127.0.0.1:5000", "127.0.0.1:5000", "a", true),
        ];
        for (name, host, repository, fits) in rows {
            assert_eq!(ring(&[name]).matching(host, repository).len() == 1, *fits, "{name} for {host}/{repository}");
        }
        let several = ring(&["r.test", "r.test/team/app", "r.test/team"]);
        let user = |credential: &Credential| match credential {
            Credential::Password { username, .. } => username.clone(),
            _ => panic!("not a password"),
        };
        let order: Vec<String> = several.matching("r.test", "team/app/x").into_iter().map(user).collect();
        assert_eq!(order, ["r.test/team/app", "r.test/team", "r.test"]);
    }

    #[test]
    fn every_form_of_a_secret_is_read() {
        let auth = STANDARD.encode("me:pass:word");
        let auths = json!({"r.test": {"auth": auth}});
        let secret = |kind: &str, key: &str, content: &Value| json!({"type": kind, "data": {key: STANDARD.encode(content.to_string())}});
        let expected = Credential::Password { username: "me".to_owned(), password: "pass:word".to_owned() };
        for secret in
            [secret(CONFIG_JSON.0, CONFIG_JSON.1, &json!({"auths": auths})), secret(CONFIG.0, CONFIG.1, &auths)]
        {
            assert_eq!(Keyring::from_secret(&secret).unwrap().matching("r.test", "a"), [&expected]);
        }
        for (entry, expected) in [
            (json!({"identitytoken": "t", "auth": auth}), Credential::Identity("t".to_owned())),
            (json!({"registrytoken": "t"}), Credential::Bearer("t".to_owned())),
        ] {
            let ring = Keyring::from_config(json!({"r.test": entry}).to_string().as_bytes()).unwrap();
            assert_eq!(ring.matching("r.test", "a"), [&expected]);
        }
        assert!(Keyring::from_config(br#"{"r.test": {}}"#).unwrap().is_empty());
        assert!(!format!("{expected:?}").contains("pass"));
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_content() {
        let rows: &[(&str, &str)] = &[
            ("{\"auths\": secret", "not JSON at line 1 column 11"),
            (r#"{"auths": 1}"#, "auths: must be an object"),
            (r#"{"auths": {"r": "secret"}}"#, "auths[\"r\"]: must be an object"),
            (r#"{"auths": {"r": {"auth": "secret?"}}}"#, "auths[\"r\"]: auth is not base64"),
            (r#"{"auths": {"r": {"auth": "c2VjcmV0"}}}"#, "auths[\"r\"]: auth lacks a colon between name and password"),
            (r#"{"auths": {"": {"auth": ""}}}"#, "auths[\"\"]: is no registry"),
        ];
        for (text, expected) in rows {
            assert_eq!(Keyring::from_config_json(text.as_bytes()).unwrap_err(), *expected, "{text}");
        }
        let opaque = Keyring::from_secret(&json!({"type": "Opaque"})).unwrap_err();
        assert!(opaque.starts_with("its type is \"Opaque\""), "{opaque}");
        let missing = Keyring::from_secret(&json!({"type": CONFIG_JSON.0, "data": {}})).unwrap_err();
        assert_eq!(missing, "data[.dockerconfigjson]: missing");
    }

    #[test]
    fn patterns_end() {
        assert!(glob(b"*a*a*a*a*", b"aaaa") && glob(b"", b"") && glob(b"*", b"") && !glob(b"?", b""));
        assert!(!glob("*a".repeat(20).as_bytes(), "a".repeat(19).as_bytes()));
    }
}
