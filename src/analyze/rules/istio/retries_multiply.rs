//! ISTIO154.

use std::collections::{BTreeMap, BTreeSet};

use super::hops::{Calls, Hop, Hops};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::{Failures, failures_of, text};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Several hops of one way retry, and their retries multiply.
    ///
    /// ## What it detects
    /// Two or more routes (of VirtualServices, or of HTTPRoutes that are attached to Services) on one way through the service graph
    /// with retries of their own. One request at the beginning becomes
    /// the product of all (`attempts` + 1) at the end, where the last one fails.
    /// ## Why it matters
    /// A service that fails a little gets many times its load just then, and stays down because of it.
    /// ## Evidence
    /// The routes of the way with their attempts, and their product; failures of the last service, where there are any.
    /// ## How to confirm
    /// `retries.attempts` of each VirtualService, `retry.attempts` of each HTTPRoute on the way; applications that retry themselves are one more factor.
    /// ## How to fix
    /// Retry at one hop alone, best next to the user, and set `attempts: 0` on the others.
    /// ## False positives
    /// Retries on failed connections alone (`connect-failure`, `refused-stream`) do not reach the application and are left out.
    /// Where the last service is well it is information.
    /// ## References
    /// <https://istio.io/latest/docs/concepts/traffic-management/#retries>
    RetriesMultiply {
        code: "ISTIO154", name: "retries-multiply-over-hops", family: Mesh, severity: Warning,
        needs: [Istio], aliases: [],
    }
}

/// From this product on one failing request is a burst.
const BURST: i64 = 6;
/// A way through the graph is followed this far.
const MAX_DEPTH: usize = 12;
/// In a graph where everybody calls everybody, so many steps are tried from each beginning.
const MAX_STEPS: usize = 20_000;

/// A way on which retries multiply.
#[derive(Debug)]
pub struct Fact {
    way: Vec<(ServiceName, Hop, i64)>,
    product: i64,
    failing: Option<Failures>,
}

impl Check for RetriesMultiply {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let hops = snapshot.derived::<Hops>();
        let retrying: BTreeMap<ServiceName, (Hop, i64)> = hops
            .0
            .iter()
            .filter(|(service, _)| snapshot.in_scope(&service.namespace))
            .filter_map(|(service, hop)| {
                let attempts = hop.attempts().filter(|n| *n > 0 && hop.tries_answers_again())?;
                Some((service.clone(), (hop.clone(), attempts)))
            })
            .collect();
        if retrying.len() < 2 {
            return vec![];
        }
        let calls = &snapshot.derived::<Calls>().0;
        let called: BTreeSet<&ServiceName> =
            retrying.keys().flat_map(|service| calls.get(service).into_iter().flatten()).collect();
        let mut out = vec![];
        // A way begins where nobody on it retries before.
        for start in retrying.keys().filter(|service| !called.contains(service)) {
            let mut steps = MAX_STEPS;
            let way = longest(start, &retrying, calls, &mut vec![], &mut steps);
            let product = way
                .iter()
                .filter_map(|service| retrying.get(service))
                .fold(1i64, |product, (_, attempts)| product.saturating_mul(attempts.saturating_add(1)));
            if way.len() < 2 || product < BURST {
                continue;
            }
            let Some(last) = way.last() else { continue };
            let failing = failures_of(snapshot, last)
                .into_iter()
                .filter(|group| group.severity().is_some_and(|severity| severity >= Severity::Warning))
                .max_by_key(|group| group.count);
            let way = way.into_iter().filter_map(|service| {
                let (hop, attempts) = retrying.get(&service)?;
                Some((service, hop.clone(), *attempts))
            });
            out.push(Fact { way: way.collect(), product, failing });
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let names: Vec<&str> = fact.way.iter().map(|(service, _, _)| service.name.as_str()).collect();
        let factors: Vec<String> =
            fact.way.iter().map(|(_, _, attempts)| (attempts + 1).to_string()).collect();
        let arithmetic = format!("{} = {}", factors.join(" × "), fact.product);
        let last = fact.way.last();
        let subject = last.map(|(_, hop, _)| hop.retries_field());
        let subject = subject.unwrap_or_default();
        let end = names.last().copied().unwrap_or_default();
        let failing = match &fact.failing {
            Some(group) => {
                format!(" {} to {end} fail now.", text::share(group.count, group.requests, "requests"))
            }
            None => format!(" {end} is well now."),
        };
        let mut finding = Finding::new(Self::META, subject.clone(), &names)
            .title(format!("Retries on {} hops make one request up to {} at {end} when it fails", fact.way.len(), fact.product))
            .message(format!(
                "On the way {} each hop tries again: {arithmetic} requests arrive at {end} for one at the beginning, where all fail.{failing}",
                text::plain(&names.join(" / "), 160)
            ))
            .mechanism("retry amplification across hops: retries multiply")
            .severity(if fact.failing.is_some() { Severity::Warning } else { Severity::Info })
            .role(Role::Context, Confidence::Configured)
            .service(last.map(|(service, _, _)| service.clone()))
            .evidences(fact.way.iter().map(|(service, hop, attempts)| {
                Evidence::object(&hop.retries_field(), format!("{} attempts more for requests to {}", attempts, service.name))
            }))
            .effects(last.map(|(service, _, _)| Effect::requests(service, &["slow", "UO", "URX"])))
            .prevention(Prevention::alert(
                "Alert when a callee gets one and a half times what its callers send",
                format!(
                    "sum(rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[5m])) / sum(rate(istio_requests_total{{reporter=\"source\",destination_service_name=\"{0}\"}}[5m])) > 1.5",
                    text::plain(end, 63)
                ),
            ))
            .prevention(Prevention::of("Policy", "Retries at one hop of each way alone"));
        for (service, hop, _) in fact.way.iter().skip(1).rev() {
            finding = finding.related(hop.reference().clone()).maybe_remedy(Remedy::patch(
                &hop.object,
                &hop.without_retries(),
                format!(
                    "Set attempts of retries to 0 for {}: the hop before it retries already",
                    service.name
                ),
            ));
        }
        finding
    }
}

/// The way with the largest product from a service on, over services that retry.
fn longest(
    from: &ServiceName,
    retrying: &BTreeMap<ServiceName, (Hop, i64)>,
    calls: &BTreeMap<ServiceName, BTreeSet<ServiceName>>,
    before: &mut Vec<ServiceName>,
    steps: &mut usize,
) -> Vec<ServiceName> {
    *steps = steps.saturating_sub(1);
    before.push(from.clone());
    let mut best: Vec<ServiceName> = vec![];
    if before.len() < MAX_DEPTH && *steps > 0 {
        for next in calls.get(from).into_iter().flatten() {
            if retrying.contains_key(next) && !before.contains(next) {
                let way = longest(next, retrying, calls, before, steps);
                let weight = |way: &[ServiceName]| {
                    way.iter()
                        .filter_map(|s| retrying.get(s))
                        .map(|(_, n)| ((n + 1) as f64).ln())
                        .sum::<f64>()
                };
                if weight(&way) > weight(&best) {
                    best = way;
                }
            }
        }
    }
    before.pop();
    let mut out = vec![from.clone()];
    out.extend(best);
    out
}
