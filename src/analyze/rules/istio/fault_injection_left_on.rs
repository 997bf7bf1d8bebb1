//! ISTIO123.

use crate::model::json::{Value, json};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Route, VirtualService, full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A VirtualService injects faults into requests.
    ///
    /// ## What it detects
    /// `fault.abort` or `fault.delay` in a route with a share above zero, and whether requests carry the flags `FI` or `DI`.
    /// ## Why it matters
    /// The callers' proxies answer with the configured code, or wait for the configured time, while the callee is well.
    /// Everything above becomes slow or fails with it.
    /// ## Evidence
    /// The field; the flags `FI` (`fault_filter_abort`) and `DI` in access logs of callers.
    /// ## How to confirm
    /// `kubectl get virtualservices -o yaml` and look for `fault`.
    /// ## How to fix
    /// Remove `fault` from the route.
    /// ## False positives
    /// A test that is running, or a fault for requests with a header that only testers send.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/fault-injection/>
    FaultInjectionLeftOn {
        code: "ISTIO123", name: "fault-injection-left-on", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// A fault of a route.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    route: &'a Route,
    /// `abort` or `delay`.
    kind: &'static str,
    /// The share of requests in percent.
    percent: f64,
    services: Vec<ServiceName>,
    /// What callers' proxies say of it.
    seen: Option<Failures>,
    /// Whether access logs of callers of these Services were seen, so that a missing flag means something.
    watched: bool,
}

impl Check for FaultInjectionLeftOn {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let groups = all(snapshot, |way| matches!(way, Way::AbortInjected | Way::DelayInjected));
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            let injecting = |route: &&Route| route.body.at("fault").is_some();
            let mut routes = virtual_service.routes.iter().filter(injecting).peekable();
            if routes.peek().is_none() {
                continue;
            }
            let services = services(snapshot, virtual_service);
            for route in routes {
                for (kind, way) in [("abort", Way::AbortInjected), ("delay", Way::DelayInjected)] {
                    let Some(fault) = route.body.at("fault").and_then(|fault| fault.child(kind)) else {
                        continue;
                    };
                    let percent = share(fault);
                    if percent <= 0.0 {
                        continue;
                    }
                    let on_it = |group: &&Failures| {
                        group.way == way
                            && group.callee.service.as_ref().is_some_and(|s| services.contains(s))
                    };
                    out.push(Fact {
                        virtual_service,
                        route,
                        kind,
                        percent,
                        seen: groups.iter().filter(on_it).max_by_key(|group| group.count).cloned(),
                        watched: snapshot.traffic.iter().any(|edge| {
                            edge.cluster.direction == "outbound"
                                && edge.service.as_ref().is_some_and(|s| services.contains(s))
                        }),
                        services: services.clone(),
                    });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.virtual_service.object;
        let field = format!("{}.fault.{}", fact.route.path, fact.kind);
        let subject = object.reference.field(&field);
        let fault =
            fact.route.body.at("fault").and_then(|f| f.child(fact.kind)).cloned().unwrap_or(Value::Null);
        let percent = format!("{} %", (fact.percent * 100.0).round() / 100.0);
        let what = if fact.kind == "abort" {
            let code = fault.int("httpStatus").map(|code| code.to_string());
            format!(
                "aborts {percent} of its requests with {}",
                code.unwrap_or_else(|| fault
                    .text("grpcStatus")
                    .map_or("an error".to_owned(), |s| text::plain(s, 30)))
            )
        } else {
            format!(
                "delays {percent} of its requests by {}",
                text::plain(fault.text("fixedDelay").unwrap_or("some time"), 20)
            )
        };
        let severity = fact.seen.as_ref().and_then(Failures::severity);
        let (role, confidence, severity) = match (severity, fact.watched) {
            (Some(severity), _) if severity >= Severity::Warning => {
                (Role::Cause, Confidence::Observed, severity)
            }
            // Its callers' proxies were seen, and no request was hit.
            (_, true) => (Role::Context, Confidence::Configured, Severity::Info),
            (_, false) => (Role::Cause, Confidence::Configured, Severity::Warning),
        };
        let seen = match &fact.seen {
            Some(group) => format!(
                "Callers' proxies flagged {} to {} so{}.",
                text::share(group.count, group.requests, "requests"),
                group.name(),
                group.onset.map(|at| format!(" since {}", text::clock(at))).unwrap_or_default()
            ),
            None if fact.watched => "No request that was seen was hit by it.".to_owned(),
            None => "No access log of a caller was seen.".to_owned(),
        };
        let flags: &[&str] = if fact.kind == "abort" { &["FI", "fault"] } else { &["DI", "fault", "slow"] };
        let whole =
            fact.route.body.at("fault").and_then(Value::as_object).is_none_or(|faults| faults.len() < 2);
        let path = pointer(&if whole { format!("{}.fault", fact.route.path) } else { field });
        Finding::new(Self::META, subject.clone(), &[fact.kind])
            .title(format!("{} {what}: fault injection is on", object.reference))
            .message(format!("{} of the route {} {what} before they reach the callee. {seen}", fact.kind, fact.route.path))
            .mechanism(format!("fault injection: {}", fact.kind))
            .severity(severity)
            .role(role, confidence)
            .service(fact.seen.as_ref().and_then(|g| g.callee.service.clone()).or_else(|| fact.services.first().cloned()))
            .onset(fact.seen.as_ref().and_then(|group| group.onset))
            .evidence(Evidence::object(&subject, format!("{} = {}", fact.kind, text::plain(&fault.to_string().replace('"', ""), 160))))
            .evidences(fact.seen.iter().flat_map(|group| group.parts.iter().take(3)).map(|part| {
                let label = text::plain(&part.short, 24);
                Evidence::new("AccessLog", format!("istio-proxy of {}, {}", part.workload, text::plain(&part.cluster, 120)), format!("{label}, {} requests", text::number(part.count)))
                    .at(part.first)
                    .excerpt(&part.details)
            }))
            .effects(fact.services.iter().map(|service| Effect::requests(service, flags)))
            .maybe_remedy(Remedy::patch(object, &json!([{"op": "remove", "path": path}]), format!("Remove fault from {}", fact.route.path)))
            .prevention(Prevention::alert(
                "Alert while faults are injected",
                "sum by (destination_service_name) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*(FI|DI).*\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Policy", "Refuse VirtualServices with fault outside of test namespaces (ValidatingAdmissionPolicy)"))
    }
}

/// `percentage.value` or the older `percent`; without either none.
fn share(fault: &Value) -> f64 {
    match fault.at("percentage") {
        // A percentage without a value is zero.
        Some(percentage) => percentage.number("value").unwrap_or(0.0),
        None => fault.number("percent").unwrap_or(0.0),
    }
}

/// The Services that a VirtualService speaks for: its hosts, and where these are names of the outside its destinations.
fn services(snapshot: &Snapshot, virtual_service: &VirtualService) -> Vec<ServiceName> {
    let namespace = virtual_service.object.namespace();
    let hosts = virtual_service.hosts.iter().chain(virtual_service.destinations().map(|(_, d)| &d.host));
    let mut out: Vec<ServiceName> = hosts
        .filter_map(|host| service_of_host(&full_host(host, namespace)))
        .map(|(namespace, name)| ServiceName::new(namespace, name))
        .filter(|name| snapshot.service(name).is_some())
        .collect();
    out.sort();
    out.dedup();
    out
}
