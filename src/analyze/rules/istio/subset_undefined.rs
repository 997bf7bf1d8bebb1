//! ISTIO103.

use crate::model::json::json;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts::{self, Hosts, Known};
use crate::analyze::rules::near::{applied, nearest};
use crate::analyze::rules::seen::{self, Seen};
use crate::analyze::traffic::text;
use crate::model::mesh::istio::{DestinationRule, VirtualService, full_host};
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route sends requests to a subset that no DestinationRule defines.
    ///
    /// ## What it detects
    /// A destination of a VirtualService with a `subset` that none of the DestinationRules has which count for its callers:
    /// Istio looks in the client's namespace, then in the Service's, then in the root namespace, and a rule in the first
    /// hides those in the others. A rule whose `exportTo` leaves the client out does not count.
    /// ## Why it matters
    /// The proxy has a route to a cluster that does not exist and answers `503 NC cluster_not_found`: exactly the share of
    /// requests that the route's weight says.
    /// ## Evidence
    /// The subset's name against the subsets that are defined; access-log records with the flag `NC`.
    /// ## How to confirm
    /// `istioctl proxy-config clusters POD --fqdn HOST` lists no cluster with this subset.
    /// ## How to fix
    /// Write the name of a subset that exists, or define the subset.
    /// ## False positives
    /// A route with weight 0. Rules of namespaces that were not read are not known.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#Subset>
    SubsetUndefined {
        code: "ISTIO103", name: "subset-undefined", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0101", "KIA1107"],
    }
}

/// A subset that nobody defines.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    subset: String,
    path: String,
    weight: Option<i64>,
    service: Option<&'a Service>,
    host: String,
    /// The rules that count.
    rules: Vec<&'a DestinationRule>,
    /// A rule that defines it and is hidden from callers in this namespace.
    hidden: Option<(&'a DestinationRule, String)>,
    seen: Seen,
}

impl Check for SubsetUndefined {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let known = Hosts::new(snapshot);
        let mut out = vec![];
        if hosts::unread(snapshot, "destinationrules") {
            return out;
        }
        let rules_of = LazyCell::new(|| {
            let mut all: BTreeMap<String, Vec<&'a DestinationRule>> = BTreeMap::new();
            for rule in &snapshot.istio.destination_rules {
                all.entry(rule.full_host()).or_default().push(rule);
            }
            all
        });
        for virtual_service in &snapshot.istio.virtual_services {
            let namespace = virtual_service.object.namespace();
            if !seen::configured(namespace) {
                continue;
            }
            for route in &virtual_service.routes {
                let targets = route
                    .destinations
                    .iter()
                    .map(|d| (d.host.clone(), d.subset.clone(), d.path.clone(), d.weight));
                let mirrors = hosts::mirrors(route)
                    .into_iter()
                    .map(|(host, subset, _, path)| (host, subset, path, Some(0)));
                for (host, subset, path, weight) in
                    targets.chain(mirrors).filter(|(_, subset, _, _)| !subset.is_empty())
                {
                    let service = match known.look_up(&host, namespace) {
                        Known::Service(service) => Some(service),
                        Known::Entry(_) => None,
                        Known::Nothing | Known::Unseen => continue,
                    };
                    let full = full_host(&host, namespace);
                    let mut clients: BTreeSet<&str> = [namespace].into();
                    if let Some(service) = service {
                        let name = service.service_name();
                        clients.extend(
                            snapshot
                                .graph
                                .edges
                                .keys()
                                .filter(|(_, to)| *to == name)
                                .map(|(from, _)| from.namespace.as_str()),
                        );
                    }
                    let defines = |rule: &&DestinationRule| rule.subsets.iter().any(|s| s.name == subset);
                    let lacking = clients.iter().find_map(|client| {
                        let rules = snapshot.istio.destination_rules_for(&full, client);
                        (!rules.iter().any(&defines)).then_some((*client, rules))
                    });
                    let Some((client, rules)) = lacking else { continue };
                    let mut same = rules_of.get(&full).into_iter().flatten().copied();
                    let hidden = same.find(&defines).map(|rule| (rule, client.to_owned()));
                    let seen = hosts::no_cluster(snapshot, virtual_service, route);
                    out.push(Fact {
                        virtual_service,
                        subset,
                        path: format!("{path}.subset"),
                        weight,
                        service,
                        host: full,
                        rules,
                        hidden,
                        seen,
                    });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.virtual_service.reference();
        let callee = fact.service.map(Service::service_name);
        let service = hosts::service_of(snapshot, fact.virtual_service).or(callee);
        let defined: BTreeSet<&str> =
            fact.rules.iter().flat_map(|r| &r.subsets).map(|s| s.name.as_str()).collect();
        let defined_words = match (fact.rules.first(), defined.is_empty()) {
            (None, _) => format!("no DestinationRule is for {}", fact.host),
            (Some(rule), true) => format!("{} defines no subset", rule.reference()),
            (Some(rule), false) => format!(
                "{} defines {}",
                rule.reference(),
                defined.iter().copied().collect::<Vec<_>>().join(", ")
            ),
        };
        let kept = kept_back(fact);
        let hidden = fact.hidden.as_ref().map(|(rule, client)| {
            let why = if kept.is_some() {
                format!("it is exported to {} alone", text::plain(&rule.export_to.join(", "), 80))
            } else {
                "one nearer to them hides it".to_owned()
            };
            format!(
                " {} defines it, and callers in namespace {client} do not see that rule: {why}.",
                rule.reference()
            )
        });
        let idle = fact.weight == Some(0);
        let severity = match (fact.seen.any(), idle || snapshot.runs()) {
            (true, _) | (false, false) => Severity::Error,
            (false, true) => Severity::Warning,
        };
        let share = fact
            .weight
            .filter(|w| *w > 0 && *w < 100)
            .map_or("requests".to_owned(), |w| format!("{w} % of its requests"));
        let rule = fact.rules.first().copied();
        let named = reference.field(&fact.path);
        let (subject, related, title) = match kept {
            Some(rule) => (
                rule.reference().field("spec.exportTo"),
                Some(named.clone()),
                format!(
                    "{} is exported to {} alone: callers do not see its subset \"{}\"",
                    rule.reference(),
                    text::plain(&rule.export_to.join(", "), 60),
                    fact.subset
                ),
            ),
            None => (
                named.clone(),
                rule.map(|rule| rule.reference().field("spec.subsets")),
                format!("{reference} sends {share} to subset \"{}\", which nothing defines", fact.subset),
            ),
        };
        let mut finding = Finding::new(Self::META, subject, &[&fact.subset]);
        finding.related.extend(related);
        finding
            .title(title)
            .message(format!(
                "Subset \"{}\" of {} is undefined: {defined_words}.{} Proxies answer these requests with 503 NC cluster_not_found.",
                fact.subset, fact.host, hidden.unwrap_or_default()
            ))
            .mechanism(if kept.is_some() {
                "subset not exported (exportTo): its DestinationRule is kept from callers, cluster not found"
            } else {
                "subset undefined: no DestinationRule defines it, cluster not found"
            })
            .severity(severity)
            .role(if idle && !fact.seen.any() { Role::Context } else { Role::Cause }, if fact.seen.any() { Confidence::Observed } else { Confidence::Configured })
            .service(service.clone())
            .evidence(Evidence::object(&named, format!("names subset \"{}\"", fact.subset)))
            .evidence(match rule {
                Some(rule) => Evidence::object(&rule.reference().field("spec.subsets"), defined_words.clone()),
                None => Evidence::object(reference, defined_words.clone()),
            })
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .effects(service.iter().map(|s| Effect::requests(s, &["NC", "5xx"])))
            .maybe_remedy(fact.hidden.as_ref().filter(|_| kept.is_some()).and_then(|(rule, client)| export(rule, client)))
            .maybe_remedy(rename(fact, &defined))
            .maybe_remedy(define(fact, snapshot))
            .maybe_remedy(Remedy::patch(
                &fact.virtual_service.object,
                &json!([{"op": "remove", "path": pointer(&fact.path)}]),
                "Take the subset out of the route: these requests go to every ready pod of the Service",
            ))
            .prevention(Prevention::of("Test", "In the pipeline: every subset that a route names is defined (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when proxies have routes to clusters that do not exist",
                "sum by (source_workload, destination_service) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*NC.*\"}[1m])) > 0",
            ))
    }
}

/// The rule that defines the subset, where it is its own `exportTo` that keeps it from callers.
fn kept_back<'a>(fact: &Fact<'a>) -> Option<&'a DestinationRule> {
    let (rule, client) = fact.hidden.as_ref()?;
    (fact.rules.is_empty() && !rule.visible_to(client)).then_some(*rule)
}

/// Exports a rule to the callers as well.
fn export(rule: &DestinationRule, client: &str) -> Option<Remedy> {
    Remedy::patch(
        &rule.object,
        &json!([{"op": "add", "path": "/spec/exportTo/-", "value": if client == rule.object.namespace() { "." } else { client }}]),
        format!("Export {} to namespace {client} as well: add it to exportTo", rule.reference()),
    )
}

/// Write a subset that exists: the one before the last edit, a near name, or the only one.
fn rename(fact: &Fact<'_>, defined: &BTreeSet<&str>) -> Option<Remedy> {
    let before = applied(&fact.virtual_service.object, &fact.path)
        .and_then(|old| old.as_str().map(str::to_owned))
        .filter(|old| defined.contains(old.as_str()));
    let near = || nearest(&fact.subset, defined.iter().copied()).map(str::to_owned);
    let only = || defined.first().filter(|_| defined.len() == 1).map(|s| (*s).to_owned());
    let name = before.or_else(near).or_else(only)?;
    Remedy::patch(
        &fact.virtual_service.object,
        &json!([{"op": "replace", "path": pointer(&fact.path), "value": name}]),
        format!("Correct the subset to \"{name}\", which is defined"),
    )
}

/// Define the subset, where pods carry a `version` of that name.
fn define(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let (rule, service) = (fact.rules.first()?, fact.service?);
    let key = ["version", "app.kubernetes.io/version"].into_iter().find(|key| {
        let carries = |labels: &crate::model::selector::Labels| labels.get(key) == Some(&fact.subset);
        snapshot.pods_behind(service).any(|pod| carries(&pod.template.labels))
            || snapshot.workloads_behind(service).any(|w| carries(&w.template.labels))
    })?;
    let entry = json!({"name": fact.subset, "labels": {key: fact.subset}});
    let operation = if rule.subsets.is_empty() {
        json!([{"op": "add", "path": "/spec/subsets", "value": [entry]}])
    } else {
        json!([{"op": "add", "path": "/spec/subsets/-", "value": entry}])
    };
    Remedy::patch(
        &rule.object,
        &operation,
        format!(
            "Define subset \"{}\" in {}: pods carry {key}={}",
            fact.subset,
            rule.reference(),
            fact.subset
        ),
    )
}
