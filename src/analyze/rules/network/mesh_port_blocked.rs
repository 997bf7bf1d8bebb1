//! NET102.

use std::collections::BTreeMap;

use super::policy::{Direction, End, Port, blocking};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::network::{NetworkPolicy, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, Workload};
use serde_json::json;

crate::rule! {
    /// NetworkPolicies open the application's ports and forget those of the mesh.
    ///
    /// ## What it detects
    /// Pods in ambient mode or with Linkerd's proxy that are isolated by NetworkPolicies which let their callers in on the
    /// application's port and not on the mesh's (15008 or 4143), and pods with Istio's proxy whose policies do not let it out
    /// to the control plane (15012).
    /// ## Why it matters
    /// Between pods of such a mesh every call arrives on the mesh's port: all of them time out. A proxy that is cut off from
    /// its control plane never becomes ready.
    /// ## Evidence
    /// The policies that isolate the pods, evaluated for both ports; what ztunnel or the proxies log.
    /// ## How to confirm
    /// ztunnel names it: `maybe a NetworkPolicy is blocking HBONE port 15008`.
    /// ## How to fix
    /// Add the mesh's port to the rule that lets the callers in.
    /// ## False positives
    /// Network plug-ins that do not enforce NetworkPolicies; there nothing fails, and the finding stays a warning.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/networkpolicy/>
    MeshPortBlocked {
        code: "NET102", name: "mesh-port-blocked", family: Network, severity: Warning,
        needs: [Objects], aliases: [],
    }
}

/// Ztunnel's port for calls between pods.
const HBONE: i64 = 15008;
/// The inbound port of Linkerd's proxy.
const LINKERD_INBOUND: i64 = 4143;
/// The port of Istio's control plane.
const XDS: i64 = 15012;

/// A mesh's port that policies keep closed.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    /// Who is kept out, or where it cannot get to.
    other: ObjectRef,
    policies: Vec<&'a NetworkPolicy>,
    direction: Direction,
    port: i64,
    /// A line that says so.
    said: Option<(String, String)>,
    services: Vec<ServiceName>,
}

impl Check for MeshPortBlocked {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if snapshot.network_policies.is_empty() {
            return vec![];
        }
        let mut out: BTreeMap<(ObjectRef, i64), Fact<'a>> = BTreeMap::new();
        for (service, workloads) in &snapshot.graph.backing {
            let Some(known) = snapshot.service(service).filter(|s| snapshot.in_scope(s.object.namespace()))
            else {
                continue;
            };
            for callee in workloads.iter().filter_map(|r| snapshot.workload(r)) {
                let Some(port) = mesh_port(snapshot, callee) else { continue };
                let callers = snapshot
                    .graph
                    .edges
                    .keys()
                    .filter(|(_, callee)| callee == service)
                    .map(|(caller, _)| caller);
                for caller in callers
                    .filter_map(|r| snapshot.workload(r))
                    .filter(|w| mesh_port(snapshot, w) == Some(port))
                {
                    let blocked = |number: i64| {
                        let port = Port { number, transport: "TCP", callee: Some(&callee.template) };
                        blocking(snapshot, Direction::Ingress, end(callee), end(caller), port)
                    };
                    let policies = blocked(port);
                    let pod = snapshot.pods_behind(known).next();
                    let own = known.ports.iter().filter_map(|p| pod.and_then(|pod| known.pod_port(p, pod)));
                    // Where the application's own port is closed too, the call was never meant to pass.
                    if policies.is_empty() || !own.into_iter().any(|number| blocked(number).is_empty()) {
                        continue;
                    }
                    let key = (callee.reference().clone(), port);
                    out.entry(key).or_insert_with(|| Fact {
                        workload: callee,
                        other: caller.reference().clone(),
                        policies,
                        direction: Direction::Ingress,
                        port,
                        said: hbone(snapshot, callee),
                        services: vec![service.clone()],
                    });
                }
            }
        }
        out.extend(cut_off(snapshot));
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let first = fact.policies.first();
        let field = format!("spec.{}", fact.direction.field());
        let subject = first.map_or(own.clone(), |policy| policy.object.reference.field(&field));
        let names: Vec<String> =
            fact.policies.iter().take(3).map(|p| p.object.reference.to_string()).collect();
        let names = names.join(", ");
        let inward = fact.direction == Direction::Ingress;
        let (title, message) = if inward {
            (
                format!("{subject} keeps port {} of {own} closed, on which the mesh calls it", fact.port),
                format!(
                    "{names} let {} in on the port of the application and not on {}. Both are in the mesh, whose proxies carry each call to port {}: it times out.",
                    fact.other, fact.port, fact.port
                ),
            )
        } else {
            (
                format!("{subject} keeps the proxy of {own} from its control plane (port {})", fact.port),
                format!(
                    "{names} isolate {own} and do not let it out to {} on port {}, where its proxy gets its configuration and certificates.",
                    fact.other, fact.port
                ),
            )
        };
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
                Evidence::object(
                    &policy.object.reference.field(&field),
                    format!("no rule for port {}", fact.port),
                )
            }))
            .evidences(fact.said.iter().map(|(place, line)| {
                Evidence::new("Log", place.clone(), "the connection is not answered").excerpt(line)
            }));
        finding = if inward {
            finding.effects(
                fact.services.iter().map(|service| Effect::requests(service, &["UF", "timeout", "reset"])),
            )
        } else {
            finding.effect(Effect::pods(own)).effect(Effect::calls(own))
        };
        for policy in fact.policies.iter().skip(1).take(3) {
            finding = finding.related(policy.object.reference.clone());
        }
        if let Some(policy) = first {
            let rule = if inward {
                json!({"ports": [{"protocol": "TCP", "port": fact.port}]})
            } else {
                json!({"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": fact.other.namespace}}}], "ports": [{"protocol": "TCP", "port": fact.port}]})
            };
            let at = format!("/spec/{}", fact.direction.field());
            let operation = if policy.object.body.pointer(&at).is_some_and(|rules| rules.is_array()) {
                json!([{"op": "add", "path": format!("{at}/-"), "value": rule}])
            } else {
                json!([{"op": "add", "path": at, "value": [rule]}])
            };
            finding = finding.maybe_remedy(Remedy::patch(
                &policy.object,
                &operation,
                format!("Add port {} to {field}", fact.port),
            ));
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

fn end(workload: &Workload) -> End<'_> {
    End { namespace: workload.object.namespace(), labels: &workload.template.labels, ips: &[] }
}

/// The port on which pods of the workload's mesh call each other; `None` where that is the application's own.
fn mesh_port(snapshot: &Snapshot, workload: &Workload) -> Option<i64> {
    let pods: Vec<&Pod> = snapshot.pods_of(workload.reference()).filter(|pod| !pod.ended()).collect();
    if pods.iter().any(|pod| pod.template.has_running_container("linkerd-proxy")) {
        return Some(LINKERD_INBOUND);
    }
    let captured = |pod: &&&Pod| {
        pod.template.annotations.get("ambient.istio.io/redirection").is_some_and(|v| v == "enabled")
    };
    pods.iter().find(captured).map(|_| HBONE)
}

/// What ztunnel says of a workload that does not answer.
fn hbone(snapshot: &Snapshot, workload: &Workload) -> Option<(String, String)> {
    let name = workload.object.name();
    snapshot
        .logs
        .iter()
        .filter(|log| log.container == "istio-proxy" && log.pod.starts_with("ztunnel"))
        .find_map(|log| {
            let line = log.lines.iter().find(|line| {
                line.text.contains("NetworkPolicy is blocking HBONE") && line.text.contains(name)
            })?;
            Some((format!("Pod {}/{}, ztunnel", log.namespace, log.pod), line.text.clone()))
        })
}

/// Pods with Istio's proxy that policies keep from its control plane.
fn cut_off(snapshot: &Snapshot) -> BTreeMap<(ObjectRef, i64), Fact<'_>> {
    let is_plane = |w: &&Workload| w.template.container("discovery").is_some() && w.object.owners.is_empty();
    let planes: Vec<&Workload> = snapshot.workloads.iter().filter(is_plane).collect();
    let mut out = BTreeMap::new();
    let own = snapshot
        .workloads
        .iter()
        .filter(|w| w.object.owners.is_empty() && snapshot.in_scope(w.object.namespace()));
    for workload in own {
        let Some(plane) = planes.first() else { break };
        let proxied = snapshot.pods_of(workload.reference()).find(|pod| snapshot.has_istio_proxy(pod));
        let Some(pod) = proxied else { continue };
        let ips: Vec<String> = snapshot.pods_of(plane.reference()).flat_map(|pod| pod.ips.clone()).collect();
        let port = Port { number: XDS, transport: "TCP", callee: Some(&plane.template) };
        let other = End { ips: &ips, ..end(plane) };
        let policies = blocking(snapshot, Direction::Egress, end(workload), other, port);
        if policies.is_empty() {
            continue;
        }
        let says = |text: &str| {
            text.contains(&format!(":{XDS}")) && (text.contains("timeout") || text.contains("timed out"))
        };
        let log = snapshot.log(pod.object.namespace(), pod.object.name(), "istio-proxy", false);
        let said = log.and_then(|log| log.lines.iter().find(|line| says(&line.text))).map(|line| {
            (
                format!("Pod {}/{}, istio-proxy", pod.object.namespace(), text::plain(pod.object.name(), 63)),
                line.text.clone(),
            )
        });
        let services = snapshot.services_before(workload).map(|s| s.service_name()).collect();
        out.insert(
            (workload.reference().clone(), XDS),
            Fact {
                workload,
                other: plane.reference().clone(),
                policies,
                direction: Direction::Egress,
                port: XDS,
                said,
                services,
            },
        );
    }
    out
}
