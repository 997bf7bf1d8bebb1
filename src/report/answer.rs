//! The answer as sections in their fixed order: the cause, what was seen, why it follows, what changed, what to do, how to
//! take it back, how to prevent it, what it is not, what was not seen.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::diagnosis::{Diagnosis, RootCause, Test, Verdict};
use crate::analyze::finding::{Finding, Role, Severity};
use crate::analyze::narrative::tell_change;
use crate::analyze::remedy::Remedy;
use crate::analyze::rule::Family;
use crate::analyze::take_back::look;
use crate::analyze::traffic::text::several;
use crate::analyze::trial::Trial;
use crate::model::gap::Gap;

/// One section: its heading and its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `Seen`, `Because`, `Changed`, `Weighed`, `Fix`, `Rollback`, `Prevent`, `Not this`, `Not seen`.
    pub heading: &'static str,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// One line of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Our words.
    Text(String),
    /// A command, ready to paste.
    Command(String),
    /// Words of the cluster: to be shown as such.
    Quote(String),
}

/// One root cause, told.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Its place, from 1.
    pub rank: usize,
    /// The cause in one sentence.
    pub title: String,
    /// The rule's code.
    pub code: &'static str,
    /// How likely, 0 to 1.
    pub probability: f64,
    /// How bad.
    pub severity: Severity,
    /// The sections.
    pub sections: Vec<Section>,
}

/// A diagnosis, told.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What it comes to.
    pub verdict: Verdict,
    /// The answer in one sentence.
    pub headline: String,
    /// The gravest severity.
    pub severity: Option<Severity>,
    /// The first cause in full, further likely ones after it.
    pub causes: Vec<Told>,
    /// Findings at Warning or above that no cause told explains: severity, title, code.
    pub others: Vec<(Severity, String, &'static str)>,
    /// `Not this` and `Not seen`.
    pub closing: Vec<Section>,
}

/// Further causes are told from this probability on.
const ALSO_LIKELY: f64 = 0.2;
/// Causes told at most.
const MAX_CAUSES: usize = 3;
/// Fixes told at most.
const MAX_FIXES: usize = 3;
/// Lines of one section at most.
const MAX_LINES: usize = 6;

/// Puts a diagnosis into words, in order.
pub fn answer(diagnosis: &Diagnosis) -> Answer {
    let likely = |cause: &&RootCause| cause.rank == 1 || cause.probability >= ALSO_LIKELY;
    let told: Vec<&RootCause> = diagnosis.root_causes.iter().filter(likely).take(MAX_CAUSES).collect();
    let explained = |finding: &Finding| told.iter().any(|cause| cause.explains.contains(&finding.id));
    // Where an object says what is wrong, guesses at who deviates say nothing more.
    let told_by_objects = diagnosis.verdict == Verdict::RootCauseFound
        && told
            .first()
            .and_then(|cause| diagnosis.finding_of(cause))
            .is_some_and(|f| f.meta.family != Family::Signals);
    let others = diagnosis
        .findings
        .iter()
        .filter(|f| f.severity >= Severity::Warning && wanted(f) && !explained(f))
        .filter(|f| !(told_by_objects && f.meta.family == Family::Signals))
        .map(|f| (f.severity, format!("{}{}", f.title, place(f)), f.meta.code));
    let mut closing: Vec<Section> = diagnosis.followed.iter().map(super::follow::section).collect();
    closing.extend(super::felt::sections(diagnosis));
    closing.extend(super::flow::time(diagnosis));
    let not_this: Vec<String> =
        diagnosis.ruled_out.iter().map(|out| format!("{} ({})", out.what, out.why)).collect();
    if !not_this.is_empty() {
        closing.push(Section { heading: "Not this", lines: vec![Line::Text(not_this.join(" · "))] });
    }
    let not_seen: Vec<Line> =
        diagnosis.gaps.iter().take(MAX_LINES).map(|gap| Line::Text(tell_gap(gap))).collect();
    if !not_seen.is_empty() {
        closing.push(Section { heading: "Not seen", lines: not_seen });
    }
    Answer {
        verdict: diagnosis.verdict,
        headline: diagnosis.headline.clone(),
        severity: diagnosis.highest_severity().filter(|_| diagnosis.verdict != Verdict::Healthy),
        causes: told.iter().filter_map(|cause| tell(diagnosis, cause)).collect(),
        others: others.take(MAX_LINES).collect(),
        closing,
    }
}

/// Whether a finding is told beside the causes: what is only good to know is not, unless it is another tool's word that was asked
/// for.
fn wanted(finding: &Finding) -> bool {
    finding.role != Role::Context || finding.aliases == [finding.meta.code]
}

/// Where a finding's subject stands in a file, to follow its title.
fn place(finding: &Finding) -> String {
    finding.location.as_ref().map_or_else(String::new, |location| format!(" ({location})"))
}

fn tell_gap(gap: &Gap) -> String {
    let hint = if gap.hint.is_empty() { String::new() } else { format!(" ({})", gap.hint) };
    format!("{}: {}, {}{hint}", gap.source.to_lowercase(), gap.what, reason(gap))
}

fn reason(gap: &Gap) -> &'static str {
    use crate::model::gap::GapReason;
    match gap.reason {
        GapReason::Forbidden => "not allowed",
        GapReason::Absent => "not there",
        GapReason::TimedOut => "timed out",
        GapReason::Truncated => "cut by the budget",
        GapReason::NotConfigured => "no source is configured",
        GapReason::Failed => "failed",
    }
}

fn tell(diagnosis: &Diagnosis, cause: &RootCause) -> Option<Told> {
    let finding = diagnosis.finding_of(cause)?;
    let mut sections = vec![];
    let mut add = |heading: &'static str, lines: Vec<Line>| {
        if !lines.is_empty() {
            sections.push(Section { heading, lines });
        }
    };
    let at = finding.location.iter().map(|location| Line::Text(format!("{location}: {}", finding.subject)));
    add("At", at.collect());
    add("Seen", seen(diagnosis, cause, finding));
    add("Because", vec![Line::Text(finding.message.clone())]);
    if let Some(change) = &cause.change {
        let told =
            format!("{} {}{}", clock(change.time), tell_change(change), before(change.time, cause.onset));
        let mut lines = vec![Line::Text(told)];
        lines.extend(match cause.take_back {
            Some(place) if place < MAX_FIXES => vec![Line::Text(format!("Fix {} takes it back.", place + 1))],
            _ => vec![
                Line::Text(
                    "What stood there before is not known here; who wrote which field when:".to_owned(),
                ),
                Line::Command(look(&change.subject)),
            ],
        });
        add("Changed", lines);
    }
    if finding.meta.family == Family::Signals {
        add("Weighed", cause.tests.iter().take(MAX_LINES).map(weighed).collect());
    }
    let mut fixes = vec![];
    let mut rollbacks = vec![];
    for (index, remedy) in finding.remedies.iter().take(MAX_FIXES).enumerate() {
        // Why nothing can be said of a second choice is the same again.
        let tried = tried(remedy, &finding.id).filter(|told| index == 0 || told.starts_with("tried"));
        let tried = tried.map(|told| format!("; {told}")).unwrap_or_default();
        fixes.push(Line::Text(format!("{}. {}{tried}", index + 1, remedy.summary)));
        fixes.extend(remedy.commands.iter().cloned().map(Line::Command));
        if !remedy.rollback.is_empty() {
            rollbacks.push(Line::Text(format!("of {}:", index + 1)));
            rollbacks.extend(remedy.rollback.iter().cloned().map(Line::Command));
        }
        if !remedy.no_rollback.is_empty() {
            rollbacks.push(Line::Text(format!(
                "of {}: nothing takes it back: {}",
                index + 1,
                remedy.no_rollback
            )));
        }
    }
    add("Fix", fixes);
    add("Rollback", rollbacks);
    let prevent = finding.prevention.iter().map(|p| {
        let snippet = if p.snippet.is_empty() { String::new() } else { format!(": {}", p.snippet) };
        Line::Text(format!("{}{snippet}", p.summary))
    });
    add("Prevent", prevent.take(MAX_LINES).collect());
    Some(Told {
        rank: cause.rank,
        title: finding.title.clone(),
        code: finding.meta.code,
        probability: cause.probability,
        severity: finding.severity,
        sections,
    })
}

/// What came of trying a fix: `tried: 503 UH → 200, nothing else differs`. Nothing where nobody tried.
fn tried(remedy: &Remedy, own: &str) -> Option<String> {
    let verified = match remedy.trial.as_ref()? {
        Trial::Verified(verified) => verified,
        Trial::NotTried(why) => return Some(format!("not tried: {why}")),
    };
    let mut seen: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for request in &verified.requests {
        let labels = (request.before.label.clone(), request.after.label.clone());
        seen.entry(labels).or_default().push(&request.request);
    }
    let mut parts: Vec<String> = seen
        .iter()
        .take(3)
        .map(|((before, after), requests)| {
            let whom = match requests.as_slice() {
                [one] if before == after => format!(" ({one})"),
                [_] => String::new(),
                many => format!(" ({} requests)", many.len()),
            };
            if before == after {
                format!("still {after}{whom}")
            } else {
                format!("{before} → {after}{whom}")
            }
        })
        .collect();
    let others = verified.resolves.iter().filter(|id| *id != own).count();
    let own = verified.resolves.len() > others;
    match (own, others) {
        (true, 0) if parts.is_empty() => parts.push("this finding is gone".to_owned()),
        (true, 0) | (false, 0) => {}
        (true, n) => parts.push(format!("{} gone with it", several(n as u64, "other finding"))),
        (false, n) => parts.push(format!("{} gone", several(n as u64, "other finding"))),
    }
    parts.extend(
        verified
            .introduces
            .iter()
            .take(2)
            .map(|new| format!("brings {} {}: {}", new.severity.as_str(), new.code, new.title)),
    );
    let broken = verified.requests.iter().any(|request| request.after.worse_than(&request.before));
    if verified.introduces.is_empty() && !broken {
        parts.push("nothing else differs".to_owned());
    }
    let assumes = verified.assumes.join(" and ");
    let assumes = if assumes.is_empty() { assumes } else { format!(" (if {assumes})") };
    Some(format!("tried: {}{assumes}", parts.join(", ")))
}

/// A test with what it adds, in tenths: where no object says what is wrong, the weights are the reason.
fn weighed(test: &Test) -> Line {
    Line::Text(format!("{:+.1}  {}", test.log_odds, test.test))
}

/// Its own evidence first, then what it explains.
fn seen(diagnosis: &Diagnosis, cause: &RootCause, finding: &Finding) -> Vec<Line> {
    let mut lines = vec![];
    for evidence in finding.evidence.iter().take(4) {
        let at = evidence.time.map(|time| format!(" at {}", clock(time))).unwrap_or_default();
        lines.push(Line::Text(format!("{}: {}{at}", evidence.reference, evidence.value)));
        if !evidence.excerpt.is_empty() {
            lines.push(Line::Quote(evidence.excerpt.lines().next().unwrap_or_default().to_owned()));
        }
    }
    let explained =
        diagnosis.findings.iter().filter(|f| f.id != finding.id && cause.explains.contains(&f.id));
    lines.extend(explained.take(3).map(|f| Line::Text(format!("{} ({})", f.title, f.meta.code))));
    lines
}

/// A time of day with its zone.
pub fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%SZ").to_string()
}

fn before(change: Timestamp, onset: Option<Timestamp>) -> String {
    match onset.map(|onset| onset.as_second() - change.as_second()) {
        Some(seconds) if (0..=7200).contains(&seconds) => format!(" ({seconds} s before the first error)"),
        _ => String::new(),
    }
}

/// A probability as a share of a hundred: `96 %`.
pub fn percent(probability: f64) -> String {
    format!("{:.0} %", probability * 100.0)
}
