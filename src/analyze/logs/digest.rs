//! All logs of applications, read once and summed up for each workload.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::events::Events;
use super::failure_text::{Kind, PoolState};
use super::http::Load;
use super::marks::{Mark, Marks};
use super::record::Level;
use super::stack::Exception;
use super::target::Target;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;

/// What all logs say, by workload.
#[derive(Debug, Default)]
pub struct Digest {
    /// By what names the workload.
    pub workloads: BTreeMap<ObjectRef, WorkloadLog>,
    /// Its lines as events, service by service.
    pub events: Events,
}

/// What the logs of one workload's pods say.
#[derive(Debug, Default)]
pub struct WorkloadLog {
    /// Calls that failed, the most frequent first.
    pub calls: Vec<CallGroup>,
    /// Requests that it served, in order of time as far as the logs have times.
    pub served: Vec<Request>,
    /// Load as it summed it up itself, with its time.
    pub loads: Vec<(Option<Timestamp>, Load)>,
    /// Warnings and errors by shape, the most frequent first.
    pub errors: Vec<ErrorGroup>,
    /// What its runtime tells of its own trouble.
    pub marks: BTreeMap<Mark, Marks>,
    /// How many entries its logs have.
    pub entries: u64,
    /// The first and the last time in its logs.
    pub span: Option<(Timestamp, Timestamp)>,
}

/// Where something stands in the logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
}

/// Calls of one workload to one target that failed in one way.
#[derive(Debug, Clone)]
pub struct CallGroup {
    /// Whom they were meant for; `None` where the text names nobody (a pool).
    pub target: Option<Target>,
    /// The Service that this is.
    pub service: Option<ServiceName>,
    /// How they failed.
    pub kind: Kind,
    /// Flags of the mesh's proxy that answered in place of the callee.
    pub proxy: BTreeSet<&'static str>,
    /// How many.
    pub count: u64,
    /// Those whose answer quotes a failure of the callee's own callee.
    pub passed_on: u64,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The last of them.
    pub last: Option<Timestamp>,
    /// How long they took, in milliseconds, as far as the log says.
    pub took: Vec<f64>,
    /// The limits that texts state, in milliseconds.
    pub limits: Vec<f64>,
    /// The fullest state of a pool that a text told.
    pub pool: PoolState,
    /// One of them, word for word.
    pub sample: String,
    /// Where that one stands.
    pub place: Place,
}

/// A request that was served.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// When.
    pub at: Option<Timestamp>,
    /// What was answered.
    pub status: u16,
    /// How long it took in milliseconds, where the log says.
    pub millis: Option<f64>,
}

/// Warnings or errors of one shape.
#[derive(Debug, Clone)]
pub struct ErrorGroup {
    /// The shape.
    pub template: String,
    /// How grave the application says it is.
    pub level: Level,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The last of them.
    pub last: Option<Timestamp>,
    /// What was thrown, where a stack trace follows.
    pub exception: Option<Exception>,
    /// Whether it tells of a call that failed.
    pub call: bool,
    /// One of them, word for word, with the first lines of its stack.
    pub sample: String,
    /// Where that one stands.
    pub place: Place,
}

impl CallGroup {
    /// Whether it is over: the log goes on for a good while without any more of them. A rollout or a restart leaves such a
    /// trace behind, and it explains nothing of what fails now.
    pub fn ended(&self, log: &WorkloadLog) -> bool {
        ended(self.first, self.last, self.count, log)
    }

    /// Who was called, for a message.
    pub fn callee(&self) -> String {
        match (&self.service, &self.target) {
            (Some(service), _) => format!("Service {service}"),
            (None, Some(Target { host, port: Some(port), .. })) => format!("{host}:{port}"),
            (None, Some(target)) => target.host.clone(),
            (None, None) => "its dependency".to_owned(),
        }
    }

    /// The host as the text names it; empty where it names none.
    pub fn host(&self) -> &str {
        self.target.as_ref().map_or("", |target| target.host.as_str())
    }

    /// Words and flags by which the failure is known elsewhere.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = self.kind.flags();
        flags.extend(self.proxy.iter().copied());
        flags
    }

    /// Whether nothing inside the cluster was called: a full name that is no Service's and no local address.
    pub fn external(&self) -> bool {
        let host = self.host();
        self.service.is_none()
            && host.contains('.')
            && !is_address(host)
            && !host.ends_with(".svc")
            && !host.ends_with(".cluster.local")
            && !host.contains(".svc.")
    }
}

/// Whether a host is an address and no name.
fn is_address(host: &str) -> bool {
    host.contains(':') || host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

impl ErrorGroup {
    /// Whether it is over, as [`CallGroup::ended`].
    pub fn ended(&self, log: &WorkloadLog) -> bool {
        ended(self.first, self.last, self.count, log)
    }
}

/// Silence of at least this many seconds, and of [`QUIET_GAPS`] times the usual pause between two, ends a group.
const QUIET: f64 = 45.0;
/// See [`QUIET`].
const QUIET_GAPS: f64 = 6.0;

fn ended(first: Option<Timestamp>, last: Option<Timestamp>, count: u64, log: &WorkloadLog) -> bool {
    let (Some(first), Some(last), Some((_, end))) = (first, last, log.span) else { return false };
    let seconds =
        |from: Timestamp, to: Timestamp| (to.as_millisecond() - from.as_millisecond()) as f64 / 1000.0;
    let pause = seconds(first, last) / count.saturating_sub(1).max(1) as f64;
    seconds(last, end) > QUIET.max(QUIET_GAPS * pause)
}

impl WorkloadLog {
    /// Whether something that was said so often between two instants is over: the log goes on for a good while without it.
    pub fn is_over(&self, first: Option<Timestamp>, last: Option<Timestamp>, count: u64) -> bool {
        ended(first, last, count, self)
    }

    /// Requests from an instant on, and those of them that were failed.
    pub fn served_since(&self, at: Option<Timestamp>) -> (u64, u64) {
        let since = self.served.iter().filter(|r| at.is_none() || r.at >= at);
        since.fold((0, 0), |(all, failed), r| (all + 1, failed + u64::from(r.status >= 500)))
    }

    /// Load of its own making from an instant on, and what failed of it.
    pub fn load_since(&self, at: Option<Timestamp>) -> (u64, u64) {
        // A line sums up what came before it: the first one after the instant counts.
        let since = self.loads.iter().filter(|(time, _)| at.is_none() || *time >= at);
        since.fold((0, 0), |(all, failed), (_, load)| (all + load.requests, failed + load.failed))
    }

    /// Durations in milliseconds of requests that were answered well, before an instant or from it on, sorted.
    pub fn durations(&self, at: Timestamp, after: bool) -> Vec<f64> {
        let wanted = |r: &&Request| r.status < 500 && r.at.is_some_and(|t| (t >= at) == after);
        let mut out: Vec<f64> = self.served.iter().filter(wanted).filter_map(|r| r.millis).collect();
        out.sort_by(f64::total_cmp);
        out
    }
}

/// The value below which this share (0 to 1) of sorted values lies.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = (sorted.len().checked_sub(1)? as f64 * share).round() as usize;
    sorted.get(at).copied()
}
