//! Where a redirect leads, and paths as they are sent. Pure.

use super::{Scheme, Target};
use http::Uri;
use std::fmt::Write as _;

/// A path with its query as a manifest writes it, ready to be sent: what may not stand in a request is escaped, and a
/// fragment is nobody's business.
pub(super) fn path(written: &str) -> String {
    let written = written.split('#').next().unwrap_or_default();
    let mut path = String::with_capacity(written.len() + 1);
    if !written.starts_with('/') {
        path.push('/');
    }
    for byte in written.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=b' ' | 0x7f.. => {
                let _ = write!(path, "%{byte:02X}");
            }
            _ => path.push(char::from(byte)),
        }
    }
    path
}

/// Where `location` leads from `here`; `None` where nobody can tell.
pub(super) fn next(here: &Target, location: &str) -> Option<Target> {
    let absolute = if location.starts_with("//") {
        format!("{}:{location}", here.scheme.name())
    } else if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.contains("://") {
        return None;
    } else {
        return Some(Target { path: relative(here, location).parse().ok()?, ..here.clone() });
    };
    let uri: Uri = absolute.split('#').next()?.parse().ok()?;
    let scheme = if uri.scheme_str()? == "https" { Scheme::Https } else { Scheme::Http };
    let port = uri.port_u16().unwrap_or(match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    });
    let path = path(uri.path_and_query().map_or("/", |path| path.as_str())).parse().ok()?;
    Some(Target { scheme, host: uri.host()?.to_owned(), port, path })
}

fn relative(here: &Target, location: &str) -> String {
    let current = here.path.path();
    if location.starts_with('/') {
        path(location)
    } else if location.is_empty() || location.starts_with('?') {
        path(&format!("{current}{location}"))
    } else {
        let directory = current.rfind('/').map_or("/", |end| &current[..=end]);
        path(&format!("{directory}{location}"))
    }
}

/// Whether a redirect from `here` names a host and port that it did not have, so that another `Host` header belongs to it.
pub(super) fn names_host(next: &Target, here: &Target) -> bool {
    next.host != here.host || next.port != here.port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_sent_as_they_may_be() {
        for (written, sent) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a b?c=d|e", "/a%20b?c=d%7Ce"),
            ("/a%20b", "/a%20b"),
            ("/a#b", "/a"),
            ("/ä", "/%C3%A4"),
        ] {
            assert_eq!(path(written), sent, "{written}");
        }
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let here = Target { scheme: Scheme::Http, host: String::new(), port: 8080, path: "/a/b?c".parse().unwrap() };
        let shown = |location: &str| {
            next(&here, location).map(|one| format!("{}://{}:{}{}", one.scheme.name(), one.host, one.port, one.path))
        };
        for (location, leads) in [
            ("/x?y", "http://:8080/x?y"),
            ("x", "http://:8080/a/x"),
            ("?z", "http://:8080/a/b?z"),
            ("//h/p", "http://h:80/p"),
            ("https://h/p#f", "https://h:443/p"),
            ("http://h:81", "http://h:81/"),
        ] {
            assert_eq!(shown(location).as_deref(), Some(leads), "{location}");
        }
        assert_eq!(shown("ftp://h/p"), None);
    }
}
