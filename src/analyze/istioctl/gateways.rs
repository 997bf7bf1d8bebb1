//! Gateways that ask for the same port and hosts, use one certificate twice, or listen where no Service leads.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, GATEWAY, SERVICE, covers, first_label, full_name, selector_text};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;

/// What one Gateway wants of a port: each host with the address that it is bound to.
type Hosts = BTreeMap<String, String>;

/// What Gateways ask for, by their selector's text: the selector, and of each port each Gateway's hosts.
type Asked = BTreeMap<String, (Labels, BTreeMap<i64, BTreeMap<String, Hosts>>)>;

/// IST0145. Two Gateways are compared when their selectors, written as text, are equal, or when one text holds the other and some
/// pod is selected by both.
pub(super) fn conflicts(context: &Context<'_>, out: &mut Messages) {
    // By selector and port; of a Gateway's several servers on one port the last one counts.
    let mut asked = Asked::new();
    let gateways: Vec<(&Object, Labels)> =
        context.all(GATEWAY).map(|gateway| (gateway, gateway.body.text_map("spec.selector"))).collect();
    for (gateway, selector) in &gateways {
        for server in gateway.body.list("spec.servers") {
            let bind = server.string("bind");
            let hosts: Hosts = server.texts("hosts").into_iter().map(|host| (host, bind.clone())).collect();
            let (_, ports) =
                asked.entry(selector_text(selector)).or_insert_with(|| (selector.clone(), BTreeMap::new()));
            let port = server.int("port.number").unwrap_or_default();
            ports.entry(port).or_default().insert(full_name(gateway), hosts);
        }
    }
    let alike = alike(context, &gateways, &asked);
    for (gateway, selector) in &gateways {
        let own = selector_text(selector);
        let others = alike.get(&own).map_or(&[][..], Vec::as_slice);
        if others.is_empty() {
            if !own.is_empty() {
                out.not_found(gateway, &first_label("spec.selector", selector), "selector", &own);
            }
            continue;
        }
        let name = full_name(gateway);
        for server in gateway.body.list("spec.servers") {
            let (port, bind) = (server.int("port.number").unwrap_or_default(), server.string("bind"));
            let hosts = server.texts("hosts");
            let of_port = others.iter().filter_map(|other| asked.get(*other)?.1.get(&port)).flatten();
            let rivals: Vec<&str> = of_port
                .filter(|(other, theirs)| {
                    **other != name && hosts.iter().any(|host| theirs.get(host) == Some(&bind))
                })
                .map(|(other, _)| other.as_str())
                .collect();
            if !rivals.is_empty() {
                let text = format!(
                    "conflicts with {} on port {port} of pods {own:?}: hosts {}",
                    rivals.join(","),
                    hosts.join(",")
                );
                out.push("IST0145", gateway, "", text);
            }
        }
    }
}

/// For each selector's text the texts that it is compared with, itself where a server uses it.
fn alike<'t>(
    context: &Context<'_>,
    gateways: &[(&Object, Labels)],
    asked: &'t Asked,
) -> BTreeMap<String, Vec<&'t str>> {
    let own: BTreeMap<String, &Labels> =
        gateways.iter().map(|(_, selector)| (selector_text(selector), selector)).collect();
    own.into_iter()
        .map(|(text, selector)| {
            let compared = asked.iter().filter(|(other, (labels, _))| {
                let holds = other.contains(text.as_str()) || text.contains(other.as_str());
                **other == text
                    || holds && context.pods_with(selector).iter().any(|pod| covers(labels, &pod.labels))
            });
            let compared = compared.map(|(other, _)| other.as_str()).collect();
            (text, compared)
        })
        .collect()
}

/// IST0138. A Gateway is compared with all those whose selector holds all of its own.
pub(super) fn certificates(context: &Context<'_>, out: &mut Messages) {
    // By the credential's name, or by the files of certificate and key.
    let mut users: BTreeMap<(String, String), Vec<&Object>> = BTreeMap::new();
    let certificates = |gateway: &Object| -> BTreeSet<(String, String)> {
        let tls = gateway.body.list("spec.servers").iter().filter_map(|server| server.at("tls"));
        tls.filter_map(|tls| {
            let field = |name: &str| tls.string(name);
            let named = (field("credentialName"), String::new());
            let files = (field("serverCertificate"), field("privateKey"));
            match (named.0.is_empty(), files.0.is_empty() || files.1.is_empty()) {
                (false, _) => Some(named),
                (true, false) => Some((format!("file {}", files.0), files.1)),
                (true, true) => None,
            }
        })
        .collect()
    };
    for gateway in context.all(GATEWAY) {
        for certificate in certificates(gateway) {
            users.entry(certificate).or_default().push(gateway);
        }
    }
    for gateway in context.all(GATEWAY) {
        let selector = gateway.body.text_map("spec.selector");
        for other in certificates(gateway).iter().filter_map(|certificate| users.get(certificate)).flatten() {
            let itself = other.reference.same_object(&gateway.reference);
            if !itself && covers(&selector, &other.body.text_map("spec.selector")) {
                let text = format!("uses the same certificate as Gateway {}", full_name(other));
                out.push("IST0138", gateway, "metadata.name", text);
            }
        }
    }
}

/// IST0162, and IST0101 for selectors without pods. A Gateway's port must be a port of some Service before the pods, which Istio
/// translates, or one that it leads to on them. A Service without a selector is taken to lead to all pods beside it.
pub(super) fn ports(context: &Context<'_>, out: &mut Messages) {
    let mut services: BTreeMap<&str, Vec<(&Object, Labels)>> = BTreeMap::new();
    for service in context.all(SERVICE) {
        services
            .entry(service.namespace())
            .or_default()
            .push((service, service.body.text_map("spec.selector")));
    }
    let mut known: BTreeMap<String, Option<BTreeSet<i64>>> = BTreeMap::new();
    for gateway in context.all(GATEWAY) {
        let selector = gateway.body.text_map("spec.selector");
        let text = selector_text(&selector);
        let field = first_label("spec.selector", &selector);
        let ports = known.entry(text.clone()).or_insert_with(|| {
            let pods = context.pods_with(&selector);
            (!pods.is_empty()).then(|| pods.iter().flat_map(|pod| ports_before(pod, &services)).collect())
        });
        let Some(ports) = ports else {
            out.not_found(gateway, &field, "selector", &text);
            continue;
        };
        for server in gateway.body.list("spec.servers").iter().filter(|server| server.at("port").is_some()) {
            let port = server.int("port.number").unwrap_or_default();
            if !ports.contains(&port) {
                let text = format!("no Service leads to port {port} of the pods {text:?}");
                out.push("IST0162", gateway, &field, text);
            }
        }
    }
}

/// The ports of Services before a pod, and those of the pod that they lead to. Only ports that say they are TCP count.
fn ports_before(pod: &Object, services: &BTreeMap<&str, Vec<(&Object, Labels)>>) -> Vec<i64> {
    let beside = services.get(pod.namespace()).into_iter().flatten();
    let selecting = beside.filter(|(_, selector)| covers(selector, &pod.labels));
    let ports = selecting.flat_map(|(service, _)| service.body.list("spec.ports"));
    ports
        .filter(|port| port.text("protocol") == Some("TCP"))
        .flat_map(|port| [port.int("port"), port.int("targetPort").filter(|target| *target != 0)])
        .flatten()
        .collect()
}
