//! ISTIO117.

use crate::model::json::json;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{ServiceEntry, visible};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Several outside TCP hosts share a port, and nothing tells them apart.
    ///
    /// ## What it detects
    /// ServiceEntries that declare the same TCP port for different hosts without addresses: neither written, nor given by the
    /// control plane.
    /// ## Why it matters
    /// A proxy sees only address and port of a TCP connection. Without an address all of them are one listener, and
    /// connections meant for one host arrive at another: wrong databases, failing logins.
    /// ## Evidence
    /// The ServiceEntries with their ports, `spec.addresses` and `status.addresses`.
    /// ## How to confirm
    /// `istioctl proxy-config listeners POD --port PORT` shows one listener at `0.0.0.0` for all of them.
    /// ## How to fix
    /// Write an address of its own into each, or let the proxies capture DNS and the control plane give addresses.
    /// ## False positives
    /// Control planes since 1.25 give each host an address by themselves; it stands in the status, and this rule is silent.
    /// ## References
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/>
    OutsideHostsSharePort {
        code: "ISTIO117", name: "outside-hosts-share-a-port", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0134"],
    }
}

/// ServiceEntries that share a port.
#[derive(Debug)]
pub struct Fact<'a> {
    port: i64,
    entries: Vec<&'a ServiceEntry>,
}

impl Check for OutsideHostsSharePort {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if allocated(snapshot) {
            return vec![];
        }
        let mut by_port: BTreeMap<i64, Vec<&'a ServiceEntry>> = BTreeMap::new();
        for entry in snapshot.istio.service_entries.iter().filter(|entry| bare(entry)) {
            let tcp = |protocol: &str| {
                matches!(
                    protocol.to_ascii_uppercase().as_str(),
                    "TCP" | "MONGO" | "MYSQL" | "REDIS" | "POSTGRES" | ""
                )
            };
            for (port, _) in entry.ports.iter().filter(|(_, protocol)| tcp(protocol)) {
                by_port.entry(*port).or_default().push(entry);
            }
        }
        by_port
            .into_iter()
            .filter_map(|(port, mut entries)| {
                let first = *entries.first()?;
                let own = first.object.namespace();
                entries.retain(|entry| {
                    visible(&entry.export_to, entry.object.namespace(), own)
                        && (std::ptr::eq(*entry, first) || entry.hosts != first.hosts)
                });
                (entries.len() > 1 && snapshot.in_scope(own)).then_some(Fact { port, entries })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let hosts: Vec<String> =
            fact.entries.iter().filter_map(|e| e.hosts.first()).take(3).map(|h| text::plain(h, 50)).collect();
        let hosts = hosts.join(" and ");
        let last = fact.entries.last().or(fact.entries.first());
        let Some(object) = last.map(|entry| &entry.object) else {
            return Finding::new(Self::META, Default::default(), &[]);
        };
        let subject = object.reference.field("spec.addresses");
        Finding::new(Self::META, subject, &[&fact.port.to_string()])
            .title(format!("{hosts} share TCP port {} without addresses: connections reach the wrong one", fact.port))
            .message(format!(
                "{} ServiceEntries declare TCP port {} and no address. A proxy cannot tell their connections apart: all of them go where one of them points.",
                fact.entries.len(), fact.port
            ))
            .mechanism("ServiceEntry conflict: TCP hosts share a port without addresses")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Possible)
            .evidences(fact.entries.iter().take(4).map(|entry| {
                Evidence::object(&entry.object.reference, format!("hosts {}, TCP port {}, no addresses", text::plain(&entry.hosts.join(", "), 80), fact.port))
            }))
            .maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "add", "path": "/spec/addresses", "value": ["240.240.1.1"]}]),
                "Write an address of its own into each ServiceEntry, which DNS capture then answers with",
            ))
            .prevention(Prevention::alert("Alert on listeners that exclude each other", "sum(pilot_conflict_outbound_listener_tcp_over_current_tcp) > 0"))
    }
}

/// Whether nothing gives the host an address.
fn bare(entry: &ServiceEntry) -> bool {
    let body = &entry.object.body;
    body.list("spec.addresses").is_empty()
        && body.list("status.addresses").is_empty()
        && body.text("spec.resolution") != Some("NONE")
        && body.text("spec.location") != Some("MESH_INTERNAL")
}

/// Whether proxies or the control plane are told to give addresses, or some ServiceEntry already has one from it.
fn allocated(snapshot: &Snapshot) -> bool {
    let metadata = snapshot.istio.mesh_config.at("defaultConfig.proxyMetadata");
    let on = metadata.and_then(|m| m.child("ISTIO_META_DNS_AUTO_ALLOCATE")).and_then(|v| v.as_str())
        == Some("true");
    on || snapshot
        .istio
        .service_entries
        .iter()
        .any(|entry| !entry.object.body.list("status.addresses").is_empty())
}
