//! How fast are series, and how often are simple answers right beside those of the whole analysis?
//!
//! - `series/*`: 500 series of 300 points, from numbers to ranked services; then three decades of points, and the whole analysis with all rules. The load
//!   of every other service rises and falls, and its processor time follows.
//! - A table for each set of incidents: how often the service named first is the right one, for a blind draw, for the largest robust shift
//!   of any series, for the deepest span that fails, and for the analysis with the onset given, left out, and a minute late. And how far its
//!   probabilities can be believed. The incidents are made up at random (`tests/it/made_up/incident`), or with
//!   `MESHSCOPE_INCIDENTS=FOLDER` those of a folder of sets of numbered cases, each a `bundle.tar.gz` and a `truth.json` with `service`,
//!   `onset` and the number of `candidates`.
//!
//! `cargo bench --bench incidents`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

#[path = "../tests/it/made_up/incident/mod.rs"]
mod incident;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use incident::{Incident, Said};
use jiff::{SignedDuration, Timestamp};
use meshscope::analyze::causal::suspects::Suspects;
use meshscope::analyze::diagnosis::{Options, analyze};
use meshscope::analyze::series::stats::{median, quantile};
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use meshscope::model::series::Series;
use meshscope::model::snapshot::{Builder, Snapshot};
use meshscope::model::span::tree::Forest;
use meshscope::model::time::to_unix;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Incidents that are made up where no folder is named.
const MADE_UP: u64 = 400;

/// Their seeds, or those that `MADE_UP=FROM..TO` names.
fn seeds() -> std::ops::Range<u64> {
    let named = std::env::var("MADE_UP").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    named.unwrap_or(1..MADE_UP + 1)
}

/// A snapshot of `services` services with ten series each; one of them deviates from two thirds of the window on.
fn snapshot(services: usize, points: usize) -> Snapshot {
    let metrics = [
        "cpu_usage",
        "memory_usage_bytes",
        "request_duration_p95_ms",
        "request_errors",
        "requests_per_second",
    ];
    let mut all = vec![];
    for at in 0..services * 10 {
        let (service, metric) = (at / 10, at % 10);
        let labels: BTreeMap<String, String> = [
            ("namespace".to_owned(), "shop".to_owned()),
            ("service".to_owned(), format!("service-{service}")),
            ("statistic".to_owned(), metric.to_string()),
        ]
        .into();
        let value = |n: usize| {
            let noise = ((n * 7919 + at * 104_729) % 1000) as f64 / 100.0;
            let follows = service % 2 == 0 && matches!(metric % 5, 0 | 4);
            let load = if follows { 80.0 * (n as f64 / 7.0).sin() } else { 0.0 };
            100.0 + noise + load + if service == 3 && n > points * 2 / 3 { 300.0 } else { 0.0 }
        };
        let points = (0..points).map(|n| (n as f64 * 15.0, value(n))).collect();
        all.push(Series { name: metrics[metric % 5].to_owned(), labels, points });
    }
    let mut builder = Builder::new();
    builder.series(all);
    builder.finish()
}

fn series(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("series");
    group.sample_size(20);
    for (services, points) in [(5, 30), (50, 30), (50, 300), (50, 3000)] {
        let snapshot = snapshot(services, points);
        group.throughput(Throughput::Elements((services * 10 * points) as u64));
        group.bench_function(format!("{} series of {points} points", services * 10), |b| {
            // A clone has derived nothing yet.
            b.iter_batched(
                || snapshot.clone(),
                |snapshot| snapshot.derived::<Suspects>().all.len(),
                BatchSize::LargeInput,
            )
        });
        group.bench_function(
            format!("{} series of {points} points, the whole analysis", services * 10),
            |b| {
                let all = |snapshot: Snapshot| analyze(&snapshot, &Options::default()).findings.len();
                b.iter_batched(|| snapshot.clone(), all, BatchSize::LargeInput)
            },
        );
    }
    group.finish();
}

/// The service with the largest shift of the median, in robust standard deviations of what was before; a series that stood still is
/// scaled by 1, as published code has it.
fn largest_shift(snapshot: &Snapshot) -> Option<String> {
    let onset = to_unix(snapshot.onset?);
    let mut best: Option<(f64, String)> = None;
    for series in &snapshot.series {
        let values = |after: bool| -> Vec<f64> {
            series.points.iter().filter(|(at, _)| (*at >= onset) == after).map(|(_, value)| *value).collect()
        };
        let (before, after) = (values(false), values(true));
        let (Some(usual), Some(now)) = (median(&before), median(&after)) else { continue };
        let scale = quantile(&before, 0.75).unwrap_or(0.0) - quantile(&before, 0.25).unwrap_or(0.0);
        let labels = ["destination_service_name", "service", "service_name", "app", "workload", "pod"];
        let name = labels.map(|label| series.label(label)).into_iter().find(|name| !name.is_empty());
        let Some(name) = name else { continue };
        let shift = (now - usual).abs() / if scale > 0.0 { scale } else { 1.0 };
        if best.as_ref().is_none_or(|(most, _)| shift > *most) {
            best = Some((shift, name.to_owned()));
        }
    }
    best.map(|(_, name)| name)
}

/// The service with most spans that fail while nothing below them does.
fn deepest_failure(snapshot: &Snapshot) -> Option<String> {
    let forest = Forest::of(&snapshot.spans);
    let spans = snapshot.spans.all();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, span) in spans.iter().enumerate().filter(|(_, span)| span.failed()) {
        let deeper = forest.children(at).any(|child| spans.get(child).is_some_and(|span| span.failed()));
        if let (false, Some(service)) = (deeper, snapshot.spans.service(span)) {
            *counts.entry(&service.name).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by_key(|(name, count)| (*count, std::cmp::Reverse(*name)));
    most.map(|(name, _)| name.to_owned())
}

/// What speaks for the first suspect and for the one at fault, where seeds are named: for whoever looks at wrong answers.
fn tell(snapshot: &Snapshot, truth: &str) {
    if std::env::var_os("MADE_UP").is_none() {
        return;
    }
    let suspects = snapshot.derived::<Suspects>();
    let told = suspects.all.iter().enumerate().filter(|(at, one)| *at == 0 || one.service.name == truth);
    for (at, one) in told {
        println!("    {at} {} {:.2}", one.service, one.probability);
        one.tests.iter().for_each(|test| println!("        {:+.2} {}", test.log_odds, test.test));
    }
    for anomaly in suspects.anomalies.iter().take(6) {
        let (ratio, place) = (anomaly.log_lr, &anomaly.place);
        println!(
            "      {ratio:.2} {} at {place}: {} (z {:.1})",
            anomaly.what,
            anomaly.told(),
            anomaly.strength
        );
    }
}

/// Right answers of one set.
#[derive(Default)]
struct Row {
    cases: f64,
    chance: f64,
    shift: f64,
    span: f64,
    ours: [f64; 3],
}

/// All sets, and what was said of each answer with the onset given, left out, and late: how likely it is right, and whether it is.
#[derive(Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    said: [Vec<(f64, bool)>; 3],
}

impl Table {
    /// One case, seen with the onset given, left out, and late; tells whom the first of these named wrongly.
    fn add(&mut self, set: &str, title: &str, truth: &str, candidates: f64, seen: [Snapshot; 3]) {
        let row = self.rows.entry(set.to_owned()).or_default();
        let right = |name: Option<String>| {
            // A pod is its service's.
            name.is_some_and(|name| {
                name == truth || name.strip_prefix(truth).is_some_and(|r| r.starts_with('-'))
            })
        };
        let one = |right: bool| f64::from(u8::from(right));
        row.cases += 1.0;
        row.chance += 1.0 / candidates;
        row.shift += one(right(largest_shift(&seen[0])));
        row.span += one(right(deepest_failure(&seen[0])));
        for (at, snapshot) in seen.iter().enumerate() {
            let diagnosis = analyze(snapshot, &Options::default());
            let first = diagnosis.root_causes.first();
            let name = first.and_then(|cause| cause.service.as_ref()).map(|service| service.name.as_str());
            let is_right = name == Some(truth);
            row.ours[at] += one(is_right);
            if at == 0 && !is_right {
                println!("{set}, {title}: {} and not {truth}", name.unwrap_or("nobody"));
                tell(snapshot, truth);
            }
            if let Some(cause) = first {
                self.said[at].push((cause.probability, is_right));
            }
        }
    }

    fn print(&self) {
        println!(
            "| incidents | cases | chance | largest shift | deepest failing span | onset given | found | late |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        for (set, row) in &self.rows {
            let share = |count: f64| format!("{:.2}", count / row.cases);
            let cells = [row.chance, row.shift, row.span, row.ours[0], row.ours[1], row.ours[2]].map(share);
            println!("| {set} | {} | {} |", row.cases, cells.join(" | "));
        }
        println!(
            "\n| probability of the first answer | answers | said on average | right |\n| --- | --- | --- | --- |"
        );
        for (low, high) in [(0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.01)] {
            let (count, mean, right) = bin(&self.said[0], low, high);
            println!("| {low} to {:.1} | {count} | {mean:.2} | {right:.2} |", high.min(1.0));
        }
        let errors = self.said.each_ref().map(|said| format!("{:.3}", calibration_error(said)));
        println!("\nexpected calibration error with the onset given, found and late: {}", errors.join(", "));
    }
}

/// Of the answers said with so much: how many there are, how likely they are said to be, and how many are right.
fn bin(said: &[(f64, bool)], low: f64, high: f64) -> (usize, f64, f64) {
    let bin: Vec<&(f64, bool)> = said.iter().filter(|(p, _)| (low..high).contains(p)).collect();
    let count = bin.len().max(1) as f64;
    let mean = bin.iter().map(|(p, _)| p).sum::<f64>() / count;
    (bin.len(), mean, bin.iter().filter(|(_, right)| *right).count() as f64 / count)
}

/// The mean distance between what was said and what is right, over ten bins.
fn calibration_error(said: &[(f64, bool)]) -> f64 {
    let all = said.len().max(1) as f64;
    let bins =
        (0..10).map(|at| bin(said, f64::from(at) / 10.0, f64::from(at + 1) / 10.0 + f64::from(at / 9)));
    bins.map(|(count, mean, right)| count as f64 / all * (mean - right).abs()).sum()
}

/// The numbered folders below a folder, in order.
fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).expect("a folder of incidents");
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn answers(_: &mut Criterion) {
    let mut table = Table::default();
    match std::env::var_os("MESHSCOPE_INCIDENTS") {
        Some(root) => {
            for (set, case) in folders(Path::new(&root))
                .iter()
                .flat_map(|set| folders(set).into_iter().map(move |case| (set, case)))
            {
                let Ok(truth) = std::fs::read(case.join("truth.json")) else { continue };
                let truth: serde_json::Value = serde_json::from_slice(&truth).expect("JSON");
                let Some(service) = truth["service"].as_str() else { continue };
                let seen = |onset: &dyn Fn(Option<Timestamp>) -> Option<Timestamp>| {
                    let mut snapshot =
                        assemble(bundle::read(&[case.join("bundle.tar.gz")]).expect("a bundle"));
                    snapshot.onset = onset(snapshot.onset);
                    snapshot
                };
                let begun: Option<Timestamp> = truth["onset"].as_str().and_then(|at| at.parse().ok());
                let late = begun.map(|at| at + SignedDuration::from_secs(60));
                let all = [seen(&|said| said), seen(&|_| None), seen(&|said| late.or(said))];
                let name = |of: &Path| of.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let candidates = truth["candidates"].as_f64().unwrap_or(1.0).max(1.0);
                table.add(&name(set), &name(&case), service, candidates, all);
            }
        }
        None => {
            for (what, make) in
                [("", incident::incident as fn(u64, bool) -> Incident), ("unlike, ", incident::unlike)]
            {
                let mut accused = 0;
                let mut runs = 0;
                for seed in seeds() {
                    let made = make(seed, true);
                    let seen = [Said::Given, Said::Absent, Said::Late].map(|said| made.snapshot(said));
                    let set = format!("{what}{}", made.sources);
                    table.add(&set, &made.title, &made.culprit, made.services as f64, seen);
                    let calm = make(seed, false);
                    let answer = analyze(&calm.snapshot(Said::Absent), &Options::default());
                    runs += 1;
                    if let Some(first) = answer.root_causes.first().filter(|first| first.probability >= 0.5) {
                        accused += 1;
                        println!(
                            "{what}calm {}: {} with {:.2}",
                            calm.title, first.subject, first.probability
                        );
                        tell(&calm.snapshot(Said::Absent), "");
                    }
                }
                println!("{what}calm: {accused} of {runs} accuse somebody");
            }
        }
    }
    table.print();
}

criterion_group!(benches, series, answers);
criterion_main!(benches);
