//! From the lines of all logs to what they come to, workload by workload.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::client_error::{Failure, failure};
use super::digest::{CallGroup, Digest, ErrorGroup, Place, Request, WorkloadLog};
use super::events::EventsBuilder;
use super::failure_text::{Kind, PoolState, pool_state};
use super::http;
use super::join::{Entry, MAX_LINES, entries};
use super::marks;
use super::mask::mask;
use super::record::{Level, Record, parse};
use super::shape::{is_exception_head, is_frame};
use super::stack::exception;
use crate::analyze::finding::{MAX_EXCERPT, cut};
use crate::model::log::LogStream;
use crate::model::memo::Derived;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time;
use crate::model::workload::is_proxy_container;

/// Requests kept for one workload: enough for percentiles before and after an onset.
const MAX_REQUESTS: usize = 50_000;
/// Durations and limits kept for one group of calls.
const MAX_SAMPLES: usize = 1024;
/// Groups of failed calls, and of errors, kept for one workload: a log with more shapes than that is not text.
const MAX_GROUPS: usize = 128;
/// Lines below the head of an entry in which a failure is looked for.
const MAX_STACK: usize = 24;
/// Fields in which loggers put a stack.
pub(super) const STACK_FIELDS: &[&str] = &[
    "stack_trace",
    "stacktrace",
    "stackTrace",
    "stack",
    "exception.stacktrace",
    "attributes.exception.stacktrace",
    "exception.stack_trace",
    "exception.stack",
    "error.stack_trace",
    "error.stack",
    "error.stacktrace",
    "err.stack",
    "thrown.extendedStackTrace",
    "exc_info",
    "traceback",
    "StackTrace",
    "@x",
    "Exception",
    "exception",
    "error",
    "err",
];

impl Derived for Digest {
    fn derive(snapshot: &Snapshot) -> Self {
        let resolver = Resolver::new(snapshot);
        let mut building: BTreeMap<ObjectRef, Builder> = BTreeMap::new();
        let mut events = EventsBuilder::new(snapshot);
        for stream in &snapshot.logs {
            let ours = !is_proxy_container(&stream.container)
                && !stream.container.starts_with("istio-")
                && !stream.container.starts_with("linkerd-")
                && snapshot.in_scope(&stream.namespace);
            if !ours {
                continue;
            }
            let workload = snapshot.owner_by_name(&stream.namespace, &stream.pod);
            let builder = building.entry(workload).or_default();
            let reader = events.reader(snapshot, stream);
            // Reading a line costs more than anything that is made of it: all is made of one reading.
            for entry in entries(&stream.lines) {
                let record = parse(entry.head());
                let at = entry.time().or_else(|| written_time(&record, entry.head()));
                builder.read(stream, &entry, &record, at, &resolver);
                reader.read(stream, &entry, &record, at, &resolver);
            }
        }
        let workloads = building.into_iter().map(|(workload, b)| (workload, b.finish())).collect();
        Digest { workloads, events: events.finish() }
    }
}

/// Finds the Service behind a host or an address.
pub(super) struct Resolver {
    services: BTreeSet<ServiceName>,
    addresses: BTreeMap<String, ServiceName>,
}

impl Resolver {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let mut addresses = BTreeMap::new();
        for service in &snapshot.services {
            for ip in service.cluster_ips.iter().filter(|ip| *ip != "None") {
                addresses.insert(ip.clone(), service.service_name());
            }
        }
        for slice in &snapshot.slices {
            let name = ServiceName::new(slice.object.namespace(), &slice.service);
            for address in slice.endpoints.iter().flat_map(|e| &e.addresses) {
                addresses.entry(address.clone()).or_insert_with(|| name.clone());
            }
        }
        Resolver { services: snapshot.services.iter().map(|s| s.service_name()).collect(), addresses }
    }

    pub(super) fn service(&self, host: &str, namespace: &str) -> Option<ServiceName> {
        if let Some(service) = self.addresses.get(host) {
            return Some(service.clone());
        }
        let (namespace, name) = service_of_host(&full_host(host, namespace))?;
        let name = ServiceName::new(namespace, name);
        self.services.get(&name).cloned()
    }
}

type CallKey = (Option<(String, Option<u16>)>, Kind);

#[derive(Default)]
struct Builder {
    calls: BTreeMap<CallKey, CallGroup>,
    errors: BTreeMap<(Level, String), ErrorGroup>,
    log: WorkloadLog,
}

impl Builder {
    fn read(
        &mut self,
        stream: &LogStream,
        entry: &Entry<'_>,
        record: &Record<'_>,
        at: Option<Timestamp>,
        resolver: &Resolver,
    ) {
        self.log.entries += 1;
        if let Some(at) = at {
            let (first, last) = self.log.span.unwrap_or((at, at));
            self.log.span = Some((first.min(at), last.max(at)));
        }
        for line in std::iter::once(entry.head()).chain(entry.rest()) {
            if let Some(mark) = marks::mark(line) {
                let place = || Place { pod: stream.pod.clone(), container: stream.container.clone() };
                marks::add(&mut self.log.marks, mark, line, at, place);
                break;
            }
        }
        if let Some(served) = http::served(record).or_else(|| http::served_in_text(entry.head())) {
            if self.log.served.len() < MAX_REQUESTS {
                self.log.served.push(Request { at, status: served.status, millis: served.millis });
            }
        } else if let Some(load) = http::load(record) {
            self.log.loads.push((at, load));
        } else {
            self.trouble(stream, entry, record, at, resolver);
        }
    }

    fn trouble(
        &mut self,
        stream: &LogStream,
        entry: &Entry<'_>,
        record: &Record<'_>,
        at: Option<Timestamp>,
        resolver: &Resolver,
    ) {
        if record.level.is_some_and(|level| level < Level::Warn) {
            return;
        }
        let mut lines: Vec<&str> = std::iter::once(entry.head()).chain(entry.rest()).collect();
        if lines.len() == 1 {
            // A logger of structured lines puts the stack into a field, or into the message itself.
            let field = record.field(STACK_FIELDS).filter(|text| text.contains('\n'));
            let written = field.or_else(|| Some(record.message.as_ref()).filter(|text| text.contains('\n')));
            lines.extend(
                written.into_iter().flat_map(str::lines).filter(|line| !line.is_empty()).take(MAX_LINES),
            );
        }
        let thrown = exception(&lines);
        let stack: Vec<&str> =
            lines.iter().skip(1).copied().filter(|line| !is_frame(line)).take(MAX_STACK).collect();
        let failed = failure(record, thrown.as_ref(), &stack);
        let place = || Place { pod: stream.pod.clone(), container: stream.container.clone() };
        let is_call = failed.is_some();
        if let Some(failed) = failed {
            self.call(failed, &lines, at, place(), &stream.namespace, resolver);
        }
        let level = match (record.level, &thrown) {
            (Some(level), _) => level,
            (None, Some(_)) => Level::Error,
            (None, None) if is_call => Level::Error,
            (None, None) if of_the_system(entry.head()) => Level::Error,
            (None, None) => return,
        };
        let shape = match &thrown {
            Some(e) => format!("{} {}", e.fingerprint(), mask(&e.message)),
            None => mask(&format!(
                "{} {}",
                record.message,
                if record.fields.is_empty() { "" } else { record.error_text() }
            )),
        };
        let key = (level, shape.trim().to_owned());
        if !self.errors.contains_key(&key) && self.errors.len() >= MAX_GROUPS {
            return;
        }
        let group = self.errors.entry(key).or_insert_with_key(|(level, shape)| ErrorGroup {
            template: shape.clone(),
            level: *level,
            count: 0,
            first: None,
            last: None,
            exception: thrown,
            call: is_call,
            sample: sample(&lines),
            place: place(),
        });
        group.count += 1;
        group.first = group.first.into_iter().chain(at).min();
        group.last = group.last.into_iter().chain(at).max();
    }

    fn call(
        &mut self,
        failed: Failure,
        lines: &[&str],
        at: Option<Timestamp>,
        place: Place,
        namespace: &str,
        resolver: &Resolver,
    ) {
        let key = (failed.target.as_ref().map(|t| (t.host.clone(), t.port)), failed.kind);
        if !self.calls.contains_key(&key) && self.calls.len() >= MAX_GROUPS {
            return;
        }
        let pool = if failed.kind == Kind::Pool {
            lines.iter().rev().map(|line| pool_state(line)).find(|p| p.size.is_some())
        } else {
            None
        };
        let service = failed.target.as_ref().and_then(|t| resolver.service(&t.host, namespace));
        let group = self.calls.entry(key).or_insert_with(|| CallGroup {
            service,
            target: failed.target,
            kind: failed.kind,
            proxy: BTreeSet::new(),
            count: 0,
            passed_on: 0,
            first: None,
            last: None,
            took: vec![],
            limits: vec![],
            pool: PoolState::default(),
            sample: sample(lines),
            place,
        });
        group.count += 1;
        group.passed_on += u64::from(failed.passed_on);
        group.first = group.first.into_iter().chain(at).min();
        group.last = group.last.into_iter().chain(at).max();
        group.proxy.extend(failed.proxy);
        if let Some(took) = failed.took.filter(|_| group.took.len() < MAX_SAMPLES) {
            group.took.push(took);
        }
        if let Some(limit) = failed.limit.filter(|_| group.limits.len() < MAX_SAMPLES) {
            group.limits.push(limit);
        }
        if let Some(pool) = pool.filter(|pool| pool.waiting >= group.pool.waiting) {
            group.pool = pool;
        }
    }

    fn finish(mut self) -> WorkloadLog {
        self.log.calls = self.calls.into_values().collect();
        self.log.calls.sort_by_key(|group| std::cmp::Reverse(group.count));
        self.log.errors = self.errors.into_values().collect();
        self.log.errors.sort_by_key(|group| std::cmp::Reverse(group.count));
        self.log.served.sort_by_key(|request| request.at);
        self.log.loads.sort_by_key(|(at, _)| *at);
        self.log
    }
}

/// Whether a line without a level carries the operating system's own words for a failure: no program says so in passing.
pub(super) fn of_the_system(line: &str) -> bool {
    // Without their first letters, which some write large.
    const WORDS: &[&str] = &[
        "oo many open files",
        "o space left on device",
        "annot allocate memory",
        "esource temporarily unavailable",
        "annot assign requested address",
        "ddress already in use",
        "ead-only file system",
    ];
    WORDS.iter().any(|words| line.contains(words))
}

/// The head of an entry and what was thrown at its root: what somebody would quote.
pub(super) fn sample(lines: &[&str]) -> String {
    let root = lines
        .iter()
        .skip(1)
        .rfind(|line| line.trim_start().starts_with("Caused by: "))
        .or_else(|| lines.iter().skip(1).rfind(|line| is_exception_head(line)));
    let head = lines.first().copied().unwrap_or_default();
    let text = match root {
        Some(root) => format!("{}\n{root}", cut(head, MAX_EXCERPT / 2)),
        None => head.to_owned(),
    };
    cut(&text, MAX_EXCERPT).to_owned()
}

/// The time that the application itself wrote, for logs that came without the runtime's.
pub(super) fn written_time(record: &Record<'_>, head: &str) -> Option<Timestamp> {
    if let Some(text) = record.field(&["ts", "time", "timestamp", "@timestamp", "t", "date"]) {
        return time::parse(text).or_else(|| time::from_unix(text.parse().ok()?));
    }
    // `2026-11-22 02:38:47.964` or `2026-11-22T02:38:47,964`, in UTC as containers write it.
    let head = head.trim_start_matches('[');
    let (day, rest) = head.split_at_checked(10)?;
    let clock = rest.get(1..)?;
    let end =
        clock.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.' | ','))).unwrap_or(clock.len());
    time::parse(&format!("{day}T{}Z", clock.get(..end)?.replace(',', ".")))
}

#[cfg(test)]
mod tests {
    use super::super::digest::percentile;
    use super::*;
    use crate::model::json::json;
    use crate::model::snapshot;

    fn digest(text: &str) -> WorkloadLog {
        let mut builder = snapshot::Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "n"}, "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "pay"}}}));
        builder.log(LogStream::read("n", "shop-1", "app", false, text.as_bytes(), false));
        let snapshot = builder.finish();
        let mut digest = Digest::derive(&snapshot);
        digest.workloads.pop_first().map(|(_, log)| log).unwrap_or_default()
    }

    #[test]
    fn calls_are_grouped_by_service_and_kind_and_requests_counted() {
        let log = digest(
            "2026-11-21T10:00:00Z level=info msg=request path=/a status=200 ms=10\n\
             2026-11-21T10:00:01Z level=error msg=failed error=\"Get \\\"http://pay/a\\\": dial tcp 10.0.0.1:80: connect: connection refused\" tookMs=3\n\
             2026-11-21T10:00:01Z level=info msg=request path=/a status=502 ms=11\n\
             2026-11-21T10:00:02Z level=error msg=failed error=\"dial tcp 10.0.0.1:80: connect: connection refused\"\n",
        );
        assert_eq!(log.served_since(None), (3 - 1, 1));
        assert_eq!(log.calls.len(), 2);
        assert!(
            log.calls
                .iter()
                .all(|c| c.service == Some(ServiceName::new("n", "pay")) && c.kind == Kind::Refused)
        );
        assert!(log.errors.iter().all(|e| e.call));
    }

    #[test]
    fn a_group_ends_when_the_log_goes_on_without_it() {
        let error = "2026-11-21T10:00:00Z level=error msg=failed error=\"Get \\\"http://pay/a\\\": connection refused\"\n";
        let later = format!("{error}2026-11-21T10:05:00Z level=info msg=fine a=b\n");
        assert!(digest(&later).calls[0].ended(&digest(&later)));
        assert!(!digest(error).calls[0].ended(&digest(error)));
    }

    #[test]
    fn a_stack_is_one_error_with_its_exception() {
        let log = digest(
            "2026-11-21 10:00:00.1 ERROR 1 --- [x] a.B : threw\norg.x.OuterException: outer\n\tat com.shop.C.d(C.java:1)\nCaused by: java.lang.IllegalStateException: no row 12\n\t... 3 more",
        );
        assert_eq!(log.errors.len(), 1);
        let error = &log.errors[0];
        assert_eq!(error.exception.as_ref().unwrap().kind, "java.lang.IllegalStateException");
        assert!(error.first.is_some() && error.sample.contains("no row 12"));
    }

    #[test]
    fn percentiles_of_few_values() {
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 1.0), Some(3.0));
    }
}
