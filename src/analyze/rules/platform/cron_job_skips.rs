//! PLAT119.

use crate::analyze::finding::Evidence;
use crate::analyze::finding::{Confidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::json::json;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A CronJob skips runs.
    ///
    /// ## What it detects
    /// A CronJob that leaves runs out because the run before still goes on and `concurrencyPolicy` is `Forbid`, or because it missed so
    /// many starts that its controller gave up counting.
    /// ## Why it matters
    /// What should be done every so often is done less often, or not at all, and no Job fails.
    /// ## Evidence
    /// The events `JobAlreadyActive`, `TooManyMissedTimes`, `FailedNeedsStart` and `MissSchedule` of the CronJob.
    /// ## How to confirm
    /// `kubectl describe cronjob NAME` shows the events and the last schedule time.
    /// ## How to fix
    /// End runs that hang with `activeDeadlineSeconds`, run less often, or set `startingDeadlineSeconds` so that old starts are not
    /// counted.
    /// ## False positives
    /// A CronJob that is suspended on purpose, and one run that was skipped once.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>
    CronJobSkips {
        code: "PLAT119", name: "cron-job-skips-runs", family: Workload, severity: Warning,
        needs: [Events], aliases: ["K8S-JOB"],
    }
}

/// A CronJob that skips runs.
#[derive(Debug)]
pub struct Fact<'a> {
    job: &'a Object,
    event: &'a Event,
}

impl Check for CronJobSkips {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let wanted = |o: &&Object| snapshot.in_scope(o.namespace()) && !o.body.flag("spec.suspend");
        let jobs = snapshot.objects_of("CronJob").filter(wanted);
        jobs.filter_map(|job| {
            let telling = |e: &&Event| match e.reason.as_str() {
                // Once, a run that took a little longer.
                "JobAlreadyActive" | "MissSchedule" => e.count >= 2,
                "TooManyMissedTimes" | "FailedNeedsStart" => true,
                _ => false,
            };
            let event = snapshot.events_about(&job.reference).filter(telling).last()?;
            common::recent(snapshot, event.last).then_some(Fact { job, event })
        })
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let r = &fact.job.reference;
        let active = fact.event.reason == "JobAlreadyActive";
        let schedule = fact.job.body.string("spec.schedule");
        let (field, why) = if active {
            (
                "spec.jobTemplate.spec.activeDeadlineSeconds",
                "the run before still goes on, and concurrencyPolicy forbids a second one",
            )
        } else {
            ("spec.startingDeadlineSeconds", "it missed its starts")
        };
        let mut finding = Finding::new(Self::META, r.field(field), &[&fact.event.reason])
            .title(format!("{r} skips runs ({} times): {why}", fact.event.count))
            .message(format!(
                "{r} has the schedule {schedule} and has skipped {} runs: {why}.",
                fact.event.count
            ))
            .mechanism("cron job skips runs")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .evidence(common::event_evidence(fact.event))
            .evidence(Evidence::object(&r.field("spec.schedule"), schedule))
            .onset(fact.event.first);
        if active && fact.job.body.at("spec.jobTemplate.spec.activeDeadlineSeconds").is_none() {
            // An hour is longer than most batch jobs and shorter than a night.
            const DEADLINE: i64 = 3600;
            finding.remedies.extend(Remedy::patch(
                fact.job,
                &json!([{"op": "add", "path": "/spec/jobTemplate/spec/activeDeadlineSeconds", "value": DEADLINE}]),
                format!("End runs that take longer than {DEADLINE} s; set it a little above what a run really takes"),
            ));
        }
        if !active && fact.job.body.at("spec.startingDeadlineSeconds").is_none() {
            finding.remedies.extend(Remedy::patch(
                fact.job,
                &json!([{"op": "add", "path": "/spec/startingDeadlineSeconds", "value": 300}]),
                "Count only starts of the last five minutes (startingDeadlineSeconds 300): the controller then starts the next run again",
            ));
        }
        finding
            .remedy(Remedy::commands(
                "Look at the runs: which one goes on, and since when",
                vec![format!("kubectl {}get jobs", scope(r)), format!("kubectl {}describe cronjob {}", scope(r), quote(&r.name))],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a CronJob has not succeeded for long",
                format!("time() - max by (namespace, cronjob) (kube_cronjob_status_last_successful_time{{namespace=\"{}\",cronjob=\"{}\"}}) > 86400", r.namespace, r.name),
            ))
    }
}
