//! SIGNAL105.

use super::suspect::{Fact, finding, leading, of_nature};
use crate::analyze::causal::suspects::Nature;
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A service does not do any more what it did.
    ///
    /// ## What it detects
    /// All series of a service cease while others go on, or it serves far fewer requests than before and none of its callers does.
    /// ## Why it matters
    /// What does not run reports no errors: its absence is the only sign.
    /// ## Evidence
    /// When its last point was seen, and for how long others go on.
    /// ## How to confirm
    /// `kubectl get pods` of the service, and whether its metrics can still be scraped.
    /// ## How to fix
    /// Bring the service back, or repair what scrapes it where it is well.
    /// ## False positives
    /// A pod that was replaced ends its series as well; those of its successor count for the same service.
    /// ## References
    /// <https://sre.google/sre-book/monitoring-distributed-systems/>
    GoneSilent {
        code: "SIGNAL105", name: "gone-silent", family: Signals, severity: Error,
        needs: [], aliases: [],
    }
}

impl Check for GoneSilent {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        of_nature(snapshot, Nature::Silent)
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let service = &fact.suspect.service;
        let title = format!("Service {service} went silent: {}", leading(fact));
        finding(Self::META, snapshot, fact, title)
            .remedy(Remedy::manual(format!(
                "see whether the pods of {service} run, and whether their metrics can be read"
            )))
            .prevention(Prevention::of("Alert", "alert on absence: a service without any series for 5 min"))
    }
}
