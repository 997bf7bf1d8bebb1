//! Fixes are tried before anybody runs them: the remedies of the likeliest causes are applied to the snapshot, the rules run
//! again over what configuration and objects then say, and the twin answers the requests at stake before and after.
//!
//! Logs, series and events are history, which no fix changes: what rests on them alone is neither said to be resolved nor to
//! stay. Where objects do not decide, the trial says why and claims nothing.

mod asks;
mod compare;
mod near;
mod outcome;
mod settle;
mod there_and_back;

use crate::model::json::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::diagnosis::{Diagnosis, Options, evaluate};
use super::finding::{Finding, Role, Severity};
use super::remedy::{Remedy, Whole};
use super::twin::Twin;
use super::twin::answer::{Answer, Outcome};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use asks::Question;
pub use outcome::{Fate, Introduced, Trial, Tried, Verified};
use settle::Settled;

/// Findings whose remedies are tried: as many as a report tells causes.
const MAX_FINDINGS: usize = 3;
/// Remedies of one finding that are tried, the first ones.
const MAX_REMEDIES: usize = 3;
/// Objects over which rules run again, over all trials: about 10 µs each. At least one remedy of a cause is tried whatever the
/// size.
const MAX_OBJECTS: usize = 20_000;
/// Up to so many objects a trial reads all of them. On a larger cluster it reads the namespaces that the fix can matter to.
const MAX_WHOLE: usize = 2_000;

/// What the fixes are measured against: the snapshot, or the part of it that they can matter to, without its history, and what the
/// rules say of it.
struct Ground<'s> {
    snapshot: Cow<'s, Snapshot>,
    findings: Vec<Finding>,
    options: &'s Options,
    /// What is left out.
    beyond: Option<String>,
}

impl<'s> Ground<'s> {
    fn new(snapshot: Snapshot, beyond: Option<String>, options: &'s Options) -> Self {
        let findings = evaluate(&snapshot, options).findings;
        Ground { snapshot: Cow::Owned(snapshot), findings, options, beyond }
    }

    /// All of it.
    fn whole(snapshot: &'s Snapshot, said: Option<Vec<Finding>>, options: &'s Options) -> Self {
        match said {
            Some(findings) => Ground { snapshot: Cow::Borrowed(snapshot), findings, options, beyond: None },
            None => Ground::new(snapshot.altered(&[], &[]), None, options),
        }
    }

    /// The part that the fixes of a finding can matter to.
    fn near(snapshot: &Snapshot, near: &BTreeSet<String>, options: &'s Options) -> Self {
        // Objects stand in order of kind and namespace.
        let mut all: BTreeSet<&str> = BTreeSet::new();
        let mut last = "";
        for namespace in
            snapshot.objects.iter().map(|object| object.namespace()).filter(|own| !own.is_empty())
        {
            if namespace != last {
                all.insert(namespace);
                last = namespace;
            }
        }
        let others = all.iter().filter(|namespace| !near.contains(**namespace)).count();
        let beyond = (others > 0).then(|| {
            format!("it changes nothing in the {others} namespaces that name neither it nor its own")
        });
        Ground::new(snapshot.within(near), beyond, options)
    }
}

/// Tries the first remedies of the likeliest causes, and of the gravest further findings where there are fewer causes than
/// are tried; notes with each what came of it, and puts those that bring an Error of their own behind the others. What the rules
/// `said` of a snapshot that is the trials' ground as it is need not be found again.
pub fn try_fixes(
    snapshot: &Snapshot,
    said: Option<Vec<Finding>>,
    diagnosis: &mut Diagnosis,
    options: &Options,
) {
    let chosen = chosen(diagnosis);
    if chosen.is_empty() {
        return;
    }
    let small = snapshot.objects.len() <= MAX_WHOLE;
    let whole = small.then(|| Ground::whole(snapshot, said, options));
    // Its proxies' tables serve the questions of all findings.
    let whole = whole.as_ref().map(|ground| (ground, Twin::new(&ground.snapshot)));
    let mut left = MAX_OBJECTS;
    let questions: Vec<Vec<Question>> = chosen.iter().map(|at| questions(snapshot, diagnosis, *at)).collect();
    let near = if small { vec![] } else { near(snapshot, diagnosis, &chosen, &questions) };
    for (place, (index, questions)) in chosen.into_iter().zip(questions).enumerate() {
        let cause = cause_of(diagnosis, index);
        let remedies = tried(diagnosis, index);
        let own;
        let (ground, answers) = match (&whole, near.get(place)) {
            (Some((whole, twin)), _) => (*whole, answers(twin, &questions)),
            (None, Some(near)) => {
                own = Ground::near(snapshot, near, options);
                (&own, answers(&Twin::new(&own.snapshot), &questions))
            }
            (None, None) => continue,
        };
        let objects = ground.snapshot.objects.len();
        let mut trials = vec![];
        for remedy in remedies {
            trials.push(match (is_data(remedy), left) {
                (false, _) => untried(remedy),
                (true, 0) => Some(Trial::NotTried(
                    "the snapshot is too large for more than the first trials".to_owned(),
                )),
                (true, _) => {
                    left = left.saturating_sub(objects);
                    Some(attempt(ground, diagnosis, remedy, (&questions, &answers)))
                }
            });
        }
        let Some(finding) = diagnosis.findings.get_mut(index) else { continue };
        for (remedy, trial) in finding.remedies.iter_mut().zip(trials) {
            remedy.trial = trial;
        }
        let cause = cause.and_then(|at| diagnosis.root_causes.get_mut(at));
        let moved = reorder(&mut finding.remedies, cause.as_ref().and_then(|cause| cause.take_back));
        if let Some(cause) = cause {
            cause.take_back = moved;
        }
    }
}

/// Whether trials are measured against the snapshot as it is: all of it, and it has no past that would be left out.
pub fn is_ground(snapshot: &Snapshot) -> bool {
    snapshot.objects.len() <= MAX_WHOLE && !snapshot.has_past()
}

/// The cause that rests on a finding, by its place.
fn cause_of(diagnosis: &Diagnosis, finding: usize) -> Option<usize> {
    diagnosis.root_causes.iter().position(|cause| cause.finding == finding)
}

/// What a finding explains, where it is a cause.
fn explained(diagnosis: &Diagnosis, finding: usize) -> &[String] {
    let cause = cause_of(diagnosis, finding).and_then(|at| diagnosis.root_causes.get(at));
    cause.map(|cause| cause.explains.as_slice()).unwrap_or_default()
}

/// The remedies of a finding that are tried.
fn tried(diagnosis: &Diagnosis, finding: usize) -> &[Remedy] {
    let first = if cause_of(diagnosis, finding).is_some() { MAX_REMEDIES } else { 1 };
    let all = diagnosis.findings.get(finding).map(|finding| finding.remedies.as_slice()).unwrap_or_default();
    all.get(..first).unwrap_or(all)
}

/// The requests at stake with a finding.
fn questions(snapshot: &Snapshot, diagnosis: &Diagnosis, at: usize) -> Vec<Question> {
    let finding = diagnosis.findings.get(at);
    let ask = |finding| asks::questions(snapshot, diagnosis, finding, explained(diagnosis, at));
    finding.map(ask).unwrap_or_default()
}

/// The namespaces that the trials of each finding read.
fn near(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    chosen: &[usize],
    questions: &[Vec<Question>],
) -> Vec<BTreeSet<String>> {
    let stakes = chosen.iter().zip(questions).map(|(at, questions)| {
        let explains = explained(diagnosis, *at);
        let healed = diagnosis.findings.iter().filter(|f| explains.contains(&f.id));
        let findings = diagnosis.findings.get(*at).into_iter().chain(healed).collect();
        near::Stake { findings, remedies: tried(diagnosis, *at), questions }
    });
    near::namespaces(snapshot, &stakes.collect::<Vec<_>>())
}

/// The findings whose remedies are tried, by their places: those of the likeliest causes first.
fn chosen(diagnosis: &Diagnosis) -> Vec<usize> {
    let causes = diagnosis.root_causes.iter().map(|cause| cause.finding);
    let others = diagnosis.findings.iter().enumerate();
    let others = others.filter(|(_, f)| f.role == Role::Cause && f.severity >= Severity::Warning);
    let mut chosen: Vec<usize> = vec![];
    for at in causes.take(MAX_FINDINGS).chain(others.map(|(at, _)| at)) {
        let finding = diagnosis.findings.get(at);
        let cause = diagnosis.root_causes.iter().any(|cause| cause.finding == at);
        let first = if cause { MAX_REMEDIES } else { 1 };
        let data = finding.is_some_and(|f| f.remedies.iter().take(first).any(is_data));
        if data && chosen.len() < MAX_FINDINGS && !chosen.contains(&at) {
            chosen.push(at);
        }
    }
    chosen
}

fn is_data(remedy: &Remedy) -> bool {
    remedy.patch.is_some() || remedy.whole.is_some()
}

/// Why a remedy that is no data was not tried; nothing where it changes nothing.
fn untried(remedy: &Remedy) -> Option<Trial> {
    remedy.changes().then(|| {
        Trial::NotTried("its commands change what no object that was read shows beforehand".to_owned())
    })
}

/// Asks the twin all of them.
fn answers(twin: &Twin<'_>, questions: &[Question]) -> Vec<Option<Answer>> {
    questions.iter().map(|question| answered(twin, question)).collect()
}

/// Asks the twin; none where the model fails on this input, which costs this answer alone.
fn answered(twin: &Twin<'_>, question: &Question) -> Option<Answer> {
    catch_unwind(AssertUnwindSafe(|| twin.answer(&question.ask))).ok()
}

/// Applies a remedy, and compares.
fn attempt(
    ground: &Ground<'_>,
    diagnosis: &Diagnosis,
    remedy: &Remedy,
    (questions, before): (&[Question], &[Option<Answer>]),
) -> Trial {
    let mut settled = match change(&ground.snapshot, remedy) {
        Ok(settled) => settled,
        Err(why) => return Trial::NotTried(why),
    };
    let mut after = ground.snapshot.altered(&settled.put, &settled.gone);
    let endpoints = settle::endpoints(&ground.snapshot, &after);
    if !(endpoints.put.is_empty() && endpoints.gone.is_empty()) {
        after = after.altered(&endpoints.put, &endpoints.gone);
    }
    let findings = evaluate(&after, ground.options).findings;
    let compared = compare::compare(&ground.findings, &findings);
    let known = |id: &String| diagnosis.findings.iter().any(|finding| finding.id == *id);
    let twin = Twin::new(&after);
    let (mut requests, mut alike, mut unknown) = (vec![], 0, None);
    for (question, before) in questions.iter().zip(before) {
        let (Some(before), Some(after)) = (before, answered(&twin, question)) else { continue };
        if let Some(answer) = [before, &after].into_iter().find(|a| a.outcome == Outcome::NotModelled) {
            unknown.get_or_insert_with(|| answer.detail.clone());
            continue;
        }
        let (before, after) = (Fate::of(before), Fate::of(&after));
        let same = before.same_as(&after);
        if same && !(question.felt && before.fails) {
            alike += 1;
            continue;
        }
        requests.push(Tried { request: question.ask.name.clone(), before, after });
    }
    let resolves: Vec<String> = compared.resolves.into_iter().filter(known).collect();
    let differs = requests.iter().any(|tried| !tried.before.same_as(&tried.after));
    if resolves.is_empty() && compared.introduces.is_empty() && !differs {
        return Trial::NotTried(match unknown {
            Some(why) => format!("the twin cannot say: {why}"),
            None => "neither a rule nor the twin sees a difference in configuration alone".to_owned(),
        });
    }
    settled.assumes.extend(ground.beyond.clone());
    Trial::Verified(Box::new(Verified {
        resolves,
        introduces: compared.introduces,
        requests,
        alike,
        restores: restores(&ground.snapshot, remedy),
        assumes: settled.assumes,
    }))
}

/// A remedy as a change of objects, with what follows from it in a cluster.
fn change(before: &Snapshot, remedy: &Remedy) -> Result<Settled, String> {
    let missing = |reference: &ObjectRef| format!("{reference} is not among what was read");
    if let Some(patch) = &remedy.patch {
        let object = before.find(&patch.target).ok_or_else(|| missing(&patch.target))?;
        let body = object.body.patched(&patch.operations).ok_or("the patch does not fit the object")?;
        return settle::put(before, renewed(object, body));
    }
    match &remedy.whole {
        Some(Whole::Delete(reference)) => settle::remove(before, reference),
        Some(Whole::Scale(reference, replicas)) => {
            let object = before.find(reference).ok_or_else(|| missing(reference))?;
            let mut body = Value::clone(&object.body);
            let spec = body.get_mut("spec").and_then(Value::as_object_mut).ok_or("it has no spec")?;
            spec.insert("replicas".to_owned(), (*replicas).into());
            settle::put(before, renewed(object, body))
        }
        Some(Whole::Create(manifests)) => {
            let objects: Vec<Object> = manifests.iter().cloned().filter_map(Object::read).collect();
            match objects.iter().find(|object| before.find(&object.reference).is_some()) {
                Some(there) => Err(format!("{} is there already", there.reference)),
                None => Ok(Settled { put: objects, ..Settled::default() }),
            }
        }
        None => Err("it is no change of objects".to_owned()),
    }
}

fn renewed(object: &Object, body: Value) -> Object {
    match Object::read(body) {
        Some(read) => Object { edits: object.edits.clone(), ..read },
        None => object.clone(),
    }
}

/// Whether the way back leads to the objects as they were.
fn restores(before: &Snapshot, remedy: &Remedy) -> bool {
    let patch = remedy.patch.as_ref().zip(remedy.inverse.as_ref());
    if let Some((patch, inverse)) = patch {
        let object = before.find(&patch.target);
        let after = object.and_then(|object| object.body.patched(&patch.operations));
        let back = after.and_then(|after| after.patched(&inverse.operations));
        return back.is_some_and(|back| object.is_some_and(|object| *object.body == back));
    }
    remedy.whole.as_ref().is_some_and(|whole| there_and_back::leads_back(before, whole, &remedy.back))
}

/// Puts remedies that bring an Error, or break a request, behind those that do not; the new place of the one at `take_back`.
/// Where every remedy that was tried does so and nothing else is offered, that is the first thing said.
fn reorder(remedies: &mut Vec<Remedy>, take_back: Option<usize>) -> Option<usize> {
    let harmful = |remedy: &Remedy| matches!(&remedy.trial, Some(Trial::Verified(v)) if v.harms());
    if !remedies.first().is_some_and(harmful) && !remedies.iter().any(harmful) {
        return take_back;
    }
    let mut numbered: Vec<(usize, Remedy)> = std::mem::take(remedies).into_iter().enumerate().collect();
    numbered.sort_by_key(|(_, remedy)| harmful(remedy));
    if numbered.first().is_some_and(|(_, remedy)| harmful(remedy)) {
        let first = Remedy::manual(
            "None of these changes stands alone: each brings an Error of its own, named with it. Make what that one needs first",
        );
        numbered.insert(0, (usize::MAX, first));
    }
    let moved = numbered.iter().position(|(at, _)| Some(*at) == take_back);
    remedies.extend(numbered.into_iter().map(|(_, remedy)| remedy));
    moved
}

impl Verified {
    /// Whether it brings an Error, or lets a request fare worse than it did.
    pub fn harms(&self) -> bool {
        self.introduces.iter().any(|new| new.grave)
            || self.requests.iter().any(|tried| tried.after.worse_than(&tried.before))
    }
}

#[cfg(test)]
mod tests;
