//! Jaeger's `/api/traces`, and the file that its page lets one download. Times are microseconds.

use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::attributes::{Facts, note_resource};
use super::builder::{Draft, SpansBuilder};
use super::read::{Unit, span_id};
use super::scalar::{List, Scalar};
use super::{Emitter, Kind};

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct JaegerTrace<'a> {
    #[serde(rename = "traceID")]
    trace: Scalar<'a>,
    spans: List<JaegerSpan<'a>>,
    processes: BTreeMap<Cow<'a, str>, Process<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Process<'a> {
    #[serde(rename = "serviceName")]
    service: Scalar<'a>,
    tags: List<Tag<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Tag<'a> {
    key: Scalar<'a>,
    value: Scalar<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct JaegerSpan<'a> {
    #[serde(rename = "traceID")]
    trace: Scalar<'a>,
    #[serde(rename = "spanID")]
    id: Scalar<'a>,
    #[serde(rename = "parentSpanID")]
    parent: Scalar<'a>,
    operation_name: Scalar<'a>,
    references: List<Reference<'a>>,
    start_time: Scalar<'a>,
    duration: Scalar<'a>,
    tags: List<Tag<'a>>,
    logs: List<Log<'a>>,
    #[serde(rename = "processID")]
    process: Scalar<'a>,
    /// The process itself, as Jaeger keeps spans in Elasticsearch.
    #[serde(rename = "process")]
    own_process: Option<Process<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Reference<'a> {
    #[serde(rename = "refType")]
    kind: Scalar<'a>,
    #[serde(rename = "traceID")]
    trace: Scalar<'a>,
    #[serde(rename = "spanID")]
    id: Scalar<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Log<'a> {
    fields: List<Tag<'a>>,
}

pub(super) fn take(traces: Vec<JaegerTrace<'_>>, out: &mut SpansBuilder) {
    for trace in traces {
        let emitters: BTreeMap<&str, u32> =
            trace.processes.iter().map(|(id, process)| (id.as_ref(), emitter(process, out))).collect();
        for span in &trace.spans.0 {
            let own = span.own_process.as_ref().map(|process| emitter(process, out));
            let emitter = own.or_else(|| emitters.get(span.process.text().as_ref()).copied());
            let emitter = emitter.unwrap_or_else(|| out.emitter(Emitter::default()));
            out.push(draft(&trace.trace, span, emitter));
        }
    }
}

fn emitter(process: &Process<'_>, out: &mut SpansBuilder) -> u32 {
    let mut emitter = Emitter::default();
    for Tag { key, value } in &process.tags.0 {
        note_resource(&mut emitter, &key.text(), value);
    }
    note_resource(&mut emitter, "service.name", &process.service);
    out.emitter(emitter)
}

fn draft<'s>(trace: &'s Scalar<'_>, span: &'s JaegerSpan<'_>, emitter: u32) -> Draft<'s> {
    let mut facts = Facts::default();
    for Tag { key, value } in &span.tags.0 {
        facts.note(&key.text(), value);
    }
    for Tag { key, value } in span.logs.0.iter().flat_map(|log| &log.fields.0) {
        let says = matches!(key.text().as_ref(), "message" | "error.object" | "exception.message");
        if says && facts.message.is_empty() && facts.status == super::Status::Error {
            facts.message = value.text().into_owned();
        }
    }
    let trace = if span.trace.is_none() { trace } else { &span.trace };
    // A reference to another trace is a link and no parent.
    let own = |reference: &&Reference<'_>| reference.trace.is_none() || reference.trace == *trace;
    let child_of = |reference: &&Reference<'_>| reference.kind.text() != "FOLLOWS_FROM";
    let mut references = span.references.0.iter().filter(own);
    let parent = references.clone().find(child_of).or_else(|| references.next());
    let parent = parent.map_or(&span.parent, |reference| &reference.id);
    let unit = Unit::of(&span.start_time, Unit::Micros);
    let start = unit.nanos(&span.start_time);
    let length = unit.nanos(&span.duration).unwrap_or_default();
    Draft {
        trace: trace.text(),
        id: span_id(&span.id.text()),
        parent: span_id(&parent.text()),
        emitter,
        operation: span.operation_name.text(),
        start,
        end: start.map(|start| start.saturating_add(length)),
        kind: facts.kind.unwrap_or(Kind::Unset),
        shared: false,
        facts,
    }
}
