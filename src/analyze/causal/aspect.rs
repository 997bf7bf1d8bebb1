//! Aspects of a service: what is one observation, however many metrics, templates and operations show it.

use super::suspects::Nature;
use crate::analyze::anomaly::{Anomaly, Direction, Kind};

/// One aspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Time of its own, called services not counted.
    OwnTime,
    /// Failures that begin here.
    OwnErrors,
    /// Processor.
    Cpu,
    /// Memory, and what running out of it does.
    Memory,
    /// Disk.
    Disk,
    /// Queues and pools.
    Saturation,
    /// Time of requests.
    Latency,
    /// Requests that fail.
    Errors,
    /// Time spent waiting for others.
    Waiting,
    /// Lines of logs that are new or frequent.
    Logs,
    /// Lines of logs that ceased: steps that are not taken any more.
    Steps,
    /// Calls that ceased or are new.
    Calls,
    /// Requests for each second.
    Traffic,
    /// Bytes.
    Network,
    /// It ceased.
    Gone,
    /// Anything else.
    Other,
}

/// The aspect that an anomaly shows.
pub fn aspect_of(anomaly: &Anomaly) -> Aspect {
    match anomaly.kind {
        Kind::Cpu => Aspect::Cpu,
        Kind::Memory | Kind::Restarts => Aspect::Memory,
        Kind::Disk => Aspect::Disk,
        Kind::Saturation => Aspect::Saturation,
        Kind::Latency => Aspect::Latency,
        Kind::SelfTime | Kind::NetworkTime => Aspect::OwnTime,
        Kind::Waiting => Aspect::Waiting,
        Kind::Errors | Kind::Availability | Kind::Retries => Aspect::Errors,
        Kind::ErrorOrigin => Aspect::OwnErrors,
        Kind::Traffic => Aspect::Traffic,
        Kind::Network => Aspect::Network,
        Kind::NewTemplate | Kind::SpikingTemplate => Aspect::Logs,
        Kind::VanishedTemplate => Aspect::Steps,
        Kind::MissingCall | Kind::NewCall | Kind::RepeatedCall => Aspect::Calls,
        Kind::Missing => Aspect::Gone,
        Kind::Unknown => Aspect::Other,
    }
}

impl Aspect {
    /// Aspects of a dependency that account for this one: slowness and failures travel from callee to
    /// caller, and what strains a dependency makes it slow or fail.
    pub fn explained_by(self) -> &'static [Aspect] {
        match self {
            Aspect::Latency | Aspect::Waiting => &[
                Aspect::Latency,
                Aspect::OwnTime,
                Aspect::Cpu,
                Aspect::Memory,
                Aspect::Disk,
                Aspect::Saturation,
                Aspect::Gone,
            ],
            Aspect::Errors => &[
                Aspect::Errors,
                Aspect::OwnErrors,
                Aspect::Cpu,
                Aspect::Memory,
                Aspect::Disk,
                Aspect::Logs,
                Aspect::Steps,
                Aspect::Gone,
            ],
            Aspect::Saturation => &[Aspect::Latency, Aspect::OwnTime],
            // Whoever gets an error for an answer goes no further.
            Aspect::Calls => {
                &[Aspect::Errors, Aspect::OwnErrors, Aspect::Logs, Aspect::Steps, Aspect::Calls, Aspect::Gone]
            }
            _ => &[],
        }
    }

    /// What sort of fault it is when this is its strongest sign.
    pub fn nature(self, anomaly: Option<&Anomaly>) -> Nature {
        match self {
            Aspect::Cpu
            | Aspect::Memory
            | Aspect::Disk
            | Aspect::Saturation
            | Aspect::Network
            | Aspect::Other => Nature::Resource,
            Aspect::Latency | Aspect::OwnTime | Aspect::Waiting => Nature::Slow,
            Aspect::Errors | Aspect::OwnErrors | Aspect::Logs | Aspect::Steps | Aspect::Calls => {
                Nature::Failing
            }
            Aspect::Gone => Nature::Silent,
            Aspect::Traffic => match anomaly.map(|anomaly| anomaly.direction) {
                Some(Direction::Up) => Nature::Surge,
                _ => Nature::Silent,
            },
        }
    }
}
