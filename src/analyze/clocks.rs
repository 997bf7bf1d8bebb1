//! How far clocks differ, from what must have happened before what: a callee works while its caller waits.
//!
//! Spans of both sides of a call and records of both proxies of a request say between which bounds two clocks differ; a message with a
//! vector clock says one bound; a node's heartbeat stands beside the API server's time for the same write. No order is claimed
//! that is finer than what is left.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::{Anomaly, Place, service_of_pod};
use super::logs::vector_clock::VectorClocks;
use super::traces::Measured;
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};
use crate::model::memo::Derived;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::span::{Emitter, Kind};
use crate::model::traffic::{ClusterName, address};

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;
/// Clocks that nothing shows to differ agree within a second: time services keep them a thousand times closer.
const AGREE: i64 = SECOND;
/// Bounds kept of two clocks: more do not narrow them.
const MAX_BOUNDS: usize = 4_096;
/// One bound in so many may be wrong: work that goes on when its caller has left, a clock that was set.
const WRONG: usize = 50;
/// Pairs below which two clocks are not said to differ.
const FEW: usize = 3;
/// Clocks that drift, or calls that were not waited for, leave bounds that contradict each other; by more than this share of the
/// difference, nothing is known.
const DRIFT: f64 = 0.1;
/// Clocks that differ by less than this are not worth a word.
const NO_NEWS: i64 = SECOND / 20;
/// Access logs write milliseconds.
const MILLI: i64 = 1_000_000;
/// A heartbeat reaches the API server within so many nanoseconds, both times cut to seconds.
const HEARTBEAT: (i64, i64) = (SECOND, 3 * SECOND);

/// What has a clock of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// The API server.
    ControlPlane,
    /// A node.
    Node(String),
    /// A pod of which no node is known.
    Pod(String, String),
    /// A service of which no pod is known.
    Service(ServiceName),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::ControlPlane => f.write_str("the API server"),
            Host::Node(name) => write!(f, "Node {name}"),
            Host::Pod(namespace, name) => write!(f, "Pod {namespace}/{name}"),
            Host::Service(name) => write!(f, "Service {name}"),
        }
    }
}

/// One clock beside most others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds that it is ahead of most others; negative is behind.
    pub ahead: i64,
    /// Nanoseconds that this may be wrong, either way.
    pub error: i64,
}

/// The clocks of a snapshot. Read it through `snapshot.derived::<Clocks>()`.
#[derive(Debug, Default)]
pub struct Clocks {
    hosts: BTreeMap<Host, Clock>,
    services: BTreeMap<ServiceName, Clock>,
}

/// Between which bounds the second of two clocks is ahead of the first, as single calls show it.
#[derive(Debug, Default)]
struct Bounds {
    least: Vec<i64>,
    most: Vec<i64>,
}

impl Bounds {
    fn add(&mut self, least: Option<i64>, most: Option<i64>) {
        for (list, bound) in [(&mut self.least, least), (&mut self.most, most)] {
            list.extend(bound.filter(|_| list.len() < MAX_BOUNDS));
        }
    }

    /// By how much the second is ahead, and how much this may be wrong; `None` where nothing is known.
    fn agreed(mut self) -> Option<Clock> {
        self.least.sort_unstable();
        self.most.sort_unstable();
        let spared = |list: &[i64]| list.len() / WRONG;
        let low =
            self.least.len().checked_sub(1 + spared(&self.least)).and_then(|at| self.least.get(at)).copied();
        let high = self.most.get(spared(&self.most)).copied();
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high),
            // One bound alone says something only where it excludes that they agree.
            (Some(low), None) if low > 0 => (low, low.saturating_add(2 * AGREE)),
            (None, Some(high)) if high < 0 => (high.saturating_sub(2 * AGREE), high),
            _ => return None,
        };
        if low <= 0 && high >= 0 {
            return Some(Clock { ahead: 0, error: low.saturating_neg().max(high).min(AGREE) });
        }
        let middle = low / 2 + high / 2;
        let apart = low.abs_diff(high) as i64 / 2;
        let contradicts = low > high && apart as f64 > DRIFT * middle.unsigned_abs() as f64;
        let few = self.least.len().max(self.most.len()) < FEW;
        if contradicts || few {
            return Some(Clock { ahead: 0, error: AGREE.max(if few { 0 } else { apart }) });
        }
        Some(Clock { ahead: middle, error: apart })
    }
}

type Pairs = BTreeMap<(Host, Host), Bounds>;

impl Derived for Clocks {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut pairs = Pairs::new();
        of_spans(snapshot, &mut pairs);
        of_requests(snapshot, &mut pairs);
        of_messages(snapshot, &mut pairs);
        of_heartbeats(snapshot, &mut pairs);
        Clocks::solve(snapshot, pairs)
    }
}

/// The clock that a pod's times are by.
fn host_of_pod(snapshot: &Snapshot, namespace: &str, pod: &str) -> Host {
    match snapshot.pod(namespace, pod).map(|pod| pod.node.as_str()).filter(|node| !node.is_empty()) {
        Some(node) => Host::Node(node.to_owned()),
        None => Host::Pod(namespace.to_owned(), pod.to_owned()),
    }
}

fn host_of_emitter(snapshot: &Snapshot, emitter: &Emitter) -> Host {
    let service = snapshot.spans.services().get(emitter.service as usize).cloned().unwrap_or_default();
    if !emitter.node.is_empty() {
        Host::Node(emitter.node.clone())
    } else if emitter.pod.is_empty() {
        Host::Service(service)
    } else {
        let known = snapshot.pod_by_ip(&emitter.pod);
        let pod = known.map_or(emitter.pod.as_str(), |pod| pod.object.name());
        host_of_pod(snapshot, &service.namespace, pod)
    }
}

/// Adds that the second clock is ahead of the first by so much at least, and by so much at most.
fn add(pairs: &mut Pairs, first: &Host, second: &Host, least: Option<i64>, most: Option<i64>) {
    let minus = |bound: Option<i64>| bound.map(i64::saturating_neg);
    match first.cmp(second) {
        std::cmp::Ordering::Less => {
            pairs.entry((first.clone(), second.clone())).or_default().add(least, most);
        }
        std::cmp::Ordering::Greater => {
            pairs.entry((second.clone(), first.clone())).or_default().add(minus(most), minus(least));
        }
        std::cmp::Ordering::Equal => {}
    }
}

/// A callee's span lies within its caller's.
fn of_spans(snapshot: &Snapshot, pairs: &mut Pairs) {
    let spans = &snapshot.spans;
    if spans.is_empty() {
        return;
    }
    let measured = snapshot.derived::<Measured>();
    let hosts: Vec<Host> =
        spans.emitters().iter().map(|emitter| host_of_emitter(snapshot, emitter)).collect();
    // Emitters are few and spans many: hosts are looked up once for each pair of emitters.
    let mut found: BTreeMap<(u32, u32), Bounds> = BTreeMap::new();
    for (at, inner) in spans.all().iter().enumerate() {
        let Some(outer) = measured.forest.parent(at).and_then(|parent| spans.all().get(parent)) else {
            continue;
        };
        let message = inner.kind == Kind::Consumer || outer.kind == Kind::Producer;
        if inner.emitter == outer.emitter || message || inner.duration > outer.duration {
            continue;
        }
        let least = inner.end().saturating_sub(outer.end());
        let most = inner.start.saturating_sub(outer.start);
        found.entry((outer.emitter, inner.emitter)).or_default().add(Some(least), Some(most));
    }
    for ((outer, inner), bounds) in found {
        let (Some(outer), Some(inner)) = (hosts.get(outer as usize), hosts.get(inner as usize)) else {
            continue;
        };
        for (least, most) in bounds.least.iter().zip(&bounds.most) {
            add(pairs, outer, inner, Some(*least), Some(*most));
        }
    }
}

/// The record of the callee's proxy lies within that of the caller's: they have the request's id in common.
fn of_requests(snapshot: &Snapshot, pairs: &mut Pairs) {
    /// Where a record stands, when the request began, and how long it took.
    type Side = (Host, i64, i64);
    // By request and called pod: the caller's side and the callee's; `None` where there are several.
    let mut sides: BTreeMap<(&str, &str), [Option<Option<Side>>; 2]> = BTreeMap::new();
    for log in &snapshot.logs {
        for record in log.access.iter().filter(|record| !record.request_id.is_empty()) {
            let Some(start) = record.start else { continue };
            let cluster = ClusterName::read(&record.cluster);
            let (side, called) = match cluster.direction.as_str() {
                "outbound" => {
                    (0, snapshot.pod_by_ip(address(&record.upstream_host)).map(|pod| pod.object.name()))
                }
                "inbound" => (1, Some(log.pod.as_str())),
                _ => continue,
            };
            let Some(called) = called else { continue };
            let slots = sides.entry((record.request_id.as_str(), called)).or_default();
            let Some(slot) = slots.get_mut(side) else { continue };
            let nanos = i64::try_from(start.as_nanosecond()).unwrap_or_default();
            let length = i64::try_from(record.duration_ms).unwrap_or(i64::MAX).saturating_mul(MILLI);
            let host = host_of_pod(snapshot, &log.namespace, &log.pod);
            *slot = Some(if slot.is_none() { Some((host, nanos, length)) } else { None });
        }
    }
    for [caller, callee] in sides.into_values() {
        let (Some(Some((outer, from, waits))), Some(Some((inner, start, works)))) = (caller, callee) else {
            continue;
        };
        if works <= waits.saturating_add(MILLI) {
            let least = start.saturating_add(works).saturating_sub(from.saturating_add(waits));
            let most = start.saturating_sub(from);
            add(
                pairs,
                &outer,
                &inner,
                Some(least.saturating_sub(2 * MILLI)),
                Some(most.saturating_add(2 * MILLI)),
            );
        }
    }
}

/// A message is sent before it is received.
fn of_messages(snapshot: &Snapshot, pairs: &mut Pairs) {
    for message in snapshot.derived::<VectorClocks>().messages(snapshot) {
        let host = |(namespace, pod): (&str, &str)| host_of_pod(snapshot, namespace, pod);
        let most = message.received.saturating_sub(message.sent);
        add(pairs, &host(message.from), &host(message.to), None, Some(most));
    }
}

/// A kubelet writes its own time into a heartbeat, and the API server writes down when that came.
fn of_heartbeats(snapshot: &Snapshot, pairs: &mut Pairs) {
    for node in snapshot.objects_of("Node") {
        let written =
            node.edits.iter().filter(|edit| edit.manager == "kubelet" && edit.subresource == "status");
        let written = written.filter_map(|edit| edit.time).max();
        let beats =
            node.body.list("status.conditions").iter().filter_map(|c| c.time("lastHeartbeatTime")).max();
        let (Some(written), Some(beat)) = (written, beats) else { continue };
        let ahead = beat.as_second().saturating_sub(written.as_second()).saturating_mul(SECOND);
        let (least, most) = (ahead.saturating_sub(HEARTBEAT.0), ahead.saturating_add(HEARTBEAT.1));
        // One such pair is worth as much as several calls: nothing else can make it wrong.
        for _ in 0..FEW {
            add(pairs, &Host::ControlPlane, &Host::Node(node.name().to_owned()), Some(least), Some(most));
        }
    }
}

impl Clocks {
    /// From pairs to single clocks: along the surest pairs, and then beside the middle one of all that are joined.
    fn solve(snapshot: &Snapshot, pairs: Pairs) -> Self {
        let mut near: BTreeMap<Host, Vec<(Host, Clock)>> = BTreeMap::new();
        for ((first, second), bounds) in pairs {
            let Some(clock) = bounds.agreed() else { continue };
            near.entry(second.clone())
                .or_default()
                .push((first.clone(), Clock { ahead: -clock.ahead, ..clock }));
            near.entry(first).or_default().push((second, clock));
        }
        let mut hosts: BTreeMap<Host, Clock> = BTreeMap::new();
        // The one that is seen beside most others comes first; among equals the order of names decides nothing but signs.
        let mut roots: Vec<&Host> = near.keys().collect();
        roots.sort_by_key(|host| std::cmp::Reverse(near.get(host).map_or(0, Vec::len)));
        for root in roots {
            if hosts.contains_key(root) {
                continue;
            }
            let mut group: BTreeMap<&Host, Clock> = BTreeMap::new();
            let mut open: BTreeSet<(i64, i64, &Host)> = BTreeSet::from([(0, 0, root)]);
            while let Some((error, ahead, host)) = open.pop_first() {
                if group.contains_key(host) {
                    continue;
                }
                group.insert(host, Clock { ahead, error });
                for (other, clock) in near.get(host).into_iter().flatten() {
                    if !group.contains_key(other) {
                        open.insert((
                            error.saturating_add(clock.error),
                            ahead.saturating_add(clock.ahead),
                            other,
                        ));
                    }
                }
            }
            let mut all: Vec<i64> = group.values().map(|clock| clock.ahead).collect();
            all.sort_unstable();
            let middle = if all.len() > 2 { all.get(all.len() / 2).copied().unwrap_or_default() } else { 0 };
            hosts.extend(group.into_iter().map(|(host, clock)| {
                (host.clone(), Clock { ahead: clock.ahead.saturating_sub(middle), ..clock })
            }));
        }
        let services = services(snapshot, &hosts);
        Clocks { hosts, services }
    }

    /// The clock of a pod, where something shows it.
    pub fn of_pod(&self, snapshot: &Snapshot, namespace: &str, pod: &str) -> Option<Clock> {
        self.hosts.get(&host_of_pod(snapshot, namespace, pod)).copied()
    }

    /// The clock of a service, where something shows it: of several pods, with all that they differ by as error.
    pub fn of_service(&self, service: &ServiceName) -> Option<Clock> {
        self.services.get(service).copied()
    }

    /// Seconds within which nothing is said about what came first between two services.
    pub fn margin(&self, first: &ServiceName, second: &ServiceName) -> f64 {
        let error = |service| self.of_service(service).map_or(0, |clock| clock.error);
        (error(first).saturating_add(error(second))) as f64 / SECOND as f64
    }

    /// Puts the onsets of anomalies right, and widens what they are known to by what the clocks may still differ by.
    pub fn put_right(&self, mut anomalies: Vec<Anomaly>) -> Vec<Anomaly> {
        for anomaly in &mut anomalies {
            let told = match &anomaly.place {
                Place::Edge { caller, .. } => Some(caller),
                place => place.service(),
            };
            let Some(clock) = told.and_then(|service| self.of_service(service)) else { continue };
            anomaly.resolution = anomaly.resolution.max(clock.error as f64 / SECOND as f64);
            if clock.ahead.abs() >= NO_NEWS {
                anomaly.onset = anomaly.onset.map(|at| put_back(at, clock.ahead));
            }
        }
        anomalies
    }

    /// Clocks that are wrong, as gaps: order is known no better than that.
    pub fn gaps(&self) -> Vec<Gap> {
        let wrong = self.hosts.iter().filter(|(_, clock)| clock.ahead.abs() >= NO_NEWS.max(2 * clock.error));
        let told = wrong.map(|(host, clock)| {
            let way = if clock.ahead > 0 { "ahead of" } else { "behind" };
            let seconds = |nanos: i64| nanos.unsigned_abs() as f64 / SECOND as f64;
            let what = format!(
                "order finer than {:.2} s at {host}: its clock is {:.2} s {way} others",
                seconds(clock.error).max(0.01),
                seconds(clock.ahead)
            );
            Gap::new("Clocks", what, GapReason::Failed).hint(
                "times are put right by that much; synchronise its clock (chronyc tracking, timedatectl)",
            )
        });
        told.take(MAX_TOLD).collect()
    }
}

/// Clocks that are told.
const MAX_TOLD: usize = 5;

/// An instant by a clock that is so many nanoseconds ahead, by that of the others.
fn put_back(at: Timestamp, ahead: i64) -> Timestamp {
    at.checked_sub(jiff::SignedDuration::from_nanos(ahead)).unwrap_or(at)
}

/// Clocks of services: of all hosts that write for each.
fn services(snapshot: &Snapshot, hosts: &BTreeMap<Host, Clock>) -> BTreeMap<ServiceName, Clock> {
    let mut of: BTreeMap<ServiceName, BTreeSet<Host>> = BTreeMap::new();
    for emitter in snapshot.spans.emitters() {
        if let Some(service) = snapshot.spans.services().get(emitter.service as usize) {
            of.entry(service.clone()).or_default().insert(host_of_emitter(snapshot, emitter));
        }
    }
    for log in &snapshot.logs {
        let service = service_of_pod(snapshot, &log.namespace, &log.pod);
        of.entry(service).or_default().insert(host_of_pod(snapshot, &log.namespace, &log.pod));
    }
    let joined = of.into_iter().filter_map(|(service, own)| {
        let known: Vec<&Clock> = own.iter().filter_map(|host| hosts.get(host)).collect();
        let low = known.iter().map(|clock| clock.ahead.saturating_sub(clock.error)).min()?;
        let high = known.iter().map(|clock| clock.ahead.saturating_add(clock.error)).max()?;
        Some((service, Clock { ahead: low / 2 + high / 2, error: (low.abs_diff(high) / 2) as i64 }))
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;
    use crate::model::span::{SpansBuilder, read};
    use proptest::prelude::*;

    /// Calls of `front` to each service, whose clock is that many milliseconds ahead.
    fn called(ahead: &[(&str, i64)], calls: i64, reverse: bool) -> Snapshot {
        let mut spans: Vec<Value> = vec![];
        for call in 0..calls {
            let base = 1_700_000_000_000_000 + call * 1_000_000;
            let mut push = |id: i64, parent: i64, service: &str, kind: &str, at: i64, length: i64| {
                spans.push(json!({"traceId": format!("{:x}", call + 1), "id": format!("{id:x}"), "parentId": format!("{parent:x}"), "name": "do", "kind": kind,
                    "timestamp": at, "duration": length, "localEndpoint": {"serviceName": service}}));
            };
            push(1, 0, "front", "SERVER", base, 500_000);
            for (at, (service, ahead)) in ahead.iter().enumerate() {
                let (id, from) = (10 * (at as i64 + 1), base + 1_000 + at as i64 * 60_000);
                let there = 1_000 + (call * 7 + at as i64) % 9 * 300;
                push(id, 1, "front", "CLIENT", from, 50_000);
                push(id + 1, id, service, "SERVER", from + there + ahead * 1_000, 50_000 - 2 * there);
            }
        }
        if reverse {
            spans.reverse();
        }
        let mut builder = SpansBuilder::default();
        assert!(read("f", Value::from(spans).to_string().as_bytes(), &mut builder).is_empty());
        let mut snapshot = Builder::new();
        snapshot.spans(builder.finish());
        snapshot.finish()
    }

    fn of(snapshot: &Snapshot, service: &str) -> Clock {
        Clocks::derive(snapshot).of_service(&ServiceName::new("", service)).unwrap()
    }

    #[test]
    fn a_clock_that_is_ahead_is_found_and_told() {
        let known = called(&[("a", 0), ("b", 42_000), ("c", 0)], 20, false);
        let clock = of(&known, "b");
        assert!((clock.ahead - 42 * SECOND).abs() <= 2 * MILLI && clock.error <= 2 * MILLI, "{clock:?}");
        assert_eq!(of(&known, "a").ahead, 0);
        let gaps = Clocks::derive(&known).gaps();
        assert_eq!(gaps.len(), 1);
        assert!(gaps[0].what.ends_with("at Service /b: its clock is 42.00 s ahead of others"), "{gaps:?}");
        assert!(Clocks::derive(&called(&[("a", 0), ("b", 0)], 20, false)).gaps().is_empty());
    }

    #[test]
    fn onsets_are_put_right_and_known_no_better() {
        let known = called(&[("a", 0), ("b", -42_000)], 20, false);
        let at: Timestamp = "2023-11-14T22:13:20Z".parse().unwrap();
        let of = |name: &str| {
            let place = Place::Service(ServiceName::new("", name));
            let found = Anomaly::new(
                place,
                crate::analyze::anomaly::Signal::Span,
                crate::analyze::anomaly::Kind::Errors,
                "x",
                crate::analyze::anomaly::Direction::Up,
            );
            let found = Clocks::derive(&known).put_right(vec![found.since(Some(at), 0.0)]).remove(0);
            (found.onset.unwrap().as_second() - at.as_second(), found.resolution > 0.0)
        };
        assert_eq!((of("a"), of("b")), ((0, true), (42, true)));
    }

    #[test]
    fn work_that_outlives_its_caller_moves_no_clock() {
        // Each begins later after its caller than the one before it: they contradict each other.
        let later: Vec<Value> = (0..20i64)
            .flat_map(|call| {
                let base = 1_700_000_100_000_000 + call * 1_000_000;
                let span = |id: i64, parent: i64, service: &str, at: i64, length: i64| {
                    json!({"traceId": format!("{:x}", call + 100), "id": format!("{id:x}"), "parentId": format!("{parent:x}"), "name": "do",
                        "timestamp": at, "duration": length, "localEndpoint": {"serviceName": service}})
                };
                [span(1, 0, "front", base, 10_000), span(2, 1, "late", base + 20_000 + call * 40_000, 5_000)]
            })
            .collect();
        let mut builder = SpansBuilder::default();
        assert!(read("f", Value::from(later).to_string().as_bytes(), &mut builder).is_empty());
        let mut snapshot = Builder::new();
        snapshot.spans(builder.finish());
        let known = snapshot.finish();
        assert_eq!(of(&known, "late").ahead, 0);
        assert!(Clocks::derive(&known).gaps().is_empty());
    }

    #[test]
    fn a_heartbeat_tells_a_nodes_clock() {
        let mut builder = Builder::new();
        for (name, beat) in [("good", "10:00:05"), ("bad", "10:02:05"), ("fine", "10:00:04")] {
            builder.object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "managedFields": [
                {"manager": "kubelet", "operation": "Update", "subresource": "status", "time": "2026-11-22T10:00:05Z", "fieldsV1": {"f:status": {}}}]},
                "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": format!("2026-11-22T{beat}Z")}]}}));
        }
        let gaps = Clocks::derive(&builder.finish()).gaps();
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert!(gaps[0].what.contains("Node bad: its clock is 121.00 s ahead"), "{gaps:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_difference_is_found_in_any_order(ahead in -100_000i64..100_000, reverse: bool) {
            let clock = of(&called(&[("a", 0), ("b", ahead), ("c", 0)], 12, reverse), "b");
            prop_assert!((clock.ahead - ahead * MILLI).abs() <= clock.error.max(2 * MILLI), "{clock:?} for {ahead}");
        }
    }
}
