//! Telling the forms of trace documents apart, and reading each.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use std::fmt;

use super::builder::SpansBuilder;
use super::jaeger::{self, JaegerTrace};
use super::otlp::{self, ResourceSpans};
use super::records::{self, Record};
use super::scalar::{List, Scalar};
use crate::model::gap::{Gap, GapReason};

/// The unit of a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// The unit that puts an instant between 2001 and 2100. The four ranges do not overlap, so a writer who took another
    /// unit than its format says is read rightly; what lies in none of them is of the unit that the format says.
    pub(super) fn of(value: &Scalar<'_>, format: Unit) -> Unit {
        let Some(value) = value.number() else { return format };
        let units = [(Unit::Seconds, 1e0), (Unit::Millis, 1e3), (Unit::Micros, 1e6), (Unit::Nanos, 1e9)];
        let fits = |scale: f64| (1.0e9..4.2e9).contains(&(value / scale));
        units.iter().find(|(_, scale)| fits(*scale)).map_or(format, |(unit, _)| *unit)
    }

    /// Nanoseconds of a value in this unit; whole numbers without loss.
    pub(super) fn nanos(self, value: &Scalar<'_>) -> Option<i64> {
        let scale = match self {
            Unit::Seconds => 1_000_000_000,
            Unit::Millis => 1_000_000,
            Unit::Micros => 1_000,
            Unit::Nanos => 1,
        };
        let fraction = match value {
            Scalar::Float(_) => true,
            Scalar::Text(text) => text.contains(['.', 'e', 'E']),
            _ => false,
        };
        if fraction {
            // Seconds since 1970 with a fraction hold no more than microseconds; the rest is noise of the last digits.
            let step = if self == Unit::Seconds { 1_000 } else { 1 };
            let steps = value.number()? * f64::from(scale / step);
            return (steps.abs() < 9.2e18).then_some(steps.round() as i64)?.checked_mul(i64::from(step));
        }
        value.int()?.checked_mul(i64::from(scale))
    }
}

/// A span's id as a number: hexadecimal as nearly all write it, Base64 as Tempo does, anything else by a hash (FNV-1a).
/// 0 is no id.
pub(super) fn span_id(text: &str) -> u64 {
    let text = text.trim();
    if text.len() <= 16
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && let Ok(id) = u64::from_str_radix(text, 16)
    {
        return id;
    }
    if text.is_empty() {
        return 0;
    }
    if text.len() == 12
        && let Some(bytes) = base64(text)
    {
        return bytes.iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

/// The one form of a trace's id: lower case; X-Ray's `1-SECONDS-REST` without its hyphens, which is W3C's form of the same;
/// Tempo's Base64 in hexadecimal; of a `traceparent` header its second part; 128 bits with an empty upper half as 64.
pub fn normal_trace_id(text: &str) -> String {
    let text = text.trim();
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    let mut id = match parts.as_slice() {
        ["1", seconds, rest] if hex(seconds, 8) && hex(rest, 24) => format!("{seconds}{rest}"),
        [version, id, parent, flags]
            if hex(version, 2) && hex(id, 32) && hex(parent, 16) && hex(flags, 2) =>
        {
            (*id).to_owned()
        }
        _ if text.len() == 24 && text.ends_with("==") => match base64(text) {
            Some(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            None => text.to_owned(),
        },
        _ => text.to_owned(),
    };
    id.make_ascii_lowercase();
    if hex(&id, 32)
        && let Some(lower) = id.strip_prefix("0000000000000000")
    {
        return lower.to_owned();
    }
    id.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// Standard Base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (vec![], 0u32, 0u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits & 0xff) as u8);
        }
    }
    Some(out)
}

/// A whole document that is an object; which of its fields there are says what it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Envelope<'a> {
    #[serde(rename = "resourceSpans", alias = "resource_spans", alias = "batches")]
    otlp: Option<List<ResourceSpans<'a>>>,
    /// Tempo's second version wraps it.
    trace: Option<Wrapped<'a>>,
    /// Jaeger.
    data: Option<List<JaegerTrace<'a>>>,
    /// X-Ray's `batch-get-traces`.
    #[serde(rename = "Traces")]
    xray: Option<List<XrayTrace<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Wrapped<'a> {
    #[serde(rename = "resourceSpans", alias = "resource_spans", alias = "batches")]
    otlp: Option<List<ResourceSpans<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct XrayTrace<'a> {
    #[serde(rename = "Segments")]
    segments: List<XraySegment<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct XraySegment<'a> {
    /// A document within the document, as text.
    #[serde(rename = "Document")]
    document: Scalar<'a>,
}

/// An element of a list: a Zipkin span, an X-Ray segment, or a list of these, one for each trace.
#[derive(Debug)]
enum Item<'a> {
    One(Box<Record<'a>>),
    Many(Vec<Record<'a>>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Either<'a> {
            type Value = Item<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span or a list of spans")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Record::deserialize(MapAccessDeserializer::new(map)).map(|record| Item::One(Box::new(record)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut out = vec![];
                while let Some(record) = seq.next_element()? {
                    out.push(record);
                }
                Ok(Item::Many(out))
            }
        }
        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}

/// Reads one file of traces: OTLP/JSON (one document, or one on each line as collectors write files), Jaeger, Zipkin v2 or
/// X-Ray, told apart by shape. `file` stands for it in gaps.
pub fn read(file: &str, bytes: &[u8], out: &mut SpansBuilder) -> Vec<Gap> {
    let before = out.counts();
    let mut gaps = vec![];
    let first = bytes.iter().position(|byte| !byte.is_ascii_whitespace());
    let found = match first.and_then(|at| bytes.get(at)) {
        None => Ok(true),
        Some(b'[') => list(bytes, out).map(|()| true),
        Some(_) => documents(bytes, out),
    };
    match found {
        Ok(true) => {}
        Ok(false) => {
            let what = format!("{file}: no traces are in it");
            let hint =
                "expected OTLP/JSON (resourceSpans), Jaeger (data), Zipkin v2 (a list) or X-Ray (Traces)";
            gaps.push(Gap::new("Traces", what, GapReason::Failed).hint(hint));
        }
        Err(error) => {
            let text = error.to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            let text: String = text.chars().filter(|c| !c.is_control()).take(160).collect();
            let what = format!("{file}, line {}, column {}: {text}", error.line(), error.column());
            let hint = if error.is_eof() {
                "the file is cut off there: fetch it again, a shorter time each"
            } else {
                "correct the file there, or fetch it again as OTLP/JSON, Jaeger, Zipkin v2 or X-Ray JSON"
            };
            gaps.push(Gap::new("Traces", what, GapReason::Failed).hint(hint));
        }
    }
    let after = out.counts();
    let unusable = after.unusable - before.unusable;
    if unusable > 0 {
        let all = unusable + after.kept - before.kept;
        let what = format!("{file}: {unusable} of {all} spans have no id, no trace or no time");
        let hint = "look at what exports them; they are left out";
        gaps.push(Gap::new("Traces", what, GapReason::Failed).hint(hint));
    }
    if after.beyond > before.beyond {
        let what =
            format!("{file}: {} spans beyond the first {}", after.beyond - before.beyond, super::MAX_SPANS);
        let hint = "take a shorter window or fewer services";
        gaps.push(Gap::new("Traces", what, GapReason::Truncated).hint(hint));
    }
    gaps
}

fn list(bytes: &[u8], out: &mut SpansBuilder) -> Result<(), serde_json::Error> {
    for item in serde_json::from_slice::<Vec<Item<'_>>>(bytes)? {
        match item {
            Item::One(record) => records::take(&record, out),
            Item::Many(many) => many.iter().for_each(|record| records::take(record, out)),
        }
    }
    Ok(())
}

/// One or several objects one after the other. Whether any was a trace document.
fn documents(bytes: &[u8], out: &mut SpansBuilder) -> Result<bool, serde_json::Error> {
    let mut found = false;
    for document in serde_json::Deserializer::from_slice(bytes).into_iter::<Envelope<'_>>() {
        let document = document?;
        found |= document.otlp.is_some()
            || document.trace.is_some()
            || document.data.is_some()
            || document.xray.is_some();
        for groups in document.otlp.into_iter().chain(document.trace.and_then(|wrapped| wrapped.otlp)) {
            otlp::take(groups.0, out);
        }
        if let Some(traces) = document.data {
            jaeger::take(traces.0, out);
        }
        for segment in document.xray.into_iter().flat_map(|list| list.0).flat_map(|trace| trace.segments.0) {
            let text = segment.document.text();
            // One segment that is none costs itself alone.
            match serde_json::from_str::<Record<'_>>(&text) {
                Ok(record) => records::take(&record, out),
                Err(_) => out.unusable(),
            }
        }
    }
    Ok(found)
}
