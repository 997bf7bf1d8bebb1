//! What must not change an answer: units, times, the order of input, names.

use super::anomalies;
use crate::analyze::causal::suspects::Suspects;
use crate::analyze::onset::{Onset, candidates};
use crate::model::series::Series;
use crate::model::snapshot::{Builder, Snapshot};
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
