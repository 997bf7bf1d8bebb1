//! SIGNAL102.

use super::suspect::{Fact, finding, leading, of_nature};
use crate::analyze::causal::suspects::Nature;
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A service became slow, and nothing that it depends on became slow as well.
    ///
    /// ## What it detects
    /// Latency, or time spent in the service itself, that rose at the onset further than what its dependencies account for.
    /// ## Why it matters
    /// Slowness travels from callee to caller. The last slow service on the way, whose own dependencies are quick, is where it begins.
    /// ## Evidence
    /// Durations before and after, and how much of the rise each dependency accounts for.
    /// ## How to confirm
    /// A trace of one slow request: the service's span is long, and the spans below it are not.
    /// ## How to fix
    /// Look at what the service does between receiving a request and calling on: locks, pools, garbage collection, processor limits, a
    /// delay on the network in front of it.
    /// ## False positives
    /// A dependency that no signal was seen of cannot account for anything.
    /// ## References
    /// <https://sre.google/sre-book/monitoring-distributed-systems/>
    SlowByItself {
        code: "SIGNAL102", name: "slow-by-itself", family: Signals, severity: Error,
        needs: [], aliases: [],
    }
}

impl Check for SlowByItself {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        of_nature(snapshot, Nature::Slow)
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let service = &fact.suspect.service;
        let title = format!("Service {service} became slow by itself: {}", leading(fact));
        finding(Self::META, snapshot, fact, title)
            .remedy(Remedy::manual(format!(
                "look at where {service} spends its time: what it calls is as quick as before"
            )))
            .prevention(Prevention::of(
                "Alert",
                "alert on the 95th percentile of its own durations, for 5 min beyond its usual range",
            ))
    }
}
