//! SVC116.

use crate::model::json::json;

use super::identity::{self, Meant, words};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, Calls, since};
use crate::analyze::rules::seen;
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A Service selects pods of other applications than its own, and requests that reach them fail.
    ///
    /// ## What it detects
    /// A Service whose selector picks workloads that other Services stand for, beside or instead of the workload that is meant by the
    /// selector applied before, by the labels that the Service itself carries, or by its name; while calls to it fail.
    /// ## Why it matters
    /// Each request goes to any of the pods that the selector picks: those of another application answer with 404, with another
    /// protocol, or not at all, and all pods are ready all the while.
    /// ## Evidence
    /// The selector, the workloads that it picks, the Services that stand for those that are not meant, and the calls that fail.
    /// ## How to confirm
    /// `kubectl get pods -l SELECTOR --show-labels` lists pods of several applications.
    /// ## How to fix
    /// Add the label that only the meant pods carry to the selector.
    /// ## False positives
    /// Versions of one application behind one Service, and a Service over many applications on purpose (metrics, a mesh of peers): the
    /// former have no label of another application, of the latter no call fails, or nothing says which workload is meant.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#defining-a-service>
    SelectorTooBroad {
        code: "SVC116", name: "selector-picks-other-applications", family: Network, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// A Service in front of pods that are not its own.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    meant: Meant<'a>,
    /// Whether some of the meant workloads are among those that it selects.
    among: bool,
    /// Workloads that are not meant, each with the Service that stands for it.
    foreign: Vec<(&'a Workload, &'a Service)>,
    calls: Calls,
}

impl Check for SelectorTooBroad {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let failing = calls::failing(snapshot);
        let mut out = vec![];
        for service in &snapshot.services {
            if !service.has_selector() || !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            let name = service.service_name();
            let to_it = failing
                .all
                .iter()
                .filter(|c| c.service() == Some(&name) && c.severity() >= Severity::Warning);
            // A name that is not known, and a caller's own pool, tell nothing of who answers.
            let answered = to_it.filter(|c| {
                !c.passed_on() && !matches!(c.kind(), Some(Kind::NoSuchHost | Kind::Resolver | Kind::Pool))
            });
            let Some(calls) = answered.max_by_key(|c| c.count) else { continue };
            let Some(meant) = identity::meant(snapshot, service) else { continue };
            let is_meant =
                |w: &Workload| meant.workloads.iter().any(|m| m.reference().same_object(w.reference()));
            let behind: Vec<&Workload> = snapshot.workloads_behind(service).collect();
            let among = behind.iter().any(|w| is_meant(w));
            let foreign: Vec<(&Workload, &Service)> = behind
                .into_iter()
                .filter(|w| !is_meant(w))
                .filter_map(|w| {
                    let stands = |s: &&Service| {
                        s.object.name() != service.object.name()
                            && !meant
                                .workloads
                                .iter()
                                .any(|m| s.selects_labels(&name.namespace, &m.template.labels))
                    };
                    Some((w, snapshot.services_before(w).find(stands)?))
                })
                .collect();
            if !foreign.is_empty() {
                out.push(Fact { service, meant, among, foreign, calls: calls.clone() });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let subject = fact.service.reference().field("spec.selector");
        let selector = words(&fact.service.selector);
        let labels = words(&fact.meant.labels);
        let others: Vec<&str> = fact.foreign.iter().take(3).map(|(w, _)| w.object.name()).collect();
        let more = fact.foreign.len().saturating_sub(others.len());
        let others = match more {
            0 => others.join(", "),
            more => format!("{} and {more} more", others.join(", ")),
        };
        let own: Vec<String> =
            fact.meant.workloads.iter().take(3).map(|w| w.reference().to_string()).collect();
        let amount = format!("{} failed{}", fact.calls.amount(), since(fact.calls.first));
        let beside = if fact.among { "too" } else { "instead of its own" };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&selector])
            .title(format!("Service {name} selects {selector}: pods of {others} {beside}; {amount}"))
            .message(format!(
                "The selector {selector} of Service {name} picks pods of {others} {beside}, and requests that reach them fail: {amount} ({}). Meant is {} with {labels}: {}.",
                fact.calls.words(),
                own.join(", "),
                fact.meant.why
            ))
            .mechanism("selector too broad: the Service selects pods of other applications")
            .severity(fact.calls.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .evidence(Evidence::object(&subject, format!("selects {selector}")))
            .evidences(fact.foreign.iter().take(3).map(|(workload, stands)| {
                Evidence::object(
                    workload.reference(),
                    format!("its pods are selected, and Service {} stands for them", stands.service_name()),
                )
            }))
            .evidences(fact.calls.evidence())
            .onset(fact.calls.first)
            .effect(Effect::requests(&name, &fact.calls.flags()))
            .maybe_remedy(narrow(fact))
            .prevention(Prevention::of("Test", "In the pipeline: the workloads that one Service selects carry one value of app.kubernetes.io/name (or app)"))
            .prevention(Prevention::alert(
                "Alert on answers of a Service that are not its own",
                format!("sum by (destination_workload) (rate(istio_requests_total{{reporter=\"source\",destination_service_name=\"{}\",response_code=\"404\"}}[2m])) > 0", name.name),
            ));
        for workload in fact.meant.workloads.iter().take(2) {
            finding = finding.related(workload.reference().clone());
        }
        finding
    }
}

/// Selects the meant pods alone: with what is missing added, or anew where what stands there is not theirs.
fn narrow(fact: &Fact<'_>) -> Option<Remedy> {
    let selector = &fact.service.selector;
    let theirs = selector
        .iter()
        .all(|(key, value)| fact.meant.workloads.iter().all(|w| w.template.labels.get(key) == Some(value)));
    let service = fact.service.reference();
    let labels = words(&fact.meant.labels);
    let (operations, summary) = if theirs {
        let lacking = fact.meant.labels.iter().filter(|(key, value)| selector.get(key) != Some(*value));
        let operations: Vec<_> = lacking
            .map(|(key, value)| json!({"op": "add", "path": format!("/spec/selector/{}", pointer_segment(key)), "value": value}))
            .collect();
        (
            json!(operations),
            format!("Add {labels} to spec.selector of {service}: it then selects its own pods alone"),
        )
    } else {
        let operations = json!([{"op": "replace", "path": "/spec/selector", "value": fact.meant.labels}]);
        (operations, format!("Set spec.selector of {service} to {labels}: it then selects its own pods"))
    };
    Remedy::patch(&fact.service.object, &operations, summary)
}
