//! What must not change an answer: units, times, the order of input, names.

use super::anomalies;
use crate::analyze::anomaly::Kind;
use crate::analyze::causal::suspects::Suspects;
use crate::analyze::onset::{Onset, candidates};
use crate::model::series::Series;
use crate::model::snapshot::{Builder, Snapshot, Target};
use crate::model::time::from_unix;

/// How a snapshot is to differ from the plain one.
struct Variant {
    scale: f64,
    later: f64,
    reversed: bool,
    prefix: &'static str,
}

const PLAIN: Variant = Variant { scale: 1.0, later: 0.0, reversed: false, prefix: "svc" };

/// Five services with three series each; the processor and the latency of the third rise at the 20th of 30 minutes.
fn snapshot(variant: &Variant) -> Snapshot {
    let mut all = vec![];
    for service in 0..5 {
        for metric in ["cpu_usage", "request_duration", "requests"] {
            let value = |n: usize| {
                let noise = ((n * 7919 + service * 131 + metric.len() * 17) % 100) as f64 / 10.0;
                let risen = service == 2 && metric != "requests" && n >= 20;
                (100.0 + noise + if risen { 400.0 } else { 0.0 }) * variant.scale
            };
            let points = (0..30).map(|n| (variant.later + n as f64 * 60.0, value(n))).collect();
            let labels = [
                ("namespace".to_owned(), "n".to_owned()),
                ("service".to_owned(), format!("{}{service}", variant.prefix)),
            ];
            all.push(Series { name: metric.to_owned(), labels: labels.into(), points });
        }
    }
    if variant.reversed {
        all.reverse();
    }
    let mut builder = Builder::new();
    builder.series(all);
    builder.onset(from_unix(variant.later + 1200.0));
    builder.finish()
}

/// What somebody said, as it is compared against.
fn said(snapshot: &Snapshot) -> Option<Onset> {
    candidates(snapshot, &[]).first().map(|candidate| candidate.onset)
}

/// What deviates, without names and times: kind, strength and ratio, in order.
fn told(snapshot: &Snapshot) -> Vec<(&'static str, i64, i64)> {
    let thousandth = |value: f64| (value * 1000.0).round() as i64;
    anomalies(snapshot, said(snapshot))
        .iter()
        .map(|a| (a.kind.as_str(), thousandth(a.strength), thousandth(a.log_lr)))
        .collect()
}

#[test]
fn the_service_that_deviates_is_the_first_suspect() {
    let suspects = snapshot(&PLAIN).derived::<Suspects>();
    assert_eq!(suspects.all.first().map(|s| s.service.name.as_str()), Some("svc2"));
    assert!(suspects.all[0].probability > 0.8, "{}", suspects.all[0].probability);
}

#[test]
fn neither_units_nor_times_nor_order_nor_names_change_an_answer() {
    let plain = told(&snapshot(&PLAIN));
    assert!(!plain.is_empty());
    for variant in [
        Variant { scale: 1024.0, ..PLAIN },
        Variant { scale: 1.0 / 1024.0, ..PLAIN },
        Variant { later: 1_700_000_040.0, ..PLAIN },
        Variant { reversed: true, ..PLAIN },
        Variant { prefix: "other-name-", ..PLAIN },
    ] {
        assert_eq!(told(&snapshot(&variant)), plain);
    }
}

#[test]
fn the_same_input_gives_the_same_answer() {
    let (a, b) = (snapshot(&PLAIN), snapshot(&PLAIN));
    assert_eq!(anomalies(&a, said(&a)), anomalies(&b, said(&b)));
}

/// One series of a service.
fn series(name: &str, service: &str, points: Vec<(f64, f64)>) -> Series {
    let labels = [("namespace".to_owned(), "n".to_owned()), ("service".to_owned(), service.to_owned())];
    Series { name: name.to_owned(), labels: labels.into(), points }
}

/// The suspects of some series, with the onset given.
fn suspects(all: Vec<Series>, onset: f64) -> Suspects {
    let mut builder = Builder::new();
    builder.series(all);
    builder.onset(from_unix(onset));
    (*builder.finish().derived::<Suspects>()).clone()
}

fn wobble(n: usize) -> f64 {
    10.0 + (n * 7919 % 100) as f64 / 100.0
}

#[test]
fn a_service_of_which_nothing_goes_on_is_suspected_before_those_that_fail_for_it() {
    let mut all = vec![];
    for (service, until) in [("front", 30), ("back", 24)] {
        for name in ["cpu_usage", "memory_bytes", "requests_per_second"] {
            all.push(series(name, service, (0..until).map(|n| (n as f64 * 60.0, wobble(n))).collect()));
        }
    }
    let errors = (0..30).map(|n| (n as f64 * 60.0, if n >= 24 { 0.4 } else { 0.0 })).collect();
    all.push(series("error_ratio", "front", errors));
    let found = suspects(all, 24.0 * 60.0);
    assert_eq!(found.anomalies.iter().filter(|a| a.kind == Kind::Missing).count(), 1);
    assert!(
        found.all.iter().any(|one| one.service.name == "back" && one.probability > 0.3),
        "{:?}",
        found.all
    );
}

#[test]
fn what_happened_before_now_and_then_says_less_when_it_happens_again() {
    let blips = |often: usize| {
        let value = |n: usize| if n > 0 && n < 90 && n.is_multiple_of(often) || n >= 95 { 0.1 } else { 0.0 };
        let points = (0..100).map(|n| (n as f64 * 60.0, value(n))).collect();
        let found = suspects(vec![series("error_ratio", "a", points)], 95.0 * 60.0);
        found.anomalies.first().map_or(0.0, |anomaly| anomaly.log_lr)
    };
    assert!(blips(7) < 0.7 * blips(1000), "{} {}", blips(7), blips(1000));
}

#[test]
fn what_takes_half_a_minute_to_show_is_seen_in_points_of_seconds() {
    let risen = |n: usize| if n >= 940 { 4.0 } else { 1.0 };
    let points = (0..1200).map(|n| (n as f64, wobble(n) * risen(n))).collect();
    let calm = (0..1200).map(|n| (n as f64, wobble(n + 3))).collect();
    let found = suspects(vec![series("cpu", "a", points), series("cpu", "b", calm)], 900.0);
    let first = found.all.first();
    assert!(first.is_some_and(|one| one.service.name == "a" && one.probability > 0.5), "{first:?}");
    let onset = found.anomalies.first().and_then(|anomaly| anomaly.onset);
    assert!(onset.is_some_and(|at| (920..980).contains(&at.as_second())), "{onset:?}");
}

#[test]
fn without_an_onset_what_lasts_comes_before_what_passed() {
    let errors = |service: &str, from: usize, to: usize| {
        let value = |n: usize| if (from..to).contains(&n) { 0.6 } else { 0.0 };
        series("error_ratio", service, (0..60).map(|n| (n as f64 * 60.0, value(n))).collect())
    };
    let mut builder = Builder::new();
    builder.series(vec![errors("earlier", 40, 45), errors("now", 54, 60)]);
    let found = builder.finish().derived::<Suspects>();
    assert_eq!(found.all.first().map(|one| one.service.name.as_str()), Some("now"), "{:?}", found.all);
}

#[test]
fn who_accounts_for_what_others_show_is_suspected_more() {
    let fails = |service: &str, after: f64| {
        let value = |n: usize| if n >= 24 { after } else { wobble(n) / 10_000.0 };
        series("error_ratio", service, (0..30).map(|n| (n as f64 * 60.0, value(n))).collect())
    };
    let found = |called: bool| {
        let mut builder = Builder::new();
        builder.series(vec![fails("a", 0.2), fails("b", 0.25), fails("c", 0.2)]);
        if called {
            builder.target(Some(Target { namespace: "n".to_owned(), services: vec![] }));
            builder.edge("a", "b");
            builder.edge("c", "b");
        }
        builder.onset(from_unix(24.0 * 60.0));
        let suspects = builder.finish().derived::<Suspects>();
        suspects.all.iter().find(|one| one.service.name == "b").map_or(0.0, |one| one.probability)
    };
    assert!(found(true) > 0.9 && found(false) < 0.7, "{} {}", found(true), found(false));
}

#[test]
fn a_running_cluster_without_an_onset_is_not_judged_by_its_series() {
    let judged = |running: bool| {
        let mut plain = Builder::new();
        if running {
            plain.object(crate::model::json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-0", "namespace": "n"},
                "status": {"phase": "Running"}}));
        }
        let risen = |n: usize| if n >= 24 { 0.5 } else { 0.0 };
        plain.series(vec![series(
            "error_ratio",
            "a",
            (0..30).map(|n| (n as f64 * 60.0, risen(n))).collect(),
        )]);
        plain.finish().derived::<Suspects>().all.len()
    };
    assert_eq!((judged(false), judged(true)), (1, 0));
}

/// What deviates of a service's latency at a load that peaks for the first ten minutes of 100 and for the last 20, and falls and rises in between; the
/// latency is `extra` ms more in the last 20 minutes, in each of which `load` is a factor of the usual load.
fn by_load(load: f64, extra: f64) -> Vec<(Kind, f64)> {
    let loads: Vec<f64> = (0..100)
        .map(|n: u32| match n {
            0..8 => 300.0,
            8..80 => 100.0 + 10.0 * f64::from(n % 7) + if n.is_multiple_of(9) { 60.0 } else { 0.0 },
            _ => 100.0 * load,
        })
        .collect();
    let latency = |(n, load): (usize, &f64)| {
        20.0 + 0.3 * load + [0.0, 1.0, 2.0, 0.5][n % 4] + if n >= 80 { extra } else { 0.0 }
    };
    let latencies = loads.iter().enumerate().map(latency).collect();
    let series = |name: &str, values: Vec<f64>| Series {
        name: name.to_owned(),
        labels: [("namespace".to_owned(), "n".to_owned()), ("service".to_owned(), "a".to_owned())].into(),
        points: values.into_iter().enumerate().map(|(n, value)| (n as f64 * 60.0, value)).collect(),
    };
    let mut builder = Builder::new();
    builder.series(vec![series("requests_per_second", loads.clone()), series("latency_ms", latencies)]);
    builder.onset(from_unix(4800.0));
    let snapshot = builder.finish();
    anomalies(&snapshot, said(&snapshot))
        .into_iter()
        .map(|a| (a.kind, a.log_lr))
        .filter(|(kind, _)| *kind == Kind::Latency)
        .collect()
}

#[test]
fn what_follows_from_the_load_is_no_deviation_and_hides_none() {
    assert_eq!(by_load(2.9, 0.0), [], "as slow as at this load before");
    assert!(
        by_load(2.9, 60.0).first().is_some_and(|(_, log_lr)| *log_lr > 2.0),
        "slower than this load explains"
    );
    assert!(by_load(1.0, 30.0).first().is_some_and(|(_, log_lr)| *log_lr > 2.0), "slower, and not busier");
    // Nobody knows how it goes on at a load that was never seen: what exceeds the curve's end is told.
    assert!(by_load(9.0, 0.0).first().is_some_and(|(_, log_lr)| *log_lr > 2.0));
}
