//! Istio's own rules for its objects, beyond types: what its validation refuses or warns of, kind by kind. Written down from what
//! istiod does at admission. Values of the wrong type are not judged: they are no such object at all.

mod destination_rule;
mod gateway;
mod http_route;
mod peer_authentication;
mod virtual_service;
mod words;

use crate::model::json::Value;

use crate::model::fields::Fields;
use crate::model::memo::Derived;
use crate::model::object::Object;

/// How one value heals a fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Fix {
    /// The field is taken away.
    Remove,
    /// The field gets this value.
    Write(Value),
}

/// One thing that Istio says of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Whether Istio takes the object and only warns.
    pub warning: bool,
    /// The field: `spec.http[0].route[1].destination.host`.
    pub path: String,
    /// What is wrong. Two faults with the same words are one statement of istioctl's.
    pub what: String,
    /// What Istio accepts there.
    pub accepts: &'static str,
    /// What heals it, where that is plain.
    pub fix: Option<Fix>,
}

/// The kinds of which all faults are known, each with its group.
pub const KINDS: &[(&str, &str)] = &[
    ("VirtualService", "networking.istio.io"),
    ("DestinationRule", "networking.istio.io"),
    ("Gateway", "networking.istio.io"),
    ("PeerAuthentication", "security.istio.io"),
];

/// What Istio accepts for the value of a header that it adds or sets.
pub const HEADER_VALUE: &str = "percent signs doubled, or around an operator of Envoy";

/// All that Istio says of an object, in the order of its fields as it reads them; nothing of a kind that is not in [`KINDS`].
#[derive(Debug, Default)]
pub struct Faults(pub Vec<Fault>);

impl Derived<Object> for Faults {
    fn derive(object: &Object) -> Self {
        let mut out = Faults::default();
        let spec = object.body.at("spec").unwrap_or(&Value::Null);
        match object.reference.kind.as_str() {
            "VirtualService" => virtual_service::check(&mut out, object.namespace(), spec),
            "DestinationRule" => destination_rule::check(&mut out, object.namespace(), spec),
            "Gateway" => gateway::check(&mut out, object.name(), spec),
            "PeerAuthentication" => peer_authentication::check(&mut out, spec),
            _ => {}
        }
        out
    }
}

impl Faults {
    fn push(
        &mut self,
        warning: bool,
        path: impl Into<String>,
        what: impl Into<String>,
        accepts: &'static str,
    ) {
        self.0.push(Fault { warning, path: path.into(), what: what.into(), accepts, fix: None });
    }

    fn error(
        &mut self,
        path: impl Into<String>,
        what: impl Into<String>,
        accepts: &'static str,
    ) -> &mut Self {
        self.push(false, path, what, accepts);
        self
    }

    fn warn(&mut self, path: impl Into<String>, what: impl Into<String>, accepts: &'static str) -> &mut Self {
        self.push(true, path, what, accepts);
        self
    }

    /// What heals the fault that was found last.
    fn fix(&mut self, fix: Fix) {
        if let Some(last) = self.0.last_mut() {
            last.fix = Some(fix);
        }
    }

    /// An error where `what` says one.
    fn unless(&mut self, path: impl Into<String>, what: Option<String>, accepts: &'static str) {
        if let Some(what) = what {
            self.error(path, what, accepts);
        }
    }

    /// Takes the warnings away that came after the first `from` faults: Istio forgets those of nested policies.
    fn forget_warnings(&mut self, from: usize) {
        let mut at = 0;
        self.0.retain(|fault| {
            at += 1;
            at <= from || !fault.warning
        });
    }
}
