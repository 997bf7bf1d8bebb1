//! SVC110.

use jiff::Timestamp;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen;
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// The endpoints of a Service do not follow its pods.
    ///
    /// ## What it detects
    /// A Service with a selector whose EndpointSlices lack a pod that has been ready for more than a minute.
    /// ## Why it matters
    /// The pods are well and get no traffic, or too little: whoever writes EndpointSlices, a part of the kube-controller-manager, does
    /// not keep up or does not run. Rollouts then send traffic to pods that are gone.
    /// ## Evidence
    /// The addresses of the ready pods against those in the EndpointSlices.
    /// ## How to confirm
    /// `kubectl get endpointslices -l kubernetes.io/service-name=SERVICE` against `kubectl get pods -o wide`.
    /// ## How to fix
    /// Bring the kube-controller-manager back; its log says why it cannot write.
    /// ## False positives
    /// A pod that became ready within the last minute, one that is going away, and a Service without a selector, whose endpoints
    /// somebody else writes.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>
    StaleEndpoints {
        code: "SVC110", name: "endpoints-out-of-date", family: Network, severity: Error,
        needs: [Status], aliases: ["SVC-STALE-EP"],
    }
}

/// A Service whose slices lack ready pods.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    lacking: Vec<&'a Pod>,
    ready: usize,
    since: Option<Timestamp>,
}

/// Slices follow within seconds, in a busy cluster within a minute.
const PATIENCE_SECONDS: f64 = 60.0;

impl Check for StaleEndpoints {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        // Without a single slice, or with a list that was cut, nobody can say what stands in them.
        if snapshot.slices.is_empty() || snapshot.gaps.iter().any(|gap| gap.what.contains("endpointslices")) {
            return out;
        }
        let mut known: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
        for slice in &snapshot.slices {
            let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
            known.extend(addresses.map(|ip| (slice.object.namespace(), slice.service.as_str(), ip.as_str())));
        }
        let collected: BTreeSet<(&str, &str)> =
            snapshot.slices.iter().map(|s| (s.object.namespace(), s.service.as_str())).collect();
        for service in &snapshot.services {
            let (namespace, name) = (service.object.namespace(), service.object.name());
            let slices = collected.contains(&(namespace, name));
            if !service.has_selector() || !slices || !seen::wanted(snapshot, namespace) {
                continue;
            }
            let since = |pod: &Pod| pod.condition("Ready").and_then(|c| c.since);
            let settled = |pod: &&Pod| {
                let old =
                    since(pod).is_some_and(|at| common::seconds_between(at, snapshot.now) > PATIENCE_SECONDS);
                pod.ready() && old && !pod.ips.is_empty()
            };
            let pods: Vec<&Pod> = snapshot.pods_behind(service).filter(settled).collect();
            let listed =
                |pod: &&Pod| pod.ips.iter().any(|ip| known.contains(&(namespace, name, ip.as_str())));
            let lacking: Vec<&Pod> = pods.iter().copied().filter(|pod| !listed(pod)).collect();
            if !lacking.is_empty() {
                let since = lacking.iter().filter_map(|pod| since(pod)).min();
                out.push(Fact { service, ready: pods.len(), lacking, since });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let all = fact.lacking.len() == fact.ready;
        let share = common::plural_of(fact.lacking.len(), fact.ready, "ready pod");
        let r = fact.service.reference();
        let owners: BTreeSet<ObjectRef> = fact.lacking.iter().map(|pod| snapshot.owner(pod)).collect();
        let mut finding = Finding::new(Self::META, r.clone(), &[])
            .title(format!("Service {name}: its endpoints lack {share}"))
            .message(format!(
                "{share} of Service {name} stand in none of its EndpointSlices, though they have been ready for more than a minute: what writes EndpointSlices does not follow the pods.{}",
                if all { " The Service has no endpoint that works." } else { "" }
            ))
            .mechanism("endpoints out of date: the EndpointSlices do not follow the pods")
            .severity(if all { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .evidences(fact.lacking.iter().take(3).map(|pod| {
                Evidence::object(&pod.object.reference, format!("ready with address {}, in no EndpointSlice", pod.ips.join(", "))).at(fact.since)
            }))
            .onset(fact.since)
            .effect(Effect::requests(&name, if all { common::DOWN } else { &["slow", "UO", "timeout"] }));
        for owner in owners.into_iter().take(2) {
            finding = finding.related(owner);
        }
        finding
            .remedy(Remedy::commands(
                "Bring back what writes EndpointSlices: the kube-controller-manager; its lease shows when it worked last",
                vec![
                    format!("kubectl {}get endpointslices -l kubernetes.io/service-name={}", scope(r), quote(&name.name)),
                    "kubectl -n kube-system get lease kube-controller-manager -o yaml".to_owned(),
                ],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when endpoints do not follow",
                "histogram_quantile(0.99, sum by (le) (rate(kubeproxy_network_programming_duration_seconds_bucket[5m]))) > 10",
            ))
    }
}
