//! Who called whom, how often and how it went; what requests waited for; and what happened in which order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::{Line, Section, clock};
use crate::analyze::diagnosis::{Diagnosis, TimelineEntry, Verdict};
use crate::analyze::traces::path::{Part, Requests};
use crate::model::graph::{Edge, Provenance};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;

/// Calls that a terminal shows; the JSON document has all.
const MAX_CALLS: usize = 8;
/// Lines of a timeline that a terminal shows: those around the onset.
const MAX_LINES: usize = 10;
/// Of these, so many from before it.
const BEFORE: usize = 5;
/// Parts of a request's time that are told.
const MAX_PARTS: usize = 3;
/// A part of the time is told from this share on.
const TOLD: f64 = 0.1;

/// One call of the map: who, whom, and what is known of it.
pub type Call<'a> = (&'a ObjectRef, &'a ServiceName, &'a Edge);

/// What one sort of request waits for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestsView {
    /// The service that they come in at: `namespace/name`.
    pub service: String,
    /// What they ask for.
    pub operation: String,
    /// How many traces show them since the onset, or at all where none is known.
    pub count: usize,
    /// Those that failed.
    pub failed: usize,
    /// How long half of them take at most, in milliseconds.
    pub median_ms: f64,
    /// How long 95 of 100 take at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// The median before the onset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<f64>,
    /// What they wait for, the longest first.
    pub parts: Vec<PartView>,
}

/// A part of the time that requests take.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartView {
    /// The service that works, or the caller where the time goes by between two.
    pub service: String,
    /// The one called, where the time goes by between two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callee: Option<String>,
    /// What is done.
    pub operation: String,
    /// The share of all the time, 0 to 1.
    pub share: f64,
    /// Milliseconds of each request.
    pub ms: f64,
    /// The same before the onset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<f64>,
}

/// Three decimals: a microsecond of a millisecond, and a tenth of a percent.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// What requests wait for, as JSON.
pub(super) fn requests(diagnosis: &Diagnosis) -> Vec<RequestsView> {
    let part = |part: &Part| PartView {
        service: part.service.clone(),
        callee: part.callee.clone(),
        operation: part.operation.clone(),
        share: round(part.share),
        ms: round(part.ms),
        before_ms: part.before_ms.map(round),
    };
    let view = |requests: &Requests| RequestsView {
        service: requests.service.clone(),
        operation: requests.operation.clone(),
        count: requests.count,
        failed: requests.failed,
        median_ms: round(requests.median_ms),
        p95_ms: requests.p95_ms.map(round),
        before_ms: requests.before_ms.map(round),
        parts: requests.parts.iter().map(part).collect(),
    };
    diagnosis.requests.iter().map(view).collect()
}

/// Calls that something counted: those that fail most often first, then the most frequent.
pub(super) fn calls(diagnosis: &Diagnosis) -> Vec<Call<'_>> {
    let counted = diagnosis.graph.edges.iter().filter(|(_, edge)| edge.requests > 0);
    let mut calls: Vec<Call<'_>> = counted.map(|((from, to), edge)| (from, to, edge)).collect();
    calls.sort_by(|a, b| {
        (b.2.failures, b.2.requests)
            .cmp(&(a.2.failures, a.2.requests))
            .then_with(|| (a.0, a.1).cmp(&(b.0, b.1)))
    });
    calls
}

/// Who counted, in words.
pub(super) fn source(edge: &Edge) -> &'static str {
    match edge.counted {
        Some(Provenance::AccessLog) => "access logs",
        Some(Provenance::Metrics) => "metrics",
        Some(Provenance::Trace) => "traces",
        _ => "",
    }
}

/// The share that fails: `0`, `457 (19.8 %)`.
pub(super) fn failed(edge: &Edge) -> String {
    match edge.failures {
        0 => "0".to_owned(),
        failures => format!("{failures} ({:.1} %)", 100.0 * failures as f64 / edge.requests.max(1) as f64),
    }
}

/// Milliseconds as a reader takes them in: `41 ms`, `1.9 s`.
pub(super) fn duration(millis: f64) -> String {
    if millis >= 1000.0 {
        format!("{:.1} s", millis / 1000.0)
    } else if millis >= 10.0 {
        format!("{millis:.0} ms")
    } else {
        format!("{millis:.1} ms")
    }
}

/// What a terminal shows beside the answer: what requests wait for, the map and the timeline. Nothing where all is well.
pub(super) fn sections(diagnosis: &Diagnosis) -> Vec<Section> {
    if diagnosis.verdict == Verdict::Healthy {
        return vec![];
    }
    [map(diagnosis), timeline(diagnosis)].into_iter().flatten().collect()
}

/// What requests wait for, as a section: nothing without traces.
pub(super) fn time(diagnosis: &Diagnosis) -> Option<Section> {
    let lines: Vec<Line> = diagnosis.requests.iter().map(|requests| Line::Text(tell(requests))).collect();
    (!lines.is_empty() && diagnosis.verdict != Verdict::Healthy).then_some(Section { heading: "Time", lines })
}

fn tell(requests: &Requests) -> String {
    let p95 = requests.p95_ms.map(|p95| format!(", 95 of 100 within {}", duration(p95))).unwrap_or_default();
    let before =
        requests.before_ms.map(|before| format!(" ({} before)", duration(before))).unwrap_or_default();
    let parts = requests.parts.iter().filter(|part| part.share >= TOLD).take(MAX_PARTS).map(|part| {
        let place = match &part.callee {
            Some(callee) => format!("between {} and {callee}", part.service),
            None => format!("in {} {}", part.service, part.operation),
        };
        let before =
            part.before_ms.map(|before| format!(", {} before", duration(before))).unwrap_or_default();
        format!("{:.0} % {place} ({}{before})", 100.0 * part.share, duration(part.ms))
    });
    let parts: Vec<String> = parts.collect();
    format!(
        "{} {}: median {}{before}{p95} in {} traces; {}",
        requests.service,
        requests.operation,
        duration(requests.median_ms),
        requests.count,
        parts.join(", ")
    )
}

fn map(diagnosis: &Diagnosis) -> Option<Section> {
    let calls = calls(diagnosis);
    let more = calls.len().saturating_sub(MAX_CALLS);
    let mut lines: Vec<Line> = calls
        .into_iter()
        .take(MAX_CALLS)
        .map(|(from, to, edge)| {
            let p95 =
                edge.p95_ms.map(|p95| format!(", 95 of 100 within {}", duration(p95))).unwrap_or_default();
            let text = format!(
                "{} → {to}: {} requests, {} failed{p95} ({})",
                from.name,
                edge.requests,
                failed(edge),
                source(edge)
            );
            Line::Text(text)
        })
        .collect();
    if more > 0 {
        lines.push(Line::Text(format!("and {more} more in the JSON report")));
    }
    (!lines.is_empty()).then_some(Section { heading: "Map", lines })
}

/// The lines around the onset; all where there are few.
fn timeline(diagnosis: &Diagnosis) -> Option<Section> {
    let all = &diagnosis.timeline;
    let onset = all.iter().position(|entry| entry.kind == "Onset").unwrap_or(all.len());
    let from = onset.saturating_sub(BEFORE).min(all.len().saturating_sub(MAX_LINES));
    let line = |entry: &TimelineEntry| Line::Text(format!("{}  {}", clock(entry.time), entry.text));
    let mut lines: Vec<Line> = all.iter().skip(from).take(MAX_LINES).map(line).collect();
    let more = all.len().saturating_sub(lines.len());
    if more > 0 {
        lines.push(Line::Text(format!("and {more} more in the Markdown and JSON reports")));
    }
    // One instant alone tells no order.
    (all.len() > 1).then_some(Section { heading: "Timeline", lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::diagnosis::{Options, analyze};
    use crate::model::graph::Counted;
    use crate::model::snapshot::Snapshot;

    fn diagnosis() -> Diagnosis {
        let mut diagnosis = analyze(&Snapshot::default(), &Options::default());
        diagnosis.verdict = Verdict::RootCauseFound;
        let mut call = |name: &str, requests: u64, failures: u64| {
            let counted = Counted { requests, failures, took: vec![(1900.0, requests as f64)] };
            let caller = ObjectRef::new("Deployment", "shop", name);
            std::sync::Arc::make_mut(&mut diagnosis.graph).count(
                caller,
                ServiceName::new("shop", "checkout"),
                Provenance::AccessLog,
                &counted,
            );
        };
        call("often", 5000, 0);
        call("front<script>|", 2310, 457);
        call("never", 0, 0);
        for second in 0..30 {
            diagnosis.timeline.push(TimelineEntry {
                time: jiff::Timestamp::from_second(1_700_000_000 + second).unwrap(),
                kind: if second == 20 { "Onset" } else { "Change" }.to_owned(),
                text: format!("step {second}"),
            });
        }
        diagnosis
    }

    #[test]
    fn what_fails_comes_first_and_what_nothing_counted_not_at_all() {
        let known = diagnosis();
        let lines = map(&known).unwrap().lines;
        assert_eq!(
            lines,
            [
                Line::Text("front<script>| → shop/checkout: 2310 requests, 457 (19.8 %) failed, 95 of 100 within 1.9 s (access logs)".to_owned()),
                Line::Text("often → shop/checkout: 5000 requests, 0 failed, 95 of 100 within 1.9 s (access logs)".to_owned()),
            ]
        );
        let markdown = crate::report::markdown::render(&known, "x");
        assert!(
            markdown.contains(
                "| front\\<script\\>\\| | shop/checkout | 2310 | 457 (19.8 %) | 1.9 s | access logs |"
            ),
            "{markdown}"
        );
    }

    #[test]
    fn the_timeline_shows_what_lies_around_the_onset() {
        let lines = timeline(&diagnosis()).unwrap().lines;
        assert_eq!(lines.len(), MAX_LINES + 1);
        assert_eq!(lines[0], Line::Text("22:13:35Z  step 15".to_owned()));
        assert_eq!(lines[MAX_LINES], Line::Text("and 20 more in the Markdown and JSON reports".to_owned()));
        let healthy = analyze(&Snapshot::default(), &Options::default());
        assert!(sections(&healthy).is_empty() && time(&healthy).is_none());
    }

    #[test]
    fn what_requests_wait_for_reads_as_a_person_says_it() {
        let part = |service: &str, callee: Option<&str>, share: f64| Part {
            service: service.to_owned(),
            callee: callee.map(str::to_owned),
            operation: "charge".to_owned(),
            share,
            ms: 800.0 * share,
            before_ms: Some(9.0),
        };
        let requests = Requests {
            service: "shop/front".to_owned(),
            operation: "GET /".to_owned(),
            count: 120,
            failed: 0,
            median_ms: 812.0,
            p95_ms: Some(1900.0),
            before_ms: Some(41.0),
            parts: vec![
                part("shop/pay", None, 0.75),
                part("shop/front", Some("shop/pay"), 0.2),
                part("x", None, 0.05),
            ],
        };
        assert_eq!(
            tell(&requests),
            "shop/front GET /: median 812 ms (41 ms before), 95 of 100 within 1.9 s in 120 traces; \
             75 % in shop/pay charge (600 ms, 9.0 ms before), 20 % between shop/front and shop/pay (160 ms, 9.0 ms before)"
        );
    }
}
