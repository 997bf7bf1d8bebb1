//! ISTIO161.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;

use super::hosts::service_of;
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
use crate::model::traffic::{EdgeTraffic, Outcome, host_of};

crate::rule! {
    /// A route answers requests itself instead of sending them on.
    ///
    /// ## What it detects
    /// Requests that a proxy answers with `direct_response`, where the mesh's configuration gives exactly this answer: a redirect to a
    /// place from which nobody comes back (`httpsRedirect` of a Gateway, `redirect` of a VirtualService, `RequestRedirect` of an
    /// HTTPRoute), a `directResponse`, an HTTPRoute whose backends all have the weight 0 or that has none.
    /// ## Why it matters
    /// The application is well and gets none of these requests.
    /// ## Evidence
    /// Access logs of the proxy that answers; the walk of such a request through the configuration; for redirects, that requests for the
    /// host reached an application before and none has since.
    /// ## How to confirm
    /// `meshscope request 'GET http://HOST/PATH' --from gateway:NS/NAME BUNDLE`, or `curl -sI` with the host.
    /// ## How to fix
    /// Take the answer out of the route and send its requests to the backend again.
    /// ## False positives
    /// A redirect whose clients come back over HTTPS or to another path is silent here, and so is one that was there all along. A
    /// maintenance page is reported: it is why the service does not answer.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRoute>
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>
    AnsweredByRoute {
        code: "ISTIO161", name: "answered-by-a-route", family: Gateway, severity: Error,
        needs: [AccessLogs], aliases: [],
    }
}

/// Fewer answers than this are somebody's try.
const ENOUGH: u64 = 5;

/// Requests that were under way when a route changed end within so many seconds.
const SETTLED: i64 = 2;

/// What a route does instead of sending a request on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Sends the client to this address.
    Redirect(String),
    /// Gives an answer of its own.
    Response,
    /// Gives every backend the weight 0.
    NoWeight,
    /// Has no backend.
    NoBackend,
}

/// A route that answers.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// The route's field, and the one in it that answers.
    route: String,
    field: String,
    what: What,
    /// The host that was asked for.
    host: String,
    code: u16,
    /// What was answered so, of all requests for the host at these proxies.
    tally: Tally,
    /// Where such requests went before, with the port.
    before: Option<(ServiceName, Option<i64>)>,
    /// Services that callers ask for and get this answer from.
    felt: BTreeSet<ServiceName>,
}

impl Check for AnsweredByRoute {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        let mut twin: Option<Twin<'a>> = None;
        for (at, edge) in snapshot.traffic.iter().enumerate() {
            for outcome in edge.outcomes.iter().filter(|outcome| answered(outcome)) {
                let Some((origin, request)) = asked(snapshot, edge, outcome) else { continue };
                let twin = twin.get_or_insert_with(|| Twin::new(snapshot));
                let ask = Ask { name: describe(&origin, &request), from: origin, request };
                let answer = twin.answer(&ask);
                if answer.outcome != Ending::Responded || answer.status != Some(outcome.code) {
                    continue;
                }
                let Some((object, route, field, what)) = decided(snapshot, &answer) else { continue };
                let host = host_of(&ask.request.host).to_owned();
                let past = past(snapshot, edge, outcome, &host);
                if matches!(what, What::Redirect(_)) && !past.ended {
                    continue;
                }
                let known = out
                    .iter_mut()
                    .find(|fact| fact.object.reference == object.reference && fact.field == field);
                let fact = match known {
                    Some(fact) => fact,
                    None => {
                        out.push(Fact {
                            object,
                            route,
                            field,
                            what,
                            host,
                            code: outcome.code,
                            tally: Tally::default(),
                            before: None,
                            felt: BTreeSet::new(),
                        });
                        let Some(last) = out.last_mut() else { continue };
                        last
                    }
                };
                fact.before = fact.before.take().or(past.before);
                fact.felt.extend(edge.service.clone());
                let value = format!(
                    "{} of {} requests for {}: {}",
                    outcome.count,
                    edge.requests,
                    text::plain(&fact.host, 60),
                    outcome.label()
                );
                let evidence = Evidence::new("AccessLog", format!("{} proxy", edge.workload), value);
                fact.tally.add((at, edge), outcome, evidence);
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let object = &fact.object.reference;
        let host = text::plain(&fact.host, 60);
        let subject = object.field(&fact.field);
        let service =
            fact.before.as_ref().map(|(service, _)| service.clone()).or_else(|| behind(snapshot, fact));
        let goes =
            service.as_ref().map_or_else(|| "a backend".to_owned(), |service| format!("Service {service}"));
        let (title, mechanism, means) = match &fact.what {
            What::Redirect(location) => {
                let to = text::plain(location, 90);
                (
                    format!("{object} redirects requests to {to}, and nobody comes back"),
                    "redirect: the route sends clients elsewhere",
                    format!(
                        "the client is told to go to {to}; since then no request for {host} has reached {goes}"
                    ),
                )
            }
            What::Response => (
                format!("{object} answers requests with {} itself", fact.code),
                "direct response: the route answers itself",
                format!("the route gives this answer and sends nothing to {goes}"),
            ),
            What::NoWeight => (
                format!("{object} gives every backend the weight 0: requests get {}", fact.code),
                "weight 0: the route has no backend that counts",
                "with no backend of a weight above 0 a route sends nothing on".to_owned(),
            ),
            What::NoBackend => (
                format!("{object} has a rule without a backend: requests get {}", fact.code),
                "no backend: the rule of the route names none",
                "a rule without backendRefs and without a redirect sends nothing on".to_owned(),
            ),
        };
        let flags: Vec<String> =
            ["direct_response", "redirect", if fact.code >= 500 { "5xx" } else { "4xx" }]
                .iter()
                .map(|flag| (*flag).to_owned())
                .chain([fact.code.to_string()])
                .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let felt: BTreeSet<&ServiceName> = fact.felt.iter().chain(&service).collect();
        let value = fact.object.body.pointer(&pointer(&fact.field)).cloned().unwrap_or(Value::Null);
        Finding::new(Self::META, subject.clone(), &[])
            .title(title)
            .message(format!(
                "{} for {host} got {} by {} of {object}{}: {means}.",
                fact.tally.share(),
                fact.code,
                fact.field,
                since(fact.tally.onset)
            ))
            .mechanism(mechanism)
            .severity(fact.tally.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(service.clone())
            .onset(fact.tally.onset)
            .evidence(Evidence::object(&subject, text::plain(&value.to_string().replace('"', ""), 160)))
            .evidences(fact.tally.evidence.clone())
            .effects(felt.into_iter().map(|service| Effect::requests(service, &flags)))
            .maybe_remedy(remedy(snapshot, fact))
            .prevention(Prevention::alert(
                "Alert when a gateway answers most requests itself",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",destination_service=\"unknown\"}[5m])) / sum by (source_workload) (rate(istio_requests_total{reporter=\"source\"}[5m])) > 0.5",
            ))
            .prevention(Prevention::of("Test", "After each change of a route: one request for its host comes back from the application"))
    }
}

/// Whether a proxy answered by its route alone, as a failure or as a redirect.
fn answered(outcome: &Outcome) -> bool {
    outcome.details == "direct_response"
        && outcome.upstreams.is_empty()
        && !outcome.connection
        && outcome.code >= 300
        && outcome.count >= ENOUGH
}

/// The object that gave an answer: its route, the field in it, and what that does.
fn decided<'a>(snapshot: &'a Snapshot, answer: &Answer) -> Option<(&'a Object, String, String, What)> {
    let step = answer.steps.iter().rev().find(|step| {
        step.object
            .as_ref()
            .is_some_and(|o| matches!(o.kind.as_str(), "Gateway" | "VirtualService" | "HTTPRoute"))
    })?;
    let object = snapshot.find(step.object.as_ref()?)?;
    if object.reference.kind == "Gateway" {
        let field = step.field_path.ends_with("httpsRedirect").then(|| step.field_path.clone())?;
        return Some((object, field.clone(), field, What::Redirect(answer.location.clone())));
    }
    let end = step.field_path.find(']')?;
    let route = step.field_path.get(..=end)?.to_owned();
    let body = object.body.pointer(&pointer(&route))?;
    let (field, what) = if object.reference.kind == "VirtualService" {
        let redirect = What::Redirect(answer.location.clone());
        let known = [("redirect", redirect), ("directResponse", What::Response)];
        let (name, what) = known.into_iter().find(|(name, _)| body.child(name).is_some())?;
        (format!("{route}.{name}"), what)
    } else {
        let redirects = |filter: &Value| filter.text("type") == Some("RequestRedirect");
        let backends = body.list("backendRefs");
        if let Some(at) = body.list("filters").iter().position(redirects) {
            (format!("{route}.filters[{at}].requestRedirect"), What::Redirect(answer.location.clone()))
        } else if backends.is_empty() {
            (format!("{route}.backendRefs"), What::NoBackend)
        } else if backends.iter().all(|backend| backend.int("weight") == Some(0)) {
            (format!("{route}.backendRefs[0].weight"), What::NoWeight)
        } else {
            return None;
        }
    };
    Some((object, route, field, what))
}

/// How requests for a host fared at the same proxies.
#[derive(Debug, Default)]
struct Past {
    /// The Service that got them, and the port.
    before: Option<(ServiceName, Option<i64>)>,
    /// Whether some got through before and none has since.
    ended: bool,
}

fn past(snapshot: &Snapshot, edge: &EdgeTraffic, outcome: &Outcome, host: &str) -> Past {
    let mut out = Past::default();
    let Some(first) = outcome.first else { return out };
    let mut since = false;
    let own = snapshot.traffic.iter().filter(|other| other.workload.same_object(&edge.workload));
    for (other, through) in own.flat_map(|other| other.outcomes.iter().map(move |o| (other, o))) {
        let same = through.authorities.keys().any(|authority| host_of(authority).eq_ignore_ascii_case(host));
        if through.upstreams.is_empty() || !same {
            continue;
        }
        since |= through.last.is_some_and(|last| last.as_second() > first.as_second() + SETTLED);
        if through.first.is_some_and(|at| at <= first) && other.service.is_some() && out.before.is_none() {
            out.before = other.service.clone().map(|service| (service, other.cluster.port));
        }
    }
    out.ended = out.before.is_some() && !since;
    out
}

/// The Service that a route would send requests to.
fn behind(snapshot: &Snapshot, fact: &Fact<'_>) -> Option<ServiceName> {
    let reference = &fact.object.reference;
    let route = snapshot.istio.virtual_services.iter().find(|route| route.reference() == reference);
    if let Some(route) = route {
        return service_of(snapshot, route);
    }
    let routes = snapshot.gateway_api.routes.iter().find(|route| route.reference() == reference)?;
    let backend = routes.backends.iter().find(|backend| backend.kind == "Service")?;
    Some(ServiceName::new(&backend.namespace, &backend.name))
}

/// Takes the answer out, and puts the backend from before in where the route has none.
fn remedy(snapshot: &Snapshot, fact: &Fact<'_>) -> Option<Remedy> {
    let (object, at) = (fact.object, pointer(&fact.field));
    let rule = object.body.pointer(&pointer(&fact.route));
    if object.reference.kind == "Gateway" {
        return Remedy::patch(
            object,
            &json!([{"op": "replace", "path": at, "value": false}]),
            "Set httpsRedirect to false: plain HTTP is served again",
        );
    }
    if fact.what == What::NoWeight {
        let rule = rule?;
        // The backend that has pods to answer.
        let ready = |backend: &&Value| {
            let namespace = backend.text("namespace").unwrap_or(object.namespace());
            let service = snapshot.service(&ServiceName::new(namespace, backend.string("name")));
            service.and_then(|service| snapshot.endpoints(service)).is_some_and(|(ready, _)| ready > 0)
        };
        let index = rule.list("backendRefs").iter().position(|backend| ready(&backend)).unwrap_or(0);
        let path = pointer(&format!("{}.backendRefs[{index}].weight", fact.route));
        return Remedy::patch(
            object,
            &json!([{"op": "replace", "path": path, "value": 1}]),
            format!("Give backendRefs[{index}] of {} the weight 1", fact.route),
        );
    }
    let rule = rule?;
    let istio = object.reference.kind == "VirtualService";
    let lacks = rule.list(if istio { "route" } else { "backendRefs" }).is_empty();
    let mut operations = vec![];
    if fact.what != What::NoBackend {
        let only = !istio && rule.list("filters").len() == 1;
        let path = if istio {
            at
        } else if only {
            pointer(&format!("{}.filters", fact.route))
        } else {
            at.strip_suffix("/requestRedirect")?.to_owned()
        };
        operations.push(json!({"op": "remove", "path": path}));
    }
    let mut to = String::new();
    if lacks {
        let (service, port) = fact.before.as_ref()?;
        if !istio && service.namespace != object.namespace() {
            return None;
        }
        let port = (*port)?;
        to = format!(", and send its requests to Service {service} again, as before");
        let host = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
        let (name, value) = if istio {
            ("route", json!([{"destination": {"host": host, "port": {"number": port}}}]))
        } else {
            ("backendRefs", json!([{"name": service.name, "port": port}]))
        };
        operations
            .push(json!({"op": "add", "path": pointer(&format!("{}.{name}", fact.route)), "value": value}));
    }
    let out = match &fact.what {
        What::NoBackend => format!("Give {} backendRefs{to}", fact.route),
        _ => format!("Take {} out of {}{to}", fact.field.rsplit('.').next().unwrap_or_default(), fact.route),
    };
    Remedy::patch(object, &Value::from(operations), out).map(|remedy| remedy.risk(Risk::Medium))
}
