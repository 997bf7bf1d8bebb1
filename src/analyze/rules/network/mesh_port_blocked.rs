//! NET102.

use super::mesh_needs::{self, Fact, Need};
use super::policy;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::twin::policy::network::Direction;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Network policies open the application's ports and forget those of the mesh.
    ///
    /// ## What it detects
    /// NetworkPolicies, AdminNetworkPolicies and the BaselineAdminNetworkPolicy that keep closed what the mesh itself needs:
    /// calls between pods in ambient mode or with Linkerd's proxy (15008 or 4143) whose application's port is open; proxies'
    /// way to the control plane (15012), at either end; the API server's way to Istio's webhooks (15017); health checks of a
    /// gateway that takes traffic from outside (15021); Prometheus' way to proxies' metrics (15090, and 15020 as well).
    /// ## Why it matters
    /// Between pods of such a mesh every call arrives on the mesh's port: all of them time out. A proxy that is cut off from
    /// its control plane never becomes ready; without webhooks no proxy is injected; without health checks a load balancer
    /// sends nothing; without metrics nobody sees any of it.
    /// ## Evidence
    /// The policies that apply to the pods, evaluated for both ports; what ztunnel or the proxies log.
    /// ## How to confirm
    /// ztunnel names it: `maybe a NetworkPolicy is blocking HBONE port 15008`.
    /// ## How to fix
    /// Add the mesh's port to the rule that lets the callers in.
    /// ## False positives
    /// Network plug-ins that do not enforce NetworkPolicies; there nothing fails, and the finding stays a warning. Look-ups of
    /// names (port 53) are NET101's.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/networkpolicy/>
    /// <https://istio.io/latest/docs/ops/deployment/application-requirements/#ports-used-by-istio>
    MeshPortBlocked {
        code: "NET102", name: "mesh-port-blocked", family: Network, severity: Warning,
        needs: [Objects], aliases: [],
    }
}

impl Check for MeshPortBlocked {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if policy::any(snapshot) { mesh_needs::blocked(snapshot) } else { vec![] }
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let first = fact.policies.first();
        let subject = first.map_or(own.clone(), |policy| policy.reference.clone());
        let names: Vec<String> =
            fact.policies.iter().take(3).map(|p| p.object.reference.to_string()).collect();
        let (title, message) = words(fact, &names.join(", "));
        let mut finding = Finding::new(Self::META, subject.clone(), &[&own.name, &fact.port.to_string()])
            .title(title)
            .message(message)
            .mechanism(format!("NetworkPolicy blocks the mesh's port {}", fact.port))
            .severity(if fact.said.is_some() { Severity::Error } else { Severity::Warning })
            .role(
                Role::Cause,
                match (&fact.said, snapshot.runs()) {
                    (Some(_), _) => Confidence::Observed,
                    (None, false) => Confidence::Configured,
                    // It runs, and nobody complains: perhaps nothing enforces the policies.
                    (None, true) => Confidence::Possible,
                },
            )
            .service(fact.services.first().cloned())
            .evidences(fact.policies.iter().take(3).map(|policy| {
                let said = if policy.denies() { "denies port" } else { "no rule for port" };
                Evidence::object(&policy.reference, format!("{said} {}", fact.port))
            }))
            .evidences(fact.said.iter().map(|(place, line)| {
                Evidence::new("Log", place.clone(), "the connection is not answered").excerpt(line)
            }));
        finding = match fact.need {
            Need::Calls | Need::GatewayHealth => finding.effects(
                fact.services.iter().map(|service| Effect::requests(service, &["UF", "timeout", "reset"])),
            ),
            Need::ControlPlane => finding.effect(Effect::pods(own)).effect(Effect::calls(own)),
            Need::Webhooks | Need::Metrics => finding,
        };
        for policy in fact.policies.iter().skip(1).take(3) {
            finding = finding.related(policy.object.reference.clone());
        }
        if let Some(policy) = first {
            let anything = Labels::new();
            // Into the mesh's own port anybody may: who calls there shows a certificate.
            let peer = match (fact.need, policy.direction) {
                (Need::Calls, Direction::Ingress) => None,
                _ => fact.other_namespace.as_deref().map(|namespace| (namespace, &anything)),
            };
            let summary = format!("Add port {} to {}", fact.port, policy.list());
            finding = finding.maybe_remedy(policy.open(peer, &[(fact.port, "TCP")], summary));
        }
        finding
            .prevention(Prevention::alert(
                "Alert on connections of the mesh that fail",
                "sum by (destination_workload) (rate(istio_tcp_connections_failed_total[5m])) > 0",
            ))
            .prevention(Prevention::of(
                "Policy",
                format!("A namespace-wide NetworkPolicy that opens port {} for pods of the mesh", fact.port),
            ))
    }
}

/// Title and message.
fn words(fact: &Fact<'_>, names: &str) -> (String, String) {
    let (own, port, other) = (fact.workload.reference(), fact.port, &fact.other);
    let policy = fact.policies.first().map(|policy| policy.object.reference.to_string()).unwrap_or_default();
    match fact.need {
        Need::Calls => (
            format!("{policy} keeps port {port} of {own} closed, on which the mesh calls"),
            format!(
                "{names} let {own} and {other} connect on the port of the application and not on {port}. Both are in the mesh, whose proxies carry each call to port {port}: it times out."
            ),
        ),
        Need::ControlPlane => (
            format!("{policy} keeps the proxy of {own} from its control plane (port {port})"),
            format!(
                "{names} do not let the proxy of {own} connect to the control plane on port {port}, where it gets its configuration and certificates (the other end: {other})."
            ),
        ),
        Need::Webhooks => (
            format!("{policy} keeps the API server from Istio's webhooks (port {port} of {own})"),
            format!(
                "{names} let pods in to {own} and nobody outside the cluster's pods. {other} calls from its node's address to port {port}: injection and validation time out."
            ),
        ),
        Need::GatewayHealth => (
            format!("{policy} keeps health checks from gateway {own} (port {port})"),
            format!(
                "{names} let traffic from outside in to {own} and not on port {port}, where a load balancer asks whether it is ready."
            ),
        ),
        Need::Metrics => (
            format!("{policy} keeps Prometheus from the metrics of {own}'s proxy (port {port})"),
            format!(
                "{names} do not let Prometheus connect to {own} on port {port}, nor on 15020: no metrics of its proxy are seen (the other end: {other})."
            ),
        ),
    }
}
