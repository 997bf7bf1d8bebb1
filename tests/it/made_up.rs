//! Incidents made up at random: call graphs, series in any unit, noise, outliers, missing points, bystanders that step at about the same
//! time, and one service at fault. What holds here was fitted to nobody's data.

use meshscope::analyze::causal::suspects::Suspects;
use meshscope::model::series::Series;
use meshscope::model::snapshot::{Builder, Snapshot, Target};
use meshscope::model::time::from_unix;

/// Numbers that look random, the same in every run (xorshift; Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.next()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() * bound as f64) as usize
    }

    fn chance(&mut self, share: f64) -> bool {
        self.next() < share
    }

    /// About normal: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// What a fault does at its service.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Cpu,
    Memory,
    Slow,
    Failing,
    Gone,
}

const FAULTS: [Fault; 5] = [Fault::Cpu, Fault::Memory, Fault::Slow, Fault::Failing, Fault::Gone];
const METRICS: [&str; 7] = [
    "cpu_usage",
    "memory_bytes",
    "latency_p50",
    "latency_p95",
    "latency_p99",
    "error_ratio",
    "requests_per_second",
];

/// An incident: a call graph, series at its services, and which of them is at fault since when.
struct Incident {
    series: Vec<Series>,
    edges: Vec<(String, String)>,
    culprit: String,
    services: usize,
    onset: f64,
}

fn name(at: usize) -> String {
    format!("s{at}")
}

fn incident(seed: u64) -> Incident {
    with_fault(seed, true)
}

fn with_fault(seed: u64, faulty_at_all: bool) -> Incident {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..8 {
        dice.next();
    }
    let services = 6 + dice.below(15);
    // Who calls whom: everybody but the first has a caller, some have two.
    let mut callers: Vec<Vec<usize>> = vec![vec![]; services];
    for (at, own) in callers.iter_mut().enumerate().skip(1) {
        own.push(dice.below(at));
        if dice.chance(0.25) {
            own.push(dice.below(at));
        }
    }
    let step = if dice.chance(0.7) { 60.0 } else { 300.0 };
    let (before, after) = (25 + dice.below(100), 4 + dice.below(9));
    let start = 1_700_000_000.0 + dice.between(0.0, 1e6).round();
    let onset = start + (before as f64 - dice.next()) * step;
    let lasts = if dice.chance(0.7) { usize::MAX } else { 3 + dice.below(3) };
    let culprit = dice.below(services);
    let fault = FAULTS[dice.below(FAULTS.len())];
    // How much of the culprit's trouble each service feels: all of it at the culprit, a part with each hop towards the callers.
    let mut felt = vec![0.0f64; services];
    felt[culprit] = 1.0;
    for at in (1..=culprit).rev() {
        for caller in callers[at].clone() {
            let share = dice.between(0.3, 0.9);
            felt[caller] = felt[caller].max(felt[at] * share);
        }
    }
    let (force, bystander) = (dice.between(0.0, 1.0), dice.chance(0.5).then(|| dice.below(services)));
    let bystander_at = before as f64 * dice.between(0.7, 1.05);
    let earlier = dice.chance(0.3).then(|| (dice.below(services), before as f64 * dice.between(0.3, 0.7)));
    let units: Vec<f64> = METRICS.iter().map(|_| 10f64.powf(dice.between(-3.0, 6.0))).collect();
    let mut series = vec![];
    for (at, felt) in felt.into_iter().enumerate() {
        for (which, metric) in METRICS.iter().enumerate() {
            let main = at == culprit
                && match fault {
                    Fault::Cpu => which == 0,
                    Fault::Memory => which == 1,
                    Fault::Slow => which == 3,
                    Fault::Failing => which == 5,
                    Fault::Gone => which == 6,
                };
            if !main && !dice.chance([0.9, 0.6, 0.7, 0.7, 0.7, 0.6, 0.9][which]) {
                continue;
            }
            let level = dice.between(-1.0, 1.0).exp();
            let noise = dice.between(0.02, 0.3);
            let spikes = if dice.chance(0.3) { 0.03 } else { 0.0 };
            let phase = dice.between(0.0, 6.0);
            let rises = 1.5 + 4.0 * force;
            let mut points = vec![];
            for n in 0..before + after {
                let time = start + n as f64 * step;
                let faulty = faulty_at_all && time >= onset && time < onset + (lasts as f64) * step;
                if dice.chance(0.04)
                    || faulty_at_all && fault == Fault::Gone && at == culprit && time >= onset
                {
                    continue;
                }
                let mut factor =
                    (noise * dice.normal()).exp() * (1.0 + 0.15 * (n as f64 / 20.0 + phase).sin());
                if dice.chance(spikes) {
                    factor *= dice.between(2.0, 8.0);
                }
                let own = faulty && at == culprit;
                let slow = fault != Fault::Failing && fault != Fault::Gone;
                let mut errors: f64 = if dice.chance(0.1) { 0.002 } else { 0.0 };
                match which {
                    0 if own && fault == Fault::Cpu => factor *= rises,
                    1 if own && fault == Fault::Memory => factor *= 1.0 + force * 2.0 + 0.3,
                    2..=4 if faulty && slow => {
                        factor *=
                            1.0 + (rises - 1.0) * felt * if main || fault != Fault::Cpu { 1.0 } else { 0.7 }
                    }
                    5 if faulty && matches!(fault, Fault::Failing | Fault::Gone | Fault::Memory) => {
                        let share = if fault == Fault::Gone && at == culprit { 0.0 } else { felt };
                        errors += (0.05 + 0.4 * force) * share * dice.between(0.8, 1.2);
                    }
                    _ => {}
                }
                if bystander == Some(at) && at != culprit && which < 2 && n as f64 >= bystander_at {
                    factor *= 1.6;
                }
                if let Some((service, from)) = earlier
                    && service == at
                    && (2..=4).contains(&which)
                    && (from..from + 4.0).contains(&(n as f64))
                {
                    factor *= 3.0;
                }
                let value = if which == 5 { errors.min(1.0) } else { level * factor * units[which] };
                points.push((time, value));
            }
            let labels = [("namespace".to_owned(), "n".to_owned()), ("service".to_owned(), name(at))];
            series.push(Series { name: (*metric).to_owned(), labels: labels.into(), points });
        }
    }
    let edges = (0..services)
        .flat_map(|at| callers[at].clone().into_iter().map(move |caller| (name(caller), name(at))));
    Incident { series, edges: edges.collect(), culprit: name(culprit), services, onset }
}

fn snapshot_of(incident: &Incident, onset: Option<f64>) -> Snapshot {
    let mut builder = Builder::new();
    builder.target(Some(Target { namespace: "n".to_owned(), services: vec![] }));
    for (caller, callee) in &incident.edges {
        builder.edge(caller, callee);
    }
    builder.series(incident.series.clone());
    builder.onset(onset.and_then(from_unix));
    builder.finish()
}

/// How many of each are made up: some seconds' worth without optimisation.
const INCIDENTS: u64 = 60;

#[test]
fn who_is_at_fault_is_found_far_more_often_than_by_chance() {
    let (mut right, mut chance) = (0, 0.0);
    for seed in 1..=INCIDENTS {
        let made = incident(seed);
        let suspects = snapshot_of(&made, Some(made.onset)).derived::<Suspects>();
        right += u64::from(suspects.all.first().is_some_and(|first| first.service.name == made.culprit));
        chance += 1.0 / made.services as f64;
    }
    let (share, chance) = (right as f64 / INCIDENTS as f64, chance / INCIDENTS as f64);
    println!("made up: {right} of {INCIDENTS} right, {chance:.2} by chance");
    assert!(share >= 0.6 && share > 4.0 * chance, "{right} of {INCIDENTS} right, {chance:.2} by chance");
}

#[test]
fn a_calm_system_accuses_hardly_anybody() {
    let accuses = |seed: &u64| {
        let suspects = snapshot_of(&with_fault(*seed, false), None).derived::<Suspects>();
        suspects.all.first().is_some_and(|first| first.probability >= 0.5)
    };
    let wrong: Vec<u64> = (1..=INCIDENTS).filter(accuses).collect();
    println!("made up: {} of {INCIDENTS} calm ones accuse somebody", wrong.len());
    assert!(wrong.len() as u64 * 5 <= INCIDENTS, "calm, and somebody is accused: {wrong:?}");
}
