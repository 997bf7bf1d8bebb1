//! GWAPI120.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::prelude::*;
use super::requests_match_no_rule::at;
use crate::analyze::take_back::take_back;
use crate::analyze::traffic::text;
use crate::model::change::{Change, ChangeKind};

crate::rule! {
    /// A Gateway was edited, and from that moment on no request came through it.
    ///
    /// ## What it detects
    /// A Gateway whose proxies served requests steadily until its spec was edited, and not one since, for long enough that chance does
    /// not explain it.
    /// ## Why it matters
    /// Clients that reach no listener are seen by nobody in the cluster: there is no failed request, only none at all.
    /// ## Evidence
    /// The last request in the access logs of the Gateway's proxies, how many there were before, and the edit.
    /// ## How to confirm
    /// `curl -v http://ADDRESS:PORT` as clients do it: the connection is refused, is not answered, or wants TLS.
    /// ## How to fix
    /// Take the edit back, or correct the listener that it changed.
    /// ## False positives
    /// Clients that were meant to move to another port or protocol at that moment and have not begun yet.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#listener>
    GatewaySilent {
        code: "GWAPI120", name: "gateway-fell-silent", family: Gateway, severity: Error,
        needs: [GatewayApi, AccessLogs], aliases: [],
    }
}

/// A Gateway that nobody reaches any more.
#[derive(Debug)]
pub struct Fact<'a> {
    gateway: &'a Gateway,
    change: &'a Change,
    /// Requests before, over so many seconds, and the last of them.
    requests: u64,
    seconds: i64,
    last: Timestamp,
    services: Vec<ServiceName>,
}

/// Fewer requests than this tell no rhythm.
const ENOUGH: u64 = 20;
/// Proxies write their access logs every ten seconds (Envoy's `--file-flush-interval-msec`): the newest are not there yet.
const FLUSH_SECONDS: i64 = 10;
/// So many requests would have come at the rate from before: that none did is chance once in 20,000 times (e^-10).
const EXPECTED: f64 = 10.0;
/// The last request and the edit lie no further apart than this: a push takes seconds, and connections that are open stay so.
const NEAR_SECONDS: i64 = 15;

impl Check for GatewaySilent {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for gateway in &snapshot.gateway_api.gateways {
            let reference = &gateway.object.reference;
            let mut edits = snapshot.changes.iter().rev().filter(|change| {
                change.kind == ChangeKind::Edited
                    && change.subject.same_object(reference)
                    && change.fields.iter().any(|field| field.starts_with("spec."))
            });
            let Some(change) = edits.next().filter(|_| seen::configured(reference.namespace.as_str())) else {
                continue;
            };
            let mut seconds: BTreeMap<i64, u64> = BTreeMap::new();
            let mut services: Vec<ServiceName> = vec![];
            for edge in at(snapshot, gateway) {
                for (second, (requests, _)) in &edge.seconds {
                    *seconds.entry(*second).or_default() += requests;
                }
                services.extend(edge.service.clone().filter(|service| !services.contains(service)));
            }
            let (Some((first, _)), Some((last, _))) = (seconds.first_key_value(), seconds.last_key_value())
            else {
                continue;
            };
            let (first, last, requests) = (*first, *last, seconds.values().sum::<u64>());
            let silent = snapshot.now.as_second() - FLUSH_SECONDS - last;
            let longest = seconds.keys().zip(seconds.keys().skip(1)).map(|(a, b)| b - a).max().unwrap_or(0);
            let span = (last - first).max(1);
            let expected = requests as f64 / span as f64 * silent as f64;
            let near = (last - change.time.as_second()).abs() <= NEAR_SECONDS;
            if requests < ENOUGH || !near || expected < EXPECTED || silent <= 2 * longest {
                continue;
            }
            let Ok(last) = Timestamp::from_second(last) else { continue };
            out.push(Fact { gateway, change, requests, seconds: span, last, services });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let gateway = &fact.gateway.object.reference;
        let fields: Vec<&str> = fact
            .change
            .fields
            .iter()
            .map(String::as_str)
            .filter(|field| field.starts_with("spec."))
            .take(3)
            .collect();
        let subject = gateway.field(place(fact));
        let edited = text::plain(&fields.join(", "), 120);
        let by = match text::plain(&fact.change.by, 40) {
            by if by.is_empty() => String::new(),
            by => format!(" by {by}"),
        };
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{gateway} takes no request since it was edited at {}", text::clock(fact.change.time)))
            .message(format!(
                "The proxies of {gateway} served {} in {} s until {}, and none since. It was edited at {}{by}: {edited}. Clients that find no listener at the port, the host and the protocol that they use leave no trace in the cluster.",
                text::several(fact.requests, "request"),
                fact.seconds,
                text::clock(fact.last),
                text::clock(fact.change.time)
            ))
            .mechanism("gateway silent: the listener that clients use (port, protocol, certificate, class) was changed, connections no longer arrive")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(fact.services.first().cloned())
            .onset(Some(fact.change.time))
            .evidence(Evidence::object(&subject, format!("edited{by}: {edited}")).at(Some(fact.change.time)))
            .evidence(
                Evidence::new("AccessLog", format!("proxies of {gateway}"), format!("the last of {}", text::several(fact.requests, "request")))
                    .at(Some(fact.last)),
            )
            .effects(fact.services.iter().map(|service| Effect::requests(service, &["NR", "refused", "timeout", "tls"])))
            .maybe_remedy(take_back(snapshot, fact.change))
            .prevention(Prevention::alert(
                "Alert when a gateway that had requests has none",
                format!(
                    "sum(rate(istio_requests_total{{source_workload=~\"{0}-.*\",source_workload_namespace=\"{1}\"}}[5m])) == 0 and sum(rate(istio_requests_total{{source_workload=~\"{0}-.*\",source_workload_namespace=\"{1}\"}}[5m] offset 10m)) > 0",
                    gateway.name, gateway.namespace
                ),
            ))
            .prevention(Prevention::of("Test", "After each change of a Gateway: one request as clients send it, from outside"))
    }
}

/// The field that somebody would change back: the listener that the edit touched, where it touched one.
fn place(fact: &Fact<'_>) -> String {
    let edited = |field: &&String| field.starts_with("spec.");
    let listener = |listener: &&crate::model::mesh::gateway_api::Listener| {
        fact.change.fields.iter().any(|field| field.contains(&format!("listeners[name={}]", listener.name)))
    };
    fact.gateway.listeners.iter().find(listener).map(|listener| listener.path.clone()).unwrap_or_else(|| {
        let first = fact.change.fields.iter().find(edited);
        first.filter(|field| !field.contains('[')).cloned().unwrap_or_else(|| "spec.listeners".to_owned())
    })
}
