//! ISTIO171.

use crate::model::json::Value;

use super::support::{Tally, asked, since, take_patch_out};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::{blame, text};
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::Outcome as Ending;
use crate::analyze::twin::ask::{Ask, describe};
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome};

crate::rule! {
    /// An EnvoyFilter changes routes or clusters, and requests that the mesh's configuration would serve find no way.
    ///
    /// ## What it detects
    /// Requests that a proxy answers without a route or a cluster (`NR route_not_found`, `NC cluster_not_found`) though every Service,
    /// VirtualService and DestinationRule leads them to a backend, at proxies for which an EnvoyFilter patches routes, virtual hosts,
    /// clusters or listeners.
    /// ## Why it matters
    /// What an EnvoyFilter does to a proxy's routes stands in no other object: routing looks right wherever one looks.
    /// ## Evidence
    /// The patch, the answers in access logs, and where the configuration without it would send the same request.
    /// ## How to confirm
    /// `istioctl proxy-config routes POD -o json` and `clusters` of a failing caller, beside those of a pod that the filter spares.
    /// ## How to fix
    /// Take the patch out, or correct it.
    /// ## False positives
    /// A proxy that has not got its configuration yet; and an EnvoyFilter that other settings merely stand beside: where several
    /// could be it, the one that names the host or was changed last is told.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/envoy-filter/>
    FilterChangesRoutes {
        code: "ISTIO171", name: "filter-changes-routes", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// What a patch is applied to, where it decides which way requests take.
const PLACES: &[&str] = &[
    "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST",
    "HTTP_ROUTE",
    "CLUSTER",
    "LISTENER",
    "FILTER_CHAIN",
    "NETWORK_FILTER",
];

/// Fewer answers than this say nothing.
const ENOUGH: u64 = 5;

/// A filter that takes requests off their way.
#[derive(Debug)]
pub struct Fact<'a> {
    filter: &'a Policy,
    index: usize,
    service: Option<ServiceName>,
    host: String,
    label: String,
    flag: &'static str,
    tally: Tally,
}

impl Check for FilterChangesRoutes {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        if snapshot.istio.envoy_filters.is_empty() {
            return out;
        }
        // What routes do without the filters, of which the twin says nothing.
        let mut twin: Option<Twin<'a>> = None;
        for (at, edge) in snapshot.traffic.iter().enumerate() {
            for outcome in edge.outcomes.iter().filter(|outcome| outcome.count >= ENOUGH) {
                let Some(flag) = lost(outcome) else { continue };
                let Some((origin, request)) = asked(snapshot, edge, outcome) else { continue };
                let host = text::plain(crate::model::traffic::host_of(&request.host), 80);
                let Some((filter, index)) = suspect(snapshot, edge, outcome, &host) else { continue };
                let ask = Ask { name: describe(&origin, &request), from: origin, request };
                let twin = twin.get_or_insert_with(|| Twin::without_envoy_filters(snapshot));
                if twin.answer(&ask).outcome != Ending::Forwarded {
                    continue;
                }
                let value = format!(
                    "{} of {} requests for {host}: {}",
                    outcome.count,
                    edge.requests,
                    outcome.label()
                );
                let evidence = Evidence::new("AccessLog", format!("{} proxy", edge.workload), value);
                let same = |fact: &Fact<'_>| {
                    fact.filter.object.reference == filter.object.reference
                        && fact.index == index
                        && fact.host == host
                };
                let known = out.iter().position(same).unwrap_or_else(|| {
                    let service = edge.service.clone().or_else(|| service(snapshot, edge, &host));
                    let (label, tally) = (outcome.label(), Tally::default());
                    out.push(Fact { filter, index, service, host, label, flag, tally });
                    out.len() - 1
                });
                if let Some(fact) = out.get_mut(known) {
                    fact.tally.add((at, edge), outcome, evidence);
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.filter.object;
        let subject = object.reference.field(format!("spec.configPatches[{}]", fact.index));
        let patches = object.body.list("spec.configPatches");
        let patch = patches.get(fact.index).unwrap_or(&Value::Null);
        let (place, does) = (patch.string("applyTo"), patch.string("patch.operation"));
        let label = text::plain(&fact.label, 60);
        Finding::new(Self::META, subject.clone(), &[&fact.host])
            .title(format!("{} changes where requests for {} go: they get {label}", object.reference, fact.host))
            .message(format!(
                "Services, routes and DestinationRules lead requests for {} to a backend, and {} got {label}{}. {} changes the proxies that answered so: {place} {does}.",
                fact.host,
                fact.tally.share(),
                since(fact.tally.onset),
                object.reference
            ))
            .mechanism(format!("EnvoyFilter changes routes or clusters ({place} {does}): no route or cluster is found"))
            .severity(fact.tally.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(fact.service.clone())
            .onset(fact.tally.onset)
            .evidence(Evidence::object(&subject, format!("{place} {does}")))
            .evidences(fact.tally.evidence.clone())
            .effects(fact.service.iter().map(|s| Effect::requests(s, &[fact.flag, "5xx", "404", "4xx"])))
            .maybe_remedy(take_patch_out(object, fact.index))
            .remedy(Remedy::delete(object, format!("Delete {}: routes and clusters are those of the mesh's configuration again", object.reference)).risk(Risk::Medium))
            .prevention(Prevention::of("Policy", "Let EnvoyFilters in through review alone (ValidatingAdmissionPolicy on their namespace or team)"))
            .prevention(Prevention::alert(
                "Alert when proxies find no route or cluster",
                "sum by (source_workload, destination_service) (rate(istio_requests_total{response_flags=~\".*(NR|NC).*\"}[1m])) > 0",
            ))
    }
}

/// The flag of an answer for want of a route or a cluster.
fn lost(outcome: &Outcome) -> Option<&'static str> {
    if outcome.connection {
        return None;
    }
    if outcome.has_flag("NC") {
        return Some("NC");
    }
    (outcome.has_flag("NR") && outcome.details.contains("route_not_found")).then_some("NR")
}

/// The EnvoyFilter, and its patch, that could have done it at the proxy that answered: one that names the host before one that names
/// none, then the one that was changed last.
fn suspect<'a>(
    snapshot: &'a Snapshot,
    edge: &EdgeTraffic,
    outcome: &Outcome,
    host: &str,
) -> Option<(&'a Policy, usize)> {
    let workload = snapshot.workload(&edge.workload)?;
    let root = &snapshot.istio.root_namespace;
    let name = host.split('.').next().unwrap_or(host);
    let mut named = vec![];
    let mut general = vec![];
    for filter in &snapshot.istio.envoy_filters {
        if !filter.applies_to(&edge.workload.namespace, &workload.template.labels, root) {
            continue;
        }
        let of = |wanted: Aim| {
            let patches = filter.object.body.list("spec.configPatches");
            patches.iter().position(|patch| aim(patch, host, name) == wanted).map(|index| (filter, index))
        };
        named.extend(of(Aim::Host));
        general.extend(of(Aim::All));
    }
    let could = if named.is_empty() { general } else { named };
    let objects: Vec<_> = could.iter().map(|(filter, _)| &filter.object.reference).collect();
    let last = blame::changed_last(snapshot, &objects, outcome.first).unwrap_or(0);
    could.get(last).copied()
}

/// What a patch is about.
#[derive(Debug, PartialEq, Eq)]
enum Aim {
    /// Something that names this host.
    Host,
    /// Whatever there is.
    All,
    /// Something else.
    Other,
}

fn aim(patch: &Value, host: &str, name: &str) -> Aim {
    let inbound = patch.text("match.context") == Some("SIDECAR_INBOUND");
    if inbound || !PLACES.contains(&patch.text("applyTo").unwrap_or_default()) {
        return Aim::Other;
    }
    let paths = [
        "match.cluster.service",
        "match.cluster.name",
        "match.routeConfiguration.vhost.name",
        "match.routeConfiguration.vhost.domainName",
    ];
    let names: Vec<&str> = paths.iter().filter_map(|path| patch.text(path)).collect();
    // `payment`, `payment.shop.svc.cluster.local:80`, `outbound|80||payment.shop.svc.cluster.local`.
    let is = |written: &&str| {
        let last = written.rsplit('|').next().unwrap_or(written);
        let bare = last.split(':').next().unwrap_or(last);
        bare == host || bare.split('.').next() == Some(name)
    };
    match (names.is_empty(), names.iter().any(is)) {
        (true, _) => Aim::All,
        (false, true) => Aim::Host,
        (false, false) => Aim::Other,
    }
}

/// The Service of a host that was asked for without a cluster.
fn service(snapshot: &Snapshot, edge: &EdgeTraffic, host: &str) -> Option<ServiceName> {
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next().unwrap_or(&edge.workload.namespace));
    let name = ServiceName::new(namespace, name);
    snapshot.service(&name).map(|service| service.service_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn a_patch_names_its_host_in_several_ways() {
        let host = "payment.shop.svc.cluster.local";
        let of = |patch: Value| aim(&patch, host, "payment");
        let cluster = |name: &str| json!({"applyTo": "CLUSTER", "match": {"cluster": {"name": name}}});
        assert_eq!(of(cluster("outbound|80||payment.shop.svc.cluster.local")), Aim::Host);
        assert_eq!(of(cluster("outbound|80||inventory.shop.svc.cluster.local")), Aim::Other);
        let vhost = |name: &str| json!({"applyTo": "HTTP_ROUTE", "match": {"routeConfiguration": {"vhost": {"name": name}}}});
        assert_eq!(of(vhost("payment.shop.svc.cluster.local:80")), Aim::Host);
        assert_eq!(
            of(json!({"applyTo": "ROUTE_CONFIGURATION", "match": {"context": "SIDECAR_OUTBOUND"}})),
            Aim::All
        );
        assert_eq!(of(json!({"applyTo": "CLUSTER", "match": {"context": "SIDECAR_INBOUND"}})), Aim::Other);
        assert_eq!(of(json!({"applyTo": "HTTP_FILTER"})), Aim::Other);
    }
}
