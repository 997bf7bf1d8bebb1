use super::*;
use crate::model::json::{Value, json};
use crate::model::log::LogStream;
use crate::model::snapshot::Builder;
use crate::model::span::{SpansBuilder, read};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const REQUEST: &str = "8b1f1c5e-1c0f-9d7e-b7f8-0f9b6a1f2c3d";

/// `front` calls `pay`, whose clock is 40 s ahead, and `pay` fails by itself.
fn snapshot() -> Snapshot {
    let mut builder = Builder::new();
    let span = |id: &str, parent: &str, service: &str, kind: &str, start: u64, length: u64, tags: Value| {
        json!({"traceId": TRACE, "id": id, "parentId": parent, "name": format!("{service} {id}"), "kind": kind,
            "timestamp": 1_700_000_000_000_000u64 + start, "duration": length, "localEndpoint": {"serviceName": service}, "tags": tags})
    };
    let body = json!([
        span("1", "", "front", "SERVER", 0, 100_000, json!({"error": "true", "guid:x-request-id": REQUEST})),
        span(
            "2",
            "1",
            "front",
            "CLIENT",
            10_000,
            80_000,
            json!({"error": "true", "http.status_code": "500"})
        ),
        span("3", "2", "pay", "SERVER", 40_020_000, 60_000, json!({"error": "card refused"})),
        span("4", "3", "pay", "CLIENT", 40_030_000, 10_000, json!({"peer.service": "bank"})),
    ]);
    let mut spans = SpansBuilder::default();
    assert!(read("f", body.to_string().as_bytes(), &mut spans).is_empty());
    builder.spans(spans.finish());
    let mut log = |pod: &str, text: String| {
        builder.log(LogStream::read("", pod, "app", false, text.as_bytes(), false));
    };
    log(
        "front-0",
        format!(
            "2023-11-14T22:13:20.005Z INFO in trace_id={TRACE} id=order-17\n2023-11-14T22:13:21Z INFO other\n"
        ),
    );
    log(
        "pay-0",
        format!(
            "2023-11-14T22:14:00.050Z ERROR card refused trace_id={TRACE}\n2023-11-14T22:14:00Z INFO {TRACE}0\n"
        ),
    );
    log("late-0", format!("2023-11-14T22:13:22Z INFO mail sent request={REQUEST}\n"));
    builder.finish()
}

#[test]
fn a_request_is_followed_through_spans_and_logs_in_causal_order() {
    for id in [TRACE, REQUEST, &format!("00-{TRACE}-00f067aa0ba902b7-01"), "order-17"] {
        let followed = follow(&snapshot(), id);
        let shown: Vec<String> = followed
            .steps
            .iter()
            .map(|step| {
                format!(
                    "{} {:?} {} {}",
                    step.depth,
                    step.seen,
                    step.service,
                    step.what.split(' ').next_back().unwrap()
                )
            })
            .collect();
        let expected = [
            "0 Span /front 1",
            "1 Log /front id=order-17",
            "1 Span /front 2",
            "2 Span /pay 3",
            "3 Span /pay bank",
            &format!("3 Log /pay trace_id={TRACE}"),
            "0 Log /late request=8b1f1c5e-1c0f-9d7e-b7f8-0f9b6a1f2c3d",
        ];
        assert_eq!(shown, expected, "{id}");
        let broke = followed.broke.unwrap();
        let step = &followed.steps[broke.step];
        assert_eq!((step.service.as_str(), step.outcome.as_str()), ("/pay", "card refused"));
        assert!(broke.said.contains("ERROR card refused"), "{broke:?}");
        assert_eq!(followed.clocks.len(), 1);
        assert!((followed.clocks[0].ahead_ms - 40_000.0).abs() < 10.0 && followed.clocks[0].place == "/pay");
    }
}

#[test]
fn an_unknown_id_and_a_part_of_one_find_nothing() {
    for id in ["4bf92f3577b34da6", "nothing-such", ""] {
        let followed = follow(&snapshot(), id);
        assert!(followed.steps.is_empty() && followed.broke.is_none(), "{id}: {followed:?}");
    }
}
