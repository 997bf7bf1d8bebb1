//! What every rule of this family needs at hand.

pub(super) use crate::model::json::{Value, json};

pub(super) use super::attach::{self, Attachment, Listener, Tried};
pub(super) use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
pub(super) use crate::analyze::remedy::{Prevention, Remedy, pointer, quote, resource, scope};
pub(super) use crate::analyze::rule::{Check, Declared};
pub(super) use crate::analyze::rules::near::{applied, nearest};
pub(super) use crate::analyze::rules::seen::{self, Seen};
pub(super) use crate::model::fields::Fields;
pub(super) use crate::model::mesh::gateway_api::{Gateway, Reference, Route};
pub(super) use crate::model::network::{Service, ServiceName};
pub(super) use crate::model::object::{Object, ObjectRef};
pub(super) use crate::model::snapshot::Snapshot;
