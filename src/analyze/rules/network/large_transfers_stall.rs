//! NET103.

use crate::model::json::json;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer_segment, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::support::field_path;
use crate::analyze::traffic::text;
use crate::model::access_log::AccessRecord;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::address;

crate::rule! {
    /// Large requests or answers between nodes stall, and small ones pass: packets are larger than the way between them takes.
    ///
    /// ## What it detects
    /// Between pods on different nodes, small requests that succeed and large ones that end without an answer: the callee's proxy
    /// sent the whole answer, the caller's never got it; or large requests that pass on one node and stall to another.
    /// ## Why it matters
    /// Connections open, probes pass and small calls work, so nothing looks wrong with the network; what does not fit into one
    /// packet of the path is lost each time it is sent.
    /// ## Evidence
    /// Bytes, flags and request ids in the access logs of both proxies, by pair of nodes.
    /// ## How to confirm
    /// `ping -M do -s 1472` between the nodes, then smaller, until it passes: the size and 28 is the path's MTU.
    /// ## How to fix
    /// Set the MTU of the pods' network to that of the path less what its encapsulation adds (50 bytes for VXLAN, 60 to 80 for
    /// WireGuard and IPsec), and let ICMP `fragmentation needed` through.
    /// ## False positives
    /// Large answers that the application makes slowly: its proxy has not sent them, and such requests do not count.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/cluster-administration/networking/>
    LargeTransfersStall {
        code: "NET103", name: "large-transfers-stall", family: Network, severity: Error,
        needs: [AccessLogs, Status], aliases: [],
    }
}

/// Up to so many bytes fit into one packet on any path, headers included.
const SMALL: u64 = 1000;
/// From so many bytes on at least one packet is as large as Ethernet takes.
const LARGE: u64 = 1400;
/// Fewer large ones that stall are chance.
const FEW: u64 = 5;
/// As many small ones must have passed.
const PASSED: u64 = 10;
/// One in so many may behave otherwise.
const RARELY: u64 = 20;

/// Requests between two nodes.
#[derive(Debug, Clone, Default)]
struct Sums {
    small_ok: u64,
    small_failed: u64,
    large_ok: u64,
    /// Large ones without an answer, and those of them that the callee's proxy answered in full.
    large_failed: u64,
    answered: u64,
    smallest: Option<u64>,
    first: Option<Timestamp>,
    services: BTreeSet<ServiceName>,
}

impl Sums {
    fn stalls(&self) -> bool {
        self.large_failed >= FEW
            && self.large_ok * RARELY <= self.large_failed
            && self.small_ok >= PASSED
            && self.small_failed * RARELY <= self.small_ok
    }
}

/// Nodes between which large transfers stall.
#[derive(Debug)]
pub struct Fact<'a> {
    pairs: Vec<((&'a str, &'a str), Sums)>,
    /// The node that all pairs have in common.
    node: Option<&'a str>,
    /// The configuration of the pods' network: object, JSON pointer of the MTU, its value.
    network: Option<(&'a Object, String, u64)>,
}

impl Check for LargeTransfersStall {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let sums = sums(snapshot);
        // Large requests alone prove nothing unless they pass elsewhere.
        let elsewhere = sums.values().any(|s| !s.stalls() && s.large_ok >= PASSED);
        let pairs: Vec<_> = sums
            .into_iter()
            .filter(|((from, to), s)| from != to && s.stalls() && (s.answered >= FEW || elsewhere))
            .collect();
        let Some(((from, to), _)) = pairs.first() else { return vec![] };
        let common =
            [*from, *to].into_iter().find(|node| pairs.iter().all(|((a, b), _)| a == node || b == node));
        vec![Fact { node: common, network: network(snapshot), pairs }]
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let failed: u64 = fact.pairs.iter().map(|(_, s)| s.large_failed).sum();
        let large: u64 = failed + fact.pairs.iter().map(|(_, s)| s.large_ok).sum::<u64>();
        let small: u64 = fact.pairs.iter().map(|(_, s)| s.small_ok).sum();
        let answered: u64 = fact.pairs.iter().map(|(_, s)| s.answered).sum();
        let onset = fact.pairs.iter().filter_map(|(_, s)| s.first).min();
        let smallest = fact.pairs.iter().filter_map(|(_, s)| s.smallest).min().unwrap_or(LARGE);
        let services: BTreeSet<&ServiceName> = fact.pairs.iter().flat_map(|(_, s)| &s.services).collect();
        let between: Vec<String> =
            fact.pairs.iter().take(3).map(|((a, b), _)| format!("{a} → {b}")).collect();
        let between = text::plain(&between.join(", ").replace('→', "to"), 160);
        let subject = match (&fact.network, fact.node) {
            (Some((object, at, _)), _) => object.reference.field(field_path(at)),
            (None, Some(node)) => ObjectRef { api_version: "v1".into(), ..ObjectRef::new("Node", "", node) },
            (None, None) => {
                let node = fact.pairs.first().map_or("", |((_, to), _)| to);
                ObjectRef { api_version: "v1".into(), ..ObjectRef::new("Node", "", node) }
            }
        };
        let proof = if answered > 0 {
            format!(" {answered} of them were answered in full by the callee's proxy, and nothing arrived.")
        } else {
            " Between other nodes large ones pass.".to_owned()
        };
        let mut finding = Finding::new(Self::META, subject.clone(), &[])
            .title(format!("From {smallest} bytes on nothing passes between nodes ({between}): {failed} of {large} stall"))
            .message(format!(
                "Between nodes {between} {} of up to {SMALL} bytes succeeded, and {failed} of {large} with {LARGE} bytes or more ended without an answer.{proof} Packets of full size are lost on the way: the pods' network has a larger MTU than the path between the nodes.",
                text::several(small, "request")
            ))
            .mechanism("MTU: large responses stall, small ones pass")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().map(|s| (*s).clone()))
            .onset(onset)
            .evidences(fact.pairs.iter().take(4).map(|((from, to), s)| {
                Evidence::new(
                    "AccessLog",
                    format!("proxies on {from} calling {to}"),
                    format!("small: {} passed, {} failed; large: {} passed, {} stalled", s.small_ok, s.small_failed, s.large_ok, s.large_failed),
                )
                .at(s.first)
            }))
            .evidences(fact.network.as_ref().map(|(object, at, mtu)| {
                Evidence::object(&object.reference.field(field_path(at)), format!("MTU {mtu}"))
            }))
            .effects(services.iter().map(|service| Effect::requests(service, &["UT", "UC", "DC", "UF", "timeout", "slow", "reset"])))
            .maybe_remedy(lower(fact))
            .prevention(Prevention::of("Test", "After each change of the network: a request and an answer of 10 KB between every pair of nodes"))
            .prevention(Prevention::alert(
                "Alert on packets that are sent again and again",
                "sum by (instance) (rate(node_netstat_Tcp_RetransSegs[5m])) / sum by (instance) (rate(node_netstat_Tcp_OutSegs[5m])) > 0.05",
            ));
        if let Some(((from, to), _)) = fact.pairs.first() {
            let peer = snapshot.object("Node", "", to).and_then(|node| {
                node.body
                    .list("status.addresses")
                    .iter()
                    .find(|a| a.text("type") == Some("InternalIP"))?
                    .text("address")
            });
            let peer = quote(peer.unwrap_or(to));
            finding = finding.remedy(Remedy::commands(
                format!("Measure the path's MTU from {from}: the largest size that passes, and 28"),
                [1472, 1422, 1372, 1272]
                    .iter()
                    .map(|size| {
                        format!(
                            "kubectl debug node/{} -it --image=busybox -- ping -M do -c 3 -s {size} {peer}",
                            quote(from)
                        )
                    })
                    .collect(),
                vec![],
            ));
        }
        finding
    }
}

/// Requests by the nodes of caller and callee, from the callers' proxies, joined with what the callees' proxies said.
fn sums(snapshot: &Snapshot) -> BTreeMap<(&str, &str), Sums> {
    let mut served: BTreeMap<&str, &AccessRecord> = BTreeMap::new();
    for record in snapshot.logs.iter().flat_map(|log| &log.access) {
        if record.cluster.starts_with("inbound|") && !record.request_id.is_empty() {
            served.insert(&record.request_id, record);
        }
    }
    let mut out: BTreeMap<(&str, &str), Sums> = BTreeMap::new();
    for log in &snapshot.logs {
        let Some(caller) = snapshot.pod(&log.namespace, &log.pod).filter(|pod| !pod.node.is_empty()) else {
            continue;
        };
        for record in
            log.access.iter().filter(|r| r.cluster.starts_with("outbound|") && !r.upstream_host.is_empty())
        {
            let Some(callee) =
                snapshot.pod_by_ip(address(&record.upstream_host)).filter(|pod| !pod.node.is_empty())
            else {
                continue;
            };
            let other = served.get(record.request_id.as_str());
            let sent = other.map_or(0, |r| r.sent);
            let size = record.received.max(record.sent).max(sent);
            let stalled = ["UT", "UC", "DC", "UR", "SI"].iter().any(|flag| record.has_flag(flag));
            let sums = out.entry((caller.node.as_str(), callee.node.as_str())).or_default();
            match (size, stalled) {
                (size, false) if size <= SMALL => sums.small_ok += u64::from(!record.failed()),
                (size, true) if size <= SMALL => sums.small_failed += 1,
                (size, false) if size >= LARGE => sums.large_ok += u64::from(!record.failed()),
                (size, true) if size >= LARGE => {
                    // An answer that the callee's proxy has not sent in full is the application's own slowness.
                    let whole = other.is_some_and(|r| r.sent >= LARGE && r.code > 0 && r.code < 500);
                    if !whole && record.received < LARGE {
                        continue;
                    }
                    sums.large_failed += 1;
                    sums.answered += u64::from(whole);
                    sums.smallest = sums.smallest.into_iter().chain([size]).min();
                    sums.first = sums.first.into_iter().chain(record.start).min();
                    sums.services
                        .extend(snapshot.services_before_pod(callee).next().map(|s| s.service_name()));
                }
                _ => {}
            }
        }
    }
    out
}

/// Where the pods' network keeps its MTU, as far as it was read.
fn network(snapshot: &Snapshot) -> Option<(&Object, String, u64)> {
    const KNOWN: &[(&str, &str)] = &[("calico-config", "veth_mtu"), ("cilium-config", "mtu")];
    let maps = snapshot.objects_of("ConfigMap").find_map(|map| {
        let (_, key) = KNOWN.iter().find(|(name, _)| map.name() == *name)?;
        let mtu = map.body.at("data")?.child(key)?.as_str()?.parse().ok()?;
        Some((map, format!("/data/{}", pointer_segment(key)), mtu))
    });
    maps.or_else(|| {
        snapshot.objects_of("Installation").find_map(|object| {
            let mtu = object.body.int("spec.calicoNetwork.mtu")?;
            Some((object, "/spec/calicoNetwork/mtu".to_owned(), u64::try_from(mtu).ok()?))
        })
    })
}

/// The MTU less the overhead of one encapsulation more.
fn lower(fact: &Fact<'_>) -> Option<Remedy> {
    const OVERHEAD: u64 = 100;
    let (object, at, mtu) = fact.network.as_ref()?;
    let next = mtu.checked_sub(OVERHEAD).filter(|next| *next >= 1200)?;
    let value = if object.reference.kind == "ConfigMap" { json!(next.to_string()) } else { json!(next) };
    let remedy = Remedy::patch(
        object,
        &json!([{"op": "replace", "path": at, "value": value}]),
        format!(
            "Lower the MTU of the pods' network from {mtu} to {next}; pods that start after the network's agents take it"
        ),
    )?;
    Some(remedy.risk(Risk::High))
}
