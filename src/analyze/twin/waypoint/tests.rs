//! Requests through waypoints, and past them.

use crate::model::json::{Value, json};

use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::{Answer, Outcome};
use crate::analyze::twin::ask::{Ask, Named, Origin, Protocol, Request};
use crate::model::snapshot::Builder;

fn object(version: &str, kind: &str, namespace: &str, name: &str, labels: Value, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name, "labels": labels}, "spec": spec})
}

fn waypoint(namespace: &str, name: &str, labels: Value, routes: Value) -> Value {
    let listener = json!({"name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": routes});
    let spec = json!({"gatewayClassName": "istio-waypoint", "listeners": [listener]});
    object("gateway.networking.k8s.io/v1", "Gateway", namespace, name, labels, spec)
}

fn policy(name: &str, spec: Value) -> Value {
    object("security.istio.io/v1", "AuthorizationPolicy", "shop", name, json!({}), spec)
}

fn target(kind: &str, name: &str) -> Value {
    let group = if kind == "Service" { "" } else { "gateway.networking.k8s.io" };
    json!([{"group": group, "kind": kind, "name": name}])
}

/// Namespace `shop` is in ambient mode, its Service `api` (pods `api-v1`, `api-v2`, each with a Service of its own) behind a
/// waypoint; namespace `side` has sidecars, `out` nothing.
struct Mesh {
    objects: Vec<Value>,
}

impl Mesh {
    fn new(labels: Value) -> Self {
        let mut mesh = Mesh { objects: vec![] };
        for (name, own) in [
            ("shop", json!({"istio.io/dataplane-mode": "ambient"})),
            ("side", json!({"istio-injection": "enabled"})),
            ("out", json!({})),
        ] {
            mesh.add(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": own}}),
            );
        }
        for (namespace, name, app) in [
            ("shop", "web", "web"),
            ("shop", "api-v1", "api"),
            ("shop", "api-v2", "api"),
            ("side", "web", "web"),
            ("out", "web", "web"),
        ] {
            let labels = json!({"app": app, "name": name});
            let pod = json!({"serviceAccountName": app, "containers": [{"name": "c"}]});
            let spec = json!({"template": {"metadata": {"labels": labels}, "spec": pod}});
            mesh.add(object("apps/v1", "Deployment", namespace, name, json!({}), spec));
        }
        for (name, selector, labels) in [
            ("api", json!({"app": "api"}), labels),
            ("api-v1", json!({"name": "api-v1"}), json!({})),
            ("api-v2", json!({"name": "api-v2"}), json!({})),
        ] {
            let ports =
                json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "tcp", "port": 9000}]);
            let spec = json!({"selector": selector, "ports": ports});
            mesh.add(object("v1", "Service", "shop", name, labels, spec));
        }
        mesh
    }

    /// With waypoint `w` before Service `api`.
    fn behind_waypoint() -> Self {
        Mesh::new(json!({"istio.io/use-waypoint": "w"})).with(waypoint("shop", "w", json!({}), Value::Null))
    }

    fn add(&mut self, object: Value) {
        self.objects.push(object);
    }

    fn with(mut self, object: Value) -> Self {
        self.add(object);
        self
    }

    fn ask(&self, from: &str, request: Request) -> Answer {
        let mut builder = Builder::new();
        self.objects.iter().for_each(|object| builder.object(object.clone()));
        let snapshot = builder.finish();
        let (namespace, name) = from.split_once('/').unwrap();
        let from = Origin::Workload(Named {
            namespace: namespace.into(),
            kind: "Deployment".into(),
            name: name.into(),
        });
        Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request })
    }

    /// What a call of `GET /pay` at `api.shop` comes to.
    fn get(&self, from: &str) -> Answer {
        self.ask(from, Request { host: "api.shop".into(), path: "/pay".into(), ..Request::default() })
    }
}

fn said(answer: &Answer) -> String {
    match answer.outcome {
        Outcome::NotModelled => format!("? {}", answer.detail),
        _ => answer.label(),
    }
}

fn told(answer: &Answer, words: &str) -> bool {
    answer.steps.iter().any(|step| step.decision.contains(words))
}

fn to_v2() -> Value {
    let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "api"}],
        "rules": [{"matches": [{"path": {"value": "/pay"}}], "backendRefs": [{"name": "api-v2", "port": 80}]}]});
    object("gateway.networking.k8s.io/v1", "HTTPRoute", "shop", "to-v2", json!({}), spec)
}

#[test]
fn routes_of_a_service_take_effect_at_its_waypoint_alone() {
    let mesh = Mesh::behind_waypoint().with(to_v2());
    let through = mesh.get("shop/web");
    assert_eq!((said(&through).as_str(), through.backends[0].service.as_str()), ("200", "api-v2"));
    assert_eq!(through.listener, "main_internal");
    assert_eq!(through.route_config, "inbound-vip|80|http|api.shop.svc.cluster.local");
    assert!(told(&through, "ztunnel carries the connection to waypoint shop/w"), "{through:?}");
    let other = mesh.ask("shop/web", Request { host: "api".into(), path: "/x".into(), ..Request::default() });
    assert_eq!(said(&other), "404 NR");
    // A sidecar carries them out itself, and a client outside of the mesh knows of nothing.
    assert_eq!(mesh.get("side/web").backends[0].service, "api-v2");
    let outside = mesh.get("out/web");
    assert_eq!((said(&outside).as_str(), outside.backends[0].service.as_str()), ("200", "api"));
    // Without a waypoint ztunnel routes nothing.
    let without = Mesh::new(json!({})).with(to_v2()).get("shop/web");
    assert_eq!((said(&without).as_str(), without.backends[0].service.as_str()), ("200", "api"));
}

#[test]
fn policies_for_http_hold_where_they_are_attached() {
    let deny = |targets: Option<Value>| {
        let mut spec = json!({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/pay"]}}]}]});
        if let Some(targets) = targets {
            spec["targetRefs"] = targets;
        }
        policy("p", spec)
    };
    for named in [target("Service", "api"), target("Gateway", "w")] {
        let mesh = Mesh::behind_waypoint().with(deny(Some(named)));
        let denied = mesh.get("shop/web");
        assert_eq!(said(&denied), "403");
        assert!(denied.detail.contains("RBAC: access denied by waypoint shop/w"), "{denied:?}");
        let mut other = Request { host: "api".into(), path: "/x".into(), ..Request::default() };
        assert_eq!(said(&mesh.ask("shop/web", other.clone())), "200");
        other.host = "api-v1".into();
        other.path = "/pay".into();
        assert_eq!(said(&mesh.ask("shop/web", other)), "200", "a Service without waypoint");
        // Who passes the waypoint by is not asked.
        assert_eq!(said(&mesh.get("out/web")), "200");
    }
    for elsewhere in [target("Service", "api-v1"), target("Gateway", "v")] {
        assert_eq!(said(&Mesh::behind_waypoint().with(deny(Some(elsewhere))).get("shop/web")), "200");
    }
    // Without a target it is ztunnel's, which denies what it cannot check.
    let refused = Mesh::behind_waypoint().with(deny(None)).get("shop/web");
    assert_eq!(said(&refused), "503 UC");
}

#[test]
fn behind_a_waypoint_pods_see_the_waypoint() {
    let allow = |principal: &str, targets: Option<Value>| {
        let mut spec = json!({"rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/shop/sa/{principal}")]}}]}]});
        match targets {
            Some(targets) => spec["targetRefs"] = targets,
            None => spec["selector"] = json!({"matchLabels": {"app": "api"}}),
        }
        policy("p", spec)
    };
    let service = || Some(target("Service", "api"));
    assert_eq!(said(&Mesh::behind_waypoint().with(allow("web", service())).get("shop/web")), "200");
    assert_eq!(said(&Mesh::behind_waypoint().with(allow("w", service())).get("shop/web")), "403");
    // Ztunnel before the pods sees the waypoint's identity, and that of the client where there is no waypoint.
    assert_eq!(said(&Mesh::behind_waypoint().with(allow("w", None)).get("shop/web")), "200");
    assert_eq!(said(&Mesh::behind_waypoint().with(allow("web", None)).get("shop/web")), "503 UC");
    assert_eq!(said(&Mesh::new(json!({})).with(allow("web", None)).get("shop/web")), "200");
}

#[test]
fn a_waypoint_that_does_not_take_the_connection_is_passed_by() {
    let deny =
        || policy("p", json!({"targetRefs": target("Service", "api"), "action": "DENY", "rules": [{}]}));
    let asks = || Mesh::new(json!({"istio.io/use-waypoint": "w"})).with(deny());
    let missing = asks().get("shop/web");
    assert_eq!(said(&missing), "200");
    assert!(told(&missing, "waypoint shop/w does not exist"), "{missing:?}");
    let workloads =
        asks().with(waypoint("shop", "w", json!({"istio.io/waypoint-for": "workload"}), Value::Null));
    assert!(told(&workloads.get("shop/web"), "is not for Services"));
    let none = asks().with(waypoint("shop", "w", json!({"istio.io/waypoint-for": "none"}), Value::Null));
    assert_eq!(said(&none.get("shop/web")), "200");
    let all = asks().with(waypoint("shop", "w", json!({"istio.io/waypoint-for": "all"}), Value::Null));
    assert_eq!(said(&all.get("shop/web")), "403");
    // The namespace asks, and the Service declines.
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop",
        "labels": {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "w"}}});
    let of_namespace = |service: Value| {
        let mut mesh = Mesh::new(service).with(deny()).with(waypoint("shop", "w", json!({}), Value::Null));
        mesh.objects[0] = space.clone();
        mesh
    };
    assert_eq!(said(&of_namespace(json!({})).get("shop/web")), "403");
    assert_eq!(said(&of_namespace(json!({"istio.io/use-waypoint": "none"})).get("shop/web")), "200");
}

#[test]
fn a_waypoint_of_another_namespace_has_to_let_it_attach() {
    let asks = json!({"istio.io/use-waypoint": "w", "istio.io/use-waypoint-namespace": "infra"});
    let deny = policy("p", json!({"targetRefs": target("Service", "api"), "action": "DENY", "rules": [{}]}));
    let with = |routes: Value| {
        let mesh = Mesh::new(asks.clone()).with(deny.clone());
        said(&mesh.with(waypoint("infra", "w", json!({}), routes)).get("shop/web"))
    };
    assert_eq!(with(Value::Null), "200");
    assert_eq!(with(json!({"namespaces": {"from": "All"}})), "403");
    let selector = |key: &str| json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {key: "ambient"}}}});
    assert_eq!(with(selector("istio.io/dataplane-mode")), "403");
    assert_eq!(with(selector("other")), "200");
    // Of a namespace of which nothing was read nobody knows.
    assert!(said(&Mesh::new(asks.clone()).get("shop/web")).starts_with("? "));
}

#[test]
fn bytes_and_pods_own_addresses_go_through_as_well() {
    let tcp = Request { host: "tcp://api:9000".into(), protocol: Protocol::Tcp, ..Request::default() };
    let tcp = Request { host: "api".into(), port: Some(9000), ..tcp };
    let paths = json!([{"to": [{"operation": {"paths": ["/x"]}}]}]);
    let deny = policy("p", json!({"targetRefs": target("Service", "api"), "action": "DENY", "rules": paths}));
    assert_eq!(said(&Mesh::behind_waypoint().ask("shop/web", tcp.clone())), "connected");
    let closed = Mesh::behind_waypoint().with(deny).ask("shop/web", tcp);
    assert_eq!(closed.outcome, Outcome::Refused, "{closed:?}");
    // At a pod's own address the waypoint for Services is not met.
    let pod = Named { namespace: "shop".into(), kind: "Deployment".into(), name: "api-v1".into() };
    let at_pod = Request {
        to: Some(crate::analyze::twin::ask::Target::Object(pod)),
        port: Some(8080),
        ..Request::default()
    };
    let deny = || policy("p", json!({"targetRefs": target("Gateway", "w"), "action": "DENY", "rules": [{}]}));
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop",
        "labels": {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "w"}}});
    for (traffic, outcome) in [("service", "200"), ("workload", "403"), ("all", "403")] {
        let mut mesh = Mesh::new(json!({})).with(deny());
        mesh.objects[0] = space.clone();
        let mesh = mesh.with(waypoint("shop", "w", json!({"istio.io/waypoint-for": traffic}), Value::Null));
        assert_eq!(said(&mesh.ask("shop/web", at_pod.clone())), outcome, "{traffic}");
    }
}

#[test]
fn gateways_send_to_a_waypoint_where_they_are_told_to() {
    let gate = object(
        "gateway.networking.k8s.io/v1",
        "Gateway",
        "shop",
        "front",
        json!({}),
        json!({"gatewayClassName": "istio", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}),
    );
    let route = object(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        "shop",
        "in",
        json!({}),
        json!({"parentRefs": [{"name": "front"}], "rules": [{"backendRefs": [{"name": "api", "port": 80}]}]}),
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "front",
        "labels": {"gateway.networking.k8s.io/gateway-name": "front"}}, "spec": {"serviceAccountName": "front",
        "containers": [{"name": "istio-proxy", "args": ["proxy", "router"]}]}});
    let deny = policy(
        "p",
        json!({"targetRefs": target("Service", "api"), "action": "DENY",
            "rules": [{"to": [{"operation": {"paths": ["/pay"]}}]}]}),
    );
    for (label, outcome) in [("true", "403"), ("false", "200")] {
        let labels = json!({"istio.io/use-waypoint": "w", "istio.io/ingress-use-waypoint": label});
        let mut mesh = Mesh::new(labels).with(waypoint("shop", "w", json!({}), Value::Null));
        for object in [&gate, &route, &pod, &deny] {
            mesh.add(object.clone());
        }
        let mut builder = Builder::new();
        mesh.objects.iter().for_each(|object| builder.object(object.clone()));
        let snapshot = builder.finish();
        let from =
            Origin::Gateway(Named { namespace: "shop".into(), kind: String::new(), name: "front".into() });
        let request = Request { host: "a.example.com".into(), path: "/pay".into(), ..Request::default() };
        let answer = Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request });
        assert_eq!(said(&answer), outcome, "{answer:?}");
    }
}

#[test]
fn a_host_outside_behind_a_waypoint_gets_its_policies() {
    let entry = object(
        "networking.istio.io/v1",
        "ServiceEntry",
        "shop",
        "bank",
        json!({"istio.io/use-waypoint": "w"}),
        json!({"hosts": ["bank.example.com"], "location": "MESH_EXTERNAL", "resolution": "DNS",
            "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}]}),
    );
    let named = json!([{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "bank"}]);
    let allow =
        policy("p", json!({"targetRefs": named, "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}));
    let mesh = Mesh::behind_waypoint().with(entry).with(allow);
    let ask = |method: &str| {
        let request =
            Request { method: method.into(), host: "bank.example.com".into(), ..Request::default() };
        said(&mesh.ask("shop/web", request))
    };
    assert_eq!((ask("GET").as_str(), ask("POST").as_str()), ("200", "403"));
}
