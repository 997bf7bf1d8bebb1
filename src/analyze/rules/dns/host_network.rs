//! DNS105.

use crate::model::json::json;

use super::server::name_server;
use super::unanswered::unanswered;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, Calls, service_of, since};
use crate::analyze::rules::seen;
use crate::model::fields::Fields;
use crate::model::graph::Provenance;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A pod asks another name server than the cluster's, or without search domains, and cluster names fail in it.
    ///
    /// ## What it detects
    /// Workloads on their node's network with the policy `ClusterFirst` (which there means the node's own resolver), with the policy
    /// `Default`, or with `None` and other name servers or without the namespace's search domain, that call Services of the cluster by
    /// name.
    /// ## Why it matters
    /// The names of Services exist only on the cluster's name server: every such call fails in these pods alone, while the same name
    /// resolves everywhere else.
    /// ## Evidence
    /// The pod template's `hostNetwork`, `dnsPolicy` and `dnsConfig`, and the names of existing Services that its log says do not
    /// exist. Where every name server of its own list is unknown to the cluster, also calls by name that end in a time-out: a
    /// server that does not answer looks so to a client. They count only where the callee is ready, no other caller fails at it,
    /// and no call of this workload was answered.
    /// ## How to confirm
    /// `kubectl exec POD -- cat /etc/resolv.conf` does not name the address of the Service kube-dns.
    /// ## How to fix
    /// `dnsPolicy: ClusterFirstWithHostNet` on the node's network, `ClusterFirst` else, without name servers of its own.
    /// ## False positives
    /// Without a failed look-up it is said for information only: addresses instead of names, or a resolver of the node that knows the
    /// cluster's zone, are fine.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy>
    HostNetwork {
        code: "DNS105", name: "pod-without-cluster-dns", family: Network, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// Why a pod asks somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    HostNetwork,
    Default,
    Other,
    NoSearch,
}

impl Why {
    fn of(workload: &Workload, addresses: &[String]) -> Option<Why> {
        let template = &workload.template;
        match template.spec.text("dnsPolicy").unwrap_or("ClusterFirst") {
            "ClusterFirst" if template.host_network => Some(Why::HostNetwork),
            "Default" => Some(Why::Default),
            "None" => {
                let servers = template.spec.texts("dnsConfig.nameservers");
                // A node-local cache has an address of its own, beginning so by convention.
                let known = |server: &String| addresses.contains(server) || server.starts_with("169.254.");
                if !addresses.is_empty() && !servers.iter().any(known) {
                    return Some(Why::Other);
                }
                // Short names are looked up below the search domains alone.
                let namespace = workload.object.namespace();
                let domains = template.spec.texts("dnsConfig.searches");
                let own = |domain: &&String| domain.starts_with(&format!("{namespace}.svc."));
                (!addresses.is_empty() && !domains.iter().any(|domain| own(&domain))).then_some(Why::NoSearch)
            }
            _ => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Why::HostNetwork => {
                "it is on its node's network with dnsPolicy ClusterFirst, which there means the node's resolver"
            }
            Why::Default => "its dnsPolicy Default means the node's resolver",
            Why::Other => "its dnsPolicy None names other servers than the cluster's",
            Why::NoSearch => {
                "its dnsPolicy None leaves it without the namespace's search domain, below which short names are looked up"
            }
        }
    }

    fn prevention(self) -> &'static str {
        match self {
            Why::HostNetwork => {
                "An admission policy: hostNetwork pods that are no system pods carry dnsPolicy ClusterFirstWithHostNet"
            }
            Why::Default => "An admission policy: dnsPolicy Default is for system pods alone",
            Why::Other | Why::NoSearch => {
                "An admission policy: pods with dnsPolicy None name the cluster's name server and search domains among their own"
            }
        }
    }

    fn mechanism(self) -> &'static str {
        match self {
            Why::HostNetwork => "DNS policy: hostNetwork without ClusterFirstWithHostNet",
            Why::Default => {
                "DNS policy: Default asks the node's name server, which does not know the cluster's names"
            }
            Why::Other => "DNS policy: None with a name server (nameserver) that is not the cluster's",
            Why::NoSearch => {
                "DNS policy: None without search domains (dnsConfig.searches), so that short names do not exist"
            }
        }
    }

    fn policy(self) -> &'static str {
        if self == Why::HostNetwork { "ClusterFirstWithHostNet" } else { "ClusterFirst" }
    }
}

/// A workload that cannot look cluster names up.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    why: Why,
    /// Failed look-ups of Services that exist.
    calls: Vec<Calls>,
    /// Whether they are known by time-outs alone.
    silent: bool,
    callee: Option<ServiceName>,
}

/// Sets the policy that asks the cluster's name server, and takes name servers away that were listed instead of it.
fn ask_the_cluster(fact: &Fact<'_>) -> Option<Remedy> {
    let workload = fact.workload;
    let policy = fact.why.policy();
    let path = pointer(&workload.template_path("spec.dnsPolicy"));
    let has = workload.object.body.pointer(&path).is_some();
    let mut operations =
        vec![json!({"op": if has { "replace" } else { "add" }, "path": path, "value": policy})];
    let mut summary = format!("Set dnsPolicy of {} to {policy}", workload.reference());
    let servers = pointer(&workload.template_path("spec.dnsConfig.nameservers"));
    if matches!(fact.why, Why::Other | Why::NoSearch) && workload.object.body.pointer(&servers).is_some() {
        operations.push(json!({"op": "remove", "path": servers}));
        summary.push_str(", and take the nameservers of dnsConfig away");
    }
    Some(Remedy::patch(&workload.object, &json!(operations), summary)?.risk(Risk::Medium))
}

impl Check for HostNetwork {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let addresses =
            name_server(snapshot).and_then(|s| s.service.map(|s| s.cluster_ips.clone())).unwrap_or_default();
        let failing = calls::failing(snapshot);
        let mut out = vec![];
        for workload in snapshot
            .workloads
            .iter()
            .filter(|w| w.object.owners.is_empty() && seen::wanted(snapshot, w.object.namespace()))
        {
            let Some(why) = Why::of(workload, &addresses) else { continue };
            let own = failing.all.iter().filter(|c| c.caller.same_object(workload.reference()));
            let in_vain = own.filter(|c| {
                matches!(c.kind(), Some(Kind::NoSuchHost | Kind::Resolver))
                    && c.service().is_some()
                    && c.severity() >= Severity::Warning
            });
            let mut calls: Vec<Calls> = in_vain.cloned().collect();
            let silent = calls.is_empty() && why == Why::Other;
            if silent {
                calls = unanswered(snapshot, workload, &failing);
            }
            let told = snapshot.graph.edges.iter().find(|((from, _), edge)| {
                from.same_object(workload.reference())
                    && edge.provenance.iter().any(|p| *p != Provenance::Log)
            });
            let callee = calls
                .first()
                .and_then(|c| c.service().cloned())
                .or_else(|| told.map(|((_, to), _)| to.clone()));
            // Nothing is wrong with names in full.
            if callee.is_some() && !(why == Why::NoSearch && calls.is_empty()) {
                out.push(Fact { workload, why, calls, silent, callee });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let field = fact.workload.template_path("spec.dnsPolicy");
        let callee = fact.callee.as_ref().map(|s| format!("Service {s}")).unwrap_or_default();
        let observed = !fact.calls.is_empty();
        let amount =
            fact.calls.first().map(|c| format!(": {}{}", c.amount(), since(c.first))).unwrap_or_default();
        let policy = fact.why.policy();
        let servers = fact.workload.template.spec.texts("dnsConfig.nameservers");
        let seen = match (observed, fact.silent) {
            (false, _) => "No failed look-up was seen.",
            (true, false) => "Its log says that this name does not resolve, and the Service exists.",
            (true, true) => {
                "Its calls by name time out, the Service has ready endpoints, and nobody else fails at it: none of these servers is known to the cluster."
            }
        };
        let mut evidence = Evidence::object(&workload.field(&field), fact.why.words());
        if !servers.is_empty() {
            evidence = evidence.excerpt(&servers.join(", "));
        }
        let mut finding = Finding::new(Self::META, workload.field(&field), &[policy])
            .title(match observed {
                true => format!(
                    "{}: calls of {callee} by name fail{amount}; {}",
                    workload.name,
                    if fact.why == Why::NoSearch {
                        "it has no search domain"
                    } else {
                        "it asks another name server"
                    }
                ),
                false => {
                    format!("{workload} does not ask the cluster's name server and calls {callee} by name")
                }
            })
            .message(format!("{workload} calls {callee} by its name, and {}. {seen}", fact.why.words(),))
            .mechanism(fact.why.mechanism())
            .severity(if observed { Severity::Error } else { Severity::Info })
            .role(
                if observed { Role::Cause } else { Role::Context },
                if observed { Confidence::Observed } else { Confidence::Possible },
            )
            .service(service_of(snapshot, workload).or_else(|| fact.callee.clone()))
            .evidence(evidence)
            .evidences(fact.calls.iter().take(2).flat_map(|c| c.evidence().take(1).collect::<Vec<_>>()))
            .onset(fact.calls.iter().filter_map(|c| c.first).min())
            .maybe_remedy(ask_the_cluster(fact))
            .prevention(Prevention::of("Policy", fact.why.prevention()));
        if observed {
            finding = finding
                .effect(Effect::calls(workload))
                .effects(super::server::effects(snapshot, &fact.calls));
        }
        finding
    }
}
