//! Istio's own rules for its objects, beyond types: what its validation refuses or warns of, kind by kind. Written down from what
//! istiod does at admission. Values of the wrong type are not judged: they are no such object at all.

mod attachment;
mod authorization_policy;
mod destination_rule;
mod envoy_filter;
mod gateway;
mod http_route;
mod peer_authentication;
mod proxy_config;
mod request_authentication;
mod service_entry;
mod sidecar;
mod telemetry;
mod url;
mod virtual_service;
mod wasm_plugin;
mod words;
mod workload;

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
    /// Who tells it.
    pub by: By,
}

/// Who tells a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Istioctl and Meshscope.
    Both,
    /// Istioctl alone: it tells nothing of the object.
    Istioctl,
    /// Not istioctl, which does not hand labels to the validation within its analysis.
    Meshscope,
}

/// The kinds of which all faults are known, each with its group; of EnvoyFilters those outside of what they write.
pub const KINDS: &[(&str, &str)] = &[
    ("VirtualService", "networking.istio.io"),
    ("DestinationRule", "networking.istio.io"),
    ("Gateway", "networking.istio.io"),
    ("ServiceEntry", "networking.istio.io"),
    ("Sidecar", "networking.istio.io"),
    ("WorkloadEntry", "networking.istio.io"),
    ("WorkloadGroup", "networking.istio.io"),
    ("ProxyConfig", "networking.istio.io"),
    ("EnvoyFilter", "networking.istio.io"),
    ("PeerAuthentication", "security.istio.io"),
    ("RequestAuthentication", "security.istio.io"),
    ("AuthorizationPolicy", "security.istio.io"),
    ("Telemetry", "telemetry.istio.io"),
    ("WasmPlugin", "extensions.istio.io"),
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
            "ServiceEntry" => service_entry::check(&mut out, object, spec),
            "Sidecar" => sidecar::check(&mut out, object.namespace(), spec),
            "WorkloadEntry" => workload::entry(&mut out, spec, "spec", None),
            "WorkloadGroup" => workload::group(&mut out, spec),
            "EnvoyFilter" => envoy_filter::check(&mut out, spec),
            "ProxyConfig" => proxy_config::check(&mut out, spec),
            "PeerAuthentication" => peer_authentication::check(&mut out, spec),
            "RequestAuthentication" => request_authentication::check(&mut out, spec),
            "AuthorizationPolicy" => authorization_policy::check(&mut out, spec),
            "Telemetry" => telemetry::check(&mut out, spec),
            "WasmPlugin" => wasm_plugin::check(&mut out, spec),
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
        self.0.push(Fault {
            warning,
            path: path.into(),
            what: what.into(),
            accepts,
            fix: None,
            by: By::Both,
        });
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

    /// Who tells the fault that was found last.
    fn by(&mut self, by: By) {
        if let Some(last) = self.0.last_mut() {
            last.by = by;
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
