//! NET101.

use crate::model::json::json;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::applied;
use crate::analyze::rules::network::policy::{self, Blocking};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::analyze::twin::policy::network::{Direction, End, PodEnd, Port};
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::{Pod, Workload, is_proxy_container};

crate::rule! {
    /// A NetworkPolicy, AdminNetworkPolicy or BaselineAdminNetworkPolicy blocks a call that somebody makes.
    ///
    /// ## What it detects
    /// A call of the service graph that the policies of the callee (ingress) or of the caller (egress) do not let through, on
    /// every port of the Service; and a workload whose egress policies leave out the cluster's name server.
    /// AdminNetworkPolicies are asked first, by priority, then NetworkPolicies, then the BaselineAdminNetworkPolicy.
    /// ## Why it matters
    /// Most network plug-ins drop such packets: the caller waits until its connection times out, and no status anywhere says
    /// why. Without the name server every call by name fails.
    /// ## Evidence
    /// The policies that select the pods, the labels of both ends, time-outs in access logs and in callers' logs.
    /// ## How to confirm
    /// From a pod of the caller: `nc -vz -w 3 SERVICE PORT` hangs; with the policy deleted it connects.
    /// ## How to fix
    /// Add a rule for the caller's labels and the port to the policy; for name resolution UDP and TCP 53 to `kube-system`.
    /// ## False positives
    /// Network plug-ins that do not enforce policies: where requests on the edge succeed nothing is reported. Calls that only
    /// an environment variable names are a warning.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/network-policies/>
    NetworkPolicyBlocks {
        code: "NET101", name: "network-policy-blocks", family: Network, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// What is called.
#[derive(Debug)]
enum Callee<'a> {
    /// A Service.
    Service(&'a Service),
    /// The cluster's name server.
    Dns,
}

/// Who calls: a workload, or a pod that nothing made.
#[derive(Debug, Clone, Copy)]
struct Caller<'a> {
    reference: &'a ObjectRef,
    labels: &'a Labels,
    /// Whether it shares its node's network, and with it its name servers.
    host_network: bool,
}

impl<'a> Caller<'a> {
    fn of_workload(workload: &'a Workload) -> Self {
        let template = &workload.template;
        Caller {
            reference: workload.reference(),
            labels: &template.labels,
            host_network: template.host_network,
        }
    }

    fn of_pod(pod: &'a Pod) -> Self {
        let host_network = pod.template.host_network;
        Caller { reference: &pod.object.reference, labels: &pod.object.labels, host_network }
    }
}

/// A call that is blocked.
#[derive(Debug)]
pub struct Fact<'a> {
    policy: Blocking<'a>,
    caller: Caller<'a>,
    callee: Callee<'a>,
    /// The pods' port.
    port: i64,
    /// Labels of the other end, as the policy would have to name them.
    other: (String, Labels),
    seen: Seen,
}

impl Check for NetworkPolicyBlocks {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        if !policy::any(snapshot) {
            return out;
        }
        let mut errors: Option<Errors> = None;
        for (caller, callee) in snapshot.graph.edges.keys() {
            let (Some(workload), Some(service)) = (snapshot.workload(caller), snapshot.service(callee))
            else {
                continue;
            };
            if !seen::wanted(snapshot, &callee.namespace) {
                continue;
            }
            let Some((policy, port, other)) = blocked(snapshot, workload, service) else {
                continue;
            };
            let edges =
                || snapshot.traffic_to(callee, Reporter::Source).filter(|e| e.workload.same_object(caller));
            let timed_out = seen::outcomes(edges(), |_, o| {
                seen::connect_timed_out(o)
                    || (o.has_flag("UF")
                        && !seen::refused(o)
                        && !o.details.contains("TLS")
                        && !o.transport_failure.contains("TLS"))
            });
            let errors = errors.get_or_insert_with(|| Errors::new(snapshot));
            let seen = timed_out.and(errors.of(callee, caller));
            let answered = edges().flat_map(|e| &e.outcomes).any(|o| o.details == "via_upstream");
            if !seen.any() && answered {
                continue;
            }
            out.push(Fact {
                policy,
                caller: Caller::of_workload(workload),
                callee: Callee::Service(service),
                port,
                other,
                seen,
            });
        }
        out.extend(dns(snapshot));
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let policy = &fact.policy.object.reference;
        let caller = fact.caller.reference;
        let direction = fact.policy.direction;
        let (callee, service, flags): (String, Option<ServiceName>, &[&str]) = match &fact.callee {
            Callee::Service(service) => (
                service.reference().to_string(),
                Some(service.service_name()),
                &["UF", "timeout", "refused", "5xx"],
            ),
            Callee::Dns => ("the cluster's name server".to_owned(), None, &["dns", "timeout", "5xx"]),
        };
        let observed = fact.seen.any();
        let own = match direction {
            Direction::Ingress => callee.clone(),
            Direction::Egress => caller.to_string(),
        };
        let (lacks, message) = match (fact.policy.denies(), direction) {
            (true, _) => {
                let rule = &fact.policy.reference.field_path;
                let lacks = format!("{rule} denies port {} from {caller} to {callee}", fact.port);
                (
                    lacks.clone(),
                    format!(
                        "{policy} applies to the pods of {own}, and {lacks}; no rule before it says otherwise."
                    ),
                )
            }
            (false, _) => {
                let lacks = match direction {
                    Direction::Ingress => format!("none of its rules admits {caller} on port {}", fact.port),
                    Direction::Egress => format!("none of its rules leads to {callee} on port {}", fact.port),
                };
                let field = direction.field();
                (
                    lacks.clone(),
                    format!(
                        "{policy} isolates the pods of {own} for {field}, and {lacks}; no other policy does either."
                    ),
                )
            }
        };
        let seen_words = if observed {
            format!(" {} calls on this edge failed for want of an answer.", fact.seen.count)
        } else {
            String::new()
        };
        let finding = Finding::new(Self::META, fact.policy.reference.clone(), &[&caller.kind, &caller.name, &callee])
            .title(format!("{policy} blocks {} of {caller} to {callee}", if matches!(fact.callee, Callee::Dns) { "look-ups" } else { "calls" }))
            .message(format!("{message}{seen_words}"))
            .mechanism("NetworkPolicy blocks the connection: connect timeout, packets dropped")
            .severity(if observed { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .evidence(Evidence::object(&fact.policy.reference, lacks))
            .evidence(Evidence::object(caller, format!("pods carry {}", words(fact.caller.labels))))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .maybe_remedy(restore(fact))
            .maybe_remedy(admit(fact))
            .prevention(Prevention::of("Test", "In the pipeline: every call that workloads' settings name is let through by the policies (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert on connections that time out",
                "sum by (source_workload, destination_service) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*UF.*\"}[5m])) > 0",
            ));
        let own = service.iter().map(|s| Effect::requests(s, flags));
        match fact.callee {
            Callee::Dns => finding.effect(Effect::calls(caller)),
            Callee::Service(_) => finding.effects(own),
        }
        .service(service)
    }
}

/// Calls that applications logged as unanswered, by Service and caller.
struct Errors(BTreeMap<ServiceName, BTreeMap<ObjectRef, Seen>>);

impl Errors {
    fn new(snapshot: &Snapshot) -> Self {
        Errors(seen::call_errors(snapshot, CallFailure::TimedOut))
    }

    fn of(&self, service: &ServiceName, caller: &ObjectRef) -> Seen {
        let writers = self.0.get(service).into_iter().flatten();
        let own = writers.filter(|(writer, _)| writer.same_object(caller));
        own.map(|(_, seen)| seen.clone()).fold(Seen::default(), Seen::and)
    }
}

fn words(labels: &Labels) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// A policy, the port, and namespace and labels of the other end.
pub type Blocked<'a> = (Blocking<'a>, i64, (String, Labels));

/// The policy that blocks every port of a Service for a caller, with the first of these ports.
pub fn blocked<'a>(snapshot: &'a Snapshot, caller: &Workload, service: &Service) -> Option<Blocked<'a>> {
    let callee = snapshot.workloads_behind(service).next()?;
    let (from_ips, to_ips) = (policy::ips_of(snapshot, caller), policy::ips_of(snapshot, callee));
    let (from, to) = (policy::end(caller, &from_ips), policy::end(callee, &to_ips));
    let mut found = None;
    for port in &service.ports {
        let number = port.on(&callee.template)?;
        let called = Port { number, transport: &port.transport };
        let ingress = policy::blocking(snapshot, Direction::Ingress, &to, &End::Pod(from), called);
        let egress = policy::blocking(snapshot, Direction::Egress, &from, &End::Pod(to), called);
        let this = match (ingress.into_iter().next(), egress.into_iter().next()) {
            (Some(policy), _) => (policy, number, (from.namespace.to_owned(), from.labels.clone())),
            (None, Some(policy)) => (policy, number, (to.namespace.to_owned(), to.labels.clone())),
            // One open port: the call may be meant for it.
            (None, None) => return None,
        };
        found.get_or_insert(this);
    }
    found
}

/// Workloads and pods that policies keep from the name server: those of their own namespace, or those of the server's.
fn dns(snapshot: &Snapshot) -> Vec<Fact<'_>> {
    let mut out = vec![];
    let labels: Labels = [("k8s-app".to_owned(), "kube-dns".to_owned())].into();
    let pod = |namespace, labels| PodEnd { namespace, labels, template: None, ips: None, node_ips: &[] };
    let server =
        PodEnd { namespace: "kube-system", labels: &labels, template: None, ips: None, node_ips: &[] };
    let workloads = snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()).map(Caller::of_workload);
    let alone =
        snapshot.pods.iter().filter(|pod| pod.object.owners.is_empty() && !pod.ended()).map(Caller::of_pod);
    for caller in workloads.chain(alone) {
        let own = pod(caller.reference.namespace.as_str(), caller.labels);
        if !seen::wanted(snapshot, own.namespace) || caller.host_network {
            continue;
        }
        let port = Port { number: 53, transport: "UDP" };
        let egress = policy::blocking(snapshot, Direction::Egress, &own, &End::Pod(server), port);
        let ingress = || policy::blocking(snapshot, Direction::Ingress, &server, &End::Pod(own), port);
        let Some(policy) = egress.into_iter().next().or_else(|| ingress().into_iter().next()) else {
            continue;
        };
        let other = match policy.direction {
            Direction::Egress => "kube-system".to_owned(),
            Direction::Ingress => own.namespace.to_owned(),
        };
        let other = (other, Labels::new());
        let seen = unresolved(snapshot, caller);
        // Without a call by name it needs no name server.
        let calls = snapshot.graph.callees(caller.reference).next().is_some();
        let answered = snapshot.traffic.iter().any(|e| {
            e.reporter == Reporter::Source
                && e.workload.same_object(caller.reference)
                && e.requests > e.failures()
        });
        if !seen.any() && (!calls || answered) {
            continue;
        }
        out.push(Fact { policy, caller, callee: Callee::Dns, port: 53, other, seen });
    }
    out
}

/// Look-ups without an answer in a workload's own logs.
fn unresolved(snapshot: &Snapshot, caller: Caller<'_>) -> Seen {
    let mut seen = Seen::default();
    let owner = caller.reference;
    for log in snapshot.logs.iter().filter(|l| l.namespace == owner.namespace) {
        let ours = !is_proxy_container(&log.container);
        if !ours || !snapshot.owner_by_name(&log.namespace, &log.pod).same_object(owner) {
            continue;
        }
        for line in &log.lines {
            let text = line.text.as_str();
            let lost = text.contains("EAI_AGAIN")
                || text.contains("emporary failure in name resolution")
                // musl's words for the same.
                || text.contains("[Errno -3]")
                || (text.contains("lookup ") && text.contains("i/o timeout"));
            if !lost {
                continue;
            }
            seen.count += 1;
            seen.onset = seen.onset.into_iter().chain(line.time).min();
            if seen.evidence.is_empty() {
                let place = format!("Pod {}/{}, container {}", log.namespace, log.pod, log.container);
                seen.evidence
                    .push(Evidence::new("Log", place, "a look-up got no answer").at(line.time).excerpt(text));
            }
        }
    }
    seen
}

/// The rules as they were before the last edit.
fn restore(fact: &Fact<'_>) -> Option<Remedy> {
    let field = fact.policy.list();
    let old = applied(fact.policy.object, &field)?;
    let at = crate::analyze::remedy::pointer(&field);
    let now = fact.policy.object.body.pointer(&at);
    if now == Some(&old) {
        return None;
    }
    let op = if now.is_some() { "replace" } else { "add" };
    Remedy::patch(
        fact.policy.object,
        &json!([{"op": op, "path": at, "value": old}]),
        format!("Restore {field} of {} as it was before the last edit", fact.policy.object.reference),
    )
}

/// A rule for this call.
fn admit(fact: &Fact<'_>) -> Option<Remedy> {
    let (namespace, labels) = &fact.other;
    let labels: Labels = labels.iter().filter(|(k, _)| *k != "pod-template-hash").collect();
    let ports: &[(i64, &str)] = match fact.callee {
        Callee::Dns => &[(53, "UDP"), (53, "TCP")],
        Callee::Service(_) => &[(fact.port, "TCP")],
    };
    let summary =
        format!("Add a rule for this call to {} of {}", fact.policy.list(), fact.policy.object.reference);
    fact.policy.open(Some((namespace, &labels)), ports, summary).map(|remedy| remedy.risk(Risk::Medium))
}
