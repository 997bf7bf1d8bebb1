//! PLAT121.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls;
use crate::analyze::rules::pods::common;
use crate::model::event::Event;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A node has no processor time left, and everything on it is late at once.
    ///
    /// ## What it detects
    /// Probes of pods of several unrelated workloads on one node that time out, or calls to them that do, while containers on that
    /// node wait for a processor for half of the time and more without being held back by a limit of their own (pressure, as the
    /// kernel counts it), or the node as a whole does. Without such figures: probes of four workloads and more that time out within
    /// three minutes, none of which calls all the others.
    /// ## Why it matters
    /// One cause looks like many: probes fail, pods leave their Services, callers time out, leases are not renewed, all at once and
    /// without a change of any of these workloads.
    /// ## Evidence
    /// `container_pressure_cpu_waiting_seconds_total` and `node_pressure_cpu_waiting_seconds_total`, the throttling of the same
    /// containers, events `Unhealthy` with a timeout, and which pods share the node.
    /// ## How to confirm
    /// `kubectl top node NAME`, `kubectl top pods --all-namespaces --sort-by=cpu`, and `/proc/pressure/cpu` on the node.
    /// ## How to fix
    /// Find who uses the processors without having asked for them and give it a request and a limit, or move pods away from the node.
    /// ## False positives
    /// Containers that their own CPU limit holds back wait as well, and are left out (POD111). Probes that share a slow dependency
    /// time out together, too: without figures of pressure this is one possibility among others, and is said to be.
    /// ## References
    /// <https://docs.kernel.org/accounting/psi.html> <https://kubernetes.io/docs/reference/instrumentation/understand-psi-metrics/>
    NodeStarved {
        code: "PLAT121", name: "node-without-processor-time", family: Platform, severity: Error,
        needs: [Status], aliases: ["K8S-NODE"],
    }
}

/// Waiting for a processor for this share of the time is no burst of load: requests take twice as long.
const WAITS: f64 = 0.5;
/// From this share of throttled periods on the container's own limit is the reason.
const THROTTLED: f64 = 0.1;
/// Pressure is judged over the last so many seconds.
const LATELY: f64 = 300.0;
/// With figures of pressure two workloads decide, without them it takes so many whose probes fail together.
const WITH_FIGURES: usize = 2;
const WITHOUT_FIGURES: usize = 4;
/// Together is within so many seconds.
const TOGETHER: i64 = 180;

/// A node that is too busy.
#[derive(Debug)]
pub struct Fact<'a> {
    node: &'a str,
    /// Workloads whose probes or callers time out.
    late: BTreeSet<ObjectRef>,
    probes: Vec<&'a Event>,
    /// The share of the time that containers wait: what was measured, and how much.
    pressure: Vec<(String, f64)>,
    first: Option<Timestamp>,
}

/// What is seen on one node.
#[derive(Default)]
struct Node<'a> {
    late: BTreeSet<ObjectRef>,
    probes: Vec<&'a Event>,
    pressed: BTreeMap<ObjectRef, (String, f64)>,
    first: Option<Timestamp>,
}

impl Check for NodeStarved {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let waiting = shares(snapshot, "container_pressure_cpu_waiting_seconds_total");
        let held = throttled(snapshot);
        let slow = called_in_vain(snapshot);
        let mut nodes: BTreeMap<&str, Node<'_>> = BTreeMap::new();
        for pod in &snapshot.pods {
            if pod.node.is_empty() || pod.ended() || !snapshot.in_scope(pod.object.namespace()) {
                continue;
            }
            let owner = snapshot.owner(pod);
            let own = (pod.object.namespace().to_owned(), pod.object.name().to_owned());
            let held_back = held.get(&own).is_some_and(|share| *share > THROTTLED);
            let node = nodes.entry(pod.node.as_str()).or_default();
            if let Some(share) = waiting.get(&own).filter(|share| **share > WAITS && !held_back) {
                let what = format!("pods of {owner}");
                node.pressed
                    .entry(owner.clone())
                    .and_modify(|known| known.1 = known.1.max(*share))
                    .or_insert((what, *share));
            }
            let timed_out = snapshot.events_about(&pod.object.reference).filter(|e| {
                e.reason == "Unhealthy" && probe_timed_out(&e.message) && common::recent(snapshot, e.last)
            });
            let probes: Vec<&Event> = timed_out.collect();
            if held_back || (probes.is_empty() && !slow.contains_key(&owner)) {
                continue;
            }
            node.first = node
                .first
                .into_iter()
                .chain(probes.iter().filter_map(|e| e.first))
                .chain(slow.get(&owner).copied().flatten())
                .min();
            node.probes.extend(probes);
            node.late.insert(owner);
        }
        let mut out = vec![];
        for (name, mut node) in nodes {
            let mut pressure: Vec<(String, f64)> = std::mem::take(&mut node.pressed).into_values().collect();
            pressure.sort_by(|a, b| b.1.total_cmp(&a.1));
            let whole = whole_node(snapshot, name).filter(|share| *share > WAITS);
            if pressure.len() < WITH_FIGURES && whole.is_none() {
                pressure.clear();
            }
            pressure.splice(0..0, whole.map(|share| (format!("Node {name} as a whole"), share)));
            let enough = if pressure.is_empty() {
                without_figures(snapshot, &node)
            } else {
                node.late.len() >= WITH_FIGURES
            };
            if enough {
                let Node { late, probes, first, .. } = node;
                out.push(Fact { node: name, late, probes, pressure, first });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let node = ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", fact.node) };
        let measured = !fact.pressure.is_empty();
        let count = common::plural(fact.late.len(), "workload");
        let names = fact.late.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let waits = fact
            .pressure
            .first()
            .map(|(what, share)| format!("{what} wait for a processor {:.0} % of the time", share * 100.0));
        let services: BTreeSet<ServiceName> = fact
            .late
            .iter()
            .filter_map(|owner| snapshot.workload(owner))
            .flat_map(|w| snapshot.services_before(w))
            .map(|s| s.service_name())
            .collect();
        let probes: i64 = fact.probes.iter().map(|e| e.count).sum();
        let why = waits.clone().unwrap_or_else(|| "no figure of its load was seen; that unrelated workloads are late together speaks for the node".to_owned());
        let mut finding = Finding::new(Self::META, node.field("status.allocatable.cpu"), &[])
            .title(format!("Node {} has no processor time left: {count} on it are late at once", fact.node))
            .message(format!(
                "{count} on node {} are late at the same time ({names}): {probes} probes timed out, and calls to them do. {why}. Each of them is a victim; what they share is the node.",
                fact.node
            ))
            .mechanism("node overloaded: no CPU left (CPU pressure, processor saturation), probes and calls time out")
            .severity(Severity::Error)
            .role(Role::Cause, if measured { Confidence::Observed } else { Confidence::Possible })
            .service(services.iter().next().cloned())
            .evidences(fact.pressure.iter().take(3).map(|(what, share)| {
                Evidence::new("Metric", node.to_string(), format!("{what}: waiting for a processor {:.0} % of the time, not held back by a CPU limit", share * 100.0))
            }))
            .evidences(fact.probes.iter().take(4).map(|event| common::event_evidence(event)))
            .evidence(Evidence::object(&node, format!("runs {names}")))
            .onset(fact.first)
            .effects(fact.late.iter().map(Effect::pods))
            .effects(services.iter().map(|s| Effect::requests(s, &["slow", "timeout", "UT", "UH", "DC", "504", "5xx"])));
        for owner in fact.late.iter().take(3) {
            finding = finding.related(owner.clone());
        }
        let name = quote(fact.node);
        finding
            .remedy(Remedy::commands(
                "See who uses the node's processors, and give it a CPU request and a limit that it deserves",
                vec![
                    format!("kubectl top node {name}"),
                    "kubectl top pods --all-namespaces --sort-by=cpu".to_owned(),
                    common::describe_command(&node),
                ],
                vec![],
            ))
            .remedy(
                Remedy::commands(
                    "Keep new pods away from the node meanwhile, and let the next rollouts find another one",
                    vec![format!("kubectl cordon {name}")],
                    vec![format!("kubectl uncordon {name}")],
                )
                .risk(Risk::Medium),
            )
            .prevention(Prevention::alert(
                "Alert when work on a node waits for a processor",
                "rate(node_pressure_cpu_waiting_seconds_total[5m]) > 0.5",
            ))
            .prevention(Prevention::of("Policy", "Every container has a CPU request, so that the scheduler knows what a node has left (LimitRange)"))
    }
}

/// Whether a probe's failure is that nothing answered in time.
fn probe_timed_out(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    lower.contains("deadline exceeded") || lower.contains("timed out") || lower.contains("i/o timeout")
}

/// The growth per second of counters over the last minutes, the largest of each pod.
fn shares(snapshot: &Snapshot, name: &str) -> BTreeMap<(String, String), f64> {
    let mut out: BTreeMap<(String, String), f64> = BTreeMap::new();
    for series in snapshot.series.iter().filter(|s| s.name == name) {
        let Some(share) = lately(series) else { continue };
        let pod = (series.label("namespace").to_owned(), series.label("pod").to_owned());
        let known = out.entry(pod).or_default();
        *known = known.max(share);
    }
    out
}

/// The growth per second of one counter over the last minutes.
fn lately(series: &Series) -> Option<f64> {
    let (end, _) = *series.points.last()?;
    let from = series.points.iter().find(|(at, _)| *at >= end - LATELY)?.0;
    (end - from >= 30.0).then(|| series.increase(from, end).map(|grown| grown / (end - from)))?
}

/// The share of scheduler periods in which a pod's containers were throttled, the largest of each pod.
fn throttled(snapshot: &Snapshot) -> BTreeMap<(String, String), f64> {
    let periods = shares(snapshot, "container_cpu_cfs_periods_total");
    let mut out = shares(snapshot, "container_cpu_cfs_throttled_periods_total");
    for (pod, share) in &mut out {
        let all = periods.get(pod).copied().unwrap_or_default();
        *share = if all > 0.0 { *share / all } else { 0.0 };
    }
    out
}

/// How long the node as a whole waits, by node-exporter.
fn whole_node(snapshot: &Snapshot, node: &str) -> Option<f64> {
    let addresses: BTreeSet<&str> = snapshot
        .object("Node", "", node)
        .into_iter()
        .flat_map(|object| crate::model::fields::Fields::list(&*object.body, "status.addresses"))
        .filter_map(|address| address.get("address")?.as_str())
        .chain([node])
        .collect();
    snapshot
        .series_named("node_pressure_cpu_waiting_seconds_total")
        .filter(|s| {
            ["node", "nodename", "instance"].iter().any(|label| {
                let value = s.label(label);
                addresses.contains(value)
                    || value.rsplit_once(':').is_some_and(|(host, _)| addresses.contains(host))
            })
        })
        .filter_map(lately)
        .reduce(f64::max)
}

/// Workloads behind Services that calls to time out now, with since when.
fn called_in_vain(snapshot: &Snapshot) -> BTreeMap<ObjectRef, Option<Timestamp>> {
    let mut out: BTreeMap<ObjectRef, Option<Timestamp>> = BTreeMap::new();
    for failing in &calls::failing(snapshot).all {
        if failing.kind() != Some(Kind::Timeout) || failing.severity() < Severity::Error {
            continue;
        }
        for workload in failing.service().and_then(|s| snapshot.graph.backing.get(s)).into_iter().flatten() {
            let known = out.entry(workload.clone()).or_default();
            *known = known.iter().copied().chain(failing.first).min();
        }
    }
    out
}

/// Whether probes of many workloads fail together, and none of these is what all the others wait for.
fn without_figures(snapshot: &Snapshot, node: &Node<'_>) -> bool {
    let Some(first) = node.probes.iter().filter_map(|e| e.first).min() else { return false };
    let together: BTreeSet<ObjectRef> = node
        .probes
        .iter()
        .filter(|e| e.first.is_some_and(|at| at.as_second() - first.as_second() <= TOGETHER))
        .map(|e| snapshot.owner_by_name(&e.about.namespace, &e.about.name))
        .collect();
    let depends = |caller: &ObjectRef, callee: &ObjectRef| {
        let own: Vec<&ServiceName> = snapshot.graph.services_of(callee).collect();
        snapshot.graph.callees(caller).any(|service| {
            own.contains(&service) || own.iter().any(|s| snapshot.graph.downstream(service).contains(*s))
        })
    };
    let shared = together.iter().any(|callee| {
        together.iter().filter(|caller| *caller != callee).all(|caller| depends(caller, callee))
    });
    together.len() >= WITHOUT_FIGURES && !shared
}
