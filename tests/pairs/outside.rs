//! Hosts outside: ServiceEntries of all kinds, TLS that proxies add, and the way out through a gateway.

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::draw::{Names, object};
use crate::routes;
use crate::world::World;

/// ServiceEntries, and what is said of their hosts.
pub(crate) fn entries(dice: &mut Dice, names: &Names, world: &World<'_>) -> Vec<Value> {
    let mut out = vec![];
    for at in 0..1 + dice.below(3) {
        let namespace = dice.one(&[&names.a, &names.b, &names.out, &names.out]);
        out.push(object("ServiceEntry", namespace, &format!("e{at}"), &entry(dice, names, world)));
    }
    let machine = json!({"address": world.ips["ext"], "labels": {"app": "machine", "version": dice.one(&["v1", "v2"])}, "ports": {"http": 8080, "http-two": 8080, "tcp": 9090}});
    if dice.chance(60) {
        out.push(object("WorkloadEntry", &names.out, "machine", &machine));
    }
    if dice.chance(30) {
        // Selected by a Service: by one with pods, or by one without any.
        let labels = json!({"app": dice.one(&["api", "idle"]), "version": "v1"});
        let beside = json!({"address": world.ips["ext"], "labels": labels});
        out.push(object("WorkloadEntry", &names.a, "beside", &beside));
    }
    if dice.chance(55) {
        // What it imports counts from the time on at which it came: before the entries, or after them.
        let at = if dice.chance(60) { 0 } else { out.len() };
        out.insert(at, routes::sidecar(dice, names));
    }
    if dice.chance(40) {
        let mut http = routes::http_routes(dice, names, true);
        if dice.chance(50) {
            let to = json!({"destination": {"host": "ext.example.com", "subset": dice.one(&["v1", "v2", "absent"])}});
            http.as_array_mut().unwrap().last_mut().unwrap()["route"] = json!([to]);
            for other in ["redirect", "directResponse"] {
                http.as_array_mut().unwrap().last_mut().unwrap().as_object_mut().unwrap().remove(other);
            }
        }
        let mut spec = json!({"hosts": ["ext.example.com"], "http": http});
        if dice.chance(30) {
            let to = json!([{"destination": {"host": names.host("api"), "port": {"number": 443}}}]);
            spec["tls"] = json!([{"match": [{"port": 443, "sniHosts": ["ext.example.com"]}], "route": to}]);
        }
        if dice.chance(30) {
            let to = json!([{"destination": {"host": names.host("pay"), "port": {"number": 9000}}}]);
            spec["tcp"] = json!([{"match": [{"port": 9000}], "route": to}]);
        }
        out.push(object("VirtualService", &names.a, "out", &spec));
    }
    if dice.chance(35) {
        out.push(rule(dice, names));
    }
    out
}

fn entry(dice: &mut Dice, names: &Names, world: &World<'_>) -> Value {
    let wild = dice.chance(20);
    let hosts = if wild {
        json!(["*.example.com"])
    } else {
        json!(dice.some(&["ext.example.com", "other.example.com"], 2))
    };
    let mut ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 81, "name": "http-two", "protocol": "HTTP"},
        {"number": 9000, "name": "tcp", "protocol": "TCP"}, {"number": 443, "name": "tls", "protocol": "TLS"}]);
    let count = 1 + dice.below(4);
    ports.as_array_mut().unwrap().truncate(count);
    let mut spec = json!({"hosts": hosts, "ports": ports, "location": dice.one(&["MESH_EXTERNAL", "MESH_EXTERNAL", "MESH_INTERNAL"])});
    let map = |all: &[(&str, u16)]| {
        let own = all.iter().take(count).map(|(name, port)| ((*name).to_owned(), json!(port)));
        Value::Object(own.collect())
    };
    let own = map(&[("http", 8080), ("http-two", 8080), ("tcp", 9090), ("tls", 8443)]);
    match if wild { dice.below(2) * 5 } else { dice.below(9) } {
        0 | 5 => {
            spec["resolution"] = json!("NONE");
            if dice.chance(40) {
                for (port, target) in [8080, 8080, 9090, 8443].iter().enumerate().take(count) {
                    spec["ports"][port]["targetPort"] = json!(target);
                }
            }
        }
        7 => {
            // Pods with proxies, at addresses; the mesh is told that they speak mutual TLS, or it is not.
            spec["resolution"] = json!("STATIC");
            let mut endpoint = json!({"address": world.ips[dice.one(&["pay", "api-v2"])], "ports": own, "labels": {"version": "v2"}});
            match dice.below(4) {
                0 => endpoint["serviceAccount"] = json!("pay"),
                1 => {
                    endpoint["labels"]["security.istio.io/tlsMode"] = json!(dice.one(&["istio", "disabled"]))
                }
                _ => {}
            }
            spec["endpoints"] = json!([endpoint]);
        }
        1 => {
            spec["resolution"] = json!("STATIC");
            spec["endpoints"] = json!([{"address": world.ips["ext"], "ports": own}]);
        }
        2 => {
            // Two, which subsets tell apart.
            spec["resolution"] = json!("STATIC");
            spec["endpoints"] = json!([{"address": world.ips["ext"], "ports": own, "labels": {"version": "v1"}},
                {"address": world.ips["bare"], "ports": own, "labels": {"version": "v2"}}]);
        }
        3 => {
            // Pods and machines of the entry's own namespace.
            spec["resolution"] = json!("STATIC");
            spec["location"] = json!("MESH_INTERNAL");
            spec["workloadSelector"] = json!({"labels": {"app": dice.one(&["ext", "machine", "nobody"])}});
            for (port, target) in [8080, 8080, 9090, 8443].iter().enumerate().take(count) {
                spec["ports"][port]["targetPort"] = json!(target);
            }
        }
        4 => {
            // The host's ports stand in the entry, not at its endpoint.
            spec["resolution"] = json!("STATIC");
            spec["endpoints"] = json!([{"address": world.ips["ext"]}]);
            for (port, target) in [8080, 8080, 9090, 8443].iter().enumerate().take(count) {
                spec["ports"][port]["targetPort"] = json!(target);
            }
        }
        _ => {
            spec["resolution"] = json!(dice.one(&["DNS", "DNS", "DNS_ROUND_ROBIN"]));
            let ports = map(&[("http", 80), ("http-two", 80), ("tcp", 9000), ("tls", 443)]);
            spec["endpoints"] = json!([{"address": names.host("ext"), "ports": ports}]);
        }
    }
    if dice.chance(40) && !wild {
        spec["addresses"] = json!(dice.some(&["240.0.0.10", "240.0.0.11"], 2));
    } else if dice.chance(20) {
        spec["addresses"] = json!(["240.0.0.8/29"]);
    }
    if dice.chance(20) {
        spec["exportTo"] = json!(dice.some(&[".".to_owned(), "*".to_owned(), names.a.clone()], 2));
    }
    spec
}

/// Subsets of a host outside, and TLS that the proxy adds.
fn rule(dice: &mut Dice, names: &Names) -> Value {
    let namespace = dice.one(&[&names.a, &names.out]);
    let mut spec = json!({"host": dice.one(&["ext.example.com", "*.example.com"])});
    if dice.chance(50) {
        spec["subsets"] =
            json!([{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]);
    }
    if dice.chance(50) {
        spec["trafficPolicy"] = routes::traffic(dice);
    }
    object("DestinationRule", namespace, "outer", &spec)
}

/// A host outside that is reached through the gateway of the mesh.
pub(crate) fn through_gateway(dice: &mut Dice, names: &Names, world: &World<'_>) -> Vec<Value> {
    let host = "ext.example.com";
    let selector = names.gw.replace("-gw", "-gate");
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 443, "name": "tls", "protocol": "TLS"}]);
    let endpoints = json!([{"address": world.ips["ext"], "ports": {"http": 8080, "tls": 8443}}]);
    let entry = json!({"hosts": [host], "ports": ports, "resolution": "STATIC", "location": "MESH_EXTERNAL", "endpoints": endpoints});
    let servers = json!([{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [host]},
        {"port": {"number": 8080, "name": "tls", "protocol": "TLS"}, "hosts": [host], "tls": {"mode": "PASSTHROUGH"}}]);
    let own = format!("{}/egress", names.gw);
    let gate = format!("gate.{}.svc.cluster.local", names.gw);
    let to = |host: &str, port: u16| json!([{"destination": {"host": host, "port": {"number": port}}}]);
    let mut inner = json!({"match": [{"gateways": ["mesh"], "port": 80}], "route": to(&gate, 80)});
    let mut outer = json!({"match": [{"gateways": [own], "port": 80}], "route": to(host, 80)});
    match dice.below(5) {
        0 => inner["match"][0]["uri"] = json!({"prefix": "/a"}),
        1 => outer["match"][0]["headers"] = json!({"x-tier": {"exact": "gold"}}),
        2 => outer["rewrite"] = json!({"uri": "/out"}),
        3 => inner["headers"] = json!({"request": {"set": {"x-set": "inner"}}}),
        _ => outer["timeout"] = json!("0.4s"),
    }
    let bytes = json!([{"match": [{"gateways": ["mesh"], "port": 443, "sniHosts": [host]}], "route": to(&gate, 8080)},
        {"match": [{"gateways": [own], "port": 8080, "sniHosts": [host]}], "route": to(host, 443)}]);
    let routes = json!({"hosts": [host], "gateways": ["mesh", own], "http": [inner, outer], "tls": bytes});
    let mut out = vec![
        object("ServiceEntry", &names.out, "way", &entry),
        object("Gateway", &names.gw, "egress", &json!({"selector": {"istio": selector}, "servers": servers})),
        object("VirtualService", &names.a, "way", &routes),
    ];
    if dice.chance(30) {
        out.push(routes::sidecar(dice, names));
    }
    if dice.chance(30) {
        let spec = json!({"host": host, "trafficPolicy": routes::traffic(dice)});
        out.push(object("DestinationRule", &names.a, "way", &spec));
    }
    out
}
