//! GWAPI118.

use regex::Regex;
use std::collections::BTreeSet;

use super::prelude::*;
use crate::analyze::remedy::Risk;
use crate::analyze::rules::seen::outcomes;
use crate::analyze::traffic::text;
use crate::analyze::twin::probe::GATEWAY_NAME;
use crate::model::mesh::istio::host_matches;
use crate::model::traffic::{EdgeTraffic, Outcome, host_of};

crate::rule! {
    /// Requests fit none of the rules of the HTTPRoutes for their host.
    ///
    /// ## What it detects
    /// Requests at a Gateway that are answered with `404 NR route_not_found`, where HTTPRoutes for their host are attached and every
    /// match of theirs is excluded by path or method, or wants a header or a query parameter.
    /// ## Why it matters
    /// What fits no match has no backend: it does not fall to the nearest rule.
    /// ## Evidence
    /// Paths and methods of the requests, and the matches of every rule.
    /// ## How to confirm
    /// `meshscope request 'GET http://HOST/PATH' --from gateway:NS/NAME BUNDLE` walks through the rules.
    /// ## How to fix
    /// A rule without matches, or matches that fit what clients ask for.
    /// ## False positives
    /// Paths that are meant to be closed, such as those of scanners.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#httproutematch>
    RequestsMatchNoRule {
        code: "GWAPI118", name: "requests-match-no-rule", family: Gateway, severity: Error,
        needs: [AccessLogs], aliases: [],
    }
}

/// Fewer requests than this are a scanner's.
const ENOUGH: u64 = 5;

/// A route that has no rule for what is asked of it.
#[derive(Debug)]
pub struct Fact<'a> {
    route: &'a Route,
    gateway: &'a Gateway,
    /// The workload that serves the Gateway.
    server: &'a ObjectRef,
    asked: String,
    seen: Seen,
    requests: u64,
}

impl Check for RequestsMatchNoRule {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for gateway in &snapshot.gateway_api.gateways {
            let edges = || at(snapshot, gateway).filter(|edge| edge.outcomes.iter().any(unrouted));
            let Some(first) = edges().next() else { continue };
            let attached: Vec<&Route> =
                snapshot.gateway_api.routes.iter().filter(|route| bound(route, gateway)).collect();
            for route in &attached {
                let mine =
                    |_: &EdgeTraffic, outcome: &Outcome| unrouted(outcome) && speaks_for(route, outcome);
                let found: Vec<&Outcome> =
                    edges().flat_map(|edge| edge.outcomes.iter().filter(move |o| mine(edge, o))).collect();
                let paths: BTreeSet<&str> =
                    found.iter().flat_map(|o| o.paths.keys()).map(String::as_str).collect();
                let methods: BTreeSet<&str> =
                    found.iter().flat_map(|o| o.methods.keys()).map(String::as_str).collect();
                // Every route for the host has to leave these requests out; the one with a rule to widen is told.
                let beside = attached.iter().filter(|other| found.iter().any(|o| speaks_for(other, o)));
                let out_of_all = beside.clone().all(|other| leaves_out(other, &paths, &methods));
                let seen = outcomes(edges(), mine);
                if paths.is_empty() || !out_of_all || seen.count < ENOUGH {
                    continue;
                }
                let list = |set: &BTreeSet<&str>| set.iter().take(3).copied().collect::<Vec<_>>().join(", ");
                out.push(Fact {
                    route,
                    gateway,
                    server: &first.workload,
                    asked: format!("{} {}", text::plain(&list(&methods), 30), text::plain(&list(&paths), 80)),
                    requests: edges().map(|edge| edge.requests).sum(),
                    seen,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let route = fact.route.reference();
        let rules = fact.route.object.body.list("spec.rules");
        let matches: Vec<String> = rules
            .iter()
            .flat_map(|rule| rule.list("matches"))
            .take(4)
            .map(|entry| text::plain(&entry.to_string().replace('"', ""), 80))
            .collect();
        let backend = fact.route.backends.iter().find(|backend| backend.kind == "Service");
        let service = backend.map(|backend| ServiceName::new(&backend.namespace, &backend.name));
        let field = if rules.len() == 1 { "spec.rules[0].matches" } else { "spec.rules" };
        let subject = route.field(field);
        let before = snapshot.graph.services_of(fact.server).cloned();
        let felt: BTreeSet<ServiceName> = before.chain(service.clone()).collect();
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{route} has no rule for {}: {} get 404", fact.asked, text::several(fact.seen.count, "request")))
            .message(format!(
                "{route} speaks for the host at {}, and each of its matches wants something else: {}. {} for {} were answered with 404 NR.",
                fact.gateway.object.reference,
                matches.join(" or "),
                text::share(fact.seen.count, fact.requests.max(fact.seen.count), "requests"),
                fact.asked
            ))
            .mechanism("no route matches: HTTPRoute without a rule for these requests (404 NR)")
            .severity(if fact.seen.count * 100 >= fact.requests { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .service(service.clone())
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&subject, format!("matches {}", matches.join(" or "))))
            .evidences(fact.seen.evidence.clone())
            .effects(felt.iter().map(|service| Effect::requests(service, &["NR", "404", "4xx"])))
            .remedies(remedies(fact.route))
            .prevention(Prevention::alert(
                "Alert on requests without a route",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*NR.*\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Test", "After each change of an HTTPRoute: one request as clients send it"))
    }
}

fn unrouted(outcome: &Outcome) -> bool {
    outcome.code == 404
        && outcome.has_flag("NR")
        && !outcome.connection
        && !outcome.details.contains("configuration")
}

/// What the proxies of a Gateway say.
pub(super) fn at<'a>(snapshot: &'a Snapshot, gateway: &'a Gateway) -> impl Iterator<Item = &'a EdgeTraffic> {
    let (namespace, name) = (gateway.object.namespace(), gateway.object.name());
    snapshot.traffic.iter().filter(move |edge| {
        edge.workload.namespace == namespace
            && snapshot
                .workload(&edge.workload)
                .map(|w| &w.template.labels)
                .or_else(|| snapshot.pods_of(&edge.workload).next().map(|pod| &pod.template.labels))
                .is_some_and(|labels| labels.get(GATEWAY_NAME).is_some_and(|own| own == name))
    })
}

/// Whether an HTTPRoute names a Gateway as its parent.
fn bound(route: &Route, gateway: &Gateway) -> bool {
    route.reference().kind == "HTTPRoute"
        && route.parents.iter().any(|parent| {
            parent.kind == "Gateway"
                && parent.namespace == gateway.object.namespace()
                && parent.name == gateway.object.name()
        })
}

/// Whether a route is for the host of such requests.
fn speaks_for(route: &Route, outcome: &Outcome) -> bool {
    route.hostnames.is_empty()
        || outcome
            .authorities
            .keys()
            .any(|authority| route.hostnames.iter().any(|own| host_matches(own, host_of(authority))))
}

/// Whether every match of a route leaves these requests out. What wants a header or a query parameter, which logs do not tell, was
/// not fulfilled where the proxy found no route.
fn leaves_out(route: &Route, paths: &BTreeSet<&str>, methods: &BTreeSet<&str>) -> bool {
    route.object.body.list("spec.rules").iter().all(|rule| {
        let matches = rule.list("matches");
        !matches.is_empty()
            && matches.iter().all(|entry| {
                let method =
                    entry.text("method").is_some_and(|own| methods.iter().all(|method| *method != own));
                let path = entry.at("path").is_some_and(|own| paths.iter().all(|path| off(own, path)));
                let unseen = ["headers", "queryParams"].iter().any(|field| !entry.list(field).is_empty());
                method || path || unseen
            })
    })
}

/// Whether a path certainly differs from what a match asks for.
fn off(wanted: &Value, path: &str) -> bool {
    let value = wanted.text("value").unwrap_or("/");
    match wanted.text("type").unwrap_or("PathPrefix") {
        "Exact" => path != value,
        "PathPrefix" => {
            let prefix = value.trim_end_matches('/');
            !path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        // The whole path has to fit; an expression that is none here may be one to Envoy.
        "RegularExpression" => Regex::new(&format!("^(?:{value})$")).is_ok_and(|whole| !whole.is_match(path)),
        _ => false,
    }
}

/// A rule for the rest, or the only rule without its matches.
fn remedies(route: &Route) -> Vec<Remedy> {
    let object = &route.object;
    let rules = object.body.list("spec.rules");
    let Some((at, last)) =
        rules.iter().enumerate().rev().find(|(_, rule)| !rule.list("backendRefs").is_empty())
    else {
        return vec![];
    };
    let backends = last.at("backendRefs").cloned().unwrap_or_default();
    let add = Remedy::patch(
        object,
        &json!([{"op": "add", "path": "/spec/rules/-", "value": {"backendRefs": backends}}]),
        format!(
            "Add a rule without matches to the backends of spec.rules[{at}]: it takes what fits no other"
        ),
    );
    let open = Remedy::patch(
        object,
        &json!([{"op": "remove", "path": pointer(&format!("spec.rules[{at}].matches"))}]),
        format!("Remove matches from spec.rules[{at}]: it then takes every request that fits no other rule"),
    );
    add.into_iter().chain(open.map(|remedy| remedy.risk(Risk::Medium))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_takes_whole_segments() {
        let prefix = |value: &str| json!({"type": "PathPrefix", "value": value});
        assert!(
            !off(&prefix("/"), "/buy") && !off(&prefix("/buy"), "/buy") && !off(&prefix("/buy/"), "/buy/1")
        );
        assert!(off(&prefix("/buy"), "/buyer") && off(&json!({"type": "Exact", "value": "/buy"}), "/buy/"));
        assert!(off(&json!({"type": "RegularExpression", "value": "/v[0-9]+/.*"}), "/buy"));
        assert!(!off(&json!({"type": "RegularExpression", "value": "(?=x)"}), "/buy"));
    }
}
