use super::*;
use crate::analyze::anomaly::{Direction, Kind, Place};
use crate::model::log::LogStream;
use crate::model::snapshot::Builder;

/// A minute of the tests' clock, as the runtime writes it.
fn at(second: usize) -> String {
    format!("2026-11-22T10:{:02}:{:02}.{:06}Z", second / 60, second % 60, second)
}

fn snapshot(logs: &[(&str, String)]) -> Snapshot {
    let mut builder = Builder::new();
    for (pod, text) in logs {
        builder.log(LogStream::read("shop", pod, "app", false, text.as_bytes(), false));
    }
    builder.finish()
}

fn onset(second: usize) -> Option<Timestamp> {
    at(second).parse().ok()
}

fn name(service: &str) -> ServiceName {
    ServiceName::new("shop", service)
}

/// Lines of a service that does its work every second.
fn calm(seconds: std::ops::Range<usize>) -> String {
    seconds.map(|s| format!("{} INFO handled order {s} in {} ms\n", at(s), s % 7)).collect()
}

#[test]
fn a_new_error_counts_where_it_stands_and_values_do_not_make_it_many() {
    let errors: String =
        (300..600).step_by(10).map(|s| format!("{} ERROR no tariff for region {s}\n", at(s))).collect();
    let logs = snapshot(&[("pay-0", calm(0..600) + &errors), ("cart-0", calm(0..600))]);
    for known in [onset(300), onset(360), None] {
        let found = anomalies(&logs, known);
        let first = &found[0];
        assert_eq!(
            (&first.place, first.kind),
            (&Place::Service(name("pay")), Kind::NewTemplate),
            "{known:?}"
        );
        assert!(first.log_lr > 0.8 && first.onset == onset(300), "{first:?}");
        assert_eq!(found.iter().filter(|a| a.log_lr > 0.5).count(), 1, "{found:?}");
    }
}

#[test]
fn what_is_as_before_is_silent_whatever_the_load() {
    let errors: String =
        (0..600).step_by(10).map(|s| format!("{} ERROR no tariff for region {s}\n", at(s))).collect();
    // Twice the load from the middle on.
    let more: String = (300..600).map(|s| format!("{} INFO handled order {s} in 3 ms\n", at(s))).collect();
    let logs = snapshot(&[("pay-0", calm(0..600) + &more + &errors), ("cart-0", calm(0..600) + &more)]);
    assert_eq!(anomalies(&logs, onset(300)), []);
    assert_eq!(anomalies(&snapshot(&[]), onset(300)), []);
}

#[test]
fn a_clients_error_blames_the_one_that_it_called() {
    let errors: String = (300..600)
        .step_by(5)
        .map(|s| format!("{} ERROR Get \"http://pay:8080/a/{s}\": dial tcp 10.0.0.1:8080: connect: connection refused\n", at(s)))
        .collect();
    let logs = snapshot(&[("cart-0", calm(0..600) + &errors), ("pay-0", calm(0..600))]);
    let found = anomalies(&logs, onset(300));
    assert_eq!(found[0].place, Place::Edge { caller: name("cart"), callee: name("pay") });
    assert_eq!((found[0].blames.as_ref(), found[0].kind), (Some(&name("pay")), Kind::Errors));
}

/// One request every second through two services, the lines of each with its id.
fn requests(seconds: std::ops::Range<usize>, fails: impl Fn(usize) -> bool) -> [(&'static str, String); 2] {
    let (mut front, mut back) = (String::new(), String::new());
    for s in seconds {
        let id = format!("TraceID: {:032x}", s * 7919 + 1_000_000_007);
        let line = |log: &mut String, micros: usize, level: &str, words: &str| {
            log.push_str(&format!(
                "2026-11-22T10:{:02}:{:02}.{micros:06}Z {level} {id} {words}\n",
                s / 60,
                s % 60
            ));
        };
        line(&mut front, 100, "INFO", "got order");
        line(&mut back, 200, "INFO", "asked for tariff");
        if fails(s) {
            line(&mut front, 900, "ERROR", "order could not be priced");
        } else {
            line(&mut back, 300, "INFO", "tariff found");
            line(&mut back, 400, "INFO", "tariff sent");
            line(&mut front, 900, "INFO", "order priced");
        }
    }
    [("front-0", front), ("rates-0", back)]
}

#[test]
fn a_silent_early_return_is_found_by_the_line_that_no_longer_follows() {
    let logs = snapshot(&requests(0..600, |s| s >= 300 && s % 3 == 0));
    for known in [onset(300), onset(360)] {
        let found = anomalies(&logs, known);
        let rates = found.iter().find(|a| a.place == Place::Service(name("rates"))).unwrap();
        assert_eq!((rates.kind, rates.direction), (Kind::VanishedTemplate, Direction::Gone));
        assert!(
            rates.what.contains("asked for tariff → ") && rates.evidence[0].value.contains("nothing more"),
            "{rates:?}"
        );
    }
}

#[test]
fn requests_that_fail_all_the_time_are_no_news() {
    let logs = snapshot(&requests(0..600, |s| s % 3 == 0));
    assert_eq!(anomalies(&logs, onset(300)), []);
}

#[test]
fn neither_order_of_pods_nor_a_shift_of_time_nor_names_change_anything() {
    let shape = |logs: &[(&str, String)], onset: Option<Timestamp>| -> Vec<(Kind, Direction, String, f64)> {
        let found = anomalies(&snapshot(logs), onset);
        found.into_iter().map(|a| (a.kind, a.direction, a.what, a.log_lr)).collect()
    };
    let [front, back] = requests(0..600, |s| s >= 300 && s % 3 == 0);
    let there = shape(&[front.clone(), back.clone()], onset(300));
    assert!(!there.is_empty());
    assert_eq!(shape(&[back.clone(), front.clone()], onset(300)), there);
    let other = |(_, text): (&str, String), name: &'static str| (name, text);
    assert_eq!(shape(&[other(front.clone(), "zz-0"), other(back.clone(), "aa-0")], onset(300)), there);
    let later = |(pod, text): (&'static str, String)| (pod, text.replace("2026-11-22T10", "2026-11-22T17"));
    let shifted = onset(300).map(|at| at + jiff::SignedDuration::from_hours(7));
    assert_eq!(shape(&[later(front), later(back)], shifted), there);
}

#[test]
fn no_bytes_are_too_strange() {
    let mut state = 7u64;
    for round in 0..40 {
        let mut bytes = vec![];
        for _ in 0..4000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let byte = (state >> 33) as u8;
            // Every other round is made of what logs are made of.
            bytes.push(if round % 2 == 0 {
                byte
            } else {
                b"{}[]()\"'=: \n\t0aZ-T.,\\"[usize::from(byte) % 21]
            });
        }
        let mut text = b"2026-11-22T10:00:00Z INFO begin\n".to_vec();
        text.extend(bytes);
        let mut builder = Builder::new();
        builder.log(LogStream::read("shop", "a-0", "app", false, &text, false));
        let snapshot = builder.finish();
        assert_eq!(anomalies(&snapshot, None), anomalies(&snapshot.clone(), None));
    }
}
