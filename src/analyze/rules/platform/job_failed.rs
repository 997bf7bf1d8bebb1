//! PLAT117.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::pods::last_words::last_words;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, Pod, Workload};

crate::rule! {
    /// A Job has failed for good.
    ///
    /// ## What it detects
    /// A Job whose condition `Failed` became true in the time that is looked at, told apart by why: too many failed pods, its deadline,
    /// its pod failure policy, or too many failed indexes; and with what its last pod ended.
    /// ## Why it matters
    /// What it should have done is not done: a migration, an import, a backup. Nothing tries again but the next run of its CronJob.
    /// ## Evidence
    /// The condition, the exit code of the last pod, and the error that it logged.
    /// ## How to confirm
    /// `kubectl describe job NAME`; `kubectl logs job/NAME` while its pods are kept.
    /// ## How to fix
    /// Heal what the last pod names, then run the Job anew: a failed Job does not start again.
    /// ## False positives
    /// A Job that failed before the time that is looked at, and one that a later run of the same CronJob made good.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/job/#handling-pod-and-container-failures>
    JobFailed {
        code: "PLAT117", name: "job-failed", family: Workload, severity: Warning,
        needs: [Status], aliases: ["K8S-JOB"],
    }
}

/// A failed Job.
#[derive(Debug)]
pub struct Fact<'a> {
    job: &'a Workload,
    condition: &'a Condition,
    last: Option<&'a Pod>,
}

impl Check for JobFailed {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let jobs = snapshot
            .workloads
            .iter()
            .filter(|w| w.reference().kind == "Job" && snapshot.in_scope(w.object.namespace()));
        let mut out = vec![];
        for job in jobs {
            let Some(condition) = job.condition("Failed").filter(|c| c.status == "True") else { continue };
            if !common::recent(snapshot, condition.since) || made_good(snapshot, job) {
                continue;
            }
            let own = |pod: &&Pod| pod.object.owners.iter().any(|o| o.same_object(job.reference()));
            let last = snapshot.pods.iter().filter(own).max_by_key(|pod| pod.object.created);
            out.push(Fact { job, condition, last });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (r, c) = (fact.job.reference(), fact.condition);
        let status = fact.last.and_then(|pod| {
            let ended = pod.statuses.iter().filter(|s| s.latest_end().is_some_and(|end| end.exit_code != 0));
            Some((pod, ended.max_by_key(|s| s.latest_end().and_then(|end| end.finished))?))
        });
        let words = status.and_then(|(pod, status)| last_words(snapshot, pod, status));
        let (field, why) = match c.reason.as_str() {
            "DeadlineExceeded" => (
                "spec.activeDeadlineSeconds",
                format!(
                    "it ran longer than its deadline of {} s",
                    fact.job.object.body.int("spec.activeDeadlineSeconds").unwrap_or(0)
                ),
            ),
            "PodFailurePolicy" => ("spec.podFailurePolicy", "its pod failure policy gave it up".to_owned()),
            "MaxFailedIndexesExceeded" | "FailedIndexes" => {
                ("spec.maxFailedIndexes", "too many of its indexes failed".to_owned())
            }
            _ => (
                "spec.template",
                format!(
                    "more than {} of its pods failed",
                    fact.job.object.body.int("spec.backoffLimit").unwrap_or(6)
                ),
            ),
        };
        let code = status
            .and_then(|(_, s)| s.latest_end())
            .map(|end| format!("; the last one ended with exit code {}", end.exit_code))
            .unwrap_or_default();
        let owner = fact.job.object.owners.first();
        let mut finding = Finding::new(Self::META, r.field(field), &[&c.reason])
            .title(format!("{r} failed: {why}"))
            .message(format!("{r} has failed and does not start again: {why}{code}."))
            .mechanism(format!("job failed: {}", c.reason))
            .severity(Severity::Warning)
            .role(
                if c.reason == "DeadlineExceeded" { Role::Cause } else { Role::Symptom },
                Confidence::Observed,
            )
            .evidence(
                Evidence::object(&r.field("status.conditions[Failed]"), c.reason.clone())
                    .excerpt(&c.message)
                    .at(c.since),
            )
            .evidences(status.map(|(pod, status)| common::container_evidence(pod, status)))
            .evidences(words.as_ref().map(|w| w.evidence()))
            .onset(c.since)
            .effect(Effect::pods(r));
        if let Some(owner) = owner {
            finding = finding.related(owner.clone());
        }
        let ns = scope(r);
        let mut commands = vec![common::describe_command(r)];
        commands.extend(status.map(|(pod, status)| common::logs_command(pod, &status.name, false)));
        finding = finding.remedy(Remedy::commands(
            "Read with what its last pod ended, and heal that",
            commands,
            vec![],
        ));
        if let Some(owner) = owner.filter(|o| o.kind == "CronJob") {
            let again = quote(&format!("{}-again", r.name.chars().take(50).collect::<String>()));
            finding = finding.remedy(Remedy::commands(
                format!("Then run {owner} once by hand"),
                vec![format!("kubectl {ns}create job {again} --from=cronjob/{}", quote(&owner.name))],
                vec![format!("kubectl {ns}delete job {again}")],
            ));
        }
        finding.prevention(Prevention::alert(
            "Alert when a Job fails",
            format!("kube_job_failed{{namespace=\"{}\",condition=\"true\"}} == 1", r.namespace),
        ))
    }
}

/// Whether a later Job of the same maker succeeded.
fn made_good(snapshot: &Snapshot, job: &Workload) -> bool {
    let Some(owner) = job.object.owners.first() else { return false };
    let later = |w: &&Workload| {
        w.reference().kind == "Job"
            && w.object.owners.first().is_some_and(|o| o.same_object(owner))
            && w.object.created > job.object.created
    };
    let good = |w: &Workload| w.condition("Complete").is_some_and(|c| c.status == "True");
    snapshot.workloads.iter().filter(later).any(good)
}
