//! A Gateway as a proxy: what it listens on at a port, and what it does with a request of a client outside.

use std::sync::Arc;

use super::carry;
use super::hostnames;
use super::listeners::{self, Served};
use super::streams;
use super::tables;
use crate::analyze::rules::gateway_api::attach;
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::{Answer, ProxyError, Step};
use crate::analyze::twin::ask::{Named, Request, Tls};
use crate::analyze::twin::http::table::RouteTable;
use crate::analyze::twin::listener::{
    Chain, ChainMatch, Connection, Filter, Inspect, Listener, Termination, Transport,
};
use crate::analyze::twin::policy::Normalization;
use crate::analyze::twin::simulate;
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::Gateway;
use crate::model::snapshot::Snapshot;

/// The Gateway that a question names, where the Gateway API has one.
pub fn find<'a>(snapshot: &'a Snapshot, named: &Named) -> Option<&'a Gateway> {
    attach::gateway(snapshot, &named.namespace, &named.name)
}

/// What a Gateway listens on at one port.
#[derive(Debug)]
pub struct Door<'a> {
    /// Its listeners of that port, served or not.
    at_port: Vec<Served<'a>>,
    /// Those that are served, as Envoy has them.
    listener: Listener,
}

impl<'a> Door<'a> {
    /// The listeners of a port, with their tables.
    pub fn new(snapshot: &'a Snapshot, gateway: &'a Gateway, port: u16) -> Self {
        let mut at_port = listeners::of(snapshot, gateway);
        at_port.retain(|served| served.listener.port == i64::from(port));
        let open: Vec<&Served<'_>> = at_port.iter().filter(|s| s.refused.is_none()).collect();
        Door { listener: listener(snapshot, gateway, &open, port), at_port }
    }

    /// The route tables behind it.
    pub fn tables(&self) -> impl Iterator<Item = &RouteTable> {
        self.listener.chains.iter().filter_map(|chain| match &chain.filter {
            Filter::Http(_, table) => table.as_deref(),
            Filter::Tcp(_) => None,
        })
    }
}

/// What becomes of a request of a client outside, at the address of a Gateway.
pub fn answer<'a>(twin: &Twin<'a>, gateway: &'a Gateway, request: &Request, answer: &mut Answer) {
    let port = request.destination_port();
    let door = twin.door(gateway, port);
    for served in door.at_port.iter().filter(|s| s.refused.is_some()) {
        let why = served.refused.as_deref().unwrap_or_default();
        let name = &served.listener.name;
        answer.steps.push(Step::by(&served.reference(), format!("listener {name:?} is not served: {why}")));
    }
    let open: Vec<&Served<'_>> = door.at_port.iter().filter(|s| s.refused.is_none()).collect();
    if open.is_empty() {
        answer.error = Some(ProxyError::NoListener);
        let why = if door.at_port.is_empty() { "has no listener" } else { "serves no listener" };
        return answer.refuse("", format!("{} {why} on port {port}", gateway.object.reference));
    }
    if let Some(why) = not_modelled(gateway, &open, request) {
        return answer.give_up(why);
    }
    let connection = Connection::of(request, None, port);
    // The chains carry their tables with them: none is looked up by name.
    let none = |name: &str| Arc::new(crate::analyze::twin::http::table::RouteTable::new(name));
    let paths = Normalization::of(twin.snapshot);
    let onward = simulate::pass(&door.listener, (&connection, paths), request, answer, &none);
    carry::from_gateway(twin, gateway, onward, request, answer);
}

/// What the question or the configuration leaves open.
fn not_modelled(gateway: &Gateway, open: &[&Served<'_>], request: &Request) -> Option<String> {
    if let Some(udp) = open.iter().find(|s| s.listener.protocol == "UDP") {
        return Some(format!("listener {:?} is for UDP, which is not modelled", udp.listener.name));
    }
    if request.tls == Tls::Plaintext {
        return None;
    }
    let sni = request.server_name().unwrap_or_default();
    let ends: Vec<&Served<'_>> = open.iter().copied().filter(|s| !s.passes()).collect();
    let own = listeners::closest(&ends, &sni)?;
    let port = own.listener.port;
    let frontend = gateway.object.body.at("spec.tls.frontend");
    let per_port = frontend.and_then(|f| f.list("perPort").iter().find(|p| p.int("port") == Some(port)));
    let validation = match per_port {
        Some(entry) => entry.at("tls.validation"),
        None => frontend.and_then(|f| f.at("default.validation")),
    };
    let options = own.listener.body.map("tls.options");
    let mode = options
        .and_then(|o| o.get("gateway.istio.io/tls-terminate-mode"))
        .and_then(crate::model::json::Value::as_str);
    let insecure = validation.and_then(|v| v.text("mode")) == Some("AllowInsecureFallback");
    let asks = (validation.is_some() && !insecure) || matches!(mode, Some("MUTUAL" | "ISTIO_MUTUAL"));
    asks.then(|| {
        format!(
            "listener {:?} verifies a certificate of the client, and the request does not say which it shows",
            own.listener.name
        )
    })
}

/// What a Gateway listens on at a port, as Envoy has it.
fn listener(snapshot: &Snapshot, gateway: &Gateway, open: &[&Served<'_>], port: u16) -> Listener {
    let mut chains = vec![];
    let of = |protocols: &[&str]| -> Vec<&Served<'_>> {
        open.iter().copied().filter(|s| protocols.contains(&s.listener.protocol.as_str())).collect()
    };
    let plain = of(&["HTTP"]);
    if let Some(first) = plain.first() {
        let name = format!("http.{port}");
        let table = tables::of(snapshot, name.clone(), &plain, port);
        let source = match plain.as_slice() {
            [_] => first.reference(),
            _ => gateway.object.reference.field("spec.listeners"),
        };
        let filter = Filter::Http(name, Some(Arc::new(table)));
        chains.push(Chain {
            name: String::new(),
            matching: ChainMatch::default(),
            tls: None,
            filter,
            source: Some(source),
        });
    }
    for served in of(&["HTTPS"]) {
        let reference = &gateway.object.reference;
        let name =
            format!("https.{port}.{}.{}.{}", served.listener.name, reference.name, reference.namespace);
        let table = tables::of(snapshot, name.clone(), &[served], port);
        let filter = Filter::Http(name, Some(Arc::new(table)));
        chains.push(chain(
            served,
            std::slice::from_ref(&served.listener.hostname),
            Some(Termination::SIMPLE),
            filter,
        ));
    }
    for served in of(&["TCP"]) {
        let route = streams::route(snapshot, served, None);
        let to = route.map(|route| streams::destinations(snapshot, route, false)).unwrap_or_default();
        let source = route.map_or_else(|| served.reference(), |route| route.reference().clone());
        if route.is_some() {
            chains.push(Chain {
                name: String::new(),
                matching: ChainMatch::default(),
                tls: None,
                filter: Filter::Tcp(to),
                source: Some(source),
            });
        }
    }
    chains.extend(tls_chains(snapshot, &of(&["TLS"])));
    let tls = open.iter().any(|s| matches!(s.listener.protocol.as_str(), "TLS" | "HTTPS"));
    Listener {
        name: format!("0.0.0.0_{port}"),
        chains,
        default: None,
        tls_inspector: Inspect::all(tls),
        http_inspector: Inspect::all(false),
    }
}

/// A filter chain for server names.
fn chain(served: &Served<'_>, names: &[String], tls: Option<Termination>, filter: Filter) -> Chain {
    let sni = names.iter().filter(|name| !matches!(name.as_str(), "" | "*")).cloned().collect();
    let matching = ChainMatch { sni, transport: Some(Transport::Tls), ..ChainMatch::default() };
    Chain { name: String::new(), matching, tls, filter, source: Some(served.reference()) }
}

/// The chains of TLS listeners: one for each hostname of a route. Of two routes for one hostname the older one holds.
fn tls_chains(snapshot: &Snapshot, together: &[&Served<'_>]) -> Vec<Chain> {
    let mut out = vec![];
    let mut taken = std::collections::BTreeSet::new();
    for served in together {
        let hostname = served.listener.hostname.as_str();
        let mut routes = listeners::routes(snapshot, &served.listener, &["TLSRoute"]);
        routes.sort_by_key(|(route, _)| streams::age(route));
        let mut tcp = listeners::routes(snapshot, &served.listener, &["TCPRoute"]);
        tcp.sort_by_key(|(route, _)| streams::age(route));
        for (route, hosts) in routes.into_iter().chain(tcp) {
            let free = hosts.into_iter().filter(|host| !tables::belongs_elsewhere(together, hostname, host));
            for host in free.filter(|host| taken.insert(host.clone())).collect::<Vec<_>>() {
                let tls = (!served.passes()).then_some(Termination::SIMPLE);
                let filter = Filter::Tcp(streams::destinations(snapshot, route, false));
                let mut made = chain(served, &[host], tls, filter);
                made.source = Some(route.reference().clone());
                out.push(made);
            }
        }
        // The listener's hostname is its own even where no route is attached: a wider one does not take it.
        let own = hostnames::common(hostname, "").unwrap_or_default();
        if own != "*" && taken.insert(own.clone()) {
            out.push(chain(served, &[own], None, Filter::Tcp(vec![])));
        }
    }
    out
}
