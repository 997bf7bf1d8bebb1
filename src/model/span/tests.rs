use super::*;
use crate::model::json::{Value, json};
use proptest::prelude::*;

pub(super) fn read_all(files: &[Value]) -> (Spans, Vec<String>) {
    let mut builder = SpansBuilder::default();
    let gaps = files.iter().flat_map(|file| read("f", file.to_string().as_bytes(), &mut builder));
    let gaps = gaps.map(|gap| format!("{} ({})", gap.what, gap.hint)).collect();
    let mut spans = builder.finish();
    spans.assign(|emitter| ServiceName::new(&emitter.namespace, &emitter.name));
    (spans, gaps)
}

pub(super) fn zipkin(body: &Value) -> Spans {
    let (spans, gaps) = read_all(std::slice::from_ref(body));
    assert!(gaps.is_empty(), "{gaps:?}");
    spans
}

/// `service operation kind start-in-ms+length parent code status peer message`, in order.
fn shown(spans: &Spans) -> Vec<String> {
    let forest = tree::Forest::of(spans);
    let line = |(at, span): (usize, &Span)| {
        format!(
            "{} {} {:?} {}+{} {:?} {:?} {} {:?}",
            spans.service(span).unwrap().name,
            spans.text(span.operation),
            span.kind,
            (span.start - 1_700_000_000_000_000_000) / 1_000_000,
            span.duration / 1_000_000,
            forest.parent(at),
            span.code,
            span.failed(),
            spans.text(span.message),
        )
    };
    spans.all().iter().enumerate().map(line).collect()
}

const TRACE: &str = "5b8aa5a2d2c872e8321cf37308d69df2";

fn otlp() -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let group = |service: &str, span: Value| json!({"resource": {"attributes": [text("service.name", service)]}, "scopeSpans": [{"spans": [span]}]});
    json!({"resourceSpans": [
        group("front", json!({"traceId": TRACE, "spanId": "00000000000000a1", "name": "GET /", "kind": 3,
            "startTimeUnixNano": "1700000000010000000", "endTimeUnixNano": 1_700_000_000_110_000_000u64,
            "attributes": [text("peer.service", "pay"), {"key": "http.status_code", "value": {"intValue": "503"}}],
            "status": {"code": 2, "message": "no answer"}})),
        group("pay", json!({"traceId": TRACE.to_uppercase(), "spanId": "00000000000000a2", "parentSpanId": "00000000000000A1", "name": "pay", "kind": "SPAN_KIND_SERVER",
            "startTimeUnixNano": "1700000000020000000", "endTimeUnixNano": "1700000000100000000", "status": {}, "attributes": null})),
    ]})
}

const EXPECTED: [&str; 2] = [
    r#"front GET / Client 10+100 None Http(503) true "no answer""#,
    r#"pay pay Server 20+80 Some(0) None false """#,
];

#[test]
fn the_same_trace_reads_alike_in_every_form() {
    let jaeger = json!({"data": [{"traceID": TRACE, "processes": {"p1": {"serviceName": "front", "tags": []}, "p2": {"serviceName": "pay"}},
        "spans": [
            {"traceID": TRACE, "spanID": "a1", "operationName": "GET /", "references": [], "startTime": 1_700_000_000_010_000u64, "duration": 100_000, "processID": "p1",
             "tags": [{"key": "span.kind", "type": "string", "value": "client"}, {"key": "http.status_code", "type": "int64", "value": 503},
                      {"key": "error", "type": "bool", "value": true}, {"key": "otel.status_description", "value": "no answer"}], "logs": []},
            {"traceID": TRACE, "spanID": "a2", "operationName": "pay", "references": [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": "a1"}],
             "startTime": 1_700_000_000_020_000u64, "duration": 80_000, "processID": "p2", "tags": [{"key": "span.kind", "value": "server"}]}]}], "total": 0});
    let zipkin = json!([[
        {"traceId": TRACE, "id": "a1", "name": "GET /", "kind": "CLIENT", "timestamp": 1_700_000_000_010_000u64, "duration": 100_000, "localEndpoint": {"serviceName": "front"},
         "remoteEndpoint": {"serviceName": "pay"}, "tags": {"http.status_code": "503", "error": "no answer"}, "annotations": [{"timestamp": 1, "value": "ws"}]},
        {"traceId": TRACE, "id": "a2", "parentId": "a1", "name": "pay", "kind": "SERVER", "timestamp": 1_700_000_000_020_000u64, "duration": 80_000, "localEndpoint": {"serviceName": "pay"}}]]);
    let id = "1-5b8aa5a2-d2c872e8321cf37308d69df2";
    let front = json!({"trace_id": id, "id": "a0", "name": "front", "start_time": 1_700_000_000.010, "end_time": 1_700_000_000.110, "subsegments": [
        {"id": "a1", "name": "pay", "namespace": "remote", "start_time": 1_700_000_000.010, "end_time": 1_700_000_000.110, "fault": true,
         "http": {"response": {"status": 503}}, "cause": {"exceptions": [{"message": "no answer"}]}}]});
    let pay = json!({"trace_id": id, "id": "a2", "parent_id": "a1", "name": "pay", "start_time": 1_700_000_000.020, "end_time": 1_700_000_000.100});
    let xray = json!({"Traces": [{"Id": id, "Segments": [{"Document": front.to_string()}, {"Document": pay.to_string()}]}]});
    for body in [otlp(), jaeger, zipkin] {
        let (spans, gaps) = read_all(&[body]);
        assert!(gaps.is_empty(), "{gaps:?}");
        assert_eq!(shown(&spans), EXPECTED);
        assert_eq!(spans.trace_by_id(&TRACE.to_uppercase()).unwrap().spans.len(), 2);
    }
    for body in [xray, json!([front, pay])] {
        let (spans, gaps) = read_all(&[body]);
        assert!(gaps.is_empty(), "{gaps:?}");
        assert_eq!(
            shown(&spans),
            [
                r#"front front Server 10+100 None None false """#,
                r#"front pay Client 10+100 Some(0) Http(503) true "no answer""#,
                r#"pay pay Server 20+80 Some(1) None false """#,
            ]
        );
        assert_eq!(spans.trace_by_id(id).unwrap().id, TRACE);
    }
}

#[test]
fn ids_have_one_form() {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    assert_eq!(normal_trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), id);
    assert_eq!(normal_trace_id("S/kvNXezTaajzpKdDg5HNg=="), id);
    assert_eq!(normal_trace_id("00000000000000004bf92f3577b34da6"), "4bf92f3577b34da6");
    assert_eq!(normal_trace_id(" order-17 "), "order-17");
    assert_eq!(read::span_id("APBnqgupArc="), 0x00f0_67aa_0ba9_02b7);
    assert_eq!(read::span_id("0000000000000000"), 0);
    assert_ne!(read::span_id("span-one"), read::span_id("span-two"));
}

#[test]
fn tempo_wraps_and_a_collector_writes_a_document_on_each_line() {
    let mut tempo = otlp();
    tempo["batches"] = tempo["resourceSpans"].take();
    tempo.as_object_mut().unwrap().remove("resourceSpans");
    let (spans, gaps) = read_all(&[tempo, json!({"trace": otlp()})]);
    assert!(gaps.is_empty());
    assert_eq!(shown(&spans), EXPECTED, "what two files hold is kept once");
    let mut builder = SpansBuilder::default();
    let lines = format!("{}\n{}\n", otlp(), otlp());
    assert!(read("f", lines.as_bytes(), &mut builder).is_empty());
    assert_eq!(builder.finish().all().len(), 2);
}

#[test]
fn what_cannot_be_read_says_where_and_what_to_do() {
    let gap = |text: &str| {
        let mut builder = SpansBuilder::default();
        let gaps = read("traces/x.json", text.as_bytes(), &mut builder);
        let gap = gaps.first().map(|gap| format!("{} | {}", gap.what, gap.hint)).unwrap_or_default();
        (gap, builder.finish().all().len())
    };
    let (cut, _) = gap("{\"resourceSpans\": [{\n\"resource\": {");
    assert!(cut.starts_with("traces/x.json, line 2, column") && cut.contains("cut off"), "{cut}");
    assert!(gap(r#"{"data": {"result": []}}"#).0.contains("line 1"));
    assert!(gap(r#"{"hello": 1}"#).0.contains("no traces are in it"));
    assert!(gap("[3]").0.contains("expected a span"));
    assert_eq!(gap("[]").0, "");
    assert_eq!(gap("  ").0, "");
    let (lame, kept) = gap(
        r#"[{"traceId": "1", "id": "2", "timestamp": 5, "kind": 7, "tags": []}, {"traceId": "1", "id": "2", "timestamp": 5}, {"id": "3"}]"#,
    );
    assert!(kept <= 2, "{lame}");
    let (few, kept) = gap(r#"[{"traceId": "1", "id": "2", "timestamp": 5}, {"id": "3", "timestamp": {}}]"#);
    assert!(few.contains("1 of 2 spans") && kept == 1, "{few}");
}

#[test]
fn the_unit_follows_from_the_instant() {
    let span = |start: Value, length: Value| json!([{"traceId": "1", "id": "2", "timestamp": start, "duration": length}]);
    let read = |body: Value| {
        let spans = zipkin(&body);
        (spans.all()[0].start, spans.all()[0].duration)
    };
    let expected = (1_700_000_000_123_000_000, 4_000_000);
    assert_eq!(read(span(json!(1_700_000_000_123_000u64), json!(4_000))), expected);
    assert_eq!(read(span(json!("1700000000123"), json!("4"))), expected);
    assert_eq!(read(span(json!(1_700_000_000_123_000_000u64), json!(4_000_000))), expected);
    assert_eq!(
        read(span(json!(50), json!(4))),
        (50_000, 4_000),
        "outside of all ranges the format's own unit holds"
    );
}

proptest! {
    #[test]
    fn nothing_panics_and_order_of_files_is_of_no_account(text in ".{0,200}", cut in 0usize..900) {
        let mut builder = SpansBuilder::default();
        let whole = otlp().to_string();
        read("a", text.as_bytes(), &mut builder);
        read("b", whole.as_bytes().get(..cut.min(whole.len())).unwrap(), &mut builder);
        builder.finish();
        let other = zipkin(&json!([{"traceId": "0", "id": "1", "name": text, "timestamp": cut, "localEndpoint": {"serviceName": "z"}}]));
        prop_assert_eq!(other.all().len(), 1);
        let file = json!([{"traceId": "ff", "id": "1", "name": text, "timestamp": cut, "localEndpoint": {"serviceName": "aa"}}]);
        let (ab, _) = read_all(&[otlp(), file.clone()]);
        let (ba, _) = read_all(&[file, otlp()]);
        prop_assert_eq!(ab.all(), ba.all());
        prop_assert_eq!(ab.services(), ba.services());
        prop_assert!(ab.names().iter().eq(ba.names().iter()));
    }
}
