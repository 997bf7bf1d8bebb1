use super::*;
use crate::analyze::anomaly::{Kind, Place};
use crate::model::json::{Value, json};
use crate::model::network::ServiceName;
use crate::model::snapshot::Builder;
use crate::model::span::{SpansBuilder, read};

/// One request each second: `front` calls `pay` and then `ship`; `pay` asks `db` thrice. All lengths are milliseconds.
struct Shop {
    name: fn(&str) -> String,
    shift: i64,
    reverse: bool,
    /// What is different after the onset.
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    SlowWork,
    SlowWay,
    EarlyReturn,
    Fails,
}

const REQUESTS: i64 = 120;
/// Seconds after which the fault is in.
const ONSET: i64 = 90;
/// 2023-11-14T22:13:20Z.
const EPOCH: i64 = 1_700_000_000;

impl Shop {
    fn of(fault: Fault) -> Self {
        Shop { name: str::to_owned, shift: 0, reverse: false, fault }
    }

    fn spans(&self) -> Vec<Value> {
        let mut out = vec![];
        for at in 0..REQUESTS {
            let bad = if at >= ONSET { self.fault } else { Fault::None };
            // Deterministic jitter of up to 2 ms.
            let jitter = (at * 7919 % 20) * 100;
            let work = if bad == Fault::SlowWork { 80_000 } else { 5_000 + jitter };
            let way = if bad == Fault::SlowWay { 60_000 } else { 1_000 + jitter / 4 };
            let base = (EPOCH + at + self.shift) * 1_000_000;
            let mut push = |id: i64,
                            parent: i64,
                            service: &str,
                            name: &str,
                            kind: &str,
                            start: i64,
                            length: i64,
                            error: bool| {
                let mut tags = crate::model::json::Map::new();
                if error {
                    tags.insert("error".to_owned(), json!("boom"));
                }
                out.push(json!({"traceId": format!("{:x}", at + 1), "id": format!("{id:x}"), "parentId": format!("{parent:x}"), "name": name, "kind": kind,
                    "timestamp": base + start, "duration": length, "localEndpoint": {"serviceName": (self.name)(service)}, "tags": tags}));
            };
            let (fails, returns) = (bad == Fault::Fails, bad == Fault::EarlyReturn);
            let asks = if returns { 1 } else { 3 };
            let pay = work + asks * 3_000;
            push(1, 0, "front", "GET /", "SERVER", 0, pay + 2 * way + 9_000, fails);
            push(2, 1, "front", "POST pay", "CLIENT", 1_000, pay + way, fails);
            push(3, 2, "pay", "pay", "SERVER", 1_000 + way / 2, pay, fails);
            for ask in 0..asks {
                let name =
                    ["SELECT a", "SELECT b", "UPDATE c"].get(ask as usize).copied().unwrap_or_default();
                push(
                    10 + ask,
                    3,
                    "pay",
                    name,
                    "INTERNAL",
                    2_000 + way / 2 + ask * 3_000,
                    3_000,
                    fails && ask == 2,
                );
            }
            push(4, 1, "front", "POST ship", "CLIENT", 2_000 + pay + way, 5_000, false);
            push(5, 4, "ship", "ship", "SERVER", 3_000 + pay + way, 4_000, false);
        }
        out
    }

    fn found(&self) -> Vec<Anomaly> {
        let mut spans = self.spans();
        if self.reverse {
            spans.reverse();
        }
        let mut builder = SpansBuilder::default();
        assert!(read("f", Value::from(spans).to_string().as_bytes(), &mut builder).is_empty());
        let mut snapshot = Builder::new();
        snapshot.spans(builder.finish());
        let onset = Timestamp::from_second(EPOCH + ONSET + self.shift).unwrap();
        anomalies(&snapshot.finish(), Some(onset))
    }
}

fn shown(found: &[Anomaly]) -> Vec<String> {
    let line = |a: &Anomaly| format!("{} {:?} {} {:.2} {:.3}", a.place, a.kind, a.what, a.log_lr, a.after);
    found.iter().map(line).collect()
}

#[test]
fn the_service_that_works_longer_is_named_and_its_callers_are_not() {
    let found = Shop::of(Fault::SlowWork).found();
    assert_eq!(
        (&found[0].place, found[0].kind),
        (&Place::Service(ServiceName::new("", "pay")), Kind::SelfTime)
    );
    assert!(found[0].log_lr > 3.0, "{:?}", shown(&found));
    assert!(found.iter().all(|a| a.about().unwrap().name == "pay" || a.log_lr <= 0.0), "{:?}", shown(&found));
    assert_eq!(found[0].onset.unwrap().as_second(), EPOCH + ONSET);
}

#[test]
fn time_between_caller_and_callee_is_the_ways() {
    let found = Shop::of(Fault::SlowWay).found();
    let edge = Place::Edge { caller: ServiceName::new("", "front"), callee: ServiceName::new("", "pay") };
    assert_eq!((&found[0].place, found[0].kind), (&edge, Kind::NetworkTime), "{:?}", shown(&found));
    assert!(found[0].log_lr > 3.0 && found[0].blames.is_none());
}

#[test]
fn an_early_return_is_seen_by_what_ceased() {
    let found = Shop::of(Fault::EarlyReturn).found();
    let ceased: Vec<&Anomaly> = found.iter().filter(|a| a.kind == Kind::MissingCall).collect();
    assert_eq!(ceased.len(), 2, "{:?}", shown(&found));
    assert!(
        ceased
            .iter()
            .all(|a| a.about().unwrap().name == "pay" && a.log_lr > 3.0 && a.what.starts_with("pay → "))
    );
}

#[test]
fn errors_begin_where_nothing_within_fails() {
    let found = Shop::of(Fault::Fails).found();
    let origins: Vec<&Anomaly> = found.iter().filter(|a| a.kind == Kind::ErrorOrigin).collect();
    assert_eq!(origins.len(), 1, "{:?}", shown(&found));
    assert_eq!((origins[0].about().unwrap().name.as_str(), origins[0].what.as_str()), ("pay", "UPDATE c"));
    assert!(origins[0].log_lr > 3.0 && origins[0].evidence[0].excerpt.ends_with("boom"));
    let front = found.iter().find(|a| a.kind == Kind::Errors).unwrap();
    assert!(front.about().unwrap().name == "front" && front.log_lr < 0.0, "it passed the error on");
}

#[test]
fn a_quiet_time_says_nothing() {
    let found = Shop::of(Fault::None).found();
    assert!(found.iter().all(|a| a.log_lr < 1.0), "{:?}", shown(&found));
}

#[test]
fn order_names_and_time_are_of_no_account() {
    for fault in [Fault::SlowWork, Fault::SlowWay, Fault::EarlyReturn, Fault::Fails] {
        let plain = shown(&Shop::of(fault).found());
        assert_eq!(shown(&Shop { reverse: true, ..Shop::of(fault) }.found()), plain);
        assert_eq!(shown(&Shop { shift: 123_456, ..Shop::of(fault) }.found()), plain);
        let renamed =
            Shop { name: |name| format!("z{}", name.chars().rev().collect::<String>()), ..Shop::of(fault) };
        let (mut a, mut b) = (Shop::of(fault).found(), renamed.found());
        let key = |a: &Anomaly| (a.what.replace("zpihs", "ship"), (a.log_lr * 1e6) as i64);
        a.sort_by_key(key);
        b.sort_by_key(key);
        assert!(a.iter().map(key).eq(b.iter().map(key)));
    }
}

#[test]
fn nothing_is_said_without_spans_or_onset() {
    assert!(anomalies(&Snapshot::default(), Timestamp::from_second(EPOCH).ok()).is_empty());
    assert!(anomalies(&Snapshot::default(), None).is_empty());
}
