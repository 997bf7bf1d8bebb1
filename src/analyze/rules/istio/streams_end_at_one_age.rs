//! ISTIO146.

use crate::model::json::{Value, json};
use jiff::Timestamp;
use std::collections::BTreeMap;

use super::support::{field_path, find_below, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, host_matches};
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::time::duration_seconds;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};

crate::rule! {
    /// Streams are cut at one and the same age.
    ///
    /// ## What it detects
    /// WebSockets, gRPC streams, server-sent events and connections that had begun well and end after nearly the same time,
    /// with a flag that says that somebody ended them; and which setting has that value: an idle time or a greatest age in a
    /// DestinationRule, a route's time-out, an EnvoyFilter, an annotation of a load balancer or an ingress.
    /// ## Why it matters
    /// Clients lose their stream at the same age every time, reconnect all at once, and lose what was under way.
    /// ## Evidence
    /// Durations in access logs that gather at one value, the flag, and the setting with that value.
    /// ## How to confirm
    /// Open one stream and wait: `curl -N` or `grpcurl` ends after that time, whatever is sent.
    /// ## How to fix
    /// Raise or remove the setting, or let the application send a heartbeat more often than the idle time.
    /// ## False positives
    /// A server that ends streams itself at a fixed age without an error carries no flag and is not reported.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts>
    StreamsEndAtOneAge {
        code: "ISTIO146", name: "streams-end-at-one-age", family: Mesh, severity: Warning,
        needs: [AccessLogs], aliases: [],
    }
}

/// A stream is what lasted at least this long, in milliseconds.
const LONG_MS: u64 = 10_000;
/// Fewer that end alike are chance.
const FEW: usize = 5;
/// As much of all long ones ends alike.
const ALIKE: f64 = 0.6;
/// Ages are alike where they differ by no more than this share, or this many milliseconds.
const NEAR: f64 = 0.02;
const NEAR_MS: u64 = 1000;
/// An age meets a setting from a little below it to this much above.
const BELOW: f64 = 0.97;
const ABOVE: f64 = 1.05;

/// Annotations of Services and Ingresses that set an idle time of what stands before the cluster, with the unit in seconds.
const ANNOTATIONS: &[(&str, f64)] = &[
    ("service.beta.kubernetes.io/aws-load-balancer-connection-idle-timeout", 1.0),
    ("service.beta.kubernetes.io/azure-load-balancer-tcp-idle-timeout", 60.0),
    ("service.beta.kubernetes.io/do-loadbalancer-http-idle-timeout-seconds", 1.0),
    ("nginx.ingress.kubernetes.io/proxy-read-timeout", 1.0),
    ("nginx.ingress.kubernetes.io/proxy-send-timeout", 1.0),
];
/// Names of Envoy's limits on the age and the silence of streams and connections.
const LIMITS: &[&str] = &[
    "max_stream_duration",
    "maxStreamDuration",
    "stream_idle_timeout",
    "streamIdleTimeout",
    "max_connection_duration",
    "maxConnectionDuration",
    "max_downstream_connection_duration",
    "maxDownstreamConnectionDuration",
    "idle_timeout",
    "idleTimeout",
    "request_timeout",
    "requestTimeout",
];

/// A setting with a time.
#[derive(Debug, Clone)]
struct Limit<'a> {
    object: &'a Object,
    /// The JSON pointer of its value.
    pointer: String,
    /// It, in seconds.
    seconds: f64,
}

/// Streams that end alike.
#[derive(Debug)]
pub struct Fact<'a> {
    service: Option<ServiceName>,
    name: String,
    workload: ObjectRef,
    flags: String,
    /// How many end alike, of how many long ones.
    count: usize,
    all: usize,
    /// The age, in milliseconds.
    age: u64,
    onset: Option<Timestamp>,
    limit: Option<Limit<'a>>,
}

impl Check for StreamsEndAtOneAge {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut best: BTreeMap<String, Fact<'a>> = BTreeMap::new();
        for edge in &snapshot.traffic {
            if !snapshot.in_scope(&edge.workload.namespace) {
                continue;
            }
            let Some(mut fact) = alike(edge) else { continue };
            fact.limit = limit(snapshot, &fact);
            // Without a setting that says so, what carries a flag of its own is told by ENVOY128.
            let own = ["SI", "UMSDR", "DT"].iter().any(|flag| fact.flags.split(',').any(|f| f == *flag));
            if fact.limit.is_none() && (own || fact.flags.is_empty()) {
                continue;
            }
            let known = best.get(&fact.name);
            if known
                .is_none_or(|known| (known.limit.is_some(), known.count) < (fact.limit.is_some(), fact.count))
            {
                best.insert(fact.name.clone(), fact);
            }
        }
        best.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let age = text::milliseconds(fact.age);
        let name = &fact.name;
        let flags = if fact.flags.is_empty() {
            String::new()
        } else {
            format!(" ({})", text::plain(&fact.flags, 24))
        };
        let shares = text::share(fact.count as u64, fact.all as u64, "long streams");
        let place = fact.limit.as_ref().map(|limit| limit.object.reference.field(field_path(&limit.pointer)));
        let subject = match (&place, &fact.service) {
            (Some(place), _) => place.clone(),
            (None, Some(service)) => service.reference(),
            (None, None) => fact.workload.clone(),
        };
        let why = match &place {
            Some(place) => {
                format!("{} sets {} s.", place_words(place), fact.limit.as_ref().map_or(0.0, |l| l.seconds))
            }
            None => format!(
                "No setting here has that value, so what stands between has it: a load balancer's idle time (60 s, 240 s and 350 s are usual), or the {} itself.",
                if fact.flags.contains("DC") { "client" } else { "server" }
            ),
        };
        Finding::new(Self::META, subject.clone(), &[name])
            .title(match &place {
                Some(place) => format!("{} cuts streams of {name} after {age}: {shares}", place_words(place)),
                None => format!("Streams of {name} are cut after {age}: {shares}"),
            })
            .message(format!("{shares} of {name} end after {age}{flags}{}, having begun well. {why}", since(fact.onset)))
            .mechanism("stream timeout: streams cut at a constant age (idle timeout, max stream duration, load balancer)")
            .severity(Severity::Warning)
            .role(
                if place.is_some() { Role::Cause } else { Role::Symptom },
                if place.is_some() { Confidence::Observed } else { Confidence::Possible },
            )
            .service(fact.service.clone())
            .onset(fact.onset)
            .evidence(
                Evidence::new("AccessLog", format!("proxy of {}", fact.workload), format!("{shares} end after {age}{flags}"))
                    .at(fact.onset),
            )
            .evidences(place.iter().map(|place| Evidence::object(place, format!("{} s", fact.limit.as_ref().map_or(0.0, |l| l.seconds)))))
            .effects(fact.service.iter().map(|service| Effect::requests(service, &["SI", "UMSDR", "DT", "UC", "UR", "DC", "UT", "reset"])))
            .maybe_remedy(fact.limit.as_ref().and_then(loosen))
            .remedy(Remedy::manual(format!("Let the application send something at least every {} s on each stream", (fact.age / 2000).max(1))))
            .prevention(Prevention::alert(
                "Alert when proxies cut streams",
                "sum by (destination_service) (rate(istio_requests_total{response_flags=~\".*(SI|UMSDR|DT|UR).*\"}[10m])) > 0",
            ))
            .prevention(Prevention::of("Setting", "A heartbeat on every stream that is shorter than the shortest idle time on the way"))
    }
}

/// An object and field in a sentence.
fn place_words(place: &ObjectRef) -> String {
    let field = place.field_path.rsplit('.').next().unwrap_or_default();
    format!("{} {}", ObjectRef { field_path: String::new(), ..place.clone() }, text::plain(field, 60))
}

/// Whether an outcome is a stream that had begun, and that somebody ended.
fn stream(outcome: &Outcome) -> bool {
    let flag = |flags: &[&str]| flags.iter().any(|flag| outcome.has_flag(flag));
    let begun = outcome.code == 101 || (200..300).contains(&outcome.code);
    flag(&["SI", "UMSDR", "DT"]) || outcome.connection || (begun && flag(&["UC", "UR", "DC", "UT", "LR"]))
}

/// Long streams of an edge that end alike, whatever the reason.
fn alike<'a>(edge: &EdgeTraffic) -> Option<Fact<'a>> {
    let mut all: Vec<(u64, &Outcome)> = vec![];
    for outcome in edge.outcomes.iter().filter(|o| stream(o)) {
        all.extend(outcome.durations.iter().filter(|ms| **ms >= LONG_MS).map(|ms| (*ms, outcome)));
    }
    all.sort_by_key(|(ms, _)| *ms);
    let (age, outcome) = *all.get(all.len() / 2)?;
    let near = ((age as f64 * NEAR) as u64).max(NEAR_MS);
    let count = all.iter().filter(|(ms, _)| ms.abs_diff(age) <= near).count();
    if count < FEW || (count as f64) < all.len() as f64 * ALIKE {
        return None;
    }
    let name = edge.service.as_ref().map_or_else(|| edge.workload.name.clone(), |s| s.name.clone());
    let workload = match (edge.reporter, &edge.service) {
        (Reporter::Source, _) | (_, Some(_)) => edge.workload.clone(),
        (_, None) => edge.peer.clone().unwrap_or_else(|| edge.workload.clone()),
    };
    Some(Fact {
        service: edge.service.clone(),
        name,
        workload,
        flags: outcome.flags.clone(),
        count,
        all: all.len(),
        age,
        onset: outcome.first,
        limit: None,
    })
}

/// The setting with that value, of those that count for these streams.
fn limit<'a>(snapshot: &'a Snapshot, fact: &Fact<'_>) -> Option<Limit<'a>> {
    let meets = |limit: &Limit<'_>| {
        let (age, set) = (fact.age as f64, limit.seconds * 1000.0);
        set > 0.0 && age >= set * BELOW && age <= (set * ABOVE).max(set + NEAR_MS as f64)
    };
    let named = |object: &'a Object, path: String, value: &Value| {
        let seconds = value.as_str().and_then(duration_seconds)?;
        Some(Limit { object, pointer: pointer(&path), seconds })
    };
    let mut found: Vec<Limit<'a>> = vec![];
    let host = fact.service.as_ref().map(|s| full_host(&s.name, &s.namespace));
    if let Some(host) = &host {
        for rule in snapshot.istio.destination_rules_for(host, &fact.workload.namespace) {
            for field in ["http.idleTimeout", "tcp.idleTimeout", "tcp.maxConnectionDuration"] {
                let path = format!("connectionPool.{field}");
                found.extend(
                    rule.policy(None, &path).and_then(|(path, value)| named(&rule.object, path, value)),
                );
            }
        }
        for vs in snapshot.istio.virtual_services.iter() {
            let own = vs.object.namespace();
            for route in vs.routes.iter().filter(|route| {
                vs.covers(host)
                    || route.destinations.iter().any(|d| host_matches(&full_host(&d.host, own), host))
            }) {
                found.extend(route.timeout.map(|seconds| Limit {
                    object: &vs.object,
                    pointer: pointer(&format!("{}.timeout", route.path)),
                    seconds,
                }));
            }
        }
    }
    for filter in &snapshot.istio.envoy_filters {
        let spec = filter.object.body.at("spec").unwrap_or(&Value::Null);
        for name in LIMITS {
            for (at, value) in find_below(spec, "/spec", name) {
                let seconds = value.as_str().and_then(duration_seconds);
                found.extend(seconds.map(|seconds| Limit { object: &filter.object, pointer: at, seconds }));
            }
        }
    }
    for object in snapshot.objects_of("Service").chain(snapshot.objects_of("Ingress")) {
        for (key, unit) in ANNOTATIONS {
            let value = object.annotations.get(key).and_then(|value| value.parse::<f64>().ok());
            let pointer = format!("/metadata/annotations/{}", pointer_segment(key));
            found.extend(value.map(|value| Limit { object, pointer, seconds: value * unit }));
        }
    }
    found.into_iter().find(meets)
}

/// Takes the limit away, or makes it an hour where nothing else can be said.
fn loosen(limit: &Limit<'_>) -> Option<Remedy> {
    let place = limit.object.reference.field(field_path(&limit.pointer));
    let (operation, summary) = match limit.object.reference.kind.as_str() {
        "DestinationRule" => (
            json!([{"op": "remove", "path": limit.pointer}]),
            format!("Remove {} : the mesh's own limit is an hour of silence", place_words(&place)),
        ),
        "Service" | "Ingress" => {
            let minutes = limit.pointer.contains("azure");
            let value = if minutes { "30" } else { "3600" };
            (
                json!([{"op": "replace", "path": limit.pointer, "value": value}]),
                format!("Set {} to {value}", place_words(&place)),
            )
        }
        _ => (
            json!([{"op": "replace", "path": limit.pointer, "value": "0s"}]),
            format!("Set {} to 0s: no limit", place_words(&place)),
        ),
    };
    Remedy::patch(limit.object, &operation, summary)
}
