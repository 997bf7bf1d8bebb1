//! Whether who is suspected recovered when those who feel it did: a fault that is over hurts nobody any more, and one that goes on does.

use jiff::Timestamp;
use std::collections::BTreeSet;

use crate::analyze::anomaly::{Anomaly, Kind, Signal};
use crate::analyze::diagnosis::{Test, TestVerdict};
use crate::model::network::ServiceName;
use crate::model::time::to_unix;

/// What it says that both were over at once (natural logarithm): little, for whatever lies on the way recovers then as well. On incidents made up at
/// random that passed before the window ended .75 made probabilities worse, and the one who is at fault is no likelier to come first by either.
const TOGETHER: f64 = 0.4;
/// What it says that one of them was over and the other was not.
const APART: f64 = -0.5;
/// An anomaly tells when it ended from this likelihood ratio on (natural logarithm): weaker ones are often chance.
const TELLING: f64 = 2.0;
/// Ends within so many seconds, or steps, are one: a failure is felt until the next request.
const AT_ONCE: (f64, f64) = (30.0, 2.0);

/// What is felt, and until when.
#[derive(Debug, Default)]
pub(super) struct Recovery<'a> {
    felt: Vec<&'a Anomaly>,
}

impl<'a> Recovery<'a> {
    /// From what these services show of requests.
    pub(super) fn of(anomalies: &'a [Anomaly], feel: &BTreeSet<&ServiceName>) -> Self {
        let of_requests =
            |one: &&Anomaly| matches!(one.kind, Kind::Latency | Kind::Errors | Kind::Availability);
        let felt = anomalies
            .iter()
            .filter(of_requests)
            .filter(|one| tells(one) && one.place.service().is_some_and(|service| feel.contains(service)))
            .collect();
        Recovery { felt }
    }

    /// What that says of a service with these anomalies, the strongest first; nothing where nobody else feels anything, and where its own strongest has no
    /// end to speak of.
    pub(super) fn test<'b>(
        &self,
        service: &ServiceName,
        own: impl Iterator<Item = &'b Anomaly>,
    ) -> Option<Test> {
        let own = own.take(1).find(|one| tells(one) && recovers(one.kind))?;
        let others: Vec<&&Anomaly> =
            self.felt.iter().filter(|one| one.place.service() != Some(service)).collect();
        // It is over for those who feel it when it is for all of them.
        let lasts = others.iter().any(|one| one.ended.is_none());
        let felt_until = others.iter().filter_map(|one| one.ended).max().filter(|_| !lasts);
        let resolution = others.iter().map(|one| one.resolution).fold(own.resolution, f64::max);
        let near = |a: Timestamp, b: Timestamp| {
            (to_unix(a) - to_unix(b)).abs() <= AT_ONCE.0.max(AT_ONCE.1 * resolution)
        };
        let (verdict, log_odds, text) = match (felt_until, own.ended) {
            _ if others.is_empty() => return None,
            (Some(felt), Some(ended)) if near(felt, ended) => {
                (TestVerdict::Supported, TOGETHER, "it recovered when what is felt elsewhere did")
            }
            (Some(_), None) => {
                (TestVerdict::Refuted, APART, "it has not recovered, and what is felt elsewhere has")
            }
            (None, Some(_)) => {
                (TestVerdict::Refuted, APART, "it has recovered, and what is felt elsewhere has not")
            }
            _ => return None,
        };
        Some(Test { test: text.to_owned(), verdict, log_odds, evidence: vec![] })
    }
}

/// Whether an anomaly is one whose end can be told.
fn tells(one: &Anomaly) -> bool {
    one.signal == Signal::Series && !one.is_absence() && one.log_lr >= TELLING
}

/// Whether what deviates is back to normal once the fault is over: memory and disks stay filled.
fn recovers(kind: Kind) -> bool {
    !matches!(kind, Kind::Memory | Kind::Disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::anomaly::{Direction, Place};
    use crate::model::time::from_unix;

    fn one(service: &str, kind: Kind, ended: Option<f64>) -> Anomaly {
        let place = Place::Service(ServiceName::new("n", service));
        Anomaly::new(place, Signal::Series, kind, "m", Direction::Up)
            .weighing(4.0, 20.0)
            .since(from_unix(1000.0), 30.0)
            .until(ended.and_then(from_unix))
    }

    /// What the ends of what the front feels, and of what deviates at the one suspected, say.
    fn says(felt: &[Option<f64>], own: (Kind, Option<f64>)) -> Option<TestVerdict> {
        let front = ServiceName::new("n", "front");
        let all: Vec<Anomaly> = felt.iter().map(|ended| one("front", Kind::Errors, *ended)).collect();
        let suspected = one("back", own.0, own.1);
        Recovery::of(&all, &[&front].into())
            .test(&ServiceName::new("n", "back"), [&suspected].into_iter())
            .map(|test| test.verdict)
    }

    #[test]
    fn who_recovers_with_those_who_feel_it_is_likelier_and_who_does_not_is_not() {
        let (supported, refuted) = (Some(TestVerdict::Supported), Some(TestVerdict::Refuted));
        assert_eq!(says(&[Some(1300.0)], (Kind::Cpu, Some(1270.0))), supported);
        assert_eq!(says(&[Some(1300.0)], (Kind::Cpu, None)), refuted);
        assert_eq!(says(&[None], (Kind::Cpu, Some(1300.0))), refuted);
        // As long as one of those who feel it is not well it is not over.
        assert_eq!(says(&[Some(1300.0), None], (Kind::Cpu, Some(1300.0))), refuted);
    }

    #[test]
    fn nothing_is_said_where_ends_tell_nothing() {
        assert_eq!(says(&[], (Kind::Cpu, Some(1300.0))), None, "nobody else feels anything");
        assert_eq!(says(&[None], (Kind::Cpu, None)), None, "both go on");
        assert_eq!(says(&[Some(1300.0)], (Kind::Memory, None)), None, "memory stays filled");
        assert_eq!(says(&[Some(1900.0)], (Kind::Cpu, Some(1300.0))), None, "what follows can last longer");
    }
}
