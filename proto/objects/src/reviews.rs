//! Questions about the asker: who one is, what one may do. They are posted and answered, never stored. Discovery lists
//! them; the catalogue of what is stored does not know them.

use crate::{Kind, kind::Verb};

const fn kind(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind { singular, verbs: &[Verb::Create], ..Kind::unstored(group, VERSION, kind, plural) }
}

/// The version of all of them.
pub const VERSION: &str = "v1";

static SELF: Kind = kind("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview");
static ACCESS: Kind =
    kind("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview");
static RULES: Kind =
    kind("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview");

/// Who am I?
#[must_use]
pub fn of_self() -> &'static Kind {
    &SELF
}

/// May I do this?
#[must_use]
pub fn access() -> &'static Kind {
    &ACCESS
}

/// What may I do?
#[must_use]
pub fn rules() -> &'static Kind {
    &RULES
}

/// All of them, in the order that discovery lists them.
#[must_use]
pub fn all() -> [&'static Kind; 3] {
    [&SELF, &ACCESS, &RULES]
}

/// The kind at `/apis/GROUP/VERSION/PLURAL`.
#[must_use]
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().into_iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}
