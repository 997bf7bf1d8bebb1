//! DNS104.

use super::server::{self, Lines, name_server};
use crate::analyze::finding::{Confidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls;
use crate::analyze::rules::application::calls::{Calls, since};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// CoreDNS cannot read Services and endpoints from the API server.
    ///
    /// ## What it detects
    /// Lines of CoreDNS' kubernetes plugin: the API server does not answer, or forbids what it lists.
    /// ## Why it matters
    /// Names of Services that were made since are not there (`NXDOMAIN` for what exists), addresses behind headless Services are old, and a
    /// pod that starts now answers for no name of the cluster.
    /// ## Evidence
    /// The line, its count, and look-ups of existing Services that fail in applications.
    /// ## How to confirm
    /// `kubectl auth can-i list endpointslices.discovery.k8s.io --as=system:serviceaccount:kube-system:coredns`.
    /// ## How to fix
    /// Forbidden: the ClusterRole `system:coredns` and its binding. No answer: the way from its pods to the API server (policies, kube-proxy,
    /// the API server's own address).
    /// ## False positives
    /// Some lines while a pod starts, or while the API server restarts, end by themselves and are not reported.
    /// ## References
    /// <https://coredns.io/plugins/kubernetes/>
    ApiUnreadable {
        code: "DNS104", name: "name-server-cannot-read-the-api", family: Network, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// A line or two are a restart of the API server.
const MIN_LINES: u64 = 3;

/// What the kubernetes plugin says.
#[derive(Debug)]
pub struct Fact<'a> {
    lines: Lines<'a>,
    forbidden: bool,
    subject: ObjectRef,
    server: ObjectRef,
    /// Callers that look up Services which exist, in vain.
    callers: Vec<Calls>,
}

fn tells(text: &str) -> bool {
    let forbidden = text.contains("is forbidden: User \"system:serviceaccount:kube-system:coredns\"");
    let plugin = text.contains("plugin/kubernetes")
        && [
            "Kubernetes API connection failure",
            "Failed to watch",
            "failed to list",
            "waiting for Kubernetes API",
            "unsynced Kubernetes API",
        ]
        .iter()
        .any(|w| text.contains(w));
    forbidden || plugin || (text.contains("Failed to watch *") && text.contains("reflector.go"))
}

impl Check for ApiUnreadable {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let Some(lines) = server::lines(snapshot, tells).filter(|l| l.count >= MIN_LINES && !l.ended) else {
            return vec![];
        };
        let forbidden = server::lines(snapshot, |text| tells(text) && text.contains("forbidden")).is_some();
        let server = name_server(snapshot)
            .map_or_else(|| ObjectRef::new("Deployment", server::NAMESPACE, "coredns"), |s| s.reference());
        let role =
            || snapshot.object("ClusterRole", "", "system:coredns").map(|o| o.reference.field("rules"));
        let named = || {
            ObjectRef {
                api_version: "rbac.authorization.k8s.io/v1".to_owned(),
                ..ObjectRef::new("ClusterRole", "", "system:coredns")
            }
            .field("rules")
        };
        let failing = calls::failing(snapshot);
        let in_vain = failing.all.iter().filter(|c| {
            matches!(c.kind(), Some(Kind::Resolver | Kind::NoSuchHost | Kind::NoAddresses))
                && c.service().is_some()
                && c.severity() >= Severity::Warning
        });
        vec![Fact {
            subject: if forbidden { role().unwrap_or_else(named) } else { server.clone() },
            callers: in_vain.cloned().collect(),
            server,
            lines,
            forbidden,
        }]
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let why =
            if fact.forbidden { "the API server forbids it" } else { "the API server does not answer it" };
        let felt = !fact.callers.is_empty();
        let todo = if fact.forbidden {
            "Let the ClusterRole system:coredns list and watch endpointslices, services, pods and namespaces, and bind it to the ServiceAccount kube-system/coredns"
        } else {
            "Open the way from the name server's pods to the API server: policies in kube-system, kube-proxy on their nodes, the endpoints of Service default/kubernetes"
        };
        let mut finding = Finding::new(Self::META, fact.subject.clone(), &["api"])
            .title(format!("The cluster's name server cannot read Services: {why}"))
            .message(format!(
                "The kubernetes plugin of {} says that it cannot list or watch what it answers from, {}{}: {why}. {} workloads look up Services that exist in vain.",
                fact.server,
                text::times(fact.lines.count),
                since(fact.lines.first.time),
                fact.callers.len()
            ))
            .mechanism("DNS: CoreDNS cannot read the Kubernetes API")
            .severity(if felt { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .evidence(fact.lines.evidence("the kubernetes plugin cannot read"))
            .evidences(fact.callers.iter().take(2).flat_map(|calls| calls.evidence().take(1).collect::<Vec<_>>()))
            .onset(server::onset(&fact.callers).or(fact.lines.first.time))
            .effects(server::effects(snapshot, &fact.callers))
            .remedy(Remedy::manual(todo))
            .prevention(Prevention::alert(
                "Alert where names lag behind their Services",
                "histogram_quantile(0.99, sum by (le) (rate(coredns_kubernetes_dns_programming_duration_seconds_bucket[10m]))) > 10",
            ));
        if !fact.subject.same_object(&fact.server) {
            finding = finding.related(fact.server.clone());
        }
        finding
    }
}
