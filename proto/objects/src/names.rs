//! Names that must not be swapped, and Kubernetes' rules for spelling them.
//!
//! The rules are those of Kubernetes' `apimachinery` validation (RFC 1123 and RFC 1035 names, qualified label keys, …);
//! the wording is kept to the letter, since people search for it and tools match on it.

use std::fmt;

/// Where an object is: namespace ("" for cluster-scoped kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// "" for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// A namespaced object.
    #[must_use]
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// A cluster-scoped object.
    #[must_use]
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            formatter.write_str(&self.name)
        } else {
            write!(formatter, "{}/{}", self.namespace, self.name)
        }
    }
}

/// How a text must be spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// RFC 1123 label: names of namespaces and containers.
    DnsLabel,
    /// RFC 1123 subdomain: names of most objects.
    DnsSubdomain,
    /// RFC 1035 label: names of services.
    Rfc1035Label,
    /// `[PREFIX/]NAME`: keys of labels and annotations, condition types.
    QualifiedName,
    /// Values of labels.
    LabelValue,
    /// Names of environment variables: printable ASCII without `=`.
    EnvVarName,
    /// Keys of config maps and secrets.
    ConfigKey,
    /// IANA service names: names of container ports.
    PortName,
    /// Names of HTTP headers in probes.
    HttpHeaderName,
}

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;

const QUALIFIED_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

impl Spelling {
    /// Whether `text` is spelled so.
    #[must_use]
    pub fn allows(self, text: &str) -> bool {
        self.problems(text).is_empty()
    }

    /// Every rule that `text` breaks, as Kubernetes words it; empty when it is fine.
    #[must_use]
    pub fn problems(self, text: &str) -> Vec<String> {
        match self {
            Self::DnsLabel => dns_label_problems(text),
            Self::DnsSubdomain => bounded(text, SUBDOMAIN_MAX, is_dns_subdomain(text), || {
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            }),
            Self::Rfc1035Label => {
                let good = is_dns_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase());
                bounded(text, LABEL_MAX, good, || {
                    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                     character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                })
            }
            Self::QualifiedName => qualified_name_problems(text),
            Self::LabelValue => bounded(text, LABEL_MAX, text.is_empty() || is_qualified_part(text), || {
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
                 validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            }),
            Self::EnvVarName => env_var_name_problems(text),
            Self::ConfigKey => config_key_problems(text),
            Self::PortName => port_name_problems(text),
            Self::HttpHeaderName => {
                let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                bounded(text, usize::MAX, good, || {
                    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
                     for validation is '[-A-Za-z0-9]+')"
                })
            }
        }
    }

    fn check(self, text: &str) -> Result<(), String> {
        let problems = self.problems(text);
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}

/// Whether `text` is an RFC 1123 label (at most 63 of `[a-z0-9-]`, alphanumeric at both ends); `Err` is Kubernetes' text.
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn dns_label(text: &str) -> Result<(), String> {
    Spelling::DnsLabel.check(text)
}

/// Whether `text` is an RFC 1123 subdomain (at most 253).
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn dns_subdomain(text: &str) -> Result<(), String> {
    Spelling::DnsSubdomain.check(text)
}

/// Whether `text` may name a Service (an RFC 1035 label: starts with a letter).
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn service_name(text: &str) -> Result<(), String> {
    Spelling::Rfc1035Label.check(text)
}

/// Whether `text` is a label key: `[PREFIX/]NAME`.
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn label_key(text: &str) -> Result<(), String> {
    Spelling::QualifiedName.check(text)
}

/// Whether `text` is a label value.
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn label_value(text: &str) -> Result<(), String> {
    Spelling::LabelValue.check(text)
}

/// Whether `text` may name an environment variable.
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn env_var_name(text: &str) -> Result<(), String> {
    Spelling::EnvVarName.check(text)
}

/// Whether `text` may be a key of a config map or secret.
///
/// # Errors
/// The rule that is broken, as Kubernetes words it.
pub fn config_map_key(text: &str) -> Result<(), String> {
    Spelling::ConfigKey.check(text)
}

fn bounded(text: &str, max: usize, good: bool, rule: impl FnOnce() -> &'static str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > max {
        problems.push(too_long(max));
    }
    if !good {
        problems.push(rule().to_owned());
    }
    problems
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Alphanumeric (by `inner`) at both ends, `inner` or one of `extra` between.
fn is_framed(text: &str, inner: fn(u8) -> bool, extra: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    inner(*first) && inner(*last) && bytes.iter().all(|byte| inner(*byte) || extra.contains(byte))
}

fn is_dns_label(text: &str) -> bool {
    is_framed(text, is_lower_alphanumeric, b"-")
}

fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

fn is_qualified_part(text: &str) -> bool {
    is_framed(text, |byte| byte.is_ascii_alphanumeric(), b"-_.")
}

fn dns_label_problems(text: &str) -> Vec<String> {
    bounded(text, LABEL_MAX, is_dns_label(text), || {
        if is_dns_subdomain(text) {
            "must not contain dots"
        } else {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
             with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        }
    })
}

fn qualified_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            problems.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            problems.extend(Spelling::DnsSubdomain.problems(prefix).iter().map(|one| format!("prefix part {one}")));
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        problems.push(format!("name part {QUALIFIED_RULE}"));
    }
    problems
}

fn env_var_name_problems(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let good = text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    bounded(
        text,
        usize::MAX,
        good,
        || "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

fn config_key_problems(text: &str) -> Vec<String> {
    let good = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.');
    let mut problems = bounded(text, SUBDOMAIN_MAX, good, || {
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
         'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
    });
    match text {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

fn port_name_problems(text: &str) -> Vec<String> {
    let charset = !text.is_empty() && text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-');
    let rules = [
        (charset, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
        (text.bytes().any(|byte| byte.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (!text.contains("--"), "must not contain consecutive hyphens"),
        (!text.starts_with('-') && !text.ends_with('-'), "must not begin or end with a hyphen"),
    ];
    let mut problems = bounded(text, PORT_NAME_MAX, true, || "");
    problems.extend(rules.iter().filter(|(good, _)| !good).map(|(_, rule)| (*rule).to_owned()));
    problems
}

#[cfg(test)]
mod tests {
    use super::{
        Spelling, config_map_key, dns_label, dns_subdomain, env_var_name, label_key, label_value, service_name,
    };

    #[test]
    fn each_spelling_tells_good_from_bad() {
        let long_label = "a".repeat(64);
        let long_name = "a.".repeat(127);
        let cases: &[(Spelling, &[&str], &[&str])] = &[
            (
                Spelling::DnsLabel,
                &["a", "0", "my-name", "a--b"],
                &["", "A", "-a", "a-", "a.b", "a_b", "ä", &long_label],
            ),
            (Spelling::DnsSubdomain, &["a", "a.b-c.d", "1.2"], &["", ".", "a..b", "a.", "a-.b", "A", &long_name]),
            (Spelling::Rfc1035Label, &["a", "a-1"], &["1a", "", "a.b", "-a", "a-", &long_label]),
            (
                Spelling::QualifiedName,
                &["a", "A_b.c-1", "x.io/Name", "kubernetes.io/metadata.name"],
                &["", "/a", "a/", "a/b/c", "_a", "X.io/a", "x.io/a b", &long_label],
            ),
            (Spelling::LabelValue, &["", "a", "A-b_c.d"], &["-", "a ", "a,b", "ä", &long_label]),
            (Spelling::EnvVarName, &["A", "a b", "1x", "a.b-c"], &["", "a=b", "a\nb", "ä"]),
            (Spelling::ConfigKey, &["a", ".bashrc", "A_b-c.d"], &["", ".", "..", "..a", "a/b", "a b"]),
            (
                Spelling::PortName,
                &["http", "web-1", "1a"],
                &["", "-a", "a-", "a--b", "Http", "8080", "abcdefghijklmnop"],
            ),
            (Spelling::HttpHeaderName, &["X-A", "a"], &["", "a b", "a:b"]),
        ];
        for (spelling, good, bad) in cases {
            for text in *good {
                assert_eq!(spelling.problems(text), Vec::<String>::new(), "{spelling:?} {text:?}");
            }
            for text in *bad {
                assert!(!spelling.allows(text), "{spelling:?} should refuse {text:?}");
            }
        }
    }

    #[test]
    fn texts_are_kubernetes_own() {
        let cases = [
            (
                dns_subdomain("A"),
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ),
            (
                dns_label("A"),
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ),
            (dns_label("a.b"), "must not contain dots"),
            (
                service_name("1a"),
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            ),
            (
                label_key("a b"),
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
            (
                label_value("a b"),
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            (
                env_var_name("a=b"),
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ),
            (
                config_map_key("a/b"),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ),
        ];
        for (result, text) in cases {
            assert_eq!(result, Err(text.to_owned()));
        }
        assert_eq!(
            Spelling::PortName.problems("8080"),
            ["must contain at least one letter (a-z)"],
            "a port name that is a number would be ambiguous"
        );
        assert!(dns_label(&"a".repeat(64)).unwrap_err().starts_with("must be no more than 63 characters"));
    }
}
