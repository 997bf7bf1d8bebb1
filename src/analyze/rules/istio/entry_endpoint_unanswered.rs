//! ISTIO175.

use crate::model::json::json;
use std::collections::BTreeMap;

use super::support::{Tally, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::ServiceEntry;
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};

crate::rule! {
    /// A ServiceEntry has the host of a Service, and puts an address beside its pods at which nobody answers.
    ///
    /// ## What it detects
    /// Requests to a Service that proxies sent to an address of a ServiceEntry with the same host, none of which was answered.
    /// ## Why it matters
    /// Istio puts the addresses of both together: a part of the requests leaves the Service's pods, which are well, and no object of
    /// Kubernetes tells of it.
    /// ## Evidence
    /// The address in access logs, and the endpoint in the ServiceEntry.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster 'outbound|80||HOST'` lists the address.
    /// ## How to fix
    /// Take the endpoint out, or the ServiceEntry: the Service has its pods.
    /// ## False positives
    /// A machine that is to serve beside the pods and is down: then it is to be brought back.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/service-entry/>
    EntryEndpointUnanswered {
        code: "ISTIO175", name: "entry-endpoint-unanswered", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// Fewer requests than this say nothing.
const ENOUGH: u64 = 3;

/// An address that takes requests of a Service and answers none.
#[derive(Debug)]
pub struct Fact<'a> {
    entry: &'a ServiceEntry,
    index: usize,
    address: String,
    service: &'a Service,
    tally: Tally,
}

impl Check for EntryEndpointUnanswered {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        let own = endpoints(snapshot);
        if own.is_empty() {
            return out;
        }
        let source = |edge: &&EdgeTraffic| edge.reporter == Reporter::Source;
        let answers = |address: &str| {
            let outcomes = snapshot.traffic.iter().filter(source).flat_map(|edge| &edge.outcomes);
            outcomes
                .filter(|outcome| !unanswered(outcome))
                .any(|o| o.upstreams.keys().any(|to| ip(to) == address))
        };
        for (at, edge) in snapshot.traffic.iter().enumerate().filter(|(_, edge)| source(edge)) {
            let Some(service) = edge.service.as_ref().and_then(|name| snapshot.service(name)) else {
                continue;
            };
            for outcome in edge.outcomes.iter().filter(|outcome| unanswered(outcome)) {
                for (address, (entry, index)) in
                    outcome.upstreams.keys().filter_map(|to| own.get_key_value(ip(to)))
                {
                    let named = entry.hosts.iter().any(|host| host.eq_ignore_ascii_case(&edge.cluster.host));
                    if !named || answers(address) {
                        continue;
                    }
                    let same = |fact: &Fact<'_>| {
                        fact.entry.object.reference == entry.object.reference && fact.index == *index
                    };
                    let known = out.iter().position(same).unwrap_or_else(|| {
                        let (address, tally) = ((*address).to_owned(), Tally::default());
                        out.push(Fact { entry, index: *index, address, service, tally });
                        out.len() - 1
                    });
                    let value = format!("{} requests to {address}: {}", outcome.count, outcome.label());
                    let place = format!("{} proxy, {}", edge.workload, edge.cluster.raw);
                    if let Some(fact) = out.get_mut(known) {
                        fact.tally.add((at, edge), outcome, Evidence::new("AccessLog", place, value));
                    }
                }
            }
        }
        out.retain(|fact| fact.tally.count >= ENOUGH);
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let object = &fact.entry.object;
        let subject = object.reference.field(format!("spec.endpoints[{}].address", fact.index));
        let (name, address) = (fact.service.service_name(), text::plain(&fact.address, 60));
        let ready = snapshot.endpoints(fact.service).map_or(0, |(ready, _)| ready);
        let pods = if ready > 0 {
            format!("{} of the Service are ready and answer", text::several(ready as u64, "endpoint"))
        } else {
            "the Service has no ready endpoint of its own".to_owned()
        };
        let delete = Remedy::delete(
            object,
            format!("Delete {}: requests go to the Service's pods alone", object.reference),
        )
        .risk(Risk::Medium);
        let take_out = (object.body.list("spec.endpoints").len() > 1)
            .then(|| {
                let operation = json!([{"op": "remove", "path": format!("/spec/endpoints/{}", fact.index)}]);
                Remedy::patch(object, &operation, format!("Take {address} out of {}", object.reference))
            })
            .flatten();
        Finding::new(Self::META, subject.clone(), &[&name.name])
            .title(format!("{} adds {address} to the endpoints of Service {}, and nobody answers there", object.reference, name.name))
            .message(format!(
                "{} to {name} went to {address} and got no answer{}. The address is an endpoint of {}, which has the Service's host, so proxies use both; {pods}.",
                text::several(fact.tally.count, "request"),
                since(fact.tally.onset),
                object.reference
            ))
            .mechanism("ServiceEntry with the host of a Service: its endpoint does not answer")
            .severity(fact.tally.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .onset(fact.tally.onset)
            .evidence(Evidence::object(&subject, address))
            .evidences(fact.tally.evidence.clone())
            .effect(Effect::requests(&name, &["UF", "UC", "UT", "DC", "URX", "timeout", "5xx", "reset", "refused"]))
            .maybe_remedy(take_out)
            .remedy(delete)
            .prevention(Prevention::of("Policy", "Refuse ServiceEntries whose host ends in the cluster's own domain"))
            .prevention(Prevention::alert(
                "Alert when calls to a Service get no answer",
                format!("sum by (source_workload) (rate(istio_requests_total{{reporter=\"source\",destination_service_name=\"{}\",response_flags=~\".*(UF|UC|UT|DC).*\"}}[2m])) > 0", name.name),
            ))
    }
}

/// The addresses that ServiceEntries with a Service's host add, with their place.
fn endpoints(snapshot: &Snapshot) -> BTreeMap<&str, (&ServiceEntry, usize)> {
    let mut out = BTreeMap::new();
    for entry in &snapshot.istio.service_entries {
        for (index, endpoint) in entry.object.body.list("spec.endpoints").iter().enumerate() {
            if let Some(address) = endpoint.text("address") {
                out.insert(address, (entry, index));
            }
        }
    }
    out
}

/// Whether a request was sent to an address and nothing came back from it.
fn unanswered(outcome: &Outcome) -> bool {
    !outcome.upstreams.is_empty()
        && outcome.details != "via_upstream"
        && (outcome.failed || outcome.code == 0)
}

/// An address without its port, and without the brackets of IPv6.
fn ip(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(ip, _)| ip).trim_matches(['[', ']'])
}
