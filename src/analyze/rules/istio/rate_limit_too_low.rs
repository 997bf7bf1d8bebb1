//! ISTIO131.

use crate::model::json::{Value, json};

use super::support::{field_path, find_below, parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, blame, failures, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// A rate limit rejects requests that the load really brings.
    ///
    /// ## What it detects
    /// Requests answered with `429 RL`, together with the EnvoyFilter whose token bucket covers the proxy that says so; the
    /// bucket's rate is set against the requests that the proxy gets.
    /// ## Why it matters
    /// A local limit counts for each proxy and not for the Service: more pods raise it, fewer lower it.
    /// ## Evidence
    /// `local_rate_limited` or `request_rate_limited` in access logs; `token_bucket` of the EnvoyFilter; requests per second.
    /// ## How to confirm
    /// `http_local_rate_limiter_http_local_rate_limit_rate_limited` of the proxy, and the filter's `token_bucket`.
    /// ## How to fix
    /// Raise `max_tokens` and `tokens_per_fill` above the load, or remove the limit.
    /// ## False positives
    /// A limit that protects against a client which really asks too much.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/policy-enforcement/rate-limit/>
    RateLimitTooLow {
        code: "ISTIO131", name: "rate-limit-too-low", family: Mesh, severity: Error,
        needs: [Istio, Requests], aliases: [],
    }
}

/// A bucket this many times the load leaves room for bursts.
const ROOM: f64 = 2.0;

/// A token bucket.
#[derive(Debug)]
struct Bucket<'a> {
    /// The JSON pointer of it.
    at: String,
    body: &'a Value,
    most: i64,
    fill: i64,
    interval: f64,
}

impl Bucket<'_> {
    /// Requests per second that it lets through in the long run.
    fn rate(&self) -> f64 {
        self.fill as f64 / self.interval
    }
}

/// A limit that requests ran into.
#[derive(Debug)]
pub struct Fact<'a> {
    group: Failures,
    filter: &'a Policy,
    /// `None` for a limit that a service outside of the proxy keeps.
    bucket: Option<Bucket<'a>>,
    /// Requests per second of one proxy, and how many proxies there are.
    load: Option<(f64, usize)>,
}

impl Check for RateLimitTooLow {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        failures(snapshot, Way::RateLimited)
            .into_iter()
            .filter_map(|group| limited(snapshot, group))
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.filter.object;
        let name = fact.group.name();
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let (subject, limit, arithmetic) = match &fact.bucket {
            Some(bucket) => {
                let limit = format!(
                    "{} tokens, {} every {} s: {:.1} requests a second for each proxy",
                    bucket.most,
                    bucket.fill,
                    bucket.interval,
                    bucket.rate()
                );
                let arithmetic = match fact.load {
                    Some((rate, proxies)) => format!(
                        "{proxies} proxies let {:.1} requests a second through together; each gets {rate:.1}.",
                        bucket.rate() * proxies as f64
                    ),
                    None => String::new(),
                };
                (object.reference.field(field_path(&bucket.at)), limit, arithmetic)
            }
            None => (
                object.reference.field("spec.configPatches"),
                "a limit that a rate limit service keeps for all proxies together".to_owned(),
                "The numbers stand in the configuration of that service.".to_owned(),
            ),
        };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&name])
            .title(format!("{} limits the rate of {name}: {figures} get 429", object.reference))
            .message(format!(
                "Proxies answered {figures} to {name} with 429{}: {} sets {limit}. {arithmetic}",
                since(fact.group.onset),
                object.reference
            ))
            .mechanism("rate limit exceeded: token bucket below the load (429 RL)")
            .severity(fact.group.severity().unwrap_or(Severity::Warning))
            .role(Role::Cause, Confidence::Observed)
            .service(fact.group.callee.service.clone())
            .onset(fact.group.onset)
            .evidence(Evidence::object(&subject, limit))
            .evidences(parts(&fact.group))
            .effects(fact.group.callee.service.iter().map(|s| Effect::requests(s, &["RL", "429", "4xx"])))
            .maybe_remedy(raise(fact))
            .remedy(Remedy::delete(object, format!("Delete {}: requests are no longer limited", object.reference)).risk(Risk::Medium))
            .prevention(Prevention::alert(
                "Alert when more than 1 % of the requests get 429",
                "sum by (destination_service_name) (rate(istio_requests_total{response_code=\"429\"}[5m])) / sum by (destination_service_name) (rate(istio_requests_total[5m])) > 0.01",
            ));
        if fact.group.callee.service.is_none() {
            finding =
                finding.effects(fact.group.parts.iter().take(1).map(|part| Effect::calls(&part.workload)));
        }
        finding
    }
}

fn limited<'a>(snapshot: &'a Snapshot, group: Failures) -> Option<Fact<'a>> {
    let part = group.parts.first()?;
    let local = !part.details.contains("request_rate_limited");
    let workload = snapshot.workload(&part.workload)?;
    let covers = |filter: &&Policy| {
        filter.applies_to(&part.workload.namespace, &workload.template.labels, &snapshot.istio.root_namespace)
            && local != buckets(filter).is_empty()
            && (local || mentions(filter, "envoy.filters.http.ratelimit"))
    };
    let covering: Vec<&Policy> = snapshot.istio.envoy_filters.iter().filter(covers).collect();
    let objects: Vec<_> = covering.iter().map(|filter| &filter.object.reference).collect();
    let filter = *covering.get(blame::changed_last(snapshot, &objects, group.onset).unwrap_or(0))?;
    // Of several buckets the one that lets the least through is hit first.
    let bucket = buckets(filter).into_iter().min_by(|a, b| a.rate().total_cmp(&b.rate()));
    Some(Fact { load: load(snapshot, &group), bucket, filter, group })
}

fn buckets(filter: &Policy) -> Vec<Bucket<'_>> {
    let body = &filter.object.body;
    let Some(patches) = body.at("spec.configPatches") else { return vec![] };
    let names = ["token_bucket", "tokenBucket"];
    let found = names.iter().flat_map(|name| find_below(patches, "/spec/configPatches", name));
    found
        .filter_map(|(at, body)| {
            let either = |a: &str, b: &str| body.int(a).or_else(|| body.int(b));
            Some(Bucket {
                at,
                most: either("max_tokens", "maxTokens")?,
                fill: either("tokens_per_fill", "tokensPerFill").unwrap_or(1),
                interval: body.seconds("fill_interval").or_else(|| body.seconds("fillInterval"))?,
                body,
            })
        })
        .filter(|bucket| bucket.interval > 0.0)
        .collect()
}

fn mentions(filter: &Policy, name: &str) -> bool {
    let patches = filter.object.body.list("spec.configPatches");
    patches.iter().any(|patch| patch.text("patch.value.name") == Some(name))
}

/// Requests per second of each proxy that speaks, over all that it saw.
fn load(snapshot: &Snapshot, group: &Failures) -> Option<(f64, usize)> {
    let edges = snapshot.traffic.iter().filter(|edge| {
        edge.reporter == group.callee.reporter
            && edge.service == group.callee.service
            && (edge.reporter == Reporter::Destination
                || group.parts.iter().any(|p| p.workload == edge.workload))
    });
    let (mut all, mut pods) = (0u64, std::collections::BTreeSet::new());
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for edge in edges {
        all += edge.requests;
        pods.extend(edge.outcomes.iter().flat_map(|o| &o.pods));
        first = first.min(edge.seconds.keys().next().copied().unwrap_or(i64::MAX));
        last = last.max(edge.seconds.keys().next_back().copied().unwrap_or(i64::MIN));
    }
    (last > first && !pods.is_empty())
        .then(|| (all as f64 / (last - first) as f64 / pods.len() as f64, pods.len()))
}

/// A bucket above the load, in the units that it is written in.
fn raise(fact: &Fact<'_>) -> Option<Remedy> {
    let bucket = fact.bucket.as_ref()?;
    let load = fact.load.map_or(bucket.rate(), |(rate, _)| rate);
    let fill = ((load * ROOM * bucket.interval).ceil() as i64).max(bucket.fill.saturating_mul(2));
    let mut body = bucket.body.clone();
    let fields = body.as_object_mut()?;
    let camel = fields.contains_key("maxTokens");
    fields.insert(if camel { "maxTokens" } else { "max_tokens" }.to_owned(), json!(fill.max(bucket.most)));
    fields.insert(if camel { "tokensPerFill" } else { "tokens_per_fill" }.to_owned(), json!(fill));
    Remedy::patch(
        &fact.filter.object,
        &json!([{"op": "replace", "path": bucket.at, "value": body}]),
        format!(
            "Raise max_tokens and tokens_per_fill of the token_bucket to {fill} every {} s",
            bucket.interval
        ),
    )
}
