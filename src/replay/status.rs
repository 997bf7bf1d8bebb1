//! Refusals, as the Kubernetes API words them.

use crate::model::json::{Value, json};
use http::StatusCode;

use super::kinds::Kind;

/// A refusal: everything that becomes a `metav1.Status`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    pub(super) code: StatusCode,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Group, plural and name of what it is about.
    pub(super) about: Option<Box<(String, String, String)>>,
    /// Field and message of each cause.
    pub(super) causes: Vec<(String, String, String)>,
}

impl Refusal {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Refusal { code, reason, message: message.into(), about: None, causes: vec![] }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.about = Some(Box::new((kind.group.clone(), kind.plural.clone(), name.to_owned())));
        self
    }

    /// 404 of one object.
    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Refusal::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    /// 404 of a path.
    pub(super) fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Refusal::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// 404 in other words.
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// 400.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 403: what was recorded does not change.
    pub(super) fn read_only(kind: &Kind, name: &str) -> Self {
        let message = format!(
            "{} \"{name}\" is forbidden: this is a recording, and what was recorded cannot be changed; only DebugSessions, \
             and new events, leases and configmaps, can be written",
            kind.resource()
        );
        Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message).about(kind, name)
    }

    /// 403 for a request that does not come from this machine's own tools.
    pub(super) fn foreign(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// 405.
    pub(super) fn method() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// 409: it exists.
    pub(super) fn exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.resource());
        Refusal::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// 409: somebody else changed it, or owns a field.
    pub(super) fn conflict(kind: &Kind, name: &str, detail: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {detail}", kind.resource());
        Refusal::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// 409 of a server-side apply: the fields and who owns them.
    pub(super) fn owned(kind: &Kind, name: &str, owned: &[(String, String)]) -> Self {
        let list: Vec<String> =
            owned.iter().map(|(manager, field)| format!("conflict with \"{manager}\": {field}")).collect();
        let message = format!("Apply failed with {}: {}", conflicts(owned.len()), list.join(", "));
        let mut refusal = Refusal::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name);
        refusal.causes = owned
            .iter()
            .map(|(manager, field)| {
                ("FieldManagerConflict".to_owned(), field.clone(), format!("conflict with \"{manager}\""))
            })
            .collect();
        refusal
    }

    /// 410: the watch must begin anew.
    pub(super) fn expired() -> Self {
        Refusal::new(StatusCode::GONE, "Expired", "too old resource version: list again")
    }

    /// 413.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("request entity is too large: the limit is {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub(super) fn media_type(kind: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format ({kind}) - accepted media types include: application/json, \
             application/yaml, application/merge-patch+json, application/json-patch+json, application/apply-patch+yaml"
        );
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 422: field paths and what is wrong with them.
    pub(super) fn invalid(kind: &Kind, name: &str, errors: Vec<(String, String)>) -> Self {
        let mut list: Vec<String> =
            errors.iter().map(|(field, message)| format!("{field}: {message}")).collect();
        let text = if list.len() == 1 { list.swap_remove(0) } else { format!("[{}]", list.join(", ")) };
        let shown =
            if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let message = format!("{shown} \"{name}\" is invalid: {text}");
        let mut refusal =
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(kind, name);
        refusal.causes = errors
            .into_iter()
            .map(|(field, message)| ("FieldValueInvalid".to_owned(), field, message))
            .collect();
        refusal
    }

    /// 429.
    pub(super) fn too_many(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
    }

    /// The body.
    pub(super) fn body(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        let mut details = crate::model::json::Map::new();
        if let Some((group, plural, name)) = self.about.as_deref() {
            details.insert("name".to_owned(), json!(name));
            details.insert("kind".to_owned(), json!(plural));
            if !group.is_empty() {
                details.insert("group".to_owned(), json!(group));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter();
            let causes = causes.map(
                |(reason, field, message)| json!({"reason": reason, "field": field, "message": message}),
            );
            details.insert("causes".to_owned(), causes.collect());
        }
        if let (false, Some(status)) = (details.is_empty(), status.as_object_mut()) {
            status.insert("details".to_owned(), Value::Object(details));
        }
        status
    }
}

fn conflicts(count: usize) -> String {
    if count == 1 { "1 conflict".to_owned() } else { format!("{count} conflicts") }
}
