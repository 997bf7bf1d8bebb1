//! When it began, as spans and logs show it where no series does: spans that begin to fail or to last, errors that are new.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::clocks::Clocks;
use super::logs::digest::Digest;
use super::traces::{self, Measured};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

/// What one place says at most (natural logarithm): several must agree before an instant is believed against another.
const MOST: f64 = 5.0;
/// Less than this is chance.
const TELLING: f64 = 2.0;
/// What all together must say.
const CONVINCING: f64 = 4.0;
/// Beginnings so many microseconds apart are one: a failure shows with the next request, and callers after their callees.
const TOGETHER: i64 = 30_000_000;
/// An error is new where this share of all lines had come before it.
const MIN_BEFORE: f64 = 0.08;

/// Something that begins at one place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beginning {
    /// When, in microseconds since 1970.
    pub at: i64,
    /// How much speaks for it (natural logarithm of a likelihood ratio).
    pub weight: f64,
}

/// The instant at which most begins, and how many seconds it may be off. `None` where too little does.
pub fn together(snapshot: &Snapshot) -> Option<(Timestamp, f64)> {
    let clocks = snapshot.derived::<Clocks>();
    // Each place counts once for each source: what fails in many ways is one failure.
    let mut found: Vec<Beginning> = vec![];
    for (service, mut beginning) in of_spans(snapshot).into_iter().chain(of_logs(snapshot)) {
        beginning.at =
            beginning.at.saturating_sub(clocks.of_service(&service).map_or(0, |clock| clock.ahead / 1_000));
        found.push(beginning);
    }
    found.sort_by(|a, b| a.at.cmp(&b.at).then(b.weight.total_cmp(&a.weight)));
    let said = |from: usize| -> f64 {
        let own = found.iter().skip(from);
        let Some(first) = found.get(from) else { return 0.0 };
        own.take_while(|later| later.at.saturating_sub(first.at) <= TOGETHER).map(|later| later.weight).sum()
    };
    // Among equals the earliest.
    let best = (0..found.len()).rev().max_by(|a, b| said(*a).total_cmp(&said(*b)))?;
    let at = found.get(best)?.at;
    (said(best) >= CONVINCING).then_some(())?;
    Some((Timestamp::from_microsecond(at).ok()?, TOGETHER as f64 / 1e6))
}

/// The strongest beginning of each service's spans.
fn of_spans(snapshot: &Snapshot) -> Vec<(ServiceName, Beginning)> {
    if snapshot.spans.is_empty() {
        return vec![];
    }
    let measured = snapshot.derived::<Measured>();
    traces::beginnings(&snapshot.spans, &measured)
        .into_iter()
        .filter(|(_, beginning)| beginning.weight >= TELLING)
        .map(|(service, beginning)| (service, Beginning { weight: beginning.weight.min(MOST), ..beginning }))
        .collect()
}

/// The strongest new error of each service's logs.
fn of_logs(snapshot: &Snapshot) -> Vec<(ServiceName, Beginning)> {
    let digest = snapshot.derived::<Digest>();
    let events = &digest.events;
    let mut clock: Vec<i64> =
        events.services.values().flat_map(|log| log.events.iter().map(|event| event.at)).collect();
    clock.sort_unstable();
    let errors = events
        .services
        .values()
        .flat_map(|log| &log.templates)
        .filter(|template| template.is_error())
        .count();
    // The more errors there are, the likelier one of them comes late by chance.
    let chance = (errors.max(1) as f64).ln();
    let mut out = vec![];
    for (service, log) in &events.services {
        let mut lines: BTreeMap<u32, (i64, u64)> = BTreeMap::new();
        for event in &log.events {
            if log.templates.get(event.template as usize).is_some_and(|template| template.is_error()) {
                let known = lines.entry(event.template).or_insert((event.at, 0));
                *known = (known.0.min(event.at), known.1 + 1);
            }
        }
        let new = lines.into_values().filter_map(|(first, count)| {
            let before = clock.partition_point(|at| *at < first) as f64 / clock.len().max(1) as f64;
            // Had it always come as often, would none have come in all the time before?
            let weight = -(count as f64) * (1.0 - before).max(1e-6).ln() - chance;
            (before >= MIN_BEFORE && weight >= TELLING)
                .then_some(Beginning { at: first, weight: weight.min(MOST) })
        });
        // The first of those that say enough, for what follows from it is new as well.
        let best = new.reduce(|a, b| if (b.weight, a.at) > (a.weight, b.at) { b } else { a });
        out.extend(best.map(|beginning| (service.clone(), beginning)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::log::LogStream;
    use crate::model::snapshot::Builder;
    use crate::model::span::{SpansBuilder, read};

    const EPOCH: i64 = 1_700_000_000;
    const ONSET: i64 = 200;

    /// A request each second for five minutes: after the onset `pay` fails, or takes long.
    fn spans(fails: bool, slow: bool, reverse: bool) -> Snapshot {
        let mut spans: Vec<Value> = vec![];
        for second in 0..300i64 {
            let late = second >= ONSET;
            let length = 10_000 + second * 7919 % 20 * 100 + if slow && late { 40_000 } else { 0 };
            let base = (EPOCH + second) * 1_000_000;
            let span = |id: &str, parent: &str, service: &str, from: i64, length: i64, failed: bool| {
                let tags = if failed { json!({"error": "boom"}) } else { json!({}) };
                json!({"traceId": format!("{:x}", second + 1), "id": id, "parentId": parent, "name": "do", "kind": "SERVER",
                    "timestamp": base + from, "duration": length, "localEndpoint": {"serviceName": service}, "tags": tags})
            };
            // One in fifty fails anyhow.
            let failed = (fails && late) || second % 50 == 7;
            spans.push(span("1", "", "front", 0, length + 2_000, failed));
            spans.push(span("2", "1", "pay", 1_000, length, failed));
        }
        if reverse {
            spans.reverse();
        }
        let mut found = SpansBuilder::default();
        assert!(read("f", Value::from(spans).to_string().as_bytes(), &mut found).is_empty());
        let mut builder = Builder::new();
        builder.spans(found.finish());
        builder.finish()
    }

    #[test]
    fn spans_show_when_they_begin_to_fail_or_to_last() {
        for (fails, slow) in [(true, false), (false, true)] {
            for reverse in [false, true] {
                let (at, margin) = together(&spans(fails, slow, reverse)).unwrap();
                let away = at.as_second() - EPOCH - ONSET;
                assert!(away.abs() <= 10 && margin <= 30.0, "{away} s off, {fails} {slow}");
            }
        }
        assert_eq!(together(&spans(false, false, false)), None);
        assert_eq!(together(&Snapshot::default()), None);
    }

    #[test]
    fn a_new_error_in_a_log_is_a_beginning_and_an_old_one_is_none() {
        let of = |first: i64| {
            let mut builder = Builder::new();
            for pod in ["pay-0", "front-0"] {
                let lines = (0..300i64).map(|second| {
                    let time = Timestamp::from_second(EPOCH + second).unwrap();
                    let text = if second >= first && second % 5 == 0 {
                        "ERROR cannot reach the bank"
                    } else {
                        "INFO handled an order"
                    };
                    format!("{time} {text}\n")
                });
                builder.log(LogStream::read(
                    "n",
                    pod,
                    "app",
                    false,
                    lines.collect::<String>().as_bytes(),
                    false,
                ));
            }
            together(&builder.finish()).map(|(at, _)| at.as_second() - EPOCH)
        };
        assert_eq!(of(ONSET), Some(ONSET));
        assert_eq!(of(0), None);
        assert_eq!(of(1_000), None);
    }
}
