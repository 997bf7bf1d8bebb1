//! Sessions from `kubectl apply` to their end, with the operator as the chart runs it.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::kstatus::{self, Reading};
use crate::operator::{Release, condition};
use crate::support::Cluster;
use crate::world;

fn with_backend(backend: &Backend) -> Value {
    json!({ "sources": { "metrics": [{ "name": "default", "url": format!("http://{}", backend.address) }] } })
}

fn about_checkout() -> Value {
    json!({ "target": { "services": ["checkout"] } })
}

#[test]
fn a_session_is_answered_and_only_its_status_is_written() {
    let Some(cluster) = Cluster::get() else { return };
    let release = Release::new(cluster, "answer", json!({ "rbac": { "logNamespaces": ["*"] } }));
    world::checkout(cluster, &release.space);
    world::subset_without_pods(cluster, &release.space);
    let _operator = release.start("a");
    release.ask("checkout-5xx", &about_checkout());
    let session = release.finished("checkout-5xx");
    let status = &session["status"];
    assert_eq!(status["phase"], "Completed", "{status:#}");
    assert_eq!(status["run"]["attempt"], 1);
    let codes: Vec<&str> = status["findings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|finding| finding["code"].as_str())
        .collect();
    assert!(codes.contains(&"ISTIO104"), "{status:#}");

    // One field manager writes the status, and nobody but the user the spec.
    let managers =
        release.kubectl(&["get", "dbg", "checkout-5xx", "--show-managed-fields", "--output", "json"]);
    let managers: Value = serde_json::from_str(&managers).unwrap();
    for entry in managers["metadata"]["managedFields"].as_array().unwrap() {
        let parts: Vec<&String> = entry["fieldsV1"].as_object().unwrap().keys().collect();
        if entry["manager"] == "meshscope" {
            assert_eq!(
                (entry["operation"].as_str(), entry["subresource"].as_str()),
                (Some("Apply"), Some("status"))
            );
            assert_eq!(parts, ["f:status"], "{entry}");
        } else {
            assert!(!parts.iter().any(|part| *part == "f:status"), "{entry}");
        }
    }
    // Where nothing was asked of the model, nothing is answered; where something was, kubectl shows it.
    assert!(status.get("request").is_none(), "{status:#}");
    let request = json!({ "host": "checkout", "path": "/pay", "from": { "workload": "checkout-v1" } });
    let asking = json!({ "target": { "services": ["checkout"] }, "symptom": { "request": request } });
    release.ask("checkout-pay", &asking);
    let session = release.finished("checkout-pay");
    let answer = &session["status"]["request"];
    assert_eq!((&answer["outcome"], &answer["seen"]), (&json!("Forwarded"), &json!("200")), "{answer:#}");
    assert!(answer["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{answer:#}");
    let wide = release.kubectl(&["get", "dbg", "checkout-pay", "--output", "wide"]);
    assert!(wide.contains("REQUEST") && wide.contains("200"), "{wide}");

    let described = release.kubectl(&["describe", "dbg", "checkout-5xx"]);
    let events = described.split("Events:").nth(1).unwrap_or_default();
    assert!(events.lines().count() > 2, "{described}");
    assert!(events.contains("meshscope"), "{events}");
}

#[test]
fn the_report_belongs_to_the_session_and_goes_with_it() {
    let Some(cluster) = Cluster::get() else { return };
    let release = Release::new(cluster, "report", json!({}));
    world::checkout(cluster, &release.space);
    let _operator = release.start("a");
    release.ask("checkout", &about_checkout());
    let session = release.finished("checkout");
    let names: Vec<&str> = session["status"]["report"]["configMaps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(!names.is_empty(), "{session:#}");
    for name in &names {
        let owner = &cluster.get_json(&["--namespace", &release.space, "configmap", name])["metadata"]["ownerReferences"]
            [0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("DebugSession"), &session["metadata"]["uid"]));
    }
    // The command line reads the same report back, in both forms.
    let json: Value = serde_json::from_str(&report(cluster, &release, "json")).unwrap();
    assert_eq!(json["verdict"], session["status"]["summary"]["verdict"], "{json:#}");
    assert!(report(cluster, &release, "markdown").contains("checkout"));
    release.kubectl(&["delete", "dbg", "checkout"]);
    cluster.eventually("the end of the report", || {
        let left = release.kubectl(&["get", "configmaps", "--output", "name"]);
        names.iter().all(|name| !left.contains(name)).then_some(())
    });
}

/// What `meshscope report` prints of the session `checkout`.
fn report(cluster: &Cluster, release: &Release, form: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_meshscope"))
        .args(["report", "dbg/checkout", "--namespace", &release.space, "--output", form, "--kubeconfig"])
        .arg(cluster.kubeconfig())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tools_that_wait_read_every_step_rightly() {
    let Some(cluster) = Cluster::get() else { return };
    let backend = Backend::held();
    let release = Release::new(cluster, "kstatus", with_backend(&backend));
    world::checkout(cluster, &release.space);
    release.ask("checkout", &about_checkout());
    assert_eq!(kstatus::read(&release.session("checkout")), Reading::InProgress, "nobody has seen it yet");
    let watch = Watch::start(cluster, &release.space);
    let _operator = release.start("a");
    cluster.eventually("a question to the backend", || (backend.asked() > 0).then_some(()));
    assert_eq!(condition(&release.session("checkout"), "Reconciling"), Some(("True", "Running")));
    backend.release();
    release.wait("checkout", "Finished");
    release.wait("checkout", "Complete");
    release.wait("checkout", "Ready");
    release.change("checkout", &json!({ "spec": { "target": { "services": ["nobody"] } } }));
    release.session_when("checkout", "the second run's end", |session| {
        session["status"]["observedGeneration"] == 2 && kstatus::read(session) != Reading::InProgress
    });
    release.ask("elsewhere", &json!({ "target": { "namespace": "kube-system" } }));
    release.wait("elsewhere", "Failed");
    assert_eq!(kstatus::read(&release.session("elsewhere")), Reading::Failed);
    let states = watch.end();
    assert!(states.len() > 6, "{}", states.len());
    kstatus::check(&states);
    let first = states.iter().filter(|state| state["metadata"]["name"] == "checkout");
    let phases: Vec<&str> = first.filter_map(|state| state["status"]["phase"].as_str()).collect();
    assert!(phases.contains(&"Collecting") && phases.contains(&"Completed"), "{phases:?}");
}

/// `kubectl get --watch`, from its start to its end.
struct Watch {
    child: std::process::Child,
    output: tempfile::NamedTempFile,
}

impl Watch {
    fn start(cluster: &Cluster, space: &str) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let mut command: Command = cluster.command("kubectl");
        let child = command
            .args(["--namespace", space, "get", "dbg", "--watch", "--output", "json"])
            .stdin(Stdio::null())
            .stdout(output.reopen().unwrap())
            .spawn()
            .unwrap();
        let watch = Self { child, output };
        cluster.eventually("the watch's first object", || (!watch.text().is_empty()).then_some(()));
        watch
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }

    fn end(mut self) -> Vec<Value> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // The last one may have been cut off.
        serde_json::Deserializer::from_str(&self.text()).into_iter().map_while(Result::ok).collect()
    }
}

#[test]
fn a_session_runs_again_when_it_is_asked_to_and_only_then() {
    let Some(cluster) = Cluster::get() else { return };
    let release = Release::new(cluster, "again", json!({}));
    world::checkout(cluster, &release.space);
    let _operator = release.start("a");
    release.ask("checkout", &about_checkout());
    let first = release.finished("checkout");
    let run = |session: &Value| session["status"]["run"]["id"].clone();

    // What no run depends on is seen, and runs nothing.
    release
        .change("checkout", &json!({ "spec": { "ttlSecondsAfterFinished": 86400, "failOn": "Critical" } }));
    let seen = release.session_when("checkout", "the second generation", |session| {
        session["status"]["observedGeneration"] == 2
    });
    assert_eq!(run(&seen), run(&first));
    assert_eq!(seen["status"]["run"], first["status"]["run"]);

    release.kubectl(&["annotate", "dbg", "checkout", "meshscope.dev/requestedAt=once more"]);
    let second = release.session_when("checkout", "the run that was asked for", |session| {
        session["status"]["lastHandledRequestedAt"] == "once more"
            && session["status"]["phase"] == "Completed"
    });
    assert_ne!(run(&second), run(&first));
    assert_eq!(second["status"]["history"].as_array().map(Vec::len), Some(1), "{second:#}");

    release.change("checkout", &json!({ "spec": { "symptom": { "kind": "Latency" } } }));
    let third = release.session_when("checkout", "the run of the new question", |session| {
        session["status"]["observedGeneration"] == 3 && session["status"]["phase"] == "Completed"
    });
    assert_ne!(run(&third), run(&second));
    assert_ne!(third["status"]["observedRunHash"], second["status"]["observedRunHash"]);
}

#[test]
fn a_run_can_be_cancelled_and_held_back() {
    let Some(cluster) = Cluster::get() else { return };
    let backend = Backend::held();
    let release = Release::new(cluster, "cancel", with_backend(&backend));
    world::checkout(cluster, &release.space);
    let _operator = release.start("a");
    release.ask("held", &json!({ "target": { "services": ["checkout"] }, "suspend": true }));
    release.wait("held", "Suspended");
    assert_eq!(backend.asked(), 0, "suspended, it looks at nothing");

    release.ask("checkout", &about_checkout());
    cluster.eventually("a question to the backend", || (backend.asked() > 0).then_some(()));
    release.change("checkout", &json!({ "spec": { "cancel": true } }));
    let session = release.finished("checkout");
    assert_eq!(session["status"]["phase"], "Cancelled");
    assert_eq!(kstatus::read(&session), Reading::Failed);

    backend.release();
    release.change("held", &json!({ "spec": { "suspend": false } }));
    assert_eq!(release.finished("held")["status"]["phase"], "Completed");
}

#[test]
fn a_run_that_takes_too_long_fails_and_says_so() {
    let Some(cluster) = Cluster::get() else { return };
    let backend = Backend::held();
    let release = Release::new(cluster, "timeout", with_backend(&backend));
    world::checkout(cluster, &release.space);
    let _operator = release.start("a");
    release.ask("checkout", &json!({ "target": { "services": ["checkout"] }, "timeout": "10s" }));
    let session = release.finished("checkout");
    // The backend costs its own evidence, and not the run.
    assert_eq!(session["status"]["phase"], "Completed", "{:#}", session["status"]);
    assert_eq!(condition(&session, "CollectionComplete").map(|(status, _)| status), Some("False"));
}

#[test]
fn what_is_old_enough_goes_and_what_helm_owns_stays() {
    let Some(cluster) = Cluster::get() else { return };
    let release = Release::new(cluster, "ttl", json!({}));
    let _operator = release.start("a");
    for name in ["mine", "of-helm"] {
        release.ask(name, &json!({ "target": {} }));
        release.finished(name);
    }
    release.kubectl(&["label", "dbg", "of-helm", "app.kubernetes.io/managed-by=Helm"]);
    // Nobody wants to wait for a minute: it was finished long ago.
    let past = json!({ "status": { "run": { "completionTime": "2026-01-01T00:00:00Z" } } }).to_string();
    for name in ["mine", "of-helm"] {
        release.kubectl(&["patch", "dbg", name, "--subresource=status", "--type=merge", "--patch", &past]);
        release.change(name, &json!({ "spec": { "ttlSecondsAfterFinished": 60 } }));
    }
    release.kubectl(&["wait", "--for=delete", "dbg/mine", "--timeout=90s"]);
    let kept = release
        .session_when("of-helm", "the end of its report", |session| session["status"]["report"].is_null());
    assert_eq!(condition(&kept, "ReportAvailable"), Some(("False", "Expired")), "{kept:#}");
    assert_eq!(kept["status"]["phase"], "Completed");
}
