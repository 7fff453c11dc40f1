//! Who gets a certificate without a person being asked, and who gets none. A pure decision.
//!
//! ```text
//!  a bootstrapper asks for a new node     approved, if its token is one for that; else a person decides
//!                   for a name that is taken, or with something wrong about the request     denied
//!  a node asks for itself                 approved      for another     denied
//!  anybody else                           a person decides
//! ```

use super::request::Request;
use coracle_objects::{ApiError, bootstrap, nodes};
use serde_json::Value;

/// What is to be done with a request that nobody has decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Approve it, for this reason.
    Approve(&'static str, String),
    /// Deny it, for this reason.
    Deny(&'static str, String),
    /// A person has to.
    Leave,
}

/// What the decision rests on.
pub(crate) struct Known<'a> {
    /// Why this node's name cannot be given to a new machine with this key, if so.
    pub(crate) taken: &'a dyn Fn(&Request) -> Result<Option<String>, ApiError>,
    /// The revision from which on credentials of a node of this name count.
    pub(crate) since: &'a dyn Fn(&str) -> Result<u64, ApiError>,
}

/// Decides on `object`, which was made at the revision `asked_at`.
///
/// # Errors
/// When what it rests on is not known: that decides nothing.
pub(crate) fn decide(object: &Value, asked_at: u64, known: &Known<'_>) -> Result<Verdict, ApiError> {
    let spec = &object["spec"];
    let user = spec["username"].as_str().unwrap_or_default();
    let is_in = |group: &str| spec["groups"].as_array().is_some_and(|groups| groups.iter().any(|one| one == group));
    let of_node = nodes::of_user(user).filter(|_| is_in(nodes::GROUP));
    let bootstraps = is_in(bootstrap::GROUP);
    if of_node.is_none() && !bootstraps {
        return Ok(Verdict::Leave);
    }
    let request = match Request::of(object) {
        Ok(request) => request,
        Err(why) => return Ok(Verdict::Deny("InvalidRequest", why)),
    };
    if let Some(own) = of_node {
        return Ok(if own != request.node {
            let why = format!("node {own} may ask only for its own certificate, not for one of node {}", request.node);
            Verdict::Deny("NotItsOwn", why)
        } else if asked_at < (known.since)(own)? {
            Verdict::Deny("Deleted", format!("node {own} was deleted, or another machine let in as it, after it asked"))
        } else {
            Verdict::Approve("Renewal", format!("node {own} asks for its own certificate"))
        });
    }
    if let Some(why) = (known.taken)(&request)? {
        return Ok(Verdict::Deny("NameTaken", why));
    }
    Ok(if is_in(bootstrap::GROUP_APPROVED) {
        Verdict::Approve("BootstrapToken", format!("{user} may join nodes"))
    } else {
        Verdict::Leave
    })
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::object;
    use super::*;
    use serde_json::json;

    fn verdict(user: &str, groups: &[&str], subject: &str) -> String {
        let mut object = object(subject, "system:nodes", &[], &["client auth"]);
        object["spec"]["username"] = json!(user);
        object["spec"]["groups"] = json!(groups);
        let taken = |request: &Request| match &*request.node {
            "taken" => Ok(Some("there is one".to_owned())),
            "unreadable" => Err(ApiError::internal("a sick disk")),
            _ => Ok(None),
        };
        let since = |node: &str| match node {
            "deleted" => Ok(6),
            "unreadable" => Err(ApiError::internal("a sick disk")),
            _ => Ok(0),
        };
        match decide(&object, 5, &Known { taken: &taken, since: &since }) {
            Ok(Verdict::Approve(reason, _) | Verdict::Deny(reason, _)) => reason.to_owned(),
            Ok(Verdict::Leave) => "a person".to_owned(),
            Err(_) => "later".to_owned(),
        }
    }

    #[test]
    fn the_table() {
        let (boot, auto) = ("system:bootstrappers", "system:bootstrappers:coracle:approved");
        let (token, nodes) = ("system:bootstrap:abcdef", "system:nodes");
        let cases: [(&str, &[&str], &str, &str); 13] = [
            (token, &[boot, auto], "system:node:one", "BootstrapToken"),
            (token, &[boot], "system:node:one", "a person"),
            (token, &[boot, auto], "system:node:taken", "NameTaken"),
            (token, &[boot, auto], "system:node:unreadable", "later"),
            ("system:node:unreadable", &[nodes], "system:node:unreadable", "later"),
            (token, &[boot], "system:node:taken", "NameTaken"),
            (token, &[boot, auto], "admin", "InvalidRequest"),
            ("system:node:one", &[nodes], "system:node:one", "Renewal"),
            ("system:node:taken", &[nodes], "system:node:taken", "Renewal"),
            ("system:node:one", &[nodes], "system:node:two", "NotItsOwn"),
            ("system:node:deleted", &[nodes], "system:node:deleted", "Deleted"),
            ("system:node:one", &[], "system:node:one", "a person"),
            ("admin", &["system:masters"], "system:node:one", "a person"),
        ];
        for (user, groups, subject, expected) in cases {
            assert_eq!(verdict(user, groups, subject), expected, "{user} {groups:?} {subject}");
        }
    }
}
