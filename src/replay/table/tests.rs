use super::*;
use crate::replay::kinds::Kinds;

fn row(object: Value) -> Vec<Row> {
    vec![Row { object: Arc::new(object), now: "2026-11-21T10:00:00Z".parse().unwrap() }]
}

/// The visible cells of one object, as text.
fn printed(group: &str, plural: &str, object: Value) -> Vec<String> {
    let kinds = Kinds::of(&[], &[]);
    let kind = kinds.get(group, plural).unwrap();
    let table = table(kind, &kind.versions[0], None, &row(object), Include::None, json!({}));
    let columns = table.list("columnDefinitions");
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(columns.len(), cells.len(), "{plural}");
    let shown = columns.iter().zip(cells).filter(|(column, _)| column["priority"] == 0);
    shown.map(|(_, cell)| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

fn pod(spec: Value, status: Value) -> Value {
    json!({"metadata": {"name": "a", "creationTimestamp": "2026-11-21T09:55:00Z"}, "spec": spec, "status": status})
}

#[test]
fn pods_in_every_state() {
    let one = json!({"containers": [{"name": "a"}]});
    let cases = [
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}}]}),
            ["1/1", "Running", "0"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": false, "restartCount": 4,
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-11-21T09:59:00Z"}},
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            ["0/1", "CrashLoopBackOff", "4 (60s ago)"],
        ),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}),
            ["0/1", "Pending", "0"],
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]),
        (
            json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            ["0/1", "Completed", "0"],
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "a", "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
            ["0/1", "Signal:9", "0"],
        ),
    ];
    for (status, expected) in cases {
        let cells = printed("", "pods", pod(one.clone(), status));
        assert_eq!(cells[1..4], expected);
        assert_eq!((cells[0].as_str(), cells[4].as_str()), ("a", "5m"));
    }
    let mut going = pod(one, json!({"phase": "Running"}));
    going["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
    assert_eq!(printed("", "pods", going)[2], "Terminating");
}

#[test]
fn pods_with_init_containers_and_sidecars() {
    let spec = json!({"containers": [{"name": "a"}],
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
    let waiting = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(printed("", "pods", pod(spec.clone(), waiting))[1..4], ["0/2", "Init:CrashLoopBackOff", "2"]);
    let first = json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 0, "state": {"running": {}}}]});
    assert_eq!(printed("", "pods", pod(spec.clone(), first))[2], "Init:0/2");
    let up = json!({"phase": "Running", "conditions": [{"type": "Initialized", "status": "True"}],
        "initContainerStatuses": [{"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 0}}},
            {"name": "s", "restartCount": 3, "started": true, "ready": true, "state": {"running": {}}}],
        "containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    assert_eq!(printed("", "pods", pod(spec, up))[1..4], ["2/2", "Running", "3"]);
}

#[test]
fn workloads_services_and_events() {
    let deployment = json!({"metadata": {"name": "a"}, "spec": {"replicas": 3}, "status": {"readyReplicas": 1, "updatedReplicas": 2}});
    assert_eq!(printed("apps", "deployments", deployment), ["a", "1/3", "2", "0", "<unknown>"]);
    let service = json!({"metadata": {"name": "a"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
        "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}});
    assert_eq!(
        printed("", "services", service),
        ["a", "NodePort", "10.0.0.1", "<none>", "80:30080/TCP,53/UDP", "<unknown>"]
    );
    let pending = json!({"metadata": {"name": "a"}, "spec": {"type": "LoadBalancer"}});
    assert_eq!(printed("", "services", pending)[3], "<pending>");
    let slice = json!({"metadata": {"name": "a"}, "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]});
    assert_eq!(printed("discovery.k8s.io", "endpointslices", slice)[3], "1,2,3 + 1 more...");
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": " x ", "reason": "R",
        "type": "Warning", "eventTime": "2026-11-21T09:50:00Z", "series": {"count": 5, "lastObservedTime": "2026-11-21T09:59:30.5Z"}});
    assert_eq!(printed("events.k8s.io", "events", event), ["30s", "Warning", "R", "pod/p", "x"]);
    let autoscaler = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]},
        "status": {"currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 93}}}]}});
    let cells = printed("autoscaling", "horizontalpodautoscalers", autoscaler);
    assert_eq!(cells[1..4], ["Deployment/d", "cpu: 93%/80%", "<unset>"]);
}

#[test]
fn no_printer_needs_a_field() {
    let kinds = Kinds::of(&[], &[]);
    for kind in kinds.groups().into_values().flatten() {
        for object in [json!({}), json!({"spec": 7, "status": [], "metadata": "x"}), Value::Null] {
            let table = table(kind, "v1", None, &row(object), Include::Object, json!({}));
            let cells = table["rows"][0]["cells"].as_array().unwrap();
            assert_eq!(cells.len(), table.list("columnDefinitions").len(), "{}", kind.kind);
        }
    }
}

#[test]
fn custom_columns_come_from_the_definition_or_are_known() {
    let crd = json!({"kind": "CustomResourceDefinition", "spec": {"group": "g.io", "names": {"kind": "Box", "plural": "boxes"},
        "versions": [{"name": "v1", "additionalPrinterColumns": [
            {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
            {"name": "N", "type": "integer", "jsonPath": ".status.n"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]}]}});
    let kinds = Kinds::of(std::slice::from_ref(&crd), &[]);
    let kind = kinds.get("g.io", "boxes").unwrap();
    let object = json!({"metadata": {"name": "b", "creationTimestamp": "2026-11-21T09:00:00Z"}, "status": {"phase": "Up", "n": 3}});
    let out = table(kind, "v1", Some(&crd), &row(object), Include::Metadata, json!({}));
    assert_eq!(out["rows"][0]["cells"], json!(["b", "Up", 3, "60m"]));
    assert_eq!(out["rows"][0]["object"]["kind"], "PartialObjectMetadata");

    let route = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "v", "namespace": "n"},
        "spec": {"hosts": ["a", "b"]}});
    let kinds = Kinds::of(std::slice::from_ref(&route), &[]);
    let kind = kinds.get("networking.istio.io", "virtualservices").unwrap();
    let out = table(kind, "v1", None, &row(route), Include::None, json!({}));
    assert_eq!(out["rows"][0]["cells"], json!(["v", null, "[\"a\",\"b\"]", null]));
}
