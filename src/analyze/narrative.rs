//! The story around a ranking: headline, chain, timeline, what it is not.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::Anomaly;
use super::diagnosis::{RootCause, RuledOut, TimelineEntry, Verdict};
use super::finding::{Finding, Role, Severity};
use crate::model::change::{Change, ChangeKind};
use crate::model::event::Event;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// At most this many lines of a timeline, changes, or things ruled out are worth reading.
const MAX_LINES: usize = 40;
/// Anomalies on a timeline: the strongest, for hundreds may deviate at once.
const MAX_ANOMALIES: usize = 12;
/// Warnings of the cluster on a timeline: those nearest to the onset.
const MAX_WARNINGS: usize = 10;
/// Changes are of interest from this long before the onset, in seconds.
const LOOK_BACK: i64 = 3600;
/// Changes are of interest until this long after it, in seconds.
const LOOK_AHEAD: i64 = 600;

/// The answer in one sentence.
pub fn headline(verdict: Verdict, findings: &[Finding], causes: &[RootCause]) -> String {
    let first =
        causes.first().and_then(|cause| findings.get(cause.finding)).map(|finding| finding.title.clone());
    let gravest = findings
        .iter()
        .filter(|f| f.role != Role::Context)
        .max_by_key(|f| (f.severity, std::cmp::Reverse(f.meta.code)));
    match (verdict, first, gravest) {
        (Verdict::RootCauseFound, Some(title), _) => title,
        (Verdict::Inconclusive, _, Some(finding)) => {
            super::finding::cut(&format!("No root cause found for: {}", finding.title), 200).to_owned()
        }
        (Verdict::IssuesFound, _, Some(finding)) => finding.title.clone(),
        _ => "Nothing at Warning or above was found".to_owned(),
    }
}

/// How a change is told: what was done, to what, by whom, when.
pub fn tell_change(change: &Change) -> String {
    let by = if change.by.is_empty() { String::new() } else { format!(" by {}", change.by) };
    let what = match change.kind {
        ChangeKind::Created => "created".to_owned(),
        ChangeKind::Deleted => "asked to go".to_owned(),
        ChangeKind::NodeState => return format!("{} {}", change.subject, change.fields.join(", ")),
        ChangeKind::Scaled => match change.differences.first().map(|d| (d.before.as_str(), d.after.as_str()))
        {
            Some(("", after)) => format!("scaled to {after}"),
            Some((before, after)) => format!("scaled from {before} to {after}"),
            None => "scaled".to_owned(),
        },
        ChangeKind::Released => {
            match change.differences.first().map(|d| (d.before.as_str(), d.after.as_str())) {
                Some(("", after)) => format!("released revision {after}"),
                Some((before, after)) => format!("released revision {after} after {before}"),
                None => "released".to_owned(),
            }
        }
        ChangeKind::Edited => tell_edit(change),
        ChangeKind::Rollout => {
            let named: Vec<String> = change.differences.iter().take(3).map(tell_difference).collect();
            if named.is_empty() {
                "rolled out again without a change of its template".to_owned()
            } else {
                format!("rolled out: {}", named.join(", "))
            }
        }
    };
    let release = change.release.as_ref().map(|release| format!(", part of {release}")).unwrap_or_default();
    format!("{} {what}{by}{release}", change.subject)
}

/// What an edit changed where that is known, else the fields that its manager owns, if these are few enough to tell something.
fn tell_edit(change: &Change) -> String {
    const FEW: usize = 3;
    let changed: Vec<String> = change.differences.iter().take(FEW).map(tell_difference).collect();
    if !changed.is_empty() {
        return format!("edited: {}", changed.join(", "));
    }
    let own = |field: &&String| !field.starts_with("metadata.annotations");
    let fields: Vec<&str> = change.fields.iter().filter(own).map(String::as_str).collect();
    if (1..=FEW).contains(&fields.len()) {
        format!("edited ({})", fields.join(", "))
    } else {
        "edited".to_owned()
    }
}

fn tell_difference(difference: &crate::model::change::Difference) -> String {
    let path = difference.path.trim_start_matches("spec.template.").trim_start_matches("spec.");
    match (difference.before.as_str(), difference.after.as_str()) {
        ("", after) => format!("{path} set to {after}"),
        (before, "") => format!("{path} removed (was {before})"),
        (before, after) => format!("{path} {before} → {after}"),
    }
}

/// From the change over the cause to what users feel.
pub fn chain(
    findings: &[Finding],
    cause: usize,
    explains: &[(usize, f64)],
    change: Option<&Change>,
) -> Vec<String> {
    let mut out: Vec<String> =
        change.map(|c| format!("{}: {}", c.time, tell_change(c))).into_iter().collect();
    out.extend(findings.get(cause).map(|f| f.title.clone()));
    let mut felt: Vec<(usize, f64)> =
        explains.iter().copied().filter(|(at, closeness)| *at != cause && *closeness >= 0.3).collect();
    felt.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    out.extend(felt.iter().take(6).filter_map(|(at, _)| findings.get(*at)).map(|f| f.title.clone()));
    out
}

/// The seconds around the onset, or of the window where there is none.
fn near(snapshot: &Snapshot, onset: Option<Timestamp>) -> Option<(i64, i64)> {
    match (onset, snapshot.window) {
        (Some(onset), _) => Some((onset.as_second() - LOOK_BACK, onset.as_second() + LOOK_AHEAD)),
        (None, Some(window)) => Some((window.start.as_second(), window.end.as_second())),
        (None, None) => None,
    }
}

/// Changes near the onset, or in the window where there is none, in the namespaces that are looked at.
pub fn relevant_changes(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<Change> {
    let Some((from, to)) = near(snapshot, onset) else { return vec![] };
    let near = snapshot.changes.iter().filter(|change| (from..=to).contains(&change.time.as_second()));
    let wanted = snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace()));
    let nodes: BTreeSet<&str> = wanted.map(|pod| pod.node.as_str()).collect();
    let mut out: Vec<Change> = near
        .filter(|change| {
            let r = &change.subject;
            match r.kind.as_str() {
                "Node" => nodes.contains(r.name.as_str()),
                "Namespace" => snapshot.in_scope(&r.name),
                _ => snapshot.in_scope(&r.namespace) || r.namespace == snapshot.istio.root_namespace,
            }
        })
        .cloned()
        .collect();
    // Being made together with everything else is no news.
    let made = out.iter().filter(|change| change.kind == ChangeKind::Created).count();
    if made > 8 {
        out.retain(|change| change.kind != ChangeKind::Created);
    }
    let surplus = out.len().saturating_sub(MAX_LINES);
    out.drain(..surplus);
    out
}

/// Warnings of the cluster that came up near the onset, or in the window: of each sort about each object the first.
fn warnings(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<TimelineEntry> {
    let Some((from, to)) = near(snapshot, onset) else { return vec![] };
    let mut found: BTreeMap<(&str, &ObjectRef), (Timestamp, i64)> = BTreeMap::new();
    let wanted = |event: &&Event| event.kind == "Warning" && snapshot.in_scope(&event.about.namespace);
    for event in snapshot.events.iter().filter(wanted) {
        let Some(first) = event.first.filter(|at| (from..=to).contains(&at.as_second())) else { continue };
        let known = found.entry((&event.reason, &event.about)).or_insert((first, 0));
        *known = (known.0.min(first), known.1.saturating_add(event.count));
    }
    let middle = onset.map_or(to, Timestamp::as_second);
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, (first, _))| first.as_second().abs_diff(middle));
    let told = found.into_iter().take(MAX_WARNINGS).map(|((reason, about), (time, count))| TimelineEntry {
        time,
        kind: "Event".to_owned(),
        text: if count > 1 {
            format!("{reason} at {about}, {count} times")
        } else {
            format!("{reason} at {about}")
        },
    });
    told.collect()
}

/// What happened, oldest first: changes, warnings of the cluster, the onset, when each symptom began.
pub fn timeline(
    snapshot: &Snapshot,
    findings: &[Finding],
    anomalies: &[Anomaly],
    onset: Option<Timestamp>,
) -> Vec<TimelineEntry> {
    let mut out: Vec<TimelineEntry> = relevant_changes(snapshot, onset)
        .iter()
        .map(|change| TimelineEntry {
            time: change.time,
            kind: "Change".to_owned(),
            text: tell_change(change),
        })
        .collect();
    out.extend(warnings(snapshot, onset));
    out.extend(onset.map(|time| TimelineEntry {
        time,
        kind: "Onset".to_owned(),
        text: "the first failure".to_owned(),
    }));
    for anomaly in anomalies.iter().take(MAX_ANOMALIES) {
        out.extend(anomaly.onset.map(|time| TimelineEntry {
            time,
            kind: "Anomaly".to_owned(),
            text: format!("{} at {}", anomaly.told(), anomaly.place),
        }));
    }
    for finding in findings.iter().filter(|f| f.role != Role::Context && f.severity >= Severity::Warning) {
        out.extend(finding.onset.map(|time| TimelineEntry {
            time,
            kind: "Finding".to_owned(),
            text: finding.title.clone(),
        }));
    }
    out.sort_by(|a, b| (a.time, &a.kind, &a.text).cmp(&(b.time, &b.kind, &b.text)));
    out.dedup();
    // Of too many, those around the onset.
    let middle = out.iter().position(|entry| entry.kind == "Onset").unwrap_or(out.len());
    let skipped = middle.saturating_sub(MAX_LINES / 2).min(out.len().saturating_sub(MAX_LINES));
    out.drain(..skipped);
    out.truncate(MAX_LINES);
    out
}

/// The usual suspects that were looked at and are well, with their numbers.
pub fn ruled_out(snapshot: &Snapshot, findings: &[Finding]) -> Vec<RuledOut> {
    let mut out = vec![];
    let mut say = |what: &str, why: String| out.push(RuledOut { what: what.to_owned(), why });
    let pods: Vec<_> = snapshot
        .pods
        .iter()
        .filter(|pod| snapshot.in_scope(pod.object.namespace()) && pod.has_status() && !pod.ended())
        .collect();
    let accused = |family: &str| {
        findings.iter().any(|f| f.severity >= Severity::Warning && f.meta.code.starts_with(family))
    };
    if !pods.is_empty() && !accused("POD") {
        let restarts: i64 = pods.iter().flat_map(|pod| &pod.statuses).map(|status| status.restarts).sum();
        let ready = pods.iter().filter(|pod| pod.ready()).count();
        if restarts == 0 {
            say("pods crashing", format!("0 restarts of {} pods", pods.len()));
        }
        if ready == pods.len() {
            say("pods not ready", format!("{ready} of {} pods are ready", pods.len()));
        }
    }
    if snapshot.runs() && !accused("NET") {
        let policies: Vec<_> = snapshot
            .network_policies
            .iter()
            .filter(|policy| snapshot.in_scope(policy.object.namespace()))
            .collect();
        let isolating = policies
            .iter()
            .filter(|policy| {
                pods.iter().any(|pod| {
                    pod.object.namespace() == policy.object.namespace()
                        && policy.selector.matches(&pod.template.labels)
                })
            })
            .count();
        if isolating == 0 {
            say("NetworkPolicy", format!("none of {} selects a pod here", policies.len()));
        }
    }
    if !snapshot.traffic.is_empty() {
        let flag = |name: &str| -> u64 {
            snapshot
                .traffic
                .iter()
                .flat_map(|edge| &edge.outcomes)
                .filter(|o| o.has_flag(name))
                .map(|o| o.count)
                .sum()
        };
        if flag("UO") == 0 {
            say("overflowing connection pools", "0 requests with flag UO".to_owned());
        }
        let denied: u64 = snapshot
            .traffic
            .iter()
            .flat_map(|edge| &edge.outcomes)
            .filter(|o| o.details.starts_with("rbac_access_denied"))
            .map(|o| o.count)
            .sum();
        if denied == 0 && !snapshot.istio.authorization_policies.is_empty() {
            say(
                "authorization",
                format!(
                    "0 requests denied by {} AuthorizationPolicies",
                    snapshot.istio.authorization_policies.len()
                ),
            );
        }
        if flag("FI") + flag("DI") == 0 {
            say("fault injection", "0 requests with flag FI or DI".to_owned());
        }
    }
    out
}
