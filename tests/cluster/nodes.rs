//! A whole cluster, with pods that run and proxies between them, as `tests/cluster/up --nodes` starts it, and in it the
//! operator as its chart deploys it.

use serde_json::{Value, json};

use crate::support::Cluster;

/// The image that has a shell, its commands and curl.
const TOOL: &str = "localhost/tool:1";

fn deployment(space: &str, name: &str, labels: &Value, script: &str) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "namespace": space, "name": name },
        "spec": { "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [
                { "name": "app", "image": TOOL, "command": ["sh", "-c", script], "ports": [{ "containerPort": 8080 }] }] },
        } },
    })
    .to_string()
}

/// `caller`, which asks `callee` five times a second and logs the answers' codes.
fn shop(cluster: &Cluster, about: &str) -> String {
    let space = cluster.namespace(about);
    cluster.kubectl(&["label", "namespace", &space, "istio-injection=enabled"]);
    let callee = "echo well >/tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let caller = "while :; do curl --silent --output /dev/null --max-time 5 --write-out '%{http_code}\\n' http://callee/; sleep 0.2; done";
    cluster.apply(&deployment(&space, "callee", &json!({ "app": "callee", "version": "v1" }), callee));
    cluster.apply(&deployment(&space, "caller", &json!({ "app": "caller" }), caller));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": space, "name": "callee" },
        "spec": { "selector": { "app": "callee" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    cluster.apply(&service.to_string());
    answers(cluster, &space, "200");
    space
}

/// Waits until all the answers of the last moment are of this code.
fn answers(cluster: &Cluster, space: &str, code: &str) {
    cluster.eventually(&format!("answers {code}"), || {
        let log = cluster
            .try_kubectl(&["--namespace", space, "logs", "deployment/caller", "--container=app", "--tail=5"])
            .ok()?;
        (log.lines().count() == 5 && log.lines().all(|line| line == code)).then_some(())
    });
}

/// Asks why a service fails, as a user does, and gives the session when it is answered.
fn asked(cluster: &Cluster, space: &str, service: &str) -> Value {
    cluster.apply(&crate::schema::session(space, "why", &json!({ "target": { "services": [service] } })));
    let timeout = format!("--timeout={}s", crate::support::PATIENCE.as_secs());
    cluster.kubectl(&["--namespace", space, "wait", "dbg/why", "--for=condition=Finished", &timeout]);
    let session = cluster.get_json(&["--namespace", space, "dbg", "why"]);
    assert_eq!(session["status"]["phase"], "Completed", "{:#}", session["status"]);
    session
}

#[test]
fn pods_run_under_names_in_a_mesh_that_is_measured() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let space = shop(cluster, "measured");
    let proxies = cluster.kubectl(&[
        "--namespace",
        &space,
        "get",
        "pods",
        "--selector=app=caller",
        "--output",
        "jsonpath={.items[*].spec.initContainers[?(@.name=='istio-proxy')].restartPolicy}",
    ]);
    assert_eq!(proxies, "Always", "a sidecar that is an init container");
    let entry = cluster.eventually("an entry of the caller's proxy", || {
        let log = cluster
            .try_kubectl(&[
                "--namespace",
                &space,
                "logs",
                "deployment/caller",
                "--container=istio-proxy",
                "--tail=20",
            ])
            .ok()?;
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|entry| entry["response_code"] == 200)
    });
    assert_eq!(
        entry["upstream_cluster"],
        format!("outbound|80||callee.{space}.svc.cluster.local;"),
        "{entry}"
    );
    for query in [
        format!("envoy_cluster_upstream_rq{{namespace=\"{space}\",response_code=\"200\"}}"),
        format!("container_memory_working_set_bytes{{namespace=\"{space}\",container=\"app\"}}"),
        "coredns_dns_requests_total".to_owned(),
    ] {
        let path = format!(
            "/api/v1/namespaces/monitoring/services/prometheus:http/proxy/api/v1/query?query={}",
            escaped(&query)
        );
        cluster.eventually(&query, || {
            let answer: Value =
                serde_json::from_str(&cluster.try_kubectl(&["get", "--raw", &path]).ok()?).ok()?;
            answer["data"]["result"].as_array().filter(|series| !series.is_empty()).map(|_| ())
        });
    }
}

fn escaped(query: &str) -> String {
    query
        .bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

#[test]
fn the_operator_runs_as_its_chart_deploys_it() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let pods = cluster.get_json(&["--namespace", "meshscope", "pods"]);
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 2, "the chart's replicas");
    let mut names = Vec::new();
    for pod in pods {
        assert_eq!(pod["spec"]["serviceAccountName"], "meshscope");
        let container = &pod["status"]["containerStatuses"][0];
        assert_eq!(
            (&container["ready"], &container["restartCount"]),
            (&json!(true), &json!(0)),
            "{container:#}"
        );
        names.push(pod["metadata"]["name"].as_str().unwrap());
    }
    let leader = cluster.eventually("a leader", || {
        let leases = cluster.get_json(&["--namespace", "meshscope", "leases"]);
        leases["items"][0]["spec"]["holderIdentity"].as_str().map(str::to_owned)
    });
    assert!(names.iter().any(|name| leader.starts_with(name)), "{leader} is none of {names:?}");
    let metrics = cluster.kubectl(&[
        "get",
        "--raw",
        "/api/v1/namespaces/meshscope/services/meshscope:http/proxy/metrics",
    ]);
    assert!(metrics.contains("meshscope_"), "{metrics}");
}

#[test]
fn a_crash_is_told_in_the_programs_own_words() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let space = shop(cluster, "crash");
    // The same change as of a release that wants a setting which nobody gave it.
    let script = "echo 'fatal: environment variable LEDGER_URL is not set'; exit 1";
    cluster.apply(&deployment(&space, "callee", &json!({ "app": "callee", "version": "v1" }), script));
    cluster.kubectl(&["--namespace", &space, "delete", "pods", "--selector=app=callee", "--wait=false"]);
    cluster.eventually("a crash loop", || {
        let states = cluster.kubectl(&[
            "--namespace",
            &space,
            "get",
            "pods",
            "--selector=app=callee",
            "--output",
            "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}",
        ]);
        states.contains("CrashLoopBackOff").then_some(())
    });
    let session = asked(cluster, &space, "callee");
    let cause = &session["status"]["rootCauses"][0];
    assert_eq!(
        (&cause["rank"], &cause["subject"]["name"]),
        (&json!(1), &json!("callee")),
        "{:#}",
        session["status"]
    );
    assert!(session["status"].to_string().contains("LEDGER_URL"), "{:#}", session["status"]);
}

#[test]
fn a_subset_without_pods_is_found_by_what_the_proxies_say_and_healed_by_its_fix() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let space = shop(cluster, "subset");
    let object = |kind: &str, spec: Value| {
        cluster.apply(
            &json!({ "apiVersion": "networking.istio.io/v1", "kind": kind,
            "metadata": { "namespace": space, "name": "callee" }, "spec": spec })
            .to_string(),
        );
    };
    object(
        "DestinationRule",
        json!({ "host": "callee", "subsets": [
        { "name": "v1", "labels": { "version": "v1" } }, { "name": "v2", "labels": { "version": "v2" } }] }),
    );
    object(
        "VirtualService",
        json!({ "hosts": ["callee"], "http": [{ "route": [{ "destination": { "host": "callee", "subset": "v2" } }] }] }),
    );
    answers(cluster, &space, "503");
    let session = asked(cluster, &space, "callee");
    let cause = &session["status"]["rootCauses"][0];
    assert_eq!((&cause["rank"], &cause["cause"]), (&json!(1), &json!("ISTIO104")), "{:#}", session["status"]);
}
