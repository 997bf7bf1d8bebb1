//! ISTIO115.

use std::collections::BTreeMap;

use super::hosts::gateway_services;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::configured;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::json::json;
use crate::model::mesh::istio::{Gateway, GatewayServer};
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Two servers of Gateways claim the same port of the same pods and do not fit together.
    ///
    /// ## What it detects
    /// Gateways with the same selector whose servers have the same port number with protocols that exclude each other, or the
    /// same port and host; and HTTPS servers of one Gateway that share a port's name.
    /// ## Why it matters
    /// istiod takes the older one and drops the other: its hosts are answered with 404, or with the other's certificate.
    /// ## Evidence
    /// Both servers with port, protocol and hosts.
    /// ## How to confirm
    /// `istioctl analyze`, and istiod's log `skipping server on gateway`.
    /// ## How to fix
    /// Merge the servers into one Gateway, or give them different hosts, ports or names.
    /// ## False positives
    /// Two Gateways that are alike on purpose while one replaces the other.
    /// ## References
    /// <https://istio.io/latest/docs/ops/common-problems/network-issues/>
    GatewayServersConflict {
        code: "ISTIO115", name: "gateway-servers-conflict", family: Gateway, severity: Warning,
        needs: [Istio], aliases: ["IST0145", "IST0138", "KIA0301"],
    }
}

/// Why two servers do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Clash {
    Protocol,
    Host(String),
    Name(String),
}

/// Two servers: the one that is dropped first.
#[derive(Debug)]
pub struct Fact<'a> {
    dropped: (&'a Gateway, &'a GatewayServer),
    kept: (&'a Gateway, &'a GatewayServer),
    clash: Clash,
}

impl Check for GatewayServersConflict {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        type Server<'a> = (&'a Gateway, &'a GatewayServer);
        /// What two servers clash on: the selector of their Gateways, and the port.
        type Place<'a> = (&'a Labels, i64);
        let mut by_port: BTreeMap<Place<'a>, Vec<Server<'a>>> = BTreeMap::new();
        for gateway in snapshot
            .istio
            .gateways
            .iter()
            .filter(|g| configured(g.object.namespace()) && !g.selector.is_empty())
        {
            for server in &gateway.servers {
                by_port.entry((&gateway.selector, server.port)).or_default().push((gateway, server));
            }
        }
        let mut out = vec![];
        for servers in by_port.values_mut() {
            // The older Gateway is kept.
            servers.sort_by_key(|(gateway, server)| {
                (gateway.object.created, &gateway.object.reference, &server.path)
            });
            for (at, dropped) in servers.iter().enumerate() {
                let before = servers.iter().take(at);
                let found = before.filter_map(|kept| Some((kept, clash(kept, dropped)?))).next();
                if let Some((kept, clash)) = found {
                    out.push(Fact { dropped: *dropped, kept: *kept, clash });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (gateway, server) = fact.dropped;
        let (other, kept) = fact.kept;
        let subject = gateway.object.reference.field(&server.path);
        let against = other.object.reference.field(&kept.path);
        let (title, why) = match &fact.clash {
            Clash::Protocol if gateway.object.reference == other.object.reference => (
                format!(
                    "{} claims port {} as {} and as {}",
                    gateway.object.reference,
                    server.port,
                    text::plain(&kept.protocol, 10),
                    text::plain(&server.protocol, 10)
                ),
                format!("one listener cannot speak {} and {}", kept.protocol, server.protocol),
            ),
            Clash::Protocol => (
                format!(
                    "{} and {} claim port {} as {} and {}",
                    gateway.object.reference,
                    against,
                    server.port,
                    text::plain(&server.protocol, 10),
                    text::plain(&kept.protocol, 10)
                ),
                format!("one listener cannot speak {} and {}", kept.protocol, server.protocol),
            ),
            Clash::Host(host) => (
                format!(
                    "{} and {} both serve {} on port {}",
                    gateway.object.reference,
                    against,
                    text::plain(host, 60),
                    server.port
                ),
                format!("both serve host {}", text::plain(host, 60)),
            ),
            Clash::Name(name) => (
                format!(
                    "{} has two HTTPS servers whose port is named {}",
                    gateway.object.reference,
                    text::plain(name, 40)
                ),
                format!("their ports share the name {}", text::plain(name, 40)),
            ),
        };
        let describe = |server: &GatewayServer| {
            format!(
                "port {}, {}, hosts {}",
                server.port,
                text::plain(&server.protocol, 10),
                text::plain(&server.hosts.join(", "), 100)
            )
        };
        Finding::new(Self::META, subject.clone(), &[&against.to_string(), &kept.path])
            .title(title)
            .message(format!(
                "{subject} ({}) and {against} ({}) select the same pods, and {why}. istiod keeps the older one and drops the other.",
                server.path, kept.path
            ))
            .mechanism("gateway conflict: servers claim the same port")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .service(gateway_services(snapshot, gateway).into_iter().next())
            .evidence(Evidence::object(&subject, describe(server)))
            .evidence(Evidence::object(&against, describe(kept)))
            .effects(gateway_services(snapshot, gateway).iter().map(|service| Effect::requests(service, &["NR", "404"])))
            .related(against)
            .maybe_remedy(
                Remedy::patch(
                    &gateway.object,
                    &json!([{"op": "remove", "path": crate::analyze::remedy::pointer(&server.path)}]),
                    format!("Remove {} after its hosts stand in {}", server.path, other.object.reference),
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            )
            .prevention(Prevention::alert(
                "Alert when istiod refuses configuration",
                "sum by (type) (pilot_total_rejected_configs) > 0",
            ))
    }
}

fn clash(a: &(&Gateway, &GatewayServer), b: &(&Gateway, &GatewayServer)) -> Option<Clash> {
    let ((first, one), (second, two)) = (a, b);
    let kind = |server: &GatewayServer| match server.protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => 0,
        "HTTPS" | "TLS" => 1,
        _ => 2,
    };
    // Servers bound to addresses of their own have listeners of their own.
    if one.body.text("bind") != two.body.text("bind") {
        return None;
    }
    if kind(one) != kind(two) {
        return Some(Clash::Protocol);
    }
    let same = first.object.reference == second.object.reference;
    let name = |server: &GatewayServer| server.body.string("port.name");
    if same && kind(one) == 1 && one.path != two.path && !name(one).is_empty() && name(one) == name(two) {
        return Some(Clash::Name(name(one)));
    }
    let host = one.hosts.iter().find(|host| two.hosts.contains(host));
    host.filter(|_| !same && kind(one) == 1).map(|host| Clash::Host(host.clone()))
}
