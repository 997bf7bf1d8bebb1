//! Certificates of authorities that objects of the Gateway API refer to, and whether they can be used.

use super::grants;
use super::prelude::*;
use crate::analyze::rules::istio::hosts::unread;
use crate::model::json::Text;

/// One reference to a certificate, or the list of them that an object validates with.
#[derive(Debug)]
pub struct Trust<'a> {
    /// The object it stands in.
    pub object: &'a Object,
    /// Where the list stands: `spec.validation.caCertificateRefs`.
    pub path: String,
    /// The references.
    pub refs: &'a [Value],
    /// Whether another namespace can be named, given a ReferenceGrant.
    pub across: bool,
    /// Listeners that validate with it, where it is a Gateway's.
    pub listeners: Vec<String>,
}

/// Every list of authorities in objects that are looked at.
pub fn all(snapshot: &Snapshot) -> Vec<Trust<'_>> {
    let mut out = vec![];
    let mut plain = |object, path: &str, refs, across, listeners| {
        out.push(Trust { object, path: path.to_owned(), refs, across, listeners });
    };
    for kind in ["BackendTLSPolicy", "XBackend"] {
        let place = if kind == "XBackend" { "spec.tls.validation" } else { "spec.validation" };
        for object in snapshot.objects_of(kind).filter(|o| seen::configured(o.namespace())) {
            let path = format!("{place}.caCertificateRefs");
            plain(object, &path, object.body.list(&path), false, vec![]);
        }
    }
    for gateway in snapshot.gateway_api.gateways.iter().filter(|g| seen::configured(g.object.namespace())) {
        let object = &gateway.object;
        let ports = object.body.list("spec.tls.frontend.perPort");
        let own = |port: i64| ports.iter().any(|entry| entry.int("port") == Some(port));
        let secure = |wanted: &dyn Fn(i64) -> bool| -> Vec<String> {
            let listeners = gateway.listeners.iter();
            listeners.filter(|l| l.protocol == "HTTPS" && wanted(l.port)).map(|l| l.name.clone()).collect()
        };
        let path = "spec.tls.frontend.default.validation.caCertificateRefs";
        plain(object, path, object.body.list(path), true, secure(&|port| !own(port)));
        for (index, entry) in ports.iter().enumerate() {
            let path = format!("spec.tls.frontend.perPort[{index}].tls.validation.caCertificateRefs");
            let refs = entry.list("tls.validation.caCertificateRefs");
            plain(object, &path, refs, true, secure(&|port| entry.int("port") == Some(port)));
        }
        for (index, listener) in object.body.list("spec.listeners").iter().enumerate() {
            let path = format!("spec.listeners[{index}].tls.frontendValidation.caCertificateRefs");
            let refs = listener.list("tls.frontendValidation.caCertificateRefs");
            plain(object, &path, refs, true, vec![listener.string("name")]);
        }
    }
    out.retain(|trust| !trust.refs.is_empty() && (!trust.across || !trust.listeners.is_empty()));
    out
}

/// Why a reference to a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// The API's reason.
    pub reason: &'static str,
    /// Why, with names.
    pub why: String,
    /// The field of the reference that decides.
    pub field: &'static str,
    /// The object that is referred to.
    pub to: ObjectRef,
}

/// The keys under which an authority's certificate is looked for.
const KEYS: &[&str] = &["ca.crt", "cacert"];

/// Looks at one reference of an object to an authority's certificate.
pub fn look(snapshot: &Snapshot, trust: &Trust<'_>, entry: &Value) -> Option<Bad> {
    let own = trust.object.namespace();
    let namespace = entry.text("namespace").filter(|_| trust.across).unwrap_or(own);
    let kind = entry.text("kind").unwrap_or("ConfigMap");
    let group = entry.text("group").filter(|group| *group != "core").unwrap_or_default();
    let to = ObjectRef::new(kind, namespace, entry.string("name"));
    let bad = |reason, field, why| Some(Bad { reason, why, field, to: to.clone() });
    // The API leaves Secrets to the implementation, and Istio takes none towards backends.
    let no_secret =
        kind == "Secret" && trust.object.reference.kind == "BackendTLSPolicy" && snapshot.istio.present;
    if !group.is_empty() || !matches!(kind, "ConfigMap" | "Secret") || no_secret {
        let reason = if trust.across { "InvalidCACertificateKind" } else { "InvalidKind" };
        let of = if group.is_empty() { String::new() } else { format!(" of group {group}") };
        return bad(
            reason,
            "kind",
            format!(
                "{kind}{of} {} is of a kind that holds no certificate of an authority; ConfigMap does",
                to.name
            ),
        );
    }
    if !grants::unread(snapshot) && !grants::granted(snapshot, &trust.object.reference, group, &to) {
        return bad(
            "RefNotPermitted",
            "namespace",
            format!("{to} is in another namespace, and no ReferenceGrant there admits it"),
        );
    }
    let Some(object) = snapshot.object(kind, namespace, &to.name) else {
        let resource = if kind == "Secret" { "secrets" } else { "configmaps" };
        // Secrets are never read from a cluster; a namespace that was not read says nothing.
        let read = snapshot.knows_kind(kind) || (kind == "ConfigMap" && !snapshot.runs());
        let known = read && !unread(snapshot, resource) && attach::knows_namespace(snapshot, namespace);
        return if known || (read && namespace == own && !unread(snapshot, resource)) {
            bad("InvalidCACertificateRef", "name", format!("{to} does not exist"))
        } else {
            None
        };
    };
    let held = ["data", "binaryData", "stringData"].iter().filter_map(|part| object.body.map(part));
    let keys: Vec<&Text> = held.flat_map(|map| map.keys()).collect();
    // An object without any data was read without it.
    if keys.is_empty() && kind == "Secret" {
        return None;
    }
    let values =
        ["data", "binaryData", "stringData"].iter().filter_map(|part| object.body.map(part)).flatten();
    let mut found = values.filter(|(key, _)| KEYS.contains(&key.as_str())).peekable();
    if let Some((key, _)) = found.peek().copied() {
        // Values that a cluster holds are not read from it.
        let empty = !snapshot.runs()
            && found.all(|(_, value)| value.as_str().is_some_and(|text| text.trim().is_empty()));
        let why = format!("{to} has {key}, and it is empty");
        return if empty { bad("InvalidCACertificateRef", "name", why) } else { None };
    }
    let there = if keys.is_empty() {
        "it is empty".to_owned()
    } else {
        format!("its keys are {}", keys.iter().map(|k| k.as_str()).take(8).collect::<Vec<_>>().join(", "))
    };
    bad("InvalidCACertificateRef", "name", format!("{to} has no key ca.crt; {there}"))
}
