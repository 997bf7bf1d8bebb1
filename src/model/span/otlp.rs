//! OTLP/JSON: what OpenTelemetry's exporters and collectors write, and Tempo answers.
//! The form is `opentelemetry/proto/trace/v1/trace.proto` in protobuf's JSON mapping; ids in hexadecimal there, in Base64 from Tempo.

use serde::Deserialize;

use super::attributes::{Facts, kind_word, note_resource};
use super::builder::{Draft, SpansBuilder};
use super::read::{Unit, span_id};
use super::scalar::{List, Scalar};
use super::{Emitter, Kind, Status};

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct ResourceSpans<'a> {
    resource: Resource<'a>,
    #[serde(rename = "scopeSpans", alias = "scope_spans", alias = "instrumentationLibrarySpans")]
    scopes: List<ScopeSpans<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Resource<'a> {
    attributes: List<KeyValue<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct ScopeSpans<'a> {
    spans: List<OtlpSpan<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct OtlpSpan<'a> {
    #[serde(alias = "trace_id")]
    trace_id: Scalar<'a>,
    #[serde(alias = "span_id")]
    span_id: Scalar<'a>,
    #[serde(alias = "parent_span_id")]
    parent_span_id: Scalar<'a>,
    name: Scalar<'a>,
    kind: Scalar<'a>,
    #[serde(alias = "start_time_unix_nano")]
    start_time_unix_nano: Scalar<'a>,
    #[serde(alias = "end_time_unix_nano")]
    end_time_unix_nano: Scalar<'a>,
    attributes: List<KeyValue<'a>>,
    events: List<Event<'a>>,
    status: OtlpStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Event<'a> {
    name: Scalar<'a>,
    attributes: List<KeyValue<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct OtlpStatus<'a> {
    code: Scalar<'a>,
    message: Scalar<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct KeyValue<'a> {
    key: Scalar<'a>,
    value: AnyValue<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct AnyValue<'a> {
    #[serde(alias = "string_value")]
    string_value: Scalar<'a>,
    #[serde(alias = "int_value")]
    int_value: Scalar<'a>,
    #[serde(alias = "bool_value")]
    bool_value: Scalar<'a>,
    #[serde(alias = "double_value")]
    double_value: Scalar<'a>,
}

impl<'a> AnyValue<'a> {
    fn scalar(&self) -> &Scalar<'a> {
        let all = [&self.string_value, &self.int_value, &self.bool_value];
        all.into_iter().find(|value| !value.is_none()).unwrap_or(&self.double_value)
    }
}

pub(super) fn take(groups: Vec<ResourceSpans<'_>>, out: &mut SpansBuilder) {
    for group in groups {
        let mut emitter = Emitter::default();
        for KeyValue { key, value } in &group.resource.attributes.0 {
            note_resource(&mut emitter, &key.text(), value.scalar());
        }
        let emitter = out.emitter(emitter);
        for span in group.scopes.0.into_iter().flat_map(|scope| scope.spans.0) {
            out.push(draft(&span, emitter));
        }
    }
}

fn draft<'s>(span: &'s OtlpSpan<'_>, emitter: u32) -> Draft<'s> {
    let mut facts = Facts::default();
    for KeyValue { key, value } in &span.attributes.0 {
        facts.note(&key.text(), value.scalar());
    }
    let code = span.status.code.text();
    match code.as_ref() {
        "1" | "STATUS_CODE_OK" => facts.status = Status::Ok,
        "2" | "STATUS_CODE_ERROR" => facts.status = Status::Error,
        _ => {}
    }
    let said = span.status.message.text();
    if !said.is_empty() {
        facts.message = said.into_owned();
    }
    // What an exception was called says more than the status' own text, where that is missing.
    let thrown = span.events.0.iter().filter(|event| event.name.text() == "exception");
    for KeyValue { key, value } in thrown.flat_map(|event| &event.attributes.0) {
        if facts.message.is_empty() && matches!(key.text().as_ref(), "exception.message" | "exception.type") {
            facts.message = value.scalar().text().into_owned();
        }
    }
    let kind = match span.kind.text().as_ref() {
        "1" => Kind::Internal,
        "2" => Kind::Server,
        "3" => Kind::Client,
        "4" => Kind::Producer,
        "5" => Kind::Consumer,
        word => kind_word(word).or(facts.kind).unwrap_or_default(),
    };
    let unit = Unit::of(&span.start_time_unix_nano, Unit::Nanos);
    Draft {
        trace: span.trace_id.text(),
        id: span_id(&span.span_id.text()),
        parent: span_id(&span.parent_span_id.text()),
        emitter,
        operation: span.name.text(),
        start: unit.nanos(&span.start_time_unix_nano),
        end: Unit::of(&span.end_time_unix_nano, unit).nanos(&span.end_time_unix_nano),
        kind,
        shared: false,
        facts,
    }
}
