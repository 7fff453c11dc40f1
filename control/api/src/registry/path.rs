//! Which thing a path under `/v2/` names. Repository names contain slashes, so paths are read from their end.

use super::error::{Code, Refusal};

/// Longest repository name.
const MAX_NAME_BYTES: usize = 255;
/// Longest tag.
const MAX_TAG_BYTES: usize = 128;

/// `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Digest(String);

impl Digest {
    /// The digest of a hash's bytes.
    pub(super) fn of(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// Reads one.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(is_digit));
        match hex {
            Some(_) => Ok(Self(text.to_owned())),
            None => {
                Err(Refusal::new(Code::DigestInvalid, "a digest must be sha256: and 64 lower-case hexadecimal digits"))
            }
        }
    }

    /// With its algorithm.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal digits alone.
    pub(super) fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

/// A tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.contains(':') {
            return Digest::parse(text).map(Self::Digest);
        }
        let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let rest = |byte: u8| first(byte) || byte == b'.' || byte == b'-';
        let mut bytes = text.bytes();
        if text.len() <= MAX_TAG_BYTES && bytes.next().is_some_and(first) && bytes.all(rest) {
            Ok(Self::Tag(text.to_owned()))
        } else {
            Err(Refusal::new(Code::ManifestInvalid, "a tag must be up to 128 letters, digits, '_', '.' and '-'"))
        }
    }
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Catalog,
    Tags(String),
    Referrers(String, Digest),
    Manifest(String, Reference),
    Blob(String, Digest),
    Uploads(String),
    Upload(String, String),
}

/// Reads what follows `/v2/`.
pub(super) fn parse(path: &str) -> Result<Target, Refusal> {
    if path == "_catalog" {
        return Ok(Target::Catalog);
    }
    let unknown = || Refusal::new(Code::Unsupported, "the registry has no such path");
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Ok(Target::Tags(repository(name)?));
    }
    if let Some(name) = path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads")) {
        return Ok(Target::Uploads(repository(name)?));
    }
    let (head, last) = path.rsplit_once('/').ok_or_else(unknown)?;
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        return Ok(Target::Upload(repository(name)?, last.to_owned()));
    }
    if let Some(name) = head.strip_suffix("/blobs") {
        return Ok(Target::Blob(repository(name)?, Digest::parse(last)?));
    }
    if let Some(name) = head.strip_suffix("/manifests") {
        return Ok(Target::Manifest(repository(name)?, Reference::parse(last)?));
    }
    if let Some(name) = head.strip_suffix("/referrers") {
        return Ok(Target::Referrers(repository(name)?, Digest::parse(last)?));
    }
    Err(unknown())
}

/// A repository's name: components of lower-case letters and digits, parted inside by `.`, `_`, `__` or dashes.
fn repository(name: &str) -> Result<String, Refusal> {
    let is_letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_component = |component: &str| {
        let bytes = component.as_bytes();
        bytes.first().is_some_and(is_letter)
            && bytes.last().is_some_and(is_letter)
            && bytes
                .split(is_letter)
                .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|&byte| byte == b'-'))
    };
    if name.len() <= MAX_NAME_BYTES && name.split('/').all(is_component) {
        Ok(name.to_owned())
    } else {
        let message = "a repository's name must be lower-case letters and digits, parted by '.', '_', '-' and '/'";
        Err(Refusal::new(Code::NameInvalid, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let parsed = Digest::parse(&digest).unwrap();
        let cases = [
            ("_catalog".to_owned(), Target::Catalog),
            ("a/tags/list".to_owned(), Target::Tags("a".to_owned())),
            ("a/b/blobs/uploads/".to_owned(), Target::Uploads("a/b".to_owned())),
            ("a/b/blobs/uploads".to_owned(), Target::Uploads("a/b".to_owned())),
            ("a/blobs/uploads/xyz".to_owned(), Target::Upload("a".to_owned(), "xyz".to_owned())),
            (format!("a/blobs/{digest}"), Target::Blob("a".to_owned(), parsed.clone())),
            ("blobs/manifests/v1".to_owned(), Target::Manifest("blobs".to_owned(), Reference::Tag("v1".to_owned()))),
            (format!("a/manifests/{digest}"), Target::Manifest("a".to_owned(), Reference::Digest(parsed.clone()))),
            (format!("a/referrers/{digest}"), Target::Referrers("a".to_owned(), parsed)),
        ];
        for (path, target) in cases {
            assert_eq!(parse(&path).unwrap(), target, "{path}");
        }
    }

    #[test]
    fn bad_names_tags_and_digests_are_refused() {
        let cases = [
            ("A/tags/list", Code::NameInvalid),
            ("a//b/tags/list", Code::NameInvalid),
            ("../x/tags/list", Code::NameInvalid),
            ("a..b/tags/list", Code::NameInvalid),
            ("-a/tags/list", Code::NameInvalid),
            ("a_-b/tags/list", Code::NameInvalid),
            ("/tags/list", Code::NameInvalid),
            ("a/manifests/.x", Code::ManifestInvalid),
            ("a/manifests/", Code::ManifestInvalid),
            ("a/manifests/sha256:12", Code::DigestInvalid),
            ("a/blobs/sha512:12", Code::DigestInvalid),
            ("a/blobs/latest", Code::DigestInvalid),
            ("a", Code::Unsupported),
            ("a/b/c", Code::Unsupported),
        ];
        for (path, code) in cases {
            assert_eq!(parse(path).unwrap_err().code, code, "{path}");
        }
        for name in ["a", "a-b", "a--b", "a__b", "a.b_c/d9"] {
            assert!(repository(name).is_ok(), "{name}");
        }
        assert!(repository(&"a".repeat(256)).is_err());
    }
}
