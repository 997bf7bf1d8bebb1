//! When it began and who did it, decided together: each instant at which it may have begun is looked at as if it were the one, and the
//! one at which most speaks for somebody's fault, and for its being felt, is.

use jiff::Timestamp;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::suspects::{Suspects, rank};
use crate::analyze::anomaly::{Anomaly, sorted};
use crate::analyze::logs;
use crate::analyze::onset::{Candidate, Onset, candidates};
use crate::analyze::series;
use crate::analyze::traces;
use crate::model::memo::Derived;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;

/// Instants that logs name on their own, at most, and how surely each must (natural logarithm of a likelihood ratio).
const BY_LOGS: (usize, f64) = (2, 1.0);

impl Derived for Suspects {
    fn derive(snapshot: &Snapshot) -> Self {
        // In a cluster that runs something always deviates: pods start, caches fill, load comes and goes. Unless somebody says that
        // there is trouble, and since when, its objects and logs have to say so.
        let answers = snapshot.onset.is_some() || !snapshot.runs();
        let mut instants = candidates(snapshot, &by_logs(snapshot));
        if !answers {
            instants.truncate(1);
        }
        // What somebody said may be late, and logs and spans look around it themselves.
        let named = snapshot.onset.map(|at| told(snapshot, Some(at)));
        let mut all: Vec<(f64, Suspects)> = instants
            .into_iter()
            .map(|Candidate { onset, prior }| {
                let told = named.clone().unwrap_or_else(|| told(snapshot, Some(onset.at)));
                let (found, evidence) = since(snapshot, Some(onset), told);
                (prior + evidence, found)
            })
            .collect();
        // The likeliest, and of several that are as likely the one that came first: they come in order.
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut found = match all.split_first() {
            Some(((weight, best), others)) => mixed(*weight, best, others),
            None => since(snapshot, None, named.unwrap_or_else(|| told(snapshot, None))).0,
        };
        if !answers {
            found.all.clear();
        }
        found
    }
}

/// The suspects by the likeliest onset, each as likely as all onsets together say: who is at fault whenever it began is so more surely.
fn mixed(weight: f64, best: &Suspects, others: &[(f64, Suspects)]) -> Suspects {
    let share = |other: f64| (other - weight).exp();
    let total = 1.0 + others.iter().map(|(other, _)| share(*other)).sum::<f64>();
    let mut out = best.clone();
    for suspect in &mut out.all {
        let elsewhere = |found: &Suspects| {
            let same = found.all.iter().find(|other| other.service == suspect.service);
            same.map_or(0.0, |other| other.probability)
        };
        let by_others: f64 = others.iter().map(|(other, found)| share(*other) * elsewhere(found)).sum();
        suspect.probability = (suspect.probability + by_others) / total;
    }
    out.all.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    out
}

/// What deviates since an onset, and how much speaks for it.
fn since(snapshot: &Snapshot, onset: Option<Onset>, told: Vec<Anomaly>) -> (Suspects, f64) {
    let mut anomalies = guarded(|| series::anomalies(snapshot, onset));
    anomalies.extend(told);
    let anomalies = sorted(anomalies);
    let (all, evidence) = rank(snapshot, &anomalies, onset.map(|onset| onset.at));
    (Suspects { anomalies, all, onset }, evidence)
}

/// What logs and spans say.
fn told(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<Anomaly> {
    let mut out = guarded(|| logs::anomalies::anomalies(snapshot, onset));
    out.extend(guarded(|| traces::anomalies(snapshot, onset)));
    out
}

/// When logs say that it began, in Unix seconds, where nobody else does.
fn by_logs(snapshot: &Snapshot) -> Vec<f64> {
    if snapshot.onset.is_some() || snapshot.runs() {
        return vec![];
    }
    let anomalies = guarded(|| logs::anomalies::anomalies(snapshot, None));
    let telling = anomalies.iter().filter(|anomaly| anomaly.log_lr >= BY_LOGS.1);
    telling.filter_map(|anomaly| Some(to_unix(anomaly.onset?))).take(BY_LOGS.0).collect()
}

/// A source that fails costs its own evidence and not the run.
fn guarded(source: impl FnOnce() -> Vec<Anomaly>) -> Vec<Anomaly> {
    catch_unwind(AssertUnwindSafe(source)).unwrap_or_default()
}
