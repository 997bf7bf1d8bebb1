//! ISTIO152.

use crate::model::json::{Value, json};

use super::skew::{Skew, skews};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, full_host};
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Session affinity sends nearly all requests to one pod.
    ///
    /// ## What it detects
    /// A Service with `sessionAffinity: ClientIP`, or a DestinationRule with `consistentHash`, of which one of several ready pods
    /// gets nearly all requests: one client address, header, cookie or parameter stands for most of the traffic.
    /// ## Why it matters
    /// Affinity is a hash of one key. Behind a gateway, a NAT or a proxy all users have one address, and a header that every
    /// request carries alike is one key: one pod works for all, and more replicas change nothing.
    /// ## Evidence
    /// Requests by pod, the setting, and for addresses the client that most requests come from.
    /// ## How to confirm
    /// Requests by pod: `sum by (pod) (rate(istio_requests_total{reporter="destination"}[5m]))`.
    /// ## How to fix
    /// Take the affinity out, or hash what differs between users: a cookie of the session instead of the address.
    /// ## False positives
    /// A single client that is meant to stay on one pod. Where nothing fails and nothing is slow it is information.
    /// ## References
    /// <https://kubernetes.io/docs/reference/networking/virtual-ips/#session-affinity>
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#LoadBalancerSettings-ConsistentHashLB>
    SessionAffinityImbalance {
        code: "ISTIO152", name: "session-affinity-imbalance", family: Mesh, severity: Warning,
        needs: [Status, Requests], aliases: [],
    }
}

/// Who asks for affinity.
#[derive(Debug)]
enum Affinity<'a> {
    /// The Service, by the client's address.
    Service,
    /// A DestinationRule: where `consistentHash` stands, and it.
    Rule(&'a DestinationRule, String, &'a Value),
}

/// An affinity that loads one pod.
#[derive(Debug)]
pub struct Fact<'a> {
    skew: Skew<'a>,
    affinity: Affinity<'a>,
}

/// The DestinationRule that hashes requests to a Service, where `consistentHash` stands in it, and it.
pub fn hashing<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
) -> Option<(&'a DestinationRule, String, &'a Value)> {
    let name = service.service_name();
    let host = full_host(&name.name, &name.namespace);
    let rules = snapshot.istio.destination_rules_for(&host, &name.namespace);
    rules.into_iter().find_map(|rule| {
        let general = std::iter::once(None).chain(service.ports.iter().map(|p| Some(p.number)));
        let found = general.filter_map(|port| rule.policy(port, "loadBalancer.consistentHash")).next();
        found.map(|(path, value)| (rule, path, value))
    })
}

impl Check for SessionAffinityImbalance {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let facts = skews(snapshot).into_iter().filter_map(|skew| {
            let hashed = hashing(snapshot, skew.service);
            let affinity = match hashed {
                Some((rule, path, value)) => Affinity::Rule(rule, path, value),
                None if skew.service.object.body.text("spec.sessionAffinity") == Some("ClientIP") => {
                    Affinity::Service
                }
                None => return None,
            };
            Some(Fact { skew, affinity })
        });
        facts.collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let skew = &fact.skew;
        let name = skew.service.service_name();
        let share = text::share(skew.top.requests, skew.requests(), "requests");
        let (subject, setting, key) = match &fact.affinity {
            Affinity::Service => (
                skew.service.reference().field("spec.sessionAffinity"),
                "sessionAffinity: ClientIP".to_owned(),
                "the client's address".to_owned(),
            ),
            Affinity::Rule(rule, path, value) => {
                let key = key(value);
                (rule.reference().field(path), format!("consistentHash by {key}"), key)
            }
        };
        let by_address = key == "the client's address";
        let hot = skew.client.as_ref().filter(|_| by_address).map(|(ip, count, clients)| {
            format!(
                " {} of them come from {} (of {}), an address that many share.",
                text::number(*count),
                text::plain(ip, 45),
                text::several(*clients as u64, "client address")
            )
        });
        let felt = skew.felt();
        let hurt = felt.clone().map_or("Nothing fails for it yet.".to_owned(), |how| format!("There {how}."));
        Finding::new(Self::META, subject.clone(), &[&name.to_string()])
            .title(format!("Affinity by {key} sends {share} to one of {} pods of {}", skew.pods, name.name))
            .message(format!(
                "{setting} keeps requests with the same key on the same pod, and nearly all have the same: {} gets {share} although {} pods are ready.{} {hurt}",
                skew.pod.object.reference,
                skew.pods,
                hot.unwrap_or_default()
            ))
            .mechanism("session affinity imbalance: sticky sessions, one hot key or source")
            .severity(if felt.is_some() { Severity::Warning } else { Severity::Info })
            .role(
                if felt.is_some() { Role::Cause } else { Role::Context },
                if felt.is_some() { Confidence::Observed } else { Confidence::Possible },
            )
            .service(Some(name.clone()))
            .evidence(Evidence::object(&subject, setting))
            .evidence(Evidence::new(
                if skew.counted { "Metric" } else { "AccessLog" },
                format!("requests to {name} by pod"),
                format!("{share} at {}", skew.pod.object.name()),
            ))
            .effect(Effect::requests(&name, &["slow", "UT", "timeout", "5xx", "UO"]))
            .maybe_remedy(take_out(fact))
            .maybe_remedy(by_cookie(fact))
            .prevention(Prevention::alert(
                "Alert when one pod gets twice the average",
                format!(
                    "max(sum by (pod) (rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[10m]))) / avg(sum by (pod) (rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[10m]))) > 2",
                    text::plain(&name.name, 63)
                ),
            ))
    }
}

/// What a `consistentHash` hashes, in words.
fn key(value: &Value) -> String {
    if let Some(header) = value.text("httpHeaderName") {
        return format!("header {}", text::plain(header, 40));
    }
    if let Some(cookie) = value.text("httpCookie.name") {
        return format!("cookie {}", text::plain(cookie, 40));
    }
    if let Some(parameter) = value.text("httpQueryParameterName") {
        return format!("parameter {}", text::plain(parameter, 40));
    }
    "the client's address".to_owned()
}

/// No affinity.
fn take_out(fact: &Fact<'_>) -> Option<Remedy> {
    let remedy = match &fact.affinity {
        Affinity::Service => Remedy::patch(
            &fact.skew.service.object,
            &match fact.skew.service.object.body.at("spec.sessionAffinityConfig") {
                Some(_) => {
                    json!([{"op": "remove", "path": "/spec/sessionAffinityConfig"}, {"op": "replace", "path": "/spec/sessionAffinity", "value": "None"}])
                }
                None => json!([{"op": "replace", "path": "/spec/sessionAffinity", "value": "None"}]),
            },
            "Set sessionAffinity to None: every connection then goes to any ready pod",
        ),
        Affinity::Rule(rule, path, _) => {
            let balancer = path.strip_suffix(".consistentHash")?;
            Remedy::patch(
                &rule.object,
                &json!([{"op": "replace", "path": pointer(balancer), "value": {"simple": "LEAST_REQUEST"}}]),
                "Set loadBalancer to LEAST_REQUEST instead of consistentHash",
            )
        }
    };
    Some(remedy?.risk(Risk::Medium))
}

/// Affinity by a cookie of its own, which differs between users behind one address.
fn by_cookie(fact: &Fact<'_>) -> Option<Remedy> {
    let Affinity::Rule(rule, path, value) = &fact.affinity else { return None };
    if value.at("httpCookie").is_some() {
        return None;
    }
    Remedy::patch(
        &rule.object,
        &json!([{"op": "replace", "path": pointer(path), "value": {"httpCookie": {"name": "session-affinity", "ttl": "3600s"}}}]),
        "Hash a cookie that the proxy sets itself: users stay on their pod, and each is a key of its own",
    )
}
