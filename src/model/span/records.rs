//! Spans that stand in a plain list: Zipkin v2 and AWS X-Ray's segments.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use std::fmt;

use super::attributes::{Facts, kind_word};
use super::builder::{Draft, SpansBuilder};
use super::read::{Unit, span_id};
use super::scalar::{Entries, List, Scalar};
use super::{Code, Emitter, Kind, Status};

/// One record. Zipkin writes its fields in camel case, X-Ray in snake case, so that no field means two things.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub(super) struct Record<'a> {
    id: Scalar<'a>,
    name: Scalar<'a>,
    // Zipkin: times are microseconds.
    trace_id: Scalar<'a>,
    parent_id: Scalar<'a>,
    kind: Scalar<'a>,
    timestamp: Scalar<'a>,
    duration: Scalar<'a>,
    local_endpoint: Option<Endpoint<'a>>,
    remote_endpoint: Option<Endpoint<'a>>,
    tags: Entries<'a>,
    shared: Scalar<'a>,
    // X-Ray: times are seconds with a fraction.
    #[serde(rename = "trace_id")]
    segment_trace: Scalar<'a>,
    #[serde(rename = "parent_id")]
    segment_parent: Scalar<'a>,
    #[serde(rename = "start_time")]
    start_time: Scalar<'a>,
    #[serde(rename = "end_time")]
    end_time: Scalar<'a>,
    namespace: Scalar<'a>,
    fault: Scalar<'a>,
    error: Scalar<'a>,
    throttle: Scalar<'a>,
    http: Option<XrayHttp<'a>>,
    cause: Option<Cause<'a>>,
    annotations: Annotations<'a>,
    subsegments: List<Record<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Endpoint<'a> {
    service_name: Scalar<'a>,
    ipv4: Scalar<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct XrayHttp<'a> {
    response: Option<XrayResponse<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct XrayResponse<'a> {
    status: Scalar<'a>,
}

/// What X-Ray says of an exception: its text, or the id of the segment that threw it.
#[derive(Debug, Default)]
struct Cause<'a> {
    message: Scalar<'a>,
}

/// X-Ray's annotations are an object; Zipkin's are a list of moments, which say nothing here.
#[derive(Debug, Default)]
struct Annotations<'a>(Entries<'a>);

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct CauseBody<'a> {
    exceptions: List<Exception<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Exception<'a> {
    message: Scalar<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Cause<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Either<'a> {
            type Value = Cause<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a cause")
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Cause::default())
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cause::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let body = CauseBody::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Cause { message: body.exceptions.0.into_iter().next().unwrap_or_default().message })
            }
        }
        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Annotations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Either<'a> {
            type Value = Annotations<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Annotations::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Annotations::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Entries::deserialize(MapAccessDeserializer::new(map)).map(Annotations)
            }
        }
        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}

pub(super) fn take(record: &Record<'_>, out: &mut SpansBuilder) {
    if record.segment_trace.is_none() {
        zipkin(record, out);
    } else {
        let emitter = out.emitter(Emitter { name: record.name.text().into_owned(), ..Emitter::default() });
        segment(record, &record.segment_trace, &record.segment_parent, emitter, out);
    }
}

fn zipkin(record: &Record<'_>, out: &mut SpansBuilder) {
    let mut facts = Facts::default();
    for (key, value) in &record.tags.0 {
        facts.note(key, value);
    }
    if let Some(remote) = record.remote_endpoint.as_ref().filter(|remote| !remote.service_name.is_none()) {
        facts.peer = remote.service_name.text().into_owned();
    }
    let local = record.local_endpoint.as_ref();
    let emitter = out.emitter(Emitter {
        name: local.map(|local| local.service_name.text().into_owned()).unwrap_or_default(),
        pod: local.map(|local| local.ipv4.text().into_owned()).unwrap_or_default(),
        ..Emitter::default()
    });
    let unit = Unit::of(&record.timestamp, Unit::Micros);
    let start = unit.nanos(&record.timestamp);
    let length = unit.nanos(&record.duration).unwrap_or_default();
    out.push(Draft {
        trace: record.trace_id.text(),
        id: span_id(&record.id.text()),
        parent: span_id(&record.parent_id.text()),
        emitter,
        operation: record.name.text(),
        start,
        end: start.map(|start| start.saturating_add(length)),
        kind: kind_word(&record.kind.text()).unwrap_or_default(),
        shared: record.shared.flag(),
        facts,
    });
}

/// A segment or subsegment, and those within. The parser bounds how deep they nest.
fn segment(
    record: &Record<'_>,
    trace: &Scalar<'_>,
    parent: &Scalar<'_>,
    emitter: u32,
    out: &mut SpansBuilder,
) {
    let mut facts = Facts::default();
    for (key, value) in &record.annotations.0.0 {
        facts.note(key, value);
    }
    let status = record.http.as_ref().and_then(|http| http.response.as_ref()?.status.int());
    if let Some(status) = status.and_then(|status| u16::try_from(status).ok()) {
        facts.code = Code::Http(status);
    }
    // X-Ray: a fault is the server's (5xx), an error the client's (4xx), throttled is 429.
    if record.fault.flag() || record.throttle.flag() {
        facts.status = Status::Error;
    }
    if let Some(cause) = &record.cause
        && facts.message.is_empty()
    {
        facts.message = cause.message.text().into_owned();
    }
    let is_subsegment = record.segment_trace.is_none();
    let remote = matches!(record.namespace.text().as_ref(), "remote" | "aws");
    if remote {
        facts.peer = record.name.text().into_owned();
    }
    let unit = Unit::of(&record.start_time, Unit::Seconds);
    out.push(Draft {
        trace: trace.text(),
        id: span_id(&record.id.text()),
        parent: span_id(&parent.text()),
        emitter,
        operation: record.name.text(),
        start: unit.nanos(&record.start_time),
        end: Unit::of(&record.end_time, unit).nanos(&record.end_time),
        kind: match (is_subsegment, remote) {
            (false, _) => Kind::Server,
            (true, true) => Kind::Client,
            (true, false) => Kind::Internal,
        },
        shared: false,
        facts,
    });
    for inner in &record.subsegments.0 {
        segment(inner, trace, &record.id, emitter, out);
    }
}
