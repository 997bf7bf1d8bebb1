//! Routes of the Gateway API: at a gateway and inside the mesh.

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::draw::{Names, object};
use crate::routes;

/// Of the Gateway API: at a gateway and inside the mesh.
pub(crate) fn drawn(dice: &mut Dice, names: &Names) -> Vec<Value> {
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
        let kind = if dice.chance(20) { "GRPCRoute" } else { "HTTPRoute" };
        if kind == "GRPCRoute" {
            spec["rules"].as_array_mut().unwrap().iter_mut().for_each(|rule| as_grpc(dice, rule));
        }
        out.push(object(kind, namespace, &format!("h{at}"), &spec));
    }
    if dice.chance(50) {
        let from = dice.one(&[&names.a, &names.gw]);
        let kind = dice.one(&["HTTPRoute", "HTTPRoute", "GRPCRoute"]);
        let spec = json!({"from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": from}], "to": [{"group": "", "kind": "Service"}]});
        out.push(object("ReferenceGrant", &names.b, "grant", &spec));
    }
    if dice.chance(20) {
        out.extend(routes::settings(dice, names));
    }
    out
}

/// What a GRPCRoute can say in the place of an HTTPRoute's rule: services and methods, which are paths of two parts.
fn as_grpc(dice: &mut Dice, rule: &mut Value) {
    for condition in rule.get_mut("matches").and_then(Value::as_array_mut).into_iter().flatten() {
        let of_path = ["path", "method", "queryParams"];
        let had =
            of_path.iter().filter(|key| condition.as_object_mut().unwrap().remove(**key).is_some()).count();
        if had > 0 || condition.as_object().unwrap().is_empty() {
            condition["method"] = dice.one(&[
                json!({"service": "a", "method": "b"}),
                json!({"service": "api"}),
                json!({"method": "v1"}),
                json!({"type": "RegularExpression", "service": "a.*", "method": "[a-z].*"}),
            ]);
        }
    }
    let rule = rule.as_object_mut().unwrap();
    rule.remove("timeouts");
    for backend in rule.get_mut("backendRefs").and_then(Value::as_array_mut).into_iter().flatten() {
        if backend["filters"][0]["type"] == "URLRewrite" {
            backend.as_object_mut().unwrap().remove("filters");
        }
    }
    if let Some(filters) = rule.get_mut("filters").and_then(Value::as_array_mut) {
        filters.retain(|filter| {
            let kind = filter["type"].as_str().unwrap();
            kind.ends_with("Modifier") || matches!(kind, "RequestMirror" | "ExtensionRef")
        });
    }
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
            3 if dice.chance(30) => {
                out["headers"] = json!([{"name": "X-Tier", "type": "RegularExpression", "value": dice.one(&["gol.*", "[a-z]+"])}])
            }
            3 => out["headers"] = json!([{"name": "x-tier", "value": dice.one(&["gold", "silver"])}]),
            4 if dice.chance(30) => {
                out["queryParams"] = json!([{"name": "x", "type": "RegularExpression", "value": "[0-9]"}])
            }
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
        filters.push(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": dice.one(&["1", "1", "%REQ(x-user)%", "100%%"])}], "add": [{"name": "x-tier", "value": "more"}], "remove": ["x-user"]}}));
    }
    if dice.chance(20) {
        filters.push(json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-from", "value": "route"}], "add": [{"name": "x-add", "value": dice.one(&["r", "r", "%RESPONSE_CODE%", "%REQ(x-tier)%"])}]}}));
    }
    if dice.chance(10) {
        filters.push(json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "api-v2", "namespace": names.a, "port": 80}}}));
    }
    if dice.chance(5) {
        filters.push(json!({"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Limit", "name": "x"}}));
    }
    if dice.chance(10) {
        out["name"] = json!(format!("rule-{}", dice.below(1000)));
    }
    if dice.chance(12) {
        let origins = dice.one(&[
            json!(["https://shop.example.com"]),
            json!(["https://*.example.com", "https://shop.example.org"]),
            json!(["*"]),
        ]);
        filters.push(json!({"type": "CORS", "cors": {"allowOrigins": origins, "allowMethods": ["GET"], "allowHeaders": ["x-tier"], "exposeHeaders": ["x-add"], "maxAge": 60}}));
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
    if dice.chance(20) {
        out["timeouts"] = dice.one(&[
            json!({"request": "400ms"}),
            json!({"request": "5s", "backendRequest": "300ms"}),
            json!({"request": "0s"}),
        ]);
    }
    let backend = |dice: &mut Dice| {
        let service = dice.one(&["api", "api", "api", "pay", "api-v2", "idle", "missing"]);
        let mut one = json!({"name": service, "port": dice.one(&[80, 80, 80, 80, 7777])});
        let home = if service == "pay" { &names.b } else { &names.a };
        if home != namespace {
            one["namespace"] = json!(home);
        }
        if dice.chance(10) {
            let changed = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": "backend"}]}});
            let rewritten =
                json!({"type": "URLRewrite", "urlRewrite": {"hostname": "rewritten.example.com"}});
            one["filters"] = json!([if dice.chance(80) { changed } else { rewritten }]);
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
