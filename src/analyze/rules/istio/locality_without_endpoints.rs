//! ISTIO147.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::support::{parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::fields::Fields;
use crate::model::json::json;
use crate::model::mesh::istio::{DestinationRule, service_of_host};
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// A DestinationRule sends requests to localities in which the callee has no endpoint.
    ///
    /// ## What it detects
    /// `localityLbSetting.distribute` whose targets hold no ready pod of the host, by the zones and regions of the nodes.
    /// ## Why it matters
    /// `distribute` replaces the choice by health: callers of that locality get `503 UH` while pods elsewhere are idle.
    /// ## Evidence
    /// The setting, the localities of the nodes on which the callee's ready pods run, the flag `UH`.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster NAME -o json` shows localities and their weights.
    /// ## How to fix
    /// Name localities that have pods, or use `failover` with outlierDetection, or take the setting out.
    /// ## False positives
    /// A locality that is being built up, and of which no caller exists yet.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/>
    LocalityWithoutEndpoints {
        code: "ISTIO147", name: "locality-without-endpoints", family: Mesh, severity: Warning,
        needs: [Istio, Status], aliases: [],
    }
}

/// A distribution into the void.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    index: usize,
    from: String,
    to: Vec<String>,
    /// Where the callee's ready pods are: `region/zone`.
    homes: BTreeSet<String>,
    service: ServiceName,
    seen: Option<Failures>,
}

impl Check for LocalityWithoutEndpoints {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let groups = failures(snapshot, Way::NoHealthyUpstream);
        let mut out = vec![];
        for rule in &snapshot.istio.destination_rules {
            let entries =
                rule.object.body.list("spec.trafficPolicy.loadBalancer.localityLbSetting.distribute");
            if entries.is_empty() {
                continue;
            }
            let Some((namespace, name)) = service_of_host(&rule.full_host()) else { continue };
            let service = ServiceName::new(namespace, name);
            let Some(known) = snapshot.service(&service).filter(|s| snapshot.in_scope(s.object.namespace()))
            else {
                continue;
            };
            let Some(homes) = homes(snapshot, known) else { continue };
            let callers = localities(snapshot);
            for (index, entry) in entries.iter().enumerate() {
                let from = entry.string("from");
                let to: Vec<String> = weights(entry);
                let lands = to.iter().any(|target| homes.iter().any(|home| covers(target, home)));
                // A source that no node has sends nothing.
                let applies = callers.iter().any(|home| covers(&from, home));
                if to.is_empty() || lands || !applies {
                    continue;
                }
                let seen = groups.iter().find(|g| {
                    g.callee.service.as_ref() == Some(&service) && g.callee.reporter == Reporter::Source
                });
                out.push(Fact {
                    rule,
                    index,
                    from,
                    to,
                    homes: homes.clone(),
                    service: service.clone(),
                    seen: seen.cloned(),
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let path = format!("spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[{}]", fact.index);
        let subject = fact.rule.reference().field(&path);
        let to = text::plain(&fact.to.join(", "), 80);
        let homes: Vec<&str> = fact.homes.iter().take(4).map(String::as_str).collect();
        let homes = text::plain(&homes.join(", "), 120);
        let name = &fact.service.name;
        let severity = fact.seen.as_ref().and_then(Failures::severity).unwrap_or(Severity::Warning);
        let figures = fact.seen.as_ref().map(|group| {
            format!(
                " {} found no endpoint{}.",
                text::share(group.count, group.requests, "requests"),
                since(group.onset)
            )
        });
        Finding::new(Self::META, subject.clone(), &[name])
            .title(format!("{} sends calls to {name} to {to}, where it has no ready pod", fact.rule.reference()))
            .message(format!(
                "Callers in {} are told to use {to}. The ready pods of {name} run in {homes}, so they find none.{}",
                text::plain(&fact.from, 60),
                figures.unwrap_or_default()
            ))
            .mechanism("locality distribution to a locality without endpoints: no healthy upstream")
            .severity(severity)
            .role(Role::Cause, if fact.seen.is_some() { Confidence::Observed } else { Confidence::Possible })
            .service(Some(fact.service.clone()))
            .onset(fact.seen.as_ref().and_then(|group| group.onset))
            .evidence(Evidence::object(&subject, format!("from {} to {to}", text::plain(&fact.from, 60))))
            .evidence(Evidence::object(&fact.service.reference(), format!("ready pods in {homes}")))
            .evidences(fact.seen.iter().flat_map(parts))
            .effect(Effect::requests(&fact.service, &["UH", "5xx"]))
            .maybe_remedy(Remedy::patch(
                &fact.rule.object,
                &json!([{"op": "remove", "path": pointer(&path)}]),
                "Remove this entry of distribute: its callers then use every locality that has endpoints",
            ))
            .prevention(Prevention::alert(
                "Alert when callers find no endpoint",
                format!("sum(rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UH.*\",destination_service_name=\"{}\"}}[2m])) > 0", text::plain(name, 63)),
            ))
    }
}

/// The localities to which a share above zero goes.
fn weights(entry: &Value) -> Vec<String> {
    let to = entry.map("to").into_iter().flatten();
    to.filter(|(_, weight)| weight.as_i64().is_none_or(|w| w > 0))
        .map(|(locality, _)| locality.to_string())
        .collect()
}

/// Whether `region/zone/*` or `region` covers `region/zone`.
fn covers(pattern: &str, home: &str) -> bool {
    let mut parts = home.split('/');
    pattern.split('/').filter(|part| !part.is_empty()).take(2).all(|wanted| {
        let own = parts.next().unwrap_or_default();
        wanted == "*" || wanted == own
    })
}

/// `region/zone` of a node.
fn locality(snapshot: &Snapshot, node: &str) -> Option<String> {
    let labels = &snapshot.object("Node", "", node)?.labels;
    let region = labels.get("topology.kubernetes.io/region")?;
    Some(format!("{region}/{}", labels.get("topology.kubernetes.io/zone").unwrap_or("")))
}

/// Where the ready pods of a Service run; `None` where one of them cannot be placed.
fn homes(snapshot: &Snapshot, service: &Service) -> Option<BTreeSet<String>> {
    let ready = snapshot.pods_behind(service).filter(|pod| pod.ready());
    let found: Option<BTreeSet<String>> = ready.map(|pod| locality(snapshot, &pod.node)).collect();
    found.filter(|homes| !homes.is_empty())
}

/// All localities of nodes that run pods.
fn localities(snapshot: &Snapshot) -> BTreeSet<String> {
    let nodes: BTreeSet<&str> = snapshot.pods.iter().map(|pod| pod.node.as_str()).collect();
    nodes.into_iter().filter_map(|node| locality(snapshot, node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_are_covered_by_patterns() {
        assert!(covers("eu/a/*", "eu/a"));
        assert!(covers("eu/*", "eu/a"));
        assert!(covers("eu", "eu/a"));
        assert!(!covers("eu/b", "eu/a"));
    }
}
