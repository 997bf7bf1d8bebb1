//! Which request a line belongs to: trace, span, request and correlation ids, in fields or in the text.

use std::num::NonZeroU64;

use super::record::Record;

/// The ids of one line, hashed: they are only ever compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ids {
    /// Of the request: a trace id, or a request or correlation id.
    pub request: Option<NonZeroU64>,
    /// Of the span within it, as traces number them: one service's part of the request.
    pub span: Option<NonZeroU64>,
}

/// The number under which the request of a trace's id goes.
pub fn request(trace_id: &str) -> NonZeroU64 {
    hash(trace_id)
}

/// Fields that name a request, in order of trust.
const REQUEST_FIELDS: &[&str] = &[
    "trace_id",
    "traceId",
    "traceID",
    "traceid",
    "trace.id",
    "TraceId",
    "dd.trace_id",
    "otelTraceID",
    "logging.googleapis.com/trace",
    "@tr",
    "traceparent",
    "correlation_id",
    "correlationId",
    "CorrelationId",
    "request_id",
    "requestId",
    "RequestId",
    "requestID",
    "x_request_id",
    "x-request-id",
    "req.id",
    "req_id",
    "reqId",
];
const SPAN_FIELDS: &[&str] =
    &["span_id", "spanId", "spanID", "spanid", "span.id", "SpanId", "dd.span_id", "otelSpanID", "@sp"];

/// An id has at least this many characters: a shorter one repeats by chance.
const MIN_ID: usize = 8;
/// An id that nothing names is one of this many characters at least, in hexadecimal: the half of a trace id.
const MIN_BARE: usize = 16;
/// Ids are looked for in this many bytes of a line.
const MAX_TEXT: usize = 512;

/// The ids of a record, by its fields where it has any, else by its text.
pub fn ids(record: &Record<'_>, text: &str) -> Ids {
    if record.fields.is_empty() {
        return in_text(text);
    }
    let id = |names: &[&str]| record.field(names).filter(|id| id.len() >= MIN_ID).map(hash);
    let span = record.field(SPAN_FIELDS).filter(|id| id.len() >= MIN_ID).map(span_id);
    let found = Ids { request: id(REQUEST_FIELDS), span };
    if found.request.is_none() { Ids { span: found.span, ..in_text(&record.message) } } else { found }
}

/// `TraceID: 6a45… SpanID: ba78…`, `[app,6a45…,ba78…]`, `[6a45…-ba78…]`, `request_id=…`, `[1b4e28ba-…]`.
fn in_text(text: &str) -> Ids {
    let bytes = text.as_bytes();
    let limit = bytes.len().min(MAX_TEXT);
    let mut out = Ids::default();
    let mut at = 0;
    while at < limit && (out.request.is_none() || out.span.is_none()) {
        let rest = bytes.get(at..).unwrap_or_default();
        let word = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'-').count();
        if word < MIN_ID {
            at += word.max(1);
            continue;
        }
        let length = rest.iter().take_while(|b| b.is_ascii_hexdigit() || **b == b'-').count();
        if length < MIN_ID {
            at += word;
            continue;
        }
        let whole = !bytes.get(at + length).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        if let Some(id) = text.get(at..at + length).filter(|id| whole && is_id(id)) {
            let key = key_before(text.get(..at).unwrap_or_default());
            // `trace-span` in one.
            let (trace, span) = match id.split_once('-') {
                Some((trace, span)) if trace.len() == 32 && span.len() == 16 => (trace, Some(span)),
                _ => (id, None),
            };
            match key {
                Key::Span => out.span = out.span.or(Some(span_id(id))),
                Key::Request => {
                    out.request = out.request.or(Some(hash(trace)));
                    out.span = out.span.or(span.map(span_id));
                }
                Key::Follows if out.request.is_some() => out.span = out.span.or(Some(span_id(id))),
                Key::Follows | Key::Bare if id.len() >= MIN_BARE && out.request.is_none() => {
                    out.request = Some(hash(trace));
                    out.span = out.span.or(span.map(span_id));
                }
                Key::Follows | Key::Bare | Key::Other => {}
            }
        }
        at += length;
    }
    out
}

/// Letters and digits as identifiers are drawn, and neither a number nor a date nor a word.
fn is_id(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
    let dashes = text.bytes().filter(|b| *b == b'-').count();
    digits > 0
        && (letters > 0 || digits >= MIN_BARE)
        && (dashes == 0 || letters > 0)
        && digits + letters >= MIN_ID
}

/// What the words before an id call it.
enum Key {
    Request,
    Span,
    /// Nothing, right behind `[` or at the beginning of the line.
    Bare,
    /// Nothing, right behind a comma: the trace in Sleuth's `[app,trace,span]`, or the span.
    Follows,
    Other,
}

fn key_before(before: &str) -> Key {
    let head = before.trim_end_matches([' ', '"', '\'', '=', ':']);
    let assigned = head.len() < before.len();
    let start = head
        .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))
        .map_or(0, |at| at + 1);
    let word = head.get(start..).unwrap_or_default();
    if word.is_empty() || !assigned {
        return match before.bytes().last() {
            None | Some(b'[' | b'(' | b'<') => Key::Bare,
            Some(b',') => Key::Follows,
            _ => Key::Other,
        };
    }
    let has = |part: &str| {
        word.len() <= 24
            && word.as_bytes().windows(part.len()).any(|w| w.eq_ignore_ascii_case(part.as_bytes()))
    };
    if has("parent") {
        Key::Other
    } else if has("span") {
        Key::Span
    } else if has("trace")
        || has("correlation")
        || has("request")
        || has("reqid")
        || has("req_id")
        || has("req-id")
    {
        Key::Request
    } else {
        Key::Other
    }
}

/// A span's id as the number that it is in traces.
fn span_id(id: &str) -> NonZeroU64 {
    let number = u64::from_str_radix(id, 16).ok().and_then(NonZeroU64::new);
    number.unwrap_or_else(|| hash(id))
}

/// FNV-1a over the characters that matter: some write ids with dashes or capitals, and others without.
fn hash(id: &str) -> NonZeroU64 {
    let kept = id.bytes().filter(|b| *b != b'-');
    let hash = kept.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    });
    NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::super::record::parse;
    use super::*;

    const TRACE: &str = "6a45e575b06e003e4910a5e45209f338";
    const SPAN: &str = "ba78cc439f1df8ae";

    fn of(line: &str) -> Ids {
        ids(&parse(line), line)
    }

    #[test]
    fn both_ids_in_the_styles_of_many_loggers() {
        for line in [
            format!("10:00:00 INFO a.B#93 TraceID: {TRACE} SpanID: {SPAN} [work] done"),
            format!("2026-11-22 10:00:00.1 INFO [pay,{TRACE},{SPAN}] 1 --- [x] a.B : done"),
            format!("2026-11-22T10:00:00.1Z INFO 1 --- [pay] [exec-1] [{TRACE}-{SPAN}] a.B : done"),
            format!("time=x level=info msg=done trace_id={TRACE} span_id={SPAN}"),
            format!(r#"{{"level":"info","msg":"done","traceId":"{TRACE}","spanId":"{SPAN}"}}"#),
            format!("2026-11-22 10:00:00,1 INFO [trace_id={} span_id={SPAN}] done", TRACE.to_uppercase()),
        ] {
            assert_eq!(of(&line), Ids { request: Some(hash(TRACE)), span: Some(span_id(SPAN)) }, "{line}");
        }
    }

    #[test]
    fn a_request_id_alone() {
        let uuid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
        for line in [
            format!("[{uuid}] Started GET \"/\""),
            format!("request_id={uuid} done"),
            format!("INFO done X-Request-Id: {uuid}"),
            format!(r#"{{"msg":"done","requestId":"{uuid}"}}"#),
        ] {
            assert_eq!(of(&line), Ids { request: Some(hash(uuid)), span: None }, "{line}");
        }
    }

    #[test]
    fn other_identifiers_are_none() {
        for line in [
            "order 1b4e28ba-2fa1-11d2-883f-0016d3cca427 stored",
            "orderId: 1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            "2026-11-22 10:00:00 handled 12345678",
            "image deadbeefdeadbeef01 pulled",
            "parentSpanId=ba78cc439f1df8ae",
            "",
        ] {
            assert_eq!(of(line), Ids::default(), "{line}");
        }
    }
}
