//! Which form of an answer the client prefers.

use coracle_objects::{ApiError, Reason};
use http::{HeaderMap, header};

/// Forms of an answer; all are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// Objects as they are.
    Plain,
    /// A `Table`.
    Table,
    /// Metadata only.
    PartialMetadata,
    /// All of discovery in one document.
    AggregatedDiscovery,
}

impl Accept {
    /// The first form in the `Accept` header that can be served.
    ///
    /// # Errors
    /// 406 when there is none.
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut asked = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
        if asked.peek().is_none() {
            return Ok(Self::Plain);
        }
        let found = asked.flat_map(|value| value.split(',')).find_map(Self::parse_one);
        found.ok_or_else(|| {
            let message = "only the following media types are accepted: application/json";
            ApiError::new(Reason::NotAcceptable, message)
        })
    }

    fn parse_one(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next()?;
        // `kubectl get --raw /openapi/v2` and browsers ask for what only some paths have; they get JSON there.
        if !matches!(media_type, "" | "*/*" | "application/*" | "application/json" | "text/plain" | "text/html")
            && !media_type.starts_with("application/com.github.proto-openapi")
        {
            return None;
        }
        let (mut form, mut version, mut group) = ("", "", "");
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "as" => form = value,
                "v" => version = value,
                "g" => group = value,
                _ => {}
            }
        }
        match (form, group, version) {
            ("", ..) => Some(Self::Plain),
            ("Table", "meta.k8s.io", "v1" | "v1beta1") => Some(Self::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Self::PartialMetadata),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Self::AggregatedDiscovery),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_first_form_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let cases = [
            ("", Some(Accept::Plain)),
            ("*/*", Some(Accept::Plain)),
            (table, Some(Accept::Table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", Some(Accept::Table)),
            ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", Some(Accept::Plain)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Accept::Plain)),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Accept::PartialMetadata)),
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", Some(Accept::AggregatedDiscovery)),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
                Some(Accept::Plain),
            ),
        ];
        for (text, expected) in cases {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]);
            assert_eq!(Accept::parse(&headers).ok(), expected, "{text}");
        }
        assert_eq!(Accept::parse(&HeaderMap::new()).ok(), Some(Accept::Plain));
    }
}
