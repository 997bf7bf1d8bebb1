//! What the spans of a snapshot do not show: parents that are missing, services that send none, requests that were not sampled.

use std::collections::{BTreeMap, BTreeSet};

use super::measure::Measured;
use crate::analyze::onset::Estimate;
use crate::model::gap::{Gap, GapReason};
use crate::model::graph::Provenance;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::span::Kind;
use crate::model::traffic::Reporter;

/// The share of spans without their parent from which on it is told: the edges of what was fetched always lack some.
const BROKEN: f64 = 0.01;
/// Requests below which no share of sampling is told.
const ENOUGH: u64 = 20;
/// Spans show all requests from this share on.
const ALL: f64 = 0.9;
/// Services that are named.
const MAX_NAMED: usize = 4;
/// Spans before the onset that a comparison needs.
const BEFORE: usize = 5;

/// What is missing, as gaps.
pub fn gaps(snapshot: &Snapshot) -> Vec<Gap> {
    if snapshot.spans.is_empty() {
        return vec![];
    }
    let measured = snapshot.derived::<Measured>();
    let mut out: Vec<Gap> = broken(snapshot, &measured).into_iter().collect();
    out.extend(silent(snapshot));
    out.extend(sampled(snapshot, &measured));
    out.extend(no_baseline(snapshot));
    out
}

/// Names, the first few of them.
fn names<'a>(all: impl IntoIterator<Item = &'a ServiceName>) -> String {
    let mut all: Vec<String> = all.into_iter().map(ToString::to_string).collect();
    let more = all.len().saturating_sub(MAX_NAMED);
    all.truncate(MAX_NAMED);
    if more > 0 { format!("{} and {more} more", all.join(", ")) } else { all.join(", ") }
}

/// Spans whose parents are missing.
fn broken(snapshot: &Snapshot, measured: &Measured) -> Option<Gap> {
    let spans = &snapshot.spans;
    let mut traces = BTreeSet::new();
    let mut below: BTreeMap<usize, usize> = BTreeMap::new();
    for (_, span) in spans.all().iter().enumerate().filter(|(at, _)| measured.forest.is_orphan(*at)) {
        traces.insert(span.trace);
        *below.entry(spans.service_index(span)).or_default() += 1;
    }
    let lost: usize = below.values().sum();
    if (lost as f64) < BROKEN * spans.all().len() as f64 || lost == 0 {
        return None;
    }
    let mut most: Vec<(usize, usize)> = below.into_iter().map(|(service, count)| (count, service)).collect();
    most.sort_by_key(|(count, service)| (std::cmp::Reverse(*count), *service));
    let named = names(most.iter().filter_map(|(_, service)| spans.services().get(*service)));
    let what = format!(
        "the callers of {lost} of {} spans, in {} of {} traces: whoever called {named} left no span",
        spans.all().len(),
        traces.len(),
        spans.traces().count()
    );
    Some(Gap::new("Traces", what, GapReason::Absent).hint(
        "let all services decide on sampling as their caller did (parent-based), hand on the trace headers, and look at what collectors drop",
    ))
}

/// Services that are called in spans and write none.
fn silent(snapshot: &Snapshot) -> Option<Gap> {
    let writes = snapshot.spans.services();
    let called: BTreeSet<&ServiceName> = snapshot
        .graph
        .edges
        .iter()
        .filter(|(_, edge)| edge.provenance.contains(&Provenance::Trace))
        .map(|((_, callee), _)| callee)
        .filter(|callee| writes.binary_search(callee).is_err())
        .collect();
    if called.is_empty() {
        return None;
    }
    let what = format!("spans of {}: they are called and send none", names(called));
    Some(Gap::new("Traces", what, GapReason::Absent).hint(
        "instrument them, or let the mesh's proxies send spans; until then their time counts as their callers' own",
    ))
}

/// Services of which spans show fewer requests than access logs count.
fn sampled(snapshot: &Snapshot, measured: &Measured) -> Option<Gap> {
    let spans = &snapshot.spans;
    let mut shown: BTreeMap<&ServiceName, u64> = BTreeMap::new();
    for (at, span) in spans.all().iter().enumerate().filter(|(_, span)| !span.is_outgoing()) {
        let from_outside = measured.forest.parent(at).and_then(|parent| spans.all().get(parent));
        let enters = span.kind == Kind::Server
            || from_outside.is_none_or(|parent| spans.service_index(parent) != spans.service_index(span));
        if let Some(service) = spans.service(span).filter(|_| enters) {
            *shown.entry(service).or_default() += 1;
        }
    }
    let mut counted: BTreeMap<&ServiceName, [u64; 2]> = BTreeMap::new();
    for edge in &snapshot.traffic {
        let Some(service) = &edge.service else { continue };
        let [source, destination] = counted.entry(service).or_default();
        match edge.reporter {
            Reporter::Source => *source += edge.requests,
            Reporter::Destination => *destination += edge.requests,
        }
    }
    let few = counted.into_iter().filter_map(|(service, [source, destination])| {
        let (all, seen) = (source.max(destination), *shown.get(service)?);
        (all >= ENOUGH && (seen as f64) < ALL * all as f64).then_some((
            seen as f64 / all as f64,
            service,
            seen,
            all,
        ))
    });
    let (share, service, seen, all) = few.min_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)))?;
    let what =
        format!("spans of all requests: at {service} they show {seen} of {all} ({:.0} %)", 100.0 * share);
    Some(Gap::new("Traces", what, GapReason::Truncated).hint(
        "sampling leaves the rest out: what is rare may be missing, and no count of spans is a count of requests",
    ))
}

/// Spans from after the onset alone.
fn no_baseline(snapshot: &Snapshot) -> Option<Gap> {
    let onset = snapshot.derived::<Estimate>().0?;
    let at = i64::try_from(onset.at.as_nanosecond()).ok()?;
    let before = snapshot.spans.all().iter().filter(|span| span.start < at).take(BEFORE).count();
    (before < BEFORE).then(|| {
        Gap::new("Traces", "spans from before the onset", GapReason::Absent)
            .hint("fetch some minutes from before the trouble too: whatever deviates is compared with them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::log::LogStream;
    use crate::model::snapshot::Builder;
    use crate::model::span::{SpansBuilder, read};

    fn told(spans: Value, more: impl FnOnce(&mut Builder)) -> Vec<String> {
        let mut found = SpansBuilder::default();
        assert!(read("f", spans.to_string().as_bytes(), &mut found).is_empty());
        let mut builder = Builder::new();
        builder.spans(found.finish());
        more(&mut builder);
        gaps(&builder.finish()).into_iter().map(|gap| gap.what).collect()
    }

    fn span(trace: usize, id: &str, parent: &str, service: &str, kind: &str) -> Value {
        json!({"traceId": format!("{:x}", trace + 1), "id": id, "parentId": parent, "kind": kind, "name": "do", "duration": 5,
            "timestamp": 1_700_000_000_000_000u64 + trace as u64, "localEndpoint": {"serviceName": service}, "remoteEndpoint": {"serviceName": if kind == "CLIENT" { "db" } else { "" }}})
    }

    #[test]
    fn whole_traces_have_no_gap() {
        let whole = (0..30).flat_map(|t| [span(t, "1", "", "a", "SERVER"), span(t, "2", "1", "b", "SERVER")]);
        assert!(told(whole.collect(), |_| {}).is_empty());
        assert!(gaps(&Snapshot::default()).is_empty());
    }

    #[test]
    fn missing_parents_and_silent_services_are_told() {
        let spans = (0..30).flat_map(|t| {
            [
                span(t, "1", if t % 3 == 0 { "99" } else { "" }, "a", "SERVER"),
                span(t, "2", "1", "a", "CLIENT"),
            ]
        });
        let said = told(spans.collect(), |builder| {
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": ""}, "spec": {"selector": {"app": "db"}}}));
        });
        assert_eq!(
            said,
            [
                "the callers of 10 of 60 spans, in 10 of 30 traces: whoever called /a left no span",
                "spans of /db: they are called and send none"
            ]
        );
    }

    #[test]
    fn a_sample_is_told_beside_what_access_logs_count() {
        let object = |builder: &mut Builder| {
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"}, "spec": {"selector": {"app": "a"}}}));
            let line = r#"[2026-11-22T03:04:12.766Z] "GET / HTTP/1.1" 200 - via_upstream - "-" 0 45 25 25 "-" "x" "id" "a" "10.0.0.1:80" outbound|80||a.n.svc.cluster.local 10.0.0.2:1 10.0.0.3:80 10.0.0.2:2 - default"#;
            let text = format!("{line}\n").repeat(100);
            builder.log(LogStream::read("n", "front-0", "istio-proxy", false, text.as_bytes(), false));
        };
        let spans = |count: usize| (0..count).map(|t| span(t, "1", "", "a.n", "SERVER")).collect();
        assert_eq!(told(spans(5), object), ["spans of all requests: at n/a they show 5 of 100 (5 %)"]);
        assert!(told(spans(99), object).is_empty());
    }
}
