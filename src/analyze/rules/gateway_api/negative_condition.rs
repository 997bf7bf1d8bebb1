//! GWAPI105.

use super::prelude::*;

crate::rule! {
    /// The controller says in an object's status that it does not accept, resolve or program it.
    ///
    /// ## What it detects
    /// A condition `Accepted`, `Programmed` or `ResolvedRefs` that is False, or `Conflicted`, `Detached` or
    /// `OverlappingTLSConfig` that is True, in the status of a Gateway, of one of its listeners, of a route or of a policy of
    /// the Gateway API.
    /// ## Why it matters
    /// What is not programmed does not serve: listeners do not listen, routes do not route.
    /// ## Evidence
    /// The condition with its reason, its message and the time since when it holds.
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
        needs: [Objects, GatewayApi], aliases: ["IST0171"],
    }
}

/// A bad condition.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    /// `listener "web"`, `parent public`, or empty for the object itself.
    at: String,
    condition: &'a Value,
}

/// Kinds whose status is read, besides routes.
const KINDS: &[&str] = &[
    "gateway.networking.k8s.io/Gateway",
    "GatewayClass",
    "ListenerSet",
    "XListenerSet",
    "BackendTLSPolicy",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
];

impl Check for NegativeCondition {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for object in KINDS.iter().flat_map(|kind| snapshot.objects_of(kind)) {
            if !seen::configured(object.namespace()) {
                continue;
            }
            let mut add = |path: String, at: String, conditions: &'a [Value]| {
                for condition in conditions.iter().filter(|c| negative(object, c)) {
                    out.push(Fact { object, path: path.clone(), at: at.clone(), condition });
                }
            };
            add("status.conditions".to_owned(), String::new(), object.body.list("status.conditions"));
            for (index, listener) in object.body.list("status.listeners").iter().enumerate() {
                let at = format!("listener \"{}\"", listener.string("name"));
                add(format!("status.listeners[{index}].conditions"), at, listener.list("conditions"));
            }
            for (list, name) in [("status.parents", "parentRef"), ("status.ancestors", "ancestorRef")] {
                for (index, parent) in object.body.list(list).iter().enumerate() {
                    let at = format!("parent {}", parent.string(&format!("{name}.name")));
                    add(format!("{list}[{index}].conditions"), at, parent.list("conditions"));
                }
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
        let route = snapshot.gateway_api.routes.iter().find(|r| r.reference().same_object(reference));
        let look = format!(
            "kubectl {}describe {} {}",
            scope(reference),
            resource(reference),
            quote(&reference.name)
        );
        let mut finding = Finding::new(Self::META, reference.field(&fact.path), &[&fact.at, &kind, &reason])
            .title(format!("{reference}{at}: {kind} is {status} ({reason})"))
            .message(format!("The controller of {reference} set condition {kind} to {status}{at}, with reason {reason}."))
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
        if let Some(route) = route {
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
    let bad = matches!(
        (condition.text("type"), condition.text("status")),
        (Some("Accepted" | "Programmed" | "ResolvedRefs"), Some("False"))
            | (Some("Conflicted" | "Detached" | "OverlappingTLSConfig" | "PartiallyInvalid"), Some("True"))
    );
    let waits = matches!(condition.text("reason"), Some("Pending" | "Waiting" | "NotReconciled"));
    let stale = match (condition.int("observedGeneration"), object.generation) {
        (Some(seen), Some(now)) => seen < now,
        _ => false,
    };
    bad && !waits && !stale
}
