//! ISTIO174.

use crate::model::json::{Value, json};

use super::support::{Tally, asked, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::{Answer, Outcome as Ending};
use crate::analyze::twin::ask::{Ask, describe};
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter, host_of, most};

crate::rule! {
    /// A route leads requests to a Service that does not know them, where another one served them before.
    ///
    /// ## What it detects
    /// Requests for a host and path that a proxy sent to one Service, which answered them, and sends to another one now, which answers
    /// 404, 405 or 501; with the VirtualService or HTTPRoute by which they go there.
    /// ## Why it matters
    /// Every object is valid, every pod is well, and users get an answer of an application that they did not ask for.
    /// ## Evidence
    /// The answers of both Services in access logs, and the route's destination.
    /// ## How to confirm
    /// `meshscope request` for the host and path shows the route that decides, and where it leads.
    /// ## How to fix
    /// Name the Service that served these requests before.
    /// ## False positives
    /// Requests that moved on purpose to a Service that is to answer 404 to them.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRouteDestination>
    RouteLeadsElsewhere {
        code: "ISTIO174", name: "route-leads-elsewhere", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// What answered such requests before.
#[derive(Debug)]
struct Before {
    service: ServiceName,
    port: Option<i64>,
    /// Whether it still gets requests for the host, though for other paths as well.
    still: bool,
}

/// Fewer answers than this say nothing.
const ENOUGH: u64 = 5;

/// Seconds in which the last requests of before still come back, and the pods of a gateway learn of a change one after another.
const SETTLED: i64 = 2;

/// A destination that took requests over.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// The field that names the Service.
    field: String,
    host: String,
    path: String,
    code: u16,
    /// Where requests go, and where they went before, with the port.
    to: ServiceName,
    from: Before,
    tally: Tally,
}

impl Check for RouteLeadsElsewhere {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        let mut twin: Option<Twin<'a>> = None;
        let sources =
            snapshot.traffic.iter().enumerate().filter(|(_, edge)| edge.reporter == Reporter::Source);
        for (at, edge) in sources {
            let Some(to) = &edge.service else { continue };
            for outcome in edge.outcomes.iter().filter(|outcome| unknown(outcome)) {
                let Some(path) = most(&outcome.paths) else { continue };
                let Some((origin, request)) = asked(snapshot, edge, outcome) else { continue };
                let host = host_of(&request.host).to_owned();
                let Some(from) = before(snapshot, edge, outcome, &host, path) else { continue };
                let twin = twin.get_or_insert_with(|| Twin::new(snapshot));
                let ask = Ask { name: describe(&origin, &request), from: origin, request };
                let Some((object, field)) = decided(snapshot, &twin.answer(&ask), to, from.still) else {
                    continue;
                };
                let value = format!(
                    "{} requests for {}: {}",
                    outcome.count,
                    text::plain(&format!("{host}{path}"), 80),
                    outcome.label()
                );
                let place = format!("{} proxy, {}", edge.workload, edge.cluster.raw);
                let same = |f: &Fact<'_>| f.object.reference == object.reference && f.field == field;
                let known = out.iter().position(same).unwrap_or_else(|| {
                    let (to, code, path) = (to.clone(), outcome.code, path.to_owned());
                    out.push(Fact { object, field, host, path, code, to, from, tally: Tally::default() });
                    out.len() - 1
                });
                if let Some(fact) = out.get_mut(known) {
                    fact.tally.add((at, edge), outcome, Evidence::new("AccessLog", place, value));
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.object.reference;
        let subject = object.field(&fact.field);
        let (host, path) = (text::plain(&fact.host, 60), text::plain(&fact.path, 60));
        let (to, from) = (&fact.to, &fact.from.service);
        let value =
            fact.object.body.pointer(&pointer(&fact.field)).and_then(Value::as_str).unwrap_or_default();
        let code = fact.code.to_string();
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{object} sends {path} to {}, which does not know it: {} served it before", to.name, from.name))
            .message(format!(
                "{} for {host}{path} got {code} from Service {to}{}. Before that Service {from} answered such requests: {} of {object} leads elsewhere.",
                fact.tally.share(),
                since(fact.tally.onset),
                fact.field
            ))
            .mechanism(format!("route to another Service: the destination does not know the path ({code})"))
            .severity(fact.tally.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(Some(from.clone()))
            .onset(fact.tally.onset)
            .evidence(Evidence::object(&subject, text::plain(value, 120)))
            .evidences(fact.tally.evidence.clone())
            .effects([from, to].map(|service| Effect::requests(service, &[&code, "4xx", "5xx", "via_upstream"])))
            .maybe_remedy(back(fact))
            .prevention(Prevention::alert(
                "Alert when a Service answers most requests with 404",
                "sum by (destination_service) (rate(istio_requests_total{response_code=\"404\"}[5m])) / sum by (destination_service) (rate(istio_requests_total[5m])) > 0.5",
            ))
            .prevention(Prevention::of("Test", "After each change of a route: one request for its host comes back from the Service that is meant"))
    }
}

/// Whether a Service answered that it does not know what it was asked.
fn unknown(outcome: &Outcome) -> bool {
    matches!(outcome.code, 404 | 405 | 501)
        && outcome.details == "via_upstream"
        && !outcome.upstreams.is_empty()
        && outcome.count >= ENOUGH
}

/// The Service that answered the same requests of the same proxies before; `None` where it, or the one that they go to now, still
/// answers them.
fn before(
    snapshot: &Snapshot,
    edge: &EdgeTraffic,
    outcome: &Outcome,
    host: &str,
    path: &str,
) -> Option<Before> {
    let first = outcome.first?;
    let mut found: Option<Before> = None;
    let mut still = false;
    let own = snapshot
        .traffic
        .iter()
        .filter(|other| other.reporter == Reporter::Source && other.workload.same_object(&edge.workload));
    for (other, well) in own.flat_map(|other| other.outcomes.iter().map(move |o| (other, o))) {
        let same = well.authorities.keys().any(|name| host_of(name).eq_ignore_ascii_case(host))
            && well.paths.contains_key(path);
        if !same || well.upstreams.is_empty() || unknown(well) {
            continue;
        }
        let later = well.last.is_some_and(|last| last.as_second() > first.as_second() + SETTLED);
        // Served by the same Service as well, or by another one still: then the path is not unknown, or only a part goes elsewhere.
        if other.service == edge.service || (later && well.paths.len() == 1) {
            return None;
        }
        still |= later;
        if well.code < 400 && !well.failed && well.first.is_some_and(|at| at < first) {
            let service = other.service.clone();
            found = service.map(|service| Before { service, port: other.cluster.port, still: false });
        }
    }
    found.map(|found| Before { still, ..found })
}

/// The object by which a request goes to a Service, and the field that names the Service; with `alone` only where the route has no
/// other destination.
fn decided<'a>(
    snapshot: &'a Snapshot,
    answer: &Answer,
    to: &ServiceName,
    alone: bool,
) -> Option<(&'a Object, String)> {
    if answer.outcome != Ending::Forwarded {
        return None;
    }
    let step = answer.steps.iter().rev().find(|step| {
        step.object.as_ref().is_some_and(|o| matches!(o.kind.as_str(), "VirtualService" | "HTTPRoute"))
    })?;
    let object = snapshot.find(step.object.as_ref()?)?;
    let route = step.field_path.get(..=step.field_path.find(']')?)?;
    let body = object.body.pointer(&pointer(route))?;
    let virtual_service = object.reference.kind == "VirtualService";
    let names = |destination: &Value| {
        if virtual_service {
            let host = destination.text("destination.host").unwrap_or_default();
            let mut labels = host.split('.');
            let short = labels.next() == Some(to.name.as_str());
            short && labels.next().unwrap_or(object.namespace()) == to.namespace
        } else {
            destination.text("name") == Some(to.name.as_str())
                && destination.text("namespace").unwrap_or(object.namespace()) == to.namespace
        }
    };
    let (list, leaf) = if virtual_service { ("route", "destination.host") } else { ("backendRefs", "name") };
    let destinations = body.list(list);
    let index = destinations.iter().position(names).filter(|_| !alone || destinations.len() == 1)?;
    Some((object, format!("{route}.{list}[{index}].{leaf}")))
}

/// Names the Service of before again, with its port where one is written.
fn back(fact: &Fact<'_>) -> Option<Remedy> {
    let Before { service, port, .. } = &fact.from;
    let at = pointer(&fact.field);
    let virtual_service = fact.object.reference.kind == "VirtualService";
    let near = service.namespace == fact.object.namespace();
    if !near && !virtual_service {
        return None;
    }
    let name = if near {
        service.name.clone()
    } else {
        format!("{}.{}.svc.cluster.local", service.name, service.namespace)
    };
    let mut operations = vec![json!({"op": "replace", "path": at, "value": name})];
    let beside = if virtual_service { "port/number" } else { "port" };
    let place = format!("{}/{beside}", at.rsplit_once('/')?.0);
    let written = fact.object.body.pointer(&place).and_then(Value::as_i64);
    if let (Some(written), Some(port)) = (written, port)
        && written != *port
    {
        operations.push(json!({"op": "replace", "path": place, "value": port}));
    }
    let summary = format!("Send these requests to {name} again, as before");
    Remedy::patch(fact.object, &Value::from(operations), summary).map(|remedy| remedy.risk(Risk::Medium))
}
