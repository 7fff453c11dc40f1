//! Get and list: linearizable unless the client asks otherwise, paged, filtered.

use super::{Door, Target, encode, gate::Asked, read_error, too_large};
use crate::identity::Identity;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_objects::{
    ApiError, Reason,
    selector::{FieldSelector, LabelSelector},
};
use coracle_store::{Entry, Key, ReadError, Revision};
use serde_json::{Value, json};

/// How many objects are read at once when a selector has to look at each.
const SCAN_PAGE: usize = 1000;

/// `resourceVersion` and `resourceVersionMatch` of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum At {
    /// The latest acknowledged state.
    #[default]
    Latest,
    /// Whatever this server has.
    Any,
    /// This state or a later one.
    NotOlderThan(Revision),
    /// Exactly this state.
    Exact(Revision),
}

impl At {
    /// From the query parameters of a list.
    ///
    /// # Errors
    /// 400 or 422 as kube-apiserver's for impossible combinations.
    pub fn parse(version: &str, matching: &str, limited: bool) -> Result<Self, ApiError> {
        let forbidden =
            |detail: &str| ApiError::new(Reason::Invalid, format!("resourceVersionMatch: Forbidden: {detail}"));
        if version.is_empty() {
            return if matching.is_empty() {
                Ok(Self::Latest)
            } else {
                Err(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"))
            };
        }
        let revision = parse_revision(version)?;
        match (matching, revision.0) {
            ("Exact", 0) => Err(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
            ("Exact", _) => Ok(Self::Exact(revision)),
            ("" | "NotOlderThan", 0) => Ok(Self::Any),
            ("", _) if limited => Ok(Self::Exact(revision)),
            ("" | "NotOlderThan", _) => Ok(Self::NotOlderThan(revision)),
            (other, _) => Err(ApiError::new(
                Reason::Invalid,
                format!(
                    "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
                ),
            )),
        }
    }
}

/// A resource version as clients send it.
///
/// # Errors
/// 400 when it is no number.
pub(crate) fn parse_revision(text: &str) -> Result<Revision, ApiError> {
    let parsed = text.parse().map(Revision);
    parsed.map_err(|_| ApiError::bad_request(format!("Invalid value: \"{text}\": invalid resource version")))
}

/// What a list or watch leaves out.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    field_text: String,
}

impl Selection {
    /// Parses both selectors.
    ///
    /// # Errors
    /// 400 that says what cannot be read or selected.
    pub fn parse(target: &Target, label_selector: &str, field_selector: &str) -> Result<Self, ApiError> {
        Ok(Self {
            labels: LabelSelector::parse(label_selector)?,
            fields: FieldSelector::parse(field_selector, target.kind)?,
            field_text: field_selector.to_owned(),
        })
    }

    /// Whether everything is selected, so that nothing needs to be decoded.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(&object["metadata"]["labels"]) && self.fields.matches(object)
    }

    /// The one name that can match, if the selector says so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.required("metadata.name")
    }

    /// The field selector as it was written.
    pub(crate) fn field_text(&self) -> &str {
        &self.field_text
    }
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Which objects.
    pub selection: Selection,
    /// Most objects in the answer; 0: all.
    pub limit: usize,
    /// From the answer before; "" for the first page.
    pub continue_token: String,
    /// Which state.
    pub at: At,
}

/// A consistent listing, or one page of it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The state that is shown.
    pub revision: Revision,
    /// For the next page; "" when this was the last.
    pub continue_token: String,
}

impl Door {
    /// One object.
    ///
    /// # Errors
    /// 403, 404, or 503 without a leader.
    pub async fn get(&self, identity: &Identity, target: &Target, at: At) -> Result<Entry, ApiError> {
        self.settle(at).await?;
        let entry = self.store().get(&target.key()).map_err(|error| read_error(&error))?;
        let object = entry.as_ref().map(|entry| encode::decode(&entry.value)).transpose()?;
        self.authorize(identity, "get", target, Asked { object: object.as_ref(), ..Asked::default() })?;
        entry.ok_or_else(|| target.kind.not_found(&target.name))
    }

    /// All objects that match, or one page of them.
    ///
    /// # Errors
    /// 403, 400 for a damaged continue token, 410 for one that is too old, 503 without a leader.
    pub async fn list(&self, identity: &Identity, target: &Target, options: &ListOptions) -> Result<Listed, ApiError> {
        let field_selector = options.selection.field_text();
        self.authorize(identity, "list", target, Asked { field_selector, ..Asked::default() })?;
        self.list_unchecked(target, options).await
    }

    /// The listing itself, for callers that have been authorized for something that includes it.
    pub(crate) async fn list_unchecked(&self, target: &Target, options: &ListOptions) -> Result<Listed, ApiError> {
        let token = Continue::parse(&options.continue_token)?;
        let at = token.as_ref().map_or(options.at, |token| At::Exact(token.revision));
        self.settle(at).await?;
        let prefix = target.prefix(options.selection.name());
        let pinned = match at {
            At::Exact(revision) => Some(revision),
            _ => None,
        };
        let start = token.map(|token| token.start);
        if start.as_ref().is_some_and(|start| !start.0.starts_with(&prefix)) {
            return Err(ApiError::bad_request("continue key is not valid: it belongs to another list"));
        }
        let is_continued = start.is_some();
        self.scan(&prefix, start, pinned, options).map_err(|error| match error {
            ReadError::Compacted { .. } if is_continued => expired_token(),
            other => read_error(&other),
        })?
    }

    /// Reads pages until enough objects match.
    fn scan(
        &self,
        prefix: &str,
        mut after: Option<Key>,
        mut at: Option<Revision>,
        options: &ListOptions,
    ) -> Result<Result<Listed, ApiError>, ReadError> {
        let everything = options.selection.is_everything();
        let mut entries = Vec::new();
        loop {
            let wanted = match (options.limit, everything) {
                (0, true) => 0,
                (limit, true) => limit,
                (_, false) => SCAN_PAGE,
            };
            let page = self.store().list(prefix, after.as_ref(), wanted, at)?;
            at = Some(page.revision);
            let mut seen = page.entries.into_iter();
            for entry in seen.by_ref() {
                after = Some(entry.key.clone());
                if !everything {
                    match encode::decode(&entry.value) {
                        Ok(object) if options.selection.matches(&object) => {}
                        Ok(_) => continue,
                        Err(error) => return Ok(Err(error)),
                    }
                }
                entries.push(entry);
                if options.limit != 0 && entries.len() == options.limit {
                    break;
                }
            }
            let full = options.limit != 0 && entries.len() >= options.limit;
            let more = page.more || seen.next().is_some();
            if full || !more {
                let continue_token = match after {
                    Some(start) if full && more => Continue { revision: page.revision, start }.encode(),
                    _ => String::new(),
                };
                return Ok(Ok(Listed { entries, revision: page.revision, continue_token }));
            }
        }
    }

    /// Waits until the state asked for can be read here.
    pub(crate) async fn settle(&self, at: At) -> Result<(), ApiError> {
        match at {
            At::Any => Ok(()),
            At::Latest => self.barrier().await,
            At::NotOlderThan(revision) | At::Exact(revision) => {
                if self.store().revision() < revision {
                    self.barrier().await?;
                }
                let current = self.store().revision();
                if current < revision {
                    return Err(too_large(&format!("{}, current: {}", revision.0, current.0)));
                }
                Ok(())
            }
        }
    }
}

/// Where a listing goes on.
struct Continue {
    revision: Revision,
    start: Key,
}

impl Continue {
    fn encode(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision.0, "start": self.start.0});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn parse(text: &str) -> Result<Option<Self>, ApiError> {
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let parsed = token.and_then(|token| {
            let start = Key(token["start"].as_str()?.to_owned());
            Some(Self { revision: Revision(token["rv"].as_u64()?), start })
        });
        parsed.map(Some).ok_or_else(|| ApiError::bad_request("continue key is not valid: it cannot be read"))
    }
}

fn expired_token() -> ApiError {
    let message = "The provided continue parameter is too old to display a consistent list result. \
                   You can start a new list without the continue parameter.";
    ApiError::new(Reason::Expired, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_versions_pick_a_state() {
        let five = Revision(5);
        let cases = [
            (("", "", false), Some(At::Latest)),
            (("0", "", false), Some(At::Any)),
            (("0", "NotOlderThan", true), Some(At::Any)),
            (("5", "", false), Some(At::NotOlderThan(five))),
            (("5", "", true), Some(At::Exact(five))),
            (("5", "NotOlderThan", true), Some(At::NotOlderThan(five))),
            (("5", "Exact", false), Some(At::Exact(five))),
            (("0", "Exact", false), None),
            (("", "Exact", false), None),
            (("5", "Newest", false), None),
            (("five", "", false), None),
        ];
        for ((version, matching, limited), expected) in cases {
            assert_eq!(At::parse(version, matching, limited).ok(), expected, "{version} {matching} {limited}");
        }
    }

    #[test]
    fn continue_tokens_are_opaque_and_checked() {
        let token = Continue { revision: Revision(7), start: Key("/pods/a/b".to_owned()) }.encode();
        let parsed = Continue::parse(&token).unwrap().unwrap();
        assert_eq!((parsed.revision, parsed.start.0.as_str()), (Revision(7), "/pods/a/b"));
        assert!(Continue::parse("").unwrap().is_none());
        assert_eq!(Continue::parse("nonsense").err().map(|error| error.code()), Some(400));
    }
}
