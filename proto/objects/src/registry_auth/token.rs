//! What a token server is asked, and what it answers (the distribution project's token protocol). Pure; it must never
//! print a credential.

use super::{Credential, basic};
use serde_json::Value;
use std::time::Duration;

/// What a client calls itself.
const CLIENT_ID: &str = "coracle";
/// Lifetime of a token that names none.
const LIFETIME_DEFAULT: Duration = Duration::from_mins(1);

/// A request to the address that a challenge names as its realm.
#[derive(PartialEq, Eq)]
pub struct Question {
    /// What is asked, in order: more of the query of a `GET`, or the form of a `POST`.
    pub parameters: Vec<(&'static str, String)>,
    /// Whether it is a `POST`.
    pub is_form: bool,
    /// Value of its `Authorization` header.
    pub authorization: Option<String>,
}

/// Asks for what `scope` says (several scopes stand in it with spaces between), as the owner of a credential or as
/// nobody.
#[must_use]
pub fn question(service: Option<&str>, scope: &str, credential: Option<&Credential>) -> Question {
    if let Some(Credential::Identity(refresh_token)) = credential {
        let parameters = [
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("refresh_token", refresh_token),
            ("scope", scope),
            ("service", service.unwrap_or_default()),
        ];
        let parameters = parameters.map(|(name, value)| (name, value.to_owned())).to_vec();
        return Question { parameters, is_form: true, authorization: None };
    }
    let service = service.map(|service| ("service", service.to_owned()));
    let scopes = scope.split(' ').map(|one| ("scope", one.to_owned()));
    let authorization = match credential {
        Some(Credential::Password { username, password }) => Some(basic(username, password)),
        _ => None,
    };
    Question { parameters: service.into_iter().chain(scopes).collect(), is_form: false, authorization }
}

/// The token in an answer, and how long it is good for; nothing where there is none.
#[must_use]
pub fn answer(body: &[u8]) -> Option<(String, Duration)> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let token = body["token"].as_str().or(body["access_token"].as_str())?;
    let lifetime = body["expires_in"].as_u64().map_or(LIFETIME_DEFAULT, Duration::from_secs);
    Some((token.to_owned(), lifetime))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: &Question) -> String {
        let pairs: Vec<String> = question.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    }

    #[test]
    fn each_credential_is_shown_in_its_own_way() {
        let nobody = question(None, "repository:a:pull", None);
        assert_eq!(asked(&nobody), "scope=repository:a:pull");
        assert!(!nobody.is_form && nobody.authorization.is_none());

        let password = Credential::Password { username: "me".to_owned(), password: "secret".to_owned() };
        let known = question(Some("r.test"), "repository:a:pull repository:b:pull", Some(&password));
        assert_eq!(asked(&known), "service=r.test&scope=repository:a:pull&scope=repository:b:pull");
        assert_eq!(known.authorization, Some(basic("me", "secret")));

        let refreshed = question(Some("r.test"), "repository:a:pull", Some(&Credential::Identity("t".to_owned())));
        let form = "grant_type=refresh_token&client_id=coracle&refresh_token=t&scope=repository:a:pull&service=r.test";
        assert_eq!(asked(&refreshed), form);
        assert!(refreshed.is_form && refreshed.authorization.is_none());
    }

    #[test]
    fn both_names_of_a_token_are_read() {
        for (body, expected) in [
            (r#"{"token": "t", "expires_in": 300}"#, Some(("t", 300))),
            (r#"{"access_token": "t"}"#, Some(("t", 60))),
            (r#"{"expires_in": 300}"#, None),
            ("t", None),
        ] {
            let expected = expected.map(|(token, seconds)| (token.to_owned(), Duration::from_secs(seconds)));
            assert_eq!(answer(body.as_bytes()), expected, "{body}");
        }
    }
}
