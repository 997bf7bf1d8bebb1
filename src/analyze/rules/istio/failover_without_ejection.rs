//! ISTIO157.

use crate::model::json::json;

use super::support::parts;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen;
use crate::analyze::traffic::{Failures, failures_of, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, service_of_host};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Failover between localities is configured and never happens, because nothing finds out that endpoints fail.
    ///
    /// ## What it detects
    /// A DestinationRule with `failover` or `failoverPriority` in its `localityLbSetting` and without `outlierDetection`.
    /// ## Why it matters
    /// Proxies leave a locality when its endpoints are ejected. Without outlier detection none ever is: calls go on to endpoints
    /// nearby that are ready and fail, while those elsewhere are well.
    /// ## Evidence
    /// The setting; failing requests to the host, where there are any.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster NAME -o json`: all endpoints have the priority 0.
    /// ## How to fix
    /// Add an `outlierDetection` to the same traffic policy.
    /// ## False positives
    /// Failover because a locality has no endpoint left at all works without it. Where requests are well it is information.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/failover/>
    FailoverWithoutEjection {
        code: "ISTIO157", name: "failover-without-outlier-detection", family: Mesh, severity: Warning,
        needs: [Istio], aliases: [],
    }
}

/// A failover that never happens.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    field: &'static str,
    service: Option<ServiceName>,
    failing: Option<Failures>,
}

impl Check for FailoverWithoutEjection {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for rule in snapshot.istio.destination_rules.iter().filter(|r| seen::configured(r.object.namespace()))
        {
            let policy = rule.object.body.at("spec.trafficPolicy");
            let Some(policy) = policy.filter(|policy| policy.at("outlierDetection").is_none()) else {
                continue;
            };
            let locality = "loadBalancer.localityLbSetting";
            if policy.at(&format!("{locality}.enabled")) == Some(&json!(false)) {
                continue;
            }
            let fields = ["failover", "failoverPriority"];
            let Some(field) =
                fields.into_iter().find(|f| !policy.list(&format!("{locality}.{f}")).is_empty())
            else {
                continue;
            };
            let service =
                service_of_host(&rule.full_host()).map(|(namespace, name)| ServiceName::new(namespace, name));
            let service = service.filter(|name| snapshot.service(name).is_some());
            let failing = service.as_ref().and_then(|service| {
                let groups = failures_of(snapshot, service).into_iter();
                groups
                    .filter(|g| g.severity().is_some_and(|s| s >= Severity::Warning))
                    .max_by_key(|g| g.count)
            });
            out.push(Fact { rule, field, service, failing });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let path = format!("spec.trafficPolicy.loadBalancer.localityLbSetting.{}", fact.field);
        let subject = fact.rule.reference().field("spec.trafficPolicy.outlierDetection");
        let set = fact.rule.reference().field(&path);
        let host = text::plain(&fact.rule.host, 80);
        let seen = match &fact.failing {
            Some(group) => format!(
                " {} fail now, and none of them leaves its locality for that.",
                text::share(group.count, group.requests, "requests")
            ),
            None => " Requests to it are well now.".to_owned(),
        };
        Finding::new(Self::META, subject, &[&host])
            .title(format!("{} sets {} for {host} without outlierDetection: it never happens", fact.rule.reference(), fact.field))
            .message(format!(
                "{} of {} asks proxies to leave a locality whose endpoints fail. Which ones fail only outlierDetection finds out, and there is none.{seen}",
                fact.field,
                fact.rule.reference()
            ))
            .mechanism("locality failover without outlier detection: never fails over")
            .severity(if fact.failing.is_some() { Severity::Warning } else { Severity::Info })
            .role(Role::Context, Confidence::Configured)
            .service(fact.service.clone())
            .evidence(Evidence::object(&set, "set, and no outlierDetection beside it"))
            .evidences(fact.failing.iter().flat_map(parts))
            .effects(fact.service.iter().map(|service| Effect::requests(service, &["UF", "5xx", "slow"])))
            .maybe_remedy(
                Remedy::patch(
                    &fact.rule.object,
                    &json!([{"op": "add", "path": "/spec/trafficPolicy/outlierDetection", "value": {
                        "consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s", "maxEjectionPercent": 50
                    }}]),
                    "Add an outlierDetection that ejects at most half of the endpoints",
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            )
            .prevention(Prevention::of("Test", "In the pipeline: every localityLbSetting with a failover has an outlierDetection beside it"))
    }
}
