//! ISTIO124.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, blame, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, host_matches};
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// A route's time-out ends requests that the callee would have answered.
    ///
    /// ## What it detects
    /// Requests that end with `UT` after just the time that a route allows (`timeout` or `perTryTimeout` of a VirtualService,
    /// `timeouts` of an HTTPRoute), set against how long the callee takes.
    /// ## Why it matters
    /// Callers get 504 while the callee works on and finishes for nobody; retries make it do so several times.
    /// ## Evidence
    /// Durations of the requests that timed out gather at the configured value. Requests that once took longer and succeeded
    /// show that the time-out is what is new; where none did, the callee's own slowness is.
    /// ## How to confirm
    /// The field against the callee's 99th percentile before the trouble.
    /// ## How to fix
    /// Raise the time-out above what the callee takes, or make the callee fast again.
    /// ## False positives
    /// A time-out that is meant to shed slow requests.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRoute>
    TimeoutTooShort {
        code: "ISTIO124", name: "timeout-too-short", family: Mesh, severity: Error,
        needs: [Istio, Requests], aliases: [],
    }
}

/// A time-out is what ended a request where the duration is this close to it: below by a rounding, above by the proxy's own
/// work under load.
const BELOW: f64 = 0.9;
/// See [`BELOW`].
const ABOVE: f64 = 1.4;
/// Above by at most this many milliseconds more, for very short time-outs.
const SLACK_MS: f64 = 60.0;

/// How often Istio tries again where a route says nothing.
const DEFAULT_ATTEMPTS: i64 = 2;

/// A configured time-out that requests ran into.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// Where it stands.
    path: String,
    /// It, in seconds.
    seconds: f64,
    group: Failures,
    service: ServiceName,
    /// How long successful requests took that took longer than it allows, in milliseconds: the longest.
    longer: Option<u64>,
    /// The 95th percentile of the requests that succeeded, in milliseconds.
    usual: Option<u64>,
    /// Whether the object was changed just before.
    changed: bool,
    /// Whether requests to the callee's dependencies are delayed or fail as well.
    deeper: Option<String>,
}

impl Fact<'_> {
    /// Whether the time-out is what is wrong, and not what it waits for.
    fn is_new(&self) -> bool {
        (self.longer.is_some() || self.changed) && self.deeper.is_none()
    }
}

impl Check for TimeoutTooShort {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let groups = all(snapshot, |way| way != Way::Application);
        let mut out = vec![];
        for group in groups.iter().filter(|group| group.way == Way::Timeout && group.severity().is_some()) {
            let Some(service) =
                group.callee.service.clone().filter(|_| group.callee.reporter == Reporter::Source)
            else {
                continue;
            };
            let Some(part) = group.parts.first() else { continue };
            let host = full_host(&service.name, &service.namespace);
            let candidates = configured(snapshot, &host, &part.workload.namespace);
            let fits = |limit: &Limit<'_>| match part.durations {
                Some((_, middle, _)) => {
                    let (middle, most) = (middle as f64, limit.most * 1000.0);
                    middle >= limit.seconds * 1000.0 * BELOW && middle <= (most * ABOVE).max(most + SLACK_MS)
                }
                // Counters know no durations: the shortest one is the first to be hit.
                None => true,
            };
            let found = candidates.into_iter().filter(fits).min_by(|a, b| a.seconds.total_cmp(&b.seconds));
            let Some(Limit { object, path, seconds, .. }) = found else { continue };
            let ok: Vec<u64> = snapshot
                .traffic_to(&service, Reporter::Source)
                .flat_map(|edge| &edge.outcomes)
                .filter(|outcome| !outcome.failed && !outcome.has_flag("DI"))
                .flat_map(|outcome| outcome.durations.iter().copied())
                .collect();
            let mut sorted = ok;
            sorted.sort_unstable();
            let limit = (seconds * 1000.0) as u64;
            let at95 = (sorted.len().saturating_sub(1) as f64 * 0.95).round() as usize;
            out.push(Fact {
                object,
                path,
                seconds,
                longer: sorted.last().copied().filter(|longest| *longest > limit + limit / 10),
                usual: sorted.get(at95).copied(),
                changed: blame::changed_last(snapshot, &[&object.reference], group.onset).is_some(),
                deeper: deeper(snapshot, &service, &groups),
                service,
                group: group.clone(),
            });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let subject = fact.object.reference.field(&fact.path);
        let limit = text::milliseconds((fact.seconds * 1000.0).round() as u64);
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let name = &fact.service.name;
        let why = match (&fact.deeper, fact.longer) {
            (Some(deeper), _) => format!(
                "What {name} itself waits for fails or is held back at the same time ({deeper}): the time-out is where that shows."
            ),
            (None, Some(longer)) => format!(
                "Requests that took up to {} succeeded before, so the time-out is what is too short.",
                text::milliseconds(longer)
            ),
            (None, None) if fact.changed => "The route was changed just before.".to_owned(),
            (None, None) => format!(
                "No request is known that took longer and succeeded: {name} has become slower than its callers allow."
            ),
        };
        let confidence = if fact.is_new() { Confidence::Observed } else { Confidence::Configured };
        let severity = fact.group.severity().unwrap_or(Severity::Warning);
        // Where the time-out only shows another trouble, raising it hides that.
        let severity = if fact.is_new() { severity } else { severity.min(Severity::Warning) };
        Finding::new(Self::META, subject.clone(), &[name])
            .title(format!("{} allows {limit}, which is too short for {name}: {figures} time out", fact.object.reference))
            .message(format!("The callers' proxies end requests to {name} after {limit} ({}). {why}{}", fact.path, arithmetic(fact)))
            .mechanism("timeout too short: request timeout")
            .severity(severity)
            .role(Role::Cause, confidence)
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidence(Evidence::object(&subject, format!("{} = {limit}", fact.path)))
            .evidences(fact.group.parts.iter().take(3).map(|part| {
                let took = part.durations.map(|(low, middle, high)| {
                    format!(", durations {} / {} / {} (5th, 50th, 95th percentile)", text::milliseconds(low), text::milliseconds(middle), text::milliseconds(high))
                });
                Evidence::new(
                    if part.counted { "Metric" } else { "AccessLog" },
                    format!("istio-proxy of {}, {}", part.workload, text::plain(&part.cluster, 120)),
                    format!("{}, {} requests{}", text::plain(&part.short, 24), text::number(part.count), took.unwrap_or_default()),
                )
                .at(part.first)
                .excerpt(&part.details)
            }))
            .effect(Effect::requests(&fact.service, &["UT", "timeout", "DC"]))
            .maybe_remedy(raise(fact))
            .maybe_remedy(remove(fact))
            .prevention(Prevention::alert(
                "Alert when the callee's 99th percentile comes near the time-out",
                format!(
                    "histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{{reporter=\"destination\",destination_service_name=\"{}\"}}[5m]))) > {}",
                    text::plain(name, 63),
                    (fact.seconds * 800.0).round()
                ),
            ))
    }
}

/// What attempts, their time-out and the whole time-out of the route come to, beside what the callee takes.
fn arithmetic(fact: &Fact<'_>) -> String {
    let ms = |seconds: f64| text::milliseconds((seconds * 1000.0).round() as u64);
    let route = fact.path.split_once("].").map(|(route, _)| format!("{route}]"));
    let body = route.and_then(|route| fact.object.body.pointer(&pointer(&route)));
    let per_try = body.and_then(|b| b.seconds("retries.perTryTimeout")).filter(|s| *s > 0.0);
    let whole = body.and_then(|b| b.seconds("timeout")).filter(|s| *s > 0.0);
    let attempts = body.and_then(|b| b.int("retries.attempts")).unwrap_or(DEFAULT_ATTEMPTS).max(0) + 1;
    let takes = fact.usual.map(|usual| {
        format!("; 95 % of the answers of {} come within {}", fact.service.name, text::milliseconds(usual))
    });
    let takes = takes.unwrap_or_default();
    match (per_try, whole) {
        (Some(per_try), Some(whole)) => {
            let needed = attempts as f64 * per_try;
            let fit = if needed > whole {
                format!("more than the {} of the whole request, so the last ones are cut", ms(whole))
            } else {
                format!("within the {} of the whole request", ms(whole))
            };
            format!(" {attempts} attempts of {} each come to {}, {fit}{takes}.", ms(per_try), ms(needed))
        }
        (Some(per_try), None) => format!(
            " {attempts} attempts of {} each come to {}{takes}.",
            ms(per_try),
            ms(attempts as f64 * per_try)
        ),
        (None, Some(whole)) if attempts > 1 => {
            format!(
                " The {} have to hold all of {attempts} attempts, {} each if all are needed{takes}.",
                ms(whole),
                ms(whole / attempts as f64)
            )
        }
        _ if takes.is_empty() => String::new(),
        _ => format!(" For comparison{}.", takes.replacen(';', ":", 1)),
    }
}

/// A time-out that counts for requests to a host.
struct Limit<'a> {
    object: &'a Object,
    path: String,
    seconds: f64,
    /// The longest that a request lasts that this time-out ends.
    most: f64,
}

impl<'a> Limit<'a> {
    fn whole(object: &'a Object, path: String, seconds: f64) -> Self {
        Limit { object, path, seconds, most: seconds }
    }
}

/// The longest pause before another try: ten times Envoy's 25 ms, its default for `retry_back_off.max_interval`.
const LONGEST_PAUSE: f64 = 0.25;

/// The time-outs that count for requests to a host.
fn configured<'a>(snapshot: &'a Snapshot, host: &str, client: &str) -> Vec<Limit<'a>> {
    let mut out = vec![];
    for vs in &snapshot.istio.virtual_services {
        let own = vs.object.namespace();
        let reaches = |route: &crate::model::mesh::istio::Route| {
            vs.covers(host) || route.destinations.iter().any(|d| host_matches(&full_host(&d.host, own), host))
        };
        for route in vs.routes.iter().filter(|route| reaches(route)) {
            if let Some(seconds) = route.timeout.filter(|seconds| *seconds > 0.0) {
                out.push(Limit::whole(&vs.object, format!("{}.timeout", route.path), seconds));
            }
            if let Some(seconds) =
                route.body.seconds("retries.perTryTimeout").filter(|seconds| *seconds > 0.0)
            {
                let tries =
                    route.body.int("retries.attempts").unwrap_or(DEFAULT_ATTEMPTS).max(0) as f64 + 1.0;
                let most = tries * seconds + (tries - 1.0) * LONGEST_PAUSE;
                let path = format!("{}.retries.perTryTimeout", route.path);
                out.push(Limit { most, ..Limit::whole(&vs.object, path, seconds) });
            }
        }
    }
    for object in snapshot.objects_of("HTTPRoute").chain(snapshot.objects_of("GRPCRoute")) {
        for (index, rule) in object.body.list("spec.rules").iter().enumerate() {
            let leads = rule.list("backendRefs").iter().any(|backend| {
                let namespace = backend.text("namespace").unwrap_or(object.namespace());
                full_host(backend.text("name").unwrap_or_default(), namespace) == host
            });
            for field in ["timeouts.request", "timeouts.backendRequest"] {
                if let Some(seconds) = rule.seconds(field).filter(|seconds| leads && *seconds > 0.0) {
                    out.push(Limit::whole(object, format!("spec.rules[{index}].{field}"), seconds));
                }
            }
        }
    }
    // A caller's own namespace decides first; of equals the one that is written there is shown.
    out.sort_by_key(|limit| limit.object.namespace() != client);
    out
}

/// What the callee itself waits for and does not get.
fn deeper(snapshot: &Snapshot, service: &ServiceName, groups: &[Failures]) -> Option<String> {
    let below = snapshot.graph.downstream(service);
    let found = groups.iter().find(|group| {
        group.callee.service.as_ref().is_some_and(|s| s != service && below.contains(s))
            && !matches!(group.way, Way::ClientGaveUp)
            && group.severity().is_some_and(|severity| severity >= Severity::Error)
    })?;
    let short = found.parts.first().map(|part| text::plain(&part.short, 24)).unwrap_or_default();
    Some(format!("{}: {short}", found.name()))
}

/// Twice what the callee is known to take, and at least twice what is allowed now.
fn raise(fact: &Fact<'_>) -> Option<Remedy> {
    let known = fact.longer.or(fact.usual).unwrap_or(0) as f64 / 1000.0;
    let seconds = (known.max(fact.seconds) * 2.0).max(1.0).ceil();
    let remedy = Remedy::patch(
        fact.object,
        &json!([{"op": "replace", "path": pointer(&fact.path), "value": format!("{seconds}s")}]),
        format!("Raise timeout ({}) to {seconds} s", fact.path),
    )?;
    Some(if fact.is_new() { remedy } else { remedy.risk(Risk::Medium) })
}

fn remove(fact: &Fact<'_>) -> Option<Remedy> {
    let remedy = Remedy::patch(
        fact.object,
        &json!([{"op": "remove", "path": pointer(&fact.path)}]),
        format!("Remove the timeout ({}): requests then wait as long as their callers do", fact.path),
    )?;
    Some(remedy.risk(Risk::Medium))
}
