//! What hides one failure behind the looks of another: each look-alike with the answer that it must not lead to.

use meshscope::analyze::diagnosis::{Diagnosis, Options, analyze};
use meshscope::analyze::finding::{Role, Severity};
use meshscope::model::json::{Value, json};
use meshscope::model::log::LogStream;
use meshscope::model::snapshot::Builder;

/// A chain front → middle → back: a Service, a Deployment and one ready pod with a proxy for each.
fn shop() -> Vec<Value> {
    let mut out = vec![];
    for (at, name) in ["front", "middle", "back"].iter().enumerate() {
        let pod = format!("{name}-5d8f-x");
        out.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
        out.push(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "app:1"}]}}}}));
        out.push(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": "shop", "labels": {"app": name, "pod-template-hash": "5d8f"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-5d8f"), "controller": true}]},
            "spec": {"containers": [{"name": "app", "image": "app:1"}, {"name": "istio-proxy", "image": "proxy:1"}]},
            "status": {"phase": "Running", "podIP": format!("10.0.0.{}", at + 1),
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T09:00:00Z"}],
                "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "state": {"running": {}}},
                    {"name": "istio-proxy", "ready": true, "restartCount": 0, "state": {"running": {}}}]}}));
    }
    out
}

/// One record: the second, the outcome, how long it took, and the two ends.
fn record(second: usize, outcome: &str, ms: u64, from: &str, to: &str, inbound: bool) -> String {
    let ip = |name: &str| match name {
        "front" => "10.0.0.1",
        "middle" => "10.0.0.2",
        _ => "10.0.0.3",
    };
    let cluster = if inbound {
        "inbound|8080||".to_owned()
    } else {
        format!("outbound|80||{to}.shop.svc.cluster.local")
    };
    let called = if inbound { format!("{}:8080", ip(to)) } else { "10.96.0.9:80".to_owned() };
    format!(
        "[2026-11-21T10:{:02}:{:02}.000Z] \"GET / HTTP/1.1\" {outcome} - \"-\" 0 0 {ms} - \"-\" \"-\" \"-\" \"{to}\" \"{}:8080\" {cluster} - {called} {}:4000 - default\n",
        second / 60,
        second % 60,
        ip(to),
        ip(from)
    )
}

fn proxy(name: &str, lines: impl Iterator<Item = String>) -> LogStream {
    let text: String = lines.collect();
    LogStream::read("shop", &format!("{name}-5d8f-x"), "istio-proxy", false, text.as_bytes(), false)
}

fn diagnose(objects: Vec<Value>, logs: Vec<LogStream>) -> Diagnosis {
    let mut builder = Builder::new();
    objects.into_iter().for_each(|object| builder.object(object));
    logs.into_iter().for_each(|log| builder.log(log));
    analyze(&builder.finish(), &Options::default())
}

fn codes(diagnosis: &Diagnosis, severity: Severity) -> Vec<&'static str> {
    diagnosis
        .findings
        .iter()
        .filter(|f| f.severity >= severity && f.role != Role::Context)
        .map(|f| f.meta.code)
        .collect()
}

#[test]
fn retries_that_succeed_do_not_hide_the_errors_of_the_first_hop() {
    let caller =
        proxy("middle", (0..100).map(|i| record(i, "200 - via_upstream", 5, "middle", "back", false)));
    let callee = proxy(
        "back",
        (0..100).flat_map(|i| {
            let first = (i % 2 == 0).then(|| record(i, "500 - via_upstream", 2, "middle", "back", true));
            first.into_iter().chain([record(i, "200 - via_upstream", 2, "middle", "back", true)])
        }),
    );
    let found = codes(&diagnose(shop(), vec![caller, callee]), Severity::Warning);
    assert!(found.contains(&"ENVOY130"), "{found:?}");
}

#[test]
fn a_503_of_the_application_is_none_of_the_proxy() {
    let caller =
        proxy("middle", (0..60).map(|i| record(i, "503 - via_upstream", 5, "middle", "back", false)));
    let found = codes(&diagnose(shop(), vec![caller]), Severity::Warning);
    assert!(found.contains(&"ENVOY130"), "{found:?}");
    assert!(
        !found.iter().any(|code| ["ENVOY101", "ENVOY102", "ISTIO127", "ISTIO120"].contains(code)),
        "{found:?}"
    );
}

#[test]
fn permissive_lets_a_caller_without_a_proxy_in() {
    let mut objects = shop();
    for object in &mut objects {
        let containers = object.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
        if let Some(containers) = containers.filter(|c| c.len() == 2) {
            containers.truncate(1);
            break;
        }
    }
    let mode = |mode: &str| json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default", "namespace": "shop"}, "spec": {"mtls": {"mode": mode}}});
    objects.push(mode("PERMISSIVE"));
    let callee =
        proxy("middle", (0..60).map(|i| record(i, "200 - via_upstream", 5, "front", "middle", true)));
    let found = codes(&diagnose(objects, vec![callee]), Severity::Warning);
    assert!(!found.contains(&"ISTIO120"), "{found:?}");
}

#[test]
fn a_destination_rule_of_the_client_hides_the_subsets_of_the_service() {
    let mut objects = shop();
    let rule = |namespace: &str, subsets: Value| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "back", "namespace": namespace}, "spec": {"host": "back.other.svc.cluster.local", "subsets": subsets}})
    };
    objects.push(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "back", "namespace": "other"},
        "spec": {"selector": {"app": "back"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
    );
    objects.push(rule("other", json!([{"name": "v1", "labels": {"app": "back"}}])));
    objects.push(rule("shop", json!([])));
    objects.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "back", "namespace": "shop"},
        "spec": {"hosts": ["back.other.svc.cluster.local"], "http": [{"route": [{"destination": {"host": "back.other.svc.cluster.local", "subset": "v1"}}]}]}}));
    let missing = (0..60).map(|i| {
        record(i, "503 NC cluster_not_found", 0, "middle", "back", false)
            .replace("outbound|80||back.shop.svc.cluster.local", "-")
            .replace("\"back\"", "\"back.other.svc.cluster.local\"")
    });
    let diagnosis = diagnose(objects, vec![proxy("middle", missing)]);
    let found = codes(&diagnosis, Severity::Warning);
    assert!(found.contains(&"ISTIO103"), "{found:?}");
}

#[test]
fn a_fault_injected_far_below_is_the_cause_of_every_time_out_above() {
    let mut objects = shop();
    objects.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "back", "namespace": "shop"},
        "spec": {"hosts": ["back"], "http": [{"fault": {"delay": {"fixedDelay": "3s", "percentage": {"value": 100}}}, "route": [{"destination": {"host": "back"}}]}]}}));
    objects.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "middle", "namespace": "shop"},
        "spec": {"hosts": ["middle"], "http": [{"timeout": "2s", "route": [{"destination": {"host": "middle"}}]}]}}));
    let front =
        proxy("front", (0..60).map(|i| record(i, "504 UT response_timeout", 2000, "front", "middle", false)));
    let middle =
        proxy("middle", (0..60).map(|i| record(i, "200 DI via_upstream", 3004, "middle", "back", false)));
    let diagnosis = diagnose(objects, vec![front, middle]);
    let first = diagnosis.root_causes.first().map(|cause| cause.subject.to_string());
    assert_eq!(first.as_deref(), Some("VirtualService shop/back"), "{:#?}", diagnosis.root_causes);
}

#[test]
fn a_rollout_is_no_keep_alive_race() {
    let mut objects = shop();
    objects.push(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a", "namespace": "shop"}, "reason": "Killing", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "back-5d8f-w", "namespace": "shop"}, "message": "Stopping container app",
        "firstTimestamp": "2026-11-21T10:00:20Z", "lastTimestamp": "2026-11-21T10:00:20Z"}));
    let outcome = "503 UC upstream_reset_before_response_started{connection_termination}";
    let caller = proxy(
        "middle",
        (0..80).map(|i| {
            if (20..34).contains(&i) {
                record(i, outcome, 1, "middle", "back", false)
                    .replace("\"10.0.0.3:8080\"", "\"10.0.0.99:8080\"")
            } else {
                record(i, "200 - via_upstream", 4, "middle", "back", false)
            }
        }),
    );
    let found = codes(&diagnose(objects, vec![caller]), Severity::Warning);
    assert!(found.contains(&"ISTIO141"), "{found:?}");
    assert!(!found.contains(&"ISTIO126"), "{found:?}");
}
