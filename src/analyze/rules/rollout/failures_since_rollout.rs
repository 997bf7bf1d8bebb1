//! ROLLOUT103.

use crate::model::json::json;
use jiff::Timestamp;
use std::collections::BTreeMap;

use super::slow_since::{self, Slow};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, WorkloadLog};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::{common, crash_loop};
use crate::model::change::{Change, ChangeKind, Difference};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;
use crate::model::traffic::Reporter;
use crate::model::workload::{Workload, quantity};

crate::rule! {
    /// A workload fails since a new revision of it was rolled out.
    ///
    /// ## What it detects
    /// A rollout in the time that is looked at which changed what the pods run (image, command, environment, resources, volumes), since
    /// which the workload answers with server errors of its own, answers late (its callers time out, or requests take at least twice
    /// as long as before), or crashes, where it did not before.
    /// ## Why it matters
    /// The new revision is at fault, whatever exactly is wrong in it; the one before it still exists and works.
    /// ## Evidence
    /// What differs between the two ReplicaSets, the first error after the rollout, the share of errors or the durations before and
    /// after, and the application's own error text.
    /// ## How to confirm
    /// `kubectl rollout history deployment/NAME` and the log of a new pod; `kubectl rollout undo` ends the errors.
    /// ## How to fix
    /// Go back to the revision before.
    /// ## False positives
    /// Errors that the workload only passes on: where calls of its own fail in the same time, its rollout is not blamed, unless that
    /// rollout changed its environment. Where something that it calls became slow at the same time, or where two workloads on the way
    /// of slow requests were rolled out together, neither is blamed for them. Restarts without a change are no rollout.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-back-a-deployment>
    FailuresSinceRollout {
        code: "ROLLOUT103", name: "failures-since-rollout", family: Workload, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// What began with the rollout.
#[derive(Debug)]
enum Began {
    /// Server errors of its own.
    Errors {
        /// Failed and all requests since the rollout.
        failed: u64,
        requests: u64,
        /// The same before it.
        before: (u64, u64),
        /// Who counted: `its own log`, `its proxies`, `its callers' logs`.
        by: &'static str,
    },
    /// Crashes of its new pods.
    Crashes(Crashes),
    /// Late answers.
    Slow(Slow),
}

/// Pods of a new revision that crash.
#[derive(Debug)]
struct Crashes {
    /// How many.
    pods: usize,
    /// The container that ends, as the first of them has it.
    container: String,
    /// With which exit code.
    exit_code: i64,
}

/// A rollout since which a workload fails.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    rollout: &'a Change,
    began: Began,
    first: Option<Timestamp>,
    services: Vec<ServiceName>,
    evidence: Vec<Evidence>,
}

impl Check for FailuresSinceRollout {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        newest(snapshot).into_iter().filter_map(|c| failing(snapshot, c)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let owner = fact.workload.reference();
        let at = common::clock(fact.rollout.time);
        let what = common::differences(fact.rollout);
        let main = main_difference(fact.rollout, &fact.began);
        let subject =
            owner.field(main.map_or_else(|| "spec.template".to_owned(), |d| indexed(fact.workload, &d.path)));
        let lowered = lowered_cpu(fact);
        let (title, why) = match &fact.began {
            Began::Slow(slow) => tell_slow(slow, owner, &at, lowered),
            Began::Errors { failed, requests, before, by } => {
                let share = *failed as f64 * 100.0 / (*requests).max(1) as f64;
                let well = match before {
                    (_, 0) => "from before the rollout no requests were seen".to_owned(),
                    (bad, all) => format!("before it {bad} of {all} failed"),
                };
                (
                    format!(
                        "{owner} answers {failed} of {requests} requests ({share:.0} %) with errors since its rollout of {at}"
                    ),
                    format!(
                        "By {by} it answers {failed} of {requests} requests ({share:.1} %) with server errors since then; {well}"
                    ),
                )
            }
            Began::Crashes(Crashes { pods, container, exit_code }) => (
                format!(
                    "{owner}: container {container} ends with exit code {exit_code} since its rollout of {}",
                    fact.rollout.time.strftime("%H:%M:%SZ")
                ),
                format!(
                    "Container {container} ends again and again with exit code {exit_code} in {} of the new revision",
                    common::plural(*pods, "pod")
                ),
            ),
        };
        let values = fact.rollout.differences.iter().filter(|d| tells(d)).take(4).map(|d| {
            Evidence::object(
                &owner.field(d.path.clone()),
                format!("{} → {}", shown(&d.before), shown(&d.after)),
            )
            .at(Some(fact.rollout.time))
        });
        let mut finding = Finding::new(Self::META, subject, &[&at])
            .title(title)
            .message(format!(
                "The rollout of {at} changed {what} of {owner}. {why}. Calls of its own do not account for it: the new revision is at fault, and the one before it is still there."
            ))
            .mechanism(match fact.began {
                Began::Errors { .. } => "rollout: the new revision (image or configuration) answers with 5xx errors (500)",
                Began::Crashes(_) => "rollout: the new revision (image or configuration) crashes (crash loop)",
                Began::Slow(_) if lowered.is_some() => "rollout: CPU limit lowered, so the new revision is throttled (slow, latency)",
                Began::Slow(_) => "rollout: the new revision (image or configuration) answers slowly (latency, slow requests, timeouts)",
            })
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(fact.services.first().cloned())
            .evidences(values)
            .evidences(fact.evidence.clone())
            .onset(fact.first.or(Some(fact.rollout.time)))
            .maybe_remedy(lowered.and_then(|difference| former_limit(fact, difference)))
            .remedy(Remedy::undo_rollout(owner, format!("Go back to the revision before {at} ({what})")))
            .maybe_remedy(former_image(fact));
        if !matches!(fact.began, Began::Slow(_)) {
            finding = finding.effect(Effect::calls(owner));
        }
        if matches!(fact.began, Began::Crashes(_)) {
            finding = finding.effect(Effect::pods(owner));
        }
        let flags: &[&str] = match &fact.began {
            Began::Crashes(_) => common::DOWN,
            Began::Errors { .. } => &["5xx", "500", "via_upstream"],
            Began::Slow(slow) if slow.timeouts > 0 => &["slow", "timeout", "UT", "DC", "504"],
            Began::Slow(_) => &["slow"],
        };
        for service in &fact.services {
            finding = finding.effect(Effect::requests(service, flags));
        }
        let service = fact.services.first().map_or("", |s| s.name.as_str());
        if matches!(fact.began, Began::Slow(_)) {
            finding = finding.prevention(Prevention::alert(
                "Alert on how long requests to it take",
                format!("histogram_quantile(0.95, sum by (le) (rate(istio_request_duration_milliseconds_bucket{{reporter=\"destination\",destination_service_name=\"{service}\"}}[2m]))) > 1000"),
            ));
        }
        finding
            .prevention(Prevention::of("Setting", "Roll out to a small share first (a canary, or maxSurge 1 with minReadySeconds) and stop the rollout when its errors rise"))
            .prevention(Prevention::alert(
                "Alert on the share of errors of a workload",
                format!("sum(rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{service}\",response_code=~\"5..\"}}[2m])) / sum(rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{service}\"}}[2m])) > 0.02"),
            ))
    }
}

/// The newest rollout of each workload that changed what its pods do, in the time that is looked at: what came before it is not
/// what runs now.
pub(super) fn newest(snapshot: &Snapshot) -> Vec<&Change> {
    let mut newest: BTreeMap<_, &Change> = BTreeMap::new();
    for change in snapshot.changes.iter().filter(|c| c.kind == ChangeKind::Rollout) {
        if snapshot.in_scope(&change.subject.namespace) && change.differences.iter().any(tells) {
            let subject = &change.subject;
            newest.insert((subject.kind.clone(), subject.namespace.clone(), subject.name.clone()), change);
        }
    }
    newest.into_values().filter(|change| common::recent(snapshot, Some(change.time))).collect()
}

/// Whether a difference can change what the pods do.
pub(super) fn tells(difference: &Difference) -> bool {
    let path = difference.path.as_str();
    if !path.contains("ontainers[") {
        return path.contains(".volumes[");
    }
    [".image", ".env", ".command", ".args", ".resources", ".volumeMounts", ".workingDir", ".securityContext"]
        .iter()
        .any(|field| path.split("]").skip(1).any(|rest| rest.starts_with(field)))
        && !path.ends_with(".imagePullPolicy")
}

/// The difference that is the likeliest to matter: of the container that crashes before others, then the image, then the
/// environment, then the first.
fn main_difference<'a>(rollout: &'a Change, began: &Began) -> Option<&'a Difference> {
    let crashing = match began {
        Began::Crashes(crashes) => format!("ontainers[name={}]", crashes.container),
        _ => String::new(),
    };
    let rank = |d: &&Difference| {
        let field = match d.path.as_str() {
            path if path.ends_with(".image") => 0,
            path if path.contains(".env") => 1,
            _ => 2,
        };
        (!d.path.contains(&crashing), field)
    };
    rollout.differences.iter().filter(|d| tells(d)).min_by_key(rank)
}

/// `containers[name=app].env[name=MODE].value` with the container's number in place of its name, down to the field itself.
fn indexed(workload: &Workload, path: &str) -> String {
    let Some((head, rest)) = path.split_once("[name=") else { return path.to_owned() };
    let Some((name, rest)) = rest.split_once(']') else { return path.to_owned() };
    let list = if head.ends_with("initContainers") { "initContainers" } else { "containers" };
    let container = workload.template.container(name).filter(|c| c.path().starts_with(list));
    let Some(container) = container else { return path.to_owned() };
    let field = rest.split('[').next().unwrap_or(rest);
    workload.template_path(&format!("spec.{}{field}", container.path()))
}

/// A value as evidence shows it.
fn shown(value: &str) -> &str {
    if value.is_empty() { "absent" } else { value }
}

/// Fewer failures than this happen to everybody, and a smaller share to many.
const MIN_FAILURES: u64 = 3;
const MIN_SHARE: f64 = 0.01;
/// The share before must be this many times smaller.
const RISE: f64 = 4.0;
/// From this share of its failures on, a workload's own failing calls account for them.
const PASSES_ON: f64 = 0.5;

/// What began to fail with a rollout, where something did.
fn failing<'a>(snapshot: &'a Snapshot, rollout: &'a Change) -> Option<Fact<'a>> {
    let workload = snapshot.workload(&rollout.subject)?;
    let services: Vec<ServiceName> = {
        let mut names: Vec<_> = snapshot.services_before(workload).map(|s| s.service_name()).collect();
        names.sort_by_key(|s| (s.name != workload.object.name(), s.clone()));
        names
    };
    let fact = |began, first, evidence| {
        Some(Fact { workload, rollout, began, first, services: services.clone(), evidence })
    };
    if let Some((pods, first, evidence)) = crashes(snapshot, rollout) {
        return fact(Began::Crashes(pods), first, evidence);
    }
    let digest = snapshot.derived::<Digest>();
    let log =
        digest.workloads.iter().find(|(owner, _)| owner.same_object(&rollout.subject)).map(|(_, log)| log);
    let slow = slow_since::slow(snapshot, rollout, &services);
    let found = log
        .and_then(|log| own_errors(log, rollout))
        .or_else(|| proxied_errors(snapshot, rollout))
        .or_else(|| services.iter().find_map(|s| callers_errors(&digest, s, rollout, log)))
        .filter(|found| found.grew() && slow.as_ref().is_none_or(|slow| slow.timeouts <= found.failed));
    // What it only passes on is its dependency's, unless this very rollout told it whom to call.
    let environment = rollout.differences.iter().any(|d| d.path.contains(".env") || d.path.contains(".args"));
    let own_calls: u64 =
        log.map_or(0, |log| log.calls.iter().filter(|c| c.last >= Some(rollout.time)).map(|c| c.count).sum());
    let passes_on = |failed: u64| !environment && own_calls as f64 >= PASSES_ON * failed as f64;
    let Some(found) = found else {
        let slow = slow.filter(|slow| {
            (slow.level.is_some() && own_calls == 0)
                || (slow.timeouts >= MIN_FAILURES && !passes_on(slow.timeouts))
        })?;
        let evidence = slow_evidence(&slow, rollout);
        let first = slow.first;
        return fact(Began::Slow(slow), first, evidence);
    };
    let (failed, requests, before, first, by) =
        (found.failed, found.requests, found.before, found.first, found.by);
    if passes_on(failed) {
        return None;
    }
    let mut evidence = vec![
        Evidence::new(
            "Log",
            rollout.subject.to_string(),
            format!("{failed} of {requests} requests failed since the rollout, by {by}"),
        )
        .at(first),
    ];
    let told =
        log.into_iter().flat_map(|log| &log.errors).filter(|e| !e.call && e.first >= Some(rollout.time));
    evidence.extend(told.max_by_key(|e| e.count).map(|e| {
        Evidence::new(
            "Log",
            format!("Pod {}/{}, container {}", rollout.subject.namespace, e.place.pod, e.place.container),
            format!("an error of its own, {} times since the rollout", e.count),
        )
        .at(e.first)
        .excerpt(&e.sample)
    }));
    fact(Began::Errors { failed, requests, before, by }, first, evidence)
}

/// Failed requests before and since a rollout.
struct Counted {
    failed: u64,
    requests: u64,
    before: (u64, u64),
    first: Option<Timestamp>,
    by: &'static str,
}

impl Counted {
    /// Whether enough fails, and more than before the rollout.
    fn grew(&self) -> bool {
        let share = self.failed as f64 / self.requests.max(1) as f64;
        let earlier = self.before.0 as f64 / self.before.1.max(1) as f64;
        self.failed >= MIN_FAILURES && share >= MIN_SHARE && earlier * RISE <= share
    }
}

/// By the request log of the workload itself. `None` where it logs no requests, or none failed.
fn own_errors(log: &WorkloadLog, rollout: &Change) -> Option<Counted> {
    let failures = || log.served.iter().filter(|r| r.status >= 500);
    let first = failures().filter_map(|r| r.at).filter(|at| *at >= rollout.time).min()?;
    let last = failures().filter_map(|r| r.at).max()?;
    let (requests, failed) = log.served_since(Some(first));
    let (all, all_failed) = log.served_since(None);
    // What stopped while requests went on is over.
    let end = log.served.iter().filter_map(|r| r.at).max()?;
    let pause = (to_unix(last) - to_unix(first)) / failed.saturating_sub(1).max(1) as f64;
    if to_unix(end) - to_unix(last) > (6.0 * pause).max(45.0) {
        return None;
    }
    let before = (all_failed.saturating_sub(failed), all.saturating_sub(requests));
    Some(Counted { failed, requests, before, first: Some(first), by: "its own log" })
}

/// By the proxies beside the workload's pods: answers of the application itself.
fn proxied_errors(snapshot: &Snapshot, rollout: &Change) -> Option<Counted> {
    let mut counted = Counted { failed: 0, requests: 0, before: (0, 0), first: None, by: "its proxies" };
    for edge in &snapshot.traffic {
        if edge.reporter != Reporter::Destination || !edge.workload.same_object(&rollout.subject) {
            continue;
        }
        let since = edge.requests_since(rollout.time);
        counted.requests += since;
        counted.before.1 += edge.requests.saturating_sub(since);
        for outcome in edge.outcomes.iter().filter(|o| o.code >= 500 && o.details == "via_upstream") {
            if outcome.first >= Some(rollout.time) {
                counted.failed += outcome.count;
                counted.first = counted.first.into_iter().chain(outcome.first).min();
            } else {
                counted.before.0 += outcome.count;
            }
        }
    }
    (counted.failed > 0).then_some(counted)
}

/// By the logs of those who call it, where it logs no requests itself: server errors that it does not only pass on.
fn callers_errors(
    digest: &Digest,
    service: &ServiceName,
    rollout: &Change,
    own: Option<&WorkloadLog>,
) -> Option<Counted> {
    if own.is_some_and(|log| !log.served.is_empty()) {
        return None;
    }
    let mut counted =
        Counted { failed: 0, requests: 0, before: (0, 0), first: None, by: "its callers' logs" };
    for log in digest.workloads.values() {
        let mut counts = false;
        // Errors of another kind before the rollout, such as those of a start, say nothing of these.
        let began = |kind: Kind| {
            let own = log.calls.iter().filter(|c| c.service.as_ref() == Some(service));
            own.filter(|c| c.kind == kind).any(|c| c.first >= Some(rollout.time))
        };
        for calls in log.calls.iter().filter(|calls| began(calls.kind)) {
            let server_error = matches!(calls.kind, Kind::Status(500..=599));
            if calls.service.as_ref() != Some(service)
                || !server_error
                || calls.ended(log)
                || calls.passed_on * 2 > calls.count
            {
                continue;
            }
            if calls.first < Some(rollout.time) {
                counted.before.0 += calls.count;
                continue;
            }
            counted.failed += calls.count;
            counted.first = counted.first.into_iter().chain(calls.first).min();
            counts = true;
        }
        if counts {
            let (since, _) = log.served_since(Some(rollout.time));
            let (all, _) = log.served_since(None);
            counted.requests += since;
            counted.before.1 += all.saturating_sub(since);
        }
    }
    counted.requests = counted.requests.max(counted.failed);
    (counted.failed > 0).then_some(counted)
}

/// Pods of the new revision that crash, for a reason that no other rule has.
fn crashes(snapshot: &Snapshot, rollout: &Change) -> Option<(Crashes, Option<Timestamp>, Vec<Evidence>)> {
    let (mut found, mut first, mut evidence) = (None::<Crashes>, None::<Timestamp>, vec![]);
    for pod in snapshot.pods_of(&rollout.subject) {
        if pod.object.created.is_none_or(|at| at.as_second() + 2 < rollout.time.as_second())
            || pod.object.deleted.is_some()
        {
            continue;
        }
        let crashing = crash_loop::crashing(snapshot, pod);
        let Some((_, status)) = crashing.first() else { continue };
        // A program that never ran is a matter of the template, and said there.
        let Some(end) = status.latest_end().filter(|end| !matches!(end.exit_code, 126..=128)) else {
            continue;
        };
        let one = || Crashes { pods: 0, container: status.name.clone(), exit_code: end.exit_code };
        found.get_or_insert_with(one).pods += 1;
        first = first.into_iter().chain(common::first_restart(snapshot, pod, status)).min();
        if evidence.len() < 3 {
            evidence.push(common::container_evidence(pod, status));
        }
    }
    Some((found?, first, evidence))
}

/// The difference by which a rollout lowered a CPU limit, or brought one in, where nothing that the program itself reads changed.
fn lowered_cpu<'a>(fact: &'a Fact<'_>) -> Option<&'a Difference> {
    let mut told = fact.rollout.differences.iter().filter(|d| tells(d));
    if told.clone().any(|d| !d.path.contains(".resources")) {
        return None;
    }
    told.find(|d| {
        let (before, after) = (quantity(&d.before), quantity(&d.after));
        d.path.ends_with(".resources.limits.cpu") && after.is_some() && (before.is_none() || before > after)
    })
}

/// The CPU limit of before, as a patch.
fn former_limit(fact: &Fact<'_>, limit: &Difference) -> Option<Remedy> {
    let path = pointer(&indexed(fact.workload, &limit.path));
    let (operation, summary) = if limit.before.is_empty() {
        (json!([{"op": "remove", "path": path}]), "Remove the CPU limit again: there was none".to_owned())
    } else {
        let operation = json!([{"op": "replace", "path": path, "value": limit.before}]);
        (operation, format!("Set limits.cpu back to {}", limit.before))
    };
    Remedy::patch(&fact.workload.object, &operation, summary)
}

/// Title and reason of a revision that answers late.
fn tell_slow(slow: &Slow, owner: &ObjectRef, at: &str, lowered: Option<&Difference>) -> (String, String) {
    let limit = lowered.map(|d| format!(" with a CPU limit of {}", d.after)).unwrap_or_default();
    let timeouts = (slow.timeouts > 0)
        .then(|| format!("{} of its callers timed out", common::plural(slow.timeouts as usize, "call")));
    match &slow.level {
        Some(level) => (
            format!(
                "{owner} is slow since its rollout of {at}{limit}: {:.0} → {:.0} ms",
                level.before, level.after
            ),
            format!(
                "{} rose from {:.0} ms to {:.0} ms ({} measured){}",
                capitalised(&level.what),
                level.before,
                level.after,
                level.samples,
                timeouts.map(|text| format!(", and {text}")).unwrap_or_default()
            ),
        ),
        None => {
            let timeouts = timeouts.unwrap_or_default();
            (
                format!("{owner} is slow since its rollout of {at}{limit}: {timeouts}"),
                format!("Since then {timeouts}; before it none did"),
            )
        }
    }
}

/// A sentence's beginning.
fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// What shows that it is slow.
fn slow_evidence(slow: &Slow, rollout: &Change) -> Vec<Evidence> {
    let measured = slow.level.as_ref().map(|level| {
        format!(
            "{}: {:.0} ms before the rollout, {:.0} ms since ({} measured)",
            level.what, level.before, level.after, level.samples
        )
    });
    let timeouts = (slow.timeouts > 0)
        .then(|| format!("{} calls to it timed out since the rollout, by its callers' logs", slow.timeouts));
    let told = measured.into_iter().chain(timeouts);
    told.map(|text| Evidence::new("Log", rollout.subject.to_string(), text).at(slow.first)).collect()
}

/// The image of before, as a patch.
fn former_image(fact: &Fact<'_>) -> Option<Remedy> {
    let image = fact
        .rollout
        .differences
        .iter()
        .find(|d| d.path.ends_with(".image") && !d.before.is_empty() && !d.after.is_empty())?;
    let path = indexed(fact.workload, &image.path);
    Remedy::patch(
        &fact.workload.object,
        &json!([{"op": "replace", "path": pointer(&path), "value": image.before}]),
        format!("Set the image back to {}", image.before),
    )
}
