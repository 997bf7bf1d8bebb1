//! GWAPI112.

use super::fault::Fault;
use super::prelude::*;
use super::{classes, references, route_checks};

crate::rule! {
    /// A rule of a route holds a value, or filters together, that no proxy can carry out.
    ///
    /// ## What it detects
    /// Regular expressions that RE2 does not take, unknown types of matches and filters, filters that exclude each other or
    /// stand there twice, a replaced prefix without the one match that names it, a redirect with a status that is none, a
    /// time for one try that exceeds the time for the whole request; and, where Istio serves the route, filters of
    /// extensions, which it does not have, and filters of one backend that change more than headers.
    /// ## Why it matters
    /// The controller drops the rule, or refuses the whole route: its requests are answered with 404 or 500.
    /// ## Evidence
    /// The field and its value.
    /// ## How to confirm
    /// `kubectl describe` of the route shows `Accepted=False` or `PartiallyInvalid=True` with `UnsupportedValue` or
    /// `IncompatibleFilters`.
    /// ## How to fix
    /// Correct the field that is named; split a rule whose filters exclude each other.
    /// ## False positives
    /// Extensions of other implementations are left alone.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#httproutefilter>
    RouteValueUnsupported {
        code: "GWAPI112", name: "route-value-unsupported", family: Gateway, severity: Warning,
        needs: [Objects, GatewayApi], aliases: ["IST0171"],
    }
}

impl Check for RouteValueUnsupported {
    type Fact<'a> = Fault<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fault<'a>> {
        let mut out = vec![];
        for route in snapshot.gateway_api.routes.iter().filter(|r| seen::configured(r.object.namespace())) {
            let mut problems = route_checks::check(route);
            if classes::route_is_istios(snapshot, route) {
                problems.extend(references::filters(route).iter().filter_map(not_of_istio));
            }
            let services: Vec<ServiceName> = attach::services(snapshot, route).into_iter().collect();
            out.extend(problems.into_iter().map(|p| {
                Fault::new(&route.object, p.path, p.reason, p.why)
                    .means("The controller refuses the rule: requests that it is for are answered with 404 or 500.", "route with an unsupported value or incompatible filters")
                    .hits(services.clone(), &["NR", "404", "5xx", "direct_response"])
            }));
        }
        out
    }

    fn describe(&self, fact: &Fault<'_>, _: &Snapshot) -> Finding {
        fact.finding(Self::META)
    }
}

/// What is wrong with a filter that Istio does not have, or does not have for one backend alone.
pub fn not_of_istio(filter: &references::Filter<'_>) -> Option<route_checks::Problem> {
    let kind = filter.body.text("type")?;
    let why = match (kind, filter.backend) {
        ("ExtensionRef", _) => "Istio has no filters of extensions (ExtensionRef)".to_owned(),
        (_, None) | ("RequestHeaderModifier" | "ResponseHeaderModifier", _) => return None,
        _ => format!("filter {kind} is for a whole rule: for one backend alone Istio changes headers only"),
    };
    Some(route_checks::Problem { path: filter.path(), reason: "InvalidFilter", why })
}
