//! Field paths and the list of everything that is wrong.

use crate::{Cause, names::Spelling};
use serde_json::Value;

/// More is of no use to a reader, and a hostile object must not buy a message many times its size.
const MAX_CAUSES: usize = 100;

/// Path of a field as Kubernetes writes it: `spec.containers[0].name`.
#[derive(Debug, Clone)]
pub(super) struct Path(String);

impl Path {
    /// A field of the object itself.
    pub(super) fn new(field: &str) -> Self {
        Self(field.to_owned())
    }

    pub(super) fn child(&self, field: &str) -> Self {
        Self(format!("{}.{field}", self.0))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of a map.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// Everything that is wrong with an object, at most [`MAX_CAUSES`] of it.
#[derive(Debug, Default)]
pub(super) struct Causes(Vec<Cause>);

impl Causes {
    /// Whether further causes would be dropped: loops over lists stop here.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_CAUSES
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_vec(self) -> Vec<Cause> {
        self.0
    }

    fn push(&mut self, cause: Cause) {
        if !self.is_full() {
            self.0.push(cause);
        }
    }

    pub(super) fn required(&mut self, path: &Path, detail: &str) {
        self.push(Cause::required(path.text(), detail));
    }

    pub(super) fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: &str) {
        self.push(Cause::invalid(path.text(), &value.into(), detail));
    }

    pub(super) fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.push(Cause::duplicate(path.text(), &value.into()));
    }

    pub(super) fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(Cause::forbidden(path.text(), detail));
    }

    pub(super) fn not_supported(&mut self, path: &Path, value: impl Into<Value>, supported: &[&str]) {
        self.push(Cause::not_supported(path.text(), &value.into(), supported));
    }

    pub(super) fn not_found(&mut self, path: &Path, value: impl Into<Value>) {
        self.push(Cause::not_found(path.text(), &value.into()));
    }

    pub(super) fn too_long(&mut self, path: &Path, max: usize) {
        self.push(Cause::too_long(path.text(), max));
    }

    pub(super) fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        self.push(Cause {
            reason: "FieldValueTooMany",
            field: path.text().to_owned(),
            message: format!("Too many: {actual}: must have at most {max} items"),
        });
    }

    /// Everything that is wrong with how `text` is spelled.
    pub(super) fn spelled(&mut self, path: &Path, text: &str, spelling: Spelling) {
        for problem in spelling.problems(text) {
            self.invalid(path, text, &problem);
        }
    }

    /// As [`Self::spelled`], for text that must be there.
    pub(super) fn required_spelled(&mut self, path: &Path, text: &str, spelling: Spelling) {
        if text.is_empty() {
            self.required(path, "");
        } else {
            self.spelled(path, text, spelling);
        }
    }

    /// The text must be there and one of `supported`.
    pub(super) fn one_of(&mut self, path: &Path, text: &str, supported: &[&str]) {
        if text.is_empty() {
            self.required(path, "");
        } else if !supported.contains(&text) {
            self.not_supported(path, text, supported);
        }
    }

    pub(super) fn in_range(&mut self, path: &Path, number: i64, low: i64, high: i64) {
        if !(low..=high).contains(&number) {
            self.invalid(path, number, &format!("must be between {low} and {high}, inclusive"));
        }
    }

    pub(super) fn not_negative(&mut self, path: &Path, number: Option<i64>) {
        if let Some(number) = number.filter(|number| *number < 0) {
            self.invalid(path, number, "must be greater than or equal to 0");
        }
    }

    /// Keys and values of a label map.
    pub(super) fn labels(&mut self, path: &Path, labels: &Value) {
        for (key, value) in labels.as_object().into_iter().flatten() {
            if self.is_full() {
                return;
            }
            self.spelled(path, key, Spelling::QualifiedName);
            self.spelled(path, value.as_str().unwrap_or_default(), Spelling::LabelValue);
        }
    }

    /// The field keeps its value for ever.
    pub(super) fn immutable(&mut self, path: &Path, new: &Value, old: &Value) {
        if !super::access::same(new, old) {
            self.invalid(path, new.clone(), "field is immutable");
        }
    }
}
