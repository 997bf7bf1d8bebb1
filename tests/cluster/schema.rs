//! What the API server takes and refuses of a session, and in which words.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::chart::installed;
use crate::support::Cluster;

/// A session as JSON, which kubectl takes for YAML.
pub(crate) fn session(namespace: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
        "metadata": { "namespace": namespace, "name": name }, "spec": spec
    })
    .to_string()
}

/// A session that asks about a request from a workload.
fn asks(mut request: Value) -> Value {
    request["from"] = json!({ "workload": "frontend" });
    json!({ "target": {}, "symptom": { "request": request } })
}

/// Specs that are refused, each with words of the message that says what to write instead.
fn refused() -> Vec<(Value, &'static str)> {
    let target = |target: Value| json!({ "target": target });
    let with = |field: &str, value: Value| json!({ "target": {}, field: value });
    vec![
        (json!({}), "spec.target: Required value"),
        (
            target(json!({ "services": ["a"], "selector": { "matchLabels": { "app": "a" } } })),
            "give only one of",
        ),
        (
            target(json!({ "services": ["a"], "workloads": [{ "kind": "Deployment", "name": "a" }] })),
            "give only one of",
        ),
        (target(json!({ "namespace": "Shop" })), "is the name of one namespace"),
        (target(json!({ "services": ["checkout.shop"] })), "are names of Services"),
        (target(json!({ "services": ["a", "a"] })), "Duplicate value"),
        (
            target(json!({ "workloads": [{ "kind": "Deployment", "name": "deploy/a" }] })),
            "is the name of one object",
        ),
        (target(json!({ "workloads": [{ "kind": "Deploy", "name": "a" }] })), "supported values"),
        (target(json!({ "selector": { "matchLabels": {} } })), "needs at least one label"),
        (target(json!({ "dependencyDepth": 4 })), "less than or equal to 3"),
        (with("window", json!({})), "give either spec.window.since"),
        (
            with("window", json!({ "since": "1h", "end": "2026-01-01T00:00:00Z" })),
            "give either spec.window.since",
        ),
        (with("window", json!({ "start": "2026-01-01T00:00:00Z" })), "give either spec.window.since"),
        (
            with("window", json!({ "start": "2026-01-01T01:00:00Z", "end": "2026-01-01T01:00:00Z" })),
            "must lie before spec.window.end",
        ),
        (with("window", json!({ "since": "1d" })), "spec.window.since must lie between"),
        (with("window", json!({ "since": "10s" })), "spec.window.since must lie between"),
        (with("timeout", json!("5")), "spec.timeout must lie between"),
        (with("timeout", json!("31m")), "spec.timeout must lie between"),
        (with("timeout", json!("")), "spec.timeout must lie between"),
        (with("ttlSecondsAfterFinished", json!(59)), "leave it out to keep the session"),
        (
            with("analysis", json!({ "suppress": [{ "code": "subset-without-pods" }] })),
            "is the code of a rule",
        ),
        (with("analysis", json!({ "maxFindings": 51 })), "less than or equal to 50"),
        (with("collect", json!({ "sources": ["Secrets"] })), "supported values"),
        (with("collect", json!({ "metricsSourceRef": { "name": "" } })), "at least 1 chars"),
        (with("symptom", json!({ "description": "x".repeat(513) })), "may not be more than 512"),
        (with("symptom", json!({ "url": "http://169.254.169.254/" })), "unknown field"),
        (asks(json!({ "host": "http://checkout/pay" })), "is a name or an address alone"),
        (asks(json!({ "host": "checkout", "path": "pay" })), "begins with /"),
        (asks(json!({ "host": "checkout", "method": "get" })), "is one word in capitals"),
        (asks(json!({ "host": "checkout", "port": 70000 })), "less than or equal to 65535"),
        (asks(json!({ "host": "checkout", "protocol": "FTP" })), "supported values"),
        (
            with("symptom", json!({ "request": { "host": "checkout" } })),
            "spec.symptom.request.from: Required value",
        ),
        (
            with("symptom", json!({ "request": { "host": "checkout", "from": {} } })),
            "give either spec.symptom.request.from.workload",
        ),
    ]
}

#[test]
fn what_is_wrong_is_refused_with_words_that_help() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let mut said = String::new();
    for (spec, words) in refused() {
        let message = cluster
            .try_kubectl_with(
                &["create", "--dry-run=server", "--filename", "-"],
                &session("default", "refused", &spec),
            )
            .expect_err(&format!("{spec} was taken"));
        assert!(message.contains(words), "{spec}\nwanted: {words}\nsaid: {message}");
        said.push_str(&message);
    }
    let unproven: Vec<String> =
        messages(cluster).into_iter().filter(|message| !said.contains(message)).collect();
    assert!(unproven.is_empty(), "no case here makes the API server say: {unproven:#?}");
}

/// The messages of all CEL rules in the CRD's spec, as the API server has it.
fn messages(cluster: &Cluster) -> BTreeSet<String> {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        for rule in value.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            found.insert(rule["message"].as_str().unwrap().to_owned());
        }
        match value {
            Value::Object(map) => map.values().for_each(|child| walk(child, found)),
            Value::Array(items) => items.iter().for_each(|child| walk(child, found)),
            _ => {}
        }
    }
    let crd = cluster.get_json(&["crd", "debugsessions.meshscope.dev"]);
    let mut found = BTreeSet::new();
    walk(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], &mut found);
    assert!(found.len() > 5, "{found:?}");
    found
}

#[test]
fn what_the_documentation_shows_is_taken() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let specs = [
        json!({ "target": {} }),
        json!({ "target": { "services": ["checkout"] } }),
        json!({ "target": { "namespace": "shop", "workloads": [{ "kind": "Deployment", "name": "checkout.v2" }] } }),
        json!({ "target": { "selector": { "matchLabels": { "app.kubernetes.io/name": "checkout" } }, "dependencyDepth": 0 } }),
        json!({ "target": {}, "window": { "since": "1h30m" }, "timeout": "90s", "ttlSecondsAfterFinished": 60 }),
        json!({ "target": {}, "window": { "start": "2026-01-01T00:00:00Z", "end": "2026-01-01T01:00:00Z" } }),
        json!({ "target": {}, "symptom": { "kind": "Errors", "description": "5xx since the deploy" } }),
        json!({ "target": {}, "analysis": { "suppress": [{ "code": "ISTIO104", "reason": "known", "until": "2030-01-01T00:00:00Z" }] } }),
    ];
    for spec in specs {
        cluster
            .try_kubectl_with(
                &["create", "--dry-run=server", "--filename", "-"],
                &session("default", "taken", &spec),
            )
            .unwrap_or_else(|message| panic!("{spec}\n{message}"));
    }
}

#[test]
fn the_examples_are_taken() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sessions");
    cluster.apply(r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}"#);
    let taken = cluster.kubectl(&["apply", "--dry-run=server", "--output", "name", "--filename", folder]);
    assert_eq!(taken.lines().count(), std::fs::read_dir(folder).unwrap().count(), "{taken}");
}

/// GitOps tools compare what is stored with what is in Git, and take an object without a status for done.
#[test]
fn nothing_is_written_into_a_spec_and_a_new_session_does_not_look_done() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let space = cluster.namespace("stored");
    let spec = json!({ "target": { "services": ["checkout"] } });
    cluster.apply(&session(&space, "checkout", &spec));
    let stored = cluster.get_json(&["--namespace", &space, "dbg", "checkout"]);
    assert_eq!(stored["spec"], spec);
    assert_eq!(stored["status"], json!({ "observedGeneration": -1 }));
}

#[test]
fn sessions_are_found_by_their_selectable_fields_and_category() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let space = cluster.namespace("fields");
    for (name, target) in [("here", json!({})), ("there", json!({ "namespace": "shop" }))] {
        cluster.apply(&session(&space, name, &json!({ "target": target })));
    }
    let status = r#"{"status":{"phase":"Completed","summary":{"verdict":"RootCauseFound","headline":"x","highestSeverity":"Error","counts":{"critical":0,"error":1,"warning":0,"info":0,"total":1}}}}"#;
    cluster.kubectl(&[
        "--namespace",
        &space,
        "patch",
        "dbg",
        "there",
        "--subresource=status",
        "--type=merge",
        "--patch",
        status,
    ]);
    for (field, value) in [
        ("spec.target.namespace", "shop"),
        ("status.phase", "Completed"),
        ("status.summary.highestSeverity", "Error"),
    ] {
        let selector = format!("{field}={value}");
        let found = cluster.kubectl(&[
            "--namespace",
            &space,
            "get",
            "dbg",
            "--field-selector",
            &selector,
            "--output",
            "name",
        ]);
        assert_eq!(found.trim(), "debugsession.meshscope.dev/there", "{selector}");
    }
    let all = cluster.kubectl(&["--namespace", &space, "get", "meshscope", "--output", "name"]);
    assert_eq!(all.lines().count(), 2, "{all}");
    let table = cluster.kubectl(&["--namespace", &space, "get", "dbg", "there"]);
    let columns: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "PHASE", "VERDICT", "SEVERITY", "ROOT", "CAUSE", "READY", "AGE"]);
}
