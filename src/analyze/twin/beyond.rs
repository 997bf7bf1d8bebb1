//! What lies behind the Service that a request reaches: how long its own calls may take, set against the time that the request
//! has, and how often they are tried again.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::{Answer, Outcome, Step};
use crate::analyze::rules::istio::hops;
use crate::analyze::traffic::text::milliseconds;
use crate::model::memo::Derived;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// A way through the graph is followed this far.
const MAX_DEPTH: usize = 12;
/// Services that are looked at for one request, over all ways.
const MAX_STEPS: usize = 2_000;
/// Calls that are named.
const MAX_NAMED: usize = 6;

/// What the route to a Service allows.
#[derive(Debug)]
struct Limit {
    /// The longest that a request takes, in seconds; none without a limit.
    longest: Option<f64>,
    /// How often one that the application answered with a failure is sent in all.
    tries: u64,
    /// The route.
    source: ObjectRef,
}

/// The service graph with what its routes allow.
#[derive(Debug)]
struct Graph {
    limits: BTreeMap<ServiceName, Limit>,
    calls: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

impl Derived for Graph {
    fn derive(snapshot: &Snapshot) -> Self {
        let hops = snapshot.derived::<hops::Hops>();
        let limits = hops.0.iter().map(|(service, hop)| {
            let again = hop.attempts().filter(|_| hop.tries_answers_again()).unwrap_or(0);
            let limit = Limit {
                longest: hop.longest(),
                tries: u64::try_from(again).unwrap_or(0).saturating_add(1),
                source: hop.reference().field(hop.path.clone()),
            };
            (service.clone(), limit)
        });
        Graph { limits: limits.collect(), calls: snapshot.derived::<hops::Calls>().0.clone() }
    }
}

impl Graph {
    fn callees(&self, service: &ServiceName) -> impl Iterator<Item = &ServiceName> {
        self.calls.get(service).into_iter().flatten()
    }

    /// The longest that a call of a Service takes: what the route allows, else what is behind it one after another. `None`
    /// where nothing limits it.
    fn longest(&self, service: &ServiceName, way: &mut Vec<ServiceName>, steps: &mut usize) -> Option<f64> {
        *steps = steps.checked_sub(1)?;
        if let Some(own) = self.limits.get(service).and_then(|limit| limit.longest) {
            return Some(own);
        }
        if way.contains(service) || way.len() >= MAX_DEPTH {
            return None;
        }
        way.push(service.clone());
        let mut callees = self.callees(service).peekable();
        let below = callees
            .peek()
            .is_some()
            .then(|| callees.map(|callee| self.longest(callee, way, steps)).sum::<Option<f64>>());
        way.pop();
        below.flatten()
    }

    /// The way behind a Service on which most requests arrive where all fail: the Services that try again, and how many arrive.
    fn most(
        &self,
        service: &ServiceName,
        way: &mut Vec<ServiceName>,
        steps: &mut usize,
    ) -> (Vec<ServiceName>, u64) {
        let mut best = (vec![], 1);
        if way.contains(service) || way.len() >= MAX_DEPTH {
            return best;
        }
        way.push(service.clone());
        for callee in self.callees(service) {
            let Some(left) = steps.checked_sub(1) else { break };
            *steps = left;
            let own = self.limits.get(callee).map_or(1, |limit| limit.tries);
            let (mut names, below) = self.most(callee, way, steps);
            let all = own.saturating_mul(below);
            if all > best.1 {
                if own > 1 {
                    names.insert(0, callee.clone());
                }
                best = (names, all);
            }
        }
        way.pop();
        best
    }
}

/// Adds to the steps of a request that reaches a Service what lies behind it.
pub fn tell(snapshot: &Snapshot, answer: &mut Answer) {
    let [backend] = answer.backends.as_slice() else { return };
    if answer.outcome != Outcome::Forwarded || answer.status.is_none() || backend.namespace.is_empty() {
        return;
    }
    let service = ServiceName::new(&backend.namespace, &backend.service);
    let graph = snapshot.derived::<Graph>();
    let callees: Vec<&ServiceName> = graph.callees(&service).collect();
    if callees.is_empty() {
        return;
    }
    let mut left = MAX_STEPS;
    let mut way = vec![service.clone()];
    let all: Vec<(&ServiceName, Option<f64>)> =
        callees.iter().map(|callee| (*callee, graph.longest(callee, &mut way, &mut left))).collect();
    answer.steps.push(Step::plain(waits(&service, &all, answer.allowed)));
    let mut left = MAX_STEPS;
    let (names, arrive) = graph.most(&service, &mut vec![], &mut left);
    let here = answer.tries.max(1);
    let arrive = arrive.saturating_mul(here);
    if let (Some(last), true) = (names.last(), arrive > here) {
        let factors: Vec<String> = (here > 1)
            .then(|| here.to_string())
            .into_iter()
            .chain(names.iter().filter_map(|name| Some(graph.limits.get(name)?.tries.to_string())))
            .collect();
        let product = if factors.len() > 1 { format!(" ({})", factors.join(" × ")) } else { String::new() };
        let said = format!("where {} fails, one request becomes up to {arrive} there{product}", last.name);
        let source = graph.limits.get(last).map(|limit| &limit.source);
        answer.steps.push(source.map_or_else(|| Step::plain(said.clone()), |at| Step::by(at, said.clone())));
    }
}

/// What the calls behind a Service may take, in words.
fn waits(service: &ServiceName, all: &[(&ServiceName, Option<f64>)], allowed: Option<u64>) -> String {
    let in_ms = |seconds: f64| (seconds * 1000.0).round() as u64;
    let words = |seconds: f64| milliseconds(in_ms(seconds));
    let mut named: Vec<String> = all
        .iter()
        .take(MAX_NAMED)
        .map(|(callee, longest)| {
            format!("{} ({})", callee.name, longest.map_or_else(|| "no limit".to_owned(), words))
        })
        .collect();
    if all.len() > MAX_NAMED {
        named.push(format!("{} more", all.len() - MAX_NAMED));
    }
    let named = named.join(", ");
    let sum = all.iter().map(|(_, longest)| *longest).sum::<Option<f64>>();
    let rest = match (sum, allowed) {
        (Some(sum), Some(own)) if in_ms(sum) > own => {
            format!(
                "{} one after another, and the request has {}: it ends while they still have time",
                words(sum),
                milliseconds(own)
            )
        }
        (Some(sum), Some(own)) => {
            format!("{} one after another, within the {} of the request", words(sum), milliseconds(own))
        }
        (Some(sum), None) => format!("the caller waits up to {}, one after another", words(sum)),
        (None, Some(own)) => format!("the request ends after {}, whatever they do", milliseconds(own)),
        (None, None) => "nothing ends the wait".to_owned(),
    };
    format!("behind it {} calls {named}: {rest}", service.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::Twin;
    use crate::analyze::twin::ask::{Ask, Named, Origin, Request};
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    /// `front` calls `shop`, which calls `pay` and `stock`; the routes to them allow what is given.
    fn told(routes: &[(&str, Value)]) -> Vec<String> {
        let mut builder = Builder::new();
        for (name, calls) in
            [("front", "http://shop"), ("shop", "http://pay http://stock"), ("pay", ""), ("stock", "")]
        {
            let meta = json!({"name": name, "namespace": "n"});
            let urls = calls.split(' ').enumerate();
            let env: Vec<Value> =
                urls.map(|(at, url)| json!({"name": format!("URL_{at}"), "value": url})).collect();
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}}));
            builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "env": env}, {"name": "istio-proxy"}]}}}}));
        }
        for (name, rule) in routes {
            let mut rule = rule.clone();
            rule["route"] = json!([{"destination": {"host": name}}]);
            builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "n"},
                "spec": {"hosts": [name], "http": [rule]}}));
        }
        let snapshot = builder.finish();
        let from = Origin::Workload(Named {
            namespace: "n".into(),
            kind: "Deployment".into(),
            name: "front".into(),
        });
        let request = Request { host: "shop".into(), ..Request::default() };
        let mut answer = Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request });
        let before = answer.steps.len();
        tell(&snapshot, &mut answer);
        answer.steps.drain(before..).map(|step| step.decision).collect()
    }

    #[test]
    fn what_the_calls_behind_may_take_is_set_against_the_time_of_the_request() {
        let tries = json!({"retries": {"attempts": 2, "perTryTimeout": "2s", "retryOn": "5xx"}});
        let (pay, stock) = (("pay", tries.clone()), ("stock", json!({"timeout": "3s"})));
        let calls = "behind it shop calls pay (6 s), stock (3 s): ";
        assert_eq!(
            told(&[("shop", json!({"timeout": "5s"})), pay.clone(), stock.clone()])[0],
            format!(
                "{calls}9 s one after another, and the request has 5 s: it ends while they still have time"
            )
        );
        assert_eq!(
            told(&[("shop", json!({"timeout": "10s"})), pay.clone(), stock.clone()])[0],
            format!("{calls}9 s one after another, within the 10 s of the request")
        );
        assert_eq!(
            told(&[pay.clone(), stock])[0],
            format!("{calls}the caller waits up to 9 s, one after another")
        );
        assert!(told(&[pay])[0].ends_with("stock (no limit): nothing ends the wait"));
    }

    #[test]
    fn routes_attached_to_a_service_limit_it_as_well() {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "n"}, "spec": {"ports": [{"name": "http", "port": 80}]}}));
        let rule = json!({"backendRefs": [{"name": "pay", "port": 80}], "timeouts": {"request": "10s", "backendRequest": "2s"}, "retry": {"attempts": 2, "codes": [503]}});
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "n"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "pay"}], "rules": [rule]}}));
        let graph = Graph::derive(&builder.finish());
        let limit = &graph.limits[&ServiceName::new("n", "pay")];
        assert_eq!((limit.longest, limit.tries), (Some(6.0), 3));
    }

    #[test]
    fn retries_multiply_on_the_way() {
        let tries = |on: &str| json!({"retries": {"attempts": 2, "retryOn": on}});
        let both = told(&[("shop", tries("5xx")), ("pay", tries("5xx"))]);
        assert_eq!(both[1], "where pay fails, one request becomes up to 9 there (3 × 3)");
        // Connections that fail do not reach the application.
        assert_eq!(told(&[("pay", tries("connect-failure"))]).len(), 1);
    }
}
