//! TCPRoutes and TLSRoutes: bytes that are passed on without a look into them.

use super::backends;
use super::hostnames;
use super::listeners::{self, Served};
use crate::analyze::twin::http::table::{Destination, Weighted};
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::{Reference, Route};
use crate::model::snapshot::Snapshot;

/// The route that takes a connection to a listener. TLSRoutes are told apart by the server name, the closest hostname first;
/// a TCPRoute takes everything. Among equals the oldest holds, then the first by namespace and name.
pub fn route<'a>(snapshot: &'a Snapshot, served: &Served<'_>, sni: Option<&str>) -> Option<&'a Route> {
    let tls = listeners::routes(snapshot, &served.listener, &["TLSRoute"]);
    let fitting = tls.iter().filter_map(|(route, hosts)| {
        let close = hosts.iter().filter(|h| hostnames::covers(h, sni.unwrap_or_default()));
        Some((close.map(|h| hostnames::closeness(h)).max()?, *route))
    });
    let best = fitting.min_by_key(|(close, route)| (std::cmp::Reverse(*close), age(route)));
    let tcp = || {
        let all = listeners::routes(snapshot, &served.listener, &["TCPRoute"]);
        all.into_iter().map(|(route, _)| route).min_by_key(|route| age(route))
    };
    best.map(|(_, route)| route).or_else(tcp)
}

/// What decides among equals.
pub fn age(route: &Route) -> (Option<jiff::Timestamp>, String, String) {
    (route.object.created, route.object.namespace().to_owned(), route.object.name().to_owned())
}

/// Where the first rule of a route sends connections: those with weight 0 left out.
pub fn destinations(snapshot: &Snapshot, route: &Route, mesh: bool) -> Vec<Weighted> {
    let Some(rule) = route.object.body.list("spec.rules").first() else { return vec![] };
    let mut out = vec![];
    for (at, entry) in rule.list("backendRefs").iter().enumerate() {
        let path = format!("spec.rules[0].backendRefs[{at}]");
        let backend = Reference::read(entry, "", "Service", route.object.namespace(), path.clone());
        let Some(weight) = u32::try_from(backend.weight).ok().filter(|weight| *weight > 0) else { continue };
        let to: Destination = backends::destination(snapshot, route, &backend, mesh);
        out.push(Weighted { weight, ..Weighted::whole(to, route.reference().field(path)) });
    }
    out
}
