//! ISTIO101.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts::{self, Hosts, Known};
use crate::analyze::rules::near::{applied, nearest};
use crate::analyze::rules::seen::{self, Seen};
use crate::model::mesh::istio::{VirtualService, full_host};
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route or a DestinationRule names a host that the mesh does not know.
    ///
    /// ## What it detects
    /// A destination or mirror of a VirtualService, or the host of a DestinationRule, that is neither a Service nor a host of
    /// a ServiceEntry that the object can see.
    /// ## Why it matters
    /// The proxy has a route to a cluster that does not exist and answers `503 NC cluster_not_found`; a DestinationRule for
    /// an unknown host has no effect.
    /// ## Evidence
    /// The host as it is written and in full, and access-log records with the flag `NC` for the VirtualService's hosts.
    /// ## How to confirm
    /// `istioctl proxy-config clusters POD --fqdn HOST` lists nothing.
    /// ## How to fix
    /// Write the name of the Service that was meant; use the full name for one of another namespace; add a ServiceEntry for
    /// a host outside.
    /// ## False positives
    /// Hosts of namespaces and clusters that were not read are not reported; nor are patterns with `*`.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#Destination>
    HostNotFound {
        code: "ISTIO101", name: "host-not-found", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0101", "IST0174", "KIA1101", "KIA0202"],
    }
}

/// A host that leads nowhere.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    host: String,
    full: String,
    path: String,
    better: Option<String>,
    /// `None` for a DestinationRule, which only has no effect.
    routed: Option<(&'a VirtualService, Seen)>,
    weight: Option<i64>,
    outside: bool,
}

impl Check for HostNotFound {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let hosts = Hosts::new(snapshot);
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            let namespace = virtual_service.object.namespace();
            if !seen::configured(namespace) {
                continue;
            }
            for route in &virtual_service.routes {
                let targets = route.destinations.iter().map(|d| (d.host.clone(), d.path.clone(), d.weight));
                let mirrors =
                    hosts::mirrors(route).into_iter().map(|(host, _, _, path)| (host, path, Some(0)));
                for (host, path, weight) in targets.chain(mirrors) {
                    if !matches!(hosts.look_up(&host, namespace), Known::Nothing) {
                        continue;
                    }
                    let path = format!("{path}.host");
                    let seen = hosts::no_cluster(snapshot, virtual_service, route);
                    out.push(Fact {
                        object: &virtual_service.object,
                        full: full_host(&host, namespace),
                        better: better(&hosts, &virtual_service.object, &path, &host),
                        outside: outside(&host),
                        routed: Some((virtual_service, seen)),
                        host,
                        path,
                        weight,
                    });
                }
            }
        }
        for rule in &snapshot.istio.destination_rules {
            let namespace = rule.object.namespace();
            if seen::configured(namespace) && matches!(hosts.look_up(&rule.host, namespace), Known::Nothing) {
                out.push(Fact {
                    object: &rule.object,
                    host: rule.host.clone(),
                    full: rule.full_host(),
                    path: "spec.host".to_owned(),
                    better: better(&hosts, &rule.object, "spec.host", &rule.host),
                    routed: None,
                    weight: None,
                    outside: outside(&rule.host),
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let hint = fact.better.as_ref().map(|b| format!("; {b} was probably meant")).unwrap_or_default();
        let verb = if fact.routed.is_some() { "sends requests to" } else { "is for" };
        let finding = Finding::new(Self::META, reference.field(&fact.path), &[&fact.host])
            .title(format!("{reference} {verb} host {}, which no Service or ServiceEntry is", fact.host))
            .mechanism("host not found: no Service or ServiceEntry has this name, cluster not found")
            .evidence(Evidence::object(
                &reference.field(&fact.path),
                format!("host {} stands for {}, and nothing of that name is known", fact.host, fact.full),
            ))
            .maybe_remedy(fact.better.as_ref().and_then(|better| {
                Remedy::patch(
                    fact.object,
                    &json!([{"op": "replace", "path": pointer(&fact.path), "value": better}]),
                    format!("Correct host of {reference} to {better}"),
                )
            }))
            .prevention(Prevention::of("Test", "In the pipeline: every host that a route names is a Service or a ServiceEntry (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when proxies have routes to clusters that do not exist",
                "sum by (source_workload, destination_service) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*NC.*\"}[1m])) > 0",
            ));
        let Some((virtual_service, seen)) = &fact.routed else {
            return finding
                .message(format!("{reference} applies to {}, a host that no Service or ServiceEntry has: it has no effect{hint}.", fact.full))
                .severity(Severity::Warning)
                .role(Role::Context, Confidence::Configured);
        };
        let service = hosts::service_of(snapshot, virtual_service).or_else(|| {
            fact.better
                .as_deref()
                .and_then(crate::model::mesh::istio::service_of_host)
                .map(|(ns, n)| ServiceName::new(ns, n))
        });
        let idle = fact.weight == Some(0);
        let severity = match (seen.any(), idle, snapshot.runs() || fact.outside) {
            (true, _, _) => Severity::Error,
            (false, true, _) | (false, false, true) => Severity::Warning,
            (false, false, false) => Severity::Error,
        };
        let seen_words = if seen.any() {
            format!("{} requests were answered with NC cluster_not_found", seen.count)
        } else {
            "Proxies answer these requests with 503 NC cluster_not_found".to_owned()
        };
        finding
            .message(format!("{} at {} is neither a Service nor a host of a ServiceEntry that {reference} can see{hint}. {seen_words}.", fact.full, fact.path))
            .severity(severity)
            .role(if idle && !seen.any() { Role::Context } else { Role::Cause }, if seen.any() { Confidence::Observed } else { Confidence::Configured })
            .evidences(seen.evidence.clone())
            .onset(seen.onset)
            .effects(service.iter().map(|s| Effect::requests(s, &["NC", "5xx"])))
            .service(service)
    }
}

/// A host outside the cluster: whether it must be declared depends on what else is configured.
fn outside(host: &str) -> bool {
    host.contains('.') && !host.contains(".svc")
}

/// What stood there before the last edit, or the nearest name.
fn better(hosts: &Hosts<'_>, object: &Object, path: &str, host: &str) -> Option<String> {
    let namespace = object.namespace();
    let before =
        applied(object, path).and_then(|old| old.as_str().map(str::to_owned)).filter(|old| old != host);
    if let Some(before) = before
        && matches!(hosts.look_up(&before, namespace), Known::Service(_) | Known::Entry(_))
    {
        return Some(before);
    }
    let full = full_host(host, namespace);
    let candidates = hosts.candidates(host, namespace);
    if let Some(near) = nearest(&full, candidates.iter().map(String::as_str)) {
        return Some(near.to_owned());
    }
    // The same name in exactly one other namespace.
    let (_, name) = crate::model::mesh::istio::service_of_host(&full)?;
    let mut same = candidates.iter().filter(|c| c.split('.').next() == Some(name.as_str()));
    let first = same.next()?;
    same.next().is_none().then(|| first.clone())
}
