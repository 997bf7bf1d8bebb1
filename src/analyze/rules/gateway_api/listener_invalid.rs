//! GWAPI107.

use std::collections::BTreeMap;

use super::prelude::*;

crate::rule! {
    /// A listener of a Gateway or of a ListenerSet that the controller cannot serve.
    ///
    /// ## What it detects
    /// A listener for HTTPS without a `tls` section, with a certificate whose Secret does not exist, with kinds of routes that
    /// its protocol does not carry, or with the same port and hostname as one before it; a waypoint whose listener is not
    /// HBONE on port 15008; and a ListenerSet that its Gateway does not take.
    /// ## Why it matters
    /// Such a listener is not programmed: clients cannot connect to it, and its routes are not served.
    /// ## Evidence
    /// The listener's fields, and the Secret or the other listener.
    /// ## How to confirm
    /// `kubectl describe gateways.gateway.networking.k8s.io NAME` shows the listener's conditions.
    /// ## How to fix
    /// Correct the field that is named.
    /// ## False positives
    /// Secrets are only missed where some Secret was read at all.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#listener>
    ListenerInvalid {
        code: "GWAPI107", name: "listener-invalid", family: Gateway, severity: Warning,
        needs: [Objects, GatewayApi], aliases: ["IST0171"],
    }
}

/// A listener, or a set of them, that is not served.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    /// The listener's name; empty for a whole ListenerSet.
    name: String,
    why: String,
    mechanism: &'static str,
    /// Values that would be right.
    fix: Option<(String, Value)>,
}

impl Check for ListenerInvalid {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for gateway in &snapshot.gateway_api.gateways {
            if !seen::configured(gateway.object.namespace()) {
                continue;
            }
            let mut taken: BTreeMap<(i64, String), ObjectRef> = BTreeMap::new();
            check(snapshot, gateway, &gateway.object, &mut taken, &mut out);
            for set in attach::listener_sets(snapshot, gateway) {
                if let Some(why) = attach::set_refused(gateway, set) {
                    let path = "spec.parentRef".to_owned();
                    out.push(Fact {
                        object: set,
                        path,
                        name: String::new(),
                        why,
                        mechanism: "ListenerSet not allowed by its Gateway (allowedListeners)",
                        fix: None,
                    });
                } else {
                    check(snapshot, gateway, set, &mut taken, &mut out);
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let subject =
            if fact.name.is_empty() { String::new() } else { format!(" listener \"{}\"", fact.name) };
        Finding::new(Self::META, reference.field(&fact.path), &[fact.mechanism])
            .title(format!("{reference}{subject} is not served: {}", fact.why))
            .message(format!("The controller does not program{} {reference}: {}.", if subject.is_empty() { String::new() } else { format!("{subject} of") }, fact.why))
            .mechanism(fact.mechanism)
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .evidence(Evidence::object(&reference.field(&fact.path), fact.why.clone()))
            .maybe_remedy(fact.fix.as_ref().and_then(|(path, value)| {
                let op = if fact.object.body.pointer(&pointer(path)).is_some() { "replace" } else { "add" };
                let field = path.rsplit('.').next().unwrap_or(path);
                Remedy::patch(fact.object, &json!([{"op": op, "path": pointer(path), "value": value}]), format!("Set {field} to {value}"))
            }))
            .prevention(Prevention::of("Test", "In the pipeline: every listener has what its protocol needs (meshscope analyze on the manifests)"))
    }
}

/// Checks the listeners of one object, after those that stand before it.
fn check<'a>(
    snapshot: &'a Snapshot,
    gateway: &Gateway,
    object: &'a Object,
    taken: &mut BTreeMap<(i64, String), ObjectRef>,
    out: &mut Vec<Fact<'a>>,
) {
    for listener in attach::listeners(object) {
        let mut bad = |path: String, why: String, mechanism: &'static str, fix| {
            out.push(Fact { object, path, name: listener.name.clone(), why, mechanism, fix });
        };
        if gateway.class == "istio-waypoint" && (listener.protocol != "HBONE" || listener.port != 15008) {
            let path = format!("{}.protocol", listener.path);
            let why = format!(
                "a waypoint has one listener, port 15008 with protocol HBONE; this is port {} with {}",
                listener.port, listener.protocol
            );
            bad(path.clone(), why, "waypoint listener is not HBONE on 15008", Some((path, json!("HBONE"))));
            continue;
        }
        if gateway.class == "istio-east-west"
            && listener.protocol != "TLS"
            && (listener.protocol != "HBONE" || listener.port != 15008)
        {
            let why = format!(
                "an east-west gateway has listeners for HBONE on port 15008 and for TLS; this is port {} with {}",
                listener.port, listener.protocol
            );
            bad(
                format!("{}.protocol", listener.path),
                why,
                "east-west listener is neither HBONE on 15008 nor TLS",
                None,
            );
            continue;
        }
        let key = (listener.port, listener.hostname.clone());
        match taken.get(&key) {
            Some(first) if listener.protocol != "HBONE" => {
                let host = if listener.hostname.is_empty() { "any hostname" } else { &listener.hostname };
                let why = format!("port {} and {host} are taken by {}", listener.port, first);
                bad(
                    format!("{}.hostname", listener.path),
                    why,
                    "listener conflict: same port and hostname",
                    None,
                );
            }
            _ => {
                taken.insert(key, object.reference.field(&listener.path));
            }
        }
        if let Some(kind) = unfit_kind(&listener) {
            let why = format!(
                "kind {kind} in allowedRoutes.kinds is not carried by protocol {}",
                listener.protocol
            );
            bad(
                format!("{}.allowedRoutes.kinds", listener.path),
                why,
                "listener with invalid route kinds",
                None,
            );
        }
        if matches!(listener.protocol.as_str(), "HTTPS" | "TLS") && listener.body.at("tls").is_none() {
            let why = format!("protocol is {} and there is no TLS section", listener.protocol);
            bad(format!("{}.tls", listener.path), why, "listener without TLS configuration", None);
        }
        for (index, entry) in listener.body.list("tls.certificateRefs").iter().enumerate() {
            let namespace = entry.text("namespace").unwrap_or(object.namespace());
            let secret =
                entry.text("kind").unwrap_or("Secret") == "Secret" && entry.string("group").is_empty();
            let name = entry.string("name");
            if secret
                && snapshot.knows_kind("Secret")
                && snapshot.object("Secret", namespace, &name).is_none()
            {
                let why = format!("its certificate, Secret {namespace}/{name}, does not exist");
                bad(
                    format!("{}.tls.certificateRefs[{index}]", listener.path),
                    why,
                    "certificate not found: TLS Secret of a listener",
                    None,
                );
            }
        }
    }
}

/// A kind of route that a listener asks for and its protocol does not carry.
fn unfit_kind(listener: &Listener<'_>) -> Option<String> {
    let fit: &[&str] = match listener.protocol.as_str() {
        "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
        "TLS" => &["TLSRoute", "TCPRoute"],
        "TCP" => &["TCPRoute"],
        "UDP" => &["UDPRoute"],
        _ => return None,
    };
    let listed = listener.body.list("allowedRoutes.kinds").iter().map(|k| k.string("kind"));
    listed.into_iter().find(|kind| !fit.contains(&kind.as_str()))
}
