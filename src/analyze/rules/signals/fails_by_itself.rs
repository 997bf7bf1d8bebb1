//! SIGNAL103.

use super::suspect::{Fact, finding, leading, of_nature};
use crate::analyze::causal::suspects::Nature;
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A service fails, and nothing that it depends on fails as well.
    ///
    /// ## What it detects
    /// Errors, a lower share of successes, new or vanished sorts of log lines, or calls that ceased at one service since the onset, beyond
    /// what its dependencies account for.
    /// ## Why it matters
    /// Failures travel from callee to caller. The last failing service on the way, whose own dependencies are well, is where they begin.
    /// ## Evidence
    /// Shares and counts before and after, log templates with an example, spans that fail by themselves.
    /// ## How to confirm
    /// The service's own log at the onset, and one failing trace.
    /// ## How to fix
    /// Take back what was changed just before the onset; else begin with the first new error in the service's log.
    /// ## False positives
    /// A dependency that no signal was seen of cannot account for anything.
    /// ## References
    /// <https://sre.google/sre-book/monitoring-distributed-systems/>
    FailsByItself {
        code: "SIGNAL103", name: "fails-by-itself", family: Signals, severity: Error,
        needs: [], aliases: [],
    }
}

impl Check for FailsByItself {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        of_nature(snapshot, Nature::Failing)
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let service = &fact.suspect.service;
        let title = format!("Service {service} fails by itself: {}", leading(fact));
        finding(Self::META, snapshot, fact, title)
            .remedy(Remedy::manual(format!(
                "begin with the first new error that {service} logs: what it calls answers as before"
            )))
            .prevention(Prevention::of(
                "Alert",
                "alert on its share of failing requests, for 5 min beyond its usual range",
            ))
    }
}
