//! The nodes have no room: no resources, no place for one more pod or volume, no free port.

use crate::model::json::json;

use super::{Case, Verdict};
use crate::analyze::finding::Evidence;
use crate::analyze::remedy::{Remedy, Risk, pointer};
use crate::analyze::rules::pods::common::{Group, bytes, cores};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, ContainerRole, PodTemplate, quantity};

/// Every node has as many pods as it takes.
pub(super) fn pods(group: &Group<'_, Case<'_>>) -> Verdict {
    Verdict::plain(
        group.owner_replicas(),
        "",
        "too many pods on the nodes",
        "find every node full: the limit of pods per node is reached",
        vec![Remedy::manual(
            "Add a node, raise the kubelet's maxPods, or scale down what is not needed on these nodes",
        )],
    )
}

/// Every node has as many volumes attached as it takes.
pub(super) fn volumes(group: &Group<'_, Case<'_>>) -> Verdict {
    Verdict::plain(
        group.pod_field("volumes"),
        "volumes",
        "too many volumes on the nodes",
        "find no node that can attach one more volume",
        vec![Remedy::manual(
            "Add a node, use a kind of node that attaches more volumes, or move pods with volumes off these nodes",
        )],
    )
}

/// A port of the node that the pods want is taken on every node.
pub(super) fn ports(snapshot: &Snapshot, template: &PodTemplate, group: &Group<'_, Case<'_>>) -> Verdict {
    let host_ports = |template: &PodTemplate| -> Vec<(String, i64)> {
        let own = |c: &Container| {
            let list = c.body.list("ports").iter().enumerate();
            let path = c.path();
            list.filter_map(|(at, port)| {
                let wanted = port
                    .int("hostPort")
                    .or_else(|| port.int("containerPort").filter(|_| template.host_network))?;
                Some((format!("{path}.ports[{at}].hostPort"), wanted))
            })
            .collect::<Vec<_>>()
        };
        template.containers.iter().flat_map(own).collect()
    };
    let wanted = host_ports(template);
    let holders = snapshot.pods.iter().filter(|pod| !pod.node.is_empty() && !pod.ended());
    let holders = holders.filter_map(|pod| {
        let taken = host_ports(&pod.template);
        let (path, port) = wanted.iter().find(|(_, port)| taken.iter().any(|(_, t)| t == port))?;
        Some((pod, path.clone(), *port))
    });
    let holders: Vec<_> = holders.take(3).collect();
    let (path, port) = holders
        .first()
        .map(|(_, path, port)| (path.clone(), Some(*port)))
        .or_else(|| wanted.first().map(|(path, port)| (path.clone(), Some(*port))))
        .unwrap_or_else(|| ("containers[0].ports".to_owned(), None));
    let which = port.map_or_else(|| "a host port".to_owned(), |port| format!("host port {port}"));
    let mut remedies = vec![];
    if let Some(workload) = group.workload.filter(|_| !template.host_network && port.is_some()) {
        let operation = json!([{"op": "remove", "path": pointer(&group.pod_field(&path))}]);
        let summary = format!(
            "Drop hostPort {} from the container's ports, and reach the pods by a Service",
            port.unwrap_or_default()
        );
        remedies.extend(Remedy::patch(&workload.object, &operation, summary).map(|r| r.risk(Risk::Medium)));
    }
    remedies
        .push(Remedy::manual("Or run no more replicas than nodes, and what holds the port now elsewhere"));
    let why = match holders.first() {
        Some((pod, _, _)) => {
            format!("they need {which}, which {} holds on node {}", pod.object.reference, pod.node)
        }
        None => format!("they need {which}, which is taken on every node"),
    };
    Verdict {
        field: group.pod_field(&path),
        word: "ports",
        mechanism: "host ports are taken",
        short: format!("need {which}, which is taken on every node"),
        why,
        evidence: holders
            .iter()
            .map(|(pod, _, port)| {
                Evidence::object(
                    &pod.object.reference,
                    format!("holds host port {port} on node {}", pod.node),
                )
            })
            .collect(),
        remedies,
    }
}

/// What a pod of this template requests of a resource: its containers and native sidecars together, or its largest init
/// container where that is more.
fn requested(template: &PodTemplate, resource: &str) -> f64 {
    let of = |role: ContainerRole| {
        template.containers.iter().filter(move |c| c.role == role).filter_map(|c| request(c, resource))
    };
    let running: f64 = of(ContainerRole::Main).chain(of(ContainerRole::NativeSidecar)).sum();
    running.max(of(ContainerRole::Init).fold(0.0, f64::max))
}

/// A container's request; a limit without a request counts as one.
fn request(container: &Container, resource: &str) -> Option<f64> {
    let read = |which: &str| {
        container.body.at(&format!("resources.{which}"))?.child(resource)?.as_str().and_then(quantity)
    };
    read("requests").or_else(|| read("limits"))
}

pub(super) fn insufficient(
    resource: &str,
    template: &PodTemplate,
    nodes: &[&Object],
    group: &Group<'_, Case<'_>>,
) -> Verdict {
    let say = |amount: f64| match resource {
        "cpu" => cores(amount),
        "memory" | "ephemeral-storage" => bytes(amount),
        _ => format!("{amount:.0}"),
    };
    let wanted = requested(template, resource);
    let allocatable = nodes
        .iter()
        .filter_map(|n| n.body.at("status.allocatable")?.child(resource)?.as_str().and_then(quantity))
        .fold(None, |best: Option<f64>, have| Some(best.map_or(have, |b| b.max(have))));
    let largest =
        template.containers.iter().filter(|c| c.role != ContainerRole::Init).max_by(|a, b| {
            request(a, resource).unwrap_or(0.0).total_cmp(&request(b, resource).unwrap_or(0.0))
        });
    let field = largest
        .map_or_else(|| "containers".to_owned(), |c| format!("{}.resources.requests.{resource}", c.path()));
    let never = allocatable.is_some_and(|have| wanted > have);
    let why = match allocatable {
        Some(have) if never => format!(
            "each wants {} {resource}, and the largest node has {} in all: no node can ever take them",
            say(wanted),
            say(have)
        ),
        Some(have) => format!(
            "each wants {} {resource}, the largest node has {} in all, and what is left of any node is less",
            say(wanted),
            say(have)
        ),
        None if wanted > 0.0 => {
            format!("each of them wants {} {resource}, and no node has that much left", say(wanted))
        }
        None => format!("no node has enough {resource} left"),
    };
    let mut remedies = vec![];
    if let (Some(workload), Some(container)) = (group.workload, largest)
        && container.body.at("resources.requests").and_then(|r| r.child(resource)).is_some()
        && let Some(have) = allocatable.filter(|_| never)
        && matches!(resource, "cpu" | "memory")
    {
        // Half of the largest node leaves room for what runs there already.
        let fits = say(have / 2.0);
        remedies.extend(
            Remedy::patch(
                &workload.object,
                &json!([{"op": "replace", "path": pointer(&group.pod_field(&field)), "value": fits}]),
                format!(
                    "Lower resources.requests.{resource} of container {} to {fits}, which a node has",
                    container.name
                ),
            )
            .map(|r| r.risk(Risk::Medium)),
        );
    }
    remedies.push(Remedy::manual(if never {
        format!("Add a node with more than {} {resource}", say(wanted))
    } else {
        format!("Lower resources.requests.{resource} to what the container uses, scale down something else, or add a node")
    }));
    Verdict {
        field: group.pod_field(&field),
        word: "resources",
        mechanism: "insufficient resources on the nodes",
        short: if never {
            format!("want {} {resource}, more than any node has", say(wanted))
        } else {
            format!("find no node with {} {resource} left", say(wanted))
        },
        why,
        evidence: allocatable
            .map(|have| {
                Evidence::new(
                    "Object",
                    format!("{} Nodes", nodes.len()),
                    format!(
                        "the largest has {} {resource} allocatable; a pod wants {}",
                        say(have),
                        say(wanted)
                    ),
                )
            })
            .into_iter()
            .collect(),
        remedies,
    }
}
