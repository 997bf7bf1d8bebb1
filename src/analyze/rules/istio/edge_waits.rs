//! ISTIO160.

use std::collections::{BTreeMap, BTreeSet};

use super::hops::{Calls, Hop, Hops};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A caller at the edge waits longer than anybody does, or is sent away before the calls behind have their time.
    ///
    /// ## What it detects
    /// A route at a gateway (of a VirtualService, or of an HTTPRoute), set against the calls that the service behind it makes, down the service graph: what each of them is
    /// allowed (`timeout`, or its attempts times `perTryTimeout`) adds up to what a caller at the edge waits in the worst case. It
    /// is told where the route has no time-out of its own and that is a minute or more, and where the route has one that several
    /// calls together exceed although each alone does not.
    /// ## Why it matters
    /// Load balancers and browsers give up after a minute: the caller is gone, and the work goes on. Where the route gives up
    /// first, requests fail that every service on the way regards as well.
    /// ## Evidence
    /// The route, and each call with what it is allowed.
    /// ## How to confirm
    /// `timeout` and `retries` of each VirtualService, `timeouts` and `retry` of each HTTPRoute on the way.
    /// ## How to fix
    /// Give the route at the gateway a time-out, and the calls behind it shares of that.
    /// ## False positives
    /// Calls that are made at the same time add up to the longest of them and not to their sum. It is information.
    /// ## References
    /// <https://istio.io/latest/docs/concepts/traffic-management/#timeouts>
    EdgeWaits {
        code: "ISTIO160", name: "edge-waits", family: Mesh, severity: Info,
        needs: [Istio], aliases: [],
    }
}

/// Seconds after which common load balancers and proxies give up by default (AWS's load balancers and nginx: 60).
const PATIENCE: f64 = 60.0;
/// A way through the graph is followed this far.
const MAX_DEPTH: usize = 12;
/// Services that are looked at from one edge, over all ways.
const MAX_STEPS: usize = 10_000;

/// An edge and what is behind it.
#[derive(Debug)]
pub struct Fact {
    edge: Hop,
    service: ServiceName,
    /// What the route allows, in seconds.
    own: Option<f64>,
    /// The calls behind it, each with what it is allowed, in seconds.
    behind: Vec<(ServiceName, f64)>,
}

impl Fact {
    fn sum(&self) -> f64 {
        self.behind.iter().map(|(_, seconds)| seconds).sum()
    }
}

impl Check for EdgeWaits {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let edges = edges(snapshot);
        if edges.is_empty() {
            return vec![];
        }
        let (hops, calls) = (snapshot.derived::<Hops>(), snapshot.derived::<Calls>());
        let mut out = vec![];
        for (edge, service) in edges {
            let own = edge.longest();
            let mut steps = MAX_STEPS;
            let mut way = vec![service.clone()];
            let Some(behind) = waits(&service, &hops.0, &calls.0, &mut way, &mut steps) else { continue };
            let fact = Fact { edge, service, own, behind };
            let wanted = match own {
                None => fact.sum() >= PATIENCE,
                // What exceeds it alone is another finding (ISTIO153).
                Some(own) => {
                    fact.behind.len() > 1
                        && fact.sum() > own
                        && fact.behind.iter().all(|(_, seconds)| *seconds <= own)
                }
            };
            if wanted {
                out.push(fact);
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let ms = |seconds: f64| text::milliseconds((seconds * 1000.0).round() as u64);
        let subject = fact.edge.timeout_field();
        let sum = ms(fact.sum());
        let parts: Vec<String> = fact
            .behind
            .iter()
            .take(8)
            .map(|(service, seconds)| format!("{} {}", service.name, ms(*seconds)))
            .collect();
        let name = &fact.service.name;
        let (title, why) = match fact.own {
            None => (
                format!("A caller at the edge waits up to {sum} for {name}: the route has no time-out"),
                "Nothing at the edge ends it earlier, and load balancers give up after 60 s.".to_owned(),
            ),
            Some(own) => (
                format!(
                    "The edge ends requests to {name} after {}; the calls behind have {sum} together",
                    ms(own)
                ),
                format!(
                    "The route ends the request after {}, although each of them keeps to its time.",
                    ms(own)
                ),
            ),
        };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.service.to_string()])
            .title(title)
            .message(format!(
                "One after the other, the calls that {name} makes are allowed {} = {sum}. {why}",
                text::plain(&parts.join(" + "), 400)
            ))
            .mechanism("worst-case wait at the edge: time-outs add up")
            .role(Role::Context, Confidence::Configured)
            .service(Some(fact.service.clone()))
            .evidence(Evidence::object(&subject, fact.own.map_or_else(|| "none".to_owned(), ms)))
            .evidences(
                fact.behind
                    .iter()
                    .take(8)
                    .map(|(service, seconds)| Evidence::object(&service.reference(), format!("calls are allowed {}", ms(*seconds)))),
            )
            .effect(Effect::requests(&fact.service, &["UT", "slow", "timeout"]))
            .prevention(Prevention::of("Test", "In the pipeline: what the calls behind an edge are allowed together is less than what the edge allows"));
        if fact.own.is_none() {
            finding = finding.maybe_remedy(Remedy::patch(
                &fact.edge.object,
                &fact.edge.with_timeout("60s"),
                "Set the time-out of the route to 60s, after which load balancers are gone",
            ));
        }
        finding
    }
}

/// The rules at gateways, each with the Service that it leads to first.
fn edges(snapshot: &Snapshot) -> Vec<(Hop, ServiceName)> {
    let mut out = vec![];
    for virtual_service in &snapshot.istio.virtual_services {
        let namespace = virtual_service.object.namespace();
        if !snapshot.in_scope(namespace) || virtual_service.gateways.iter().all(|gateway| gateway == "mesh") {
            continue;
        }
        for route in virtual_service.routes.iter().filter(|route| route.protocol == "http") {
            let host = route.destinations.first().map(|to| full_host(&to.host, namespace));
            if let Some((namespace, name)) = host.as_deref().and_then(service_of_host) {
                out.push((Hop::of(virtual_service, route), ServiceName::new(namespace, name)));
            }
        }
    }
    let routes =
        snapshot.gateway_api.routes.iter().filter(|route| route.object.reference.kind == "HTTPRoute");
    for route in routes.filter(|route| route.parents.iter().any(|parent| parent.kind == "Gateway")) {
        let rules = route.object.body.list("spec.rules").len();
        for index in (0..rules).filter(|_| snapshot.in_scope(route.object.namespace())) {
            let beginning = format!("spec.rules[{index}].");
            let mut backends = route.backends.iter().filter(|backend| backend.path.starts_with(&beginning));
            if let (Some(hop), Some(to)) =
                (Hop::of_http_route(&route.object, index), backends.find(|backend| backend.kind == "Service"))
            {
                out.push((hop, ServiceName::new(&to.namespace, &to.name)));
            }
        }
    }
    out
}

/// What the calls of a service are allowed, each as a whole where it has a limit of its own, else by the calls that it makes in
/// turn. `None` where something on the way has no limit at all.
fn waits(
    of: &ServiceName,
    hops: &BTreeMap<ServiceName, Hop>,
    calls: &BTreeMap<ServiceName, BTreeSet<ServiceName>>,
    way: &mut Vec<ServiceName>,
    steps: &mut usize,
) -> Option<Vec<(ServiceName, f64)>> {
    let callees = calls.get(of).filter(|callees| !callees.is_empty())?;
    let mut out = vec![];
    for callee in callees {
        *steps = steps.checked_sub(1)?;
        if let Some(longest) = hops.get(callee).and_then(Hop::longest) {
            out.push((callee.clone(), longest));
            continue;
        }
        if way.contains(callee) || way.len() >= MAX_DEPTH {
            return None;
        }
        way.push(callee.clone());
        let below = waits(callee, hops, calls, way, steps);
        way.pop();
        out.push((callee.clone(), below?.iter().map(|(_, seconds)| seconds).sum()));
    }
    Some(out)
}
