//! POD105.

use regex::Regex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::common::{self, Group, bytes, cores};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerRole, Pod, PodTemplate, quantity};

crate::rule! {
    /// The scheduler finds no node for a pod.
    ///
    /// ## What it detects
    /// A pending pod whose condition `PodScheduled` is false with the reason `Unschedulable`, and which clause of the scheduler's
    /// message decides it: node selector or affinity, taints, too little CPU or memory, too many pods, ports, topology spread, pod
    /// affinity, or a volume.
    /// ## Why it matters
    /// The pod does not start. In a rollout the new revision never comes up; after a node was lost its pods do not come back.
    /// ## Evidence
    /// The condition's message, the `FailedScheduling` events, and the labels, taints and free resources of the nodes.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows the scheduler's count of nodes for each reason.
    /// ## How to fix
    /// Change the one field that the deciding clause is about: the node selector, the tolerations, the requests; or give the cluster
    /// a node that fits.
    /// ## False positives
    /// A pod that waited for a moment while another one ended: it is scheduled by now and not reported. Pods that are held back on
    /// purpose (`SchedulingGated`) are not reported. A pod that waits for a volume is a symptom of that volume (POD110).
    /// ## References
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>
    Unschedulable {
        code: "POD105", name: "unschedulable", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-SCHED"],
    }
}

/// Why the scheduler leaves nodes out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Clause {
    /// A claim or its volume: another rule knows why.
    Volume,
    /// `nodeSelector` or `affinity.nodeAffinity`.
    NodeSelector,
    /// `affinity.podAffinity` or `podAntiAffinity`.
    PodAffinity,
    /// `topologySpreadConstraints`.
    Spread,
    /// Host ports.
    Ports,
    /// A resource: `cpu`, `memory`, `nvidia.com/gpu`.
    Insufficient(String),
    /// The node's limit of pods.
    TooManyPods,
    /// A taint without a toleration, in braces as the scheduler writes it.
    Taint(String),
    /// Cordoned.
    Cordoned,
    /// Something else.
    Other,
}

/// Reads `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint {a: b}. preemption: …` as clauses with
/// how many nodes each leaves out; a clause about the pod as a whole counts for all of them.
pub(crate) fn clauses(message: &str) -> Vec<(Clause, i64)> {
    static TOTAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"0/(\d+) nodes").ok());
    static PART: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^(\d+) (.+)$").ok());
    let total = TOTAL
        .as_ref()
        .and_then(|r| r.captures(message))
        .and_then(|c| c.get(1)?.as_str().parse().ok())
        .unwrap_or(1);
    let body = message.split_once("are available:").map_or(message, |(_, rest)| rest);
    let body = body.split(" preemption:").next().unwrap_or(body);
    let mut out: BTreeMap<Clause, i64> = BTreeMap::new();
    for part in split_clauses(body) {
        let counted = PART.as_ref().and_then(|r| r.captures(part));
        let (count, text) = match &counted {
            Some(found) => (
                found.get(1).and_then(|m| m.as_str().parse().ok()).unwrap_or(total),
                found.get(2).map_or("", |m| m.as_str()),
            ),
            None => (total, part),
        };
        if let Some(clause) = clause(text) {
            *out.entry(clause).or_default() += count;
        }
    }
    out.into_iter().collect()
}

/// At commas and at full stops before a blank, but not inside braces.
fn split_clauses(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut from) = (vec![], 0i32, 0);
    let bytes = text.as_bytes();
    for (at, c) in text.char_indices() {
        let next = bytes.get(at + 1).copied();
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' | '.' if depth <= 0 && next.is_none_or(|n| n == b' ') => {
                out.push(text.get(from..at).unwrap_or_default().trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    out.push(text.get(from..).unwrap_or_default().trim());
    out.retain(|part| !part.is_empty());
    out
}

fn clause(text: &str) -> Option<Clause> {
    let lower = text.to_ascii_lowercase();
    let has = |word: &str| lower.contains(word);
    Some(match () {
        () if has("persistentvolumeclaim")
            || has("volume node affinity")
            || has("persistent volume")
            || has("max volume count") =>
        {
            Clause::Volume
        }
        () if has("topology spread") => Clause::Spread,
        () if has("pod affinity") || has("anti-affinity") || has("pod anti") => Clause::PodAffinity,
        () if has("node affinity") || has("node selector") || has("didn't match node") => {
            Clause::NodeSelector
        }
        () if has("free ports") => Clause::Ports,
        () if has("too many pods") => Clause::TooManyPods,
        () if has("insufficient ") => {
            Clause::Insufficient(lower.split("insufficient ").nth(1)?.split_whitespace().next()?.to_owned())
        }
        () if has("taint") => {
            let inside = text
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once('}'))
                .map_or("", |(inside, _)| inside);
            Clause::Taint(inside.to_owned())
        }
        () if has("unschedulable") => Clause::Cordoned,
        // What the scheduler adds about claims of devices, and words that no reason is in.
        () if has("no new claims") || has("not found") || has("no nodes available") => return None,
        () => Clause::Other,
    })
}

/// The clause that decides: not the taints that every control plane has, nor cordons, as long as something of the pod's own
/// leaves out nodes too; of several the one that leaves out most, a wish of the pod before a lack of the cluster.
pub(crate) fn deciding(clauses: &[(Clause, i64)]) -> Option<&(Clause, i64)> {
    let natural = |clause: &Clause| match clause {
        Clause::Taint(taint) => {
            taint.contains("node-role.kubernetes.io/control-plane")
                || taint.contains("node-role.kubernetes.io/master")
        }
        Clause::Cordoned | Clause::Other => true,
        _ => false,
    };
    if let Some(volume) = clauses.iter().find(|(clause, _)| *clause == Clause::Volume) {
        return Some(volume);
    }
    let own = clauses.iter().filter(|(clause, _)| !natural(clause));
    // `Clause` is ordered from the pod's wishes to the cluster's lacks.
    own.max_by_key(|(clause, count)| (*count, std::cmp::Reverse(clause.clone())))
        .or_else(|| clauses.iter().max_by_key(|(_, count)| *count))
}

/// A pod that no node fits.
#[derive(Debug)]
pub struct Case<'a> {
    message: &'a str,
    since: Option<jiff::Timestamp>,
    event: Option<&'a Event>,
    clause: Clause,
}

/// Pods of a workload that no node fits, for one deciding reason.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for Unschedulable {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| {
            unplaced(snapshot, pod).map(|case| (String::new(), case)).into_iter().collect()
        })
        .into_iter()
        .map(Fact)
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let Some((pod, case)) = group.first() else {
            return Finding::new(Self::META, group.owner.clone(), &[]);
        };
        let template = group.workload.map_or(&pod.template, |w| &w.template);
        let nodes: Vec<&Object> = snapshot.objects_of("Node").collect();
        let verdict = verdict(case, template, &nodes, group);
        let rollout =
            group.rollout(snapshot).filter(|c| c.differences.iter().any(|d| d.path.contains(verdict.word)));
        let mut message = format!("{} of {} cannot be placed: {}", group.share(), group.owner, verdict.why);
        if let Some(rollout) = rollout {
            message += &format!(
                ". The rollout of {} brought it in: it changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message +=
            if group.all_down() { ". No pod of the workload serves." } else { ". Other pods of it serve." };
        let role = if case.clause == Clause::Volume { Role::Symptom } else { Role::Cause };
        let created = group.cases.iter().filter_map(|(pod, _)| pod.object.created).min();
        let finding = Finding::new(Self::META, group.owner.field(verdict.field.clone()), &[])
            .title(format!("{}: unschedulable, {} of its pods {}", group.owner, group.cases.len(), verdict.short))
            .message(message)
            .mechanism(format!("unschedulable: {}", verdict.mechanism))
            .severity(match (group.all_down(), &case.clause) {
                (true, _) => Severity::Critical,
                // The cluster is full, and the pods that are there serve.
                (false, Clause::TooManyPods | Clause::Insufficient(_) | Clause::Cordoned) => Severity::Warning,
                (false, _) => Severity::Error,
            })
            .role(role, Confidence::Observed)
            .evidence(
                Evidence::new("Object", format!("{} PodScheduled", pod.object.reference), "False, Unschedulable")
                    .excerpt(case.message)
                    .at(case.since),
            )
            .evidences(case.event.map(common::event_evidence))
            .evidences(verdict.evidence)
            .onset(group.cases.iter().filter_map(|(_, case)| case.since).chain(created).min())
            .maybe_remedy(group.undo_rollout(snapshot, verdict.word).filter(|_| !verdict.word.is_empty()))
            .remedies(verdict.remedies)
            .prevention(Prevention::alert(
                "Alert when a pod stays unschedulable",
                format!("max by (pod) (kube_pod_status_unschedulable{{{}}}) == 1", common::pod_matcher(&group.owner)),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: the node selector, tolerations and requests of a template fit at least one node of the cluster (kubectl apply --dry-run=server does not check it)"));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// Young pods wait for a moment as a matter of course.
const PATIENCE_SECONDS: f64 = 20.0;

fn unplaced<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Case<'a>> {
    let condition =
        pod.condition("PodScheduled").filter(|c| c.status == "False" && c.reason == "Unschedulable")?;
    if pod.ended() || !pod.node.is_empty() {
        return None;
    }
    let waited = condition.since.or(pod.object.created).map(|at| common::seconds_between(at, snapshot.now));
    if waited.is_some_and(|s| s < PATIENCE_SECONDS) {
        return None;
    }
    let event =
        snapshot.events_about(&pod.object.reference).filter(|e| e.reason == "FailedScheduling").last();
    let message = if condition.message.is_empty() {
        event.map_or("", |e| e.message.as_str())
    } else {
        &condition.message
    };
    let all = clauses(message);
    let clause = deciding(&all).map_or(Clause::Other, |(clause, _)| clause.clone());
    Some(Case { message, since: condition.since, event, clause })
}

/// What a deciding clause comes to.
struct Verdict {
    /// The field to change.
    field: String,
    /// A word of the paths that a rollout would have changed to bring it about.
    word: &'static str,
    /// In the field's words.
    mechanism: &'static str,
    /// After "N of its pods".
    short: String,
    /// A sentence.
    why: String,
    evidence: Vec<Evidence>,
    remedies: Vec<Remedy>,
}

fn verdict(
    case: &Case<'_>,
    template: &PodTemplate,
    nodes: &[&Object],
    group: &Group<'_, Case<'_>>,
) -> Verdict {
    let plain = |field: String, word, mechanism, short: &str, remedies| Verdict {
        field,
        word,
        mechanism,
        short: short.to_owned(),
        why: format!("they {short}"),
        evidence: vec![],
        remedies,
    };
    match &case.clause {
        Clause::NodeSelector => node_selector(template, nodes, group),
        Clause::Taint(taint) => tainted(taint, template, nodes, group),
        Clause::Insufficient(resource) => insufficient(resource, template, nodes, group),
        Clause::TooManyPods => plain(
            group.owner_replicas(),
            "",
            "too many pods on the nodes",
            "find every node full: the limit of pods per node is reached",
            vec![Remedy::manual(
                "Add a node, raise the kubelet's maxPods, or scale down what is not needed on these nodes",
            )],
        ),
        Clause::Spread => plain(
            group.pod_field("topologySpreadConstraints"),
            "topologySpreadConstraints",
            "topology spread constraints",
            "would break topologySpreadConstraints on every node",
            vec![Remedy::manual(
                "Set whenUnsatisfiable of the constraint to ScheduleAnyway or raise its maxSkew, or label the nodes with its topologyKey",
            )],
        ),
        Clause::PodAffinity => plain(
            group.pod_field("affinity"),
            "affinity",
            "pod affinity or anti-affinity rules",
            "match no node: pod affinity or anti-affinity rules leave out every one",
            vec![Remedy::manual(
                "Make the rule under affinity.podAntiAffinity or podAffinity a preferred one, or run no more replicas than there are topology domains",
            )],
        ),
        Clause::Ports => plain(
            group.pod_field("containers[0].ports"),
            "hostPort",
            "host ports are taken",
            "need a host port that is taken on every node",
            vec![Remedy::manual("Drop hostPort from the container's ports and reach the pods by a Service")],
        ),
        Clause::Volume => plain(
            group.pod_field("volumes"),
            "volumes",
            "a volume is not bound or lies elsewhere",
            "wait for a volume that is not bound or lies elsewhere",
            vec![Remedy::manual(
                "Look at the PersistentVolumeClaim of the pod: its class, its events, its zone",
            )],
        ),
        Clause::Cordoned => plain(
            group.pod_field("tolerations"),
            "",
            "every node is cordoned",
            "find every node cordoned",
            vec![Remedy::manual("kubectl uncordon the nodes that are fit to work again")],
        ),
        Clause::Other => plain(
            group.pod_field(""),
            "",
            "no node fits",
            "fit no node",
            vec![Remedy::manual("Read the scheduler's message: it counts the nodes for each reason")],
        ),
    }
}

impl Group<'_, Case<'_>> {
    fn owner_replicas(&self) -> String {
        if self.workload.is_some_and(|w| w.replicas.is_some()) {
            "spec.replicas".to_owned()
        } else {
            self.pod_field("")
        }
    }
}

/// Whether a node's labels satisfy a node selector.
fn unmatched<'a>(selector: &'a Labels, labels: &Labels) -> Vec<(&'a String, &'a String)> {
    selector.iter().filter(|(k, v)| labels.get(*k) != Some(*v)).collect()
}

fn node_selector(template: &PodTemplate, nodes: &[&Object], group: &Group<'_, Case<'_>>) -> Verdict {
    let selector = template.spec.text_map("nodeSelector");
    let (field, word) = if selector.is_empty() {
        ("affinity.nodeAffinity", "nodeAffinity")
    } else {
        ("nodeSelector", "nodeSelector")
    };
    let text = selector.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
    let mut evidence = vec![];
    let mut remedies = vec![];
    // The labels that no node has with this value, and the values that nodes have instead.
    let nowhere: Vec<_> =
        selector.iter().filter(|(k, v)| !nodes.iter().any(|n| n.labels.get(*k) == Some(*v))).collect();
    if !nodes.is_empty() && !selector.is_empty() {
        for (key, value) in &nowhere {
            let mut values: Vec<&String> = nodes.iter().filter_map(|n| n.labels.get(*key)).collect();
            values.sort();
            values.dedup();
            let have = values.iter().take(8).map(|v| v.as_str()).collect::<Vec<_>>().join(", ");
            let have = if have.is_empty() {
                "no node has this label".to_owned()
            } else {
                format!("nodes have {have}")
            };
            evidence.push(Evidence::new(
                "Object",
                format!("{} Nodes", nodes.len()),
                format!("label {key}: the pods want {value}, {have}"),
            ));
            if let (Some(workload), Some(near)) =
                (group.workload, common::near(value, values.iter().map(|v| v.as_str())))
            {
                let path = format!("{}/{}", pointer(&group.pod_field("nodeSelector")), pointer_segment(key));
                remedies.extend(Remedy::patch(
                    &workload.object,
                    &json!([{"op": "replace", "path": path, "value": near}]),
                    format!("Correct nodeSelector {key} to {near}, which nodes have"),
                ));
            }
        }
    }
    if let Some(workload) = group.workload
        && !selector.is_empty()
    {
        let root = pointer(&group.pod_field("nodeSelector"));
        let all = nowhere.is_empty() || nowhere.len() == selector.len();
        let operations: Vec<Value> = if all {
            vec![json!({"op": "remove", "path": root})]
        } else {
            nowhere
                .iter()
                .map(|(key, _)| json!({"op": "remove", "path": format!("{root}/{}", pointer_segment(key))}))
                .collect()
        };
        let what = if all {
            format!("the nodeSelector {text}")
        } else {
            "the labels that no node has from nodeSelector".to_owned()
        };
        remedies.extend(
            Remedy::patch(
                &workload.object,
                &Value::Array(operations),
                format!("Remove {what}: the pods then fit any node with room"),
            )
            .map(|r| r.risk(Risk::Medium)),
        );
    }
    let closest = nodes.iter().min_by_key(|n| unmatched(&selector, &n.labels).len());
    if let Some(node) = closest
        && !selector.is_empty()
    {
        let labels: Vec<String> = unmatched(&selector, &node.labels)
            .iter()
            .map(|(k, v)| crate::analyze::remedy::quote(&format!("{k}={v}")))
            .collect();
        let undo: Vec<String> = unmatched(&selector, &node.labels)
            .iter()
            .map(|(k, _)| match node.labels.get(*k) {
                Some(old) => crate::analyze::remedy::quote(&format!("{k}={old}")),
                None => crate::analyze::remedy::quote(&format!("{k}-")),
            })
            .collect();
        if !labels.is_empty() {
            let name = crate::analyze::remedy::quote(node.name());
            remedies.push(Remedy::commands(
                format!("Label a node that is meant for them, such as {}", node.name()),
                vec![format!("kubectl label node {name} --overwrite {}", labels.join(" "))],
                vec![format!("kubectl label node {name} --overwrite {}", undo.join(" "))],
            ));
        }
    }
    if remedies.is_empty() {
        remedies.push(Remedy::manual(format!(
            "Correct {field} so that it matches a node (kubectl get nodes --show-labels), or label a node"
        )));
    }
    let what = if selector.is_empty() {
        "the node affinity of the pod".to_owned()
    } else {
        format!("nodeSelector {text}")
    };
    Verdict {
        field: group.pod_field(field),
        word,
        mechanism: "node selector or node affinity matches no node",
        short: format!("match no node: {what}"),
        why: format!("{what} matches none of the nodes that could take them"),
        evidence,
        remedies,
    }
}

fn tainted(taint: &str, template: &PodTemplate, nodes: &[&Object], group: &Group<'_, Case<'_>>) -> Verdict {
    let (key, value) = taint.split_once(": ").unwrap_or((taint.trim_end_matches(':'), ""));
    let (key, value) = (key.trim(), value.trim());
    let unhealthy =
        key.starts_with("node.kubernetes.io/") || key.starts_with("node.cloudprovider.kubernetes.io/");
    let effect = nodes
        .iter()
        .flat_map(|n| n.body.list("spec.taints"))
        .find(|t| t.text("key") == Some(key))
        .and_then(|t| t.text("effect"))
        .unwrap_or("NoSchedule");
    let mut remedies = vec![];
    if unhealthy {
        remedies.push(Remedy::manual(format!("Heal the nodes: the taint {key} is set by the control plane for their state, and a toleration would only put pods on them all the same")));
    } else if let Some(workload) = group.workload {
        let toleration = if value.is_empty() {
            json!({"key": key, "operator": "Exists", "effect": effect})
        } else {
            json!({"key": key, "operator": "Equal", "value": value, "effect": effect})
        };
        let path = pointer(&group.pod_field("tolerations"));
        let operations = if template.spec.at("tolerations").is_some() {
            json!([{"op": "add", "path": format!("{path}/-"), "value": toleration}])
        } else {
            json!([{"op": "add", "path": path, "value": [toleration]}])
        };
        remedies.extend(
            Remedy::patch(
                &workload.object,
                &operations,
                format!("Add a toleration for the taint {key}, if these pods belong on such nodes"),
            )
            .map(|r| r.risk(Risk::Medium)),
        );
    }
    let tainted: Vec<&str> = nodes
        .iter()
        .filter(|n| n.body.list("spec.taints").iter().any(|t| t.text("key") == Some(key)))
        .map(|n| n.name())
        .collect();
    for name in tainted.iter().take(1).filter(|_| !unhealthy) {
        let name = crate::analyze::remedy::quote(name);
        let full =
            if value.is_empty() { format!("{key}:{effect}") } else { format!("{key}={value}:{effect}") };
        remedies.push(
            Remedy::commands(
                "Take the taint off a node that should take them",
                vec![format!("kubectl taint node {name} {}-", crate::analyze::remedy::quote(&full))],
                vec![format!("kubectl taint node {name} {}", crate::analyze::remedy::quote(&full))],
            )
            .risk(Risk::Medium),
        );
    }
    if remedies.is_empty() {
        remedies.push(Remedy::manual(format!(
            "Add a toleration for the taint {key}, or take the taint off the nodes"
        )));
    }
    Verdict {
        field: group.pod_field("tolerations"),
        word: "tolerations",
        mechanism: "an untolerated taint",
        short: format!("do not tolerate the taint {key} of the nodes"),
        why: format!("the nodes have the taint {taint} and the pods no toleration for it"),
        evidence: if tainted.is_empty() {
            vec![]
        } else {
            vec![Evidence::new(
                "Object",
                format!("{} Nodes", nodes.len()),
                format!(
                    "{} have the taint {key}: {}",
                    tainted.len(),
                    tainted.iter().take(5).copied().collect::<Vec<_>>().join(", ")
                ),
            )]
        },
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
fn request(container: &crate::model::workload::Container, resource: &str) -> Option<f64> {
    let read = |which: &str| {
        container.body.at(&format!("resources.{which}"))?.child(resource)?.as_str().and_then(quantity)
    };
    read("requests").or_else(|| read("limits"))
}

fn insufficient(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn decides(message: &str) -> Clause {
        deciding(&clauses(message)).unwrap().0.clone()
    }

    #[test]
    fn the_deciding_clause_of_the_schedulers_message() {
        assert_eq!(
            decides(
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ),
            Clause::NodeSelector
        );
        assert_eq!(
            decides(
                "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 3 Insufficient cpu. preemption: 0/4 nodes are available: 4 No preemption victims found for incoming pod."
            ),
            Clause::Insufficient("cpu".into())
        );
        assert_eq!(
            decides("0/3 nodes are available: 3 node(s) had untolerated taint {dedicated: gpu}."),
            Clause::Taint("dedicated: gpu".into())
        );
        assert_eq!(
            decides("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"),
            Clause::Volume
        );
        assert_eq!(
            decides("0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable."),
            Clause::TooManyPods
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
            Clause::Insufficient("nvidia.com/gpu".into())
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 node(s) didn't match pod topology spread constraints."),
            Clause::Spread
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."),
            Clause::PodAffinity
        );
        assert_eq!(deciding(&clauses("")), None);
    }

    #[test]
    fn of_two_the_one_that_leaves_out_more_nodes_decides() {
        assert_eq!(
            decides(
                "0/5 nodes are available: 1 Insufficient memory, 4 node(s) didn't match Pod's node affinity/selector."
            ),
            Clause::NodeSelector
        );
        assert_eq!(
            decides(
                "0/5 nodes are available: 4 Insufficient memory, 1 node(s) had untolerated taint {a: b}."
            ),
            Clause::Insufficient("memory".into())
        );
    }
}
