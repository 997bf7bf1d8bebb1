//! Istio's routes: VirtualServices, DestinationRules, Sidecars and Gateways.

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::draw::{Names, object};

/// Of VirtualServices and DestinationRules, inside the mesh.
pub(crate) fn in_mesh(dice: &mut Dice, names: &Names) -> Vec<Value> {
    let mut out = vec![];
    let mesh = json!(["mesh"]);
    for at in 0..1 + dice.below(3) {
        let namespace = dice.one(&[&names.a, &names.a, &names.b, &names.out]);
        let short = namespace == &names.a;
        let hosts = match dice.below(9) {
            0 | 1 if short => json!(["api"]),
            2 => json!([names.host("pay")]),
            3 => json!([format!("*.{}.svc.cluster.local", names.b)]),
            4 => json!([names.host("api"), "shop.example.com"]),
            5 => json!(["*.example.com"]),
            6 => json!([names.host("idle"), names.host("ext")]),
            7 => json!([names.host("many"), names.host("named")]),
            _ => json!([names.host("api")]),
        };
        let mut spec = json!({"hosts": hosts, "http": http_routes(dice, names, true)});
        if dice.chance(30) {
            spec["gateways"] = mesh.clone();
        }
        if dice.chance(20) {
            let all = [".".to_owned(), "*".to_owned(), "~".to_owned(), names.a.clone(), names.b.clone()];
            spec["exportTo"] = json!(dice.some(&all, 2));
        }
        if dice.chance(20) {
            spec["tcp"] = bytes(dice, names);
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
    if dice.chance(25) {
        out.extend(delegation(dice, names));
    }
    out.extend(settings(dice, names));
    if dice.chance(15) {
        out.push(sidecar(dice, names));
    }
    out
}

/// Rules for bytes: to a subset, to several, for some clients, for some addresses.
fn bytes(dice: &mut Dice, names: &Names) -> Value {
    let to = |host: &str, subset: &str| json!({"destination": {"host": names.host(host), "subset": subset, "port": {"number": 9000}}});
    let mut condition = json!({"port": 9000});
    match dice.below(5) {
        0 => condition["sourceLabels"] = json!({"app": dice.one(&["web", "api"])}),
        1 => condition["sourceNamespace"] = json!(dice.one(&[&names.a, &names.b])),
        2 => condition["destinationSubnets"] = json!([dice.one(&["10.96.0.0/12", "10.244.0.0/16"])]),
        3 => condition["gateways"] = json!(["mesh"]),
        _ => {}
    }
    let mut route = json!([to("api", dice.one(&["v1", "v2"]))]);
    if dice.chance(30) {
        route[0]["weight"] = json!(30);
        let mut other = to(dice.one(&["api", "pay"]), "v1");
        other["weight"] = json!(70);
        route = json!([route[0], other]);
    }
    json!([{"match": [condition], "route": route}])
}

/// A VirtualService whose rules stand in others.
fn delegation(dice: &mut Dice, names: &Names) -> Vec<Value> {
    let delegate = |name: &str| json!({"name": name, "namespace": names.b});
    let mut first =
        json!({"match": [{"uri": {"prefix": dice.one(&["/a", "/api", "/"])}}], "delegate": delegate("part")});
    if dice.chance(40) {
        first["match"] = json!([condition(dice, names, true), condition(dice, names, true)]);
    }
    match dice.below(5) {
        0 => first["timeout"] = json!("0.4s"),
        1 => first["headers"] = json!({"request": {"set": {"x-set": "root"}}}),
        2 => first["fault"] = json!({"abort": {"httpStatus": 418, "percentage": {"value": 100}}}),
        3 => first["rewrite"] = json!({"uri": "/root"}),
        _ => {}
    }
    let mut rules = json!([first, {"route": [{"destination": {"host": names.host("api")}}]}]);
    if dice.chance(30) {
        rules = json!([rules[0], {"match": [{"uri": {"prefix": "/b"}}], "delegate": delegate(dice.one(&["rest", "nobody"]))}, rules[1]]);
    }
    let spec = json!({"hosts": [names.host("api-v2")], "http": rules});
    let mut out = vec![object("VirtualService", &names.a, "root", &spec)];
    for name in ["part", "rest"] {
        let mut part = http_routes(dice, names, true);
        part.as_array_mut().unwrap().truncate(2);
        let mut spec = json!({"http": part});
        if dice.chance(20) {
            spec["exportTo"] = json!([dice.one(&[".".to_owned(), names.a.clone()])]);
        }
        out.push(object("VirtualService", &names.b, name, &spec));
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

pub(crate) fn traffic(dice: &mut Dice) -> Value {
    let tls =
        |dice: &mut Dice| json!({"mode": dice.one(&["DISABLE", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "SIMPLE"])});
    let mut out = json!({"loadBalancer": {"simple": dice.one(&["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"])}});
    match dice.below(11) {
        4 => out["loadBalancer"] = json!({"simple": "PASSTHROUGH"}),
        5 => out["loadBalancer"] = json!({"consistentHash": {"httpCookie": {"name": "user", "ttl": "0s"}}}),
        6 => out["outlierDetection"] = json!({"consecutive5xxErrors": 1000, "interval": "1h"}),
        0 => out["loadBalancer"] = json!({"consistentHash": {"httpHeaderName": "x-user"}}),
        1 => out["loadBalancer"] = json!({"consistentHash": {"useSourceIp": true}}),
        2 => {
            out["connectionPool"] = json!({"http": {"maxRequestsPerConnection": 1, "h2UpgradePolicy": dice.one(&["UPGRADE", "DO_NOT_UPGRADE"])}})
        }
        3 => out["retryBudget"] = json!({"percent": 20, "minRetryConcurrency": 3}),
        _ => {}
    }
    if dice.chance(50) {
        out["tls"] = tls(dice);
    }
    if dice.chance(25) {
        let port = json!({"number": dice.one(&[80, 80, 81, 9000])});
        // What a port leaves out is not taken from the level above.
        out["portLevelSettings"] = if dice.chance(60) {
            json!([{"port": port, "tls": tls(dice)}])
        } else {
            json!([{"port": port, "loadBalancer": {"simple": dice.one(&["RANDOM", "RANDOM", "PASSTHROUGH"])}}])
        };
    }
    out
}

pub(crate) fn sidecar(dice: &mut Dice, names: &Names) -> Value {
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
    let marker = format!("{}/*", names.gw);
    hosts.push(marker.clone());
    let mut spec = json!({"egress": [{"hosts": hosts}]});
    if dice.chance(30) {
        let port = dice.one(&[
            json!({"number": 80, "name": "http", "protocol": "HTTP"}),
            json!({"number": 81, "name": "http-81", "protocol": "HTTP"}),
            json!({"number": 9000, "name": "tcp", "protocol": "TCP"}),
        ]);
        let mut own = dice.some(&all, 2);
        own.push(marker);
        spec["egress"] = json!([{"port": port, "hosts": own}, spec["egress"][0]]);
    }
    if dice.chance(15) {
        let without = dice.one(&[format!("~{}/*", names.b), format!("~*/{}", names.host("ext"))]);
        spec["egress"].as_array_mut().unwrap().last_mut().unwrap()["hosts"]
            .as_array_mut()
            .unwrap()
            .push(json!(without));
    }
    if dice.chance(50) {
        spec["outboundTrafficPolicy"] = json!({"mode": dice.one(&["REGISTRY_ONLY", "ALLOW_ANY"])});
    }
    if dice.chance(50) {
        spec["workloadSelector"] = json!({"labels": {"app": "web"}});
    }
    object("Sidecar", &names.a, "scope", &spec)
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
            } else if *port != 80 && dice.chance(40) {
                // Bytes: as they are, or TLS by its server name.
                let tls = dice.chance(60);
                server["port"]["protocol"] = json!(if tls { "TLS" } else { "TCP" });
                if tls {
                    server["tls"] = json!({"mode": "PASSTHROUGH"});
                }
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
        let mut spec = json!({"hosts": hosts, "gateways": bound, "http": http_routes(dice, names, false)});
        if dice.chance(40) {
            let port = dice.one(&[8080, 8091]);
            let sni = hosts[0];
            let to = |host: &str, port: u16| json!([{"destination": {"host": names.host(host), "port": {"number": port}}}]);
            spec["tls"] = json!([{"match": [{"port": port, "sniHosts": [sni]}], "route": to(dice.one(&["api", "ext"]), 443)}]);
            spec["tcp"] = json!([{"match": [{"port": dice.one(&[8080, 8091])}], "route": to(dice.one(&["api", "pay", "ext"]), 9000)}]);
        }
        out.push(object("VirtualService", namespace, &format!("g{at}"), &spec));
    }
    if dice.chance(60) {
        out.extend(settings(dice, names));
    }
    if dice.chance(25) {
        out.push(crate::policies::at_gateway(dice, names, &selector));
    }
    out
}

/// Values that proxies put together, of a request's headers and of an answer's.
pub(crate) const ASKED: &[&str] = &[
    "%REQ(x-user)%",
    "%REQ(X-None?x-tier)%",
    "[%REQ(x-user):3%]",
    "100%%",
    "%REQ(:path)% %REQ(:authority)%",
    "%PROTOCOL% %ROUTE_NAME%",
    "%RESPONSE_CODE%%RESPONSE_FLAGS%",
    "%DURATION%",
    "%REQ(x-tier)%",
];
pub(crate) const ANSWERED: &[&str] = &[
    "%RESPONSE_CODE%",
    "%RESP(:status)% %RESP(x-from)%",
    "%REQ(x-user)%",
    "%REQ(:path)% %REQ(:authority)%",
    "%RESPONSE_FLAGS%",
    "%RESPONSE_CODE_DETAILS%",
    "%ROUTE_NAME% %REQ(x-set)%",
    "%START_TIME(%s)%",
];

pub(crate) fn http_routes(dice: &mut Dice, names: &Names, mesh: bool) -> Value {
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
            8 => {
                out["withoutHeaders"] =
                    json!({"x-tier": text_match(dice, &["gold"], &["gol"], &["s.*", ".*", "*"])})
            }
            9 => out["queryParams"] = json!({"x": text_match(dice, &["1", "2"], &["1"], &["[0-9]+", ".*"])}),
            _ if mesh => match dice.below(6) {
                3 => out["gateways"] = json!([dice.one(&["mesh".to_owned(), format!("{}/one", names.gw)])]),
                4 => {
                    out["authority"] = text_match(
                        dice,
                        &[&names.host("api"), "api"],
                        &["api", "pay"],
                        &[".*[.]local", "[a-z]+"],
                    )
                }
                5 => out["scheme"] = json!({"exact": dice.one(&["http", "https"])}),
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
                match dice.below(8) {
                    5 => {
                        redirect["derivePort"] =
                            json!(dice.one(&["FROM_REQUEST_PORT", "FROM_PROTOCOL_DEFAULT"]))
                    }
                    6 => redirect["port"] = json!(dice.one(&[80, 443])),
                    7 if redirect.get("uri").is_none() => redirect["prefixRewrite"] = json!("/pre"),
                    0 | 7 => redirect["uri"] = json!(dice.one(&["/new", "/new/path?y=1"])),
                    1 => redirect["authority"] = json!("new.example.com"),
                    2 => redirect["redirectCode"] = json!(dice.one(&[302, 303, 307, 308])),
                    3 => redirect["port"] = json!(8443),
                    _ => redirect["scheme"] = json!("https"),
                }
            }
            if redirect.get("derivePort").is_some() {
                redirect.as_object_mut().unwrap().remove("port");
            }
            if redirect.get("prefixRewrite").is_some() {
                redirect.as_object_mut().unwrap().remove("uri");
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
        out["fault"] = match dice.below(7) {
            3 => json!({"abort": {"httpStatus": 418}}),
            4 => {
                json!({"delay": {"fixedDelay": "0.6s", "percentage": {"value": 100}}, "abort": {"httpStatus": 429, "percentage": {"value": 100}}})
            }
            5 => json!({"delay": {"fixedDelay": "0.6s", "percentage": {"value": 100}}}),
            6 => json!({"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}}),
            0 => json!({"delay": {"fixedDelay": "0.1s", "percentage": {"value": 100}}}),
            1 => json!({"abort": {"httpStatus": dice.one(&[400, 418, 503]), "percentage": {"value": 100}}}),
            _ => json!({"abort": {"httpStatus": 500, "percentage": {"value": 0}}}),
        };
    }
    if dice.chance(25) {
        out["timeout"] = json!(dice.one(&["0.4s", "0.4s", "5s"]));
    }
    if dice.chance(15) {
        out["retries"] = match dice.below(5) {
            3 => json!({"attempts": 2, "retryOn": "418,connect-failure"}),
            4 => json!({"attempts": 1, "perTryTimeout": "0.3s", "retryOn": "5xx"}),
            0 => json!({"attempts": 0}),
            1 => json!({"attempts": 2, "perTryTimeout": "0.3s"}),
            _ => json!({"attempts": 1, "retryOn": "5xx"}),
        };
    }
    if dice.chance(20) {
        out["headers"] = match dice.below(6) {
            4 => json!({"request": {"set": {"host": "set.example.com"}}}),
            5 => {
                json!({"request": {"set": {"x-set": dice.one(ASKED)}, "remove": ["x-tier"]}, "response": {"set": {"x-add": dice.one(ANSWERED)}}})
            }
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
    if dice.chance(if out.get("fault").is_some() { 40 } else { 12 }) {
        let origins = dice.some(
            &[
                json!({"exact": "https://shop.example.com"}),
                json!({"regex": "https://.*[.]example[.]com"}),
                json!({"exact": "*"}),
                json!({"prefix": "https://other"}),
            ],
            2,
        );
        out["corsPolicy"] = json!({"allowOrigins": origins, "allowMethods": ["GET", "POST"], "allowHeaders": ["x-tier"], "maxAge": "60s"});
        if dice.chance(30) {
            out["corsPolicy"]["allowCredentials"] = json!(dice.chance(60));
        }
        if dice.chance(30) {
            out["corsPolicy"]["exposeHeaders"] = json!(["x-from", "x-add"]);
        }
        if dice.chance(30) {
            out["corsPolicy"]["unmatchedPreflights"] = json!(dice.one(&["IGNORE", "FORWARD"]));
        }
    }
    out
}
