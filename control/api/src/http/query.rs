//! Query parameters.

use crate::door::{WriteOptions, read::At};
use axum::extract::Query as Pairs;
use coracle_objects::{ApiError, Reason, fields::FieldValidation};
use http::Uri;

/// The parameters of a request; the first of several with one name counts.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads them off the URL.
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let Pairs(pairs) = Pairs::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::bad_request(format!("the query cannot be read: {error}")))?;
        Ok(Self { pairs })
    }

    /// A parameter; "" when it is missing.
    pub(super) fn text(&self, name: &str) -> &str {
        self.pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a parameter that may stand more than once.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A switch. As in Kubernetes, a bare `?watch` switches it on.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        let Some((_, value)) = self.pairs.iter().find(|(key, _)| key == name) else { return Ok(false) };
        match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(ApiError::bad_request(format!("{name}: \"{other}\" is neither true nor false"))),
        }
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let parsed = text.parse();
        parsed.map(Some).map_err(|_| ApiError::bad_request(format!("{name}: \"{text}\" is no whole number")))
    }

    /// `dryRun` and `fieldValidation`.
    pub(super) fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let validation = match self.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => return Err(unsupported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"])),
        };
        Ok(WriteOptions { dry_run: self.dry_run()?, validation })
    }

    /// `dryRun`.
    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(unsupported("dryRun", other, &["All"])),
        }
    }

    /// `resourceVersion` and `resourceVersionMatch` of a read.
    pub(super) fn at(&self, limited: bool) -> Result<At, ApiError> {
        At::parse(self.text("resourceVersion"), self.text("resourceVersionMatch"), limited)
    }
}

fn unsupported(name: &str, value: &str, supported: &[&str]) -> ApiError {
    let list = supported.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
    ApiError::new(Reason::Invalid, format!("{name}: Unsupported value: \"{value}\": supported values: {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn parameters_are_read_as_kubernetes_reads_them() {
        let read = query("watch&labelSelector=a%3Db%2Cc&limit=5&allowWatchBookmarks=false");
        assert!(read.flag("watch").unwrap() && !read.flag("allowWatchBookmarks").unwrap() && !read.flag("no").unwrap());
        assert_eq!(read.text("labelSelector"), "a=b,c");
        assert_eq!(read.number("limit").unwrap(), Some(5));
        assert!(query("watch=maybe").flag("watch").is_err() && query("limit=x").number("limit").is_err());
    }

    #[test]
    fn unknown_modes_are_refused() {
        assert!(query("dryRun=All").write_options().unwrap().dry_run);
        assert_eq!(query("dryRun=Some").write_options().unwrap_err().code(), 422);
        assert_eq!(query("fieldValidation=Loose").write_options().unwrap_err().code(), 422);
    }
}
