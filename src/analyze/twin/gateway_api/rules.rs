//! Rules of HTTPRoutes and GRPCRoutes, as routes of a table.

use super::backends::{self, INVALID};
use super::filters::{self, Filters};
use super::matches::{self, Rank};
use crate::analyze::rules::gateway_api::route_value_unsupported::not_of_istio;
use crate::analyze::rules::gateway_api::{classes, references, route_checks};
use crate::analyze::twin::http::table::{Action, Destination, Forward, Route as TableRoute, Weighted};
use crate::model::fields::Fields;
use crate::model::json::Value;
use crate::model::mesh::gateway_api::{Reference, Route};
use crate::model::snapshot::Snapshot;

/// Where a route is served.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The port at which requests come in.
    pub port: u16,
    /// Beside the client, not at a gateway.
    pub mesh: bool,
}

/// A route of a table with its place among the others.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its place.
    pub rank: Rank,
    /// The route.
    pub route: TableRoute,
}

/// Whether Istio takes a route at all. One filter that it does not have costs a route all its rules. So does of a GRPCRoute one mirror that leads
/// nowhere, or where no ReferenceGrant lets it; of an HTTPRoute such a mirror alone is left out.
pub fn is_taken(snapshot: &Snapshot, route: &Route, place: Place) -> bool {
    let foreign = || references::filters(route).iter().any(|filter| not_of_istio(filter).is_some());
    if foreign() && classes::route_is_istios(snapshot, route) {
        return false;
    }
    let broken = |(index, rule): (usize, &Value)| {
        let filters = filters::read(rule.list("filters"), place.port);
        mirrors(snapshot, route, index, &filters, place)
            .iter()
            .any(|(to, _)| matches!(to, Destination::Broken(..)))
    };
    let mut rules = route.object.body.list("spec.rules").iter().enumerate();
    route.reference().kind != "GRPCRoute" || !rules.any(broken)
}

/// Where copies of a rule's requests go, and what share of them.
fn mirrors(
    snapshot: &Snapshot,
    route: &Route,
    index: usize,
    filters: &Filters<'_>,
    place: Place,
) -> Vec<(Destination, f64)> {
    let mirrors = filters.mirrors.iter().map(|(body, at, share)| {
        let path = format!("spec.rules[{index}].filters[{at}].requestMirror.backendRef");
        let backend = Reference::read(body, "", "Service", route.object.namespace(), path);
        (backends::destination(snapshot, route, &backend, place.mesh), *share)
    });
    mirrors.collect()
}

/// All rules of a route, one entry for each condition.
pub fn of_route(snapshot: &Snapshot, route: &Route, place: Place) -> Vec<Made> {
    let problems = route_checks::check(route);
    let mut out = vec![];
    for (index, rule) in route.object.body.list("spec.rules").iter().enumerate() {
        let base = format!("spec.rules[{index}]");
        let filters = filters::read(rule.list("filters"), place.port);
        let broken = problems.iter().find(|p| p.path.starts_with(&format!("{base}.")) || p.path == base);
        let action = match broken {
            Some(problem) => respond(format!("{}: {}", problem.path, problem.why)),
            None => action(snapshot, route, index, rule, &filters, place),
        };
        // The name that Istio gives it, and that access logs show: the rule's own, else its place.
        let placed = || format!("{}.{}.{index}", route.object.namespace(), route.object.name());
        let name = rule.text("name").map_or_else(placed, str::to_owned);
        for condition in matches::of_rule(route, index, rule) {
            let made = TableRoute {
                name: name.clone(),
                source: route.reference().field(&condition.path),
                matching: condition.matching,
                action: action.clone(),
                request_headers: filters.request.clone(),
                response_headers: filters.response.clone(),
                fault: None,
                cors: filters.cors.clone(),
            };
            out.push(Made { rank: condition.rank, route: made });
        }
    }
    out
}

fn respond(reason: String) -> Action {
    Action::Respond { status: INVALID, reason }
}

fn action(
    snapshot: &Snapshot,
    route: &Route,
    index: usize,
    rule: &Value,
    filters: &Filters<'_>,
    place: Place,
) -> Action {
    if let Some((at, kind)) = &filters.unknown {
        return respond(format!(
            "spec.rules[{index}].filters[{at}] is of type {kind}, which nobody carries out"
        ));
    }
    if let Some(redirect) = &filters.redirect {
        return Action::Redirect(redirect.clone());
    }
    let mut to = vec![];
    for (at, entry) in rule.list("backendRefs").iter().enumerate() {
        let path = format!("spec.rules[{index}].backendRefs[{at}]");
        let backend = Reference::read(entry, "", "Service", route.object.namespace(), path.clone());
        let Some(weight) = u32::try_from(backend.weight).ok().filter(|weight| *weight > 0) else { continue };
        let own = filters::read(entry.list("filters"), place.port);
        let destination = match &own.unknown {
            Some((at, kind)) => Destination::Broken(
                INVALID,
                format!("{path}.filters[{at}] is of type {kind}, which nobody carries out"),
            ),
            None => backends::destination(snapshot, route, &backend, place.mesh),
        };
        to.push(Weighted {
            to: destination,
            weight,
            request_headers: own.request,
            response_headers: own.response,
            rewrite: own.rewrite,
            source: route.reference().field(path),
        });
    }
    if to.is_empty() {
        let list = rule.list("backendRefs");
        let why = if list.is_empty() { "names no backend" } else { "gives every backend the weight 0" };
        return respond(format!("spec.rules[{index}] of {} {why}", route.reference()));
    }
    // A time of 0 is no limit.
    let limit = |field: &str| rule.seconds(&format!("timeouts.{field}")).filter(|seconds| *seconds > 0.0);
    // Retries without a number are two.
    let retries = rule.at("retry").map(|retry| retry.int("attempts").unwrap_or(2));
    let retries = retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    Action::Forward(Box::new(Forward {
        to,
        rewrite: filters.rewrite.clone(),
        // A copy for nobody is not sent.
        mirrors: mirrors(snapshot, route, index, filters, place)
            .into_iter()
            .filter(|(to, _)| !matches!(to, Destination::Broken(..)))
            .collect(),
        timeout: limit("request"),
        retries,
        retries_answers: !rule.list("retry.codes").is_empty(),
        per_try_timeout: limit("backendRequest"),
    }))
}

/// Puts what routes make for one hostname into order.
pub fn in_order(mut made: Vec<Made>) -> Vec<TableRoute> {
    made.sort_by(|a, b| a.rank.cmp(&b.rank));
    made.into_iter().map(|m| m.route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    fn actions(rules: Value) -> Vec<Action> {
        let mut builder = Builder::new();
        for (name, namespace) in [("a", "n"), ("b", "n"), ("far", "m")] {
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {"ports": [{"port": 80}]}}));
        }
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "n"}, "spec": {"rules": rules}}));
        let snapshot = builder.finish();
        let made = of_route(&snapshot, &snapshot.gateway_api.routes[0], Place { port: 80, mesh: false });
        made.into_iter().map(|m| m.route.action).collect()
    }

    fn destinations(rule: Value) -> Vec<(String, u32)> {
        match &actions(json!([rule]))[0] {
            Action::Forward(forward) => forward
                .to
                .iter()
                .map(|w| match &w.to {
                    Destination::Host { host, .. } => (host.clone(), w.weight),
                    Destination::Broken(status, _) => (status.to_string(), w.weight),
                    other => (format!("{other:?}"), w.weight),
                })
                .collect(),
            Action::Respond { status, .. } => vec![(format!("answers {status}"), 0)],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn broken_backends_keep_their_share() {
        assert_eq!(
            destinations(
                json!({"backendRefs": [{"name": "a", "port": 80, "weight": 3}, {"name": "gone", "port": 80}, {"name": "b", "port": 80, "weight": 0}]})
            ),
            [("a.n.svc.cluster.local".to_owned(), 3), ("500".to_owned(), 1)]
        );
        assert_eq!(
            destinations(json!({"backendRefs": [{"name": "far", "namespace": "m", "port": 80}]})),
            [("500".to_owned(), 1)]
        );
        assert_eq!(
            destinations(json!({"backendRefs": [{"name": "a", "port": 81}]})),
            [("500".to_owned(), 1)]
        );
    }

    #[test]
    fn one_filter_that_istio_does_not_have_costs_it_the_whole_route() {
        let taken = |class: &str, filters: Value, of_backend: Value| {
            let mut builder = Builder::new();
            let gateway = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": spec});
            builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "c"}, "spec": {"controllerName": class}}));
            builder.object(gateway("Gateway", "g", json!({"gatewayClassName": "c", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]})));
            let rules = json!([{"backendRefs": [{"name": "a", "port": 80}]}, {"filters": filters, "backendRefs": [{"name": "a", "port": 80, "filters": of_backend}]}]);
            builder.object(gateway("HTTPRoute", "r", json!({"parentRefs": [{"name": "g"}], "rules": rules})));
            let snapshot = builder.finish();
            is_taken(&snapshot, &snapshot.gateway_api.routes[0], Place { port: 80, mesh: false })
        };
        let istio = "istio.io/gateway-controller";
        let rewrite = || json!([{"type": "URLRewrite", "urlRewrite": {"hostname": "x"}}]);
        let extension = || json!([{"type": "ExtensionRef", "extensionRef": {}}]);
        assert!(taken(istio, rewrite(), json!([])));
        assert!(!taken(istio, extension(), json!([])));
        assert!(!taken(istio, json!([]), rewrite()));
        assert!(taken("example.com/other", extension(), json!([])), "others have such filters");
    }

    #[test]
    fn without_any_backend_the_proxy_answers() {
        assert_eq!(destinations(json!({})), [("answers 500".to_owned(), 0)]);
        assert_eq!(
            destinations(json!({"backendRefs": [{"name": "a", "port": 80, "weight": 0}]})),
            [("answers 500".to_owned(), 0)]
        );
        let extension =
            json!({"backendRefs": [{"name": "a", "port": 80}], "filters": [{"type": "ExtensionRef"}]});
        assert_eq!(destinations(extension), [("answers 500".to_owned(), 0)]);
    }
}
