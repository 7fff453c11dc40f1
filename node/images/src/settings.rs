//! `registries.json`: how this node reaches registries other than the cluster's own, and its credentials for them.

use crate::reference::parse_host;
use coracle_objects::registry_auth::Keyring;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Largest file that is read: this one, credentials, a CA.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most registries, and most mirrors of one.
const REGISTRIES_MAX: usize = 1024;
const MIRRORS_MAX: usize = 16;

/// One registry as this node reaches it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Asked first, in this order; each by its own entry's rules.
    pub(crate) mirrors: Vec<String>,
    /// PEM of the authorities that may have signed its certificate, instead of the machine's.
    pub(crate) ca_pem: Option<String>,
    /// HTTP without TLS.
    pub(crate) plain_http: bool,
}

/// What the file says.
#[derive(Debug, Clone, Default)]
pub struct RegistrySettings {
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) credentials: Keyring,
}

/// Why the file cannot be used.
#[derive(Debug, Error)]
#[error("{file}: {detail}", file = path.display())]
pub struct SettingsError {
    /// Which file.
    path: PathBuf,
    /// The field and what would be right.
    detail: String,
}

impl RegistrySettings {
    /// Reads the file, and the files that it names (relative to its directory).
    ///
    /// # Errors
    /// Names the file, the field, and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let wrong = |detail: String| SettingsError { path: path.to_owned(), detail };
        let bytes = read(path).map_err(|error| wrong(error.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(format!("not JSON: {error}")))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        Self::from_value(&value, &|file| read(&directory.join(file))).map_err(wrong)
    }

    /// As [`Self::read`]; no file means no settings.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_if_there(path: &Path) -> Result<Self, SettingsError> {
        if path.exists() { Self::read(path) } else { Ok(Self::default()) }
    }

    fn from_value(value: &Value, read: &dyn Fn(&str) -> io::Result<Vec<u8>>) -> Result<Self, String> {
        let all = object(value, "", &["credentials", "registries"])?;
        let mut settings = Self::default();
        if let Some(file) = text(all, "", "credentials")? {
            let bytes = read(file).map_err(|error| format!("credentials: cannot read {file}: {error}"))?;
            let keyring = Keyring::from_config_json(&bytes);
            settings.credentials = keyring.map_err(|error| format!("credentials: {file}: {error}"))?;
        }
        let Some(registries) = all.get("registries") else { return Ok(settings) };
        let registries = registries.as_object().ok_or("registries: must be an object")?;
        if registries.len() > REGISTRIES_MAX {
            return Err(format!("registries: at most {REGISTRIES_MAX} are taken"));
        }
        for (name, entry) in registries {
            let field = format!("registries[{name:?}]");
            let host = parse_host(name).map_err(|what| format!("{field}: {what}; a key is HOST or HOST:PORT"))?;
            settings.hosts.insert(host, host_settings(entry, &field, read)?);
        }
        Ok(settings)
    }

    /// How to reach a host.
    pub(crate) fn host(&self, name: &str) -> Host {
        self.hosts.get(name).cloned().unwrap_or_default()
    }
}

fn host_settings(value: &Value, field: &str, read: &dyn Fn(&str) -> io::Result<Vec<u8>>) -> Result<Host, String> {
    let entry = object(value, field, &["mirrors", "ca", "plainHttp"])?;
    let mut host = Host::default();
    match entry.get("mirrors") {
        None => {}
        Some(Value::Array(mirrors)) if mirrors.len() <= MIRRORS_MAX => {
            for (index, mirror) in mirrors.iter().enumerate() {
                let field = format!("{field}.mirrors[{index}]");
                let name = mirror.as_str().ok_or_else(|| format!("{field}: must be a string"))?;
                let name =
                    parse_host(name).map_err(|what| format!("{field}: {what}; a mirror is HOST or HOST:PORT"))?;
                host.mirrors.push(name);
            }
        }
        Some(_) => return Err(format!("{field}.mirrors: must be a list of at most {MIRRORS_MAX} strings")),
    }
    host.plain_http = match entry.get("plainHttp") {
        None => false,
        Some(Value::Bool(plain)) => *plain,
        Some(_) => return Err(format!("{field}.plainHttp: must be true or false")),
    };
    if let Some(file) = text(entry, field, "ca")? {
        if host.plain_http {
            return Err(format!("{field}.ca: has no meaning beside plainHttp"));
        }
        let bytes = read(file).map_err(|error| format!("{field}.ca: cannot read {file}: {error}"))?;
        let pem = String::from_utf8(bytes).map_err(|_| format!("{field}.ca: {file} is not PEM"))?;
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
        if certificates.is_ok_and(|certificates| certificates.is_empty()) || !pem.contains("-----BEGIN CERTIFICATE") {
            return Err(format!("{field}.ca: {file} holds no certificate in PEM"));
        }
        host.ca_pem = Some(pem);
    }
    Ok(host)
}

fn object<'a>(value: &'a Value, field: &str, known: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
    let object = value.as_object().ok_or_else(|| format!("{place}must be an object"))?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => Err(format!("{place}unknown field {unknown:?}; known are {}", known.join(", "))),
        None => Ok(object),
    }
}

fn text<'a>(object: &'a Map<String, Value>, field: &str, key: &str) -> Result<Option<&'a str>, String> {
    let dot = if field.is_empty() { "" } else { "." };
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{field}{dot}{key}: must be a string")),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(io::Error::other(TooLong));
    }
    Ok(bytes)
}

#[derive(Debug)]
struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "it is longer than {FILE_BYTES_MAX} bytes")
    }
}

impl std::error::Error for TooLong {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<RegistrySettings, String> {
        RegistrySettings::from_value(value, &|file| match file {
            "auth.json" => Ok(br#"{"auths": {"r.test": {"username": "u", "password": "p"}}}"#.to_vec()),
            "bad.json" => Ok(b"secret".to_vec()),
            "text.pem" => Ok(b"no certificate".to_vec()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        })
    }

    #[test]
    fn what_it_says_is_read() {
        let settings = parse(&json!({
            "credentials": "auth.json",
            "registries": {"R.test": {"mirrors": ["m.test:5000"]}, "m.test:5000": {"plainHttp": true}},
        }))
        .unwrap();
        assert_eq!(settings.host("r.test").mirrors, ["m.test:5000"]);
        assert!(settings.host("m.test:5000").plain_http && !settings.host("unknown.test").plain_http);
        assert_eq!(settings.credentials.matching("r.test", "a").len(), 1);
        assert!(parse(&json!({})).unwrap().hosts.is_empty());
    }

    #[test]
    fn mistakes_are_named_with_their_field() {
        let registry = |entry: Value| json!({"registries": {"r.test": entry}});
        for (value, expected) in [
            (json!([]), "must be an object"),
            (json!({"registry": {}}), "unknown field \"registry\"; known are credentials, registries"),
            (json!({"registries": []}), "registries: must be an object"),
            (json!({"credentials": 1}), "credentials: must be a string"),
            (json!({"credentials": "none"}), "credentials: cannot read none: entity not found"),
            (json!({"credentials": "bad.json"}), "credentials: bad.json: not JSON at line 1 column 1"),
            (json!({"registries": {"https://r.test": {}}}), "registries[\"https://r.test\"]: "),
            (registry(json!(true)), "registries[\"r.test\"]: must be an object"),
            (
                registry(json!({"plainHTTP": true})),
                "registries[\"r.test\"]: unknown field \"plainHTTP\"; known are mirrors, ",
            ),
            (registry(json!({"plainHttp": "yes"})), "registries[\"r.test\"].plainHttp: must be true or false"),
            (registry(json!({"mirrors": "m"})), "registries[\"r.test\"].mirrors: must be a list"),
            (registry(json!({"mirrors": [1]})), "registries[\"r.test\"].mirrors[0]: must be a string"),
            (registry(json!({"mirrors": ["m.test/x"]})), "registries[\"r.test\"].mirrors[0]: "),
            (registry(json!({"ca": "none.pem"})), "registries[\"r.test\"].ca: cannot read none.pem: "),
            (registry(json!({"ca": "text.pem"})), "registries[\"r.test\"].ca: text.pem holds no certificate in PEM"),
            (registry(json!({"ca": "text.pem", "plainHttp": true})), "registries[\"r.test\"].ca: has no meaning"),
        ] {
            let error = parse(&value).map(|_| ()).unwrap_err();
            assert!(error.starts_with(expected), "{value}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.json");
        assert!(RegistrySettings::read_if_there(&path).unwrap().hosts.is_empty());
        fs::write(&path, "{").unwrap();
        let error = RegistrySettings::read_if_there(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: not JSON: ", path.display())), "{error}");
    }
}
