//! `meshscope capture` against a real API server: real discovery, real rules reviews, real refusals.

use meshscope::collect::bundle;
use meshscope::collect::material::Material;
use meshscope::model::fields::Fields;
use meshscope::model::gap::GapReason;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::Cluster;

const APP: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {DATABASE_URL: "postgres://user:hunter2@db/x", LEDGER: "http://ledger.NAMESPACE-other.svc.cluster.local"}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: app, image: "example.com/web:1", envFrom: [{configMapRef: {name: settings}}]}]}
"#;

const LIMITED: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: limited}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: limited}
rules:
- {apiGroups: [""], resources: [pods, services], verbs: [get, list]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: limited}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: limited}
subjects: [{kind: ServiceAccount, name: limited}]
"#;

/// A namespace with an application, and one beside it that its configuration names.
fn prepare(cluster: &Cluster) -> String {
    let space = cluster.namespace("capture");
    let other = format!("{space}-other");
    cluster.kubectl(&["create", "namespace", &other]);
    cluster.kubectl(&["--namespace", &other, "create", "service", "clusterip", "ledger", "--tcp=80"]);
    let apply = |manifest: &str| {
        let args = ["--namespace", &space, "apply", "--filename", "-"];
        cluster.try_kubectl_with(&args, &manifest.replace("NAMESPACE", &space)).unwrap();
    };
    apply(APP);
    apply(LIMITED);
    cluster.eventually("pods of the Deployment", || {
        let pods = cluster.get_json(&["--namespace", &space, "pods"]);
        (pods["items"].as_array().map_or(0, Vec::len) == 2).then_some(())
    });
    space
}

/// The kubeconfig of a service account that may read little.
fn limited(cluster: &Cluster, space: &str, folder: &Path) -> PathBuf {
    let token = cluster.kubectl(&["--namespace", space, "create", "token", "limited"]);
    let text = cluster.kubectl(&["config", "view", "--raw", "--output", "json"]);
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for user in config["users"].as_array_mut().unwrap() {
        user["user"] = json!({"token": token.trim()});
    }
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn capture(kubeconfig: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshscope"));
    command.args(["capture", "--kubeconfig"]).arg(kubeconfig).args(args).output().unwrap()
}

fn names(material: &Material, kind: &str) -> Vec<String> {
    let of_kind = material.objects.iter().filter(|object| object.text("kind") == Some(kind));
    of_kind.map(|object| object.string("metadata.name")).collect()
}

#[test]
fn a_capture_holds_the_target_its_neighbours_and_no_secret() {
    let Some(cluster) = Cluster::get() else { return };
    let space = prepare(cluster);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("incident.tar.zst");
    let output =
        capture(cluster.kubeconfig(), &["-n", &space, "--service", "web", "-o", path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");

    let material = bundle::read(&[path]).unwrap();
    assert_eq!(names(&material, "Deployment"), ["web"]);
    assert_eq!(names(&material, "Pod").len(), 2);
    assert!(names(&material, "Service").contains(&"ledger".to_owned()), "a ConfigMap names it");
    assert!(!names(&material, "Event").is_empty());
    assert!(names(&material, "Secret").is_empty());
    let text = serde_json::to_string(&material.objects).unwrap();
    assert!(!text.contains("hunter2"), "neither a Secret's value nor a ConfigMap's");
    assert_eq!(material.manifest.edges, [(format!("{space}/web"), format!("{space}-other/ledger"))]);

    let summary = String::from_utf8(output.stdout).unwrap();
    let gateways = summary.lines().find(|line| line.starts_with("GatewayAPI")).unwrap();
    assert!(gateways.contains("NotInstalled"), "{summary}");
    assert!(summary.contains("Next: meshscope analyze"), "{summary}");
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(progress.starts_with("[1/"), "{progress}");
}

#[test]
fn what_a_service_account_may_not_read_is_a_gap() {
    let Some(cluster) = Cluster::get() else { return };
    let space = prepare(cluster);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("incident");
    let kubeconfig = limited(cluster, &space, folder.path());
    let output = capture(&kubeconfig, &["-n", &space, "-o", path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");

    let material = bundle::read(&[path]).unwrap();
    assert_eq!(names(&material, "Pod").len(), 2);
    assert!(names(&material, "ConfigMap").is_empty());
    let gaps: Vec<_> =
        material.manifest.gaps.iter().filter(|gap| gap.reason == GapReason::Forbidden).collect();
    let here = gaps
        .iter()
        .find(|gap| gap.source == "Objects" && gap.what.contains(&format!("namespace {space}")))
        .unwrap();
    for resource in ["configmaps", "replicasets.apps", "networkpolicies.networking.k8s.io"] {
        assert!(here.what.contains(resource), "{}", here.what);
    }
    assert!(here.hint.starts_with("ask for the right to list"), "{}", here.hint);
    assert!(gaps.iter().any(|gap| gap.what.contains("of the cluster")), "{gaps:?}");
    assert!(gaps.iter().any(|gap| gap.source == "Events"), "{gaps:?}");
}

#[test]
fn a_capture_that_could_read_nothing_writes_nothing() {
    let Some(cluster) = Cluster::get() else { return };
    let space = prepare(cluster);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("incident.tar");
    let kubeconfig = limited(cluster, &space, folder.path());
    let nowhere = format!("{space}-other");
    let output = capture(&kubeconfig, &["-n", &nowhere, "-o", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!path.exists());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("nothing was written") && message.contains("ask for the right"), "{message}");

    let output = capture(cluster.kubeconfig(), &["-n", "no-such-namespace", "-o", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("kubectl get namespaces"));
}
