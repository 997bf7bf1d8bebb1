//! One proxy's part of a request's way: the listener, the filter chain, the route. What it decides goes into the answer; where
//! it sends the request comes back.

use super::Twin;
use super::answer::{Answer, ProxyError, Step};
use super::ask::{Mode, Request, Tls};
use super::http::engine::{self, Routed, Seen};
use super::http::table::{Route, VirtualHost, Weighted};
use super::istio::proxy::Proxy;
use super::listener::{Chain, Chosen, Connection, Filter, Listener, choose};
use super::policy::Normalization;
use super::{respond, respond::Routing};

/// What a proxy does with a request that it sends on.
#[derive(Debug, Clone)]
pub struct Onward {
    /// Destinations by weight.
    pub to: Vec<Weighted>,
    /// The HTTP side of it; none for bytes.
    pub http: Option<Routing>,
}

/// Sends a request into a proxy; `None` where it ends there.
pub fn enter<'a>(
    twin: &Twin<'a>,
    proxy: &Proxy<'a>,
    mode: Mode,
    connection: &Connection,
    request: &Request,
    answer: &mut Answer,
) -> Option<Onward> {
    if let Some(why) = proxy.unmodelled(mode, connection.port) {
        answer.give_up(why);
        return None;
    }
    let Some(listener) = proxy.listener(twin, mode, connection) else {
        answer.error = Some(ProxyError::NoListener);
        answer.refuse("", format!("the proxy does not listen on port {}", connection.port));
        return None;
    };
    let paths = Normalization::of(twin.snapshot);
    pass(&listener, (connection, paths), request, answer, &|name| proxy.table(twin, name))
}

/// Sends a request into a listener whose proxy normalises paths; `tables` finds route tables by name.
pub fn pass(
    listener: &Listener,
    (connection, paths): (&Connection, Normalization),
    request: &Request,
    answer: &mut Answer,
    tables: &dyn Fn(&str) -> std::sync::Arc<super::http::table::RouteTable>,
) -> Option<Onward> {
    answer.listener.clone_from(&listener.name);
    answer.steps.push(Step::plain(format!(
        "listener {} takes the connection to port {}",
        listener.name, connection.port
    )));
    let chain = match choose(listener, connection) {
        Chosen::Chain(chain) => chain,
        Chosen::Nothing => {
            answer.error = Some(ProxyError::NoFilterChain);
            answer.refuse(
                "NR",
                format!("no filter chain of {} takes {}", listener.name, described(connection)),
            );
            return None;
        }
        Chosen::Several => {
            answer.error = Some(ProxyError::MultipleFilterChains);
            let why = format!(
                "two filter chains of {} take the same connections: Envoy rejects the listener",
                listener.name
            );
            answer.refuse("", why);
            return None;
        }
    };
    answer.filter_chain.clone_from(&chain.name);
    if let Some(source) = &chain.source {
        answer
            .steps
            .push(Step::by(source, format!("its filter chain for {} takes it", described(connection))));
    }
    if !terminates(chain, connection, answer) {
        return None;
    }
    match &chain.filter {
        Filter::Tcp(to) => {
            if to.is_empty() {
                answer.refuse("NR", "the rule names no destination");
                return None;
            }
            Some(Onward { to: to.clone(), http: None })
        }
        Filter::Http(name, own) => {
            answer.route_config.clone_from(name);
            if connection.tls != Tls::Plaintext && chain.tls.is_none() || !connection.protocol.is_http() {
                answer.route_config.clear();
                answer.error = Some(ProxyError::ProtocolError);
                answer.refuse("DPE", format!("{} is no HTTP to this filter chain", described(connection)));
                return None;
            }
            let table = own.clone().unwrap_or_else(|| tables(name));
            let Some(path) = paths.changed(&request.path) else {
                return route(&table, chain, request, answer);
            };
            answer.steps.push(Step::plain(format!("the proxy normalises the path to {path}")));
            let normal = Request { path: path.clone(), ..request.clone() };
            let mut onward = route(&table, chain, &normal, answer);
            if let Some(http) = onward.as_mut().and_then(|onward| onward.http.as_mut()) {
                http.sent.path.get_or_insert(path);
            }
            onward
        }
    }
}

/// Whether the TLS handshake comes about.
fn terminates(chain: &Chain, connection: &Connection, answer: &mut Answer) -> bool {
    let Some(termination) = &chain.tls else { return true };
    let (error, why) = match (connection.tls, termination.client_certificate) {
        (Tls::Plaintext, _) => (ProxyError::InvalidTLS, "plaintext where the filter chain expects TLS"),
        (Tls::Mtls, Some(false)) => {
            (ProxyError::InvalidMTLS, "mutual TLS of the mesh where another certificate is shown")
        }
        (Tls::Tls, Some(true)) => {
            (ProxyError::InvalidMTLS, "TLS without a client certificate where one is demanded")
        }
        _ => return true,
    };
    answer.error = Some(error);
    answer.refuse("", why);
    false
}

/// A connection in words.
fn described(connection: &Connection) -> String {
    let what = match (connection.tls, connection.protocol.is_http()) {
        (Tls::Plaintext, true) => "plaintext HTTP",
        (Tls::Plaintext, false) => "plaintext",
        (Tls::Tls, _) => "TLS",
        (Tls::Mtls, _) => "mutual TLS of the mesh",
    };
    match connection.sni.as_deref().filter(|_| connection.tls != Tls::Plaintext) {
        Some(sni) => format!("{what} for {sni}"),
        None => what.to_owned(),
    }
}

fn route(
    table: &super::http::table::RouteTable,
    chain: &Chain,
    request: &Request,
    answer: &mut Answer,
) -> Option<Onward> {
    if let Some((route, why)) = table.refused() {
        answer.steps.push(Step::by(route, format!("Envoy refuses route table {}: {why}", table.name)));
        answer.give_up(format!(
            "Envoy refuses route table {}, so that its proxies keep the one that they had before: {why}",
            table.name
        ));
        return None;
    }
    let (host, _) = request.authority();
    let seen = Seen {
        method: &request.method,
        scheme: if chain.tls.is_some() { "https" } else { "http" },
        authority: &request.host,
        host: &host,
        path: &request.path,
        headers: &request.headers,
    };
    match engine::route(table, &seen) {
        Routed::To(virtual_host, route) => {
            answer.virtual_host.clone_from(&virtual_host.name);
            answer.route.clone_from(&route.name);
            answer.steps.push(Step::by(&route.source, taken(virtual_host, route, request)));
            respond::act(route, &seen, request, answer)
        }
        Routed::TlsRequired(virtual_host) => {
            answer.virtual_host.clone_from(&virtual_host.name);
            answer.error = Some(ProxyError::TLSRequired);
            if let Some(source) = &virtual_host.require_tls {
                answer.steps.push(Step::by(source, "plaintext is sent to HTTPS"));
            }
            // The Host header stays as it came, port and all.
            answer.location = format!("https://{}{}", seen.authority, seen.path);
            answer.respond(301, "", format!("{} takes HTTPS alone: a redirect to it", virtual_host.name));
            None
        }
        Routed::NoRoute(virtual_host) => {
            answer.virtual_host.clone_from(&virtual_host.name);
            answer.error = Some(ProxyError::NoRoute);
            let none = if virtual_host.routes.is_empty() { "there is none" } else { "none fits" };
            let asked = format!("{} {}", request.method, request.path);
            answer.respond(404, "NR", format!("no route of {} for {asked}: {none}", virtual_host.name));
            None
        }
        Routed::NoVirtualHost => {
            answer.error = Some(ProxyError::NoVirtualHost);
            answer.respond(404, "NR", format!("route table {} knows no host {host:?}", table.name));
            None
        }
    }
}

/// Why a route was taken.
fn taken(virtual_host: &VirtualHost, route: &Route, request: &Request) -> String {
    let name = if route.name.is_empty() { String::new() } else { format!(" {:?}", route.name) };
    let at = virtual_host.routes.iter().position(|other| std::ptr::eq(other, route)).unwrap_or(0);
    let place = match (at, virtual_host.routes.len()) {
        (_, 1) => "its only route".to_owned(),
        (at, many) => format!("route {} of {many}", at + 1),
    };
    format!("virtual host {} takes {} {} with {place}{name}", virtual_host.name, request.method, request.path)
}
