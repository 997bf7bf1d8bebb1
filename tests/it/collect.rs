//! Collecting over HTTP, from a recording that is served as a cluster.

use meshscope::collect::budget::Budget;
use meshscope::collect::bundle;
use meshscope::collect::kubernetes::client::connect;
use meshscope::collect::live::{LiveRun, Sources};
use meshscope::collect::material::Material;
use meshscope::collect::outcome::{CollectorOutcome, CollectorState};
use meshscope::collect::plan::{Asker, Plan, Question, Target};
use meshscope::collect::prometheus::recorded::Recorded;
use meshscope::collect::proxy::Proxies;
use meshscope::collect::proxy::recorded::RecordedProxies;
use meshscope::model::fields::Fields;
use meshscope::replay::{self, Handle};
use meshscope::telemetry;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: cart}
spec: {selector: {app: cart}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  namespace: shop
  name: cart
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"data":{"password":"hunter2"}}'}
spec:
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      containers:
      - {name: app, image: "example.com/cart:2", envFrom: [{configMapRef: {name: settings}}]}
      - {name: istio-proxy, image: "example.com/proxy:1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: shop, name: settings}
data: {password: hunter2, ledger: "http://ledger.bank.svc.cluster.local:8080/v1"}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-1, labels: {app: cart}}
spec: {nodeName: node-1, containers: [{name: app}, {name: istio-proxy}]}
status:
  phase: Running
  conditions: [{type: Ready, status: "False"}]
  containerStatuses:
  - name: app
    ready: false
    restartCount: 4
    state: {waiting: {reason: CrashLoopBackOff}}
    lastState: {terminated: {exitCode: 1}}
  - {name: istio-proxy, ready: true, restartCount: 0, state: {running: {startedAt: "2026-11-21T09:00:00Z"}}}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
---
apiVersion: v1
kind: Service
metadata: {namespace: bank, name: ledger}
spec: {selector: {app: ledger}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: bank, name: ledger}
spec: {selector: {matchLabels: {app: ledger}}, template: {metadata: {labels: {app: ledger}}, spec: {containers: [{name: app}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: bank, name: unrelated}
spec: {selector: {matchLabels: {app: unrelated}}, template: {metadata: {labels: {app: unrelated}}, spec: {containers: [{name: app}]}}}
---
apiVersion: events.k8s.io/v1
kind: Event
metadata: {namespace: shop, name: cart-1.1}
eventTime: "2026-11-21T09:58:00Z"
reason: BackOff
note: Back-off restarting failed container
regarding: {kind: Pod, namespace: shop, name: cart-1}
"#;

/// Writes a recording into a folder, and reads it back.
fn record(folder: &Path) -> Material {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("resources/all.yaml", OBJECTS);
    let window = r#""window": {"start": "2026-11-21T09:00:00Z", "end": "2026-11-21T10:00:00Z"}"#;
    write("meshscope.json", &format!(r#"{{"version": 1, "capturedAt": "2026-11-21T10:00:00Z", {window}}}"#));
    write(
        "logs/shop/cart-1/app.log",
        "2026-11-21T09:58:00Z starting\n2026-11-21T09:58:01Z fatal: no ledger\n",
    );
    write(
        "logs/shop/cart-1/app.previous.log",
        "2026-11-21T09:50:00Z Authorization: Bearer abcdefghijklmnopqrst\n",
    );
    write("logs/shop/cart-1/istio-proxy.log", "2026-11-21T09:57:00Z warning envoy\n");
    let series = r#"{"metric": {"__name__": "up", "namespace": "shop", "pod": "cart-1"}, "values": [[1795255000, "1"]]}"#;
    write("envoy/shop/cart-1/server_info.json", r#"{"version": "a/1.40.0/Clean", "state": "LIVE"}"#);
    write("envoy/shop/cart-1/config_dump.json", r#"{"configs": []}"#);
    write(
        "metrics/up.json",
        &format!(r#"{{"status": "success", "data": {{"resultType": "matrix", "result": [{series}]}}}}"#),
    );
    bundle::read(&[folder.to_owned()]).unwrap()
}

async fn serve(material: Material) -> Handle {
    telemetry::install_crypto();
    replay::serve(material, replay::Options { port: 0, clock: Arc::new(telemetry::now) }).await.unwrap()
}

async fn collect(server: &Handle, recorded: &Material) -> (Material, Vec<CollectorOutcome>) {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig("shop")).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let budget = Budget::default();
    let mut question = Question::about("shop", Asker::Person);
    question.target = Target::Services(vec!["cart".into()]);
    let plan = Plan::new(question, server.captured_at(), &budget).unwrap();
    let sources = Sources {
        metrics: Some(Arc::new(Recorded::new(recorded.metrics.clone()))),
        proxies: Some(Proxies::everywhere(Arc::new(RecordedProxies::new(
            recorded.proxies.clone(),
            recorded.control_plane.clone(),
        )))),
    };
    let client = connect(config, &budget).unwrap();
    let mut run = LiveRun::new(client, plan, sources, Arc::new(|_| ()), CancellationToken::new(), budget);
    run.collect().await;
    run.deepen(&run.target_pods()).await;
    let (material, outcomes, cost) = run.finish();
    assert!(cost.api_requests > 0 && cost.bytes_read > 0 && cost.samples == 1, "{cost:?}");
    (material, outcomes)
}

fn names(material: &Material, kind: &str) -> Vec<String> {
    let of_kind = material.objects.iter().filter(|object| object.text("kind") == Some(kind));
    of_kind.map(|o| format!("{}/{}", o.string("metadata.namespace"), o.string("metadata.name"))).collect()
}

#[tokio::test]
async fn what_is_collected_from_a_replay_is_what_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = record(folder.path());
    let server = serve(recorded.clone()).await;
    let (collected, outcomes) = collect(&server, &recorded).await;

    assert_eq!(
        names(&collected, "Deployment"),
        ["bank/ledger", "shop/cart"],
        "the neighbour, and no stranger"
    );
    assert_eq!(names(&collected, "Service"), ["bank/ledger", "shop/cart"]);
    for (kind, name) in [
        ("Pod", "shop/cart-1"),
        ("Event", "shop/cart-1.1"),
        ("Node", "/node-1"),
        ("ConfigMap", "shop/settings"),
    ] {
        assert_eq!(names(&collected, kind), [name], "{kind}");
    }
    let text = serde_json::to_string(&collected.objects).unwrap();
    assert!(!text.contains("hunter2"), "no value of a ConfigMap, and no applied configuration");
    assert_eq!(collected.manifest.edges, [("shop/cart".to_owned(), "bank/ledger".to_owned())]);
    assert_eq!(collected.manifest.captured_at, Some(server.captured_at()));

    let log = |container: &str, previous: bool| {
        let found = collected.logs.iter().find(|log| log.container == container && log.previous == previous);
        String::from_utf8(found.unwrap().bytes.clone()).unwrap()
    };
    assert_eq!(log("app", false).lines().count(), 2);
    assert!(log("istio-proxy", false).contains("warning envoy"));
    assert!(!log("app", true).contains("abcdefghijklmnopqrst"), "secrets are masked on the way in");
    assert!(collected.metrics.iter().any(|file| file.name == "up"));
    let proxies: Vec<&str> = collected.proxies.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(proxies, ["server_info.json", "config_dump.json"], "what the bundle holds, and no more");
    assert_eq!(collected.proxies.len(), recorded.proxies.len());

    let bad = |o: &&CollectorOutcome| {
        matches!(o.state, CollectorState::Denied | CollectorState::Failed | CollectorState::Partial)
    };
    assert!(!outcomes.iter().any(|outcome| bad(&outcome)), "{outcomes:?}");
    assert!(collected.gaps.is_empty(), "{:?}", collected.gaps);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_records_what_a_replay_serves() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(record(&folder.path().join("recording"))).await;
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig("shop")).unwrap();
    let bundle = folder.path().join("incident.tar.gz");
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshscope"));
    command.args(["capture", "--no-logs", "--workload", "deployment/cart", "-o"]).arg(&bundle);
    let output = command.arg("--kubeconfig").arg(&kubeconfig).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let captured = bundle::read(&[bundle]).unwrap();
    assert_eq!(names(&captured, "Pod"), ["shop/cart-1"]);
    assert!(captured.logs.is_empty());
    let summary = String::from_utf8(output.stdout).unwrap();
    let logs = summary.lines().find(|line| line.starts_with("Logs")).unwrap();
    assert!(logs.contains("Skipped"), "{summary}");
    assert!(summary.contains("--prometheus URL"), "{summary}");
    server.shutdown().await;
}
