//! What goes on in a namespace that sessions look at. There are no nodes: pods are as the tests say they are.

use serde_json::{Value, json};

use crate::support::Cluster;

/// Makes the API server serve Istio's kinds. Their schemas are Istio's business.
pub(crate) fn istio_installed(cluster: &Cluster) {
    cluster.istio.call_once(|| {
        for (kind, plural) in [("VirtualService", "virtualservices"), ("DestinationRule", "destinationrules")] {
            let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
            let crd = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": { "name": format!("{plural}.networking.istio.io") },
                "spec": {
                    "group": "networking.istio.io", "scope": "Namespaced",
                    "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
                    "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }],
                },
            });
            cluster.apply(&crd.to_string());
            cluster.eventually("Istio's kinds", || cluster.try_kubectl(&["get", &format!("{plural}.networking.istio.io")]).ok());
        }
    });
}

/// A node that is ready, as far as its object goes.
fn node(cluster: &Cluster) {
    cluster.node.call_once(|| {
        cluster.apply(r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}"#);
        let ready =
            r#"{"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}}"#;
        cluster.kubectl(&[
            "patch",
            "node",
            "node-1",
            "--subresource=status",
            "--type=merge",
            "--patch",
            ready,
        ]);
    });
}

fn object(api_version: &str, kind: &str, space: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "metadata": { "namespace": space, "name": name }, "spec": spec })
}

/// A Service `checkout` with one ready pod of version v1.
pub(crate) fn checkout(cluster: &Cluster, space: &str) {
    node(cluster);
    let labels = json!({ "app": "checkout", "version": "v1" });
    let deployment = json!({
        "replicas": 1,
        "selector": { "matchLabels": labels },
        "template": {
            "metadata": { "labels": labels },
            "spec": { "nodeName": "node-1", "containers": [{ "name": "app", "image": "registry.internal/checkout:1", "ports": [{ "containerPort": 8080 }] }] },
        },
    });
    let service = json!({ "selector": { "app": "checkout" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
    cluster.apply(&object("apps/v1", "Deployment", space, "checkout-v1", &deployment).to_string());
    cluster.apply(&object("v1", "Service", space, "checkout", &service).to_string());
    pod_is(
        cluster,
        space,
        &json!({ "name": "app", "ready": true, "restartCount": 0, "image": "registry.internal/checkout:1",
        "imageID": "", "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } } }),
    );
    cluster.eventually("an endpoint", || {
        let slices = cluster.kubectl(&["--namespace", space, "get", "endpointslices", "--output", "json"]);
        slices.contains("10.1.0.1").then_some(())
    });
}

/// The pod's container has crashed and was started again.
pub(crate) fn restarted(cluster: &Cluster, space: &str) {
    pod_is(
        cluster,
        space,
        &json!({ "name": "app", "ready": true, "restartCount": 3, "image": "registry.internal/checkout:1",
        "imageID": "", "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
        "lastState": { "terminated": { "exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:00Z" } } }),
    );
}

/// Plays the kubelet: the pod runs and is ready, and its container is as said.
fn pod_is(cluster: &Cluster, space: &str, container: &Value) {
    let names = ["--namespace", space, "get", "pods", "--output", "name"];
    let pod = cluster
        .eventually("the Deployment's pod", || cluster.kubectl(&names).lines().next().map(str::to_owned));
    let status = json!({ "status": {
        "phase": "Running", "podIP": "10.1.0.1", "podIPs": [{ "ip": "10.1.0.1" }],
        "conditions": [{ "type": "Ready", "status": "True" }], "containerStatuses": [container],
    } });
    let patch = ["--subresource=status", "--type=merge", "--patch", &status.to_string()];
    cluster.kubectl(&[&["--namespace", space, "patch", &pod], patch.as_slice()].concat());
}

/// Sends a part of the traffic to a subset that no pod belongs to.
pub(crate) fn subset_without_pods(cluster: &Cluster, space: &str) {
    istio_installed(cluster);
    let host = format!("checkout.{space}.svc.cluster.local");
    let rule = json!({ "host": host, "subsets": [
        { "name": "v1", "labels": { "version": "v1" } }, { "name": "v2", "labels": { "version": "v2" } }] });
    let to = |subset: &str, weight: i32| json!({ "destination": { "host": host, "subset": subset }, "weight": weight });
    let routes = json!({ "hosts": [host], "http": [{ "route": [to("v1", 80), to("v2", 20)] }] });
    cluster.apply(&object("networking.istio.io/v1", "DestinationRule", space, "checkout", &rule).to_string());
    cluster
        .apply(&object("networking.istio.io/v1", "VirtualService", space, "checkout", &routes).to_string());
}
