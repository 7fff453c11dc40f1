//! What a registry asks for in `WWW-Authenticate` (RFC 9110 §11.6.1, the distribution project's token protocol). Pure.

/// Longest header that is read.
const HEADER_BYTES_MAX: usize = 4096;

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// Address of the token server.
        realm: String,
        /// What the token is for, as the registry calls itself.
        service: Option<String>,
        /// What it would allow.
        scope: Option<String>,
    },
}

/// Reads one header; the best challenge in it, and nothing where none is understood.
#[must_use]
pub fn parse(header: &str) -> Option<Challenge> {
    if header.len() > HEADER_BYTES_MAX {
        return None;
    }
    let mut found = None;
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (scheme, after) = rest.split_once(' ').unwrap_or((rest, ""));
        if scheme.is_empty() {
            return found;
        }
        let (parameters, next) = parameters(after);
        rest = next;
        let get = |name: &str| {
            let parameter = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            parameter.map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            found = Some(Challenge::Basic);
        }
    }
}

/// `key=value` and `key="value"`, separated by commas; and what is no parameter any more.
fn parameters(mut text: &str) -> (Vec<(&str, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let start = text.trim_start_matches([' ', '\t', ',']);
        let Some((key, value)) = start.split_once('=') else { return (found, start) };
        let key = key.trim_end();
        if key.is_empty() || key.contains([' ', ',', '"']) {
            return (found, start);
        }
        let value = value.trim_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            quoted_value(quoted)
        } else {
            let end = value.find([',', ' ']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        found.push((key, value));
        text = after;
    }
}

fn quoted_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &text[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn challenges_are_read() {
        let full = "Bearer realm=\"https://auth.test/token\",service=\"reg.test\",scope=\"repository:a/b:pull,push\"";
        let rows = [
            (full, Some(bearer("https://auth.test/token", Some("reg.test"), Some("repository:a/b:pull,push")))),
            ("bearer realm=https://a.test/t, service=x", Some(bearer("https://a.test/t", Some("x"), None))),
            ("Bearer realm=\"a\\\"b\" , error=\"invalid_token\"", Some(bearer("a\"b", None, None))),
            ("Basic realm=\"x\", Bearer realm=\"y\"", Some(bearer("y", None, None))),
            ("Basic realm=\"Registry Realm\"", Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer", None),
            ("Bearer service=\"x\"", None),
            ("Negotiate abc=", None),
            ("", None),
            ("\"", None),
            ("Bearer realm=\"unclosed", Some(bearer("unclosed", None, None))),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse(&format!("Basic {}", "x".repeat(HEADER_BYTES_MAX))), None);
    }
}
