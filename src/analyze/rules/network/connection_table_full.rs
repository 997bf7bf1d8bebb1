//! NET104.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;

crate::rule! {
    /// The kernel's table of connections on a node is full, and new connections are dropped.
    ///
    /// ## What it detects
    /// A node with pods of a wanted namespace whose kernel says `nf_conntrack: table full, dropping packet`, in an event about the node
    /// or in the log of an agent that reads the kernel's, or whose table is over 98 % full by `node_nf_conntrack_entries`.
    /// ## Why it matters
    /// A packet that needs a new entry is dropped without a word: connections and look-ups from and to that node time out at random,
    /// while those that exist go on.
    /// ## Evidence
    /// The kernel's own words with the node, or entries against the limit over time.
    /// ## How to confirm
    /// On the node: `sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max` and `dmesg | grep conntrack`.
    /// ## How to fix
    /// Raise `net.netfilter.nf_conntrack_max` (and kube-proxy's `conntrack.maxPerCore`), and find who opens so many connections: one
    /// without keep-alive, or look-ups over UDP that a cache on the node would answer.
    /// ## False positives
    /// A table that is filled to nine tenths for a moment drops nothing and is not reported. Look-ups alone that get lost: DNS108.
    /// ## References
    /// <https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/>
    ConnectionTableFull {
        code: "NET104", name: "connection-table-full", family: Network, severity: Error,
        needs: [], aliases: ["DNS-TIMEOUT"],
    }
}

/// From this share on the next burst is dropped.
const FULL: f64 = 0.98;
/// The kernel's words.
const WORDS: &str = "conntrack: table full";

/// A node whose table is full.
#[derive(Debug)]
pub struct Fact {
    node: String,
    evidence: Vec<Evidence>,
    first: Option<Timestamp>,
    /// Entries that fit, where that is known.
    limit: Option<f64>,
    workloads: BTreeSet<ObjectRef>,
    services: BTreeSet<ServiceName>,
}

/// What was seen of one node.
#[derive(Default)]
struct Seen {
    evidence: Vec<Evidence>,
    first: Option<Timestamp>,
    limit: Option<f64>,
}

impl Seen {
    fn add(&mut self, evidence: Evidence, at: Option<Timestamp>) {
        self.first = self.first.into_iter().chain(at).min();
        if self.evidence.len() < 3 {
            self.evidence.push(evidence);
        }
    }
}

impl Check for ConnectionTableFull {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut nodes: BTreeMap<String, Seen> = BTreeMap::new();
        for event in snapshot.events.iter().filter(|e| e.about.kind == "Node" && e.message.contains(WORDS)) {
            nodes
                .entry(event.about.name.clone())
                .or_default()
                .add(common::event_evidence(event), event.first);
        }
        for stream in &snapshot.logs {
            let mut said = stream.lines.iter().filter(|line| line.text.contains(WORDS)).peekable();
            let Some(first) = said.peek().map(|line| (line.time, line.text.clone())) else { continue };
            let Some(pod) = snapshot.pod(&stream.namespace, &stream.pod).filter(|p| !p.node.is_empty())
            else {
                continue;
            };
            let count = said.count();
            let evidence = Evidence::new(
                "Log",
                format!("{}, container {}", pod.object.reference, stream.container),
                format!("the kernel of node {} says so, {count} times", pod.node),
            )
            .at(first.0)
            .excerpt(&first.1);
            nodes.entry(pod.node.clone()).or_default().add(evidence, first.0);
        }
        for entries in snapshot.series_named("node_nf_conntrack_entries") {
            let limit = snapshot
                .series_named("node_nf_conntrack_entries_limit")
                .find(|s| same_target(s, entries))
                .and_then(Series::last);
            let (Some(limit), Some(node)) = (limit.filter(|l| *l > 0.0), node_of(snapshot, entries)) else {
                continue;
            };
            if let Some((at, most)) = entries.points.iter().find(|(_, value)| value / limit > FULL) {
                let seen = nodes.entry(node).or_default();
                seen.limit = Some(limit);
                let evidence = Evidence::new(
                    "Metric",
                    "node_nf_conntrack_entries".to_owned(),
                    format!("{most:.0} of {limit:.0} entries are in use"),
                );
                seen.add(evidence.at(from_unix(*at)), from_unix(*at));
            }
        }
        nodes
            .into_iter()
            .filter_map(|(node, seen)| {
                let pods: Vec<_> = snapshot
                    .pods
                    .iter()
                    .filter(|p| p.node == node && !p.ended() && snapshot.in_scope(p.object.namespace()))
                    .collect();
                if pods.is_empty() {
                    return None;
                }
                let services =
                    pods.iter().flat_map(|pod| snapshot.services_before_pod(pod)).map(|s| s.service_name());
                Some(Fact {
                    services: services.collect(),
                    workloads: pods.iter().map(|pod| snapshot.owner(pod)).collect(),
                    node,
                    evidence: seen.evidence,
                    first: seen.first,
                    limit: seen.limit,
                })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let node = ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", &fact.node) };
        let of = fact.limit.map(|limit| format!(" of {limit:.0} entries")).unwrap_or_default();
        let count = common::plural(fact.workloads.len(), "workload");
        let mut finding = Finding::new(Self::META, node.field("net.netfilter.nf_conntrack_max"), &[])
            .title(format!("Node {}: its table of connections{of} is full, and {count} on it lose connections", fact.node))
            .message(format!(
                "The kernel of node {} tracks every connection in one table{of}, and that table is full. A packet that would need a new entry is dropped, so new connections and look-ups of the {count} there time out at random.",
                fact.node
            ))
            .mechanism("conntrack table full: the kernel drops packets of new connections")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(fact.services.iter().next().cloned())
            .evidences(fact.evidence.iter().cloned())
            .onset(fact.first)
            .effects(fact.workloads.iter().map(Effect::calls))
            .effects(fact.services.iter().map(|s| Effect::requests(s, &["timeout", "UF", "URX", "dns", "5xx"])));
        for owner in fact.workloads.iter().take(3) {
            finding = finding.related(owner.clone());
        }
        let debug = |value: f64| {
            format!(
                "kubectl debug node/{} -it --profile=sysadmin --image=busybox -- sysctl -w net.netfilter.nf_conntrack_max={value:.0}",
                quote(&fact.node)
            )
        };
        if let Some(limit) = fact.limit {
            finding = finding.remedy(
                Remedy::commands(
                    format!("Double net.netfilter.nf_conntrack_max of the node, from {limit:.0}"),
                    vec![debug(2.0 * limit)],
                    vec![debug(limit)],
                )
                .risk(Risk::Medium),
            );
        }
        finding
            .remedy(Remedy::manual("Raise conntrack.maxPerCore in kube-proxy's configuration, run NodeLocal DNSCache, and let clients keep their connections"))
            .prevention(Prevention::alert("Alert before the table is full", "node_nf_conntrack_entries / node_nf_conntrack_entries_limit > 0.9"))
    }
}

/// Whether two series come from the same target.
fn same_target(a: &Series, b: &Series) -> bool {
    ["instance", "node", "nodename"].iter().all(|label| a.label(label) == b.label(label))
}

/// The node that a series of node-exporter is about: by its label, or by the address of its target.
fn node_of(snapshot: &Snapshot, series: &Series) -> Option<String> {
    let named = ["node", "nodename", "instance"]
        .into_iter()
        .map(|label| series.label(label))
        .find(|value| !value.is_empty())?;
    let host = named.rsplit_once(':').map_or(named, |(host, _)| host);
    let has = |node: &&crate::model::object::Object| {
        node.name() == host
            || node.body.list("status.addresses").iter().any(|a| a.text("address") == Some(host))
    };
    let known = snapshot.objects_of("Node").find(has).map(|node| node.name().to_owned());
    known.or_else(|| snapshot.pods.iter().any(|p| p.node == host).then(|| host.to_owned()))
}
