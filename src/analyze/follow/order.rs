//! The steps of a request in causal order: what is within something comes behind its beginning, whatever the clocks say.

use std::collections::BTreeMap;

use super::lines::Found;
use super::{Broke, Clock, Followed, MAX_STEPS, Seen, Step};
use crate::analyze::anomaly::service_of_pod;
use crate::analyze::clocks::Clocks;
use crate::analyze::finding::{MAX_EXCERPT, cut};
use crate::analyze::logs::record::{self, Level};
use crate::analyze::logs::vector_clock::{in_causal_order, stamp};
use crate::analyze::traces::Measured;
use crate::analyze::traces::errors::{Failure, failure};
use crate::analyze::traces::measure::shift;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::span::{Code, Span};
use crate::model::time::from_unix;

/// Clocks that differ by less, in nanoseconds, are no news: so much lies between two processes' readings of one clock.
const NO_NEWS: i64 = 2_000_000;

/// A step with what puts it into its place.
#[derive(Debug)]
struct Placed {
    /// Nanoseconds since 1970 by the first clock; `None` where nothing says.
    at: Option<i64>,
    end: i64,
    step: Step,
    name: ServiceName,
    /// How a span failed.
    failure: Option<Failure>,
}

impl Placed {
    /// Whether it is a line or a record that tells of a failure.
    fn is_error(&self) -> bool {
        self.step.failed && self.step.seen != Seen::Span
    }
}

/// What was seen, before it has a place.
struct Sight<'a> {
    seen: Seen,
    name: ServiceName,
    pod: &'a str,
    /// Nanoseconds since 1970 by the first clock; `None` where nothing says.
    at: Option<i64>,
    depth: usize,
    what: String,
    outcome: String,
    took: Option<u64>,
    failed: bool,
    failure: Option<Failure>,
}

/// The way of a request.
#[derive(Debug, Default)]
pub(super) struct Way {
    placed: Vec<Placed>,
    /// How far each service's clock is behind the first one's, by service and pod.
    behind: BTreeMap<(ServiceName, String), i64>,
    orphans: usize,
}

impl Way {
    /// Takes the spans of a trace.
    pub(super) fn trace(&mut self, snapshot: &Snapshot, id: &str) {
        let spans = &snapshot.spans;
        let Some(trace) = spans.trace_by_id(id) else { return };
        let measured = snapshot.derived::<Measured>();
        let roots =
            (trace.first..trace.first + trace.spans.len()).filter(|at| measured.forest.parent(*at).is_none());
        // A span, how deep it is, by how much its clock is behind, and when what it is within began.
        let mut next: Vec<(usize, usize, i64, i64)> = roots.map(|at| (at, 0, 0, i64::MIN)).collect();
        next.reverse();
        while let Some((at, depth, by, not_before)) = next.pop() {
            let (Some(span), true) = (spans.all().get(at), self.placed.len() < MAX_STEPS) else { continue };
            self.orphans += usize::from(measured.forest.is_orphan(at));
            let begin = span.start.saturating_add(by).max(not_before);
            self.span(snapshot, &measured, (at, span), depth, begin);
            if let Some(name) = spans.service(span) {
                let pod = spans.emitter(span).map(|emitter| emitter.pod.clone()).unwrap_or_default();
                let known = self.behind.entry((name.clone(), pod)).or_insert(by);
                // Of several estimates the smallest: the middle of a long call is a guess.
                if by.abs() < known.abs() {
                    *known = by;
                }
            }
            let mut inner: Vec<(usize, usize, i64, i64)> = measured
                .forest
                .children(at)
                .filter_map(|child| {
                    let within = spans.all().get(child)?;
                    let more = shift(span, within, within.emitter != span.emitter);
                    Some((child, depth + 1, by.saturating_add(more), begin))
                })
                .collect();
            inner.sort_by_key(|(child, _, by, _)| {
                (spans.all().get(*child).map(|span| span.start.saturating_add(*by)), *child)
            });
            next.extend(inner.into_iter().rev());
        }
    }

    fn span(
        &mut self,
        snapshot: &Snapshot,
        measured: &Measured,
        (at, span): (usize, &Span),
        depth: usize,
        begin: i64,
    ) {
        let spans = &snapshot.spans;
        let name = spans.service(span).cloned().unwrap_or_default();
        let code = match span.code {
            Code::None => String::new(),
            Code::Http(status) => format!("HTTP {status}"),
            Code::Grpc(status) => format!("gRPC {status}"),
        };
        let said = if span.failed() { spans.text(span.message) } else { "" };
        let outcome: Vec<&str> = [code.as_str(), said].into_iter().filter(|text| !text.is_empty()).collect();
        let peer = spans.text(span.peer);
        let operation = spans.text(span.operation);
        let calls = span.is_outgoing() && measured.callee(at).is_none() && !peer.is_empty();
        self.put(Sight {
            seen: Seen::Span,
            name,
            pod: spans.emitter(span).map_or("", |emitter| emitter.pod.as_str()),
            at: Some(begin),
            depth,
            what: if calls { format!("{operation} → {peer}") } else { operation.to_owned() },
            outcome: outcome.join(": "),
            took: Some(span.duration),
            failed: span.failed(),
            failure: failure(spans, measured, at),
        });
    }

    fn put(&mut self, sight: Sight<'_>) {
        let Sight { seen, name, pod, at, depth, what, outcome, took, failed, failure } = sight;
        let step = Step {
            time: at.and_then(|at| from_unix(at as f64 / 1e9)),
            service: name.to_string(),
            pod: pod.to_owned(),
            depth,
            seen,
            what,
            outcome,
            took_ms: took.map(|nanos| nanos as f64 / 1e6),
            failed,
        };
        let end = at.unwrap_or_default().saturating_add_unsigned(took.unwrap_or_default());
        self.placed.push(Placed { at, end, step, name, failure });
    }

    /// Takes the clocks of pods whose spans are not in the trace from what all traces and requests show.
    fn other_clocks(&mut self, snapshot: &Snapshot, found: &Found<'_>) {
        let clocks = snapshot.derived::<Clocks>();
        let first = self.placed.first().and_then(|first| clocks.of_service(&first.name));
        let first = first.map_or(0, |clock| clock.ahead);
        let lines = found.lines.iter().map(|(log, _)| log);
        for log in lines.chain(found.access.iter().map(|(log, _)| log)) {
            let name = service_of_pod(snapshot, &log.namespace, &log.pod);
            let known = self
                .behind
                .keys()
                .any(|(service, pod)| *service == name && (pod.is_empty() || *pod == log.pod));
            if let Some(clock) = clocks.of_pod(snapshot, &log.namespace, &log.pod).filter(|_| !known) {
                self.behind.insert((name, log.pod.clone()), first.saturating_sub(clock.ahead));
            }
        }
    }

    /// Puts lines and records between the spans.
    pub(super) fn lines(&mut self, snapshot: &Snapshot, found: &Found<'_>) {
        self.other_clocks(snapshot, found);
        let spans = self.placed.len();
        for (log, line) in &found.lines {
            let name = service_of_pod(snapshot, &log.namespace, &log.pod);
            let at = line.time.map(|time| self.first_clock(&name, &log.pod, nanos(time)));
            let read = record::parse(&line.text);
            let error = matches!(read.level, Some(Level::Error | Level::Fatal));
            let depth = self.depth(&name, at, spans);
            self.put(Sight {
                seen: Seen::Log,
                name,
                pod: &log.pod,
                at,
                depth,
                what: cut(line.text.trim(), MAX_EXCERPT).to_owned(),
                outcome: String::new(),
                took: None,
                failed: error,
                failure: None,
            });
        }
        for (log, record) in &found.access {
            let name = service_of_pod(snapshot, &log.namespace, &log.pod);
            let at = record.start.map(|time| self.first_clock(&name, &log.pod, nanos(time)));
            let inbound = record.cluster.starts_with("inbound");
            let side = if inbound { "taken in" } else { "sent on" };
            let code =
                if record.code == 0 { "no answer".to_owned() } else { format!("HTTP {}", record.code) };
            let flags =
                if record.flags.is_empty() { String::new() } else { format!(" {}", record.flags.join(",")) };
            let details = if record.via_upstream() { "" } else { record.details.as_str() };
            let details = if details.is_empty() { String::new() } else { format!(": {details}") };
            let depth = self.depth(&name, at, spans);
            self.put(Sight {
                seen: Seen::AccessLog,
                name,
                pod: &log.pod,
                at,
                depth,
                what: format!("{} {} {} {side}", record.method, record.authority, record.path),
                outcome: format!("{code}{flags}{details}"),
                took: Some(record.duration_ms.saturating_mul(1_000_000)),
                failed: record.failed(),
                failure: None,
            });
        }
    }

    /// A time of a service's clock by the first one's.
    fn first_clock(&self, name: &ServiceName, pod: &str, at: i64) -> i64 {
        let exact = self.behind.get(&(name.clone(), pod.to_owned()));
        let any = || self.behind.iter().find(|((known, _), _)| known == name).map(|(_, by)| by);
        at.saturating_add(exact.or_else(any).copied().unwrap_or_default())
    }

    /// How deep a line is: within the deepest span of its service that was open then.
    fn depth(&self, name: &ServiceName, at: Option<i64>, spans: usize) -> usize {
        let own = self.placed.iter().take(spans).filter(|placed| placed.name == *name);
        let open =
            |placed: &&Placed| at.zip(placed.at).is_some_and(|(at, begin)| begin <= at && at <= placed.end);
        let deepest = own.clone().filter(open).map(|placed| placed.step.depth).max();
        deepest.or_else(|| own.map(|placed| placed.step.depth).min()).map_or(0, |depth| depth + 1)
    }

    pub(super) fn finish(mut self, snapshot: &Snapshot) -> Followed {
        // A line without a time stays behind the one before it.
        let mut last = None;
        for placed in &mut self.placed {
            placed.at = placed.at.or(last);
            last = placed.at;
        }
        self.placed.sort_by_key(|placed| placed.at);
        in_causal_order(&mut self.placed, |placed| {
            if placed.step.seen == Seen::Log { stamp(&placed.step.what) } else { None }
        });
        let broke = self.broke();
        let mut notes = vec![];
        if self.orphans > 0 {
            notes.push(format!(
                "{} spans name a parent that is not there: it was not sampled, got lost, or its service sends none",
                self.orphans
            ));
        }
        if self.placed.iter().all(|placed| placed.step.seen != Seen::Span) && !self.placed.is_empty() {
            let why =
                if snapshot.spans.is_empty() { "no traces are there" } else { "no trace is known by it" };
            notes.push(format!("{why}: the order is that of the services' own clocks"));
        }
        let clocks =
            self.behind.iter().filter(|(_, by)| by.abs() >= NO_NEWS).map(|((name, pod), by)| Clock {
                place: if pod.is_empty() { name.to_string() } else { format!("{name} ({pod})") },
                ahead_ms: -(*by as f64) / 1e6,
            });
        Followed {
            clocks: clocks.collect(),
            steps: self.placed.into_iter().map(|placed| placed.step).collect(),
            broke,
            notes,
            ..Followed::default()
        }
    }

    /// The deepest span that fails by itself; without one, what failed last on the way in: the one nearest to the cause answers
    /// first, and those before it pass its answer on.
    fn broke(&self) -> Option<Broke> {
        let spans = self
            .placed
            .iter()
            .enumerate()
            .filter(|(_, placed)| matches!(placed.failure, Some(Failure::Own | Failure::Unanswered)));
        let deepest = spans.max_by_key(|(at, placed)| (placed.step.depth, std::cmp::Reverse(*at)));
        if let Some((step, placed)) = deepest {
            let why = match placed.failure {
                Some(Failure::Unanswered) => "its call failed, and whom it called left no span that failed",
                _ => "it fails while nothing that it called does",
            };
            let said = self
                .placed
                .iter()
                .find(|other| other.is_error() && other.step.seen == Seen::Log && other.name == placed.name);
            let said = said.map(|line| line.step.what.clone()).unwrap_or_default();
            return Some(Broke { step, why: why.to_owned(), said });
        }
        let mut access =
            self.placed.iter().enumerate().filter(|(_, p)| p.step.seen == Seen::AccessLog && p.step.failed);
        if let Some((step, _)) = access.next_back() {
            return Some(Broke {
                step,
                why: "no proxy further on the way saw it fail".to_owned(),
                said: String::new(),
            });
        }
        let step = self.placed.iter().position(Placed::is_error)?;
        Some(Broke { step, why: "it is the first line that is an error".to_owned(), said: String::new() })
    }
}

fn nanos(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or_default()
}
