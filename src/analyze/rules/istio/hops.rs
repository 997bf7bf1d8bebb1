//! Time-outs and retries of routes along the ways that requests take through the service graph.

use crate::model::json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::analyze::remedy::pointer;
use crate::analyze::twin::gateway_api::mesh;
use crate::model::fields::Fields;
use crate::model::memo::Derived;
use crate::model::mesh::istio::{Route, VirtualService, full_host};
use crate::model::mesh::part::Part;
use crate::model::network::{Service, ServiceName};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

/// How often a route tries again where it has `retries` without a number.
const DEFAULT_ATTEMPTS: i64 = 2;

/// Where a rule says what.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    whole: &'static str,
    each: &'static str,
    retries: &'static str,
}

/// `spec.http` of a VirtualService.
const ISTIO: Words = Words { whole: "timeout", each: "retries.perTryTimeout", retries: "retries" };
/// `spec.rules` of an HTTPRoute.
const GATEWAY_API: Words =
    Words { whole: "timeouts.request", each: "timeouts.backendRequest", retries: "retry" };

/// One rule that requests to a Service take: of a VirtualService or of an HTTPRoute.
#[derive(Debug, Clone)]
pub struct Hop {
    /// The VirtualService or HTTPRoute.
    pub object: Arc<Object>,
    /// Where the rule stands: `spec.http[0]`, `spec.rules[0]`.
    pub path: String,
    /// The rule.
    pub body: Part,
    words: &'static Words,
}

impl Hop {
    /// A rule of a VirtualService.
    pub fn of(virtual_service: &VirtualService, route: &Route) -> Self {
        let object = Arc::clone(&virtual_service.object);
        Hop { object, path: route.path.clone(), body: route.body.clone(), words: &ISTIO }
    }

    /// A rule of an HTTPRoute, by its place.
    pub fn of_http_route(object: &Arc<Object>, index: usize) -> Option<Self> {
        object.body.list("spec.rules").get(index)?;
        let body = Part::of(&object.body, "spec.rules", index);
        Some(Hop {
            object: Arc::clone(object),
            path: format!("spec.rules[{index}]"),
            body,
            words: &GATEWAY_API,
        })
    }

    /// What names the object, without a field.
    pub fn reference(&self) -> &ObjectRef {
        &self.object.reference
    }

    /// The time-out's field.
    pub fn timeout_field(&self) -> ObjectRef {
        self.reference().field(format!("{}.{}", self.path, self.words.whole))
    }

    /// The retries' field.
    pub fn retries_field(&self) -> ObjectRef {
        self.reference().field(format!("{}.{}", self.path, self.words.retries))
    }

    /// A JSON patch that gives the rule a time-out.
    pub fn with_timeout(&self, value: &str) -> Value {
        let path = pointer(&self.timeout_field().field_path);
        let op = if self.body.at(self.words.whole).is_some() { "replace" } else { "add" };
        match self.words.whole.split_once('.') {
            Some((parent, child)) if self.body.at(parent).is_none() => {
                let path = pointer(&format!("{}.{parent}", self.path));
                json!([{"op": "add", "path": path, "value": {child: value}}])
            }
            _ => json!([{"op": op, "path": path, "value": value}]),
        }
    }

    /// A JSON patch that lets the rule try nothing again.
    pub fn without_retries(&self) -> Value {
        let path = pointer(&self.retries_field().field_path);
        json!([{"op": "replace", "path": path, "value": {"attempts": 0}}])
    }

    /// The whole time-out in seconds; zero means none.
    pub fn timeout(&self) -> Option<f64> {
        self.body.seconds(self.words.whole).filter(|seconds| *seconds > 0.0)
    }

    /// How often a request is tried again: what the route says, or Istio's own where it has retries without a number.
    pub fn attempts(&self) -> Option<i64> {
        let retries = self.body.at(self.words.retries)?;
        Some(retries.int("attempts").unwrap_or(DEFAULT_ATTEMPTS).max(0))
    }

    /// Whether a failure that the application answered with is tried again.
    pub fn tries_answers_again(&self) -> bool {
        tries_answers_again(self.body.text("retries.retryOn")) || !self.body.list("retry.codes").is_empty()
    }

    /// The longest that a request can take here, in seconds: all attempts, or the whole time-out where that is shorter.
    pub fn longest(&self) -> Option<f64> {
        let per_try = self.body.seconds(self.words.each).filter(|seconds| *seconds > 0.0);
        let tries = per_try.map(|seconds| seconds * (self.attempts().unwrap_or(0) + 1) as f64);
        match (tries, self.timeout()) {
            (Some(tries), Some(whole)) => Some(tries.min(whole)),
            (tries, whole) => tries.or(whole),
        }
    }
}

/// Whether `retryOn` names failures that the application answered with. Without it only what never arrived is tried again, and
/// 503 of proxies.
pub fn tries_answers_again(retry_on: Option<&str>) -> bool {
    retry_on.is_some_and(|on| {
        on.split(',').map(str::trim).any(|word| {
            matches!(word, "5xx" | "gateway-error" | "reset" | "retriable-4xx" | "retriable-status-codes")
                || word.bytes().all(|b| b.is_ascii_digit()) && !word.is_empty()
        })
    })
}

/// The rule that requests to each Service inside the mesh take: of an HTTPRoute that is attached to it the last one in order, which
/// takes what no other does; else the first one of its VirtualService that has no conditions, or the last one.
#[derive(Debug)]
pub struct Hops(pub BTreeMap<ServiceName, Hop>);

impl Derived for Hops {
    fn derive(snapshot: &Snapshot) -> Self {
        let taken = |service| attached(snapshot, service).unwrap_or_else(|| routed(snapshot, service));
        let all = snapshot.services.iter();
        Hops(all.filter_map(|service| Some((service.service_name(), taken(service)?))).collect())
    }
}

/// By an HTTPRoute; `None` where none is attached to the Service, for then VirtualServices count.
fn attached(snapshot: &Snapshot, service: &Service) -> Option<Option<Hop>> {
    if snapshot.gateway_api.routes.is_empty() {
        return None;
    }
    let port = u16::try_from(service.ports.first()?.number).ok()?;
    let made = mesh::http_routes(snapshot, &service.object, service.object.namespace(), port)?;
    let last = made.last().map(|route| route.source.clone());
    let hop = last.and_then(|source| {
        let index = source.field_path.strip_prefix("spec.rules[")?.split_once(']')?.0.parse().ok()?;
        let routes = snapshot.gateway_api.routes.iter();
        let route = routes.map(|route| &route.object).find(|object| object.reference.same_object(&source))?;
        Hop::of_http_route(route, index)
    });
    Some(hop)
}

fn routed(snapshot: &Snapshot, service: &Service) -> Option<Hop> {
    let host = full_host(service.object.name(), service.object.namespace());
    let virtual_service = snapshot.istio.virtual_services_for(&host).next()?;
    let http = || virtual_service.routes.iter().filter(|route| route.protocol == "http");
    let route = http().find(|route| route.matches().is_empty()).or_else(|| http().next_back())?;
    Some(Hop::of(virtual_service, route))
}

/// Which Services the workloads behind each Service call.
#[derive(Debug)]
pub struct Calls(pub BTreeMap<ServiceName, BTreeSet<ServiceName>>);

impl Derived for Calls {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut services: BTreeMap<&ObjectRef, Vec<&ServiceName>> = BTreeMap::new();
        for (service, workloads) in &snapshot.graph.backing {
            for workload in workloads {
                services.entry(workload).or_default().push(service);
            }
        }
        let mut out: BTreeMap<ServiceName, BTreeSet<ServiceName>> = BTreeMap::new();
        for (caller, callee) in snapshot.graph.edges.keys() {
            for service in services.get(caller).into_iter().flatten().filter(|service| **service != callee) {
                out.entry((*service).clone()).or_default().insert(callee.clone());
            }
        }
        Calls(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Builder;

    #[test]
    fn a_rule_that_is_attached_to_a_service_says_how_long_requests_have() {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}}));
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "v", "namespace": "n"},
            "spec": {"hosts": ["s"], "http": [{"timeout": "1s", "route": [{"destination": {"host": "s"}}]}]}}));
        let rules = json!([{"timeouts": {"request": "9s", "backendRequest": "2s"}, "retry": {"codes": [503], "attempts": 1}, "backendRefs": [{"name": "s", "port": 80}]},
            {"matches": [{"path": {"type": "Exact", "value": "/x"}}], "backendRefs": [{"name": "s", "port": 80}]}]);
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "h", "namespace": "n"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "s"}], "rules": rules}}));
        let snapshot = builder.finish();
        let hops = snapshot.derived::<Hops>();
        let hop = &hops.0[&ServiceName::new("n", "s")];
        assert_eq!((hop.object.name(), hop.path.as_str()), ("h", "spec.rules[0]"));
        assert_eq!((hop.timeout(), hop.attempts(), hop.longest()), (Some(9.0), Some(1), Some(4.0)));
        assert!(hop.tries_answers_again());
        assert_eq!(hop.with_timeout("3s")[0]["path"], "/spec/rules/0/timeouts/request");
        let bare = Hop::of_http_route(&hop.object, 1).unwrap();
        assert_eq!(
            bare.with_timeout("3s")[0],
            json!({"op": "add", "path": "/spec/rules/1/timeouts", "value": {"request": "3s"}})
        );
    }
}
