//! Services of which nothing is measured, as suspects: what several of their callers show at once, and nothing that was seen accounts for, has one
//! explanation there and needs several anywhere else. What a single caller shows is likelier its own.

use std::collections::BTreeMap;

use super::aspect::Aspect;
use super::suspects::{Nature, Part, Suspect, accounts_for, quarter};
use super::topology::Topology;
use crate::analyze::anomaly::{Anomaly, Kind};
use crate::analyze::diagnosis::{Test, TestVerdict};
use crate::model::network::ServiceName;

/// What it says against a service that nothing is seen of (natural logarithm): most that fail are seen to, by their own logs and resources.
const NOTHING_SEEN: f64 = -0.4;
/// What it says against it that another one that calls it is well, which a fault there would hardly spare; and how many count.
const SPARED: (f64, usize) = (-0.4, 4);
/// What is left of a caller's anomaly counts from this likelihood ratio on (natural logarithm).
const TELLING: f64 = 2.0;

/// The suspects, with all tests but those that ask of objects.
pub(super) fn suspects(
    parts: &[(&ServiceName, Vec<Part>)],
    accounts: &BTreeMap<ServiceName, Vec<f64>>,
    anomalies: &[Anomaly],
    topology: &Topology,
) -> Vec<Suspect> {
    // Two callers at least that show something: whoever nobody suffers from is not looked at.
    let telling = |own: &[Part]| own.iter().any(|part| part.left >= TELLING);
    let mut called: BTreeMap<&ServiceName, usize> = BTreeMap::new();
    for (caller, _) in parts.iter().filter(|(_, own)| telling(own)) {
        for callee in topology.callees(caller) {
            *called.entry(callee).or_default() += 1;
        }
    }
    let shown = |service: &ServiceName| parts.iter().any(|(other, _)| *other == service);
    let shared = called.into_iter().filter(|(_, callers)| *callers > 1).map(|(callee, _)| callee);
    let unknown = shared.filter(|one| !shown(one) && topology.behind(one).is_empty());
    unknown
        .filter_map(|service| {
            [Kind::Errors, Kind::Latency]
                .into_iter()
                .filter(|kind| !topology.sees(service, *kind))
                .filter_map(|kind| suspect(service, kind, parts, accounts, anomalies, topology))
                .max_by(|a, b| sum(a).total_cmp(&sum(b)))
        })
        .collect()
}

fn sum(suspect: &Suspect) -> f64 {
    suspect.tests.iter().map(|test| test.log_odds).sum()
}

/// Whether an aspect of a caller is what a fault of this kind of what it calls brings about.
fn is_of(aspect: Aspect, kind: Kind) -> bool {
    match kind {
        Kind::Errors => aspect == Aspect::Errors,
        _ => matches!(aspect, Aspect::Latency | Aspect::Waiting),
    }
}

fn suspect(
    service: &ServiceName,
    kind: Kind,
    parts: &[(&ServiceName, Vec<Part>)],
    accounts: &BTreeMap<ServiceName, Vec<f64>>,
    anomalies: &[Anomaly],
    topology: &Topology,
) -> Option<Suspect> {
    let callers: Vec<&ServiceName> = topology.callers(service).collect();
    // What is left at each caller once what was seen below it has explained its share.
    let mut felt: Vec<(&ServiceName, &Part)> = callers
        .iter()
        .filter_map(|caller| {
            let (_, own) = parts.iter().find(|(other, _)| other == caller)?;
            let left = own.iter().filter(|part| is_of(part.aspect, kind) && part.left >= TELLING);
            Some((*caller, left.max_by(|a, b| a.left.total_cmp(&b.left))?))
        })
        .collect();
    felt.sort_by(|a, b| b.1.left.total_cmp(&a.1.left).then_with(|| a.0.cmp(b.0)));
    let ((first, strongest), others) = felt.split_first().filter(|(_, others)| !others.is_empty())?;
    let anomaly = anomalies.get(strongest.anomaly)?;
    let mut tests = vec![Test {
        test: format!(
            "{} at {first}, which calls it, {}, and nothing that was seen below accounts for it",
            anomaly.kind.as_str(),
            anomaly.direction.as_str()
        ),
        verdict: TestVerdict::Supported,
        log_odds: quarter(strongest.left),
        evidence: anomaly.evidence.iter().map(|evidence| evidence.id.clone()).collect(),
    }];
    // What follows from those callers follows from this one.
    let mut explained: Vec<f64> = others.iter().map(|(_, part)| part.left).collect();
    explained.extend(felt.iter().filter_map(|(caller, _)| accounts.get(*caller)).flatten());
    explained.sort_by(|a, b| b.total_cmp(a));
    tests.extend(accounts_for(Some(&explained)));
    let well = |caller: &&&ServiceName| {
        topology.sees(caller, kind) && felt.iter().all(|(feels, _)| *feels != **caller)
    };
    let spared = callers.iter().filter(well).count();
    if spared > 0 {
        tests.push(Test {
            test: format!("{spared} other services that call it show nothing of the kind"),
            verdict: TestVerdict::Refuted,
            log_odds: quarter(SPARED.0 * spared.min(SPARED.1) as f64),
            evidence: vec![],
        });
    }
    tests.push(Test {
        test: "nothing is measured there: most that fail are seen to".to_owned(),
        verdict: TestVerdict::Refuted,
        log_odds: NOTHING_SEEN,
        evidence: vec![],
    });
    let nature = if kind == Kind::Errors { Nature::Failing } else { Nature::Slow };
    Some(Suspect {
        service: service.clone(),
        probability: 0.0,
        nature,
        tests,
        onset: felt.iter().filter_map(|(_, part)| anomalies.get(part.anomaly)?.onset).min(),
        anomalies: felt.iter().map(|(_, part)| part.anomaly).collect(),
        unseen: true,
        score: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use crate::analyze::causal::suspects::Suspects;
    use crate::model::series::Series;
    use crate::model::snapshot::Builder;
    use crate::model::time::from_unix;

    /// Who is suspected first, and whether nothing was seen of it: `callers` call a store of which only their calls are counted, and the share of failures
    /// of those that are `failing` rises.
    fn first(callers: &[&str], failing: &[&str]) -> Option<(String, bool)> {
        let series = |name: &str, labels: &[(&str, &str)], risen: f64| Series {
            name: name.to_owned(),
            labels: labels
                .iter()
                .chain(&[("namespace", "n")])
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            points: (0..40u32)
                .map(|n| {
                    let noise = f64::from(n * 7919 % 13) / 1000.0;
                    (f64::from(n) * 60.0, noise + if n >= 30 { risen } else { 0.0 })
                })
                .collect(),
        };
        let mut all = vec![];
        for caller in callers {
            let risen = if failing.contains(caller) { 0.3 } else { 0.0 };
            all.push(series("error_ratio", &[("service", caller)], risen));
            let call = [("source_workload", *caller), ("destination_service_name", "store")];
            all.push(series("requests_per_second", &call, 0.0));
        }
        let mut builder = Builder::new();
        builder.series(all);
        builder.onset(from_unix(1800.0));
        let found = builder.finish().derived::<Suspects>();
        found.all.first().map(|suspect| (suspect.service.name.clone(), suspect.unseen))
    }

    #[test]
    fn what_several_callers_share_is_suspected_though_nothing_is_measured_there() {
        let (store, own) = (Some(("store".to_owned(), true)), Some(("a".to_owned(), false)));
        assert_eq!(first(&["a", "b"], &["a", "b"]), store);
        assert_eq!(first(&["a", "b", "c", "d"], &["a", "b", "c"]), store);
        // One that fails alone is likelier at fault itself, all the more where others call the same and are well.
        assert_eq!(first(&["a"], &["a"]), own);
        assert_eq!(first(&["a", "b", "c"], &["a"]), own);
    }
}
