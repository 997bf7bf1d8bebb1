//! Incidents made up at random: call graphs, sources, names of metrics, faults, noise. What holds here was fitted to nobody's data.

mod incident;

use incident::{Incident, Said, incident, unlike};
use meshscope::analyze::causal::suspects::Suspects;
use meshscope::model::time::to_unix;
use std::collections::BTreeMap;

/// How many of each are made up: some seconds' worth without optimisation.
const INCIDENTS: u64 = 20;

/// `MADE_UP=FROM..TO` prints every wrong answer of those seeds.
fn seeds() -> std::ops::Range<u64> {
    let named = std::env::var("MADE_UP").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    named.unwrap_or(1..INCIDENTS + 1)
}

/// The first suspects with their tests, what deviates at the culprit, and how all others score: for whoever looks at a wrong answer.
fn tell(suspects: &Suspects, made: &Incident) {
    let culprit = suspects.all.iter().filter(|one| one.service.name == made.culprit);
    for one in suspects.all.iter().take(2).chain(culprit) {
        println!("    {} {:.2}", one.service, one.probability);
        one.tests.iter().for_each(|test| println!("        {:+.2} {}", test.log_odds, test.test));
    }
    println!("    onset found {:?} s after", suspects.onset.map(|onset| to_unix(onset.at) - made.onset));
    for anomaly in suspects.anomalies.iter().take(12) {
        let (ratio, place) = (anomaly.log_lr, &anomaly.place);
        println!(
            "        {ratio:.2} {} at {place}: {} (z {:.1})",
            anomaly.what,
            anomaly.told(),
            anomaly.strength
        );
    }
}

/// The shares of right answers with the onset given, absent and late, and what a blind draw would have.
fn right(make: fn(u64, bool) -> Incident) -> ([f64; 3], f64) {
    let seeds = seeds();
    let count = (seeds.end - seeds.start) as f64;
    let (mut right, mut chance) = ([0.0f64; 3], 0.0);
    let mut by_sources: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for seed in seeds {
        let made = make(seed, true);
        for (said, right) in [Said::Given, Said::Absent, Said::Late].into_iter().zip(&mut right) {
            let suspects = made.snapshot(said).derived::<Suspects>();
            let first = suspects.all.first();
            let is_right = first.is_some_and(|first| first.service.name == made.culprit);
            *right += f64::from(u8::from(is_right));
            let counts = by_sources.entry(made.sources.clone()).or_default();
            *counts = (counts.0 + u32::from(is_right), counts.1 + 1);
            let probability = first.map_or(0.0, |first| first.probability);
            let place = suspects.all.iter().position(|one| one.service.name == made.culprit);
            if !is_right {
                tell(&suspects, &made);
            }
            println!(
                "{} {said:?} {probability:.2} {} {place:?} {} of {}",
                u8::from(is_right),
                made.title,
                made.culprit,
                made.services
            );
        }
        chance += 1.0 / made.services as f64;
    }
    let (share, chance) = (right.map(|right| right / count), chance / count);
    println!("made up: {share:.2?} right with the onset given, absent and late, {chance:.2} by chance");
    println!("right answers, and all, by what is recorded: {by_sources:?}");
    (share, chance)
}

#[test]
fn who_is_at_fault_is_found_far_more_often_than_by_chance() {
    let (share, chance) = right(incident);
    assert!(share.iter().all(|share| *share >= 0.7 && *share > 4.0 * chance), "{share:?} right");
}

#[test]
fn who_is_at_fault_is_found_where_instruments_and_faults_are_unlike_those_it_was_fitted_on() {
    let (share, chance) = right(unlike);
    assert!(share.iter().all(|share| *share >= 0.5 && *share > 4.0 * chance), "{share:?} right");
}

#[test]
fn a_calm_system_accuses_hardly_anybody() {
    let seeds = seeds();
    let count = 2 * (seeds.end - seeds.start);
    let mut wrong = vec![];
    for (seed, made) in seeds.flat_map(|seed| [(seed, incident(seed, false)), (seed, unlike(seed, false))]) {
        let suspects = made.snapshot(Said::Absent).derived::<Suspects>();
        if let Some(first) = suspects.all.first().filter(|first| first.probability >= 0.5) {
            tell(&suspects, &made);
            println!("accuses {} with {:.2}: {}", first.service, first.probability, made.title);
            wrong.push(seed);
        }
    }
    println!("made up: {} of {count} calm ones accuse somebody", wrong.len());
    assert!(wrong.len() as u64 * 5 <= count, "calm, and somebody is accused: {wrong:?}");
}
