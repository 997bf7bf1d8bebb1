//! ISTIO113.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::CallGroup;
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls;
use crate::analyze::rules::istio::egress;
use crate::analyze::rules::near::{applied, nearest};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::change::ChangeKind;
use crate::model::mesh::istio::{ServiceEntry, full_host, host_matches, visible};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};

crate::rule! {
    /// A proxy blocks calls to a host that the mesh does not know.
    ///
    /// ## What it detects
    /// Requests that a caller's proxy answered itself with `502` on the route `block_all`, or connections to
    /// `BlackHoleCluster`, and which object decides it: a ServiceEntry with another port or host or one that the caller does
    /// not see, or none at all under the policy `REGISTRY_ONLY`.
    /// ## Why it matters
    /// Under `REGISTRY_ONLY` only hosts and ports of Services and ServiceEntries are reachable. Everything else is refused by
    /// the caller's own proxy, whatever the host itself is doing.
    /// ## Evidence
    /// Access-log records with the host and port that were called; the ServiceEntries; the outbound policy.
    /// ## How to confirm
    /// `istioctl proxy-config routes POD` has no virtual host for the host and port.
    /// ## How to fix
    /// Correct the ServiceEntry's port or host, or declare the host with a ServiceEntry.
    /// ## False positives
    /// Calls that are to be blocked: then the policy does its work, and the caller is to be changed.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/egress/egress-control/>
    RegistryOnlyBlocks {
        code: "ISTIO113", name: "registry-only-blocks", family: Mesh, severity: Error,
        needs: [AccessLogs, Istio], aliases: [],
    }
}

/// Calls of one workload to one host and port that its proxy blocked.
#[derive(Debug)]
pub struct Fact<'a> {
    caller: &'a ObjectRef,
    host: String,
    port: Option<i64>,
    /// A ServiceEntry for the host, with what is wrong about it.
    entry: Option<(&'a ServiceEntry, Wrong)>,
    policy: Option<ObjectRef>,
    seen: Seen,
}

/// What keeps a ServiceEntry from opening the way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrong {
    /// None of its ports is the one that is called.
    Port,
    /// Its host differs by a few letters; the index of it.
    Host(usize),
    /// It is not exported to the caller.
    Hidden,
}

impl Check for RegistryOnlyBlocks {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut calls: BTreeMap<(&ObjectRef, String, Option<i64>), Vec<&EdgeTraffic>> = BTreeMap::new();
        for edge in snapshot.traffic.iter().filter(|e| e.reporter == Reporter::Source) {
            for outcome in edge.outcomes.iter().filter(|o| blocked(edge, o)) {
                let host =
                    outcome.authorities.keys().next().cloned().unwrap_or_else(|| edge.authority.clone());
                let bare = match host.rsplit_once(':') {
                    Some((bare, port)) if port.parse::<u16>().is_ok() => bare.to_owned(),
                    _ => host,
                };
                let port = outcome.called.keys().next().and_then(|a| a.rsplit_once(':')?.1.parse().ok());
                calls.entry((&edge.workload, bare, port)).or_default().push(edge);
            }
        }
        let facts = calls
            .into_iter()
            .filter(|((caller, _, _), _)| seen::wanted(snapshot, &caller.namespace))
            .map(|((caller, host, port), edges)| {
                let none = crate::model::selector::Labels::new();
                let labels = snapshot.workload(caller).map_or(&none, |w| &w.template.labels);
                // A bare connection names no host; the application's own errors do.
                let host = if host.is_empty() { named(snapshot, caller, port).unwrap_or(host) } else { host };
                Fact {
                    caller,
                    entry: entry(snapshot, &host, port, &caller.namespace),
                    policy: egress::registry_only(snapshot, &caller.namespace, labels),
                    host,
                    port,
                    seen: seen::outcomes(edges.into_iter(), blocked),
                }
            });
        // A Service of the cluster that a Sidecar hides is another rule's.
        facts.filter(|f| !is_service(snapshot, &f.host, &f.caller.namespace)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own: Option<ServiceName> = snapshot.graph.services_of(fact.caller).next().cloned();
        let called = match fact.port {
            Some(port) => format!("{}:{port}", fact.host),
            None => fact.host.clone(),
        };
        let policy_ref = fact.policy.clone().unwrap_or_else(|| {
            ObjectRef::new("ConfigMap", &snapshot.istio.root_namespace, "istio").field("data.mesh")
        });
        let (subject, why, short) = match &fact.entry {
            Some((entry, Wrong::Port)) => {
                let ports = entry.ports.iter().map(|(n, _)| n.to_string()).collect::<Vec<_>>().join(", ");
                (
                    entry.object.reference.field("spec.ports[0].number"),
                    format!("{} declares the host with port {ports}", entry.object.reference),
                    format!("declared with port {ports}"),
                )
            }
            Some((entry, Wrong::Host(index))) => (
                entry.object.reference.field(format!("spec.hosts[{index}]")),
                format!(
                    "{} declares {}",
                    entry.object.reference,
                    entry.hosts.get(*index).map_or("", String::as_str)
                ),
                format!("declared is {}", entry.hosts.get(*index).map_or("", String::as_str)),
            ),
            Some((entry, Wrong::Hidden)) => (
                entry.object.reference.field("spec.exportTo"),
                format!(
                    "{} declares the host and is not exported to namespace {}",
                    entry.object.reference, fact.caller.namespace
                ),
                "its ServiceEntry is not exported to it".to_owned(),
            ),
            None => (
                policy_ref.clone(),
                "no ServiceEntry declares the host".to_owned(),
                "no ServiceEntry declares it".to_owned(),
            ),
        };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.caller.name, &called]);
        if subject != policy_ref && fact.policy.is_some() {
            finding.related.push(policy_ref.clone());
        }
        finding
            .title(format!("The proxy of {} blocks {called}: {short}", fact.caller))
            .message(format!(
                "{} calls of {} to {called} were blocked by its own proxy: under the outbound policy REGISTRY_ONLY only declared hosts and ports are reachable, and {why}.",
                fact.seen.count, fact.caller
            ))
            .mechanism("REGISTRY_ONLY egress blocked: ServiceEntry missing or with another port, BlackHoleCluster, direct response 502")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(own.clone())
            .evidence(Evidence::object(&subject, why.clone()))
            .evidences(fact.policy.as_ref().map(|p| Evidence::object(p, "outbound policy REGISTRY_ONLY")))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .effect(Effect::calls(fact.caller))
            .effects(own.iter().map(|s| Effect::requests(s, &["direct_response", "5xx"])))
            .maybe_remedy(correct(fact))
            .maybe_remedy(former_setting(fact, snapshot))
            .maybe_remedy(declare(fact))
            .maybe_remedy(allow_any(fact, snapshot))
            .prevention(Prevention::alert(
                "Alert on calls to hosts that the mesh does not know",
                "sum by (source_workload) (rate(istio_requests_total{destination_service_name=\"BlackHoleCluster\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Test", "In the pipeline: every outside host and port that a workload's settings name has a ServiceEntry"))
    }
}

/// The host outside the cluster that the failing calls of a workload to a port name; nothing where they name several.
fn named(snapshot: &Snapshot, caller: &ObjectRef, port: Option<i64>) -> Option<String> {
    let failing = calls::failing(snapshot);
    let own = failing.all.iter().filter(|calls| calls.caller.same_object(caller) && !calls.ended);
    let groups = own.flat_map(|calls| &calls.groups).filter(|group| group.external());
    let same_port = |group: &&CallGroup| {
        let of = group.target.as_ref().and_then(|target| target.port);
        of.is_some() && of.map(i64::from) == port
    };
    let hosts: BTreeSet<&str> = groups.filter(same_port).map(|group| group.host()).collect();
    hosts.first().filter(|_| hosts.len() == 1).map(|host| (*host).to_owned())
}

/// A rollout of the caller that set the host, at most so many seconds before the first call was blocked.
const RECENT: i64 = 900;

/// The caller as it was before a rollout told it to call this host.
fn former_setting(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let first = fact.seen.onset?;
    if fact.host.is_empty() {
        return None;
    }
    let rollout = snapshot
        .changes
        .iter()
        .rev()
        .find(|change| change.kind == ChangeKind::Rollout && change.subject.same_object(fact.caller))?;
    let before = (-5..=RECENT).contains(&(first.as_second() - rollout.time.as_second()));
    let set = |text: &str| text.contains(&fact.host);
    let named = rollout.differences.iter().any(|d| set(&d.after) && !set(&d.before));
    if before && named { common::undo_last_rollout(snapshot, fact.caller, "env") } else { None }
}

/// Lets everything out again, by the Sidecar that forbids it.
fn allow_any(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let policy = fact.policy.as_ref().filter(|policy| policy.kind == "Sidecar")?;
    let sidecar = snapshot.istio.sidecars.iter().find(|s| s.object.reference.same_object(policy))?;
    Remedy::patch(
        &sidecar.object,
        &json!([{"op": "replace", "path": pointer(&policy.field_path), "value": "ALLOW_ANY"}]),
        format!(
            "Let all callers of {} out: set outboundTrafficPolicy.mode to ALLOW_ANY",
            sidecar.object.reference
        ),
    )
}

/// Whether a proxy refused to send this anywhere, because it knows no such host.
fn blocked(edge: &EdgeTraffic, outcome: &Outcome) -> bool {
    edge.reporter == Reporter::Source
        && outcome.failed
        && (edge.cluster.raw == "BlackHoleCluster"
            || (outcome.route == "block_all" && outcome.details == "direct_response"))
}

fn is_service(snapshot: &Snapshot, host: &str, namespace: &str) -> bool {
    crate::model::mesh::istio::service_of_host(&full_host(host, namespace)).is_some_and(|(ns, name)| {
        snapshot.service(&ServiceName::new(ns, name)).is_some_and(|s| s.kind != "ExternalName")
    })
}

/// The ServiceEntry that should have opened the way.
fn entry<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    port: Option<i64>,
    client: &str,
) -> Option<(&'a ServiceEntry, Wrong)> {
    let entries = &snapshot.istio.service_entries;
    for entry in entries.iter().filter(|e| e.hosts.iter().any(|known| host_matches(known, host))) {
        if !visible(&entry.export_to, entry.object.namespace(), client) {
            return Some((entry, Wrong::Hidden));
        }
        if port.is_some_and(|port| !entry.ports.iter().any(|(n, _)| *n == port)) {
            return Some((entry, Wrong::Port));
        }
    }
    let names: BTreeSet<&str> = entries.iter().flat_map(|e| &e.hosts).map(String::as_str).collect();
    let near = nearest(host, names)?;
    entries.iter().find_map(|entry| {
        let index = entry.hosts.iter().position(|h| h == near)?;
        Some((entry, Wrong::Host(index)))
    })
}

/// Corrects the ServiceEntry.
fn correct(fact: &Fact<'_>) -> Option<Remedy> {
    let (entry, wrong) = fact.entry.as_ref()?;
    let (path, value) = match wrong {
        Wrong::Port => {
            let path = "spec.ports[0].number".to_owned();
            let before = applied(&entry.object, &path).and_then(|v| v.as_i64());
            let port = fact.port.or(before)?;
            // With several ports the one that is called is added beside them.
            if entry.ports.len() > 1 {
                let value = json!({"number": port, "name": format!("http-{port}"), "protocol": "HTTP"});
                return Remedy::patch(
                    &entry.object,
                    &json!([{"op": "add", "path": "/spec/ports/-", "value": value}]),
                    format!("Add port {port} to {}", entry.object.reference),
                );
            }
            (path, json!(port))
        }
        Wrong::Host(index) => (format!("spec.hosts[{index}]"), json!(fact.host)),
        Wrong::Hidden => ("spec.exportTo".to_owned(), json!(["*"])),
    };
    Remedy::patch(
        &entry.object,
        &json!([{"op": "replace", "path": pointer(&path), "value": value}]),
        format!("Set {} of {} to {value}", path.rsplit('.').next().unwrap_or(&path), entry.object.reference),
    )
}

/// Declares the host.
fn declare(fact: &Fact<'_>) -> Option<Remedy> {
    if fact.entry.is_some() || fact.host.is_empty() || fact.host.contains(['*', ':', '\'', '\n']) {
        return None;
    }
    let port = fact.port.unwrap_or(443);
    let protocol = if port == 443 { "TLS" } else { "HTTP" };
    let name: String = fact
        .host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let body = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name.trim_matches('-'), "namespace": fact.caller.namespace},
        "spec": {"hosts": [fact.host], "location": "MESH_EXTERNAL", "resolution": "DNS",
            "ports": [{"number": port, "name": format!("{}-{port}", protocol.to_ascii_lowercase()), "protocol": protocol}]}
    });
    Some(Remedy::create(vec![body], format!("Declare {} port {port} with a ServiceEntry", fact.host)))
}
