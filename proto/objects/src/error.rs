//! The one error that crosses a door: a Kubernetes `Status` in the making.

use serde_json::{Value, json};
use thiserror::Error;

/// `reason` of a Kubernetes `Status`, with its usual HTTP code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// 400.
    BadRequest,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 406.
    NotAcceptable,
    /// 409: the name is taken.
    AlreadyExists,
    /// 409: the object changed meanwhile.
    Conflict,
    /// 410: no such path any more.
    Gone,
    /// 410: the revision has left history.
    Expired,
    /// 413.
    RequestEntityTooLarge,
    /// 415.
    UnsupportedMediaType,
    /// 422.
    Invalid,
    /// 429.
    TooManyRequests,
    /// 500.
    InternalError,
    /// 503.
    ServiceUnavailable,
    /// 504.
    Timeout,
}

impl Reason {
    const ALL: [(Self, &'static str, u16); 17] = [
        (Self::BadRequest, "BadRequest", 400),
        (Self::Unauthorized, "Unauthorized", 401),
        (Self::Forbidden, "Forbidden", 403),
        (Self::NotFound, "NotFound", 404),
        (Self::MethodNotAllowed, "MethodNotAllowed", 405),
        (Self::NotAcceptable, "NotAcceptable", 406),
        (Self::AlreadyExists, "AlreadyExists", 409),
        (Self::Conflict, "Conflict", 409),
        (Self::Gone, "Gone", 410),
        (Self::Expired, "Expired", 410),
        (Self::RequestEntityTooLarge, "RequestEntityTooLarge", 413),
        (Self::UnsupportedMediaType, "UnsupportedMediaType", 415),
        (Self::Invalid, "Invalid", 422),
        (Self::TooManyRequests, "TooManyRequests", 429),
        (Self::InternalError, "InternalError", 500),
        (Self::ServiceUnavailable, "ServiceUnavailable", 503),
        (Self::Timeout, "Timeout", 504),
    ];

    /// The spelling in a `Status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("InternalError", |row| row.1)
    }

    /// The HTTP status code that goes with it.
    #[must_use]
    pub fn code(self) -> u16 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(500, |row| row.2)
    }

    /// The reason spelled `text`, if it is one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == text).map(|row| row.0)
    }
}

/// One thing that is wrong with one field: `Status.details.causes[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueDuplicate`, `FieldValueForbidden`,
    /// `FieldValueNotSupported`, `FieldValueNotFound`, `FieldValueTooLong`, `FieldValueTypeInvalid`.
    pub reason: &'static str,
    /// Path as Kubernetes writes it, e.g. `spec.containers[0].name`.
    pub field: String,
    /// What is wrong and what would be right, without the path, e.g. `Required value: must name an image`.
    pub message: String,
}

impl Cause {
    /// The field must be there.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// The value breaks a rule.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: format!("Invalid value: {value}: {detail}") }
    }

    /// The value stands elsewhere already.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate", field: field.into(), message: format!("Duplicate value: {value}") }
    }

    /// The field may not be set here.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {detail}") }
    }

    /// The value is none of those known.
    #[must_use]
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list = supported.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
        Self {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message: format!("Unsupported value: {value}: supported values: {list}"),
        }
    }

    /// The value names something that does not exist.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueNotFound", field: field.into(), message: format!("Not found: {value}") }
    }

    /// The value is longer than `max` bytes or items.
    #[must_use]
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self {
            reason: "FieldValueTooLong",
            field: field.into(),
            message: format!("Too long: may not be more than {max} bytes"),
        }
    }

    /// The JSON type is not the field's type.
    #[must_use]
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: "FieldValueTypeInvalid",
            field: field.into(),
            message: format!("Invalid value: {value}: {detail}"),
        }
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut cause = json!({"reason": self.reason, "message": self.message});
        if !self.field.is_empty() {
            cause["field"] = Value::from(self.field.as_str());
        }
        cause
    }
}

/// Which object a refusal is about: `Status.details`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object; may be empty.
    pub name: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Kubernetes puts the plural here for most errors and the kind for `Invalid`.
    pub kind: String,
    /// Per-field causes.
    pub causes: Vec<Cause>,
    /// How long a client should wait before it tries again.
    pub retry_after_seconds: Option<u32>,
}

/// A refusal as a client sees it. Everything that can go wrong at a door becomes one of these.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ApiError {
    /// Machine-readable reason; fixes the HTTP code.
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

impl ApiError {
    /// A refusal without details.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None }
    }

    /// 400 with a message.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 500 with a message; the caller logs the cause.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::InternalError, message)
    }

    fn about(reason: Reason, group: &str, kind: &str, name: &str, message: String) -> Self {
        let details =
            Details { name: name.to_owned(), group: group.to_owned(), kind: kind.to_owned(), ..Details::default() };
        Self { reason, message, details: Some(Box::new(details)) }
    }

    /// 404: `pods "x" not found`.
    #[must_use]
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, plural));
        Self::about(Reason::NotFound, group, plural, name, message)
    }

    /// 409: `pods "x" already exists`.
    #[must_use]
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, plural));
        Self::about(Reason::AlreadyExists, group, plural, name, message)
    }

    /// 409: somebody else changed the object first.
    #[must_use]
    pub fn conflict(group: &str, plural: &str, name: &str, detail: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {detail}", qualified(group, plural));
        Self::about(Reason::Conflict, group, plural, name, message)
    }

    /// 403: `pods "x" is forbidden: why`.
    #[must_use]
    pub fn forbidden(group: &str, plural: &str, name: &str, detail: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {detail}", qualified(group, plural))
        } else {
            format!("{} \"{name}\" is forbidden: {detail}", qualified(group, plural))
        };
        Self::about(Reason::Forbidden, group, plural, name, message)
    }

    /// 422: `Pod "x" is invalid: path: what`; `kind` is the kind's name, not its plural.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let lines: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let detail = if lines.len() == 1 { lines.concat() } else { format!("[{}]", lines.join(", ")) };
        let kind_text = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let message = format!("{kind_text} \"{name}\" is invalid: {detail}");
        let mut error = Self::about(Reason::Invalid, group, kind, name, message);
        if let Some(details) = error.details.as_mut() {
            details.causes = causes;
        }
        error
    }

    /// The HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    /// The Kubernetes `Status` object.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.as_str(), "code": self.code(),
        });
        if let Some(details) = &self.details {
            let mut body = serde_json::Map::new();
            for (key, value) in [("name", &details.name), ("group", &details.group), ("kind", &details.kind)] {
                if !value.is_empty() {
                    body.insert(key.to_owned(), Value::from(value.as_str()));
                }
            }
            if !details.causes.is_empty() {
                let causes = details.causes.iter();
                let causes = causes.map(Cause::to_json).collect();
                body.insert("causes".to_owned(), Value::Array(causes));
            }
            if let Some(seconds) = details.retry_after_seconds {
                body.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
            }
            status["details"] = Value::Object(body);
        }
        status
    }

    /// Reads a `Status` that a server sent; causes are left in the message.
    #[must_use]
    pub fn from_status(status: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reason = status["reason"].as_str().and_then(Reason::parse).unwrap_or(Reason::InternalError);
        let details = status.get("details").filter(|details| details.is_object()).map(|details| {
            Box::new(Details {
                name: text(&details["name"]),
                group: text(&details["group"]),
                kind: text(&details["kind"]),
                causes: Vec::new(),
                retry_after_seconds: details["retryAfterSeconds"].as_u64().and_then(|n| u32::try_from(n).ok()),
            })
        });
        Self { reason, message: text(&status["message"]), details }
    }
}

fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
