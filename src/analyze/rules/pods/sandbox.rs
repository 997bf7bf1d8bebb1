//! POD113.

use std::collections::BTreeSet;

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::model::container::ContainerRole;
use crate::model::event::Event;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// A placed pod does not start because its node cannot give it a network or a sandbox.
    ///
    /// ## What it detects
    /// A pod that has a node and no running container, with the kubelet's events `FailedCreatePodSandBox` or `NetworkNotReady`, told
    /// apart by the message: no address left, the network plugin is not installed or does not answer, an unknown runtime handler, a
    /// memory limit in which the sandbox itself has no room.
    /// ## Why it matters
    /// No container starts, not even an init container, and no log is written. On one node it is that node's network agent, on all
    /// of them the pool of addresses or the plugin itself.
    /// ## Evidence
    /// The kubelet's events, and the nodes on which it happens.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows the event; `kubectl -n kube-system get pods -o wide` shows the network agent of the node.
    /// ## How to fix
    /// Give the address pool more room, or bring the network agent of the node back; until then keep new pods off the node.
    /// ## False positives
    /// One failure that a later attempt made good: the pod runs by now and is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/>
    SandboxFails {
        code: "POD113", name: "sandbox-not-created", family: Workload, severity: Error,
        needs: [Events, Status], aliases: ["K8S-SANDBOX"],
    }
}

/// Why there is no sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Addresses,
    NotInstalled,
    AgentDown,
    Handler,
    /// The pod's own memory limit leaves no room for the sandbox itself.
    Memory,
    Other,
}

impl Why {
    fn of(message: &str) -> Self {
        let text = message.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match () {
            () if has(&[
                "failed to assign an ip",
                "no ip addresses available",
                "no available ip",
                "no ips available",
                "no more ips",
                "no free ip",
                "insufficientcidrblocks",
                "insufficientfreeaddresses",
                "range is full",
                "exhausted",
            ]) =>
            {
                Why::Addresses
            }
            // CRI-O refuses it in words, others let the kernel kill the sandbox.
            () if has(&["set memory limit"]) && has(&["too low"]) => Why::Memory,
            () if has(&["no runtime for", "runtimehandler", "no runtime handler"]) => Why::Handler,
            () if has(&[
                "not initialized",
                "networkpluginnotready",
                "network is not ready",
                "failed to find plugin",
                "no networks found",
            ]) =>
            {
                Why::NotInstalled
            }
            () if has(&[
                "connection refused",
                "dial unix",
                "context deadline exceeded",
                "unauthorized",
                "is not running",
                "i/o timeout",
            ]) =>
            {
                Why::AgentDown
            }
            () => Why::Other,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Why::Addresses => "no address is left for them",
            Why::NotInstalled => "the node's network plugin is not ready",
            Why::AgentDown => "the node's network agent does not answer",
            Why::Handler => "the container runtime does not know the handler of their RuntimeClass",
            Why::Memory => {
                "their memory limit is too small for the sandbox itself, which is killed out of memory (OOM)"
            }
            Why::Other => "the kubelet's message names the reason",
        }
    }
}

/// A pod without a sandbox.
#[derive(Debug)]
pub struct Case<'a> {
    event: &'a Event,
    why: Why,
}

/// Pods of a workload without a sandbox.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

/// Once is no failure: a network agent that starts late makes it good.
const MANY: i64 = 3;

impl Check for SandboxFails {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| {
            failing(snapshot, pod).map(|case| (String::new(), case)).into_iter().collect()
        })
        .into_iter()
        .map(Fact)
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let Some((pod, case)) = group.cases.iter().min_by_key(|(_, case)| case.why) else {
            return Finding::new(Self::META, group.owner.clone(), &[]);
        };
        let why = case.why.meaning();
        let nodes: BTreeSet<&str> = group.cases.iter().map(|(pod, _)| pod.node.as_str()).collect();
        let node = ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", &pod.node) };
        let places = match nodes.len() {
            1 => format!("on node {}", pod.node),
            n => format!("on {n} nodes"),
        };
        let (subject, other) = match case.why {
            Why::Handler => (group.owner.field(group.pod_field("runtimeClassName")), node.clone()),
            Why::Memory => {
                (group.owner.field(group.pod_field("containers[0].resources.limits.memory")), node.clone())
            }
            _ => (node.field("status"), group.owner.clone()),
        };
        let name = quote(&pod.node);
        let finding = Finding::new(Self::META, subject, &[&group.owner.kind, &group.owner.name])
            .title(format!("{}: {} get no sandbox {places}: {why}", group.owner, common::plural(group.cases.len(), "pod")))
            .message(format!(
                "{} of {} have a node and cannot start {places}: {why}. None of their containers runs, so they have no log.",
                group.share(),
                group.owner
            ))
            .mechanism(format!("pod sandbox not created, pod network: {why}"))
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .related(other)
            .evidences(group.cases.iter().take(3).map(|(_, case)| common::event_evidence(case.event)))
            .onset(group.cases.iter().filter_map(|(_, case)| case.event.first).min())
            .remedy(match case.why {
                Why::Addresses => Remedy::manual("Give the pool of pod addresses more room (a larger or further CIDR, prefix delegation), or scale down what is not needed on the nodes that are full"),
                Why::Memory => group.undo_rollout(snapshot, "").unwrap_or_else(|| Remedy::manual("Raise the memory limit of the pod's containers to what they need, at least some ten MiB")),
                Why::Handler => Remedy::manual("Correct runtimeClassName, or configure its handler in the container runtime of the node"),
                _ => Remedy::commands(
                    format!("Look at the network agent of node {} and bring it back", pod.node),
                    vec![
                        format!("kubectl -n kube-system get pods -o wide --field-selector spec.nodeName={name}"),
                        common::describe_command(&node),
                    ],
                    vec![],
                ),
            });
        let finding = if nodes.len() == 1 && !matches!(case.why, Why::Handler | Why::Memory) {
            finding.remedy(
                Remedy::commands(
                    "Keep new pods off this node meanwhile; those that wait on it are made anew elsewhere when they are deleted",
                    vec![format!("kubectl cordon {name}"), common::delete_command(&pod.object.reference)],
                    vec![format!("kubectl uncordon {name}")],
                )
                .risk(Risk::Medium),
            )
        } else {
            finding
        };
        let finding = finding.prevention(Prevention::alert(
            "Alert when nodes fail to make sandboxes",
            "sum by (instance) (rate(kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"}[5m])) > 0",
        ));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// What keeps a pod without a sandbox, where it has been so for more than a moment.
fn failing<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Case<'a>> {
    if pod.ended() || pod.phase != "Pending" || pod.node.is_empty() {
        return None;
    }
    let started = pod.statuses.iter().any(|s| s.restarts > 0 || s.started || s.latest_end().is_some());
    let events = snapshot.events_about(&pod.object.reference);
    let all: Vec<&Event> = events
        .filter(|e| matches!(e.reason.as_str(), "FailedCreatePodSandBox" | "NetworkNotReady"))
        .collect();
    let count: i64 = all.iter().map(|e| e.count).sum();
    let event = *all.last()?;
    // Some messages name the container's identifier and are never counted together.
    let why = match Why::of(&event.message) {
        Why::Other if limit(pod).is_some_and(|bytes| bytes < SANDBOX_BYTES) => Why::Memory,
        why => why,
    };
    (!started && count >= MANY).then_some(Case { event, why })
}

/// What a sandbox takes while it is made: the runtime's own process runs within the pod's limit. The highest of the runtimes' own
/// minimums is CRI-O's `container_min_memory`, 12 MiB (<https://github.com/cri-o/cri-o/pull/7832>); Docker's is 6 MiB
/// (<https://github.com/moby/moby/issues/41167>).
const SANDBOX_BYTES: f64 = 12.0 * 1_048_576.0;

/// The memory limit of the pod as a whole, in bytes, where every container has one.
fn limit(pod: &Pod) -> Option<f64> {
    let containers = pod.template.containers.iter().filter(|container| container.role != ContainerRole::Init);
    containers.map(|container| container.resource("limits", "memory")).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_plugins_say_it_in_many_ways() {
        let of = |end: &str| {
            Why::of(&format!(
                "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox \"ab\": {end}"
            ))
        };
        assert_eq!(
            of(
                "plugin type=\"aws-cni\" name=\"aws-cni\" failed (add): add cmd: failed to assign an IP address to container"
            ),
            Why::Addresses
        );
        assert_eq!(
            of(
                "plugin type=\"host-local\" failed (add): failed to allocate for range 0: no IP addresses available in range set: 10.1.0.1-10.1.0.254"
            ),
            Why::Addresses
        );
        assert_eq!(of("x: pod set memory limit 5242880 too low; should be at least 12582912"), Why::Memory);
        assert_eq!(
            Why::of(
                "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
            ),
            Why::NotInstalled
        );
        assert_eq!(
            of(
                "plugin type=\"cilium-cni\" failed (add): dial unix /var/run/cilium/cilium.sock: connect: connection refused"
            ),
            Why::AgentDown
        );
        assert_eq!(
            Why::of("Failed to create pod sandbox: no runtime for \"gvisor\" is configured"),
            Why::Handler
        );
    }
}
