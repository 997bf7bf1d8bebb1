//! From findings to a ranking of hypotheses: log-odds with a reason for each term.
//!
//! Every finding that could be a cause is a hypothesis. Its log-odds are the sum of a prior (how much its rule saw) and of
//! tests: does it explain what is felt, did it change just before, are its own dependencies well. Then hypotheses explain
//! away: what the best one accounts for no longer speaks for the others. The weights are natural logarithms of likelihood
//! ratios, rounded to quarters; they were set so that no single test outweighs a deciding observation, and are checked
//! against recorded incidents by `tests/it/scenarios.rs`.

use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::causal::asked::concerns;
use super::causal::explain::Explainer;
use super::causal::odds::{EXPLAINED, changed, coverage, dependencies, felt_since, prior, test};
use super::causal::suspects::{Suspect, Suspects};
use super::causal::timing::{self, CLOCK_ERROR};
use super::diagnosis::{Diagnosis, NotEvaluated, RootCause, Test, TestVerdict, Verdict};
use super::finding::{Confidence, Finding, Role, Severity};
use super::impact::impacts;
use super::narrative;
use super::remedy::Remedy;
use super::rule::Family;
use super::series::load::growths;
use super::take_back;
use super::traces::path;
use crate::model::change::Change;
use crate::model::gap::Gap;
use crate::model::snapshot::Snapshot;

/// The prior of "something that no rule knows", against which every hypothesis stands.
const SOMETHING_ELSE: f64 = 0.0;
/// A hypothesis below this probability is not worth a reader's time.
const WORTH_NAMING: f64 = 0.05;
/// A suspect among others is: where no object says what is wrong, the order of services is the answer.
const WORTH_RANKING: f64 = 0.02;
/// From this probability on the first hypothesis is called the root cause.
const ROOT_CAUSE: f64 = 0.5;
/// Closeness from which a symptom is a cause's own: the same Service or workload, failing as the cause predicts.
const OWN: f64 = 0.95;
/// A hypothesis of which others account for more than this share has nothing of its own to explain.
const ACCOUNTED: f64 = 0.75;
/// What only shows that something fails, and names nothing to change, is no more than this likely "the" answer.
const MERE_SYMPTOM: f64 = 0.45;
/// The same where nothing else was found that could be the answer: it is likelier than not that what is wrong stands here, and it is not called the root
/// cause all the same.
const LONE_SYMPTOM: f64 = 0.6;
/// What it says for a symptom that no cause that was found would bring it about: something is wrong, and this is all that shows it.
/// Not enough to be called the root cause by itself.
const UNEXPLAINED: f64 = 0.75;
/// What it says for such a symptom besides that it is the only hypothesis: a cause elsewhere shows there too, or in others that it hurts, more often than
/// not.
const ALONE: f64 = 1.0;
/// No probability is certainty: rules can be wrong together.
const MOST_CERTAIN: f64 = 0.98;

/// One hypothesis in the making.
#[derive(Default)]
struct Candidate {
    finding: usize,
    /// Symptoms that it explains, with how closely.
    explains: Vec<(usize, f64)>,
    tests: Vec<Test>,
    change: Option<Change>,
    /// When what it explains began.
    onset: Option<Timestamp>,
    log_odds: f64,
}

impl Candidate {
    /// What must be left of its symptoms for it to stand on its own: those that are its own, where it has any, else all that
    /// it explains. Two faults at once share what they do to everybody above them, and each has symptoms of its own.
    fn residue(&self) -> Vec<(usize, f64)> {
        let others = self.explains.iter().copied().filter(|(s, c)| *s != self.finding && *c >= EXPLAINED);
        let (own, farther): (Vec<_>, Vec<_>) = others.partition(|(_, c)| *c >= OWN);
        if own.is_empty() { farther } else { own }
    }

    /// How closely it explains a symptom.
    fn closeness(&self, symptom: usize) -> f64 {
        self.explains.iter().filter(|(s, _)| *s == symptom).map(|(_, c)| *c).fold(0.0, f64::max)
    }
}

/// The share of these symptoms that something accounts for, 0 to 1; none of nothing.
fn accounted_share(residue: &[(usize, f64)], accounted: impl Fn(usize) -> f64) -> f64 {
    let before: f64 = residue.iter().map(|(_, c)| c).sum();
    let left: f64 = residue.iter().map(|(s, c)| (c - accounted(*s)).max(0.0)).sum();
    if before > 0.0 { 1.0 - left / before } else { 0.0 }
}

/// Ranks the causes among the findings and puts the diagnosis together.
pub fn conclude(
    snapshot: &Snapshot,
    findings: Vec<Finding>,
    gaps: Vec<Gap>,
    evaluated: usize,
    not_evaluated: Vec<NotEvaluated>,
) -> Diagnosis {
    let onset = timing::onset(snapshot, &findings);
    let anomalies = snapshot.derived::<Suspects>().anomalies.clone();
    let mut candidates = candidates(snapshot, &findings, onset);
    stand_alone(&mut candidates, &findings);
    explain_away(&mut candidates, &findings);
    let causes = ranked(&candidates, &findings);
    let root_causes: Vec<RootCause> = causes
        .iter()
        .enumerate()
        .filter_map(|(rank, (index, probability))| {
            let candidate = candidates.get(*index)?;
            let finding = findings.get(candidate.finding)?;
            let explained = candidate.explains.iter().filter(|(_, closeness)| *closeness >= EXPLAINED);
            let mut explains: Vec<String> = vec![finding.id.clone()];
            explains.extend(
                explained
                    .filter_map(|(at, _)| findings.get(*at))
                    .map(|f| f.id.clone())
                    .filter(|id| *id != finding.id),
            );
            Some(RootCause {
                rank: rank + 1,
                probability: (probability * 100.0).round() / 100.0,
                finding: candidate.finding,
                subject: finding.subject.clone(),
                service: finding.service.clone(),
                chain: narrative::chain(
                    &findings,
                    candidate.finding,
                    &candidate.explains,
                    candidate.change.as_ref(),
                ),
                explains,
                tests: candidate.tests.clone(),
                change: candidate.change.clone(),
                take_back: None,
                onset: candidate.onset,
            })
        })
        .collect();
    let (mut root_causes, mut findings) = (root_causes, findings);
    for cause in &mut root_causes {
        cause.take_back = offer_take_back(snapshot, cause, &mut findings);
    }
    let verdict = verdict(&findings, &root_causes);
    Diagnosis {
        verdict,
        headline: narrative::headline(verdict, &findings, &root_causes),
        now: snapshot.now,
        window: snapshot.window,
        target: snapshot.target.clone(),
        onset,
        timeline: narrative::timeline(snapshot, &findings, &anomalies, onset),
        anomalies,
        impacts: impacts(snapshot, onset),
        growths: growths(snapshot),
        requests: path::requests(snapshot, onset),
        ruled_out: narrative::ruled_out(snapshot, &findings),
        changes: narrative::relevant_changes(snapshot, onset),
        graph: Arc::clone(&snapshot.graph),
        root_causes,
        findings,
        gaps,
        evaluated,
        not_evaluated,
        request: None,
        followed: None,
    }
}

/// Sees to it that the remedies of a cause hold one that takes its change back, and says where it stands: behind the best,
/// which knows what is wrong.
fn offer_take_back(snapshot: &Snapshot, cause: &RootCause, findings: &mut [Finding]) -> Option<usize> {
    let remedy = take_back::take_back(snapshot, cause.change.as_ref()?)?;
    let remedies = &mut findings.get_mut(cause.finding)?.remedies;
    if let Some(known) = take_back::place(remedies, &remedy) {
        return Some(known);
    }
    let decided = remedies.first().is_some_and(Remedy::changes);
    let at = usize::from(decided);
    remedies.insert(at, remedy);
    Some(at)
}

/// Whether a finding is something that users or pods feel.
fn is_symptom(finding: &Finding) -> bool {
    finding.role == Role::Symptom && finding.severity >= Severity::Warning
}

/// A finding that could be the answer: a cause that hurts, or a symptom that nothing else may explain.
fn is_candidate(finding: &Finding) -> bool {
    match finding.role {
        Role::Cause => finding.severity >= Severity::Warning || finding.confidence == Confidence::Observed,
        Role::Symptom => finding.severity >= Severity::Error,
        Role::Context => false,
    }
}

/// Whether a finding only shows that something fails. A symptom that comes with something to change can be the answer: a
/// crash loop with the rollout to take back.
fn is_mere(finding: &Finding) -> bool {
    finding.role == Role::Symptom && !finding.remedies.iter().any(Remedy::changes)
}

fn candidates(snapshot: &Snapshot, findings: &[Finding], onset: Option<Timestamp>) -> Vec<Candidate> {
    let explainer = Explainer::new(&snapshot.graph);
    let asked = |finding: &Finding| concerns(snapshot, &explainer, finding);
    let suspects = snapshot.derived::<Suspects>();
    let symptoms: Vec<usize> = (0..findings.len())
        .filter(|at| findings.get(*at).is_some_and(|f| is_symptom(f) && asked(f)))
        .collect();
    let mut out = vec![];
    // Suspects by signals are weighed against what was asked about where they are found.
    let wanted = |finding: &Finding| is_candidate(finding) && (by_signals(finding) || asked(finding));
    for (index, finding) in findings.iter().enumerate().filter(|(_, f)| wanted(f)) {
        let explains: Vec<(usize, f64)> = symptoms
            .iter()
            .filter_map(|at| Some((*at, explainer.explains(finding, findings.get(*at)?))))
            .filter(|(_, closeness)| *closeness > 0.0)
            .collect();
        let mut candidate = Candidate { finding: index, explains, ..Candidate::default() };
        if let Some(suspect) =
            suspects.all.iter().find(|s| by_signals(finding) && finding.service.as_ref() == Some(&s.service))
        {
            candidate.tests = weighed(suspect, suspects.all.len());
            candidate.onset = suspect.onset;
            candidate.change = changed(snapshot, finding, suspect.onset.as_slice()).1;
            candidate.log_odds = candidate.tests.iter().map(|test| test.log_odds).sum();
            out.push(candidate);
            continue;
        }
        candidate.tests.push(prior(finding));
        candidate.tests.push(coverage(finding, &candidate.explains, &symptoms, findings));
        let onsets = felt_since(finding, &candidate.explains, findings, onset);
        let (test, change) = changed(snapshot, finding, &onsets);
        let after = |at: &&Timestamp| {
            change.as_ref().is_none_or(|c| at.as_second() >= c.time.as_second() - CLOCK_ERROR)
        };
        candidate.onset = onsets.iter().find(after).copied();
        candidate.tests.push(test);
        candidate.change = change;
        candidate.tests.extend(dependencies(finding, &explainer, &symptoms, findings));
        candidate.log_odds = candidate.tests.iter().map(|test| test.log_odds).sum();
        out.push(candidate);
    }
    out
}

/// Whether a finding names a suspect by what deviates at it. Such hypotheses are weighed against each other already; what an object
/// says outright takes nothing from them and loses nothing to them but its place.
fn by_signals(finding: &Finding) -> bool {
    finding.meta.family == Family::Signals
}

/// The tests of a suspect, and one that weighs it against all others, so that the sum is that of its probability.
fn weighed(suspect: &Suspect, suspects: usize) -> Vec<Test> {
    let mut tests = suspect.tests.clone();
    let sum: f64 = tests.iter().map(|test| test.log_odds).sum();
    let probability = suspect.probability.clamp(0.001, MOST_CERTAIN);
    let against = (probability / (1.0 - probability)).ln() - sum;
    let text =
        format!("weighed against {} other services, and against none of them", suspects.saturating_sub(1));
    tests.push(test(TestVerdict::Refuted, (against * 100.0).round() / 100.0, text));
    tests
}

/// Symptoms that no cause among the hypotheses explains.
fn stand_alone(candidates: &mut [Candidate], findings: &[Finding]) {
    let role = |candidate: &Candidate| findings.get(candidate.finding).map(|finding| finding.role);
    let unexplained = |symptom: &Candidate| {
        let mut causes = candidates.iter().filter(|other| role(other) == Some(Role::Cause));
        role(symptom) == Some(Role::Symptom)
            && causes.all(|cause| cause.closeness(symptom.finding) < EXPLAINED)
    };
    let standing: Vec<usize> =
        candidates.iter().enumerate().filter(|(_, one)| unexplained(one)).map(|(at, _)| at).collect();
    for at in standing {
        let text = "no cause that was found would bring it about";
        push(candidates, at, test(TestVerdict::Supported, UNEXPLAINED, text));
        if candidates.len() == 1 {
            push(
                candidates,
                at,
                test(TestVerdict::Supported, ALONE, "nothing else that was found could be the answer"),
            );
        }
    }
}

/// What a better hypothesis accounts for no longer speaks for a worse one.
fn explain_away(candidates: &mut [Candidate], findings: &[Finding]) {
    let mut ranked: Vec<usize> = (0..candidates.len()).collect();
    ranked.sort_by(|a, b| {
        let odds = |at: &usize| candidates.get(*at).map_or(f64::MIN, |c| c.log_odds);
        odds(b).total_cmp(&odds(a)).then_with(|| order(findings, *a, *b, candidates))
    });
    // Symptoms by the closeness with which something better explains them already.
    let mut taken: Vec<(usize, f64, usize)> = vec![];
    for at in ranked {
        let Some(candidate) = candidates.get(at) else { continue };
        let Some(finding) = findings.get(candidate.finding) else { continue };
        let accounted = |symptom: usize| {
            taken.iter().filter(|(s, _, _)| *s == symptom).map(|(_, c, _)| *c).fold(0.0, f64::max)
        };
        let own = accounted(candidate.finding);
        if finding.role == Role::Symptom && own >= EXPLAINED {
            let by = taken
                .iter()
                .filter(|(s, _, _)| *s == candidate.finding)
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .map(|(_, _, by)| *by);
            let by = by.and_then(|by| findings.get(by)).map(|f| f.subject.to_string()).unwrap_or_default();
            let log_odds = -2.0 - 2.0 * own;
            push(candidates, at, test(TestVerdict::Refuted, log_odds, format!("it follows from {by}")));
            continue;
        }
        let share = accounted_share(&candidate.residue(), accounted);
        if share > ACCOUNTED {
            push(
                candidates,
                at,
                test(TestVerdict::Refuted, -2.0 * share, "what it would explain has a better explanation"),
            );
            continue;
        }
        if let Some(candidate) = candidates.get(at)
            && candidate.log_odds > SOMETHING_ELSE
            && !by_signals(finding)
        {
            taken.extend(candidate.explains.iter().map(|(s, c)| (*s, *c, candidate.finding)));
        }
    }
}

fn push(candidates: &mut [Candidate], at: usize, test: Test) {
    if let Some(candidate) = candidates.get_mut(at) {
        candidate.log_odds += test.log_odds;
        candidate.tests.push(test);
    }
}

/// The hypotheses worth naming, the best supported first, each with its probability: against "something else" and against
/// those that account for the same. A lower rank never has the higher probability.
fn ranked(candidates: &[Candidate], findings: &[Finding]) -> Vec<(usize, f64)> {
    let mut out = vec![];
    for (at, candidate) in candidates.iter().enumerate() {
        let Some(finding) = findings.get(candidate.finding) else { continue };
        let explains_others =
            candidate.explains.iter().any(|(s, c)| *c >= EXPLAINED && *s != candidate.finding);
        // A mere warning that explains nothing is advice, and no answer to "why is it failing".
        if !explains_others && finding.severity < Severity::Error && !by_signals(finding) {
            continue;
        }
        let mut residue = candidate.residue();
        if finding.role == Role::Symptom {
            residue.push((candidate.finding, 1.0));
        }
        let rivals = candidates.iter().enumerate().filter(|(other, rival)| {
            // The same object and field, said of another caller or pod, is no other explanation.
            let same = findings.get(rival.finding).is_some_and(|other| other.subject == finding.subject);
            let weighed = findings.get(rival.finding).is_some_and(by_signals);
            *other != at
                && !same
                && !weighed
                && accounted_share(&residue, |symptom| rival.closeness(symptom)) > ACCOUNTED
        });
        let others: f64 = rivals.map(|(_, rival)| rival.log_odds.exp()).sum();
        let own = candidate.log_odds.exp();
        let most = match (is_mere(finding), candidates.len()) {
            (true, 1) => LONE_SYMPTOM,
            (true, _) => MERE_SYMPTOM,
            (false, _) => MOST_CERTAIN,
        };
        let probability = (own / (own + others + SOMETHING_ELSE.exp())).min(most);
        if probability >= if by_signals(finding) { WORTH_RANKING } else { WORTH_NAMING } {
            out.push((at, probability));
        }
    }
    let odds = |at: usize| candidates.get(at).map_or(f64::MIN, |c| c.log_odds);
    // Something to change that is more likely true than not comes before what only shows that something fails.
    let bounded = |at: usize| {
        let mere = candidates.get(at).and_then(|c| findings.get(c.finding)).is_some_and(is_mere);
        if mere { odds(at).min((MERE_SYMPTOM / (1.0 - MERE_SYMPTOM)).ln()) } else { odds(at) }
    };
    // So does an object that says what is wrong before a service that only deviates: much else deviates in a cluster.
    let told = |(at, probability): &(usize, f64)| {
        let finding = candidates.get(*at).and_then(|c| findings.get(c.finding));
        *probability >= ROOT_CAUSE && finding.is_some_and(|finding| !by_signals(finding))
    };
    out.sort_by(|a, b| {
        let by_odds = bounded(b.0).total_cmp(&bounded(a.0)).then_with(|| odds(b.0).total_cmp(&odds(a.0)));
        told(b).cmp(&told(a)).then(by_odds).then_with(|| order(findings, a.0, b.0, candidates))
    });
    let mut named = BTreeSet::new();
    out.retain(|(at, _)| {
        let finding = candidates.get(*at).and_then(|c| findings.get(c.finding));
        finding.is_some_and(|finding| named.insert((&finding.subject, finding.role)))
    });
    let mut most = MOST_CERTAIN;
    for (_, probability) in &mut out {
        *probability = probability.min(most);
        most = *probability;
    }
    out
}

/// A fixed order where the odds are equal: the gravest first, then by code and subject.
fn order(findings: &[Finding], a: usize, b: usize, candidates: &[Candidate]) -> std::cmp::Ordering {
    let finding = |at: usize| candidates.get(at).and_then(|c| findings.get(c.finding));
    let key =
        |f: &Finding| (std::cmp::Reverse(f.severity), f.role, f.meta.code, f.subject.clone(), f.id.clone());
    finding(a).map(key).cmp(&finding(b).map(key))
}

fn verdict(findings: &[Finding], root_causes: &[RootCause]) -> Verdict {
    let gravest = findings.iter().filter(|f| f.role != Role::Context).map(|f| f.severity).max();
    let felt = findings.iter().any(|f| f.role == Role::Symptom && f.severity >= Severity::Error)
        || findings.iter().any(|f| {
            f.role == Role::Cause && f.confidence == Confidence::Observed && f.severity >= Severity::Error
        });
    // Where it fails is no answer to why, however sure it is.
    let named = |cause: &RootCause| findings.get(cause.finding).is_some_and(|finding| !is_mere(finding));
    let found = root_causes.first().is_some_and(|cause| cause.probability >= ROOT_CAUSE && named(cause));
    match (felt, found, gravest) {
        (_, true, _) => Verdict::RootCauseFound,
        (true, false, _) => Verdict::Inconclusive,
        (false, false, Some(severity)) if severity >= Severity::Warning => Verdict::IssuesFound,
        _ => Verdict::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::finding::Effect;
    use crate::analyze::registry::RULES;
    use crate::model::json::{Value, json};
    use crate::model::network::ServiceName;
    use crate::model::object::ObjectRef;
    use crate::model::snapshot::{Builder, Target};

    /// front → middle → back, each a Deployment behind a Service of its name; `edits` are (Deployment, time) pairs.
    fn snapshot(target: Option<&str>, edits: &[(&str, &str)]) -> Snapshot {
        let mut builder = Builder::new();
        for (name, calls) in [("front", "middle"), ("middle", "back"), ("back", "")] {
            let edited: Vec<Value> = edits
                .iter()
                .filter(|(which, _)| *which == name)
                .map(|(_, time)| json!({"manager": "kubectl-edit", "operation": "Update", "time": time, "fieldsV1": {"f:spec": {}}}))
                .collect();
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "n"}, "spec": {"selector": {"app": name}}}));
            builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "namespace": "n", "creationTimestamp": "2026-11-21T08:00:00Z", "managedFields": edited},
                "spec": {"template": {"metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "c", "env": [{"name": "UPSTREAM", "value": format!("http://{calls}")}]}]}}}}));
        }
        builder.target(
            target.map(|service| Target { namespace: "n".to_owned(), services: vec![service.to_owned()] }),
        );
        builder.finish()
    }

    fn finding(role: Role, severity: Severity, confidence: Confidence, name: &str) -> Finding {
        let service = ServiceName::new("n", name);
        Finding::new(RULES[0].meta(), ObjectRef::new("Deployment", "n", name), &[&format!("{role:?}")])
            .title(format!("{role:?} {name}"))
            .role(role, confidence)
            .severity(severity)
            .service(Some(service.clone()))
            .effect(Effect::requests(&service, &[]))
            .onset("2026-11-21T10:00:00Z".parse().ok())
    }

    fn conclude_all(snapshot: &Snapshot, findings: Vec<Finding>) -> Diagnosis {
        conclude(snapshot, findings, vec![], 1, vec![])
    }

    #[test]
    fn a_lone_symptom_says_where_and_no_more() {
        let snapshot = snapshot(None, &[]);
        let felt = |name: &str| finding(Role::Symptom, Severity::Error, Confidence::Observed, name);
        let lone = conclude_all(&snapshot, vec![felt("back")]);
        assert_eq!((lone.verdict, lone.root_causes[0].probability), (Verdict::Inconclusive, LONE_SYMPTOM));
        let two = conclude_all(&snapshot, vec![felt("back"), felt("front")]);
        assert_eq!(two.verdict, Verdict::Inconclusive);
        assert!(
            two.root_causes.iter().all(|cause| cause.probability <= MERE_SYMPTOM),
            "{:#?}",
            two.root_causes
        );
    }

    #[test]
    fn a_cause_that_was_seen_to_hurt_needs_no_others_that_feel_it() {
        let snapshot = snapshot(None, &[]);
        let cause = |confidence| finding(Role::Cause, Severity::Error, confidence, "back");
        let first = |findings| conclude_all(&snapshot, findings).root_causes[0].probability;
        assert!(first(vec![cause(Confidence::Observed)]) > 0.9);
        // One that only configuration tells of hurts nobody yet.
        assert!(first(vec![cause(Confidence::Configured)]) < 0.6);
    }

    #[test]
    fn the_deep_cause_comes_first_and_its_symptoms_are_explained_away() {
        let snapshot = snapshot(None, &[]);
        let felt = |name: &str| finding(Role::Symptom, Severity::Error, Confidence::Observed, name);
        let cause = finding(Role::Cause, Severity::Error, Confidence::Observed, "back");
        let diagnosis = conclude_all(&snapshot, vec![felt("front"), felt("middle"), felt("back"), cause]);
        assert_eq!(diagnosis.verdict, Verdict::RootCauseFound);
        assert_eq!(diagnosis.root_causes[0].subject.name, "back");
        assert_eq!(diagnosis.root_causes[0].explains.len(), 4);
        assert!(
            diagnosis.root_causes.iter().skip(1).all(|cause| cause.probability < 0.2),
            "{:#?}",
            diagnosis.root_causes
        );
    }

    #[test]
    fn two_faults_at_once_are_both_named_where_each_has_symptoms_of_its_own() {
        let snapshot = snapshot(None, &[]);
        let failing = |role: Role, name: &str, flag: &str| {
            let mut finding = finding(role, Severity::Error, Confidence::Observed, name);
            finding.effects = vec![Effect::requests(&ServiceName::new("n", name), &[flag])];
            finding
        };
        let felt = vec![
            failing(Role::Symptom, "back", "5xx"),
            failing(Role::Symptom, "middle", "rbac"),
            failing(Role::Symptom, "front", "5xx"),
            failing(Role::Cause, "back", "5xx"),
        ];
        let mut denied = failing(Role::Cause, "middle", "rbac");
        denied.subject.kind = "AuthorizationPolicy".to_owned();
        let both = conclude_all(&snapshot, felt.iter().cloned().chain([denied.clone()]).collect());
        let named: Vec<_> = both.root_causes.iter().take(2).map(|c| c.subject.kind.as_str()).collect();
        assert_eq!(named, ["Deployment", "AuthorizationPolicy"]);
        assert!(both.root_causes[1].probability > 0.5, "{:#?}", both.root_causes);
        // Without a denial that was felt, the policy has nothing of its own to explain.
        let one = felt.into_iter().filter(|f| f.effects != denied.effects).chain([denied.clone()]).collect();
        let one = conclude_all(&snapshot, one);
        assert!(one.root_causes.iter().skip(1).all(|c| c.probability < 0.2), "{:#?}", one.root_causes);
    }

    #[test]
    fn of_two_equal_causes_the_one_changed_just_before_wins_and_one_changed_after_loses() {
        let felt = || finding(Role::Symptom, Severity::Error, Confidence::Observed, "front");
        let cause = |name: &str| finding(Role::Cause, Severity::Error, Confidence::Configured, name);
        let before = snapshot(None, &[("back", "2026-11-21T09:59:50Z"), ("middle", "2026-11-21T10:02:00Z")]);
        let diagnosis = conclude_all(&before, vec![felt(), cause("middle"), cause("back")]);
        assert_eq!(diagnosis.root_causes[0].subject.name, "back");
        assert!(diagnosis.root_causes[0].change.is_some());
        let refuted = diagnosis.root_causes.iter().find(|cause| cause.subject.name == "middle");
        assert!(
            refuted.is_none_or(|cause| cause.tests.iter().any(|test| test.verdict == TestVerdict::Refuted))
        );
    }

    #[test]
    fn a_symptom_that_nothing_explains_is_inconclusive() {
        let diagnosis = conclude_all(
            &snapshot(None, &[]),
            vec![finding(Role::Symptom, Severity::Error, Confidence::Observed, "middle")],
        );
        assert_eq!(diagnosis.verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_bystander_costs_a_cause_that_was_seen_less_than_a_failing_dependency_does() {
        let snapshot = snapshot(None, &[]);
        let cause = || finding(Role::Cause, Severity::Error, Confidence::Observed, "middle");
        let bystander = finding(Role::Symptom, Severity::Warning, Confidence::Observed, "elsewhere");
        let seen = conclude_all(&snapshot, vec![cause(), bystander.clone()]);
        assert_eq!(seen.verdict, Verdict::RootCauseFound);
        let dependency = finding(Role::Symptom, Severity::Error, Confidence::Observed, "back");
        let deeper = conclude_all(&snapshot, vec![cause(), dependency]);
        assert_eq!(deeper.verdict, Verdict::Inconclusive);
        let told = finding(Role::Cause, Severity::Error, Confidence::Configured, "middle");
        let told = conclude_all(&snapshot, vec![told, bystander]);
        assert_eq!(told.verdict, Verdict::IssuesFound);
    }

    #[test]
    fn advice_is_no_root_cause() {
        let diagnosis = conclude_all(
            &snapshot(None, &[]),
            vec![finding(Role::Cause, Severity::Warning, Confidence::Configured, "middle")],
        );
        assert_eq!((diagnosis.verdict, diagnosis.root_causes.len()), (Verdict::IssuesFound, 0));
    }

    #[test]
    fn what_the_target_does_not_depend_on_is_not_its_cause() {
        let snapshot = snapshot(Some("back"), &[]);
        let cause = finding(Role::Cause, Severity::Error, Confidence::Observed, "front");
        assert!(conclude_all(&snapshot, vec![cause]).root_causes.is_empty());
    }
}
