//! A whole cluster, with pods that run and proxies between them, as `tests/cluster/up --nodes` starts it, and in it the
//! operator as its chart deploys it.

use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE};

/// The image that has a shell, its commands and curl.
const TOOL: &str = "localhost/tool:1";

/// In a namespace of its own, `caller` asks `callee` five times a second and logs the answers' codes.
struct Shop {
    cluster: &'static Cluster,
    space: String,
}

impl Shop {
    fn open(cluster: &'static Cluster, about: &str) -> Self {
        let shop = Self { cluster, space: cluster.namespace(about) };
        cluster.kubectl(&["label", "namespace", &shop.space, "istio-injection=enabled"]);
        shop.deploy("callee", "echo well >/tmp/index.html; exec httpd -f -p 8080 -h /tmp");
        shop.deploy(
            "caller",
            "while :; do curl --silent --output /dev/null --max-time 5 --write-out '%{http_code}\\n' http://callee/; sleep 0.2; done",
        );
        let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
        shop.apply("v1", "Service", "callee", &json!({ "selector": { "app": "callee" }, "ports": ports }));
        shop.answers("200");
        shop
    }

    fn apply(&self, api_version: &str, kind: &str, name: &str, spec: &Value) {
        let metadata = json!({ "namespace": self.space, "name": name });
        let object = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec });
        self.cluster.apply(&object.to_string());
    }

    fn deploy(&self, name: &str, script: &str) {
        let labels = json!({ "app": name, "version": "v1" });
        let container = json!({ "name": "app", "image": TOOL, "command": ["sh", "-c", script], "ports": [{ "containerPort": 8080 }] });
        let pod = json!({ "terminationGracePeriodSeconds": 1, "containers": [container] });
        let template = json!({ "metadata": { "labels": labels }, "spec": pod });
        let spec = json!({ "selector": { "matchLabels": labels }, "strategy": { "type": "Recreate" }, "template": template });
        self.apply("apps/v1", "Deployment", name, &spec);
    }

    fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.cluster.try_kubectl(&[&["--namespace", &self.space], args].concat())
    }

    /// Waits until all the answers of the last moment are of this code.
    fn answers(&self, code: &str) {
        self.cluster.eventually(&format!("answers {code}"), || {
            let log = self.kubectl(&["logs", "deployment/caller", "--container=app", "--tail=5"]).ok()?;
            (log.lines().count() == 5 && log.lines().all(|line| line == code)).then_some(())
        });
    }

    /// Asks why `callee` fails, as a user does, and gives the session's status when it is answered.
    fn asked(&self) -> Value {
        let spec = json!({ "target": { "services": ["callee"] } });
        self.cluster.apply(&crate::schema::session(&self.space, "why", &spec));
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["wait", "dbg/why", "--for=condition=Finished", &timeout]).unwrap();
        let mut session = self.cluster.get_json(&["--namespace", &self.space, "dbg", "why"]);
        assert_eq!(session["status"]["phase"], "Completed", "{:#}", session["status"]);
        session["status"].take()
    }

    /// Does what a session says to do, word for word.
    fn run(&self, commands: &Value) {
        let commands: Vec<&str> = commands.as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        assert!(!commands.is_empty());
        for command in commands {
            let output = self.cluster.shell(command).output().unwrap();
            assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for Shop {
    /// It goes with its test, for the sake of others who use the cluster; after a failure it is left to be looked at.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.cluster.try_kubectl(&["delete", "namespace", &self.space, "--wait=false"]);
        }
    }
}

/// What Prometheus answers, in the percent-encoding that every query survives.
fn series(cluster: &Cluster, query: &str) -> Option<usize> {
    let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = "/api/v1/namespaces/monitoring/services/prometheus:http/proxy/api/v1/query?query=";
    let answer = cluster.try_kubectl(&["get", "--raw", &format!("{path}{query}")]).ok()?;
    serde_json::from_str::<Value>(&answer).ok()?["data"]["result"].as_array().map(Vec::len)
}

#[test]
fn pods_run_in_a_mesh_that_is_measured() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let shop = Shop::open(cluster, "measured");
    let space = &shop.space;
    let entry = cluster.eventually("an entry of the caller's proxy", || {
        let log =
            shop.kubectl(&["logs", "deployment/caller", "--container=istio-proxy", "--tail=20"]).ok()?;
        let mut entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries.find(|entry| entry["response_code"] == 200)
    });
    assert_eq!(
        entry["upstream_cluster"],
        format!("outbound|80||callee.{space}.svc.cluster.local"),
        "{entry}"
    );
    for query in [
        &format!("envoy_cluster_upstream_rq{{namespace=\"{space}\",response_code=\"200\"}}"),
        &format!("container_memory_working_set_bytes{{namespace=\"{space}\",container=\"app\"}}"),
        "coredns_dns_requests_total",
    ] {
        cluster.eventually(query, || series(cluster, query).filter(|found| *found > 0));
    }
}

#[test]
fn the_operator_runs_as_its_chart_deploys_it() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let pods =
        cluster.get_json(&["--namespace", "meshscope", "pods", "--field-selector=status.phase=Running"]);
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 2, "the chart's replicas");
    for pod in pods {
        assert_eq!(pod["spec"]["serviceAccountName"], "meshscope");
        let container = &pod["status"]["containerStatuses"][0];
        let state = (&container["ready"], &container["restartCount"]);
        assert_eq!(state, (&json!(true), &json!(0)), "{container:#}");
    }
    cluster.eventually("a leader among them", || {
        let leases = cluster.get_json(&["--namespace", "meshscope", "leases"]);
        let leader = leases["items"][0]["spec"]["holderIdentity"].as_str()?.to_owned();
        pods.iter().find(|pod| leader.starts_with(pod["metadata"]["name"].as_str().unwrap()))
    });
    let metrics = "/api/v1/namespaces/meshscope/services/meshscope:http/proxy/metrics";
    assert!(cluster.kubectl(&["get", "--raw", metrics]).contains("meshscope_"));
}

#[test]
fn a_crash_is_told_in_the_programs_own_words() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let shop = Shop::open(cluster, "crash");
    // As a release would that wants a setting which nobody gave it.
    shop.deploy("callee", "echo 'fatal: environment variable LEDGER_URL is not set'; exit 1");
    cluster.eventually("a crash loop", || {
        let reason = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
        let states = shop.kubectl(&["get", "pods", "--selector=app=callee", "--output", reason]).ok()?;
        states.contains("CrashLoopBackOff").then_some(())
    });
    let status = shop.asked();
    let cause = &status["rootCauses"][0];
    // The proxy's ConfigMap is mounted in the same pod, and is none of the program's business.
    assert_eq!((&cause["rank"], &cause["subject"]["kind"]), (&json!(1), &json!("Deployment")), "{status:#}");
    assert_eq!(cause["subject"]["name"], "callee", "{status:#}");
    assert!(cause["title"].as_str().unwrap().contains("LEDGER_URL"), "{status:#}");
}

#[test]
fn a_subset_without_pods_is_found_by_what_proxies_say_and_healed_by_its_fix() {
    let Some(cluster) = Cluster::with_nodes() else { return };
    let shop = Shop::open(cluster, "subset");
    let subset = |name: &str| json!({ "name": name, "labels": { "version": name } });
    let to = |subset: &str, weight: u8| json!({ "destination": { "host": "callee", "subset": subset }, "weight": weight });
    let istio = "networking.istio.io/v1";
    let subsets = json!({ "host": "callee", "subsets": [subset("v1"), subset("v2")] });
    shop.apply(istio, "DestinationRule", "callee", &subsets);
    let route = |parts: Value| json!({ "hosts": ["callee"], "http": [{ "route": parts }] });
    shop.apply(istio, "VirtualService", "callee", &route(json!([to("v1", 100)])));
    shop.answers("200");
    shop.apply(istio, "VirtualService", "callee", &route(json!([to("v1", 1), to("v2", 99)])));
    shop.answers("503");
    let status = shop.asked();
    let cause = &status["rootCauses"][0];
    assert_eq!((&cause["rank"], &cause["cause"]), (&json!(1), &json!("ISTIO104")), "{status:#}");
    let finding =
        status["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == "ISTIO104").unwrap();
    let fix = &finding["remediation"][0];
    shop.run(&fix["commands"]);
    shop.answers("200");
    shop.run(&fix["rollback"]);
    shop.answers("503");
}
