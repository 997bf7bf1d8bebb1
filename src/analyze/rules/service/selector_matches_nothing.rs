//! SVC101.

use crate::model::json::json;

use super::gone::gone;
use super::identity::{is_common, words as labels};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::{self, applied};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::Workload;
use std::collections::BTreeMap;

crate::rule! {
    /// A Service selects no pod, though a workload beside it carries almost the labels that it asks for.
    ///
    /// ## What it detects
    /// A Service whose selector matches no pod and no pod template of its namespace, while a workload there carries some of
    /// the selector's labels, or the same keys with another value.
    /// ## Why it matters
    /// A selector that matches nothing gives a Service without endpoints: proxies answer `503 UH`, kube-proxy refuses the
    /// connection. Nothing in the status of the Service or of the pods says so.
    /// ## Evidence
    /// The selector against the labels of the nearest workload's template; refused calls and `UH` of callers.
    /// ## How to confirm
    /// `kubectl get pods -l SELECTOR` lists nothing, `kubectl get endpointslices -l kubernetes.io/service-name=NAME` has no
    /// address.
    /// ## How to fix
    /// Make the selector and the labels of the pod template agree: change the one that was edited last.
    /// ## False positives
    /// A Service whose pods exist only at times (jobs, a blue-green colour that is not deployed now) and whose selector
    /// resembles that of another workload. Services without a selector are not looked at.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#defining-a-service>
    SelectorMatchesNothing {
        code: "SVC101", name: "selector-matches-nothing", family: Network, severity: Error,
        needs: [Objects], aliases: ["KIA0701"],
    }
}

/// A selector, and the workload that it misses.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    workload: &'a Workload,
    /// Labels on which they disagree: key, the selector's value, the template's.
    differ: Vec<(&'a str, &'a str, Option<&'a str>)>,
    seen: Seen,
}

impl Check for SelectorMatchesNothing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut workloads: BTreeMap<&str, Vec<&Workload>> = BTreeMap::new();
        for workload in snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()) {
            workloads.entry(workload.object.namespace()).or_default().push(workload);
        }
        let mut pods: BTreeMap<&str, Vec<&Labels>> = BTreeMap::new();
        for pod in &snapshot.pods {
            pods.entry(pod.object.namespace()).or_default().push(&pod.template.labels);
        }
        let mut refused = None;
        let mut out = vec![];
        for service in &snapshot.services {
            let namespace = service.object.namespace();
            if !service.has_selector() || !seen::wanted(snapshot, namespace) {
                continue;
            }
            let beside = workloads.get(namespace).map(Vec::as_slice).unwrap_or_default();
            let matched = snapshot.workloads_behind(service).next().is_some()
                || pods.get(namespace).into_iter().flatten().any(|l| service.selects_labels(namespace, l));
            if matched {
                continue;
            }
            let Some((workload, differ)) = nearest(service, beside) else { continue };
            // What stood behind it was deleted, and what resembles it is another one.
            if gone(snapshot, service, Some(workload)).is_some() {
                continue;
            }
            let name = service.service_name();
            let errors = refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
            let seen = seen::outcomes(snapshot.traffic_to(&name, Reporter::Source), |_, o| o.has_flag("UH"))
                .and(seen::together(errors.get(&name)));
            out.push(Fact { service, workload, differ, seen });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let (service, workload) = (fact.service.reference(), fact.workload.reference());
        let selector = labels(&fact.service.selector);
        let wants = fact.differ.iter().map(|(k, v, _)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
        let has = fact.differ.iter().map(|(k, _, v)| match v {
            Some(v) => format!("{k}={v}"),
            None => format!("no {k}"),
        });
        let has = has.collect::<Vec<_>>().join(", ");
        let relabelled = relabelled(fact, snapshot);
        let selector_ref = service.field("spec.selector");
        let first_key = fact.differ.first().map(|(key, _, _)| *key).unwrap_or_default();
        let labels_ref = workload.field(fact.workload.template_path(&format!("metadata.labels.{first_key}")));
        let (subject, related) =
            if relabelled { (labels_ref, selector_ref) } else { (selector_ref, labels_ref) };
        let observed = fact.seen.any();
        Finding::new(Self::META, subject, &[&selector])
            .title(format!("{service} selects {wants} and no pod carries it: {workload} has {has}"))
            .message(format!(
                "The selector {selector} of {service} matches no pod of namespace {}. The template of {workload} agrees with it except for {wants}: it has {has}. The Service has no endpoint, so every request to it fails.",
                name.namespace
            ))
            .mechanism("selector matches no pods: the Service's selector and the pods' labels differ, no endpoints")
            .severity(if observed || !snapshot.runs() { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(Some(name.clone()))
            .related(related)
            .evidence(Evidence::object(&service.field("spec.selector"), format!("selects {selector}; 0 pods match")))
            .evidence(Evidence::object(&workload.field(fact.workload.template_path("metadata.labels")), format!("pods carry {}", labels(&fact.workload.template.labels))))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .effect(Effect::requests(&name, &["UH", "refused", "5xx"]))
            .maybe_remedy(if relabelled { relabel(fact) } else { reselect(fact) })
            .maybe_remedy(if relabelled { reselect(fact) } else { relabel(fact) })
            .prevention(Prevention::alert(
                "Alert when a Service has no ready endpoint",
                format!(
                    "sum by (namespace, endpointslice) (kube_endpointslice_endpoints{{namespace=\"{}\",endpointslice=~\"{}-.*\",ready=\"true\"}}) == 0",
                    name.namespace, name.name
                ),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: every Service's selector matches the template of a workload"))
    }
}

/// The workload beside a Service without pods that its selector probably means.
pub(super) fn resembling<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Option<&'a Workload> {
    let own =
        |w: &&Workload| w.object.owners.is_empty() && w.object.namespace() == service.object.namespace();
    let beside: Vec<&Workload> = snapshot.workloads.iter().filter(own).collect();
    nearest(service, &beside).map(|(workload, _)| workload)
}

type Difference<'a> = (&'a str, &'a str, Option<&'a str>);

/// The workload that the selector probably means: it shares most labels, and at least one that tells workloads apart; with
/// none shared, the one with all of the selector's keys that has the Service's own name, or values that differ by a letter.
fn nearest<'a>(service: &'a Service, beside: &[&'a Workload]) -> Option<(&'a Workload, Vec<Difference<'a>>)> {
    let serving =
        beside.iter().filter(|w| !matches!(w.reference().kind.as_str(), "Job" | "CronJob" | "ReplicaSet"));
    let scored = serving.filter_map(|workload| {
        let theirs = &workload.template.labels;
        let differ: Vec<Difference<'a>> = service
            .selector
            .iter()
            .filter(|(k, v)| theirs.get(k) != Some(*v))
            .map(|(k, v)| (k, v, theirs.get(k)))
            .collect();
        let shared =
            service.selector.iter().filter(|(k, v)| !is_common(k) && theirs.get(k) == Some(*v)).count();
        let same_name = workload.object.name() == service.object.name();
        let close = differ.iter().all(|(_, wanted, theirs)| {
            theirs.is_some_and(|theirs| same_name || near::nearest(wanted, [theirs]).is_some())
        });
        (shared > 0 || close).then_some(((shared, same_name), *workload, differ))
    });
    let mut best: Option<((usize, bool), &'a Workload, Vec<Difference<'a>>)> = None;
    for (score, workload, differ) in scored {
        if best.as_ref().is_none_or(|(least, _, _)| score > *least) {
            best = Some((score, workload, differ));
        }
    }
    best.map(|(_, workload, differ)| (workload, differ))
}

/// Whether a rollout took the label off the pods: then the workload was changed and not the Service.
fn relabelled(fact: &Fact<'_>, snapshot: &Snapshot) -> bool {
    if applied(&fact.service.object, "spec.selector").is_some_and(|old| old != json!(fact.service.selector)) {
        return false;
    }
    snapshot.changes.iter().filter(|c| c.subject.same_object(fact.workload.reference())).any(|change| {
        change.differences.iter().any(|d| {
            fact.differ.iter().any(|(key, wanted, _)| {
                d.path == format!("spec.template.metadata.labels.{key}") && d.before == **wanted
            })
        })
    })
}

/// Let the Service select what the workload carries.
fn reselect(fact: &Fact<'_>) -> Option<Remedy> {
    let operations: Vec<_> = fact
        .differ
        .iter()
        .map(|(key, _, theirs)| {
            let path = format!("/spec/selector/{}", pointer_segment(key));
            match theirs {
                Some(value) => json!({"op": "replace", "path": path, "value": value}),
                None => json!({"op": "remove", "path": path}),
            }
        })
        .collect();
    Remedy::patch(
        &fact.service.object,
        &json!(operations),
        format!(
            "Correct the selector of {}: select what the pods of {} carry",
            fact.service.reference(),
            fact.workload.reference()
        ),
    )
}

/// Let the pods carry what the Service selects; not where the workload's own selector forbids it.
fn relabel(fact: &Fact<'_>) -> Option<Remedy> {
    let owned = |key: &str| fact.workload.selector.match_labels.contains_key(key);
    if fact.differ.iter().any(|(key, _, _)| owned(key)) {
        return None;
    }
    let base = crate::analyze::remedy::pointer(&fact.workload.template_path("metadata.labels"));
    let operations: Vec<_> = fact
        .differ
        .iter()
        .map(|(key, value, _)| json!({"op": "add", "path": format!("{base}/{}", pointer_segment(key)), "value": value}))
        .collect();
    let reference: &ObjectRef = fact.workload.reference();
    Remedy::patch(
        &fact.workload.object,
        &json!(operations),
        format!("Give the pods of {reference} the labels that {} selects", fact.service.reference()),
    )
    .map(|remedy| remedy.risk(crate::analyze::remedy::Risk::Medium))
}
