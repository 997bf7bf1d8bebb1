//! How fast are traces, against a limit that the same run measures.
//!
//! - `traces/N`: N spans of OTLP/JSON, a request of ten spans in five services each: walking the JSON without keeping anything (the
//!   limit), reading it, finding what deviates after an onset, and the whole analysis with all rules. Over three decades, so that growth shows.
//!
//! `cargo bench --bench traces`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use meshscope::analyze::diagnosis::{Options, analyze};
use meshscope::analyze::traces::anomalies;
use meshscope::model::snapshot::{Builder, Snapshot};
use meshscope::model::span::{SpansBuilder, read};
use serde::de::IgnoredAny;
use std::fmt::Write;
use std::hint::black_box;

const EPOCH: i64 = 1_700_000_000;

/// Requests of ten spans each, half a second apart; in the last quarter the third service is slow.
fn document(spans: usize) -> String {
    let mut groups = vec![String::new(); 5];
    let requests = spans / 10;
    for request in 0..requests {
        let slow = if request * 4 > requests * 3 { 40 } else { 0 };
        for span in 0..10usize {
            let start = EPOCH * 1_000_000_000 + request as i64 * 500_000_000 + span as i64 * 1_000_000;
            let length = (100 - 10 * span + if span <= 4 { slow } else { 0 }) as i64 * 1_000_000;
            let parent = if span == 0 { String::new() } else { format!("{:016x}", request * 10 + span) };
            let group = &mut groups[span / 2];
            let comma = if group.is_empty() { "" } else { "," };
            let _ = write!(
                group,
                r#"{comma}{{"traceId":"{:032x}","spanId":"{:016x}","parentSpanId":"{parent}","name":"operation {span}","kind":{},"startTimeUnixNano":"{start}","endTimeUnixNano":"{}","attributes":[{{"key":"http.response.status_code","value":{{"intValue":"200"}}}}],"status":{{}}}}"#,
                request + 1,
                request * 10 + span + 1,
                if span % 2 == 0 { 2 } else { 3 },
                start + length,
            );
        }
    }
    let groups = groups.iter().enumerate().map(|(service, spans)| {
        format!(
            r#"{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"service-{service}"}}}}]}},"scopeSpans":[{{"spans":[{spans}]}}]}}"#
        )
    });
    format!(r#"{{"resourceSpans":[{}]}}"#, groups.collect::<Vec<_>>().join(","))
}

fn snapshot(text: &str) -> Snapshot {
    let mut spans = SpansBuilder::default();
    assert!(read("bench", text.as_bytes(), &mut spans).is_empty());
    let mut builder = Builder::new();
    builder.spans(spans.finish());
    builder.finish()
}

fn traces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("traces");
    group.sample_size(20);
    for spans in [1_000, 10_000, 100_000] {
        let text = document(spans);
        let onset = Timestamp::from_second(EPOCH + spans as i64 / 10 * 3 / 8).ok();
        assert!(anomalies(&snapshot(&text), onset)[0].about().unwrap().name == "service-2");
        group.throughput(Throughput::Elements(spans as u64));
        group.bench_function(format!("{spans}: limit: walk the JSON"), |b| {
            b.iter(|| serde_json::from_str::<IgnoredAny>(black_box(&text)).is_ok())
        });
        group.bench_function(format!("{spans}: read"), |b| {
            b.iter(|| snapshot(black_box(&text)).spans.all().len())
        });
        group.bench_function(format!("{spans}: find what deviates"), |b| {
            // A clone keeps nothing that was computed.
            let known = snapshot(&text);
            b.iter_batched(|| known.clone(), |known| anomalies(&known, onset).len(), BatchSize::LargeInput);
        });
        group.bench_function(format!("{spans}: the whole analysis"), |b| {
            let mut known = snapshot(&text);
            known.onset = onset;
            let all = |known: Snapshot| analyze(&known, &Options::default()).findings.len();
            b.iter_batched(|| known.clone(), all, BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, traces);
criterion_main!(benches);
