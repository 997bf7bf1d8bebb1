//! ISTIO164.

use crate::model::json::{Value, json};
use jiff::Timestamp;

use super::support::{Tally, asked, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::Outcome as Ending;
use crate::analyze::twin::ask::{Ask, describe};
use crate::model::change::ChangeKind;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter, most};

crate::rule! {
    /// A route rewrites paths to ones that the application does not know.
    ///
    /// ## What it detects
    /// Requests whose path a VirtualService (`rewrite`) or an HTTPRoute (`URLRewrite`) changes, and that the application answers with
    /// 404 without exception, where the application was not rolled out just before.
    /// ## Why it matters
    /// Callers ask for the right path and get 404 from an application that is well; its log shows a path that nobody asked for, or
    /// nothing.
    /// ## Evidence
    /// The rewrite, the path that the application gets, and the 404 `via_upstream` in access logs.
    /// ## How to confirm
    /// `meshscope request` shows the path that is sent; ask a pod for both paths directly.
    /// ## How to fix
    /// Take the rewrite out, or let it name a path that the application serves.
    /// ## False positives
    /// Requests for things that are not there: it is silent where any request by the same path succeeds meanwhile.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRewrite>
    RewriteUnknown {
        code: "ISTIO164", name: "rewrite-to-unknown-path", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// Fewer answers than this are somebody's try.
const ENOUGH: u64 = 5;

/// A rollout this many seconds before the first failure is the likelier cause.
const ROLLED_OUT: i64 = 180;

/// Requests that were under way when a route changed end within so many seconds.
const SETTLED: i64 = 2;

/// A rewrite that leads nowhere.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// The field that rewrites.
    field: String,
    service: ServiceName,
    /// The path that was asked for, and the one that was sent.
    asked: String,
    sent: String,
    tally: Tally,
    /// Whether such requests succeeded before.
    before: bool,
}

impl Check for RewriteUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        if !rewrites(snapshot) {
            return out;
        }
        let mut twin: Option<Twin<'a>> = None;
        let sources =
            snapshot.traffic.iter().enumerate().filter(|(_, edge)| edge.reporter == Reporter::Source);
        for (at, edge) in sources {
            let Some(service) = &edge.service else { continue };
            let unknown = |o: &&Outcome| {
                o.code == 404 && !o.upstreams.is_empty() && o.details == "via_upstream" && o.count >= ENOUGH
            };
            for outcome in edge.outcomes.iter().filter(unknown) {
                let Some(path) = most(&outcome.paths).filter(|path| path.starts_with('/')) else { continue };
                let Some(before) = only(edge, outcome, path) else { continue };
                if rolled_out(snapshot, service, outcome.first) {
                    continue;
                }
                let Some((origin, request)) = asked(snapshot, edge, outcome) else { continue };
                let twin = twin.get_or_insert_with(|| Twin::new(snapshot));
                let answer = twin.answer(&Ask { name: describe(&origin, &request), from: origin, request });
                let sent = answer.sent.path.clone().filter(|sent| sent != path);
                let (Ending::Forwarded, Some(sent)) = (answer.outcome, sent) else { continue };
                let decided = answer.steps.iter().rev().find_map(|step| {
                    let object = snapshot.find(step.object.as_ref()?)?;
                    Some((object, rewrite(object, &step.field_path)?))
                });
                let Some((object, field)) = decided else { continue };
                let value =
                    format!("{} requests for {}: {}", outcome.count, text::plain(path, 60), outcome.label());
                let place = format!("{} proxy, {}", edge.workload, edge.cluster.raw);
                let same = |f: &Fact<'_>| f.object.reference == object.reference && f.field == field;
                let known = out.iter().position(same).unwrap_or_else(|| {
                    let (service, asked, tally) = (service.clone(), path.to_owned(), Tally::default());
                    out.push(Fact { object, field, service, asked, sent, tally, before });
                    out.len() - 1
                });
                if let Some(fact) = out.get_mut(known) {
                    fact.before |= before;
                    fact.tally.add((at, edge), outcome, Evidence::new("AccessLog", place, value));
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.object.reference;
        let subject = object.field(&fact.field);
        let (asked, sent) = (text::plain(&fact.asked, 60), text::plain(&fact.sent, 60));
        let service = &fact.service;
        let value = fact.object.body.pointer(&pointer(&fact.field)).cloned().unwrap_or(Value::Null);
        let earlier = if fact.before { " Before that such requests succeeded." } else { "" };
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{object} rewrites {asked} to {sent}, and {} answers 404", service.name))
            .message(format!(
                "Requests for {asked} reach Service {service} as {sent}, which its application does not know: {} got 404 from it{}, and none another answer.{earlier}",
                fact.tally.share(),
                since(fact.tally.onset)
            ))
            .mechanism("rewrite: the route sends a path that the application does not serve")
            .severity(Severity::Error)
            .role(Role::Cause, if fact.before { Confidence::Observed } else { Confidence::Configured })
            .service(Some(service.clone()))
            .onset(fact.tally.onset)
            .evidence(Evidence::object(&subject, text::plain(&value.to_string().replace('"', ""), 160)))
            .evidences(fact.tally.evidence.clone())
            .effect(Effect::requests(service, &["404", "4xx"]))
            .maybe_remedy(Remedy::patch(
                fact.object,
                &json!([{"op": "remove", "path": pointer(&fact.field)}]),
                format!("Take the rewrite out: requests arrive as {asked}"),
            ))
            .prevention(Prevention::alert(
                "Alert when a service answers mostly with 404",
                format!("sum by (destination_service_name) (rate(istio_requests_total{{reporter=\"destination\",response_code=\"404\",destination_service_name=\"{0}\"}}[5m])) / sum by (destination_service_name) (rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[5m])) > 0.2", service.name),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: each path of a route, after its rewrite, is one that the application serves"))
    }
}

/// Whether any route rewrites paths.
fn rewrites(snapshot: &Snapshot) -> bool {
    let istio = snapshot.istio.virtual_services.iter().flat_map(|vs| &vs.routes);
    let mut api = snapshot.gateway_api.routes.iter().flat_map(|route| route.object.body.list("spec.rules"));
    istio.into_iter().any(|route| route.body.child("rewrite").is_some())
        || api.any(|rule| rule.list("filters").iter().any(|f| f.text("type") == Some("URLRewrite")))
}

/// The field of an object's route that rewrites the path.
fn rewrite(object: &Object, field_path: &str) -> Option<String> {
    let end = field_path.find(']')?;
    let route = field_path.get(..=end)?;
    let body = object.body.pointer(&pointer(route))?;
    match object.reference.kind.as_str() {
        "VirtualService" => body.child("rewrite").map(|_| format!("{route}.rewrite")),
        "HTTPRoute" => {
            let at = body.list("filters").iter().position(|f| f.text("type") == Some("URLRewrite"))?;
            Some(format!("{route}.filters[{at}]"))
        }
        _ => None,
    }
}

/// Whether all requests by this path have got this answer since it first came, and if so whether others succeeded before.
fn only(edge: &EdgeTraffic, outcome: &Outcome, path: &str) -> Option<bool> {
    let first = outcome.first?;
    let fine = edge.outcomes.iter().filter(|o| o.code > 0 && o.code < 400 && o.paths.contains_key(path));
    let mut before = false;
    for other in fine {
        if other.last.is_none_or(|last| last.as_second() > first.as_second() + SETTLED) {
            return None;
        }
        before = true;
    }
    Some(before)
}

/// Whether what stands behind a Service was rolled out just before.
fn rolled_out(snapshot: &Snapshot, service: &ServiceName, at: Option<Timestamp>) -> bool {
    let (Some(at), Some(service)) = (at, snapshot.service(service)) else { return false };
    let near = |time: Timestamp| (0..=ROLLED_OUT).contains(&(at.as_second() - time.as_second()));
    snapshot.workloads_behind(service).any(|workload| {
        let mut own = snapshot.changes.iter().filter(|c| c.subject.same_object(workload.reference()));
        own.any(|change| change.kind == ChangeKind::Rollout && near(change.time))
    })
}
