//! What went wrong on the way to an image, and what that means for trying again. Pure.

use std::error::Error;

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The registry is away or overloaded, or the connection broke: trying again may help.
    Passing,
    /// The registry wants other credentials.
    Denied,
    /// The registry says that there is no such thing.
    Missing,
    /// Anything else; trying again at once does not help.
    Final,
}

/// Why something did not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    /// What, where, and what would be right; no credential.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    pub(crate) fn last(text: impl Into<String>) -> Self {
        Self::new(Class::Final, text)
    }

    /// No answer from a host, or one that broke off.
    pub(crate) fn transport(host: &str, error: reqwest::Error) -> Self {
        // Addresses after a redirect are signed: whoever reads them may fetch.
        let text = chain(&error.without_url());
        let hint = hint(&text);
        let class = if hint.is_some() { Class::Final } else { Class::Passing };
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        Self::new(class, format!("cannot reach registry {host}: {text}{hint}"))
    }
}

fn hint(text: &str) -> Option<&'static str> {
    if text.contains("InvalidContentType") || text.contains("corrupt message") {
        return Some("it does not speak TLS; where plain HTTP is meant, set \"plainHttp\" for it in registries.json");
    }
    if text.contains("UnknownIssuer") || text.contains("No CA certificates") {
        return Some("its certificate is signed by an unknown authority; name its \"ca\" in registries.json");
    }
    text.contains("invalid peer certificate").then_some("its certificate is not one for that name and time")
}

/// An error and what caused it, as one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_right_is_said() {
        for (text, expected) in [
            ("received corrupt message of type InvalidContentType", "plainHttp"),
            ("invalid peer certificate: UnknownIssuer", "\"ca\""),
            ("invalid peer certificate: Expired", "name and time"),
        ] {
            assert!(hint(text).unwrap().contains(expected), "{text}");
        }
        assert_eq!(hint("connection refused"), None);
    }
}
