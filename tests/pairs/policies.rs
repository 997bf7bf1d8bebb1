//! Policies: who may speak to whom, and how.

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::draw::{Names, object};
use crate::world::{MARKER, World};

/// The public half of a key that was made for this file; nothing else was ever signed with it.
const KEYS: &str = "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"pair\",\"alg\":\"RS256\",\"e\":\"AQAB\",\"n\":\"szy4ZSl4YNMBZv3Tt2Qo12ADTrgWWWeKkqye5oq6AYhSbRqLkQVsL2XxHBoUbBBRag1HjDFeLl9vvEAi5aBb0sX-8K3hs36x0KzodCLVA7pAAPAojiC8D57SVAWgrfnFjftYdt2jzCwdlop_EX9mNGSvBQKeoMDso7JV38vlpygJLZQb7xSmXu7l8uM7MkEhG8PtxN8H6CsHO9JoThsuoRxGYWlXoy6JBPU4zlps5Tq9i1ONUcxNiMroacDDymZWXfxr0796qHwHCkxus8I8_o08Gn5pcz6NuWW6iaY3eXDvADOFjnIIhCIHci1yWn1RjSM34fC_Hwf6lSUe7ceyxQ\"}]}";
const ALICE: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InBhaXIiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJpc3N1ZXJAcGFpci5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJhdWQiOiJzaG9wIiwiZXhwIjo0MTAyNDQ0ODAwLCJncm91cHMiOlsic3RhZmYiLCJhZG1pbiJdfQ.UqEprjdIcJcBPVGUIP9_hib98Qv4rorMS2yO38PYqb40KjNyj0roJK189TMjWSopsmwCuiAOTiva1PH94zaupC4hHG-aEZS90JsNbqWyKkBSstKMBtgdL49IAG58GMkkIK3KfRuRU4QGz5z4YuGVcDXpqtAdLfenCrNarTYdRYX2cH-1J80SO0DqMWRaNi-4u7sgE8J0wJ3J1l_J1meoxYXi8SBSwOxND0YiUcbHzoJozb6gxdt_KLc-UyquL5e0TWLbpmU5oPgoiq8vHS_VoecA0O_FIfO0ZRt8eePFQ_LReLMlHw-EOZ-U27RYJiPf6ydjp7Iu5_ZEniJ-GMPKAQ";
const BOB: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InBhaXIiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJpc3N1ZXJAcGFpci5leGFtcGxlIiwic3ViIjoiYm9iIiwiYXVkIjpbImJhbmsiXSwiZXhwIjo0MTAyNDQ0ODAwLCJncm91cHMiOlsiZ3Vlc3QiXX0.ifTIhdW5lrOktFapwiYy8w0q7_Py7vxOBVJGEQVIyAUW8Ye76EucL0wHtVFMKu4qpyhQhRaDUSqwbLlhZm-sh7poNGqESulrm-q3Wk0Zi1MAZlAimXkzDKYpovv-DF4JhUJjINDdjvpXSa19fq0gpBiyImPyfj6KJBwDqHZFQPeKS4Dofg6rSdeCyUwnANalIL3yLfOHU0Lc7hPq9TUqIFssOztf4T5mUmiXWIM4aJzeP8yN6fBCYQGOD_hZFAU5aSChUNIoT_3rydQJAb5XYARNYN_pxN-ivHvCFKPxRgE7UBz8dmeCsmV_uUfW_KIpu33mBWSEG8aufJYYMKiBKg";
const STRANGER: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InBhaXIiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJzb21lYm9keUBlbHNlLmV4YW1wbGUiLCJzdWIiOiJjYXJvbCIsImV4cCI6NDEwMjQ0NDgwMH0.nQ_cdq5C2rp9rt5NRu0EIrdfnBA_QrdwbjN7ImbrqJVYbYu_skWIgN1KbtedGz3lR3RkydrTAYmluS_Cd8PDPdiGRwcV1-KO2luIgYBZWWPpMusWotscjWSMPGZmbkiWjMzrQFjCbkN56PZWKiVhlklMkVCmqktjrRSsawDZDejE-qwrDmH6PybkZcYHIurjeVTYtLF4pK_rrFmynzyEyBs-_D8R6xkjRpLCJQdxM9iIrEgbn_AxYbsAjCbRfoE5mBsrwJv9u2lg3YkZfADZDJkFm7PrmIdg_oqAxGBAzt9ptC7U1h-piBjCT_G-JgEpdcUsBMID6g8S1bFU76ss3A";
const ISSUER: &str = "issuer@pair.example";

/// A token by name: two of the issuer for different audiences, one of another issuer, and one that is none.
pub(crate) fn token(name: &str) -> &'static str {
    match name {
        "alice" => ALICE,
        "bob" => BOB,
        "stranger" => STRANGER,
        _ => "a.b.c",
    }
}

const MODES: &[&str] = &["STRICT", "STRICT", "PERMISSIVE", "DISABLE", "UNSET"];

/// PeerAuthentications, AuthorizationPolicies and RequestAuthentications.
pub(crate) fn drawn(dice: &mut Dice, names: &Names, world: &World<'_>) -> Vec<Value> {
    let mut out = vec![];
    if dice.chance(50) {
        let namespace = dice.one(&[&names.a, &names.b]);
        out.push(object(
            "PeerAuthentication",
            namespace,
            "default",
            &json!({"mtls": {"mode": dice.one(MODES)}}),
        ));
    }
    if dice.chance(35) {
        let (namespace, app) = dice.one(&[(&names.a, "api"), (&names.b, "pay")]);
        let mut spec = json!({"selector": {"matchLabels": {"app": app}}, "mtls": {"mode": dice.one(MODES)}});
        if dice.chance(60) {
            let port = dice.one(&["8080", "9090", "8443", "80"]);
            spec["portLevelMtls"] = json!({port: {"mode": dice.one(MODES)}});
        }
        out.push(object("PeerAuthentication", namespace, "own", &spec));
    }
    if dice.chance(30) {
        let mut rule = json!({"issuer": ISSUER, "jwks": KEYS});
        if dice.chance(40) {
            rule["audiences"] = json!(["shop"]);
        }
        if dice.chance(20) {
            rule["fromHeaders"] = json!([{"name": "x-token", "prefix": "Token "}]);
        }
        let spec = json!({"selector": {"matchLabels": {"app": "api"}}, "jwtRules": [rule]});
        out.push(object("RequestAuthentication", &names.a, "tokens", &spec));
    }
    for at in 0..dice.below(4) {
        let (namespace, app) = dice.one(&[(&names.a, "api"), (&names.a, "api"), (&names.b, "pay")]);
        let mut spec = json!({});
        let action = dice.one(&["ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"]);
        if action != "ALLOW" || dice.chance(50) {
            spec["action"] = json!(action);
        }
        if dice.chance(75) {
            let mut labels = json!({"app": app});
            if app == "api" && dice.chance(25) {
                labels["version"] = json!(dice.one(&["v1", "v2"]));
            }
            spec["selector"] = json!({"matchLabels": labels});
        }
        if !dice.chance(6) {
            let count = 1 + dice.below(2);
            spec["rules"] = json!((0..count).map(|_| rule(dice, names, world)).collect::<Vec<_>>());
        }
        if dice.chance(6) {
            // Nobody knows this authorizer.
            spec["action"] = json!("CUSTOM");
            spec["provider"] = json!({"name": "nobody"});
        }
        out.push(object("AuthorizationPolicy", namespace, &format!("p{at}"), &spec));
    }
    if dice.chance(15) {
        out.push(own_listeners(dice, names));
    }
    out
}

/// A Sidecar that says itself what the pods of `api` take.
fn own_listeners(dice: &mut Dice, names: &Names) -> Value {
    let http = json!({"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "defaultEndpoint": "127.0.0.1:8080"});
    let tcp = json!({"port": {"number": 9090, "name": "tcp", "protocol": "TCP"}, "defaultEndpoint": dice.one(&["127.0.0.1:9090", "0.0.0.0:9090"])});
    let ingress = dice.some(&[http, tcp], 2);
    object(
        "Sidecar",
        &names.a,
        "inbound",
        &json!({"workloadSelector": {"labels": {"app": "api"}}, "ingress": ingress}),
    )
}

/// A policy for a gateway, about requests alone: nothing is known of clients outside.
pub(crate) fn at_gateway(dice: &mut Dice, names: &Names, selector: &str) -> Value {
    let mut rules: Vec<Value> = (0..1 + dice.below(2))
        .map(|_| {
            let mut to = operation(dice, names);
            if to["ports"].is_array() {
                to["ports"] = json!(dice.some(&["80", "8080", "8090", "8091"], 2));
            }
            to["hosts"] =
                json!(dice.some(&["shop.example.com", "*.example.com", "pay.example.com:80", "shop.*"], 2));
            json!({"to": [{"operation": to}]})
        })
        .collect();
    let action = dice.one(&["ALLOW", "DENY"]);
    if action == "ALLOW" {
        // What tells that the configuration has come.
        rules.push(json!({"to": [{"operation": {"hosts": [MARKER]}}]}));
    }
    let spec = json!({"action": action, "selector": {"matchLabels": {"istio": selector}}, "rules": rules});
    object("AuthorizationPolicy", &names.gw, "door", &spec)
}

fn rule(dice: &mut Dice, names: &Names, world: &World<'_>) -> Value {
    let mut out = json!({});
    if dice.chance(55) {
        out["from"] = json!([{"source": source(dice, names, world)}]);
    }
    if dice.chance(60) {
        let count = 1 + dice.below(2);
        out["to"] =
            json!((0..count).map(|_| json!({"operation": operation(dice, names)})).collect::<Vec<_>>());
    }
    if dice.chance(35) {
        out["when"] = json!([condition(dice, names, world)]);
    }
    out
}

fn source(dice: &mut Dice, names: &Names, world: &World<'_>) -> Value {
    let web = format!("cluster.local/ns/{}/sa/web", names.a);
    let mut out = json!({});
    for _ in 0..=dice.below(2) {
        let (key, values) = match dice.below(11) {
            7 => ("serviceAccounts", dice.some(&[format!("{}/web", names.a), format!("{}/pay", names.b)], 2)),
            8 => ("notServiceAccounts", dice.some(&[format!("{}/web", names.a)], 1)),
            9 => ("remoteIpBlocks", dice.some(&[world.ips["web"].clone(), "10.244.0.0/16".to_owned()], 1)),
            10 => ("notRequestPrincipals", dice.some(&["*".to_owned(), format!("{ISSUER}/*")], 1)),
            0 => (
                "principals",
                dice.some(
                    &[
                        web.clone(),
                        "*".to_owned(),
                        "*/sa/web".to_owned(),
                        format!("cluster.local/ns/{}/*", names.b),
                    ],
                    2,
                ),
            ),
            1 => ("notPrincipals", dice.some(&[web.clone(), "*/sa/pay".to_owned()], 2)),
            2 => (
                "namespaces",
                dice.some(&[names.a.clone(), names.b.clone(), "*-a".to_owned(), "pa*".to_owned()], 2),
            ),
            3 => ("notNamespaces", dice.some(&[names.a.clone(), names.b.clone()], 1)),
            4 => (
                "ipBlocks",
                dice.some(
                    &[
                        world.ips["web"].clone(),
                        format!("{}/32", world.ips["bare"]),
                        "10.244.0.0/16".to_owned(),
                        "10.0.0.0/9".to_owned(),
                    ],
                    2,
                ),
            ),
            5 => ("notIpBlocks", dice.some(&[world.ips["web"].clone(), "10.244.0.0/16".to_owned()], 1)),
            _ => ("requestPrincipals", dice.some(&["*".to_owned(), format!("{ISSUER}/alice")], 1)),
        };
        out[key] = json!(values);
    }
    // The API takes accounts or what names them in other ways, not both.
    let accounts = ["serviceAccounts", "notServiceAccounts"].iter().any(|key| out.get(*key).is_some());
    for other in ["principals", "notPrincipals", "namespaces", "notNamespaces"].iter().filter(|_| accounts) {
        out.as_object_mut().unwrap().remove(*other);
    }
    out
}

fn operation(dice: &mut Dice, names: &Names) -> Value {
    let mut out = json!({});
    for _ in 0..=dice.below(2) {
        let (key, values) = match dice.below(8) {
            0 => (
                "methods",
                dice.some(&["GET".to_owned(), "POST".to_owned(), "P*".to_owned(), "*".to_owned()], 2),
            ),
            1 => ("notMethods", dice.some(&["GET".to_owned(), "DELETE".to_owned()], 1)),
            2 => (
                "paths",
                dice.some(
                    &[
                        "/a".to_owned(),
                        "/a/*".to_owned(),
                        "*/b".to_owned(),
                        "/api/{*}/items".to_owned(),
                        "/api/{**}".to_owned(),
                        "*".to_owned(),
                    ],
                    3,
                ),
            ),
            3 => ("notPaths", dice.some(&["/a*".to_owned(), "/admin".to_owned(), "*/items".to_owned()], 2)),
            4 => (
                "hosts",
                dice.some(
                    &[
                        "api".to_owned(),
                        names.host("api"),
                        format!("{}:81", names.host("api")),
                        "*.example.com".to_owned(),
                        format!("api.{}*", names.a),
                    ],
                    2,
                ),
            ),
            5 => ("notHosts", dice.some(&["api".to_owned(), "*.svc.cluster.local".to_owned()], 1)),
            6 => ("ports", dice.some(&["8080".to_owned(), "9090".to_owned(), "80".to_owned()], 2)),
            _ => ("notPorts", dice.some(&["9090".to_owned(), "8443".to_owned()], 1)),
        };
        out[key] = json!(values);
    }
    out
}

fn condition(dice: &mut Dice, names: &Names, world: &World<'_>) -> Value {
    let (key, values) = match dice.below(11) {
        7 => ("request.auth.claims[groups]", dice.some(&["staff".to_owned(), "guest".to_owned()], 1)),
        8 => ("request.auth.principal", dice.some(&["*".to_owned(), format!("{ISSUER}/bob")], 1)),
        9 => ("remote.ip", dice.some(&[world.ips["web"].clone(), world.ips["bare"].clone()], 1)),
        10 => ("request.auth.audiences", dice.some(&["shop".to_owned(), "bank".to_owned()], 1)),
        0 => (
            "request.headers[x-tier]",
            dice.some(&["gold".to_owned(), "gold*".to_owned(), "*er".to_owned(), "*".to_owned()], 2),
        ),
        1 => ("request.headers[x-user]", dice.some(&["alice".to_owned(), "b*".to_owned()], 1)),
        2 => ("source.ip", dice.some(&[world.ips["web"].clone(), "10.244.0.0/16".to_owned()], 1)),
        3 => ("source.namespace", dice.some(&[names.a.clone(), "*".to_owned()], 1)),
        4 => (
            "source.principal",
            dice.some(&["*".to_owned(), format!("cluster.local/ns/{}/sa/web", names.a)], 1),
        ),
        5 => ("destination.ip", dice.some(&[world.ips["api-v1"].clone(), "10.244.0.0/16".to_owned()], 1)),
        _ => ("destination.port", dice.some(&["8080".to_owned(), "9090".to_owned()], 1)),
    };
    let field = if dice.chance(70) { "values" } else { "notValues" };
    json!({"key": key, field: values})
}
