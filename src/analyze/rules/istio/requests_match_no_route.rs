//! ISTIO118.

use crate::model::json::{Value, json};
use regex::Regex;
use std::collections::BTreeSet;

use super::hosts::{gateway, ingress_effects, service_of, speaks_for};
use super::support::since;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{Seen, outcomes};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Route, VirtualService};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome};

crate::rule! {
    /// Requests fit none of the routes of their VirtualService.
    ///
    /// ## What it detects
    /// Requests for a host of a VirtualService that proxies answer with `404 NR route_not_found`, where every route has
    /// conditions and none of them fits the paths and methods that are asked for.
    /// ## Why it matters
    /// A VirtualService takes its host over as a whole: what fits no route has none, and does not fall back to the Service.
    /// ## Evidence
    /// Paths and methods of the requests without a route, and the conditions of every route.
    /// ## How to confirm
    /// `istioctl proxy-config routes POD -o json` lists the routes of the host.
    /// ## How to fix
    /// A last route without conditions, or conditions that fit what clients ask for.
    /// ## False positives
    /// Paths that are meant to be closed, such as those of scanners at a gateway.
    /// ## References
    /// <https://istio.io/latest/docs/concepts/traffic-management/#routing-rule-precedence>
    RequestsMatchNoRoute {
        code: "ISTIO118", name: "requests-match-no-route", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// Fewer requests than this are a scanner's.
const ENOUGH: u64 = 5;

/// A VirtualService that has no route for what is asked of it.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    seen: Seen,
    /// All requests of the edges on which it was seen.
    requests: u64,
    paths: BTreeSet<&'a str>,
    methods: BTreeSet<&'a str>,
}

impl Check for RequestsMatchNoRoute {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let unrouted = |outcome: &Outcome| {
            outcome.has_flag("NR") && !outcome.connection && !outcome.details.contains("configuration")
        };
        let edges: Vec<&EdgeTraffic> =
            snapshot.traffic.iter().filter(|edge| edge.outcomes.iter().any(unrouted)).collect();
        let mut out = vec![];
        for virtual_service in snapshot.istio.virtual_services.iter().filter(|_| !edges.is_empty()) {
            let routes: Vec<&Route> =
                virtual_service.routes.iter().filter(|route| route.protocol == "http").collect();
            if routes.is_empty() || routes.iter().any(|route| route.matches().is_empty()) {
                continue;
            }
            let mine = |edge: &EdgeTraffic, outcome: &Outcome| {
                unrouted(outcome)
                    && speaks_for(virtual_service, edge, outcome)
                    && decides(snapshot, virtual_service, &edge.workload)
            };
            let found = || {
                edges
                    .iter()
                    .flat_map(|edge| edge.outcomes.iter().map(move |o| (*edge, o)))
                    .filter(|(e, o)| mine(e, o))
            };
            let paths: BTreeSet<&str> =
                found().flat_map(|(_, o)| o.paths.keys()).map(String::as_str).collect();
            let methods: BTreeSet<&str> =
                found().flat_map(|(_, o)| o.methods.keys()).map(String::as_str).collect();
            let misses =
                |route: &&Route| route.matches().iter().all(|condition| misses(condition, &paths, &methods));
            if paths.is_empty() || !routes.iter().all(misses) {
                continue;
            }
            let seen = outcomes(edges.iter().copied(), mine);
            if seen.count < ENOUGH {
                continue;
            }
            let requests = edges
                .iter()
                .filter(|edge| edge.outcomes.iter().any(|o| mine(edge, o)))
                .map(|edge| edge.requests)
                .sum();
            out.push(Fact { virtual_service, seen, requests, paths, methods });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let object = &fact.virtual_service.object;
        let subject = object.reference.field("spec.http");
        let asked: Vec<&str> = fact.paths.iter().take(3).copied().collect();
        let methods: Vec<&str> = fact.methods.iter().take(3).copied().collect();
        let asked =
            format!("{} {}", text::plain(&methods.join(", "), 30), text::plain(&asked.join(", "), 90));
        let conditions: Vec<String> = fact
            .virtual_service
            .routes
            .iter()
            .flat_map(|route| route.matches())
            .take(4)
            .map(|condition| text::plain(&condition.to_string().replace('"', ""), 70))
            .collect();
        let service = service_of(snapshot, fact.virtual_service);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{} has no route for {asked}: {} get 404", object.reference, text::several(fact.seen.count, "request")))
            .message(format!(
                "{} speaks for the host, and each of its {} has conditions: {}. Requests for {asked} fit none of them, and there is no route for the rest: {} were answered with 404 NR{}.",
                object.reference,
                text::several(fact.virtual_service.routes.len() as u64, "route"),
                conditions.join(" or "),
                text::share(fact.seen.count, fact.requests, "requests"),
                since(fact.seen.onset)
            ))
            .mechanism("no route matches: VirtualService without a default route (404 NR)")
            .severity(if fact.seen.count * 100 >= fact.requests { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .service(service.clone())
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&subject, format!("conditions {}", conditions.join(" or "))))
            .evidences(fact.seen.evidence.clone())
            .effects(service.iter().map(|service| Effect::requests(service, &["NR", "404", "4xx"])))
            .effects(ingress_effects(snapshot, fact.virtual_service))
            .remedies(remedies(fact.virtual_service))
            .prevention(Prevention::alert(
                "Alert on requests without a route",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*NR.*\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Policy", "Refuse VirtualServices for hosts of the cluster whose last route has conditions"))
    }
}

/// Whether a VirtualService decides at the proxies of a workload: at a gateway where it is bound to it, at others where it
/// is bound to the mesh.
fn decides(snapshot: &Snapshot, virtual_service: &VirtualService, workload: &ObjectRef) -> bool {
    let Some(labels) = snapshot.workload(workload).map(|w| &w.template.labels) else { return false };
    let serves = |selector: &crate::model::selector::Labels| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let is_gateway = snapshot.istio.gateways.iter().any(|gateway| serves(&gateway.selector));
    virtual_service.gateways.iter().any(|name| match name.as_str() {
        "mesh" => !is_gateway,
        name => {
            gateway(snapshot, name, virtual_service.object.namespace()).is_some_and(|g| serves(&g.selector))
        }
    })
}

/// Conditions on what access logs do not tell.
const UNSEEN: &[&str] =
    &["headers", "withoutHeaders", "queryParams", "scheme", "port", "sourceLabels", "sourceNamespace"];

/// Whether a condition fits none of these requests: its path or its method excludes them, or it wants something that logs do not
/// tell. That it is not fulfilled then says the proxy, which found no route.
fn misses(condition: &Value, paths: &BTreeSet<&str>, methods: &BTreeSet<&str>) -> bool {
    let blind = condition.flag("ignoreUriCase");
    let off = |field: &str, values: &BTreeSet<&str>, blind: bool| {
        condition.at(field).is_some_and(|wanted| {
            !values.is_empty() && values.iter().all(|value| differs(wanted, value, blind))
        })
    };
    let unseen = UNSEEN.iter().any(|field| condition.child(field).is_some());
    off("uri", paths, blind) || off("method", methods, false) || unseen
}

/// Whether a text certainly differs from what `exact`, `prefix` or `regex` ask for.
fn differs(wanted: &Value, value: &str, blind: bool) -> bool {
    let fold = |text: &str| if blind { text.to_ascii_lowercase() } else { text.to_owned() };
    if let Some(exact) = wanted.text("exact") {
        return fold(exact) != fold(value);
    }
    if let Some(prefix) = wanted.text("prefix") {
        return !fold(value).starts_with(&fold(prefix));
    }
    // The whole text has to fit; an expression that is none here may be one to Envoy.
    let whole = wanted.text("regex").and_then(|regex| Regex::new(&format!("^(?:{regex})$")).ok());
    whole.is_some_and(|regex| !regex.is_match(value))
}

/// A last route for the rest, or the last route without its conditions.
fn remedies(virtual_service: &VirtualService) -> Vec<Remedy> {
    let object = &virtual_service.object;
    let last = virtual_service
        .routes
        .iter()
        .rev()
        .find(|route| route.protocol == "http" && !route.destinations.is_empty());
    let Some(last) = last else { return vec![] };
    let to = last.body.at("route").cloned().unwrap_or_default();
    let host = last.destinations.first().map(|d| text::plain(&d.host, 60)).unwrap_or_default();
    let add = Remedy::patch(
        object,
        &json!([{"op": "add", "path": "/spec/http/-", "value": {"route": to}}]),
        format!("Add a last route without match to {host}: it takes what fits no other"),
    );
    let open = Remedy::patch(
        object,
        &json!([{"op": "remove", "path": pointer(&format!("{}.match", last.path))}]),
        format!("Remove match from {}: it then takes every request that fits no earlier route", last.path),
    );
    add.into_iter().chain(open.map(|remedy| remedy.risk(Risk::Medium))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_misses_counts() {
        let paths: BTreeSet<&str> = ["/charges", "/charges/1"].into();
        let methods: BTreeSet<&str> = ["POST"].into();
        let misses = |condition: Value| misses(&condition, &paths, &methods);
        assert!(misses(json!({"uri": {"prefix": "/v2/"}})));
        assert!(misses(json!({"uri": {"exact": "/"}})));
        assert!(misses(json!({"uri": {"regex": "/v[0-9]+/.*"}})));
        assert!(misses(json!({"method": {"exact": "GET"}, "uri": {"prefix": "/"}})));
        assert!(!misses(json!({"uri": {"exact": "/charges"}})));
        assert!(!misses(json!({"uri": {"prefix": "/CHARGES"}, "ignoreUriCase": true})));
        // Whether the header was there is not in the log, and the proxy found no route.
        assert!(misses(json!({"headers": {"x-beta": {"exact": "1"}}})));
        assert!(!misses(json!({"uri": {"exact": "/charges"}, "name": "charges"})));
        assert!(!misses(json!({"uri": {"regex": "(?=x)"}})));
    }
}
