//! Routes: VirtualServices, DestinationRules, Sidecars, ServiceEntries, Gateways and the Gateway API's.

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::draw::{Names, object};
use crate::world::World;

/// Of VirtualServices and DestinationRules, inside the mesh.
pub(crate) fn in_mesh(dice: &mut Dice, names: &Names) -> Vec<Value> {
    let mut out = vec![];
    let mesh = json!(["mesh"]);
    for at in 0..1 + dice.below(3) {
        let namespace = dice.one(&[&names.a, &names.a, &names.b, &names.out]);
        let short = namespace == &names.a;
        let hosts = match dice.below(8) {
            0 | 1 if short => json!(["api"]),
            2 => json!([names.host("pay")]),
            3 => json!([format!("*.{}.svc.cluster.local", names.b)]),
            4 => json!([names.host("api"), "shop.example.com"]),
            5 => json!(["*.example.com"]),
            6 => json!([names.host("idle"), names.host("ext")]),
            _ => json!([names.host("api")]),
        };
        let mut spec = json!({"hosts": hosts, "http": http_routes(dice, names, true)});
        if dice.chance(30) {
            spec["gateways"] = mesh.clone();
        }
        if dice.chance(20) {
            spec["exportTo"] = json!([dice.one(&[".".to_owned(), "*".to_owned(), names.a.clone()])]);
        }
        if dice.chance(20) {
            let subset = dice.one(&["v1", "v2"]);
            let to = |host: &str, subset: &str| json!([{"destination": {"host": names.host(host), "subset": subset}}]);
            spec["tcp"] = json!([{"match": [{"port": 9000}], "route": to("api", subset)}]);
        }
        if dice.chance(20) {
            let host = dice.one(&["api", "pay"]);
            // A server name has to be one of the hosts.
            spec["hosts"] = json!([names.host("api"), names.host("pay")]);
            spec["tls"] = json!([{"match": [{"port": 443, "sniHosts": [names.host("api")]}],
                "route": [{"destination": {"host": names.host(host), "port": {"number": 443}}}]}]);
        }
        out.push(object("VirtualService", namespace, &format!("r{at}"), &spec));
    }
    if dice.chance(15) {
        let delegate = json!({"name": "part", "namespace": names.b});
        let spec = json!({"hosts": [names.host("api-v2")], "http": [{"match": [{"uri": {"prefix": "/a"}}], "delegate": delegate},
            {"route": [{"destination": {"host": names.host("api")}}]}]});
        out.push(object("VirtualService", &names.a, "root", &spec));
        let mut part = http_routes(dice, names, true);
        part.as_array_mut().unwrap().truncate(2);
        out.push(object("VirtualService", &names.b, "part", &json!({"http": part})));
    }
    out.extend(settings(dice, names));
    if dice.chance(15) {
        out.push(sidecar(dice, names));
    }
    out
}

/// DestinationRules.
pub(crate) fn settings(dice: &mut Dice, names: &Names) -> Vec<Value> {
    let mut out = vec![];
    let subsets = || json!([{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}, {"name": "none", "labels": {"version": "v9"}}]);
    if dice.chance(80) {
        let namespace = dice.one(&[&names.a, &names.a, &names.a, &names.b]);
        let host = match dice.below(5) {
            0 if namespace == &names.a => "api".to_owned(),
            1 => format!("*.{}.svc.cluster.local", names.a),
            _ => names.host("api"),
        };
        let mut spec = json!({"host": host, "subsets": subsets()});
        if dice.chance(35) {
            spec["trafficPolicy"] = traffic(dice);
        }
        if dice.chance(20) {
            spec["subsets"][0]["trafficPolicy"] = traffic(dice);
        }
        if dice.chance(15) {
            spec["exportTo"] = json!([dice.one(&[".".to_owned(), "*".to_owned(), names.b.clone()])]);
        }
        if dice.chance(10) {
            spec["workloadSelector"] = json!({"matchLabels": {"app": dice.one(&["web", "api"])}});
        }
        out.push(object("DestinationRule", namespace, "api", &spec));
    }
    if dice.chance(45) {
        let namespace = dice.one(&[&names.a, &names.b]);
        let host =
            dice.one(&[names.host("pay"), format!("*.{}.svc.cluster.local", names.b), "*.local".to_owned()]);
        let spec = json!({"host": host, "subsets": [{"name": "v1", "labels": {"version": "v1"}}], "trafficPolicy": traffic(dice)});
        out.push(object("DestinationRule", namespace, "other", &spec));
    }
    out
}

fn traffic(dice: &mut Dice) -> Value {
    let tls =
        |dice: &mut Dice| json!({"mode": dice.one(&["DISABLE", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "SIMPLE"])});
    let mut out = json!({"loadBalancer": {"simple": dice.one(&["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"])}});
    if dice.chance(50) {
        out["tls"] = tls(dice);
    }
    if dice.chance(25) {
        out["portLevelSettings"] = json!([{"port": {"number": dice.one(&[80, 81, 9000])}, "tls": tls(dice)}]);
    }
    out
}

fn sidecar(dice: &mut Dice, names: &Names) -> Value {
    let all = [
        "./*".to_owned(),
        format!("{}/*", names.b),
        format!("{}/*", names.out),
        "*/*".to_owned(),
        format!("./{}", names.host("api")),
        format!("{}/{}", names.b, names.host("pay")),
        format!("{}/*.example.com", names.a),
    ];
    let mut hosts = dice.some(&all, 3);
    // What tells that the configuration has come.
    hosts.push(format!("{}/*", names.gw));
    let mut spec = json!({"egress": [{"hosts": hosts}]});
    if dice.chance(50) {
        spec["outboundTrafficPolicy"] = json!({"mode": dice.one(&["REGISTRY_ONLY", "ALLOW_ANY"])});
    }
    if dice.chance(50) {
        spec["workloadSelector"] = json!({"labels": {"app": "web"}});
    }
    object("Sidecar", &names.a, "scope", &spec)
}

/// Hosts outside.
pub(crate) fn egress(dice: &mut Dice, names: &Names, world: &World<'_>) -> Vec<Value> {
    let mut out = vec![];
    for at in 0..1 + dice.below(2) {
        let namespace = dice.one(&[&names.a, &names.b, &names.out]);
        let wild = dice.chance(25);
        let hosts = if wild {
            json!(["*.example.com"])
        } else {
            json!(dice.some(&["ext.example.com", "other.example.com"], 2))
        };
        let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 81, "name": "http-two", "protocol": "HTTP"},
            {"number": 9000, "name": "tcp", "protocol": "TCP"}, {"number": 443, "name": "tls", "protocol": "TLS"}]);
        let mut spec = json!({"hosts": hosts, "location": dice.one(&["MESH_EXTERNAL", "MESH_EXTERNAL", "MESH_INTERNAL"])});
        let count = 1 + dice.below(4);
        spec["ports"] = json!(ports.as_array().unwrap()[..count]);
        let map = |all: &[(&str, u16)]| {
            let own = all.iter().take(count).map(|(name, port)| ((*name).to_owned(), json!(port)));
            Value::Object(own.collect())
        };
        match if wild { 0 } else { dice.below(3) } {
            0 => spec["resolution"] = json!("NONE"),
            1 => {
                spec["resolution"] = json!("STATIC");
                let ports = map(&[("http", 8080), ("http-two", 8080), ("tcp", 9090), ("tls", 8443)]);
                spec["endpoints"] = json!([{"address": world.ips["ext"], "ports": ports}]);
            }
            _ => {
                spec["resolution"] = json!("DNS");
                let ports = map(&[("http", 80), ("http-two", 80), ("tcp", 9000), ("tls", 443)]);
                spec["endpoints"] = json!([{"address": names.host("ext"), "ports": ports}]);
            }
        }
        if dice.chance(40) && !wild {
            spec["addresses"] = json!(["240.0.0.10"]);
        }
        if dice.chance(20) {
            spec["exportTo"] = json!([dice.one(&[".".to_owned(), "*".to_owned()])]);
        }
        out.push(object("ServiceEntry", namespace, &format!("e{at}"), &spec));
    }
    if dice.chance(60) {
        out.push(sidecar(dice, names));
    }
    if dice.chance(40) {
        let spec = json!({"hosts": ["ext.example.com"], "http": http_routes(dice, names, true)});
        out.push(object("VirtualService", &names.a, "out", &spec));
    }
    out
}

/// Of Istio's Gateways, from outside.
pub(crate) fn at_gateway(dice: &mut Dice, names: &Names) -> Vec<Value> {
    let mut out = vec![];
    let selector = names.gw.replace("-gw", "-gate");
    for name in ["one", "two"].iter().take(1 + dice.below(2)) {
        let mut servers = vec![];
        for (at, port) in dice.some(&[80, 80, 8080, 8091], 3).iter().enumerate() {
            let all = [
                "*".to_owned(),
                "shop.example.com".to_owned(),
                "*.example.com".to_owned(),
                format!("{}/*", names.a),
                format!("{}/shop.example.com", names.b),
                "*.shop.example.com".to_owned(),
            ];
            let mut server = json!({"port": {"number": port, "name": format!("http-{name}-{at}"), "protocol": "HTTP"}, "hosts": dice.some(&all, 2)});
            if dice.chance(12) {
                server["tls"] = json!({"httpsRedirect": true});
            }
            servers.push(server);
        }
        out.push(object(
            "Gateway",
            &names.gw,
            name,
            &json!({"selector": {"istio": selector}, "servers": servers}),
        ));
    }
    for at in 0..1 + dice.below(3) {
        let namespace = dice.one(&[&names.a, &names.b]);
        let bound =
            dice.some(&[format!("{}/one", names.gw), format!("{}/two", names.gw), "mesh".to_owned()], 2);
        let hosts =
            dice.some(&["shop.example.com", "*.example.com", "a.shop.example.com", "pay.example.com"], 2);
        let spec = json!({"hosts": hosts, "gateways": bound, "http": http_routes(dice, names, false)});
        out.push(object("VirtualService", namespace, &format!("g{at}"), &spec));
    }
    if dice.chance(60) {
        out.extend(settings(dice, names));
    }
    out
}

fn http_routes(dice: &mut Dice, names: &Names, mesh: bool) -> Value {
    let count = 1 + dice.below(4);
    let mut all: Vec<Value> = (0..count).map(|at| http_route(dice, names, mesh, at + 1 == count)).collect();
    if dice.chance(20) {
        all[0]["name"] = json!("first");
    }
    json!(all)
}

fn text_match(dice: &mut Dice, exact: &[&str], prefix: &[&str], regex: &[&str]) -> Value {
    match dice.below(3) {
        0 => json!({"exact": dice.one(exact)}),
        1 => json!({"prefix": dice.one(prefix)}),
        _ => json!({"regex": dice.one(regex)}),
    }
}

fn condition(dice: &mut Dice, names: &Names, mesh: bool) -> Value {
    let mut out = json!({});
    for _ in 0..=dice.below(2) {
        match dice.below(11) {
            0..=4 => {
                out["uri"] = text_match(
                    dice,
                    &["/a", "/", "/api/v1/items", "/A"],
                    &["/a", "/a/", "/api", "/"],
                    &["/a.*", "/[ab]+", "/api/v[0-9]+/.*", "/.*b"],
                );
                if dice.chance(15) {
                    out["ignoreUriCase"] = json!(true);
                }
            }
            5 => out["method"] = text_match(dice, &["GET", "POST"], &["P", "G"], &["GET|PUT", "[A-Z]+"]),
            6 => {
                out["headers"] = json!({"x-tier": text_match(dice, &["gold", "silver"], &["gol", "s"], &["gol.*", "[a-z]+"])})
            }
            7 => out["headers"] = json!({"x-user": {}}),
            8 => out["withoutHeaders"] = json!({"x-tier": text_match(dice, &["gold"], &["gol"], &["s.*"])}),
            9 => out["queryParams"] = json!({"x": text_match(dice, &["1", "2"], &["1"], &["[0-9]+", ".*"])}),
            _ if mesh => match dice.below(3) {
                0 => out["sourceLabels"] = json!({"app": dice.one(&["web", "api"])}),
                1 => out["sourceNamespace"] = json!(dice.one(&[&names.a, &names.b])),
                _ => out["port"] = json!(dice.one(&[80, 81])),
            },
            _ => {
                out["authority"] =
                    text_match(dice, &["shop.example.com"], &["shop", "a."], &[".*example.com", "shop.*"])
            }
        }
    }
    out
}

fn destination(dice: &mut Dice, names: &Names, mesh: bool) -> Value {
    let service = dice.one(&["api", "api", "api", "api", "pay", "api-v2", "idle", "missing", "ext"]);
    let mut out = json!({"host": names.host(service)});
    if service == "api" && dice.chance(55) {
        out["subset"] = json!(dice.one(&["v1", "v1", "v2", "v2", "none", "absent"]));
    }
    // A gateway cannot tell by its own port which one is meant.
    if dice.chance(40) || (!mesh && dice.chance(70)) {
        out["port"] = json!({"number": dice.one(&[80, 80, 80, 81, 7777])});
    }
    out
}

fn http_route(dice: &mut Dice, names: &Names, mesh: bool, last: bool) -> Value {
    let mut out = json!({});
    if !last || dice.chance(40) {
        let count = 1 + dice.below(2);
        out["match"] = json!((0..count).map(|_| condition(dice, names, mesh)).collect::<Vec<_>>());
    }
    match dice.below(12) {
        0 => {
            let mut redirect = json!({});
            for _ in 0..=dice.below(2) {
                match dice.below(5) {
                    0 => redirect["uri"] = json!(dice.one(&["/new", "/new/path?y=1"])),
                    1 => redirect["authority"] = json!("new.example.com"),
                    2 => redirect["redirectCode"] = json!(dice.one(&[302, 303, 307, 308])),
                    3 => redirect["port"] = json!(8443),
                    _ => redirect["scheme"] = json!("https"),
                }
            }
            if redirect.get("uri").is_none() && redirect.get("authority").is_none() {
                redirect["authority"] = json!("new.example.com");
            }
            out["redirect"] = redirect;
            return out;
        }
        1 => {
            out["directResponse"] =
                json!({"status": dice.one(&[200, 204, 404, 503]), "body": {"string": "no"}});
            return out;
        }
        _ => {}
    }
    let first = destination(dice, names, mesh);
    out["route"] = if dice.chance(25) {
        let share = dice.one(&[0, 50, 90]);
        json!([{"destination": first, "weight": share}, {"destination": destination(dice, names, mesh), "weight": 100 - share}])
    } else {
        json!([{"destination": first}])
    };
    if dice.chance(12) {
        out["rewrite"] = match dice.below(4) {
            0 => json!({"uri": dice.one(&["/", "/z", "/z/"])}),
            1 => json!({"authority": "rewritten.example.com"}),
            2 => json!({"uri": "/y", "authority": "both.example.com"}),
            _ => json!({"uriRegexRewrite": {"match": "^/(a|api)/([^/]+)", "rewrite": r"/\2/\1"}}),
        };
    }
    if dice.chance(12) {
        out["fault"] = match dice.below(3) {
            0 => json!({"delay": {"fixedDelay": "0.1s", "percentage": {"value": 100}}}),
            1 => json!({"abort": {"httpStatus": dice.one(&[400, 418, 503]), "percentage": {"value": 100}}}),
            _ => json!({"abort": {"httpStatus": 500, "percentage": {"value": 0}}}),
        };
    }
    if dice.chance(25) {
        out["timeout"] = json!(dice.one(&["0.4s", "5s"]));
    }
    if dice.chance(15) {
        out["retries"] = match dice.below(3) {
            0 => json!({"attempts": 0}),
            1 => json!({"attempts": 2, "perTryTimeout": "0.3s"}),
            _ => json!({"attempts": 1, "retryOn": "5xx"}),
        };
    }
    if dice.chance(20) {
        out["headers"] = match dice.below(4) {
            0 => json!({"request": {"set": {"x-set": "1", "x-tier": "changed"}}}),
            1 => json!({"request": {"add": {"x-add": "a", "x-tier": "more"}, "remove": ["x-user"]}}),
            2 => json!({"response": {"set": {"x-from": "route"}, "add": {"x-add": "r"}}}),
            _ => json!({"response": {"remove": ["x-from"]}}),
        };
    }
    if dice.chance(8) {
        out["route"][0]["headers"] =
            json!({"request": {"set": {"x-set": "destination"}}, "response": {"add": {"x-add": "d"}}});
    }
    if dice.chance(8) {
        out["mirror"] = json!({"host": names.host("pay"), "port": {"number": 80}});
    }
    if dice.chance(12) {
        let origins = dice.some(
            &[json!({"exact": "https://shop.example.com"}), json!({"regex": "https://.*[.]example[.]com"})],
            1,
        );
        out["corsPolicy"] = json!({"allowOrigins": origins, "allowMethods": ["GET", "POST"], "allowHeaders": ["x-tier"], "maxAge": "60s"});
    }
    out
}

/// Of the Gateway API: at a gateway and inside the mesh.
pub(crate) fn of_gateway_api(dice: &mut Dice, names: &Names) -> Vec<Value> {
    let mut out = vec![];
    for at in 0..1 + dice.below(4) {
        let namespace = dice.one(&[&names.a, &names.a, &names.b, &names.gw]);
        let mut spec = json!({});
        if dice.chance(65) {
            let mut parent = json!({"name": "front", "namespace": names.gw});
            match dice.below(4) {
                0 => parent["sectionName"] = json!(dice.one(&["any", "some", "other", "own", "absent"])),
                1 => parent["port"] = json!(dice.one(&[80, 8080, 8081])),
                _ => {}
            }
            spec["parentRefs"] = json!([parent]);
            if dice.chance(75) {
                spec["hostnames"] = json!(dice.some(
                    &["shop.example.com", "*.example.com", "*.shop.example.com", "api.example.org"],
                    2
                ));
            }
        } else {
            let service = dice.one(&["api", "api", "pay"]);
            let home = if service == "pay" { &names.b } else { &names.a };
            let mut parent = json!({"group": "", "kind": "Service", "name": service, "namespace": home});
            if dice.chance(50) {
                parent["port"] = json!(dice.one(&[80, 81]));
            }
            spec["parentRefs"] = json!([parent]);
        }
        let count = 1 + dice.below(3);
        spec["rules"] = json!((0..count).map(|_| api_rule(dice, names, namespace)).collect::<Vec<_>>());
        out.push(object("HTTPRoute", namespace, &format!("h{at}"), &spec));
    }
    if dice.chance(50) {
        let from = dice.one(&[&names.a, &names.gw]);
        let spec = json!({"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from}], "to": [{"group": "", "kind": "Service"}]});
        out.push(object("ReferenceGrant", &names.b, "grant", &spec));
    }
    if dice.chance(20) {
        out.extend(settings(dice, names));
    }
    out
}

fn api_condition(dice: &mut Dice) -> Value {
    let mut out = json!({});
    for _ in 0..=dice.below(2) {
        match dice.below(6) {
            0..=2 => {
                let (kind, values) = dice.one(&[
                    ("Exact", ["/a", "/api/v1/items", "/"]),
                    ("PathPrefix", ["/a", "/api", "/"]),
                    ("PathPrefix", ["/a/", "/api/v1", "/b"]),
                    ("RegularExpression", ["/a.*", "/api/v[0-9]+/.*", "/[ab]"]),
                ]);
                out["path"] = json!({"type": kind, "value": dice.one(&values)});
            }
            3 => out["headers"] = json!([{"name": "x-tier", "value": dice.one(&["gold", "silver"])}]),
            4 => out["queryParams"] = json!([{"name": "x", "value": dice.one(&["1", "2"])}]),
            _ => out["method"] = json!(dice.one(&["GET", "POST"])),
        }
    }
    out
}

fn api_rule(dice: &mut Dice, names: &Names, namespace: &str) -> Value {
    let mut out = json!({});
    if dice.chance(75) {
        let count = 1 + dice.below(2);
        out["matches"] = json!((0..count).map(|_| api_condition(dice)).collect::<Vec<_>>());
    }
    let mut filters = vec![];
    if dice.chance(25) {
        filters.push(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": "1"}], "add": [{"name": "x-tier", "value": "more"}], "remove": ["x-user"]}}));
    }
    if dice.chance(20) {
        filters.push(json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-from", "value": "route"}], "add": [{"name": "x-add", "value": "r"}]}}));
    }
    let prefix =
        out["matches"].as_array().is_some_and(|all| all.len() == 1 && all[0]["path"]["type"] == "PathPrefix");
    let path = |dice: &mut Dice| {
        if prefix && dice.chance(60) {
            json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": dice.one(&["/z", "/", "/z/"])})
        } else {
            json!({"type": "ReplaceFullPath", "replaceFullPath": "/full"})
        }
    };
    if dice.chance(15) {
        let mut redirect = json!({"statusCode": dice.one(&[301, 302])});
        match dice.below(4) {
            0 => redirect["hostname"] = json!("new.example.com"),
            1 => redirect["scheme"] = json!("https"),
            2 => redirect["port"] = json!(8443),
            _ => redirect["path"] = path(dice),
        }
        filters.push(json!({"type": "RequestRedirect", "requestRedirect": redirect}));
        out["filters"] = json!(filters);
        return out;
    }
    if dice.chance(20) {
        let mut rewrite = json!({});
        if dice.chance(40) {
            rewrite["hostname"] = json!("rewritten.example.com");
        }
        if dice.chance(70) || rewrite.get("hostname").is_none() {
            rewrite["path"] = path(dice);
        }
        filters.push(json!({"type": "URLRewrite", "urlRewrite": rewrite}));
    }
    if !filters.is_empty() {
        out["filters"] = json!(filters);
    }
    if dice.chance(15) {
        out["timeouts"] = json!({"request": "400ms"});
    }
    let backend = |dice: &mut Dice| {
        let service = dice.one(&["api", "api", "api", "pay", "api-v2", "idle", "missing"]);
        let mut one = json!({"name": service, "port": dice.one(&[80, 80, 80, 80, 7777])});
        let home = if service == "pay" { &names.b } else { &names.a };
        if home != namespace {
            one["namespace"] = json!(home);
        }
        one
    };
    if !dice.chance(6) {
        let first = backend(dice);
        out["backendRefs"] = if dice.chance(25) {
            let (mut first, mut second) = (first, backend(dice));
            first["weight"] = json!(dice.one(&[0, 1, 5]));
            second["weight"] = json!(dice.one(&[1, 3]));
            json!([first, second])
        } else {
            json!([first])
        };
    }
    out
}
