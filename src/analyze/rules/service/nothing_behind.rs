//! SVC119.

use super::gone::{Gone, gone};
use super::identity::words as labels;
use super::selector_matches_nothing::resembling;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, resource, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::analyze::take_back::command;
use crate::analyze::traffic::text;
use crate::model::change::{Release, Tool};
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// Callers fail at a Service behind which nothing runs: its workload was deleted, or was never there.
    ///
    /// ## What it detects
    /// A Service that callers fail at, whose selector matches no pod and no pod template of its namespace, and that no other workload
    /// was meant for. Where events still tell of pods that fit and that are gone, their workload is named.
    /// ## Why it matters
    /// A deleted workload leaves its Service, its routes and its policies behind: all of them look right, and every request fails
    /// with `503 UH` or a refused connection. No event is made of a deletion.
    /// ## Evidence
    /// The selector, which matches nothing; the kubelet's `Killing` events about pods that are gone; failed calls.
    /// ## How to confirm
    /// `kubectl get deployments,statefulsets,daemonsets -o wide` shows no workload with the selector's labels. The API server's audit log
    /// says who deleted it.
    /// ## How to fix
    /// Deploy the workload again from where its manifest is kept.
    /// ## False positives
    /// A workload of a kind that is not read (of an operator's own) and that has no pod at the moment.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#defining-a-service>
    NothingBehind {
        code: "SVC119", name: "nothing-behind-service", family: Network, severity: Error,
        needs: [Objects, Status], aliases: [],
    }
}

/// A Service without anything behind it.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    gone: Option<Gone>,
    seen: Seen,
}

impl Check for NothingBehind {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut refused = None;
        let mut out = vec![];
        for service in &snapshot.services {
            let namespace = service.object.namespace();
            if !service.has_selector()
                || !seen::wanted(snapshot, namespace)
                || snapshot.workloads_behind(service).next().is_some()
                || snapshot.pods_behind(service).next().is_some()
                || !looked_at(snapshot, service)
            {
                continue;
            }
            let name = service.service_name();
            let errors = refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
            let seen = seen::outcomes(snapshot.traffic_to(&name, Reporter::Source), |_, o| o.has_flag("UH"))
                .and(seen::together(errors.get(&name)));
            if !seen.any() {
                continue;
            }
            let other = resembling(snapshot, service);
            let gone = gone(snapshot, service, other);
            if gone.is_some() || other.is_none() {
                out.push(Fact { service, gone, seen });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (service, name) = (fact.service.reference(), fact.service.service_name());
        let selector = labels(&fact.service.selector);
        let field = service.field("spec.selector");
        let (subject, title, message) = match &fact.gone {
            Some(gone) => {
                let until = gone.until.map(|at| format!(" until {}", text::clock(at))).unwrap_or_default();
                (
                    gone.workload.clone(),
                    format!(
                        "{} {} is gone: Service {} has no pods",
                        gone.workload.kind, gone.workload.name, name.name
                    ),
                    format!(
                        "Events tell of pods of {}{until}; neither it nor a pod of it is there now, and nothing else in namespace {} carries {selector}. {service} has no endpoint, so every request to it fails.",
                        gone.workload, name.namespace
                    ),
                )
            }
            None => (
                field.clone(),
                format!("Nothing runs behind Service {}: no workload carries {selector}", name.name),
                format!(
                    "The selector {selector} of {service} matches no pod and no pod template of a Deployment, StatefulSet, DaemonSet or Job in namespace {}, and none of them resembles it. {service} has no endpoint, so every request to it fails: its workload was deleted, or was never deployed here.",
                    name.namespace
                ),
            ),
        };
        let killed = fact.gone.as_ref().and_then(|gone| {
            let pod = gone.pod.as_ref()?;
            Some(Evidence::new("Event", pod.to_string(), "was ended, and has no successor").at(gone.until))
        });
        let mut finding = Finding::new(Self::META, subject, &[&selector])
            .title(title)
            .message(message)
            .mechanism("nothing behind the Service: its workload was deleted or never deployed, no pods, no endpoints")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .evidence(Evidence::object(&field, format!("selects {selector}; 0 pods and 0 workloads match")))
            .evidences(killed)
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .effect(Effect::requests(&name, &["UH", "refused", "5xx"]))
            .remedy(again(fact))
            .prevention(Prevention::alert(
                "Alert when a Service has no ready endpoint",
                format!(
                    "sum by (namespace, endpointslice) (kube_endpointslice_endpoints{{namespace=\"{}\",endpointslice=~\"{}-.*\",ready=\"true\"}}) == 0",
                    name.namespace, name.name
                ),
            ))
            .prevention(Prevention::of("Policy", "Let workloads that serve be deleted through the pipeline alone (RBAC without the verb delete, or a ValidatingAdmissionPolicy)"));
        if fact.gone.is_some() {
            finding = finding.related(field);
        }
        finding
    }
}

/// Whether what could stand behind a Service was read: its EndpointSlices, or some workload beside it.
fn looked_at(snapshot: &Snapshot, service: &Service) -> bool {
    let beside = |namespace: &str| namespace == service.object.namespace();
    match snapshot.slices_of(service).next() {
        Some(_) => snapshot.endpoints(service).is_some_and(|(_, all)| all == 0),
        None => snapshot.workloads.iter().any(|w| beside(w.object.namespace())),
    }
}

/// Deploys what is gone again: with the tool that the Service itself came with, where that is known.
fn again(fact: &Fact<'_>) -> Remedy {
    let service = fact.service.reference();
    let what = fact
        .gone
        .as_ref()
        .map_or_else(|| format!("the workload of {service}"), |gone| gone.workload.to_string());
    let Some(release) = Release::of(&fact.service.object) else {
        return Remedy::manual(format!(
            "Apply {what} again from where its manifest is kept: Kubernetes does not keep what was deleted. The audit log of the API server says who deleted it"
        ));
    };
    let act = |verb: &str| command(&release, verb);
    let command = match release.tool {
        Tool::Helm => format!("{} | kubectl {}apply -f -", act("get manifest"), scope(service)),
        Tool::ArgoCd => act("sync"),
        Tool::FluxHelm => format!("{} --force", act("reconcile")),
        Tool::FluxKustomize => format!("{} --with-source", act("reconcile")),
    };
    let summary = format!("Deploy {what} again with {release}, which {service} came with");
    match &fact.gone {
        Some(gone) => {
            let back = format!(
                "kubectl {}delete {} {}",
                scope(&gone.workload),
                resource(&gone.workload),
                quote(&gone.workload.name)
            );
            Remedy::commands(summary, vec![command], vec![back])
        }
        None => Remedy::lasting(summary, vec![command], "what comes with it is not known before"),
    }
    .risk(Risk::Medium)
}
