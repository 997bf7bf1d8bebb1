//! ISTIO112.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::{egress, hosts};
use crate::analyze::rules::near::applied;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::mesh::istio::Policy;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// A Sidecar hides from a workload a Service that it calls.
    ///
    /// ## What it detects
    /// A call in the service graph whose callee none of the `egress.hosts` covers of the Sidecar that counts for the caller.
    /// ## Why it matters
    /// The caller's proxy has no route and no cluster for the callee. Its requests pass through in plaintext, which a
    /// `STRICT` peer cuts, or are blocked with `502`, or answered with `404 NR`.
    /// ## Evidence
    /// The Sidecar's egress hosts, and the failed requests on exactly this edge.
    /// ## How to confirm
    /// `istioctl proxy-config clusters POD --fqdn HOST` lists nothing for the caller.
    /// ## How to fix
    /// Add `namespace/host` of the callee to the Sidecar's `egress[].hosts`.
    /// ## False positives
    /// Calls that only an environment variable names are a warning; pass-through that works is information.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/sidecar/#IstioEgressListener>
    EgressHostExcluded {
        code: "ISTIO112", name: "egress-host-excluded", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: [],
    }
}

/// A call that the caller's Sidecar does not know.
#[derive(Debug)]
pub struct Fact<'a> {
    sidecar: &'a Policy,
    lists: Vec<(String, Vec<String>)>,
    caller: &'a ObjectRef,
    callee: &'a ServiceName,
    /// All that callers of this Sidecar call and it hides: the next one would fail as soon as this one is mended.
    hidden: BTreeSet<&'a ServiceName>,
    seen: Seen,
    works: bool,
}

impl Check for EgressHostExcluded {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        if snapshot.istio.sidecars.is_empty() {
            return out;
        }
        for (caller, callee) in snapshot.graph.edges.keys() {
            if !seen::wanted(snapshot, &caller.namespace) || snapshot.service(callee).is_none() {
                continue;
            }
            let Some(workload) = snapshot.workload(caller) else { continue };
            let meshed =
                !snapshot.runs() || snapshot.pods_of(caller).any(|pod| snapshot.has_istio_proxy(pod));
            let labels = &workload.template.labels;
            let Some(sidecar) = egress::sidecar(snapshot, &caller.namespace, labels).filter(|_| meshed)
            else {
                continue;
            };
            let Some(lists) = egress::egress_hosts(sidecar) else { continue };
            if egress::admits(&lists, callee, &caller.namespace) {
                continue;
            }
            let edges =
                || snapshot.traffic_to(callee, Reporter::Source).filter(|e| e.workload.same_object(caller));
            let lost = seen::outcomes(edges(), |e, o| o.failed && e.cluster.host.is_empty());
            let behind = snapshot.graph.backing.get(callee);
            let cut = snapshot.traffic.iter().filter(|e| {
                e.reporter == Reporter::Destination
                    && behind.is_some_and(|w| w.contains(&e.workload))
                    && e.peer.as_ref().is_some_and(|p| p.same_object(caller))
            });
            let cut = seen::outcomes(cut, |_, o| o.details.contains("filter_chain_not_found"));
            let works = edges().any(|e| e.requests > e.failures());
            let hidden = BTreeSet::new();
            out.push(Fact { sidecar, lists, caller, callee, hidden, seen: lost.and(cut), works });
        }
        let mut hidden: BTreeMap<&ObjectRef, BTreeSet<&ServiceName>> = BTreeMap::new();
        for fact in &out {
            hidden.entry(&fact.sidecar.object.reference).or_default().insert(fact.callee);
        }
        for fact in &mut out {
            fact.hidden = hidden.get(&fact.sidecar.object.reference).cloned().unwrap_or_default();
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let sidecar = &fact.sidecar.object.reference;
        let path = fact.lists.first().map_or("spec.egress".to_owned(), |(path, _)| path.clone());
        let written =
            fact.lists.iter().flat_map(|(_, list)| list).map(String::as_str).collect::<Vec<_>>().join(", ");
        let observed = fact.seen.any();
        let (severity, role, confidence) = match (observed, fact.works) {
            (true, _) => (Severity::Error, Role::Cause, Confidence::Observed),
            (false, true) => (Severity::Info, Role::Context, Confidence::Configured),
            (false, false) => (Severity::Warning, Role::Cause, Confidence::Configured),
        };
        let additions: Vec<_> = fact
            .hidden
            .iter()
            .map(|service| {
                json!({"op": "add", "path": format!("{}/-", pointer(&path)),
                    "value": format!("{}/{}", service.namespace, hosts::host_of(service))})
            })
            .collect();
        let hidden = fact.hidden.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let seen_words = if observed {
            format!(" {} requests and connections failed on this edge.", fact.seen.count)
        } else {
            String::new()
        };
        let finding = Finding::new(Self::META, sidecar.field(&path), &[&fact.caller.name, &fact.callee.namespace, &fact.callee.name])
            .title(format!("{sidecar} hides Service {} from {}: its egress hosts are {written}", fact.callee, fact.caller))
            .message(format!(
                "{} calls Service {}, and no entry of {path} of {sidecar} ({written}) covers it. The caller's proxy has neither route nor cluster for it.{seen_words}",
                fact.caller, fact.callee
            ))
            .mechanism("Sidecar egress scope: egress hosts lack the callee, no route or cluster for it")
            .severity(severity)
            .role(role, confidence)
            .service(Some(fact.callee.clone()))
            .evidence(Evidence::object(&sidecar.field(&path), format!("egress hosts {written}")))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .maybe_remedy(before(fact, &path))
            .maybe_remedy(Remedy::patch(
                &fact.sidecar.object,
                &json!(additions),
                format!("Add to the egress hosts of {sidecar} the Services that its callers call: {hidden}"),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: every Service that a workload's settings name is covered by its Sidecar's egress hosts (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert on calls that bypass the mesh's routing",
                "sum by (source_workload) (rate(istio_tcp_connections_opened_total{destination_service_name=~\"PassthroughCluster|BlackHoleCluster\"}[5m])) > 0",
            ));
        match role {
            Role::Cause => finding.effect(Effect::requests(
                fact.callee,
                &["UC", "NR", "reset", "tls", "direct_response", "404", "5xx"],
            )),
            _ => finding,
        }
    }
}

/// The list as it was before the last edit, where that covered the callee.
fn before(fact: &Fact<'_>, path: &str) -> Option<Remedy> {
    let old = applied(&fact.sidecar.object, path)?;
    let hosts: Vec<String> = old.as_array()?.iter().filter_map(|h| h.as_str().map(str::to_owned)).collect();
    let covered = egress::admits(&[(path.to_owned(), hosts)], fact.callee, &fact.caller.namespace);
    if !covered {
        return None;
    }
    Remedy::patch(
        &fact.sidecar.object,
        &json!([{"op": "replace", "path": pointer(path), "value": old}]),
        format!(
            "Restore the egress hosts of {} as they were before the last edit",
            fact.sidecar.object.reference
        ),
    )
}
