//! LINKERD101.

use std::collections::BTreeMap;

use super::lines::{Call, calls};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::support::{Said, since};
use crate::analyze::traffic::text;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Linkerd's proxies fail requests at once, because a Service has no endpoint that answers.
    ///
    /// ## What it detects
    /// `Service entering failfast` or `fail-fast` in logs of callers' proxies, and `load shed` where their queue is full.
    /// ## Why it matters
    /// After three seconds without an endpoint every request fails at once with 503 or 504, until one is there again.
    /// ## Evidence
    /// The lines, the Service that they name, its ready endpoints.
    /// ## How to confirm
    /// `linkerd diagnostics endpoints AUTHORITY`, and `outbound_http_balancer_endpoints` of the callers.
    /// ## How to fix
    /// Bring endpoints back; for `load shed` give the callee more capacity.
    /// ## False positives
    /// A few seconds while the only pod is replaced.
    /// ## References
    /// <https://linkerd.io/2-edge/tasks/debugging-502s/>
    LinkerdFailfast {
        code: "LINKERD101", name: "linkerd-failfast", family: Traffic, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// A Service that callers give up on.
#[derive(Debug)]
pub struct Fact {
    service: ServiceName,
    callers: BTreeMap<ObjectRef, Said>,
    /// Ready endpoints and all.
    endpoints: Option<(usize, usize)>,
    shed: bool,
}

impl Check for LinkerdFailfast {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let words = ["entering failfast", "fail-fast", "failfast", "load shed", "loadshed"];
        let mut found: BTreeMap<ServiceName, BTreeMap<ObjectRef, Said>> = BTreeMap::new();
        for Call { workload, pod, service, at, line, outbound } in calls(snapshot, &words) {
            if let Some(service) = service.filter(|_| outbound) {
                found.entry(service).or_default().entry(workload).or_default().add(pod, at, line);
            }
        }
        found
            .into_iter()
            .map(|(service, callers)| Fact {
                endpoints: snapshot.service(&service).and_then(|known| snapshot.endpoints(known)),
                shed: callers.values().all(|said| said.text.contains("shed")),
                service,
                callers,
            })
            .collect()
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let name = &fact.service.name;
        let count: u64 = fact.callers.values().map(|said| said.count).sum();
        let onset = fact.callers.values().filter_map(|said| said.first).min();
        let callers: Vec<&str> = fact.callers.keys().take(3).map(|w| w.name.as_str()).collect();
        let callers = text::plain(&callers.join(", "), 100);
        let endpoints = match fact.endpoints {
            Some((0, all)) => format!("none of its {all} endpoints is ready"),
            Some((ready, all)) => format!(
                "{ready} of its {all} endpoints are ready, so they were taken out for failing or cannot be reached"
            ),
            None => "its endpoints were not seen".to_owned(),
        };
        let what =
            if fact.shed { "shed load: their queue for it is full" } else { "fail its requests at once" };
        Finding::new(Self::META, fact.service.reference(), &[])
            .title(format!("{callers} → {name}: Linkerd's proxies {what}{}", since(onset)))
            .message(format!("Proxies of {callers} logged {} times that they {what}; {endpoints}.", text::number(count)))
            .mechanism(if fact.shed { "load shed: the callee is overloaded" } else { "fail-fast: no endpoint that answers" })
            .severity(Severity::Error)
            .role(Role::Symptom, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .onset(onset)
            .evidences(fact.callers.iter().take(4).map(|(workload, said)| said.evidence(format!("linkerd-proxy of {workload}"))))
            .effect(Effect::requests(&fact.service, if fact.shed { &["slow", "5xx"] } else { &["UH", "5xx"] }))
            .maybe_remedy(start_again(fact, snapshot))
            .remedy(Remedy::commands(
                "See which endpoints are ready",
                vec![format!("kubectl -n {} get endpointslices -l kubernetes.io/service-name={} -o wide", quote(&fact.service.namespace), quote(name))],
                vec![],
            ))
            .prevention(Prevention::alert("Alert on requests that fail fast", "sum by (namespace, deployment) (rate(outbound_http_errors_total{error=~\"failfast|loadshed\"}[5m])) > 0"))
    }
}

/// Starts the callee again, where it is scaled to zero.
fn start_again(fact: &Fact, snapshot: &Snapshot) -> Option<Remedy> {
    let service =
        snapshot.service(&fact.service).filter(|_| fact.endpoints.is_some_and(|(ready, _)| ready == 0))?;
    let own = snapshot.workloads_behind(service).find(|w| w.replicas == Some(0))?.reference();
    Some(Remedy::scale(own, 0, 1, format!("Scale {own} to 1 replica: it is scaled to zero")))
}
