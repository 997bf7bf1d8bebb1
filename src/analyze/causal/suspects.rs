//! Which service is at fault itself: what deviates at each, what of that its dependencies account for, and who was first.
//!
//! A suspect's log-odds are the sum of tests with a written likelihood ratio each. What says the same thing twice counts once:
//! of each aspect (processor, latency, errors, …) the strongest anomaly speaks, and a second aspect of the same service adds
//! half, a third a quarter, because one fault shows in several. Failures and slowness travel from callee to caller, so what a
//! dependency shows as well is explained away; resources are a service's own; traffic comes from the callers.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::aspect::{Aspect, aspect_of};
use super::recovery::Recovery;
use super::topology::Topology;
use super::unseen;
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal};
use crate::analyze::diagnosis::{Test, TestVerdict};
use crate::analyze::onset::Onset;
use crate::analyze::series::meaning::Side;
use crate::analyze::series::shift::own_share;
use crate::model::change::{Change, ChangeKind};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;

/// What each further hop leaves of a dependency's power to explain: it is one cause among more.
const HOP: f64 = 0.9;
/// The share of an anomaly that a dependency with the same anomaly explains at most: it can have a part of its own.
const EXPLAINED_AT_MOST: f64 = 0.9;
/// A dependency this surely at fault (e³ : 1) explains whatever its callers feel, however much that is.
const SURE: f64 = 3.0;
/// What a further aspect of the same service adds, relative to the one before it: they are not independent.
const FURTHER: f64 = 0.5;
/// Log-odds of "none of these": what a service needs to show before it is more likely at fault than something unseen.
const NONE_OF_THESE: f64 = 1.5;
/// The same where somebody says that there is trouble, and since when: then something is at fault, and most of it is seen.
const NONE_AS_SAID: f64 = 0.5;
/// The same where nobody says so, and where requests are measured and none became slower or fails more: resources come and go.
const NONE_UNFELT: f64 = 4.5;
/// Services among which [`NONE_OF_THESE`] and [`NONE_UNFELT`] hold: of more services one deviates by chance the more often, in
/// proportion to their number. Two of five systems made up at random have fewer than ten.
const USUAL_CROWD: f64 = 8.0;
/// What it says against a service that nothing but resources deviate there: they come and go with jobs, caches and neighbours, and who
/// has a fault answers late or wrongly as a rule. Without it such answers were said with 0.83 on average and right in 0.59 of 140
/// incidents made up at random, with the onset given.
const ONLY_RESOURCES: f64 = -1.0;
/// What the odds are multiplied by, so that answers are right as often as they say: many weak tests that agree say more than
/// their sum, since each ratio was bounded low. One number, fitted on made-up incidents (temperature scaling; Guo et al. 2017), where
/// everything from 1.8 to 2.6 does about as well.
const CALIBRATION: f64 = 2.0;
/// What an anomaly that follows from a service's fault says for that fault, relative to one of its own: others could bring it about.
const COVERED: f64 = 0.25;
/// Suspects kept.
const MAX_SUSPECTS: usize = 12;
/// A change this long before the onset still speaks, in seconds; at once it speaks with [`CHANGED`].
const CHANGE_REACH: f64 = 3600.0;
/// A change just before the onset, in the right place (natural logarithm, e^1.25 ≈ 3.5): about seven of ten incidents follow one,
/// and any one service is changed in two of ten windows of that length.
const CHANGED: f64 = 1.25;
/// A service that began to deviate later than the first by more than can be told apart.
const LATE: f64 = -0.75;
/// Seconds within which nobody is later than anybody: a failure shows with the next request that meets it.
const NEXT_REQUEST: f64 = 30.0;
/// An anomaly tells when its service began to deviate from this likelihood ratio on (e² ≈ 7): weaker ones are often chance.
const CONVINCING: f64 = 2.0;
/// Somebody suffers from this likelihood ratio on (natural logarithm).
const SUFFERS: f64 = 1.0;
/// What the asked-about service cannot reach is seldom what it suffers from.
const OUT_OF_REACH: f64 = -1.0;
/// A rise of requests by this factor is a surge.
const SURGE: f64 = 1.5;
/// What a surge leaves of the anomalies at services that it passes through.
const UNDER_SURGE: f64 = 0.3;

/// What sort of fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    /// A resource of its own ran short.
    Resource,
    /// It became slow by itself.
    Slow,
    /// It fails by itself.
    Failing,
    /// More requests come than it can serve.
    Surge,
    /// It does not do any more what it did.
    Silent,
}

/// One service that may be at fault.
#[derive(Debug, Clone)]
pub struct Suspect {
    /// The service.
    pub service: ServiceName,
    /// How likely it is the one, against all others and against none of them.
    pub probability: f64,
    /// What sort of fault it is, by its strongest anomaly.
    pub nature: Nature,
    /// The tests, the weightiest first.
    pub tests: Vec<Test>,
    /// Its anomalies, the strongest first: indices into [`Suspects::anomalies`].
    pub anomalies: Vec<usize>,
    /// The first of them.
    pub onset: Option<Timestamp>,
    /// Nothing is measured there: its anomalies are those of who calls it.
    pub unseen: bool,
    /// The sum of the tests.
    pub(super) score: f64,
}

/// All anomalies of a snapshot, and the services at fault, the likeliest first.
#[derive(Debug, Clone, Default)]
pub struct Suspects {
    /// What deviates, the strongest first.
    pub anomalies: Vec<Anomaly>,
    /// Who is suspected.
    pub all: Vec<Suspect>,
    /// When it began, as far as anything shows it.
    pub onset: Option<Onset>,
}

/// One contribution to a suspect's odds.
pub(super) struct Part {
    pub(super) aspect: Aspect,
    pub(super) anomaly: usize,
    /// Before and after explaining away.
    raw: f64,
    pub(super) left: f64,
    by: Option<ServiceName>,
}

type Aspects = BTreeMap<Aspect, usize>;

/// The suspects by what deviates since an onset, the likeliest first, and how much speaks for anything having begun then: the natural
/// logarithm of what all of them together weigh, and of what is felt.
pub(super) fn rank(
    snapshot: &Snapshot,
    anomalies: &[Anomaly],
    onset: Option<Timestamp>,
) -> (Vec<Suspect>, f64) {
    let mut topology = Topology::clone(&snapshot.derived::<Topology>());
    // Whoever says that somebody did not answer calls that one.
    for anomaly in anomalies {
        if let (Some(caller), Some(callee)) = (caller(anomaly), anomaly.about()) {
            topology.add(caller, callee);
        }
    }
    let mut shown: BTreeMap<&ServiceName, Aspects> = BTreeMap::new();
    for (at, anomaly) in anomalies.iter().enumerate() {
        let Some(service) = anomaly.about() else { continue };
        // They come sorted: the first of an aspect is its strongest.
        shown.entry(service).or_default().entry(aspect_of(anomaly)).or_insert(at);
    }
    let surge = Surge::find(anomalies, &shown, &topology);
    // Whoever deviated long before the onset began something else.
    let first = shown.values().flat_map(|own| began(own, anomalies)).min_by(f64_order);
    let first = first.map(|first| onset.map_or(first, |onset| first.max(to_unix(onset))));
    let accused = accusations(anomalies);
    let parts: Vec<(&ServiceName, Vec<Part>)> = shown
        .iter()
        .map(|(service, own)| (*service, explained((service, own), anomalies, &shown, &accused, &topology)))
        .collect();
    let accounts = accounts(&parts);
    let felt = felt(snapshot, anomalies, &topology);
    let recovery = Recovery::of(anomalies, &felt.keys().copied().collect());
    let unseen = unseen::suspects(&parts, &accounts, anomalies, &topology);
    let mut suspects: Vec<Suspect> = shown
        .iter()
        .zip(parts)
        .map(|((service, own), (_, parts))| {
            let mut suspect = weigh(service, parts, anomalies);
            suspect.tests.extend(accounts_for(accounts.get(*service)));
            surge.apply(&mut suspect, anomalies);
            suspect.tests.extend(crowd(service, &suspect, anomalies, &topology, &unseen));
            suspect.tests.extend(lateness(own, anomalies, first));
            suspect.tests.extend(changed(snapshot, service, suspect.onset.or(onset)));
            suspect.tests.extend(reach(snapshot, service, &topology));
            suspect.tests.extend(only_resources(&suspect, anomalies));
            let own_anomalies = suspect.anomalies.iter().filter_map(|at| anomalies.get(*at));
            suspect.tests.extend(recovery.test(service, own_anomalies));
            suspect
        })
        .collect();
    suspects.extend(unseen.into_iter().map(|mut suspect| {
        surge.apply(&mut suspect, anomalies);
        suspect.tests.extend(changed(snapshot, &suspect.service, suspect.onset.or(onset)));
        suspect.tests.extend(reach(snapshot, &suspect.service, &topology));
        suspect
    }));
    for suspect in &mut suspects {
        suspect.score = suspect.tests.iter().map(|test| test.log_odds).sum();
    }
    suspects.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.service.cmp(&b.service)));
    // What a suspect feels itself is in its score already.
    let felt_by_others = |suspect: &Suspect| {
        let others = felt.iter().filter(|(service, _)| ***service != suspect.service);
        others.map(|(_, log_lr)| *log_lr).fold(0.0, f64::max)
    };
    let all_feel = felt.values().copied().fold(0.0, f64::max);
    let told = suspects.iter().map(|suspect| (suspect.score + felt_by_others(suspect)).exp()).sum::<f64>();
    let evidence = ((NONE_OF_THESE + all_feel).exp() + told).ln();
    let odds = |score: f64| (CALIBRATION * score).exp();
    let total = odds(none_of_these(snapshot, anomalies, &topology))
        + suspects.iter().map(|suspect| odds(suspect.score)).sum::<f64>();
    for suspect in &mut suspects {
        suspect.probability = odds(suspect.score) / total;
    }
    suspects.truncate(MAX_SUSPECTS);
    (suspects, evidence)
}

/// How likely it is that nothing of what deviates is a fault, as log-odds.
fn none_of_these(snapshot: &Snapshot, anomalies: &[Anomaly], topology: &Topology) -> f64 {
    let suffers = |anomaly: &Anomaly| anomaly.log_lr >= SUFFERS && !of_resources(anomaly);
    if snapshot.onset.is_some() {
        return NONE_AS_SAID;
    }
    let unfelt = topology.watches_requests() && !anomalies.iter().any(suffers);
    let base = if unfelt { NONE_UNFELT } else { NONE_OF_THESE };
    // Odds are multiplied by the calibration, and the number of services is to count as it is.
    base + (topology.services().max(1) as f64 / USUAL_CROWD).ln() / CALIBRATION
}

fn of_resources(anomaly: &Anomaly) -> bool {
    matches!(
        anomaly.kind,
        Kind::Cpu
            | Kind::Memory
            | Kind::Disk
            | Kind::Network
            | Kind::Saturation
            | Kind::Traffic
            | Kind::Unknown
    )
}

/// Whether a service does its work as ever, as far as anything shows: that it waits for others is theirs.
fn only_resources(suspect: &Suspect, anomalies: &[Anomaly]) -> Option<Test> {
    let mut own = suspect.anomalies.iter().filter_map(|at| anomalies.get(*at));
    own.all(|one| of_resources(one) || one.kind == Kind::Waiting).then(|| Test {
        test: "only its resources deviate, and these come and go".to_owned(),
        verdict: TestVerdict::Refuted,
        log_odds: ONLY_RESOURCES,
        evidence: vec![],
    })
}

fn f64_order(a: &f64, b: &f64) -> std::cmp::Ordering {
    a.total_cmp(b)
}

/// How surely those who asked feel something, or else those whom nobody calls: a fault that nobody feels is not the one asked about.
fn felt<'a>(
    snapshot: &Snapshot,
    anomalies: &'a [Anomaly],
    topology: &Topology,
) -> BTreeMap<&'a ServiceName, f64> {
    let asked = snapshot.target.as_ref().filter(|target| !target.services.is_empty());
    let feels = |service: &ServiceName| match asked {
        Some(target) => service.namespace == target.namespace && target.services.contains(&service.name),
        None => topology.callees(service).next().is_some() && topology.callers(service).next().is_none(),
    };
    let of_requests = |anomaly: &&Anomaly| {
        matches!(anomaly.kind, Kind::Latency | Kind::Errors | Kind::ErrorOrigin | Kind::Availability)
    };
    let mut out: BTreeMap<&ServiceName, f64> = BTreeMap::new();
    for anomaly in anomalies.iter().filter(of_requests) {
        if let Some(service) = anomaly.place.service().filter(|service| feels(service)) {
            let known = out.entry(service).or_default();
            *known = known.max(anomaly.log_lr);
        }
    }
    out
}

fn ratio(anomalies: &[Anomaly], at: usize) -> f64 {
    anomalies.get(at).map_or(0.0, |anomaly| anomaly.log_lr)
}

/// What is left of each aspect of a service when its dependencies have explained what they can.
fn explained(
    shown_here: (&ServiceName, &Aspects),
    anomalies: &[Anomaly],
    shown: &BTreeMap<&ServiceName, Aspects>,
    accused: &BTreeSet<(&ServiceName, &ServiceName)>,
    topology: &Topology,
) -> Vec<Part> {
    let (service, own) = shown_here;
    let mut dependencies = topology.dependencies(service);
    for behind in topology.behind(service) {
        dependencies.entry(behind.clone()).or_insert(1);
    }
    let mut parts: Vec<Part> = own
        .iter()
        .map(|(aspect, at)| {
            let raw = ratio(anomalies, *at);
            let needed = raw.clamp(f64::MIN_POSITIVE, SURE);
            let mut best: Option<(f64, &ServiceName)> = None;
            for (dependency, hops) in &dependencies {
                let Some(theirs) = shown.get(dependency) else { continue };
                let shows = aspect.explained_by().iter().filter_map(|aspect| theirs.get(aspect));
                let most = shows.map(|at| ratio(anomalies, *at)).fold(0.0, f64::max);
                let far = HOP.powi(i32::try_from(*hops).unwrap_or(i32::MAX));
                // Who says itself that its calls there fail needs no further explanation for failing.
                let named = *aspect == Aspect::Errors && accused.contains(&(service, dependency));
                let most = if named { most.max(needed) } else { most };
                let power = (most * far).max(added(anomalies, *at, theirs) * far * needed);
                if power > best.map_or(0.0, |(known, _)| known) {
                    best = Some((power, dependency));
                }
            }
            let share = best.map_or(0.0, |(power, _)| (power / needed).min(1.0));
            let left = raw * (1.0 - EXPLAINED_AT_MOST * share);
            Part { aspect: *aspect, anomaly: *at, raw, left, by: best.map(|(_, by)| by.clone()) }
        })
        .collect();
    parts.sort_by(|a, b| b.left.total_cmp(&a.left).then_with(|| a.aspect.cmp(&b.aspect)));
    parts
}

/// Who says convincingly in its own log that its calls of whom fail.
fn accusations(anomalies: &[Anomaly]) -> BTreeSet<(&ServiceName, &ServiceName)> {
    let of_calls = |anomaly: &&Anomaly| {
        anomaly.signal == Signal::Log && anomaly.kind == Kind::Errors && anomaly.log_lr >= SUFFERS
    };
    anomalies
        .iter()
        .filter(of_calls)
        .filter_map(|anomaly| Some((caller(anomaly)?, anomaly.about()?)))
        .collect()
}

/// Who saw an anomaly: of a call the one that calls.
fn caller(anomaly: &Anomaly) -> Option<&ServiceName> {
    match &anomaly.place {
        Place::Edge { caller, .. } => Some(caller),
        place => place.service(),
    }
}

/// The share of a rise in time that a dependency's rise amounts to: times add up on the way to the caller. Nothing where the
/// two are not the same metric, and so perhaps not the same unit.
fn added(anomalies: &[Anomaly], at: usize, theirs: &Aspects) -> f64 {
    let Some(own) = anomalies.get(at).filter(|own| own.kind == Kind::Latency && own.after > own.before)
    else {
        return 0.0;
    };
    let metric = |anomaly: &Anomaly| anomaly.what.split(' ').next().map(str::to_owned);
    let same = |anomaly: &&Anomaly| {
        anomaly.kind == Kind::Latency && anomaly.signal == own.signal && metric(anomaly) == metric(own)
    };
    let below = theirs.get(&Aspect::Latency).and_then(|at| anomalies.get(*at)).filter(same);
    below.map_or(0.0, |below| ((below.after - below.before) / (own.after - own.before)).clamp(0.0, 1.0))
}

/// How much of what other services show follows from each, by the strongest at each of the others.
fn accounts(parts: &[(&ServiceName, Vec<Part>)]) -> BTreeMap<ServiceName, Vec<f64>> {
    let mut out: BTreeMap<ServiceName, Vec<f64>> = BTreeMap::new();
    for (_, own) in parts {
        let mut most: BTreeMap<&ServiceName, f64> = BTreeMap::new();
        for part in own {
            if let Some(by) = &part.by {
                let known = most.entry(by).or_default();
                *known = known.max(part.raw - part.left);
            }
        }
        for (by, much) in most {
            out.entry(by.clone()).or_default().push(much);
        }
    }
    for all in out.values_mut() {
        all.sort_by(|a, b| b.total_cmp(a));
    }
    out
}

/// A fault here brings about what its callers show; were it elsewhere, that would need an explanation of its own.
pub(super) fn accounts_for(explained: Option<&Vec<f64>>) -> Option<Test> {
    let explained = explained?;
    let mut factor = COVERED;
    let mut sum = 0.0;
    for much in explained {
        sum += factor * much;
        factor *= FURTHER;
    }
    (quarter(sum) > 0.0).then(|| Test {
        test: match explained.len() {
            1 => "what deviates at a service that depends on it follows from this".to_owned(),
            count => format!("what deviates at {count} services that depend on it follows from this"),
        },
        verdict: TestVerdict::Supported,
        log_odds: quarter(sum),
        evidence: vec![],
    })
}

/// The sum over a service's aspects as tests.
fn weigh(service: &ServiceName, parts: Vec<Part>, anomalies: &[Anomaly]) -> Suspect {
    let mut tests = vec![];
    let mut factor = 1.0;
    for part in &parts {
        let Some(anomaly) = anomalies.get(part.anomaly) else { continue };
        let evidence: Vec<String> = anomaly.evidence.iter().map(|evidence| evidence.id.clone()).collect();
        let mut text =
            format!("{} at {} {}", anomaly.kind.as_str(), anomaly.place, anomaly.direction.as_str());
        if let Some(by) = part.by.as_ref().filter(|_| part.left < part.raw) {
            let share = 100.0 * (1.0 - part.left / part.raw);
            text = format!("{text}; {share:.0} % of that follows from its dependency {by}");
        }
        let log_odds = quarter(part.left * factor);
        tests.push(Test { test: text, verdict: TestVerdict::Supported, log_odds, evidence });
        factor *= FURTHER;
    }
    let nature =
        parts.first().map_or(Nature::Failing, |part| part.aspect.nature(anomalies.get(part.anomaly)));
    let onset = parts.iter().filter_map(|part| anomalies.get(part.anomaly)?.onset).min();
    let order = parts.iter().map(|part| part.anomaly).collect();
    let service = service.clone();
    Suspect { service, probability: 0.0, nature, tests, anomalies: order, onset, unseen: false, score: 0.0 }
}

/// Likelihood ratios are known to a few per cent at best.
pub(super) fn quarter(log_odds: f64) -> f64 {
    (log_odds * 100.0).round() / 100.0
}

/// When the convincing anomalies of a service began, in Unix seconds, with what their resolution allows. What does not come any more has no
/// such instant: that it is missing shows only when it is due.
fn began<'a>(own: &'a Aspects, anomalies: &'a [Anomaly]) -> impl Iterator<Item = f64> + 'a {
    own.values()
        .filter_map(|at| anomalies.get(*at))
        .filter(|anomaly| anomaly.log_lr >= CONVINCING && !anomaly.is_absence())
        .filter_map(|anomaly| Some(to_unix(anomaly.onset?)))
}

/// What shows in requests at a service shows as well when one of its dependencies is at fault that no signal was seen of: of k + 1
/// equally likely places it is one. Half of that logarithm, since most dependencies that fail are seen to. Those that are suspects themselves stand
/// beside it already.
fn crowd(
    service: &ServiceName,
    suspect: &Suspect,
    anomalies: &[Anomaly],
    topology: &Topology,
    suspected: &[Suspect],
) -> Option<Test> {
    let leading = anomalies.get(*suspect.anomalies.first()?)?;
    let kind = match aspect_of(leading) {
        Aspect::Errors => Kind::Errors,
        Aspect::Latency | Aspect::Waiting => Kind::Latency,
        _ => return None,
    };
    let apart = |one: &ServiceName| suspected.iter().any(|unseen| unseen.service == *one);
    let unseen = topology.dependencies(service);
    let unseen = unseen.keys().filter(|one| !topology.watches(one, kind) && !apart(one)).count();
    (unseen > 0).then(|| Test {
        test: format!("a fault of {unseen} unwatched services that it depends on would show here too"),
        verdict: TestVerdict::Refuted,
        log_odds: quarter(-0.5 * (1.0 + unseen as f64).ln()),
        evidence: vec![],
    })
}

/// A cause precedes its effects, as far as the resolution of both tells.
fn lateness(own: &Aspects, anomalies: &[Anomaly], first: Option<f64>) -> Option<Test> {
    let resolution =
        own.values().filter_map(|at| anomalies.get(*at)).map(|a| a.resolution).fold(0.0, f64::max);
    let late = began(own, anomalies).min_by(f64_order)? - first?;
    (late > (2.0 * resolution).max(NEXT_REQUEST)).then(|| Test {
        test: format!("it deviates only {late:.0} s after the first service that does"),
        verdict: TestVerdict::Refuted,
        log_odds: LATE,
        evidence: vec![],
    })
}

/// Whether the service was changed shortly before.
fn changed(snapshot: &Snapshot, service: &ServiceName, onset: Option<Timestamp>) -> Option<Test> {
    let onset = onset?;
    let of_it = |change: &&Change| {
        let subject = &change.subject;
        !matches!(change.kind, ChangeKind::NodeState | ChangeKind::Created)
            && subject.namespace == service.namespace
            && (subject.name == service.name || snapshot.graph.services_of(subject).any(|own| own == service))
    };
    let age = |change: &&Change| (onset.as_second() - change.time.as_second()) as f64;
    let near = |change: &&Change| (-60.0..=CHANGE_REACH).contains(&age(change));
    let change = snapshot.changes.iter().filter(of_it).rfind(near)?;
    let seconds = age(&change).max(0.0);
    Some(Test {
        test: format!("{} was changed {seconds:.0} s before it began", change.subject),
        verdict: TestVerdict::Supported,
        log_odds: quarter(CHANGED * (1.0 - 0.8 * seconds / CHANGE_REACH)),
        evidence: vec![],
    })
}

/// Whether what was asked about can suffer from it at all.
fn reach(snapshot: &Snapshot, service: &ServiceName, topology: &Topology) -> Option<Test> {
    let target = snapshot.target.as_ref().filter(|target| !target.services.is_empty())?;
    let asked: Vec<ServiceName> =
        target.services.iter().map(|name| ServiceName::new(&target.namespace, name)).collect();
    let known = asked.iter().any(|own| topology.callees(own).next().is_some());
    let reached = asked.iter().any(|own| own == service || topology.dependencies(own).contains_key(service));
    (known && !reached).then(|| Test {
        test: "what was asked about is not known to call it".to_owned(),
        verdict: TestVerdict::Refuted,
        log_odds: OUT_OF_REACH,
        evidence: vec![],
    })
}

/// More requests than usual, from outside: a hypothesis of its own, for it explains everything else.
#[derive(Debug, Default)]
struct Surge {
    /// Where they come in.
    entry: Option<ServiceName>,
    /// Where they pass through.
    through: Vec<ServiceName>,
}

impl Surge {
    fn find(anomalies: &[Anomaly], shown: &BTreeMap<&ServiceName, Aspects>, topology: &Topology) -> Self {
        let rise = |own: &Aspects| {
            let anomaly = anomalies.get(*own.get(&Aspect::Traffic)?)?;
            let rises = anomaly.direction == Direction::Up
                && anomaly.signal == Signal::Series
                && anomaly.after >= SURGE * anomaly.before.abs();
            rises.then_some(anomaly)
        };
        let risen: Vec<(&ServiceName, &Anomaly)> =
            shown.iter().filter_map(|(service, own)| Some((*service, rise(own)?))).collect();
        // One service with more requests is one with more work; several share a cause.
        let is_surge = risen.len() >= 2 && 2 * risen.len() >= shown.len();
        let from_outside = |service: &ServiceName| {
            !topology.callers(service).any(|caller| risen.iter().any(|(other, _)| *other == caller))
        };
        let entry = risen.iter().filter(|(service, _)| from_outside(service)).max_by(|a, b| {
            (a.1.after - a.1.before).total_cmp(&(b.1.after - b.1.before)).then_with(|| b.0.cmp(a.0))
        });
        let Some((entry, _)) = entry.filter(|_| is_surge) else { return Surge::default() };
        let through = risen.iter().map(|(service, _)| (*service).clone()).filter(|s| s != *entry).collect();
        Surge { entry: Some((*entry).clone()), through }
    }

    fn apply(&self, suspect: &mut Suspect, anomalies: &[Anomaly]) {
        if self.through.contains(&suspect.service) {
            let entry = self.entry.as_ref().map(ToString::to_string).unwrap_or_default();
            for test in &mut suspect.tests {
                test.log_odds = quarter(test.log_odds * UNDER_SURGE);
                test.test =
                    format!("{}; the surge of requests through {entry} explains most of it", test.test);
            }
        } else if self.entry.as_ref() == Some(&suspect.service) {
            let rise = suspect.anomalies.iter().filter_map(|at| anomalies.get(*at));
            let rise =
                rise.filter(|anomaly| anomaly.kind == Kind::Traffic).map(|a| a.log_lr).fold(0.0, f64::max);
            suspect.nature = Nature::Surge;
            suspect.tests.push(Test {
                test: "more requests than usual come in here, and from no service that is known".to_owned(),
                verdict: TestVerdict::Supported,
                // Elsewhere traffic counts for little, since it comes from somebody else.
                log_odds: quarter(rise / own_share(Kind::Traffic, Side::Own) - rise),
                evidence: vec![],
            });
        }
    }
}
