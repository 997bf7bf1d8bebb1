use super::*;
use crate::collect::material::Material;
use crate::collect::outcome::CollectorState;
use crate::collect::plan::{Question, Reach, Source, Target};
use crate::collect::testing::FakeCluster;
use crate::model::gap::GapReason;
use crate::model::json::json;
use std::sync::Mutex;

fn app(namespace: &str, name: &str, url: &str) -> Vec<Value> {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": {"nodeName": "n1", "containers": [{"name": "app", "env": [{"name": "URL", "value": url}]},
        {"name": "istio-proxy"}]}});
    let status = |container: &str, restarts: u32| {
        json!({"name": container, "ready": true, "restartCount": restarts, "state": {"running": {}},
        "lastState": if restarts > 0 { json!({"terminated": {"exitCode": 1}}) } else { json!({}) }})
    };
    vec![
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace, "name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": template}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": {"selector": labels}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": format!("{name}-1"), "labels": labels},
            "spec": template["spec"], "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [status("app", u32::from(name == "cart")), status("istio-proxy", 0)]}}),
    ]
}

fn cluster() -> FakeCluster {
    let named =
        |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let mut objects: Vec<Value> =
        ["shop", "money", "istio-system", "kube-system", "other"].map(|name| named("Namespace", name)).into();
    objects.extend(["n1", "n2", "n3"].map(|name| named("Node", name)));
    objects.extend(app("shop", "cart", "http://bank.money:80"));
    objects.extend(app("shop", "web", "http://cart"));
    objects.extend(app("money", "bank", ""));
    objects.extend(app("money", "till", ""));
    objects.extend(app("other", "unrelated", ""));
    objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "istio-system", "name": "istio"}, "data": {"mesh": "rootNamespace: istio-system\nenableAutoMtls: false\n"}}));
    objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "settings"}, "data": {"password": "hunter2"}}));
    objects.push(json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"namespace": "istio-system", "name": "strict"}}));
    objects.push(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"namespace": "shop", "name": "e1"}, "involvedObject": {"kind": "Pod", "name": "cart-1"}}));
    objects.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "istio-system", "name": "istiod-1", "labels": {"app": "istiod"}}, "spec": {"nodeName": "n2"}}));
    let logs = vec![
        ("istio-system/istiod-1/discovery", "2026-11-21T09:30:00Z ADS: ACK ERROR\n"),
        ("shop/cart-1/app", "2026-11-21T09:30:00Z fatal\n"),
        ("shop/cart-1/app!", "2026-11-21T09:29:00Z why it died\n"),
        ("shop/cart-1/istio-proxy", "2026-11-21T09:30:00Z access\n"),
        ("shop/web-1/app", "2026-11-21T09:30:00Z serving\n"),
        ("shop/web-1/istio-proxy", "2026-11-21T09:30:00Z access\n"),
    ];
    FakeCluster { objects, logs, denied: vec![] }
}

fn run(cluster: FakeCluster, change: impl FnOnce(&mut Question)) -> LiveRun {
    let mut question = Question::about("shop", Asker::Person);
    question.target = Target::Services(vec!["cart".into()]);
    change(&mut question);
    let budget = Budget::default();
    let plan = Plan::new(question, "2026-11-21T10:00:00Z".parse().unwrap(), &budget).unwrap();
    LiveRun::new(
        cluster.client(),
        plan,
        Sources::default(),
        Arc::new(|_| ()),
        CancellationToken::new(),
        budget,
    )
}

fn names(material: &Material, kind: &str) -> Vec<String> {
    let of_kind = material.objects.iter().filter(|object| object.text("kind") == Some(kind));
    of_kind.map(|o| format!("{}/{}", o.string("metadata.namespace"), o.string("metadata.name"))).collect()
}

fn logs(material: &Material) -> Vec<String> {
    let name =
        |log: &LogFile| format!("{}/{}{}", log.pod, log.container, if log.previous { "!" } else { "" });
    let mut logs: Vec<String> = material.logs.iter().map(name).collect();
    logs.sort();
    logs
}

#[tokio::test]
async fn a_run_reads_the_target_its_neighbours_and_the_mesh() {
    let steps = Arc::new(Mutex::new(vec![]));
    let seen = Arc::clone(&steps);
    let mut run = run(cluster(), |_| ());
    run.progress = Arc::new(move |progress| seen.lock().unwrap().push(progress.done));
    run.collect().await;
    let (material, outcomes, cost) = run.finish();

    assert_eq!(
        names(&material, "Deployment"),
        ["money/bank", "shop/cart", "shop/web"],
        "no stranger of another namespace"
    );
    assert_eq!(
        names(&material, "Pod"),
        ["istio-system/istiod-1", "money/bank-1", "shop/cart-1", "shop/web-1"]
    );
    assert_eq!(names(&material, "PeerAuthentication"), ["istio-system/strict"]);
    assert_eq!(names(&material, "Event"), ["shop/e1"]);
    assert_eq!(names(&material, "Node"), ["/n1", "/n2"], "where the pods are");
    assert_eq!(names(&material, "Namespace"), ["/money", "/shop"]);
    assert!(!format!("{material:?}").contains("hunter2"));

    let istio = material.manifest.istio.unwrap();
    assert_eq!(istio.mesh_config.at("enableAutoMtls"), Some(&json!(false)));
    assert_eq!(material.manifest.target.unwrap().services, ["cart"]);
    assert_eq!(
        logs(&Material { logs: material.logs, ..Material::default() }),
        ["cart-1/app", "cart-1/app!", "cart-1/istio-proxy", "istiod-1/discovery", "web-1/istio-proxy"]
    );

    let metrics = outcomes.iter().find(|outcome| outcome.name == "Metrics").unwrap();
    assert_eq!(
        (metrics.state, metrics.hint.as_str()),
        (CollectorState::NotInstalled, "name a metrics source: --prometheus URL")
    );
    assert!(cost.api_requests > 10 && cost.bytes_read > 0 && cost.objects > 0);
    let steps = steps.lock().unwrap();
    assert!(steps.is_sorted() && steps.last() == Some(&STEPS.len()));
}

#[tokio::test]
async fn a_deeper_look_reads_the_rest_of_the_implicated_pods() {
    let mut run = run(cluster(), |_| ());
    run.collect().await;
    assert_eq!(run.target_pods(), [("shop".to_owned(), "cart-1".to_owned())]);
    assert_eq!(run.all_pods().len(), 3);
    run.deepen(&[("shop".to_owned(), "web-1".to_owned())]).await;
    assert_eq!(
        logs(&run.material()),
        [
            "cart-1/app",
            "cart-1/app!",
            "cart-1/istio-proxy",
            "istiod-1/discovery",
            "web-1/app",
            "web-1/istio-proxy"
        ]
    );
}

#[tokio::test]
async fn what_is_refused_is_a_gap_and_the_rest_is_read() {
    let cluster = FakeCluster {
        denied: vec![
            "/api/v1/namespaces/shop/pods/",
            "/apis/apps/v1/namespaces/shop/replicasets",
            "/api/v1/nodes",
            "/api/v1/namespaces/shop/events",
        ],
        ..cluster()
    };
    let mut run = run(cluster, |question| {
        question.asker = Asker::Operator;
        question.reach = crate::collect::plan::Reach::Only(BTreeSet::new());
    });
    run.collect().await;
    let (material, outcomes, _) = run.finish();
    assert_eq!(names(&material, "Service"), ["shop/cart", "shop/web"]);
    let state = |name: &str| outcomes.iter().find(|outcome| outcome.name == name).unwrap().clone();
    assert_eq!(state("Logs").state, CollectorState::Denied);
    assert_eq!(state("Logs").hint, "grant get pods/log in namespace shop: chart value rbac.logNamespaces");
    assert_eq!(state("Workloads").state, CollectorState::Partial);
    let forbidden: Vec<_> = material
        .gaps
        .iter()
        .filter(|gap| gap.reason == GapReason::Forbidden)
        .map(|gap| gap.what.as_str())
        .collect();
    assert!(
        forbidden.contains(&"get nodes of the cluster")
            && forbidden.contains(&"list replicasets.apps in namespace shop"),
        "{forbidden:?}"
    );
}

#[tokio::test]
async fn an_operator_does_not_look_into_namespaces_that_nobody_granted() {
    let mut run = run(cluster(), |question| {
        question.asker = Asker::Operator;
        question.reach = crate::collect::plan::Reach::Only(BTreeSet::new());
    });
    run.collect().await;
    run.deepen(&[("money".to_owned(), "bank-1".to_owned())]).await;
    let material = run.material();
    assert!(material.objects.iter().all(|object| object.string("metadata.namespace") != "money"));
    assert!(
        material
            .gaps
            .iter()
            .any(|gap| gap.what.contains("namespace money") && gap.reason == GapReason::Forbidden)
    );
    assert_eq!(
        names(&material, "PeerAuthentication"),
        ["istio-system/strict"],
        "what holds for the whole mesh holds here"
    );
}

#[tokio::test]
async fn sources_that_were_not_asked_for_are_skipped() {
    let mut run = run(cluster(), |question| question.sources = [Source::Events].into());
    run.collect().await;
    let (material, outcomes, _) = run.finish();
    assert!(material.logs.is_empty() && names(&material, "PeerAuthentication").is_empty());
    let skipped: Vec<_> =
        outcomes.iter().filter(|o| o.state == CollectorState::Skipped).map(|o| o.name.as_str()).collect();
    assert_eq!(skipped, ["Istio", "GatewayAPI", "Linkerd", "Consul", "Logs", "Proxies", "Metrics"]);
    assert!(material.gaps.is_empty(), "{:?}", material.gaps);
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_said_at_once() {
    let mut run = run(cluster(), |question| question.namespace = "shoop".into());
    run.collect().await;
    let material = run.material();
    assert_eq!(
        (material.gaps[0].what.as_str(), material.gaps[0].reason),
        ("namespace shoop", GapReason::Absent)
    );
    assert!(material.logs.is_empty());
}

#[tokio::test]
async fn a_server_that_refuses_everything_ends_with_one_gap() {
    let cluster = FakeCluster { denied: vec!["/"], ..cluster() };
    let mut run = run(cluster, |_| ());
    run.collect().await;
    assert!(matches!(run.unreachable(), Some(ReadError::Forbidden)));
    let (material, outcomes, cost) = run.finish();
    assert_eq!((material.gaps.len(), outcomes.len(), cost.api_requests), (1, 1, 1));
    assert_eq!(outcomes[0].state, CollectorState::Denied);
}

#[tokio::test]
async fn a_cancelled_run_ends_and_keeps_what_it_has() {
    let mut run = run(cluster(), |_| ());
    run.collect().await;
    let before = run.material().objects.len();
    let cancel = CancellationToken::new();
    cancel.cancel();
    run.reader = Reader::new(cluster().client(), Arc::new(Meter::new(Budget::default())), cancel);
    run.deepen(&[("shop".to_owned(), "web-1".to_owned())]).await;
    let material = run.material();
    assert_eq!(material.objects.len(), before);
    assert!(material.gaps.iter().any(|gap| gap.source == "Logs" && gap.reason == GapReason::TimedOut));
}

#[tokio::test]
async fn a_metrics_source_is_asked_about_the_target_and_its_neighbours() {
    use crate::collect::prometheus::query::Query;
    use crate::collect::prometheus::{Answer, Limits, MetricsError, Range};
    struct Fake(Mutex<Vec<String>>);
    impl MetricsSource for Fake {
        fn name(&self) -> &str {
            "default"
        }
        fn query_range<'a>(
            &'a self,
            query: &'a Query,
            _: Range,
            _: Limits,
        ) -> futures::future::BoxFuture<'a, Result<Answer, MetricsError>> {
            self.0.lock().unwrap().push(query.text().to_owned());
            let body = json!({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "up"}, "values": [[1, "1"]]}]}});
            Box::pin(async move { Ok(Answer { body, warnings: vec![], bytes: 9, truncated: false }) })
        }
    }
    let fake = Arc::new(Fake(Mutex::default()));
    let mut run = run(cluster(), |_| ());
    run.sources.metrics = Some(Arc::clone(&fake) as Arc<dyn MetricsSource>);
    run.collect().await;
    run.deepen(&run.target_pods()).await;
    let files: Vec<String> = run.material().metrics.into_iter().map(|file| file.name).collect();
    for name in ["up", "up.money", "envoy_pools"] {
        assert!(files.iter().any(|file| file == name), "{files:?}");
    }
    let asked = fake.0.lock().unwrap();
    assert!(asked.iter().any(|query| query == r#"up{namespace="money",pod=~"bank\\-1"}"#));
    assert!(asked.iter().any(|query| query.contains(r#"destination_workload=~"cart\\-1""#)
        || query.contains(r#"destination_workload=~"cart""#)));
    assert_eq!(run.outcomes().iter().find(|o| o.name == "Metrics").unwrap().state, CollectorState::Succeeded);
}

/// A VirtualService for outside, and the gateway that it is bound to in a namespace of the platform.
fn with_gateway(mut cluster: FakeCluster) -> FakeCluster {
    let istio = |kind: &str, spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"namespace": "shop", "name": "public"}, "spec": spec});
    cluster
        .objects
        .push(istio("VirtualService", json!({"hosts": ["shop.example.com"], "gateways": ["public"]})));
    cluster.objects.push(istio("Gateway", json!({"selector": {"istio": "edge"}, "servers": [{"port": {"number": 80, "protocol": "HTTP"}, "hosts": ["*"]}]})));
    let edge = |kind: &str, name: &str, labels: Value, spec: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": "other", "name": name, "labels": labels}, "spec": spec});
    let labels = json!({"istio": "edge"});
    let proxy = json!({"containers": [{"name": "istio-proxy", "args": ["proxy", "router"], "env": [{"name": "KEY", "value": "hunter2"}]}]});
    cluster.objects.push(edge("Pod", "edge-1", labels.clone(), proxy));
    let sidecar =
        json!({"containers": [{"name": "app"}, {"name": "istio-proxy", "args": ["proxy", "sidecar"]}]});
    cluster.objects.push(edge("Pod", "no-gateway", labels.clone(), sidecar));
    cluster.objects.push(edge(
        "Service",
        "edge",
        json!({}),
        json!({"selector": labels, "ports": [{"port": 80}]}),
    ));
    cluster.logs.push((
        "other/edge-1/istio-proxy",
        r#"2026-11-21T09:30:00Z {"response_code":404,"response_flags":"NR","authority":"shop.example.com","upstream_cluster":null}
2026-11-21T09:30:01Z {"response_code":200,"response_flags":"-","authority":"bank.example.com","upstream_cluster":"outbound|80||till.money.svc.cluster.local","path":"/account/4711"}
2026-11-21T09:30:02Z {"response_code":503,"response_flags":"UH","authority":"bank.example.com","upstream_cluster":"outbound|80||cart.shop.svc.cluster.local"}
"#,
    ));
    cluster
}

#[tokio::test]
async fn of_a_gateway_elsewhere_an_operator_sees_what_is_about_its_own_namespace() {
    let mut run = run(with_gateway(cluster()), |question| {
        (question.asker, question.reach) = (Asker::Operator, Reach::Only(BTreeSet::new()));
    });
    run.collect().await;
    let (material, _, _) = run.finish();
    let pods = names(&material, "Pod");
    assert!(pods.contains(&"other/edge-1".to_owned()));
    assert!(!pods.contains(&"other/no-gateway".to_owned()), "a selector alone opens no other pods");
    let services = names(&material, "Service");
    assert!(services.contains(&"other/edge".to_owned()) && !services.contains(&"other/unrelated".to_owned()));
    let log = material.logs.iter().find(|log| log.pod == "edge-1").unwrap();
    let text = String::from_utf8_lossy(&log.bytes);
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains("\"NR\"") && text.contains("\"UH\"") && !text.contains("4711"));
    assert!(!format!("{material:?}").contains("hunter2"));
}

#[tokio::test]
async fn where_only_some_namespaces_are_watched_a_gateway_elsewhere_is_looked_for_beside_the_control_plane() {
    let mut run = run(with_gateway(cluster()), |question| {
        (question.asker, question.reach) = (Asker::Operator, Reach::Only(BTreeSet::new()));
        question.watched = ["shop".to_owned()].into();
    });
    run.collect().await;
    assert!(!names(&run.material(), "Pod").contains(&"other/edge-1".to_owned()));
}
