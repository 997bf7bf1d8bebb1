//! The chart, as helm renders and installs it: with its defaults, with everything switched on, and for people who own
//! nothing but a namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::PolicyRule;
use meshscope::collect::permissions::{RoleKind, rules};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/meshscope");

/// Installs the chart as a user would, but without pods, once for a cluster: custom resources, policies, roles of users.
pub(crate) fn installed(cluster: &Cluster) {
    cluster.chart.call_once(|| {
        cluster
            .try_helm(&[
                "upgrade",
                "--install",
                "meshscope",
                CHART,
                "--namespace",
                "meshscope",
                "--create-namespace",
                "--set",
                "replicas=0",
            ])
            .unwrap_or_else(|message| panic!("helm install: {message}"));
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        cluster.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/debugsessions.meshscope.dev",
            &timeout,
        ]);
        cluster.eventually("kind DebugSession in discovery", || {
            cluster.try_kubectl(&["get", "debugsessions", "--namespace", "default"]).ok()
        });
    });
}

/// What `helm template` makes of these values for a release `meshscope` in `namespace`.
pub(crate) fn rendered(cluster: &Cluster, namespace: &str, values: &Value) -> Result<Vec<Value>, String> {
    let text = render(cluster, &["template", "meshscope", CHART, "--namespace", namespace], values)?;
    Ok(serde_saphyr::from_multiple::<Value>(&text)
        .unwrap()
        .into_iter()
        .filter(|object| !object.is_null())
        .collect())
}

fn render(cluster: &Cluster, args: &[&str], values: &Value) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&file, values).unwrap();
    cluster.try_helm(&[args, &["--values", file.path().to_str().unwrap()]].concat())
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Values that use everything the chart has.
fn everything() -> Value {
    json!({
        "global": { "imageRegistry": "registry.internal:5000" },
        "fullnameOverride": "why",
        "image": { "digest": format!("sha256:{}", "0".repeat(64)), "pullPolicy": "Always" },
        "imagePullSecrets": [{ "name": "pull" }],
        "replicas": 3,
        "rbac": { "logNamespaces": ["*"], "proxyNamespaces": ["shop", "istio-system"] },
        "serviceAccount": { "annotations": { "example.com/role": "x" } },
        "sources": { "metrics": [
            { "name": "default", "url": "http://prometheus.monitoring:9090/prefix", "tenant": "team-a", "matchers": { "cluster": "prod" } },
            { "name": "platform", "url": "https://[fd00::1]", "bearerTokenSecret": { "name": "token", "key": "t" },
              "caConfigMap": { "name": "ca", "key": "ca.crt" } },
            { "name": "other", "url": "https://thanos:9091", "bearerTokenFile": "/var/run/token", "caFile": "/var/run/ca.crt" },
        ] },
        "podAnnotations": { "example.com/a": "b" }, "podLabels": { "team": "sre" },
        "nodeSelector": { "kubernetes.io/os": "linux" }, "priorityClassName": "system-cluster-critical",
        "tolerations": [{ "operator": "Exists" }],
        "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 1, "preference": { "matchExpressions": [{ "key": "a", "operator": "Exists" }] } }] } },
        "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": { "app.kubernetes.io/name": "meshscope" } } }],
        "extraEnv": [{ "name": "HTTPS_PROXY", "value": "http://proxy:3128" }],
        "extraVolumes": [{ "name": "extra", "emptyDir": {} }], "extraVolumeMounts": [{ "name": "extra", "mountPath": "/extra" }],
        "podDisruptionBudget": { "maxUnavailable": "50%" },
        "service": { "port": 80, "annotations": { "example.com/a": "b" } },
        "networkPolicy": { "metricsFrom": [{ "namespaceSelector": { "matchLabels": { "team": "monitoring" } } }],
            "extraEgress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }] },
        "extraObjects": [
            { "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "{{ .Release.Name }}-extra" } },
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text-extra}",
        ],
    })
}

#[test]
fn helm_finds_nothing_to_say_against_it() {
    let Some(cluster) = Cluster::get() else { return };
    for values in
        [json!({}), everything(), json!({ "watchNamespaces": ["shop"], "rbac": { "clusterScoped": true } })]
    {
        render(cluster, &["lint", "--strict", CHART], &values)
            .unwrap_or_else(|message| panic!("{values}\n{message}"));
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let Some(cluster) = Cluster::get() else { return };
    for (values, words) in [
        (json!({ "replicaCount": 3 }), "replicaCount"),
        (json!({ "rbac": { "logNamespace": ["shop"] } }), "logNamespace"),
        (json!({ "rbac": { "logNamespaces": ["shop*"] } }), "logNamespaces"),
        (json!({ "sources": { "metrics": [{ "name": "default" }] } }), "url"),
        (json!({ "sources": { "metrics": [{ "name": "a", "url": "http://user:word@prometheus" }] } }), "url"),
        (json!({ "sources": { "metrics": [{ "name": "a", "url": "file:///etc/passwd" }] } }), "url"),
        (json!({ "image": { "digest": "latest" } }), "digest"),
        (json!({ "limits": { "maxWindow": "1d" } }), "maxWindow"),
    ] {
        let message = rendered(cluster, "default", &values).expect_err(&format!("{values} was taken"));
        assert!(message.contains(words), "{values}\n{message}");
    }
}

/// Rules by the kind and name of the role, and its namespace.
fn roles(objects: &[Value]) -> BTreeMap<(String, String), Vec<PolicyRule>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = BTreeMap::new();
    for role in of_kind(objects, "ClusterRole").into_iter().chain(of_kind(objects, "Role")) {
        let name = text(&role["metadata"]["name"]);
        if name.contains("-sessions-") {
            continue; // for users
        }
        let rules = Vec::<PolicyRule>::deserialize(&role["rules"]).unwrap();
        let bound = objects.iter().any(|binding| {
            binding["kind"] == format!("{}Binding", text(&role["kind"]))
                && binding["roleRef"]["name"] == role["metadata"]["name"]
                && binding["metadata"]["namespace"] == role["metadata"]["namespace"]
                && binding["subjects"][0]
                    == json!({ "kind": "ServiceAccount", "name": "meshscope", "namespace": "ops" })
        });
        assert!(bound, "{name} is bound to the operator's account");
        let place = (name, text(&role["metadata"]["namespace"]));
        assert_eq!(found.insert(place.clone(), rules), None, "{place:?}");
    }
    found
}

#[test]
fn its_roles_are_the_table_in_the_code() {
    let Some(cluster) = Cluster::get() else { return };
    let everywhere = || [rules(RoleKind::Namespaced), rules(RoleKind::ClusterScoped)].concat();
    let role = |suffix: &str, namespace: &str, rules: Vec<PolicyRule>| {
        ((format!("ops-meshscope{suffix}"), namespace.to_owned()), rules)
    };
    let leader = || role("-leader", "ops", rules(RoleKind::Leader));
    let logs = |namespace: &str| role("-logs", namespace, rules(RoleKind::Logs));
    let proxies = |namespace: &str| role("-proxies", namespace, rules(RoleKind::Proxies));
    let namespaced = |namespace: &str| role("", namespace, rules(RoleKind::Namespaced));
    for (values, wanted) in [
        (json!({}), vec![role("", "", everywhere()), leader()]),
        (json!({ "rbac": { "logNamespaces": ["*"] } }), vec![role("", "", everywhere()), logs(""), leader()]),
        (
            json!({ "rbac": { "logNamespaces": ["shop", "bank"] } }),
            vec![role("", "", everywhere()), logs("shop"), logs("bank"), leader()],
        ),
        (
            json!({ "watchNamespaces": ["shop", "bank"], "rbac": { "logNamespaces": ["shop"] } }),
            vec![namespaced("shop"), namespaced("bank"), logs("shop"), leader()],
        ),
        (
            json!({ "watchNamespaces": ["shop"], "rbac": { "logNamespaces": ["*"], "clusterScoped": true } }),
            vec![
                namespaced("shop"),
                logs("shop"),
                role("-cluster-scoped", "", rules(RoleKind::ClusterScoped)),
                leader(),
            ],
        ),
        (
            json!({ "rbac": { "proxyNamespaces": ["*"] } }),
            vec![role("", "", everywhere()), proxies(""), leader()],
        ),
        (
            json!({ "watchNamespaces": ["shop"], "rbac": { "proxyNamespaces": ["shop", "istio-system"] } }),
            vec![namespaced("shop"), proxies("shop"), proxies("istio-system"), leader()],
        ),
        (json!({ "rbac": { "create": false } }), vec![]),
    ] {
        let objects = rendered(cluster, "ops", &values).unwrap();
        assert_eq!(roles(&objects), wanted.into_iter().collect(), "{values}");
    }
}

#[test]
fn an_owner_of_one_namespace_needs_nothing_outside_of_it() {
    let Some(cluster) = Cluster::get() else { return };
    let values = json!({
        "watchNamespaces": ["shop"], "crds": { "enabled": false }, "rbac": { "userRoles": false },
        "admissionPolicy": { "requester": false, "operator": false }
    });
    let objects = rendered(cluster, "shop", &values).unwrap();
    assert!(objects.len() > 5);
    for object in objects {
        assert_eq!(object["metadata"]["namespace"], "shop", "{object}");
    }
}

#[test]
fn everything_in_it_is_taken_by_the_server_and_its_pods_by_restricted_namespaces() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let space = cluster.namespace("restricted");
    cluster.kubectl(&["label", "namespace", &space, "pod-security.kubernetes.io/enforce=restricted"]);
    let mut values = everything();
    values["crds"] = json!({ "enabled": false });
    values["rbac"]["proxyNamespaces"] = json!([space]); // a Role goes there
    let objects = rendered(cluster, &space, &values).unwrap();
    assert_eq!(of_kind(&objects, "ConfigMap").len(), 3, "with those in extraObjects");
    for mut object in objects {
        if object["metadata"].get("namespace").is_none() {
            object["metadata"]["namespace"] = json!(space); // of namespaced extraObjects; ignored for others
        }
        cluster.apply(&object.to_string());
    }
    // The controller manager makes the pods, and admission refuses those that do not comply.
    let pods = cluster.eventually("three pods", || {
        let pods = cluster.get_json(&["--namespace", &space, "pods"]);
        (pods["items"].as_array()?.len() == 3).then_some(pods)
    });
    let spec = &pods["items"][0]["spec"];
    let container = &spec["containers"][0];
    assert_eq!(
        container["image"],
        format!("registry.internal:5000/meshscope/meshscope@sha256:{}", "0".repeat(64))
    );
    for (place, wanted) in [
        (&container["livenessProbe"]["httpGet"]["path"], "/healthz"),
        (&container["readinessProbe"]["httpGet"]["path"], "/readyz"),
        (&spec["serviceAccountName"], "why"),
        (&spec["priorityClassName"], "system-cluster-critical"),
    ] {
        assert_eq!(place, wanted);
    }
    let policy = cluster.get_json(&["--namespace", &space, "networkpolicy", "why"]);
    let ports: Vec<i64> = policy["spec"]["egress"][2]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["port"].as_i64().unwrap())
        .collect();
    assert_eq!(ports, [9090, 443, 9091], "those of the sources' addresses");
}

#[test]
fn a_service_monitor_is_rendered_where_it_is_asked_for() {
    let Some(cluster) = Cluster::get() else { return };
    let monitors = |values: Value| {
        of_kind(&rendered(cluster, "ops", &values).unwrap(), "ServiceMonitor")
            .into_iter()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert!(monitors(json!({})).is_empty());
    let found =
        monitors(json!({ "serviceMonitor": { "enabled": true, "labels": { "release": "prometheus" } } }));
    assert_eq!(found[0]["spec"]["endpoints"][0]["port"], "http");
    assert_eq!(found[0]["metadata"]["labels"]["release"], "prometheus");
}
