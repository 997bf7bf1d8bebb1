//! ISTIO127.

use crate::model::json::{Value, json};
use jiff::Timestamp;

use super::spells::{self, Spells};
use super::support::{parts, since, take_out_policy, traffic_policy};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, full_host};
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{ClusterName, Reporter};
use crate::model::workload::Pod;

crate::rule! {
    /// Outlier detection takes every endpoint of a Service out at once.
    ///
    /// ## What it detects
    /// Callers' proxies answer `503 UH` while pods are ready and have been for some seconds, and an `outlierDetection` counts
    /// for these calls that is allowed to eject all of them. The errors that trip it are counted as well. Access logs alone
    /// decide it: `UH` comes in spells, each begins with an error of an endpoint and ends with answers again.
    /// ## Why it matters
    /// A few errors become an outage: for `baseEjectionTime`, longer with each ejection, no request reaches a pod.
    /// ## Evidence
    /// `UH` beside ready endpoints; the spells in which it comes, and the errors before each; the limits of the
    /// DestinationRule; `failed_outlier_check` in the proxy's `/clusters` where its admin port was read.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster NAME` shows `OUTLIER CHECK FAILED`.
    /// ## How to fix
    /// Let at most half of the endpoints be ejected, or use all of them once fewer than half are left (`minHealthPercent`);
    /// then look at the errors that tripped it.
    /// ## False positives
    /// `UH` before pods were ready, or within seconds after: then readiness was the cause, and such requests do not count.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#OutlierDetection>
    OutlierEjectionEmptiesService {
        code: "ISTIO127", name: "outlier-ejection-empties-service", family: Mesh, severity: Error,
        needs: [Istio, Requests], aliases: [],
    }
}

/// Fewer requests than this that found no endpoint say nothing.
const FEW: u64 = 5;

/// What Envoy does where the field says nothing, as Istio sets it up.
const CONSECUTIVE: i64 = 5;
const INTERVAL_S: f64 = 10.0;
const BASE_EJECTION_S: f64 = 30.0;
const MAX_EJECTION_PERCENT: i64 = 10;
/// From this share of errors among the answers on, it is the callee that is broken, and ejection only follows.
const BROKEN: f64 = 0.5;
/// Below that, ejection is what users feel where it makes at least so many times as many requests fail.
const AMPLIFIED: f64 = 1.5;

/// The limits that count.
#[derive(Debug)]
struct Limits {
    /// Errors in a row that eject; of the limits that are set the smallest.
    consecutive: i64,
    interval: f64,
    base: f64,
    percent: i64,
    min_health: i64,
}

impl Limits {
    fn read(policy: &Value) -> Self {
        let fields = ["consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveErrors"];
        let set = fields.iter().filter_map(|field| policy.int(field)).filter(|n| *n > 0).min();
        Limits {
            consecutive: set.unwrap_or(CONSECUTIVE),
            interval: policy.seconds("interval").unwrap_or(INTERVAL_S),
            base: policy.seconds("baseEjectionTime").unwrap_or(BASE_EJECTION_S),
            percent: policy.int("maxEjectionPercent").unwrap_or(MAX_EJECTION_PERCENT).clamp(0, 100),
            min_health: policy.int("minHealthPercent").unwrap_or(0).clamp(0, 100),
        }
    }

    /// How many of so many endpoints can be out at once: a share of them, and always one.
    fn ejectable(&self, endpoints: usize) -> usize {
        (endpoints * self.percent as usize / 100).max(1).min(endpoints)
    }

    /// Whether all can be out and none is used instead.
    fn can_empty(&self, endpoints: usize) -> bool {
        endpoints > 0 && self.ejectable(endpoints) >= endpoints && self.min_health == 0
    }
}

/// A Service whose endpoints are all ejected.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    path: String,
    policy: &'a Value,
    limits: Limits,
    service: ServiceName,
    group: Failures,
    endpoints: usize,
    /// Endpoints that a proxy's admin port shows as ejected.
    ejected: usize,
    /// Errors that came from the callee, and all its answers.
    errors: (u64, u64),
    /// What access logs show of it; counters know no spells.
    spells: Option<Spells>,
}

impl Fact<'_> {
    /// The share of errors among the callee's answers.
    fn share(&self) -> f64 {
        if self.errors.1 == 0 { 0.0 } else { self.errors.0 as f64 / self.errors.1 as f64 }
    }

    /// Whether the callee itself fails so much that ejection changes little for its callers.
    fn broken(&self) -> bool {
        let (errors, answers) = self.errors;
        let refused = self.spells.as_ref().map_or(self.group.count, |spells| spells.count);
        let felt = (errors + refused) as f64 / (answers + refused).max(1) as f64;
        self.share() >= BROKEN || felt < self.share() * AMPLIFIED
    }
}

impl Check for OutlierEjectionEmptiesService {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for group in failures(snapshot, Way::NoHealthyUpstream) {
            let Some(service) =
                group.callee.service.clone().filter(|_| group.callee.reporter == Reporter::Source)
            else {
                continue;
            };
            let (Some(part), Some(known)) = (group.parts.first(), snapshot.service(&service)) else {
                continue;
            };
            let cluster = ClusterName::read(&part.cluster);
            let host = full_host(&service.name, &service.namespace);
            let rules = snapshot.istio.destination_rules_for(&host, &part.workload.namespace);
            let find = |rule| Some((rule, traffic_policy(rule, &cluster, "outlierDetection")?));
            let Some((rule, (path, policy))) = rules.into_iter().find_map(find) else { continue };
            let limits = Limits::read(policy);
            let ready = ready(snapshot, known, rule, &cluster);
            // Where the requests themselves are known, those before pods were ready are readiness' own.
            let spells = (!part.counted).then(|| spells::spells(snapshot, &part.cluster, &ready));
            let (endpoints, onset) = match &spells {
                Some(spells) if spells.count < FEW => continue,
                Some(spells) => (spells.endpoints, spells.first),
                None => (ready_at(&ready, group.onset), group.onset),
            };
            let ejected = ejected(snapshot, &part.cluster);
            if endpoints == 0 || (ejected == 0 && !limits.can_empty(endpoints)) {
                continue;
            }
            let errors = answered(snapshot, &service);
            if ejected == 0 && errors.0 == 0 {
                continue;
            }
            let group = Failures { onset, ..group };
            out.push(Fact { rule, path, policy, limits, endpoints, ejected, errors, spells, service, group });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let subject = fact.rule.reference().field(&fact.path);
        let name = &fact.service.name;
        let limits = &fact.limits;
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let (errors, answers) = fact.errors;
        let broken = fact.broken();
        let settings = format!(
            "consecutive errors {}, interval {} s, baseEjectionTime {} s, maxEjectionPercent {} %",
            limits.consecutive, limits.interval, limits.base, limits.percent
        );
        let arithmetic = format!(
            "maxEjectionPercent {} of {} ready, and at least one, is {}: all can be out at once, each for {} s times the number of its ejections.",
            limits.percent,
            fact.endpoints,
            limits.ejectable(fact.endpoints),
            limits.base
        );
        let tripped = match (errors, row(fact.share(), limits.consecutive)) {
            (0, _) => "The errors that tripped it were not seen.".to_owned(),
            (_, Some(every)) => format!(
                "Of the answers that came from {name} {} were errors; at that share {} in a row come once in about {} requests.",
                text::share(errors, answers, "answers"),
                limits.consecutive,
                text::number(every)
            ),
            (_, None) => format!(
                "Of the answers that came from {name} {} were errors.",
                text::share(errors, answers, "answers")
            ),
        };
        let verdict = if broken {
            format!(" That is {name} itself failing: ejection follows from it.")
        } else {
            String::new()
        };
        let spells = fact.spells.as_ref().filter(|spells| spells.tripped > 0);
        let told = spells.map(|spells| format!(" {}", spells.words())).unwrap_or_default();
        let severity = fact.group.severity().unwrap_or(Severity::Warning);
        let confidence = if broken { Confidence::Possible } else { Confidence::Observed };
        Finding::new(Self::META, subject.clone(), &[name])
            .title(match fact.endpoints {
                1 => format!("{} ejects the only endpoint of {name}: {figures} found none", fact.rule.reference()),
                n => format!("{} ejects all {n} endpoints of {name}: {figures} found none", fact.rule.reference()),
            })
            .message(format!(
                "Callers' proxies answered {figures} to {name} with 503 UH{} while {} of it had been ready for a while: outlier detection had taken all of them out ({settings}). {arithmetic}{told} {tripped}{verdict}",
                since(fact.group.onset),
                text::several(fact.endpoints as u64, "endpoint")
            ))
            .mechanism("outlier ejection: outlierDetection ejects every endpoint, no healthy upstream")
            .severity(if broken { severity.min(Severity::Warning) } else { severity })
            .role(Role::Cause, confidence)
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidence(Evidence::object(&subject, settings))
            .evidences((fact.ejected > 0).then(|| {
                Evidence::new("Proxy", "clusters of a caller's proxy", format!("{} endpoints with failed_outlier_check", fact.ejected))
            }))
            .evidences(spells.map(|spells| {
                Evidence::new("AccessLog", format!("callers' proxies, {}", text::plain(&spells.cluster, 120)), spells.words()).at(spells.first)
            }))
            .evidences(parts(&fact.group))
            .effect(Effect::requests(&fact.service, &["UH", "5xx"]))
            .maybe_remedy(loosen(fact))
            .maybe_remedy(
                take_out_policy(
                    &fact.rule.object,
                    &fact.path,
                    "Remove outlierDetection: readiness probes alone then decide which endpoints are used",
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            )
            .prevention(Prevention::alert(
                "Alert when more than half of the endpoints are ejected",
                "sum by (cluster_name) (envoy_cluster_outlier_detection_ejections_active) / sum by (cluster_name) (envoy_cluster_membership_total) > 0.5",
            ))
            .prevention(Prevention::alert(
                "Alert when callers find no endpoint",
                format!("sum(rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UH.*\",destination_service_name=\"{}\"}}[2m])) > 0", text::plain(name, 63)),
            ))
    }
}

/// After how many requests, on average, so many errors have come in a row, where each one is an error with this share.
fn row(share: f64, length: i64) -> Option<u64> {
    if share <= 0.0 || share >= 1.0 || length > 64 {
        return None;
    }
    let run = share.powi(length as i32);
    let requests = (1.0 - run) / ((1.0 - share) * run);
    (requests < 1e12).then_some(requests.ceil() as u64)
}

/// Since when each of the cluster's endpoints that are ready now has been ready; the beginning of time where nothing says.
fn ready(
    snapshot: &Snapshot,
    service: &Service,
    rule: &DestinationRule,
    cluster: &ClusterName,
) -> Vec<Timestamp> {
    let subset = rule.subsets.iter().find(|s| s.name == cluster.subset && !cluster.subset.is_empty());
    let chosen = |pod: &&Pod| {
        subset.is_none_or(|s| s.labels.iter().all(|(key, value)| pod.template.labels.get(key) == Some(value)))
    };
    let since = |pod: &Pod| pod.condition("Ready").and_then(|c| c.since).unwrap_or(Timestamp::MIN);
    snapshot.pods_behind(service).filter(chosen).filter(|pod| pod.ready()).map(since).collect()
}

/// How many of them were ready at an instant.
fn ready_at(ready: &[Timestamp], at: Option<Timestamp>) -> usize {
    ready.iter().filter(|since| at.is_none_or(|at| **since <= at)).count()
}

/// Ejected endpoints of a cluster, in the proxy that sees most of them.
fn ejected(snapshot: &Snapshot, cluster: &str) -> usize {
    let counts = snapshot.proxies.iter().filter_map(|proxy| proxy.cluster(cluster));
    counts.map(|cluster| cluster.hosts.iter().filter(|host| host.ejected).count()).max().unwrap_or(0)
}

/// Errors that the callee itself answered to its callers, and all its answers.
fn answered(snapshot: &Snapshot, service: &ServiceName) -> (u64, u64) {
    let outcomes = snapshot.traffic_to(service, Reporter::Source).flat_map(|edge| &edge.outcomes);
    outcomes.filter(|o| !o.upstreams.is_empty() && !o.connection).fold((0, 0), |(errors, all), outcome| {
        (errors + if outcome.code >= 500 { outcome.count } else { 0 }, all + outcome.count)
    })
}

/// At most half are ejected, and all are used once fewer than half are left.
fn loosen(fact: &Fact<'_>) -> Option<Remedy> {
    let mut policy = fact.policy.clone();
    let fields = policy.as_object_mut()?;
    fields.insert("maxEjectionPercent".to_owned(), json!(fact.limits.percent.min(50)));
    fields.insert("minHealthPercent".to_owned(), json!(50));
    if fact.limits.consecutive < CONSECUTIVE {
        fields.remove("consecutiveErrors");
        fields.remove("consecutiveGatewayErrors");
        fields.insert("consecutive5xxErrors".to_owned(), json!(CONSECUTIVE));
    }
    Remedy::patch(
        &fact.rule.object,
        &json!([{"op": "replace", "path": pointer(&fact.path), "value": policy}]),
        "Set maxEjectionPercent to at most 50 and minHealthPercent to 50 in outlierDetection, and consecutive5xxErrors to at least 5",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_can_be_out_at_once() {
        let limits = |body: Value| Limits::read(&body);
        // One endpoint may always be ejected, whatever the percentage.
        assert!(limits(json!({})).can_empty(1));
        assert!(!limits(json!({})).can_empty(3));
        assert!(limits(json!({"maxEjectionPercent": 100})).can_empty(3));
        assert!(!limits(json!({"maxEjectionPercent": 100, "minHealthPercent": 50})).can_empty(3));
        assert_eq!(limits(json!({"maxEjectionPercent": 50})).ejectable(5), 2);
    }

    #[test]
    fn errors_in_a_row() {
        assert_eq!(row(0.5, 1), Some(2));
        assert_eq!(row(0.1, 2), Some(110));
        assert_eq!(row(0.0, 1), None);
    }
}
