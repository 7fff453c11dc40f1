//! Image names: Docker's and OCI's reference grammar, with the cluster's registry where no host is named.

use std::fmt;

/// Longest repository name, host not counted (distribution spec).
const REPOSITORY_LENGTH_MAX: usize = 255;
/// Longest tag (distribution spec: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
const TAG_LENGTH_MAX: usize = 128;

/// A parsed image name. Either a tag, or a digest, or both (then the digest counts).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `None`: the cluster's own registry.
    pub host: Option<String>,
    /// Lower-case path, e.g. `team/app`.
    pub repository: String,
    /// `latest` when neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

impl Reference {
    /// Parses a name as a pod gives it.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("the name is empty");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (host, path) = split_host(rest)?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(parse_tag(tag)?)),
            None => (path, None),
        };
        check_repository(repository)?;
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { host, repository: repository.to_owned(), tag, digest })
    }

    /// What to ask a registry for: the digest where there is one, otherwise the tag.
    #[must_use]
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// Whether the name may mean something else tomorrow and so is asked for each time by default.
    #[must_use]
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == "latest")
    }

    /// Last part of the repository: the name of a module that has none of its own.
    #[must_use]
    pub fn base_name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or(&self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(formatter, "{host}/")?;
        }
        formatter.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first part is a host if it has a `.` or a `:` or is `localhost`; anything else is part of the repository.
fn split_host(text: &str) -> Result<(Option<String>, &str), &'static str> {
    let Some((first, rest)) = text.split_once('/') else { return Ok((None, text)) };
    if !first.contains(['.', ':']) && first != "localhost" {
        return Ok((None, text));
    }
    Ok((Some(parse_host(first)?), rest))
}

/// Checks `HOST` or `HOST:PORT`; in lower case.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn parse_host(text: &str) -> Result<String, &'static str> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let name_fits = name.split('.').all(|label| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    if !name_fits || name.len() > 253 {
        return Err("the registry's host name is not valid");
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err("the registry's port is not a number up to 65535");
    }
    Ok(text.to_ascii_lowercase())
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.is_empty() {
        return Err("the repository name is empty");
    }
    if repository.len() > REPOSITORY_LENGTH_MAX {
        return Err("the repository name is longer than 255 characters");
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository name must be lowercase");
    }
    if repository.split('/').all(is_path_component) { Ok(()) } else { Err("invalid reference format") }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_alphanumeric(*first)
        && is_alphanumeric(*last)
        && component
            .split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit())
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'))
}

fn parse_tag(tag: &str) -> Result<String, &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if tag.is_empty() || tag.len() > TAG_LENGTH_MAX || !tag.bytes().all(fits) || tag.starts_with(['.', '-']) {
        return Err("invalid tag format");
    }
    Ok(tag.to_owned())
}

/// Checks `sha256:` and 64 lower-case hexadecimal digits.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn parse_digest(digest: &str) -> Result<String, &'static str> {
    let Some(hex) = digest.strip_prefix("sha256:") else { return Err("unsupported digest algorithm") };
    if hex.len() != 64 {
        return Err("invalid checksum digest length");
    }
    if !hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err("invalid checksum digest format");
    }
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, Option<&'static str>, &'static str, Option<&'static str>, bool);

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_taken_apart() {
        let digest = format!("sha256:{HEX}");
        let rows: &[Row] = &[
            ("app", None, "app", Some("latest"), false),
            ("app:v1", None, "app", Some("v1"), false),
            ("team/app:v1", None, "team/app", Some("v1"), false),
            ("localhost/app", Some("localhost"), "app", Some("latest"), false),
            ("localhost:5000/app", Some("localhost:5000"), "app", Some("latest"), false),
            ("registry.example/Team", Some("registry.example"), "", None, false),
            ("Registry.example/team/app:1.2_3-x", Some("registry.example"), "team/app", Some("1.2_3-x"), false),
            ("127.0.0.1:6443/a__b/c--d.e", Some("127.0.0.1:6443"), "a__b/c--d.e", Some("latest"), false),
            ("app@DIGEST", None, "app", None, true),
            ("r.io/app:v1@DIGEST", Some("r.io"), "app", Some("v1"), true),
        ];
        for (text, host, repository, tag, with_digest) in rows {
            let text = text.replace("DIGEST", &digest);
            let parsed = Reference::parse(&text);
            if repository.is_empty() {
                assert_eq!(parsed, Err("the repository name must be lowercase"), "{text}");
                continue;
            }
            let parsed = parsed.unwrap();
            assert_eq!(parsed.host.as_deref(), *host, "{text}");
            assert_eq!(parsed.repository, *repository, "{text}");
            assert_eq!(parsed.tag.as_deref(), *tag, "{text}");
            assert_eq!(parsed.digest.is_some(), *with_digest, "{text}");
            let expected = if *with_digest { digest.as_str() } else { tag.unwrap() };
            assert_eq!(parsed.version(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            ":v1",
            "app:",
            "App",
            "app:ü",
            "-app",
            "app-",
            "a//b",
            "a..b",
            "a___b",
            "a/",
            "/a",
            "app:-x",
            "app:a:b",
            "app@sha256:12",
            "app@md5:0123",
            "app@",
            "host.:80/a",
            "host.io:99999/a",
            "host.io:/a",
            "a b",
            "a\0b",
            &long,
            &long_tag,
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} was taken");
        }
        let upper = format!("app@sha256:{}", HEX.to_ascii_uppercase());
        assert_eq!(Reference::parse(&upper), Err("invalid checksum digest format"));
    }

    #[test]
    fn latest_is_what_moves() {
        for (text, latest) in [("a", true), ("a:latest", true), ("a:v1", false)] {
            assert_eq!(Reference::parse(text).unwrap().is_latest(), latest, "{text}");
        }
        assert!(!Reference::parse(&format!("a@sha256:{HEX}")).unwrap().is_latest());
        assert_eq!(Reference::parse("x.io/team/app:v1").unwrap().to_string(), "x.io/team/app:v1");
        assert_eq!(Reference::parse("team/app").unwrap().base_name(), "app");
    }
}
