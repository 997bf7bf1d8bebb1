//! More findings than anybody reads: the status keeps to its budget, and the report has them all.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::operator::Release;
use crate::support::Cluster;

/// What a status may take, in bytes (`docs`: 64 KiB by design).
const STATUS_BUDGET: usize = 64 << 10;
/// What one ConfigMap of a report may take.
const CHUNK: usize = 900 << 10;

/// Workloads that name `each` missing ConfigMaps; nothing of them runs.
fn with_missing_config_maps(cluster: &Cluster, space: &str, workloads: usize, each: usize) {
    let deployment = |workload: usize| {
        let labels = json!({ "app": format!("w{workload}") });
        let sources: Vec<Value> = (0..each)
            .map(|n| json!({ "configMapRef": { "name": format!("settings-{workload}-{n}") } }))
            .collect();
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "namespace": space, "name": format!("w{workload}") },
            "spec": {
                "replicas": 0, "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": "app", "image": "registry.internal/app:1", "envFrom": sources }] },
                },
            },
        })
    };
    let all: Vec<Value> = (0..workloads).map(deployment).collect();
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": all }).to_string());
}

#[test]
fn ten_thousand_findings_fit_into_the_status() {
    let Some(cluster) = Cluster::get() else { return };
    let release = Release::new(cluster, "scale", json!({}));
    with_missing_config_maps(cluster, &release.space, 100, 100);
    let _operator = release.start("a");
    release.ask("everything", &json!({ "target": {}, "analysis": { "maxFindings": 50 } }));
    let session = release.finished("everything");
    let status = &session["status"];
    assert_eq!(status["phase"], "Completed", "{status:#}");
    let total = status["summary"]["counts"]["total"].as_i64().unwrap();
    assert!(total >= 10_000, "{total}");
    let size = status.to_string().len();
    assert!(size <= STATUS_BUDGET, "{size} bytes");
    let shown = status["findings"].as_array().unwrap().len();
    assert!((1..=50).contains(&shown), "{shown}");
    assert_eq!(
        status["truncated"]["findings"].as_i64().unwrap(),
        total - shown as i64,
        "what is not shown is counted"
    );

    let report = report(&release, status);
    let all = report["findings"].as_array().unwrap().len();
    assert_eq!(all as i64, total, "the report has all of them");
}

/// The JSON report, put together from its ConfigMaps.
fn report(release: &Release, status: &Value) -> Value {
    let mut packed = vec![];
    for name in status["report"]["configMaps"].as_array().unwrap() {
        let map: Value = serde_json::from_str(&release.kubectl(&[
            "get",
            "configmap",
            name.as_str().unwrap(),
            "--output",
            "json",
        ]))
        .unwrap();
        let map: k8s_openapi::api::core::v1::ConfigMap = serde_json::from_value(map).unwrap();
        let data = map.binary_data.unwrap();
        assert!(data.values().map(|part| part.0.len()).sum::<usize>() <= CHUNK);
        if let Some(part) = data.get("report.json.gz") {
            packed.extend_from_slice(&part.0);
        }
    }
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}
