//! SVC114.

use crate::model::json::json;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// One of several ready pods gets nearly all requests of a Service, because of how the Service is resolved.
    ///
    /// ## What it detects
    /// A headless Service (`clusterIP: None`), or one with `sessionAffinity: ClientIP`, with three ready pods or more of which one
    /// serves two and a half times the mean and more, by requests that the pods count.
    /// ## Why it matters
    /// The pods that are idle cost and do not help: the busy one is slow or runs out of memory, and adding replicas changes nothing.
    /// ## Evidence
    /// Requests of each pod over the time that is looked at, and the Service's field.
    /// ## How to confirm
    /// `sum by (pod) (rate(http_server_requests_seconds_count[5m]))` of the Service's pods.
    /// ## How to fix
    /// Clients of a headless Service choose by themselves: let gRPC use `round_robin` instead of `pick_first`, or give the Service an
    /// address. Where all clients come from one address (a proxy, a NAT), set `sessionAffinity` to `None`.
    /// ## False positives
    /// A leader among replicas takes all writes on purpose. Services with an address and without affinity are spread by connection
    /// and are not looked at.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#headless-services> <https://grpc.io/docs/guides/custom-load-balancing/>
    OnePodTakesMost {
        code: "SVC114", name: "one-pod-takes-most", family: Network, severity: Warning,
        needs: [Objects, Metrics], aliases: ["SVC-HEADLESS"],
    }
}

/// Counters of requests served, by common frameworks; the first that all the pods have decides.
const SERVED: &[&str] = &[
    "http_server_requests_seconds_count",
    "http_server_request_duration_seconds_count",
    "http_requests_total",
    "http_request_duration_seconds_count",
    "grpc_server_handled_total",
];
/// Pods from which on an imbalance is one, and how uneven it must be.
const MIN_PODS: usize = 3;
const TIMES_MEAN: f64 = 2.5;
/// Fewer requests than these are chance.
const MIN_REQUESTS: f64 = 200.0;

/// Why the requests are not spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Headless,
    Affinity,
}

/// A Service whose requests go to one pod.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    why: Why,
    busiest: &'a Pod,
    most: f64,
    all: f64,
    pods: usize,
    metric: &'static str,
}

impl Check for OnePodTakesMost {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let suspects: Vec<(&Service, Why)> = snapshot
            .services
            .iter()
            .filter(|s| snapshot.in_scope(s.object.namespace()) && !s.selector.is_empty())
            .filter_map(|s| Some((s, why(s)?)))
            .collect();
        if suspects.is_empty() {
            return vec![];
        }
        let counted = counted(snapshot);
        suspects.into_iter().filter_map(|(service, why)| uneven(snapshot, service, why, &counted)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let service = fact.service.service_name();
        let share = fact.most * 100.0 / fact.all.max(1.0);
        let owner = snapshot.owner(fact.busiest);
        let (field, because) = match fact.why {
            Why::Headless => (
                "spec.clusterIP",
                "the Service is headless, so each client chooses a pod itself, and keeps it",
            ),
            Why::Affinity => (
                "spec.sessionAffinity",
                "sessionAffinity ClientIP sends one client's address to one pod, and here most come from one address",
            ),
        };
        let subject = fact.service.object.reference.field(field);
        let mut finding = Finding::new(Self::META, subject.clone(), &[])
            .title(format!("One of {} pods of Service {service} gets {share:.0} % of its requests", fact.pods))
            .message(format!(
                "{} serves {:.0} of {:.0} requests ({share:.0} %) of Service {service}, and {} others stand by: {because}.",
                fact.busiest.object.reference,
                fact.most,
                fact.all,
                fact.pods - 1
            ))
            .mechanism("uneven load: one pod takes most requests (headless, session affinity)")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(service.clone()))
            .related(owner.clone())
            .evidence(Evidence::new("Metric", format!("{} of {}", fact.metric, fact.busiest.object.reference), format!("{:.0} of {:.0} requests of {} pods", fact.most, fact.all, fact.pods)))
            .evidence(Evidence::object(&subject, match fact.why {
                Why::Headless => "None",
                Why::Affinity => "ClientIP",
            }))
            .effect(Effect::requests(&service, &["slow", "timeout", "UT", "UO"]))
            .effect(Effect::pods(&owner));
        finding = match fact.why {
            Why::Headless => finding.remedy(Remedy::manual("Let clients use round_robin over all addresses (gRPC: the service config's loadBalancingConfig), look the name up again regularly, or call a Service with an address")),
            Why::Affinity => finding.maybe_remedy(
                Remedy::patch(
                    &fact.service.object,
                    &json!([{"op": "replace", "path": "/spec/sessionAffinity", "value": "None"}]),
                    "Set sessionAffinity to None: connections are spread over all pods",
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            ),
        };
        finding.prevention(Prevention::alert(
            "Alert when one pod of a Service does the work of three",
            format!("max by (namespace) (rate(http_server_requests_seconds_count{{{0}}}[5m])) / avg by (namespace) (rate(http_server_requests_seconds_count{{{0}}}[5m])) > 3", common::pod_matcher(&owner)),
        ))
    }
}

/// The field of a Service by which its clients stick to one pod.
fn why(service: &Service) -> Option<Why> {
    let body = &service.object.body;
    if body.text("spec.sessionAffinity") == Some("ClientIP") {
        return Some(Why::Affinity);
    }
    (body.text("spec.clusterIP") == Some("None")).then_some(Why::Headless)
}

type Counts<'a> = BTreeMap<(&'static str, &'a str, &'a str), f64>;

/// Requests that each pod counted, by metric, namespace and name.
fn counted(snapshot: &Snapshot) -> Counts<'_> {
    let mut out = Counts::new();
    for series in &snapshot.series {
        let Some(name) = SERVED.iter().find(|name| **name == series.name) else { continue };
        if let Some(grown) = series.total_increase() {
            *out.entry((name, series.label("namespace"), series.label("pod"))).or_default() += grown;
        }
    }
    out
}

fn uneven<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    why: Why,
    counted: &Counts<'_>,
) -> Option<Fact<'a>> {
    let pods: Vec<&Pod> = snapshot.pods_behind(service).filter(|pod| pod.ready()).collect();
    if pods.len() < MIN_PODS {
        return None;
    }
    SERVED.iter().find_map(|metric| {
        let each: Option<Vec<(f64, &Pod)>> = pods
            .iter()
            .map(|pod| Some((*counted.get(&(*metric, pod.object.namespace(), pod.object.name()))?, *pod)))
            .collect();
        let each = each?;
        let all: f64 = each.iter().map(|(n, _)| n).sum();
        let (most, busiest) = each.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
        let uneven = all >= MIN_REQUESTS && most >= TIMES_MEAN * all / pods.len() as f64;
        uneven.then_some(Fact { service, why, busiest, most, all, pods: pods.len(), metric })
    })
}
