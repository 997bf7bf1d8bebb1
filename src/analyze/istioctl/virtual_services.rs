//! VirtualServices that claim one host, and destinations that are not there.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, DESTINATION_RULE, VIRTUAL_SERVICE, full_name};
use super::hosts::{EVERYWHERE, Registry, full, overlap, resource, scopes};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// IST0109, once for each VirtualService: in the mesh one host is for one of them, as far as they are exported.
pub(super) fn conflicts(context: &Context<'_>, out: &mut Messages) {
    let mut claims: BTreeMap<(String, String), Vec<&Object>> = BTreeMap::new();
    for service in context.all(VIRTUAL_SERVICE) {
        let gateways = service.body.texts("spec.gateways");
        if !gateways.is_empty() && !gateways.iter().any(|gateway| gateway == "mesh") {
            continue;
        }
        for scope in scopes(&service.body.texts("spec.exportTo"), service.namespace()) {
            for host in service.body.texts("spec.hosts") {
                claims.entry((scope.clone(), full(service.namespace(), &host))).or_default().push(service);
            }
        }
    }
    let mut said = BTreeSet::new();
    for ((scope, host), own) in &claims {
        let mut all = own.clone();
        if scope != EVERYWHERE {
            // Of those that everybody sees, also the ones whose host has a wildcard in common with it.
            let seen_too =
                claims.iter().filter(|((scope, other), _)| scope == EVERYWHERE && overlap(host, other));
            all.extend(seen_too.flat_map(|(_, services)| services));
        }
        if all.len() < 2 {
            continue;
        }
        let names: BTreeSet<String> = all.iter().map(|service| full_name(service)).collect();
        for service in all {
            if said.insert(full_name(service)) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let text = format!("host {host} is claimed by {}", names.join(", "));
                out.push("IST0109", service, "metadata.name", text);
            }
        }
    }
}

/// A destination, and the field that holds its host as istioctl points at it.
struct Destination<'a> {
    value: &'a Value,
    field: String,
    mirror: bool,
}

/// All destinations of routes, then all mirrors.
fn all_destinations(service: &Object) -> Vec<Destination<'_>> {
    let mut out = vec![];
    for protocol in ["tcp", "tls", "http"] {
        for (at, rule) in service.body.list(&format!("spec.{protocol}")).iter().enumerate() {
            for (place, route) in rule.list("route").iter().enumerate() {
                let field = format!("spec.{protocol}[{at}].route[{place}].destination.host");
                let value = route.at("destination").unwrap_or(&Value::Null);
                out.push(Destination { value, field, mirror: false });
            }
        }
    }
    for (at, rule) in service.body.list("spec.http").iter().enumerate() {
        if let Some(value) = rule.at("mirror") {
            out.push(Destination { value, field: format!("spec.http[{at}].mirror.host"), mirror: true });
        }
        for (place, mirror) in rule.list("mirrors").iter().enumerate() {
            let value = mirror.at("destination").unwrap_or(&Value::Null);
            let field = format!("spec.http[{at}].mirrors[{place}].destination.host");
            out.push(Destination { value, field, mirror: true });
        }
    }
    out
}

/// IST0101 for hosts and ports, IST0112 and IST0140.
pub(super) fn destinations(context: &Context<'_>, out: &mut Messages) {
    let registry = Registry::read(context);
    let splits = splits(context);
    for service in context.all(VIRTUAL_SERVICE) {
        let export_to = service.body.texts("spec.exportTo");
        for Destination { value, field, mirror } in all_destinations(service) {
            let host = value.string("host");
            let Some(found) = registry.find(service.namespace(), &export_to, &host) else {
                out.not_found(service, &field, if mirror { "mirror host" } else { "host" }, &host);
                continue;
            };
            match value.at("port") {
                None if found.ports.len() > 1 => {
                    let text =
                        format!("destination {host} has the ports {:?}, and none is named", found.ports);
                    out.push("IST0112", service, &field, text);
                }
                None => {}
                Some(port) => {
                    let port = port.int("number").unwrap_or_default();
                    if !found.ports.contains(&port) {
                        out.not_found(service, &field, "host:port", &format!("{host}:{port}"));
                    }
                }
            }
        }
        unaffected(service, &splits, out);
    }
}

/// Hosts, as they are written, that a VirtualService for them splits by subset, with those VirtualServices.
fn splits(context: &Context<'_>) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for service in context.all(VIRTUAL_SERVICE) {
        let hosts = service.body.texts("spec.hosts");
        let routes = service.body.list("spec.http").iter().flat_map(|rule| rule.list("route"));
        for route in routes.filter(|route| !route.string("destination.subset").is_empty()) {
            let host = route.string("destination.host");
            if hosts.contains(&host) {
                out.entry(host).or_default().insert(full_name(service));
            }
        }
    }
    out
}

/// A route at a gateway that goes to a host without a subset: the split that another VirtualService makes of the host is for the
/// mesh.
fn unaffected(service: &Object, splits: &BTreeMap<String, BTreeSet<String>>, out: &mut Messages) {
    if service.body.list("spec.gateways").is_empty() {
        return;
    }
    let routes = service.body.list("spec.http").iter().flat_map(|rule| rule.list("route"));
    for route in routes.filter(|route| route.string("destination.subset").is_empty()) {
        for other in splits.get(&route.string("destination.host")).into_iter().flatten() {
            let text = format!(
                "the subsets that VirtualService {other} routes to do not count for requests from a gateway"
            );
            out.push("IST0140", service, "", text);
        }
    }
}

/// IST0101 for subsets that no DestinationRule of any namespace defines for the host.
pub(super) fn subsets(context: &Context<'_>, out: &mut Messages) {
    let mut defined = BTreeSet::new();
    for rule in context.all(DESTINATION_RULE) {
        let host = resource(rule.namespace(), &rule.body.string("spec.host"));
        for subset in rule.body.list("spec.subsets") {
            defined.insert((host.clone(), subset.string("name")));
        }
    }
    for service in context.all(VIRTUAL_SERVICE) {
        for Destination { value, field, mirror } in all_destinations(service) {
            let (host, subset) = (value.string("host"), value.string("subset"));
            if !subset.is_empty()
                && !defined.contains(&(resource(service.namespace(), &host), subset.clone()))
            {
                let what = if mirror {
                    "mirror+subset in destinationrule"
                } else {
                    "host+subset in destinationrule"
                };
                out.not_found(service, &field, what, &format!("{host}+{subset}"));
            }
        }
    }
}
