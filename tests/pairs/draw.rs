//! Draws a configuration and the requests to try it with.

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::gateway_api;
use crate::outside;
use crate::policies;
use crate::routes;
use crate::world::{Question, World};

/// A configuration and requests.
#[derive(Debug)]
pub(crate) struct Drawn {
    /// What it is about.
    pub(crate) theme: String,
    /// Its objects.
    pub(crate) objects: Vec<Value>,
    /// Its requests.
    pub(crate) questions: Vec<Question>,
}

/// Names that configurations are made of.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) out: String,
    pub(crate) gw: String,
}

impl Names {
    /// The full name of a Service.
    pub(crate) fn host(&self, service: &str) -> String {
        let namespace = match service {
            "pay" => &self.b,
            "ext" => &self.out,
            _ => &self.a,
        };
        format!("{service}.{namespace}.svc.cluster.local")
    }
}

const THEMES: &[(&str, usize)] = &[
    ("routes", 30),
    ("policies", 18),
    ("gateway", 16),
    ("gateway-api", 16),
    ("egress", 15),
    ("egress-gateway", 5),
];
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/ab",
    "/A",
    "/b",
    "/api/v1/items",
    "/api/v2/items?x=1&y=two",
    "/api/v1",
    "/old/path",
    "/a?x=1",
    "/a?x=2&z",
    "/a/../b",
    "/a//b",
    "/admin",
];
const METHODS: &[&str] = &["GET", "GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS"];

pub(crate) fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    let version = match kind {
        "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => "security.istio.io/v1",
        "HTTPRoute" | "GRPCRoute" => "gateway.networking.k8s.io/v1",
        "ReferenceGrant" => "gateway.networking.k8s.io/v1beta1",
        _ => "networking.istio.io/v1",
    };
    json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// One configuration with so many requests.
pub(crate) fn configuration(dice: &mut Dice, world: &World<'_>, requests: u64) -> Drawn {
    let part = |part: &str| format!("{}-{part}", world.prefix);
    let names = Names { a: part("a"), b: part("b"), out: part("out"), gw: part("gw") };
    let theme = std::env::var("MESHSCOPE_PAIRS_THEME").unwrap_or_else(|_| {
        let mut at = dice.below(100);
        let found = THEMES.iter().find(|(_, share)| {
            let here = at < *share;
            at = at.saturating_sub(*share);
            here
        });
        found.map_or("routes", |(name, _)| name).to_owned()
    });
    let mut objects = match theme.as_str() {
        "policies" => policies::drawn(dice, &names, world),
        "gateway" => routes::at_gateway(dice, &names),
        "gateway-api" => gateway_api::drawn(dice, &names),
        "egress" => outside::entries(dice, &names, world),
        "egress-gateway" => outside::through_gateway(dice, &names, world),
        _ => routes::in_mesh(dice, &names),
    };
    // Kinds that meet each other.
    if theme == "routes" && dice.chance(25) {
        objects.extend(policies::drawn(dice, &names, world));
    }
    if theme == "policies" && dice.chance(30) {
        objects.extend(routes::settings(dice, &names));
    }
    let questions = (0..requests)
        .map(|at| match theme.as_str() {
            "gateway" => at_gateway(dice, &names, world, "gate", at),
            "gateway-api" if dice.chance(60) => at_gateway(dice, &names, world, "front", at),
            "egress" | "egress-gateway" => outward(dice, &names, world, at),
            _ => in_mesh(dice, &names, world, at),
        })
        .collect();
    Drawn { theme, objects, questions }
}

/// Headers that conditions look at, and those by which a backend is told what to do.
fn headers(dice: &mut Dice) -> Value {
    let mut out = json!({});
    if dice.chance(45) {
        out["x-tier"] = json!(dice.one(&["gold", "golden", "silver", "Gold"]));
    }
    if dice.chance(25) {
        out["x-user"] = json!(dice.one(&["alice", "bob"]));
    }
    if dice.chance(12) {
        out["origin"] = json!(dice.one(&["https://shop.example.com", "https://other.example.com"]));
        if dice.chance(50) {
            out["access-control-request-method"] = json!("POST");
        }
    }
    if dice.chance(10) {
        out["x-pair-delay"] = json!("900ms");
    } else if dice.chance(10) {
        out["x-pair-status"] = json!(dice.one(&["200", "404", "418", "500"]));
    }
    if dice.chance(18) {
        let token = dice.one(&["alice", "bob", "stranger", "garbage"]);
        out["authorization"] = json!(format!("Bearer {}", policies::token(token)));
    }
    out
}

/// The backend's answer to such headers, as the twin is told of it.
fn backend(headers: &Value) -> Value {
    let mut out = json!({"headers": {"x-from": "backend"}});
    if let Some(delay) = headers["x-pair-delay"].as_str() {
        out["delay"] = json!(delay);
    }
    if let Some(status) = headers["x-pair-status"].as_str() {
        out["status"] = json!(status.parse::<u16>().unwrap());
    }
    out
}

fn http(dice: &mut Dice) -> Value {
    let headers = headers(dice);
    let preflight = headers.get("access-control-request-method").is_some() && dice.chance(70);
    let method = if preflight { "OPTIONS" } else { dice.one(METHODS) };
    json!({"protocol": "http", "method": method, "path": dice.one(PATHS), "backendResponse": backend(&headers), "headers": headers})
}

fn question(
    ask: Value,
    from: &'static str,
    kind: &str,
    dial: String,
    proxy: Option<&'static str>,
) -> Question {
    let request = &ask["request"];
    let send = json!({
        "name": ask["name"], "kind": kind, "dial": dial, "method": request["method"], "host": request["host"],
        "path": request["path"], "sni": request["sni"].as_str().unwrap_or_default(),
        "headers": if request["headers"].is_object() { request["headers"].clone() } else { json!({}) },
    });
    Question { ask, from, send, proxy }
}

/// The client, as the twin knows it.
fn client(dice: &mut Dice, names: &Names) -> (&'static str, Value, Option<&'static str>) {
    if dice.chance(72) {
        ("web", json!({"workload": {"namespace": names.a, "kind": "Deployment", "name": "web"}}), Some("web"))
    } else {
        ("bare", json!({"workload": {"namespace": names.out, "kind": "Deployment", "name": "bare"}}), None)
    }
}

/// A request to a Service, under one of its names.
fn in_mesh(dice: &mut Dice, names: &Names, world: &World<'_>, at: u64) -> Question {
    let (from, origin, proxy) = client(dice, names);
    let all = ["api", "api", "api", "api", "api", "pay", "pay", "api-v2", "idle", "ext", "many", "named"];
    let service = dice.one(&all);
    let full = names.host(service);
    let short = full.trim_end_matches(".svc.cluster.local");
    let inside = from == "web" && !matches!(service, "pay" | "ext");
    let written = match dice.below(6) {
        0 | 1 if inside => service.to_owned(),
        2 => short.to_owned(),
        3 => format!("{short}.svc"),
        _ => full.clone(),
    };
    if service == "many" && dice.chance(25) {
        let request = json!({"protocol": "tcp", "host": written, "port": 9090});
        let ask = json!({"name": at.to_string(), "from": origin, "request": request});
        return question(ask, from, "tcp", format!("{written}:9090"), proxy);
    }
    if service == "many" {
        let mut request = http(dice);
        request["host"] = json!(format!("{written}:8080"));
        request["port"] = json!(8080);
        let ask = json!({"name": at.to_string(), "from": origin, "request": request});
        return question(ask, from, "http", format!("{written}:8080"), proxy);
    }
    let wide = matches!(service, "api" | "pay" | "ext");
    if wide && dice.chance(12) {
        let request = json!({"protocol": "tcp", "host": written, "port": 9000});
        let ask = json!({"name": at.to_string(), "from": origin, "request": request});
        return question(ask, from, "tcp", format!("{written}:9000"), proxy);
    }
    if wide && dice.chance(8) {
        let mut request = http(dice);
        let sni = if dice.chance(70) { full } else { "other.example.com".to_owned() };
        request["host"] = json!(written);
        request["port"] = json!(443);
        request["tls"] = json!("tls");
        request["sni"] = json!(sni);
        let ask = json!({"name": at.to_string(), "from": origin, "request": request});
        return question(ask, from, "https", format!("{written}:443"), proxy);
    }
    let port = if wide && dice.chance(15) { 81 } else { 80 };
    let mut request = http(dice);
    let mut dial = format!("{written}:{port}");
    request["port"] = json!(port);
    request["host"] =
        json!(if port != 80 && dice.chance(80) { format!("{written}:{port}") } else { written });
    if dice.chance(12) && wide {
        // A name that is none of the Service's, at its address.
        request["host"] =
            json!(dice.one(&["shop.example.com", "api", "nothing.example.com", "API.example.com"]));
        let ip = world.ips[&format!("svc/{service}")].clone();
        dial = format!("{ip}:{port}");
        request["to"] = json!({"ip": ip});
    } else if dice.chance(6) && from == "bare" {
        let pod = dice.one(&["api-v1", "pay"]);
        let ip = world.ips[pod].clone();
        dial = format!("{ip}:8080");
        request["to"] = json!({"ip": ip});
        request["port"] = json!(8080);
    }
    let ask = json!({"name": at.to_string(), "from": origin, "request": request});
    question(ask, from, "http", dial, proxy)
}

/// A request to a gateway.
fn at_gateway(dice: &mut Dice, names: &Names, world: &World<'_>, gateway: &'static str, at: u64) -> Question {
    let passed = gateway == "gate" && dice.chance(20);
    if passed {
        return past_gateway(dice, names, world, at);
    }
    let mut request = http(dice);
    let port = if gateway == "gate" {
        dice.one(&[80, 80, 80, 8080, 8090])
    } else {
        dice.one(&[80, 80, 80, 8080, 8081])
    };
    let host = dice.one(&[
        "shop.example.com",
        "shop.example.com",
        "a.shop.example.com",
        "pay.example.com",
        "api.example.org",
        "SHOP.example.com",
    ]);
    request["port"] = json!(port);
    request["host"] = json!(if dice.chance(20) { format!("{host}:{port}") } else { host.to_owned() });
    let (object, service, proxy) = if gateway == "gate" {
        ("one", "svc/gate", "gate")
    } else {
        ("front", "svc/front-istio", "front-istio")
    };
    let from = json!({"gateway": {"namespace": names.gw, "name": object}});
    let ask = json!({"name": at.to_string(), "from": from, "request": request});
    question(ask, "bare", "http", format!("{}:{port}", world.ips[service]), Some(proxy))
}

/// A connection that a gateway passes on as bytes, if it does.
fn past_gateway(dice: &mut Dice, names: &Names, world: &World<'_>, at: u64) -> Question {
    let from = json!({"gateway": {"namespace": names.gw, "name": "one"}});
    let port = dice.one(&[8080, 8090]);
    let dial = format!("{}:{port}", world.ips["svc/gate"]);
    if dice.chance(40) {
        let request = json!({"protocol": "tcp", "host": "shop.example.com", "port": port});
        let ask = json!({"name": at.to_string(), "from": from, "request": request});
        return question(ask, "bare", "tcp", dial, Some("gate"));
    }
    let sni = dice.one(&["shop.example.com", "a.shop.example.com", "pay.example.com", "api.example.org"]);
    let mut request = http(dice);
    request["host"] = json!(sni);
    request["port"] = json!(port);
    request["tls"] = json!("tls");
    request["sni"] = json!(sni);
    let ask = json!({"name": at.to_string(), "from": from, "request": request});
    question(ask, "bare", "https", dial, Some("gate"))
}

/// A request for something that is no Service of the mesh.
fn outward(dice: &mut Dice, names: &Names, world: &World<'_>, at: u64) -> Question {
    if dice.chance(35) {
        return in_mesh(dice, names, world, at);
    }
    let origin = json!({"workload": {"namespace": names.a, "kind": "Deployment", "name": "web"}});
    let ext = world.ips["svc/ext"].clone();
    let ip = dice.one(&[ext.clone(), ext, "240.0.0.10".to_owned(), "240.0.0.11".to_owned()]);
    let name = dice.one(&["ext.example.com", "ext.example.com", "other.example.com", "ext.example.org"]);
    if dice.chance(25) {
        let request = json!({"protocol": "tcp", "host": name, "to": {"ip": ip}, "port": 9000});
        let ask = json!({"name": at.to_string(), "from": origin, "request": request});
        return question(ask, "web", "tcp", format!("{ip}:9000"), Some("web"));
    }
    let mut request = http(dice);
    request["to"] = json!({"ip": ip});
    if dice.chance(20) {
        request["host"] = json!(name);
        request["port"] = json!(443);
        request["tls"] = json!("tls");
        request["sni"] = json!(name);
        let ask = json!({"name": at.to_string(), "from": origin, "request": request});
        return question(ask, "web", "https", format!("{ip}:443"), Some("web"));
    }
    let port = dice.one(&[80, 80, 81]);
    request["host"] = json!(if port == 81 { format!("{name}:81") } else { name.to_owned() });
    request["port"] = json!(port);
    let ask = json!({"name": at.to_string(), "from": origin, "request": request});
    question(ask, "web", "http", format!("{ip}:{port}"), Some("web"))
}
