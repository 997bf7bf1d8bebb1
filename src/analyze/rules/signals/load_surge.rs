//! SIGNAL104.

use super::suspect::{Fact, finding, leading, of_nature};
use crate::analyze::causal::suspects::Nature;
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// More requests come in than usual, and services behind them strain.
    ///
    /// ## What it detects
    /// At least half of the services that deviate serve half again as many requests as before, and one of them is not called by
    /// any of the others: there they come in.
    /// ## Why it matters
    /// Everything behind the entry looks at fault, and nothing of it is.
    /// ## Evidence
    /// Requests before and after at the entry, and what deviates behind it.
    /// ## How to confirm
    /// Requests by client at the entry: a campaign, a crawler, a retry loop.
    /// ## How to fix
    /// Add replicas from the entry on, or limit the rate at it.
    /// ## False positives
    /// A daily rise that the window is too short to know.
    /// ## References
    /// <https://sre.google/sre-book/handling-overload/>
    LoadSurge {
        code: "SIGNAL104", name: "load-surge", family: Signals, severity: Error,
        needs: [], aliases: [],
    }
}

impl Check for LoadSurge {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        of_nature(snapshot, Nature::Surge)
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let service = &fact.suspect.service;
        let title = format!("More requests than usual come in at Service {service}: {}", leading(fact));
        finding(Self::META, snapshot, fact, title)
            .remedy(Remedy::manual(format!(
                "add replicas from {service} on, or limit the rate of requests there"
            )))
            .prevention(Prevention::of("Policy", "an autoscaler on requests, and a rate limit at the entry"))
    }
}
