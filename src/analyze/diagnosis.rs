//! The result of a run, and the function that makes it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::anomaly::Anomaly;
use super::clocks::Clocks;
use super::finding::{Finding, Findings, Severity};
use super::follow::{Followed, follow};
use super::hypothesis;
use super::impact::Impact;
use super::istioctl;
use super::logs::vector_clock::VectorClocks;
use super::registry::RULES;
use super::rule::Rule;
use super::series::load::Growth;
use super::traces::path::Requests;
use super::trial;
use super::twin::answer::Answer;
use super::twin::ask::{Ask, describe};
use super::twin::{Twin, beyond};
use crate::model::change::Change;
use crate::model::gap::Gap;
use crate::model::graph::Graph;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::{Snapshot, Target};
use crate::model::time::Window;

/// What a run comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// One hypothesis explains what is seen.
    RootCauseFound,
    /// Something is wrong, and no hypothesis earns the name of root cause.
    Inconclusive,
    /// Nothing fails; there are findings that will hurt some day.
    IssuesFound,
    /// Looked, and found nothing at Warning or above.
    Healthy,
}

impl Verdict {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::RootCauseFound => "RootCauseFound",
            Verdict::Inconclusive => "Inconclusive",
            Verdict::IssuesFound => "IssuesFound",
            Verdict::Healthy => "Healthy",
        }
    }
}

/// How a test of a hypothesis came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TestVerdict {
    /// It speaks for the hypothesis.
    Supported,
    /// It speaks against it.
    Refuted,
    /// A signal that it needs was not seen.
    NotEvaluated,
}

/// One test of a hypothesis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Test {
    /// What was tested and what came out, in one sentence.
    pub test: String,
    /// How it came out.
    pub verdict: TestVerdict,
    /// The natural logarithm of its likelihood ratio; 0 where it was not evaluated.
    pub log_odds: f64,
    /// The evidence that it rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

/// A candidate root cause: what it is, what it explains, what speaks for and against it.
#[derive(Debug, Clone)]
pub struct RootCause {
    /// Its place, from 1.
    pub rank: usize,
    /// How likely it is the cause, 0 to 1.
    pub probability: f64,
    /// The finding that it rests on: index into [`Diagnosis::findings`].
    pub finding: usize,
    /// The object to blame, with its field.
    pub subject: ObjectRef,
    /// The Service in which the cause lies.
    pub service: Option<ServiceName>,
    /// Fingerprints of the findings that it explains, its own among them.
    pub explains: Vec<String>,
    /// From the cause to what users feel, one sentence a step.
    pub chain: Vec<String>,
    /// Its tests.
    pub tests: Vec<Test>,
    /// The change that brought it about, where one is known.
    pub change: Option<Change>,
    /// The place, among its finding's remedies, of the one that takes the change back.
    pub take_back: Option<usize>,
    /// When what it explains began.
    pub onset: Option<Timestamp>,
}

/// Something that was looked for and is not the cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuledOut {
    /// What: `pods crashing`.
    pub what: String,
    /// Why not, with the numbers: `0 restarts of 3 pods`.
    pub why: String,
}

/// One line of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// When.
    pub time: Timestamp,
    /// `Change`, `Onset`, `Anomaly`, `Finding` or `Event`.
    pub kind: String,
    /// What happened, in our words.
    pub text: String,
}

/// A rule that could not be evaluated, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotEvaluated {
    /// The rule's code.
    pub code: String,
    /// `no access logs were seen`.
    pub reason: String,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// What it comes to.
    pub verdict: Verdict,
    /// The answer in one sentence.
    pub headline: String,
    /// The clock of the analysis.
    pub now: Timestamp,
    /// The span of time that was looked at.
    pub window: Option<Window>,
    /// What was asked about.
    pub target: Option<Target>,
    /// When the trouble began, given or found.
    pub onset: Option<Timestamp>,
    /// Candidates, the likeliest first.
    pub root_causes: Vec<RootCause>,
    /// What the rules said: the gravest first.
    pub findings: Vec<Finding>,
    /// What deviates in series, logs and spans since the onset, the strongest first.
    pub anomalies: Vec<Anomaly>,
    /// Whose requests fail, and how many: the most failures first.
    pub impacts: Vec<Impact>,
    /// How figures grow with load, the best fitting first.
    pub growths: Vec<Growth>,
    /// What requests wait for, as traces show it.
    pub requests: Vec<Requests>,
    /// Changes in the window that touch what was asked about, oldest first.
    pub changes: Vec<Change>,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineEntry>,
    /// What it is not.
    pub ruled_out: Vec<RuledOut>,
    /// Who calls whom.
    pub graph: Arc<Graph>,
    /// What could not be seen.
    pub gaps: Vec<Gap>,
    /// How many rules were evaluated.
    pub evaluated: usize,
    /// The rules that were not.
    pub not_evaluated: Vec<NotEvaluated>,
    /// The request that was asked about.
    pub request: Option<Asked>,
    /// The request that was to be followed.
    pub followed: Option<Followed>,
}

/// A request that was asked about, and what becomes of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request.
    pub ask: Ask,
    /// The twin's answer.
    pub answer: Answer,
}

impl Asked {
    /// The request in one line, and from where.
    pub fn title(&self) -> String {
        describe(&self.ask.from, &self.ask.request)
    }
}

impl Diagnosis {
    /// The gravest severity of any finding.
    pub fn highest_severity(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// The finding behind a root cause.
    pub fn finding_of(&self, cause: &RootCause) -> Option<&Finding> {
        self.findings.get(cause.finding)
    }
}

/// Which rules run, and which findings are kept.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Codes or names of the rules to run; empty runs all.
    pub rules: Vec<String>,
    /// Codes or names of rules to leave out.
    pub skip: Vec<String>,
    /// The tool whose codes findings carry exactly as that tool reports them. `None`: each rule names the codes that mean the same.
    pub strict_aliases: Option<StrictAliases>,
    /// A request to ask the twin about, and to try fixes on.
    pub request: Option<Ask>,
    /// The id of a request to follow; empty follows none.
    pub request_id: String,
}

/// A tool that can be followed to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrictAliases {
    /// `istioctl analyze`.
    Istioctl,
}

impl Options {
    fn wants(&self, rule: &dyn Rule) -> bool {
        let named = |list: &[String]| {
            list.iter().any(|name| name.eq_ignore_ascii_case(rule.meta().code) || name == rule.meta().name)
        };
        (self.rules.is_empty() || named(&self.rules)) && !named(&self.skip)
    }
}

/// What the rules said of a snapshot.
#[derive(Debug)]
pub(super) struct Evaluated {
    /// In order: the gravest first.
    pub findings: Vec<Finding>,
    /// How many rules were evaluated.
    pub evaluated: usize,
    /// The rules that were not.
    pub not_evaluated: Vec<NotEvaluated>,
    /// Rules that failed on this input.
    pub gaps: Vec<Gap>,
}

/// Runs every rule over a snapshot.
pub(super) fn evaluate(snapshot: &Snapshot, options: &Options) -> Evaluated {
    let mut findings = Findings::default();
    let mut gaps = vec![];
    let (mut evaluated, mut not_evaluated) = (0, vec![]);
    for rule in RULES.iter().filter(|rule| options.wants(**rule)) {
        let meta = rule.meta();
        if let Some(missing) = meta.needs.iter().find(|signal| !signal.is_in(snapshot)) {
            not_evaluated.push(NotEvaluated {
                code: meta.code.to_owned(),
                reason: format!("no {} were seen", missing.as_str()),
            });
            continue;
        }
        // A rule that fails costs its own findings and not the run.
        match catch_unwind(AssertUnwindSafe(|| {
            let mut own = Findings::default();
            rule.check(snapshot, &mut own);
            own.finish()
        })) {
            Ok(own) => {
                evaluated += 1;
                own.into_iter().for_each(|finding| findings.push(finding));
            }
            Err(_) => {
                not_evaluated.push(NotEvaluated {
                    code: meta.code.to_owned(),
                    reason: "the rule failed on this input".to_owned(),
                });
                gaps.push(
                    Gap::new(
                        "Rules",
                        format!("rule {} failed on this input", meta.code),
                        crate::model::gap::GapReason::Failed,
                    )
                    .hint("please report it with the bundle that shows it"),
                );
            }
        }
    }
    Evaluated { findings: findings.finish(), evaluated, not_evaluated, gaps }
}

/// Runs every rule over a snapshot, ranks what they found, and tries the fixes of the likeliest causes. Pure: the same snapshot
/// gives the same diagnosis.
pub fn analyze(snapshot: &Snapshot, options: &Options) -> Diagnosis {
    let mut gaps = snapshot.gaps.clone();
    gaps.extend(super::telemetry::gaps(snapshot));
    gaps.extend(super::traces::gaps(snapshot));
    gaps.extend(snapshot.derived::<VectorClocks>().gaps());
    gaps.extend(snapshot.derived::<Clocks>().gaps());
    let Evaluated { mut findings, evaluated, not_evaluated, gaps: failed } = evaluate(snapshot, options);
    gaps.extend(failed);
    let said = trial::is_ground(snapshot).then(|| findings.clone());
    if options.strict_aliases == Some(StrictAliases::Istioctl) {
        istioctl::attach(istioctl::messages(snapshot), &mut findings);
        let mut sorted = Findings::default();
        findings.into_iter().for_each(|finding| sorted.push(finding));
        findings = sorted.finish();
    }
    let subjects: Vec<&ObjectRef> = findings.iter().map(|finding| &finding.subject).collect();
    let locations = snapshot.locate(&subjects);
    for (finding, location) in findings.iter_mut().zip(locations) {
        finding.location = location;
    }
    let mut diagnosis = hypothesis::conclude(snapshot, findings, gaps, evaluated, not_evaluated);
    diagnosis.request = options.request.as_ref().map(|ask| answered(snapshot, ask));
    trial::try_fixes(snapshot, said, &mut diagnosis, options);
    if !options.request_id.is_empty() {
        diagnosis.followed = Some(follow(snapshot, &options.request_id));
    }
    diagnosis
}

/// Asks the twin. Where the model fails on this input, that costs the answer and not the run.
fn answered(snapshot: &Snapshot, ask: &Ask) -> Asked {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let mut answer = Twin::new(snapshot).answer(ask);
        beyond::tell(snapshot, &mut answer);
        answer
    }));
    let answer = answer.unwrap_or_else(|_| {
        Answer::not_modelled(
            &ask.name,
            "the model failed on this input; please report it with the bundle that shows it",
        )
    });
    Asked { ask: ask.clone(), answer }
}
