//! PLAT115.

use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::event::Event;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, Termination};

crate::rule! {
    /// A node ran out of memory as a whole, and the kernel killed containers that had not reached their own limit.
    ///
    /// ## What it detects
    /// The event `SystemOOM` about a node, and containers of wanted namespaces on it that were killed within two minutes of it.
    /// ## Why it matters
    /// The victim is chosen by its use and its quality of service: it is innocent, and a higher limit for it makes matters worse. The
    /// node promises more memory than it has.
    /// ## Evidence
    /// The kubelet's event about the node, and the ends of containers at that time.
    /// ## How to confirm
    /// `kubectl describe node NODE` shows the event, and requests and limits of everything on it against what it has.
    /// ## How to fix
    /// Request the memory that each container really uses, so that the scheduler does not put more on a node than fits; give the kubelet
    /// reserved memory (`systemReserved`, `evictionHard`).
    /// ## False positives
    /// A container that reached its own limit is killed without such an event (POD102).
    /// ## References
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior>
    NodeOutOfMemory {
        code: "PLAT115", name: "node-out-of-memory", family: Platform, severity: Error,
        needs: [Events, Status], aliases: ["K8S-OOM"],
    }
}

/// A node that ran out of memory, with its victims.
#[derive(Debug)]
pub struct Fact<'a> {
    node: &'a str,
    event: &'a Event,
    killed: Vec<(&'a Pod, &'a str, &'a Termination)>,
}

/// A kill and the kubelet's event about it lie so far apart at most.
const NEAR_SECONDS: i64 = 120;

/// The events by which nodes say that they ran out of memory, by node.
pub(crate) fn events(snapshot: &Snapshot) -> BTreeMap<&str, Vec<&Event>> {
    let mut out: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in snapshot.events.iter().filter(|e| e.reason == "SystemOOM" && e.about.kind == "Node") {
        out.entry(event.about.name.as_str()).or_default().push(event);
    }
    out
}

/// Whether a container ended when its node ran out of memory.
pub(crate) fn at(events: &[&Event], end: &Termination) -> bool {
    let Some(finished) = end.finished.map(jiff::Timestamp::as_second) else { return false };
    events.iter().any(|e| match (e.first, e.last) {
        (Some(first), Some(last)) => {
            (first.as_second() - NEAR_SECONDS..=last.as_second() + NEAR_SECONDS).contains(&finished)
        }
        _ => false,
    })
}

impl Check for NodeOutOfMemory {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for (node, events) in events(snapshot) {
            let on = |pod: &&Pod| pod.node == node && snapshot.in_scope(pod.object.namespace());
            let mut killed = vec![];
            for pod in snapshot.pods.iter().filter(on) {
                for status in &pod.statuses {
                    let end = status.latest_end().filter(|end| end.out_of_memory() || end.exit_code == 137);
                    killed.extend(
                        end.filter(|end| at(&events, end)).map(|end| (pod, status.name.as_str(), end)),
                    );
                }
            }
            if let (Some(event), false) = (events.last(), killed.is_empty()) {
                out.push(Fact { node, event, killed });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let node = ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", fact.node) };
        let owners: BTreeSet<ObjectRef> = fact.killed.iter().map(|(pod, _, _)| snapshot.owner(pod)).collect();
        let before = fact.killed.iter().flat_map(|(pod, _, _)| snapshot.services_before_pod(pod));
        let services: BTreeSet<ServiceName> = before.map(|s| s.service_name()).collect();
        let count = common::plural(fact.killed.len(), "container");
        let names = owners.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut finding = Finding::new(Self::META, node.field("status.allocatable.memory"), &[])
            .title(format!("Node {} ran out of memory, and {count} on it were killed", fact.node))
            .message(format!(
                "Node {} as a whole ran out of memory, and the kernel killed {count} of {names} on it. They are victims: the node promises more memory than it has, and limits of theirs are not the reason.",
                fact.node
            ))
            .mechanism("node out of memory: the node is overcommitted (SystemOOM)")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(services.iter().next().cloned())
            .evidence(common::event_evidence(fact.event))
            .evidences(fact.killed.iter().take(3).map(|(pod, name, end)| {
                Evidence::object(&pod.object.reference, format!("container {name} ended with exit code {}, on node {}", end.exit_code, fact.node)).at(end.finished)
            }))
            .onset(fact.killed.iter().filter_map(|(_, _, end)| end.finished).chain(fact.event.first).min())
            .effects(owners.iter().map(Effect::pods))
            .effects(services.iter().map(|s| Effect::requests(s, common::DOWN)));
        for owner in owners.iter().take(3) {
            finding = finding.related(owner.clone());
        }
        finding
            .remedy(Remedy::commands(
                "Find what uses more memory on the node than it requests, and let it request what it uses",
                vec![common::describe_command(&node), "kubectl top pods --all-namespaces --sort-by=memory".to_owned()],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a node is about to run out of memory",
                "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.05",
            ))
            .prevention(Prevention::of("Setting", "Memory requests equal to limits for what matters, and systemReserved, kubeReserved and evictionHard on every node"))
    }
}
