//! Calls that one request makes again and again: a query for each element of a list, a fan-out that grew, tries of a call that failed.

use std::collections::{BTreeMap, HashMap};

use super::measure::{Measured, Operation};
use super::sides::Sides;
use super::stats::{above, at_share, log_ratio_of_p, log_ratio_of_shares, p_of_above};
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal};
use crate::analyze::finding::Evidence;
use crate::model::span::{Span, Spans};
use crate::model::time::from_unix;

/// Spans that hold the call before the onset, and after it, below which nothing is said.
const LEAST: (usize, usize) = (5, 3);
/// A call is repeated from so many times within one span on: two and three are how programs are written.
const REPEATED: f64 = 4.0;
/// And from so many times what was usual.
const FOLD: f64 = 2.0;
/// The p-value beyond which nothing is said.
const P: f64 = 0.02;
/// What a repeated call is worth at most, by judgement: it says where the work comes from, and a larger order does the same.
const WORTH: f64 = 1.5;
/// What calls are worth at most that are tried again: that a try fails is said by its span as well.
const TRIED: f64 = 1.5;
/// Tries fail rarely: before anything is seen, one in twenty-one calls is tried again.
const PRIOR: (f64, f64) = (0.5, 10.0);
/// The share of calls that are tried again must rise by as much.
const CHANGE: f64 = 0.05;
/// Below this nothing is said.
const SAID: f64 = 0.5;

/// An operation of a service.
type Step = (usize, Operation);
/// Within what a call is made, and the call: what is done, and the service that is called where it is another one.
type Of = (Step, Step, Option<usize>);

/// How often a span made one call.
#[derive(Debug, Clone, Copy)]
struct Made {
    start: i64,
    count: u32,
    /// How many of them were tries after one that failed.
    tries: u32,
    /// Whether each began after the one before it had ended.
    in_turn: bool,
}

/// Calls that are repeated, and calls that are tried again, more than before the onset.
pub(super) fn anomalies(spans: &Spans, measured: &Measured, sides: &Sides) -> Vec<Anomaly> {
    let mut populations: BTreeMap<Of, Vec<Made>> = populations(spans, measured).into_iter().collect();
    let tests = populations.len();
    let mut out = vec![];
    for (of, made) in &mut populations {
        made.sort_unstable_by_key(|made| (made.start, made.count, made.tries));
        let split = made.partition_point(|made| made.start < sides.onset());
        let after = made.split_off(split);
        sides.calm(made, |made| made.start);
        if made.len() >= LEAST.0 && after.len() >= LEAST.1 {
            out.extend(repeated(spans, measured, *of, (made, &after), tests));
            out.extend(tried_again(spans, measured, *of, (made, &after)));
        }
    }
    out
}

fn populations(spans: &Spans, measured: &Measured) -> HashMap<Of, Vec<Made>> {
    let mut out: HashMap<Of, Vec<Made>> = HashMap::new();
    let mut calls: Vec<(Step, Option<usize>, &Span)> = vec![];
    for (at, span) in spans.all().iter().enumerate() {
        if span.is_outgoing() || measured.callee(at).is_some() {
            continue;
        }
        calls.clear();
        for child in measured.forest.children(at) {
            let Some(inner) = spans.all().get(child) else { continue };
            let step = (spans.service_index(inner), measured.operation_of(inner.operation));
            let callee = measured.callee(child).and_then(|callee| spans.all().get(callee));
            calls.push((step, callee.map(|callee| spans.service_index(callee)), inner));
        }
        // Children come in order of start, and a stable sort leaves them so.
        calls.sort_by_key(|(step, callee, _)| (*step, *callee));
        let own = (spans.service_index(span), measured.operation_of(span.operation));
        for same in calls.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let Some((step, callee, _)) = same.first() else { continue };
            out.entry((own, *step, *callee)).or_default().push(made(span.start, same));
        }
    }
    out
}

fn made(start: i64, same: &[(Step, Option<usize>, &Span)]) -> Made {
    let pairs = || same.iter().zip(same.iter().skip(1)).map(|((.., a), (.., b))| (*a, *b));
    let again = |(first, second): &(&Span, &Span)| {
        second.attempt > 0 || (first.failed() && first.end() <= second.start)
    };
    let alone = same.first().is_some_and(|(.., span)| span.attempt > 0);
    Made {
        start,
        count: same.len() as u32,
        tries: pairs().filter(again).count() as u32 + u32::from(alone),
        in_turn: pairs().all(|(first, second)| first.end() <= second.start),
    }
}

fn counts(made: &[Made]) -> Vec<f64> {
    // A call that is tried again is wanted once.
    let mut out: Vec<f64> =
        made.iter().map(|made| f64::from(made.count - made.tries.min(made.count - 1))).collect();
    out.sort_unstable_by(f64::total_cmp);
    out
}

/// What the anomalies of a call have in common: who makes it, who is called, and both in words.
fn named(spans: &Spans, measured: &Measured, (within, step, callee): Of) -> Option<(Place, Place, String)> {
    let service = spans.services().get(within.0)?.clone();
    let other = callee.unwrap_or(step.0);
    let other = spans.services().get(other).filter(|other| **other != service);
    let called = measured.operation(step.1);
    let what = match other {
        Some(other) => format!("{} → {called} ({})", measured.operation(within.1), other.name),
        None => format!("{} → {called}", measured.operation(within.1)),
    };
    let edge = match other {
        Some(other) => Place::Edge { caller: service.clone(), callee: other.clone() },
        None => Place::Service(service.clone()),
    };
    Some((Place::Service(service), edge, what))
}

fn since(made: &[Made], begun: impl Fn(&Made) -> bool) -> (Option<jiff::Timestamp>, f64) {
    let first = made.iter().find(|made| begun(made)).and_then(|made| from_unix(made.start as f64 / 1e9));
    let length = made.first().zip(made.last()).map_or(0, |(a, b)| b.start.saturating_sub(a.start));
    (first, length as f64 / 1e9 / made.len().max(1) as f64)
}

/// The same call more often within one span than before.
fn repeated(
    spans: &Spans,
    measured: &Measured,
    of: Of,
    (before, after): (&[Made], &[Made]),
    tests: usize,
) -> Option<Anomaly> {
    let (old, new) = (counts(before), counts(after));
    let (was, is) = (at_share(&old, 0.5), at_share(&new, 0.5));
    let p = p_of_above(above(&old, &new), old.len(), new.len());
    if is < REPEATED || is < FOLD * was || p > P {
        return None;
    }
    let weight = log_ratio_of_p(p, tests).min(WORTH);
    if weight < SAID {
        return None;
    }
    let (place, _, what) = named(spans, measured, of)?;
    let in_turn = after.iter().filter(|made| made.in_turn).count() * 2 > after.len();
    let how = if in_turn { "one after the other" } else { "at the same time" };
    let value =
        format!("{was:.0} times within each of {} spans before, {is:.0} times since, {how}", before.len());
    let evidence = Evidence::new("Span", place.to_string(), value).excerpt(&what);
    let (onset, gap) = since(after, |made| f64::from(made.count) >= FOLD * was);
    Some(
        Anomaly::new(place, Signal::Span, Kind::RepeatedCall, &what, Direction::Up)
            .weighing(weight, is / was.max(1.0))
            .values(was, is, "calls")
            .since(onset, gap)
            .evidence(evidence),
    )
}

/// A call that is tried again more often than before.
fn tried_again(
    spans: &Spans,
    measured: &Measured,
    of: Of,
    (before, after): (&[Made], &[Made]),
) -> Option<Anomaly> {
    let count = |made: &[Made]| (made.iter().filter(|made| made.tries > 0).count(), made.len());
    let (old, new) = (count(before), count(after));
    let share = |(k, n): (usize, usize)| k as f64 / n.max(1) as f64;
    if share(new) < share(old) + CHANGE {
        return None;
    }
    let weight = log_ratio_of_shares(old, new, PRIOR.0, PRIOR.1).min(TRIED);
    if weight < SAID {
        return None;
    }
    let (_, place, what) = named(spans, measured, of)?;
    let tries: u32 = after.iter().map(|made| made.tries).sum();
    let wanted: u32 = after.iter().map(|made| made.count).sum::<u32>() - tries;
    let value = format!(
        "tried again within {} of {} spans since, {} of {} before: {:.1} calls for each that is wanted",
        new.0,
        new.1,
        old.0,
        old.1,
        f64::from(tries + wanted) / f64::from(wanted.max(1))
    );
    let evidence = Evidence::new("Span", place.to_string(), value).excerpt(&what);
    let (onset, gap) = since(after, |made| made.tries > 0);
    Some(
        Anomaly::new(place, Signal::Span, Kind::Retries, &what, Direction::Up)
            .weighing(weight, f64::from(tries))
            .values(share(old), share(new), "share")
            .since(onset, gap)
            .evidence(evidence),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::traces::anomalies as all;
    use crate::model::json::{Value, json};
    use crate::model::snapshot::{Builder, Snapshot};
    use crate::model::span::{SpansBuilder, read};

    const EPOCH: u64 = 1_700_000_000;
    const ONSET: u64 = 60;

    /// A request each second: `cart` asks `stock` as often as told, one after the other or at once, and the first try of each
    /// fails where told.
    fn snapshot(asks: impl Fn(u64) -> u64, at_once: bool, fails: impl Fn(u64) -> bool) -> Snapshot {
        let mut spans: Vec<Value> = vec![];
        for second in 0..90u64 {
            let base = (EPOCH + second) * 1_000_000;
            let mut push = |id: u64, parent: u64, service: &str, kind: &str, from: u64, error: bool| {
                let mut tags = crate::model::json::Map::new();
                if error {
                    tags.insert("error".to_owned(), json!("timeout"));
                }
                spans.push(json!({"traceId": format!("{:x}", second + 1), "id": format!("{id:x}"), "parentId": format!("{parent:x}"), "kind": kind,
                    "name": if service == "cart" && kind == "SERVER" { "GET /cart" } else { "GET /item" }, "timestamp": base + from, "duration": if id == 1 { 900_000 } else { 1_000 },
                    "localEndpoint": {"serviceName": service}, "tags": tags}));
            };
            push(1, 0, "cart", "SERVER", 0, false);
            let tries = 1 + u64::from(fails(second));
            for call in 0..asks(second) * tries {
                let from = if at_once { 1_000 + call } else { 1_000 + call * 2_000 };
                let failed = fails(second) && call % 2 == 0;
                push(10 + 2 * call, 1, "cart", "CLIENT", from, failed);
                push(11 + 2 * call, 10 + 2 * call, "stock", "SERVER", from, failed);
            }
        }
        let mut builder = SpansBuilder::default();
        assert!(read("f", Value::from(spans).to_string().as_bytes(), &mut builder).is_empty());
        let mut snapshot = Builder::new();
        snapshot.spans(builder.finish());
        snapshot.finish()
    }

    fn of_kind(snapshot: &Snapshot, kind: Kind) -> Vec<Anomaly> {
        let onset = jiff::Timestamp::from_second((EPOCH + ONSET) as i64).ok();
        all(snapshot, onset).into_iter().filter(|anomaly| anomaly.kind == kind).collect()
    }

    #[test]
    fn a_query_for_each_element_is_told_where_it_is_made() {
        for at_once in [false, true] {
            let found = of_kind(
                &snapshot(|s| if s < ONSET { 1 + s % 2 } else { 20 + s % 3 }, at_once, |_| false),
                Kind::RepeatedCall,
            );
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].about().unwrap().name.as_str(), found[0].after), ("cart", 21.0));
            assert_eq!(found[0].what, "GET /cart → GET /item (stock)");
            assert_eq!(found[0].evidence[0].value.ends_with("at the same time"), at_once);
            assert_eq!(found[0].onset.unwrap().as_second() as u64, EPOCH + ONSET);
        }
    }

    #[test]
    fn always_many_or_a_little_more_is_no_news() {
        for asks in
            [|_: u64| 20, |second: u64| if second < ONSET { 1 } else { 3 }, |second: u64| 1 + second % 9]
        {
            assert!(of_kind(&snapshot(asks, false, |_| false), Kind::RepeatedCall).is_empty());
        }
    }

    #[test]
    fn tries_are_counted_and_are_no_repetition() {
        let known = snapshot(|_| 3, false, |second| second >= ONSET);
        let found = of_kind(&known, Kind::Retries);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].about().unwrap().name, "stock");
        assert!(found[0].evidence[0].value.ends_with("2.0 calls for each that is wanted"), "{found:?}");
        assert!(of_kind(&known, Kind::RepeatedCall).is_empty());
        assert!(of_kind(&snapshot(|_| 3, false, |second| second % 30 == 0), Kind::Retries).is_empty());
    }
}
