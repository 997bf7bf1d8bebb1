//! DNS101.

use jiff::Timestamp;

use super::server::{self, NameServer, name_server};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{Calls, since};
use crate::analyze::rules::application::settings::restart;
use crate::model::change::ChangeKind;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The cluster's name server has no ready pod.
    ///
    /// ## What it detects
    /// A CoreDNS (or kube-dns) without a single ready endpoint: scaled to nothing, or none of its pods ready.
    /// ## Why it matters
    /// Every look-up of every pod waits five seconds for each try and then fails, for names inside the cluster and outside alike. What
    /// has its addresses cached goes on for a while, so services fail one after the other.
    /// ## Evidence
    /// The endpoints of the name server's Service, replicas and readiness of its pods, and the look-ups that fail in applications' logs.
    /// ## How to confirm
    /// `kubectl -n kube-system get endpointslices -l k8s-app=kube-dns` and `kubectl -n kube-system logs -l k8s-app=kube-dns`.
    /// ## How to fix
    /// Scale it up again where it was scaled down; else what its pods' status and log say: its configuration, its image, its nodes.
    /// ## False positives
    /// Manifests without status say nothing about readiness. One unready pod of several is no failure.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/administer-cluster/dns-debugging-resolution/>
    ServerDown {
        code: "DNS101", name: "name-server-down", family: Network, severity: Critical,
        needs: [Status], aliases: [],
    }
}

/// A name server that nobody can ask.
#[derive(Debug)]
pub struct Fact {
    subject: ObjectRef,
    workload: ObjectRef,
    /// Replicas before it was scaled to nothing.
    scaled: Option<i64>,
    pods: usize,
    callers: Vec<Calls>,
    since: Option<Timestamp>,
}

impl Check for ServerDown {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let Some(server) = name_server(snapshot) else { return vec![] };
        let zero = server.workload.is_some_and(|w| w.replicas == Some(0));
        let (ready, pods) = server.ready();
        let endpoints = server.service.and_then(|service| snapshot.endpoints(service));
        // Pods of kube-system that were not collected are no missing pods.
        let down = match endpoints {
            _ if zero => true,
            Some((0, _)) if pods == 0 => {
                server.workload.is_some_and(|w| w.status_count("readyReplicas") == Some(0))
            }
            Some((0, _)) => ready == 0,
            None => pods > 0 && ready == 0 && server.pods.iter().all(|pod| pod.has_status()),
            Some(_) => false,
        };
        if !down || !snapshot.runs() {
            return vec![];
        }
        vec![fact(snapshot, &server, zero, pods)]
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let callers = fact.callers.len();
        let state = match fact.scaled {
            Some(_) => "it is scaled to 0 replicas".to_owned(),
            None => format!("none of its {} pods is ready", fact.pods),
        };
        let onset = server::onset(&fact.callers).or(fact.since);
        let mut finding = Finding::new(Self::META, fact.subject.clone(), &["down"])
            .title(format!("The cluster's name server has no ready pod: {state}"))
            .message(format!(
                "{} answers every look-up of the cluster, and {state}. {callers} workloads that were seen fail for want of an answer{}.",
                fact.workload,
                since(server::onset(&fact.callers))
            ))
            .mechanism("DNS: CoreDNS down, name resolution fails")
            .role(Role::Cause, Confidence::Observed)
            .evidence(Evidence::object(&fact.workload, state))
            .evidences(fact.callers.iter().take(3).flat_map(|calls| calls.evidence().take(1).collect::<Vec<_>>()))
            .onset(onset)
            .effect(Effect::pods(&fact.workload))
            .effects(server::effects(snapshot, &fact.callers))
            .prevention(Prevention::alert("Alert when no name server is there", "absent(up{job=~\".*dns.*\"} == 1)"))
            .prevention(Prevention::of("Policy", "Two replicas at least, on different nodes, with a PodDisruptionBudget"));
        if !fact.subject.same_object(&fact.workload) {
            finding = finding.related(fact.workload.clone());
        }
        match fact.scaled {
            Some(before) => finding.remedy(Remedy::scale(
                &fact.workload,
                0,
                before,
                format!("Scale {} to {before} replicas", fact.workload),
            )),
            None => finding.remedy(Remedy {
                commands: vec![restart(&fact.workload)],
                ..Remedy::manual(format!(
                    "Heal the pods of {} as their status and log say; if it was well before, restart it",
                    fact.workload
                ))
            }),
        }
    }
}

fn fact(snapshot: &Snapshot, server: &NameServer<'_>, zero: bool, pods: usize) -> Fact {
    let workload = server.reference();
    let scaling = snapshot
        .changes
        .iter()
        .rev()
        .find(|c| c.kind == ChangeKind::Scaled && c.subject.same_object(&workload));
    let before = scaling
        .and_then(|c| c.differences.iter().find(|d| d.path.ends_with("replicas"))?.before.parse().ok());
    let unready = server.pods.iter().filter_map(|pod| pod.condition("Ready")?.since).min();
    Fact {
        subject: if zero { workload.field("spec.replicas") } else { workload.clone() },
        workload,
        // Distributions start with two.
        scaled: zero.then(|| before.filter(|n| *n > 0).unwrap_or(2)),
        pods,
        callers: server::unresolved(snapshot),
        since: scaling.map(|c| c.time).or(unready),
    }
}
