//! What deviates: the one form in which series, logs, spans and events say that a place behaves otherwise than before.
//!
//! ```text
//! series ─┐
//! logs   ─┼─> anomalies ─> causality ─> findings, hypotheses
//! spans  ─┘
//! ```
//! Each source module has one function `anomalies(&Snapshot, onset)`. Its answer is bounded to [`MAX_PER_PLACE`] for each
//! place, the strongest first, and does not depend on units, names, the order of input, or a shift of all times.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::fmt;

use super::finding::{Evidence, cut, fingerprint};
use super::series::short;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// Anomalies kept for one place and one signal: a reader looks at three, causality needs each kind once.
pub const MAX_PER_PLACE: usize = 16;
/// No single observation outweighs this (natural logarithm, 1 : 1100): an instrument can be wrong itself.
pub const MAX_LOG_LR: f64 = 7.0;
/// Bytes of a metric's, template's or operation's name that are kept.
const MAX_WHAT: usize = 160;

/// Where something was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// At a Service, or at what a label names as one.
    Service(ServiceName),
    /// At one pod of a service.
    Pod {
        /// Its name.
        name: String,
        /// The service that it belongs to.
        service: ServiceName,
    },
    /// At a node.
    Node(String),
    /// On the way from one service to another.
    Edge {
        /// Who calls.
        caller: ServiceName,
        /// Who is called.
        callee: ServiceName,
    },
}

impl Place {
    /// The service at which it was seen: of an edge the one called. `None` for a node.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Place::Service(service) | Place::Pod { service, .. } | Place::Edge { callee: service, .. } => {
                Some(service)
            }
            Place::Node(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Service(service) => write!(f, "{service}"),
            Place::Pod { name, service } => write!(f, "Pod {}/{name}", service.namespace),
            Place::Node(name) => write!(f, "Node {name}"),
            Place::Edge { caller, callee } => write!(f, "{caller} → {callee}"),
        }
    }
}

/// What a pod is counted under: the Service in front of it, else what owns it, else its name without what controllers add.
pub fn service_of_pod(snapshot: &Snapshot, namespace: &str, pod: &str) -> ServiceName {
    let owner = match snapshot.pod(namespace, pod) {
        Some(known) => {
            let owner = snapshot.owner(known).name;
            let mut before: Vec<&str> =
                snapshot.services_before_pod(known).map(|service| service.object.name()).collect();
            before.sort_by_key(|name| (*name != owner, *name));
            return ServiceName::new(namespace, before.first().copied().unwrap_or(&owner));
        }
        None => snapshot.owner_by_name(namespace, pod).name,
    };
    ServiceName::new(namespace, if owner == pod { without_hashes(pod) } else { &owner })
}

/// A pod's name without the suffixes that ReplicaSets, Jobs and StatefulSets add: `web-5d8f7c9b6-x2k4p` and `web-0` are both
/// `web`. Kubernetes draws hashes from an alphabet without vowels, which words of a service's own name do not live without.
pub fn without_hashes(pod: &str) -> &str {
    let hash = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_digit() || b"bcdfghjklmnpqrstvwxz".contains(&b))
            && part.bytes().any(|b| b.is_ascii_alphabetic())
            || lengths.contains(&part.len()) && part.len() >= 5 && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let Some((rest, last)) = pod.rsplit_once('-') else { return pod };
    if hash(last, 5..=5) {
        return match rest.rsplit_once('-') {
            Some((name, middle)) if hash(middle, 6..=10) => name,
            _ => rest,
        };
    }
    let ordinal = last.len() <= 3 && last.bytes().all(|b| b.is_ascii_digit());
    if ordinal || hash(last, 8..=10) { rest } else { pod }
}

/// Where an observation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Signal {
    /// A series of numbers.
    Series,
    /// Lines of a log.
    Log,
    /// Spans of traces.
    Span,
    /// Kubernetes events and changes of status.
    Event,
}

/// What sort of deviation it is. The sort decides which way blame goes: resources are local, latency and errors travel from
/// callee to caller, missing traffic travels from caller to callee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// Processor time used, or waited for.
    Cpu,
    /// Memory used.
    Memory,
    /// Disk space or throughput.
    Disk,
    /// Bytes, packets, drops and retransmissions.
    Network,
    /// Queues, pools, threads, connections, lag: something that waits for something.
    Saturation,
    /// Time of requests, the time of everything called included.
    Latency,
    /// Time spent in the service itself.
    SelfTime,
    /// Time between a caller's span and its callee's.
    NetworkTime,
    /// Time that a caller waits for whatever it calls.
    Waiting,
    /// Requests that fail, wherever they began to.
    Errors,
    /// Requests that begin to fail here: nothing that was called failed.
    ErrorOrigin,
    /// The share of requests that succeed.
    Availability,
    /// Requests for each second.
    Traffic,
    /// A sort of log line that was not there before.
    NewTemplate,
    /// A sort of log line that ceased.
    VanishedTemplate,
    /// A sort of log line that became frequent.
    SpikingTemplate,
    /// A call that used to happen and does not any more.
    MissingCall,
    /// A call that did not use to happen.
    NewCall,
    /// A call that one request makes more often than before.
    RepeatedCall,
    /// Calls that fail and are tried again.
    Retries,
    /// Containers start again, or pods are lost.
    Restarts,
    /// A series, or all of a place's series, ceased.
    Missing,
    /// A number of which nothing says what it means.
    Unknown,
}

impl Kind {
    /// Its name in sentences.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Cpu => "CPU",
            Kind::Memory => "memory",
            Kind::Disk => "disk",
            Kind::Network => "network",
            Kind::Saturation => "saturation",
            Kind::Latency => "latency",
            Kind::SelfTime => "time spent in the service itself",
            Kind::NetworkTime => "time on the network",
            Kind::Waiting => "time spent waiting for others",
            Kind::Errors => "errors",
            Kind::ErrorOrigin => "errors that begin here",
            Kind::Availability => "availability",
            Kind::Traffic => "traffic",
            Kind::NewTemplate => "a new sort of log line",
            Kind::VanishedTemplate => "a sort of log line that ceased",
            Kind::SpikingTemplate => "a sort of log line that became frequent",
            Kind::MissingCall => "a call that no longer happens",
            Kind::NewCall => "a call that did not use to happen",
            Kind::RepeatedCall => "calls of one sort within one request",
            Kind::Retries => "calls that are tried again",
            Kind::Restarts => "restarts",
            Kind::Missing => "missing data",
            Kind::Unknown => "a series of unknown meaning",
        }
    }
}

/// Which way it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Direction {
    /// More than before.
    Up,
    /// Less than before.
    Down,
    /// Not there before.
    New,
    /// Not there any more.
    Gone,
}

impl Direction {
    /// Its name in sentences.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Up => "rose",
            Direction::Down => "fell",
            Direction::New => "is new",
            Direction::Gone => "is gone",
        }
    }
}

/// A deviation in a series, a log template, a span population or an event stream, with its onset.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Anomaly {
    /// A fingerprint of where, what and which way: `a-…`, the same in every run over the same incident.
    pub id: String,
    /// Where it was seen.
    pub place: Place,
    /// Where the signal itself points elsewhere: a client's "connection refused" blames the one that it called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blames: Option<ServiceName>,
    /// Where it comes from.
    pub signal: Signal,
    /// What sort it is.
    pub kind: Kind,
    /// The metric, template or operation: text of the cluster, redacted and cut.
    pub what: String,
    /// Which way it went.
    pub direction: Direction,
    /// The natural logarithm of the likelihood ratio between "this place is at fault itself" and "it is not", as far as this
    /// observation alone tells; within ±[`MAX_LOG_LR`].
    #[serde(serialize_with = "rounded")]
    pub log_lr: f64,
    /// How far it went, in robust standard deviations of what was before: for display, and where ratios tie.
    #[serde(serialize_with = "rounded")]
    pub strength: f64,
    /// The typical value before, in `unit`.
    #[serde(serialize_with = "rounded")]
    pub before: f64,
    /// The typical value after, in `unit`.
    #[serde(serialize_with = "rounded")]
    pub after: f64,
    /// The unit of both: `ms`, `share`, `lines`, `calls`; empty where nothing says.
    pub unit: &'static str,
    /// When it began, where that shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onset: Option<Timestamp>,
    /// When it was last seen, where it was over before the end of the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Seconds between observations: no order is claimed that is finer than this.
    #[serde(serialize_with = "rounded")]
    pub resolution: f64,
    /// What a reader needs to see it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
}

/// Six significant digits: the rest is noise of the last arithmetic step, and differs between machines.
fn rounded<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let magnitude = if *value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let scale = 10f64.powf(5.0 - magnitude);
    let short = (value * scale).round() / scale;
    serializer.serialize_f64(if short.is_finite() { short } else { *value })
}

impl Anomaly {
    /// An anomaly at a place; everything else is set on it.
    pub fn new(place: Place, signal: Signal, kind: Kind, what: &str, direction: Direction) -> Self {
        let what = cut(what, MAX_WHAT).to_owned();
        let id = fingerprint(
            "a",
            &[&place.to_string(), &format!("{signal:?}"), kind.as_str(), &what, direction.as_str()],
        );
        Anomaly {
            id,
            place,
            blames: None,
            signal,
            kind,
            what,
            direction,
            log_lr: 0.0,
            strength: 0.0,
            before: 0.0,
            after: 0.0,
            unit: "",
            onset: None,
            ended: None,
            resolution: 0.0,
            evidence: vec![],
        }
    }

    /// Sets how much it says, cut to ±[`MAX_LOG_LR`], and how far it went.
    #[must_use]
    pub fn weighing(mut self, log_lr: f64, strength: f64) -> Self {
        self.log_lr = if log_lr.is_nan() { 0.0 } else { log_lr.clamp(-MAX_LOG_LR, MAX_LOG_LR) };
        self.strength = if strength.is_finite() { strength } else { 0.0 };
        self
    }

    /// Sets the typical values before and after, with their unit.
    #[must_use]
    pub fn values(mut self, before: f64, after: f64, unit: &'static str) -> Self {
        (self.before, self.after, self.unit) = (before, after, unit);
        self
    }

    /// Sets when it began and how many seconds lie between observations.
    #[must_use]
    pub fn since(mut self, onset: Option<Timestamp>, resolution: f64) -> Self {
        (self.onset, self.resolution) = (onset, resolution);
        self
    }

    /// Sets when it was last seen, where it is over.
    #[must_use]
    pub fn until(mut self, ended: Option<Timestamp>) -> Self {
        self.ended = ended;
        self
    }

    /// Sets whom the signal itself names as the one to blame.
    #[must_use]
    pub fn blaming(mut self, service: Option<ServiceName>) -> Self {
        self.blames = service;
        self
    }

    /// Adds what a reader needs to see it.
    #[must_use]
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }

    /// What happened, without where: `CPU rose from 5 to 98 %`.
    pub fn told(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        match self.direction {
            Direction::New | Direction::Gone => self.kind.as_str().to_owned(),
            Direction::Up | Direction::Down => format!(
                "{} {} from {} to {}{unit}",
                self.kind.as_str(),
                self.direction.as_str(),
                short(self.before),
                short(self.after)
            ),
        }
    }

    /// Whether something that used to come does not.
    pub fn is_absence(&self) -> bool {
        self.direction == Direction::Gone
            || matches!(self.kind, Kind::VanishedTemplate | Kind::MissingCall | Kind::Missing)
    }

    /// The service that it speaks about: the one that it blames, else the one at which it was seen.
    pub fn about(&self) -> Option<&ServiceName> {
        self.blames.as_ref().or_else(|| self.place.service())
    }
}

/// Anomalies in order, the strongest first, with a fixed order among equals.
pub fn sorted(mut anomalies: Vec<Anomaly>) -> Vec<Anomaly> {
    anomalies.sort_by(|a, b| {
        let odds = b.log_lr.total_cmp(&a.log_lr).then_with(|| b.strength.total_cmp(&a.strength));
        odds.then_with(|| a.id.cmp(&b.id))
    });
    anomalies
}

/// Anomalies in order, and of each place the first [`MAX_PER_PLACE`].
pub fn bounded(anomalies: Vec<Anomaly>) -> Vec<Anomaly> {
    let mut anomalies = sorted(anomalies);
    let mut kept: std::collections::BTreeMap<Place, usize> = std::collections::BTreeMap::new();
    anomalies.retain(|anomaly| {
        let count = kept.entry(anomaly.place.clone()).or_default();
        *count += 1;
        *count <= MAX_PER_PLACE
    });
    anomalies
}

/// The object that stands for a service in an answer: its Service where there is one, else what owns its pods, else a Service of that name.
pub fn object_of(snapshot: &Snapshot, service: &ServiceName) -> ObjectRef {
    if snapshot.service(service).is_some() {
        return service.reference();
    }
    let workload = snapshot.workloads.iter().find(|w| {
        w.object.owners.is_empty()
            && w.object.namespace() == service.namespace
            && w.object.name() == service.name
    });
    workload.map_or_else(|| service.reference(), |w| w.reference().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_without_what_controllers_add() {
        assert_eq!(without_hashes("web-5d8f7c9b6-x2k4p"), "web");
        assert_eq!(without_hashes("web-front-5d8f7c9b6-x2k4p"), "web-front");
        assert_eq!(without_hashes("agent-x2k4p"), "agent");
        assert_eq!(without_hashes("db-0"), "db");
        assert_eq!(without_hashes("user-service"), "user-service");
        assert_eq!(without_hashes("payments"), "payments");
        assert_eq!(without_hashes("order-events"), "order-events");
    }

    #[test]
    fn places_are_told_apart_and_bounded() {
        let at = |name: &str| Place::Service(ServiceName::new("n", name));
        let many = |name: &'static str| {
            (0..40).map(move |n| {
                let what = format!("m{n}");
                Anomaly::new(at(name), Signal::Series, Kind::Cpu, &what, Direction::Up)
                    .weighing(f64::from(n), 1.0)
            })
        };
        let kept = bounded(many("a").chain(many("b")).collect());
        assert_eq!(kept.len(), 2 * MAX_PER_PLACE);
        assert!(kept.iter().all(|anomaly| anomaly.log_lr <= MAX_LOG_LR));
        assert_ne!(kept[0].id, kept[1].id);
    }
}
