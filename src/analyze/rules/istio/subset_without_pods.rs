//! ISTIO104.

use crate::model::json::json;
use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::mesh::istio::{
    Destination, DestinationRule, Route, Subset, VirtualService, full_host, service_of_host,
};
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::Pod;

crate::rule! {
    /// A route sends requests to a subset of which no ready pod is a member.
    ///
    /// ## What it detects
    /// A VirtualService that names a subset which a DestinationRule defines, where none of the ready pods behind the host's
    /// Service carries the subset's labels.
    /// ## Why it matters
    /// The proxy knows the subset as a cluster without endpoints and answers every request to it with
    /// `503 UH no_healthy_upstream`: exactly the share of requests that the route's weight says.
    /// ## Evidence
    /// The subset's labels against the labels of the Service's pods; access-log records of callers with the flag `UH` on the
    /// cluster `outbound|PORT|SUBSET|HOST`.
    /// ## How to confirm
    /// `kubectl get pods -l LABELS` with the Service's selector and the subset's labels together lists no ready pod.
    /// ## How to fix
    /// Correct the subset's labels to those that the pods carry, bring back the pods that carried them, or take the subset
    /// out of the route.
    /// ## False positives
    /// A route with weight 0, a Deployment that is scaled to zero on purpose while its route is not used, and manifests
    /// without a running cluster (there a Deployment's template counts as its pods).
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#Subset>
    SubsetWithoutPods {
        code: "ISTIO104", name: "subset-without-pods", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0173", "KIA0203"],
    }
}

/// A destination of a route whose subset is empty.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    route: &'a Route,
    destination: &'a Destination,
    rule: &'a DestinationRule,
    subset: &'a Subset,
    service: &'a Service,
    /// Pods behind the Service: all, and those that are ready.
    pods: (usize, usize),
    /// Pods that carry the labels but are not ready.
    unready: usize,
    /// A workload behind the Service with the labels, scaled to zero.
    scaled_to_zero: Option<&'a crate::model::workload::Workload>,
}

impl Check for SubsetWithoutPods {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            for (route, destination) in virtual_service.destinations() {
                if destination.subset.is_empty() || destination.weight == Some(0) {
                    continue;
                }
                out.extend(empty_subset(snapshot, virtual_service, route, destination));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let labels = fact.subset.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
        let share = fact.destination.weight.filter(|_| fact.route.destinations.len() > 1);
        let share = share.map_or("requests".to_owned(), |weight| format!("{weight} % of its requests"));
        let subject = fact.virtual_service.reference().field(format!("{}.subset", fact.destination.path));
        let (seen, onset) = seen(fact, snapshot);
        let why = match (fact.unready, fact.pods) {
            (0, (all, ready)) => format!(
                "{ready} of the {all} pods behind the Service are ready and none of them carries {labels}"
            ),
            (unready, _) => format!("{unready} pods carry {labels} and none of them is ready"),
        };
        let confidence = if seen.is_empty() { Confidence::Configured } else { Confidence::Observed };
        // Where pods carry the labels, what keeps them from being ready is the cause, and this is how it is felt.
        let role = if fact.unready > 0 { Role::Symptom } else { Role::Cause };
        Finding::new(Self::META, subject, &[&fact.destination.subset])
            .title(format!("{} sends {share} to subset \"{}\", and no ready pod backs it", fact.virtual_service.reference(), fact.destination.subset))
            .message(format!(
                "Subset \"{}\" of {} selects {labels}; {why}. Callers' proxies answer these requests with 503 UH no_healthy_upstream.",
                fact.subset.name,
                fact.rule.reference()
            ))
            .mechanism("subset without pods: no pods carry the subset's labels")
            .severity(if confidence == Confidence::Observed { Severity::Error } else { Severity::Warning })
            .role(role, confidence)
            .service(Some(name.clone()))
            .related(fact.rule.reference().field(format!("{}.labels", fact.subset.path)))
            .evidence(Evidence::object(&fact.rule.reference().field(format!("{}.labels", fact.subset.path)), format!("subset \"{}\" selects {labels}", fact.subset.name)))
            .evidence(Evidence::object(fact.service.reference(), why))
            .evidences(seen)
            .onset(onset)
            .effect(Effect::requests(&name, &["UH"]))
            .maybe_remedy(scale_up(fact))
            .maybe_remedy(matching_label(fact, snapshot))
            .maybe_remedy(drop_subset(fact))
            .prevention(Prevention::alert(
                "Alert when callers' proxies find no endpoint",
                format!("sum by (destination_service) (rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UH.*\",destination_service_name=\"{}\"}}[1m])) > 0", name.name),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: every subset that a route names selects at least one pod template"))
    }
}

/// The fact, where the subset of a destination is defined and empty.
fn empty_subset<'a>(
    snapshot: &'a Snapshot,
    virtual_service: &'a VirtualService,
    route: &'a Route,
    destination: &'a Destination,
) -> Option<Fact<'a>> {
    let client = virtual_service.object.namespace();
    let full = full_host(&destination.host, client);
    let (namespace, name) = service_of_host(&full)?;
    let service = snapshot.service(&ServiceName::new(namespace, name))?;
    let rules = snapshot.istio.destination_rules_for(&full, client);
    let (rule, subset) = rules
        .iter()
        .find_map(|rule| Some((*rule, rule.subsets.iter().find(|s| s.name == destination.subset)?)))?;
    if subset.labels.is_empty() || service.selector.is_empty() {
        return None;
    }
    let carries =
        |labels: &crate::model::selector::Labels| subset.labels.iter().all(|(k, v)| labels.get(k) == Some(v));
    let templates: Vec<_> =
        snapshot.workloads_behind(service).filter(|w| carries(&w.template.labels)).collect();
    let scaled_to_zero = templates.iter().copied().find(|w| w.replicas == Some(0));
    let pods: Vec<_> = snapshot.pods_behind(service).collect();
    if !snapshot.runs() || pods.is_empty() {
        // Manifests: a template that runs counts as its pods. Without any workload nothing can be said.
        let backed = templates.iter().any(|w| w.replicas != Some(0));
        let known = snapshot.workloads_behind(service).next().is_some();
        if backed || !known || (snapshot.runs() && pods.is_empty()) {
            return None;
        }
    }
    // A pod that is going away is no failing one: it is missing.
    let stays = |pod: &&&Pod| carries(&pod.template.labels) && pod.object.deleted.is_none();
    let members: Vec<_> = pods.iter().filter(stays).collect();
    if members.iter().any(|pod| pod.ready()) {
        return None;
    }
    Some(Fact {
        virtual_service,
        route,
        destination,
        rule,
        subset,
        service,
        pods: (pods.len(), pods.iter().filter(|pod| pod.ready()).count()),
        unready: members.len(),
        scaled_to_zero,
    })
}

/// What callers' proxies saw on exactly this cluster.
fn seen(fact: &Fact<'_>, snapshot: &Snapshot) -> (Vec<Evidence>, Option<Timestamp>) {
    let name = fact.service.service_name();
    let (mut out, mut onset) = (vec![], None::<Timestamp>);
    for edge in snapshot.traffic_to(&name, Reporter::Source).filter(|e| e.cluster.subset == fact.subset.name)
    {
        for outcome in edge.outcomes.iter().filter(|o| o.has_flag("UH")) {
            let value = format!(
                "{} → {}: {}, {} requests",
                edge.workload.name,
                name.name,
                outcome.label(),
                outcome.count
            );
            out.push(
                Evidence::new(
                    "AccessLog",
                    format!("{} istio-proxy, cluster {}", edge.workload, edge.cluster.raw),
                    value,
                )
                .at(outcome.first),
            );
            onset = onset.into_iter().chain(outcome.first).min();
        }
    }
    (out, onset)
}

/// Bring back what carried the labels.
fn scale_up(fact: &Fact<'_>) -> Option<Remedy> {
    let workload = fact.scaled_to_zero?;
    let summary = format!("Start {} again: its pods carry the subset's labels", workload.reference());
    Some(Remedy::scale(workload.reference(), 0, 1, summary))
}

/// Correct one label, where exactly one value of it is carried by ready pods and no other subset claims it.
fn matching_label(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    if fact.unready > 0 {
        return None;
    }
    let ready: Vec<_> = snapshot.pods_behind(fact.service).filter(|pod| pod.ready()).collect();
    let wrong: Vec<_> = fact
        .subset
        .labels
        .iter()
        .filter(|(k, v)| !ready.iter().any(|pod| pod.template.labels.get(k) == Some(*v)))
        .collect();
    let [(key, _)] = wrong.as_slice() else { return None };
    let mut values: Vec<&str> = ready.iter().filter_map(|pod| pod.template.labels.get(key)).collect();
    values.sort();
    values.dedup();
    let claimed = |value: &str| {
        fact.rule.subsets.iter().any(|s| s.name != fact.subset.name && s.labels.get(key) == Some(value))
    };
    let free: Vec<_> = values.iter().filter(|value| !claimed(value)).collect();
    let [value] = free.as_slice() else { return None };
    let path =
        format!("{}/labels/{}", pointer(&fact.subset.path), crate::analyze::remedy::pointer_segment(key));
    let operations = json!([{"op": "replace", "path": path, "value": value}]);
    Remedy::patch(
        &fact.rule.object,
        &operations,
        format!("Correct the labels of subset \"{}\": ready pods carry {key}={value}", fact.subset.name),
    )
}

/// Send the requests to the subsets that have pods.
fn drop_subset(fact: &Fact<'_>) -> Option<Remedy> {
    let path = format!("{}/subset", pointer(&fact.destination.path));
    Remedy::patch(
        &fact.virtual_service.object,
        &json!([{"op": "remove", "path": path}]),
        "Take the subset out of the route: these requests go to every ready pod of the Service",
    )
}
