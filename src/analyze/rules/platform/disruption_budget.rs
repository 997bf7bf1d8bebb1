//! PLAT103.

use crate::model::json::{Value, json};

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Selector;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A PodDisruptionBudget never lets a pod go, so no node under its pods can be drained.
    ///
    /// ## What it detects
    /// A budget that allows no disruption though all of its pods are well: `maxUnavailable: 0`, or `minAvailable` of as many pods as
    /// there are. It is a warning where an eviction has been refused or a node under its pods is being emptied, information otherwise.
    /// ## Why it matters
    /// Draining such a node waits for ever: upgrades and scale-downs of the cluster stop there, or end by force.
    /// ## Evidence
    /// The budget's `spec` and `status.disruptionsAllowed`, refused evictions, nodes that are cordoned.
    /// ## How to confirm
    /// `kubectl get pdb` shows 0 allowed disruptions with as many healthy pods as expected.
    /// ## How to fix
    /// Allow one pod to be away (`maxUnavailable: 1`), or run one replica more than `minAvailable`.
    /// ## False positives
    /// A budget that allows nothing because pods of it are unhealthy does its work and is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/run-application/configure-pdb/>
    DisruptionBudgetBlocks {
        code: "PLAT103", name: "disruption-budget-blocks", family: Platform, severity: Info,
        needs: [Status], aliases: ["K8S-PDB"],
    }
}

/// A budget that lets nobody go.
#[derive(Debug)]
pub struct Fact<'a> {
    budget: &'a Object,
    field: &'static str,
    value: String,
    expected: i64,
    refused: Option<&'a Event>,
    /// Cordoned nodes with pods of it.
    emptied: Vec<String>,
}

impl Check for DisruptionBudgetBlocks {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        snapshot.objects_of("PodDisruptionBudget").filter_map(|budget| never(snapshot, budget)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let r = &fact.budget.reference;
        let tried = fact.refused.is_some() || !fact.emptied.is_empty();
        let subject = r.field(format!("spec.{}", fact.field));
        let nodes = if fact.emptied.is_empty() {
            String::new()
        } else {
            format!(" Node {} is being emptied and cannot be.", fact.emptied.join(", "))
        };
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{r} allows no disruption: {} is {} with {}", fact.field, fact.value, common::plural(fact.expected.max(0) as usize, "pod")))
            .message(format!(
                "{r} has {} {} for {} and so never lets one of them be evicted, though all of them are well.{nodes} A drain of their nodes waits for ever.",
                fact.field,
                fact.value,
                common::plural(fact.expected.max(0) as usize, "pod")
            ))
            .mechanism("disruption budget blocks eviction: drain of the node cannot go on")
            .severity(if tried { Severity::Warning } else { Severity::Info })
            .role(if tried { Role::Cause } else { Role::Context }, if tried { Confidence::Observed } else { Confidence::Configured })
            .evidence(Evidence::object(&subject, format!("{}; disruptionsAllowed 0, expectedPods {}", fact.value, fact.expected)))
            .evidences(fact.refused.map(common::event_evidence))
            .onset(fact.refused.and_then(|e| e.first))
            .maybe_remedy(allow_one(fact))
            .prevention(Prevention::alert(
                "Alert when a budget allows no disruption for long",
                format!("kube_poddisruptionbudget_status_pod_disruptions_allowed{{namespace=\"{}\",poddisruptionbudget=\"{}\"}} == 0", r.namespace, r.name),
            ))
    }
}

/// The fact, where a budget can never let anybody go and nothing is wrong with its pods.
fn never<'a>(snapshot: &'a Snapshot, budget: &'a Object) -> Option<Fact<'a>> {
    if !snapshot.in_scope(budget.namespace()) {
        return None;
    }
    let body = &budget.body;
    let (allowed, expected) = (body.int("status.disruptionsAllowed")?, body.int("status.expectedPods")?);
    let healthy = body.int("status.currentHealthy").unwrap_or(0);
    if allowed > 0 || expected == 0 || healthy < expected {
        return None;
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let number = |value: &str| match value.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok().map(|p| (p * expected as f64 / 100.0).ceil() as i64),
        None => value.parse().ok(),
    };
    let (field, value) = match (body.at("spec.maxUnavailable"), body.at("spec.minAvailable")) {
        (Some(max), _) if number(&text(max)) == Some(0) => ("maxUnavailable", text(max)),
        (None, Some(min)) if number(&text(min)).is_some_and(|n| n >= expected) => ("minAvailable", text(min)),
        _ => return None,
    };
    let selector = body.at("spec.selector").map(Selector::read).unwrap_or_default();
    let pods: Vec<_> = snapshot
        .pods
        .iter()
        .filter(|pod| {
            pod.object.namespace() == budget.namespace()
                && !pod.ended()
                && selector.matches(&pod.template.labels)
        })
        .collect();
    let cordoned =
        |node: &&String| snapshot.object("Node", "", node).is_some_and(|n| n.body.flag("spec.unschedulable"));
    let mut emptied: Vec<String> = pods.iter().map(|pod| &pod.node).filter(cordoned).cloned().collect();
    emptied.sort();
    emptied.dedup();
    let says = |e: &&Event| e.message.contains("disruption budget") && e.message.contains("violate");
    let refused = pods.iter().find_map(|pod| snapshot.events_about(&pod.object.reference).find(says));
    Some(Fact { budget, field, value, expected, refused, emptied })
}

/// Let one pod be away at a time.
fn allow_one(fact: &Fact<'_>) -> Option<Remedy> {
    let operations = if fact.field == "maxUnavailable" {
        json!([{"op": "replace", "path": "/spec/maxUnavailable", "value": 1}])
    } else {
        json!([{"op": "remove", "path": "/spec/minAvailable"}, {"op": "add", "path": "/spec/maxUnavailable", "value": 1}])
    };
    let summary = if fact.expected == 1 {
        "Set maxUnavailable to 1: with a single replica this means a short outage at each drain, so run two"
            .to_owned()
    } else {
        format!("Set maxUnavailable to 1: {} of {} pods stay", fact.expected - 1, fact.expected)
    };
    Some(Remedy::patch(fact.budget, &operations, summary)?.risk(Risk::Medium))
}
