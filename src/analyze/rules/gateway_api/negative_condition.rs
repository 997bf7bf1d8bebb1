//! GWAPI105.

use super::deciding::{self, Deciding, Place};
use super::prelude::*;
use super::status;
use crate::model::objects;

crate::rule! {
    /// The controller says in an object's status that it does not accept, resolve or program it.
    ///
    /// ## What it detects
    /// A condition `Accepted`, `Programmed`, `ResolvedRefs`, `ResolvedWaypoints` or `WaypointBound` that is False, or
    /// `Conflicted`, `Detached`, `PartiallyInvalid`, `OverlappingTLSConfig` or `InsecureFrontendValidationMode` that is True,
    /// in the status of a Gateway, of one of its listeners, of a ListenerSet, a route, an InferencePool, a backend, of a
    /// policy that is attached to one of them, or of a Service that asks for a waypoint.
    /// ## Why it matters
    /// What is not programmed does not serve: listeners do not listen, routes do not route.
    /// ## Evidence
    /// The condition with its reason, its message and the time since when it holds. The finding's subject is the field of
    /// the spec that the reason is about: the backendRef, the parentRef, the hostname, the certificateRef.
    /// ## How to confirm
    /// `kubectl describe` of the object prints the conditions.
    /// ## How to fix
    /// What the reason says; the more specific rules name the field where configuration alone decides it.
    /// ## False positives
    /// Conditions that a controller has not written for the current generation, and those that only wait (`Pending`,
    /// `Waiting`), are left out.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/>
    NegativeCondition {
        code: "GWAPI105", name: "negative-condition", family: Gateway, severity: Warning,
        needs: [Objects], aliases: ["IST0171"],
    }
}

/// A bad condition.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// Where the condition stands.
    path: String,
    /// What it is about.
    deciding: Deciding,
    /// `listener "web"`, `parent public`, or empty for the object itself.
    at: String,
    condition: &'a Value,
}

/// Kinds whose status is read; to them comes whatever has ancestors in its status, as attached policies do.
const KINDS: &[&str] = &[
    "gateway.networking.k8s.io/Gateway",
    "GatewayClass",
    "ListenerSet",
    "XListenerSet",
    "XBackend",
    "InferencePool",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "Service",
    "ServiceEntry",
    "AuthorizationPolicy",
    "RequestAuthentication",
    "Telemetry",
    "WasmPlugin",
];

impl Check for NegativeCondition {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for object in &snapshot.objects {
            let listed = KINDS.contains(&&*objects::kind(&object.reference));
            let policy = || !object.body.list("status.ancestors").is_empty();
            if !(listed || policy()) || !seen::configured(object.namespace()) {
                continue;
            }
            let mut add = |path: String, place: Place<'_>, at: String, conditions: &'a [Value]| {
                for condition in conditions.iter().filter(|c| negative(object, c)) {
                    let (reason, message) = (condition.string("reason"), condition.string("message"));
                    let deciding = deciding::field(snapshot, object, place, &reason, &message);
                    out.push(Fact { object, path: path.clone(), deciding, at: at.clone(), condition });
                }
            };
            let own = object.body.list("status.conditions");
            add("status.conditions".to_owned(), Place::Object, String::new(), own);
            for (index, listener) in object.body.list("status.listeners").iter().enumerate() {
                let at = format!("listener \"{}\"", listener.string("name"));
                let path = format!("status.listeners[{index}].conditions");
                add(path, Place::Listener(listener), at, listener.list("conditions"));
            }
            for (index, parent) in object.body.list("status.parents").iter().enumerate() {
                let at = format!("parent {}", parent.string("parentRef.name"));
                let path = format!("status.parents[{index}].conditions");
                add(path, Place::Parent(parent), at, parent.list("conditions"));
            }
            for (index, ancestor) in object.body.list("status.ancestors").iter().enumerate() {
                let at = format!("ancestor {}", ancestor.string("ancestorRef.name"));
                let path = format!("status.ancestors[{index}].conditions");
                add(path, Place::Ancestor(ancestor), at, ancestor.list("conditions"));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let (kind, reason) = (fact.condition.string("type"), fact.condition.string("reason"));
        let status = fact.condition.string("status");
        let since = fact.condition.time("lastTransitionTime");
        let at = if fact.at.is_empty() { String::new() } else { format!(", {}", fact.at) };
        let is_route = Route::KINDS.contains(&reference.kind.as_str());
        let route = is_route.then(|| Route::read(fact.object.clone()));
        let look = format!(
            "kubectl {}describe {} {}",
            scope(reference),
            resource(reference),
            quote(&reference.name)
        );
        let subject = reference.field(&fact.deciding.path);
        let others = fact.deciding.related.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let beside = if others.is_empty() { String::new() } else { format!(" Beside it {others} decides.") };
        let mut finding = Finding::new(Self::META, subject, &[&fact.path, &fact.at, &kind, &reason])
            .title(format!("{reference}{at}: {kind} is {status} ({reason})"))
            .message(format!("The controller of {reference} set condition {kind} to {status}{at}, with reason {reason}. The field that decides is {}.{beside}", fact.deciding.path))
            .mechanism(format!("negative status condition {kind} {reason}"))
            .severity(Severity::Warning)
            .role(Role::Symptom, Confidence::Observed)
            .evidence(
                Evidence::object(&reference.field(&fact.path), format!("{kind}={status}, reason {reason}"))
                    .at(since)
                    .excerpt(fact.condition.text("message").unwrap_or_default()),
            )
            .onset(since)
            .remedy(Remedy::commands("Read the condition's message, and correct what it names", vec![look], vec![]))
            .prevention(Prevention::alert(
                "Alert on objects of the Gateway API that are not accepted or programmed",
                "gatewayapi_gateway_status{type=~\"Accepted|Programmed\"} == 0 or gatewayapi_httproute_status_parent_info == 0",
            ));
        finding.related.extend(fact.deciding.related.iter().filter(|r| !r.name.is_empty()).cloned());
        if let Some(route) = &route {
            finding = finding.service(attach::service(snapshot, route)).effects(attach::effects(
                snapshot,
                route,
                &["NR", "404", "NC", "5xx", "direct_response"],
            ));
        }
        finding
    }
}

/// Whether a condition says that something is wrong, and says it of the object as it is now.
fn negative(object: &Object, condition: &Value) -> bool {
    let kind = condition.text("type").unwrap_or_default();
    let bad = match condition.text("status") {
        Some("False") => matches!(
            kind,
            "Accepted"
                | "Programmed"
                | "ResolvedRefs"
                | "ResolvedWaypoints"
                | "WaypointAccepted"
                | "istio.io/WaypointBound"
        ),
        Some("True") => matches!(
            kind,
            "Conflicted"
                | "Detached"
                | "OverlappingTLSConfig"
                | "PartiallyInvalid"
                | "InsecureFrontendValidationMode"
        ),
        _ => false,
    };
    let waits = matches!(condition.text("reason"), Some("Pending" | "Waiting" | "NotReconciled"));
    bad && !waits && status::current(object, condition)
}
