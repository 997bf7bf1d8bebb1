//! GWAPI107.

use super::prelude::*;
use super::{conflicts, listener_checks, listener_sets};

crate::rule! {
    /// A listener of a Gateway or of a ListenerSet that the controller cannot serve.
    ///
    /// ## What it detects
    /// A listener with a protocol that the controller does not serve; one for HTTPS or TLS without a `tls` section, without a
    /// certificate, or with one that does not exist, is no Secret or lacks its keys; one that passes TLS through where its
    /// protocol ends it; kinds of routes that its protocol does not carry; two listeners with the same port and hostname, or
    /// on one port with protocols that cannot share it; a waypoint whose listener is not HBONE on port 15008, an east-west
    /// gateway whose listener does not end that connection; and a ListenerSet that its Gateway does not take, or whose
    /// Gateway does not exist.
    /// ## Why it matters
    /// Such a listener is not programmed: clients cannot connect to it, and its routes are not served.
    /// ## Evidence
    /// The listener's fields, and the Secret or the other listener. The reason is the one that the API has for the condition
    /// (`InvalidCertificateRef`, `HostnameConflict`, `ProtocolConflict`, `InvalidRouteKinds`, `UnsupportedProtocol`, …).
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
    /// The API's word for it.
    reason: &'static str,
    why: String,
    mechanism: &'static str,
    /// Values that would be right.
    fix: Option<(String, Value)>,
    related: Option<ObjectRef>,
}

impl Check for ListenerInvalid {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        let all = snapshot.gateway_api.gateways.iter();
        for gateway in all.filter(|g| seen::configured(g.object.namespace())) {
            let mut parts = vec![&*gateway.object];
            for set in listener_sets::of(snapshot, gateway) {
                match listener_sets::refused(snapshot, gateway, set) {
                    Some(why) => out.push(refused(set, why, "NotAllowed", Some(&gateway.object))),
                    None => parts.push(set),
                }
            }
            for object in &parts {
                for listener in attach::listeners(object) {
                    let problems = listener_checks::check(snapshot, gateway, &listener).into_iter();
                    out.extend(problems.map(|p| Fact {
                        object,
                        path: p.path,
                        name: listener.name.clone(),
                        reason: p.reason,
                        why: p.why,
                        mechanism: p.mechanism,
                        fix: p.fix,
                        related: None,
                    }));
                }
            }
            // Listeners of the mesh's own gateways share their port with nothing.
            if !matches!(gateway.class.as_str(), "istio-waypoint" | "istio-east-west") {
                out.extend(conflicts::between(&parts).into_iter().map(conflict));
            }
        }
        for set in listener_sets::KINDS.iter().flat_map(|kind| snapshot.objects_of(kind)) {
            let (namespace, name) = listener_sets::parent_name(set);
            let known = namespace == set.namespace() || attach::knows_namespace(snapshot, &namespace);
            let kind = set.body.text("spec.parentRef.kind").unwrap_or("Gateway");
            if kind == "Gateway" && known && attach::gateway(snapshot, &namespace, &name).is_none() {
                let why = format!("its Gateway {namespace}/{name} does not exist");
                out.push(refused(set, why, "ParentNotAccepted", None));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let subject =
            if fact.name.is_empty() { String::new() } else { format!(" listener \"{}\"", fact.name) };
        let of = if subject.is_empty() { String::new() } else { format!("{subject} of") };
        let mut finding = Finding::new(Self::META, reference.field(&fact.path), &[fact.mechanism])
            .title(format!("{reference}{subject} is not served: {}", fact.why))
            .message(format!("The controller does not program{of} {reference} ({}): {}.", fact.reason, fact.why))
            .mechanism(fact.mechanism)
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .evidence(Evidence::object(&reference.field(&fact.path), format!("{}: {}", fact.reason, fact.why)))
            .maybe_remedy(fact.fix.as_ref().and_then(|(path, value)| {
                let field = path.rsplit('.').next().unwrap_or(path);
                super::fault::set(fact.object, path, value.clone(), format!("Set {field} to {value}"))
            }))
            .prevention(Prevention::of("Test", "In the pipeline: every listener has what its protocol needs (meshscope analyze on the manifests)"));
        finding.related.extend(fact.related.clone());
        finding
    }
}

/// A ListenerSet that serves nothing at all.
fn refused<'a>(set: &'a Object, why: String, reason: &'static str, gateway: Option<&Object>) -> Fact<'a> {
    let mechanism = match gateway {
        Some(_) => "ListenerSet not allowed by its Gateway (allowedListeners)",
        None => "ListenerSet without its Gateway (parentRef)",
    };
    let related = gateway.map(|g| g.reference.field("spec.allowedListeners"));
    let path = "spec.parentRef".to_owned();
    Fact { object: set, path, name: String::new(), reason, why, mechanism, fix: None, related }
}

/// A listener in another one's way.
fn conflict(conflict: conflicts::Conflict<'_>) -> Fact<'_> {
    let (listener, other) = (conflict.listener, conflict.other);
    let taken = other.owner.reference.field(&other.path);
    let host = if listener.hostname.is_empty() { "any hostname" } else { listener.hostname.as_str() };
    let (field, why, mechanism) = if conflict.reason == "HostnameConflict" {
        let why =
            format!("port {} and {host} are taken by listener \"{}\" of {taken}", listener.port, other.name);
        ("hostname", why, "listener conflict: same port and hostname")
    } else {
        let why = format!(
            "port {} carries {} for listener \"{}\" of {taken}, and not {} as well",
            listener.port, other.protocol, other.name, listener.protocol
        );
        ("protocol", why, "listener conflict: protocols that cannot share a port")
    };
    Fact {
        object: listener.owner,
        path: format!("{}.{field}", listener.path),
        name: listener.name,
        reason: conflict.reason,
        why,
        mechanism,
        fix: None,
        related: Some(taken),
    }
}
