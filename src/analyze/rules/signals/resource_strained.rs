//! SIGNAL101.

use super::suspect::{Fact, finding, leading, of_nature};
use crate::analyze::causal::suspects::Nature;
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A resource of one service is strained, and nothing that it depends on accounts for that.
    ///
    /// ## What it detects
    /// Processor, memory, disk, queues, pools or restarts of one service moved further from what they were before the onset than those
    /// of any other, in any series: its metric need not be known.
    /// ## Why it matters
    /// Resources are a service's own. Callers and callees show the slowness and the failures that follow, but not this.
    /// ## Evidence
    /// The series with their typical values before and after, in units of their own spread, and when they began to move.
    /// ## How to confirm
    /// `kubectl top pod --containers`, and the series named, against the same hour of another day.
    /// ## How to fix
    /// Raise the limit, add replicas, or end what uses the resource: a rollout just before the onset is the first to take back.
    /// ## False positives
    /// A batch job that shares the onset with a fault elsewhere. Changes below a twentieth of the usual level are not looked at.
    /// ## References
    /// <https://sre.google/sre-book/monitoring-distributed-systems/>
    ResourceStrained {
        code: "SIGNAL101", name: "resource-strained", family: Signals, severity: Error,
        needs: [], aliases: [],
    }
}

impl Check for ResourceStrained {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        of_nature(snapshot, Nature::Resource)
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let service = &fact.suspect.service;
        let title = format!("Service {service} is short of a resource: {}", leading(fact));
        finding(Self::META, snapshot, fact, title)
            .remedy(Remedy::manual(format!(
                "give {service} more of the resource that the evidence names, or end what uses it up"
            )))
            .prevention(Prevention::of(
                "Alert",
                "alert where the resource that the evidence names stays beyond its usual range for 5 min",
            ))
    }
}
