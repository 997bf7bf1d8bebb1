//! What the chart's admission policies let through, asked as the people and the account that they are about.

use serde_json::json;

use crate::chart::installed;
use crate::schema::session;
use crate::support::Cluster;

/// A user who may edit in `own`, and nothing elsewhere.
fn editor(cluster: &Cluster, own: &str) -> String {
    let user = format!("editor-of-{own}");
    cluster.kubectl(&[
        "--namespace",
        own,
        "create",
        "rolebinding",
        "edit",
        "--clusterrole=edit",
        "--user",
        &user,
    ]);
    cluster.eventually("the role edit extended to sessions", || {
        let may = cluster.try_kubectl(&[
            "--namespace",
            own,
            "auth",
            "can-i",
            "create",
            "debugsessions",
            "--as",
            &user,
        ]);
        may.ok().filter(|answer| answer.trim() == "yes")
    });
    user
}

#[test]
fn a_session_looks_only_where_whoever_asks_for_it_may_look() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let (own, other) = (cluster.namespace("own"), cluster.namespace("other"));
    let user = editor(cluster, &own);
    let create = |name: &str, spec| {
        let args = ["create", "--as", &user, "--filename", "-"];
        cluster.try_kubectl_with(&args, &session(&own, name, &spec))
    };
    create("mine", json!({ "target": {} })).unwrap();
    create("mine-by-name", json!({ "target": { "namespace": own } })).unwrap();
    let refused = cluster.eventually("the policy in force", || {
        create("theirs", json!({ "target": { "namespace": other } })).err()
    });
    assert!(refused.contains(&format!("you may not list pods in namespace {other}")), "{refused}");
}

#[test]
fn without_logs_only_a_session_without_logs_may_be_asked_for() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let own = cluster.namespace("nologs");
    let user = format!("operator-of-{own}");
    let grant = |name: &str, verbs: &str, resources: &str| {
        let (verbs, resources) = (format!("--verb={verbs}"), format!("--resource={resources}"));
        cluster.kubectl(&["--namespace", &own, "create", "role", name, &verbs, &resources]);
        let role = format!("--role={name}");
        cluster.kubectl(&["--namespace", &own, "create", "rolebinding", name, &role, "--user", &user]);
    };
    grant("look", "get,list", "pods,events");
    grant("ask", "get,create,patch,update", "debugsessions.meshscope.dev");
    let send = |verb: &str, name: &str, spec| {
        cluster.try_kubectl_with(&[verb, "--as", &user, "--filename", "-"], &session(&own, name, &spec))
    };
    let refused = send("create", "all", json!({ "target": {} })).unwrap_err();
    assert!(refused.contains("leave Logs out of spec.collect.sources"), "{refused}");
    let modest = json!({ "target": {}, "collect": { "sources": ["Events"] } });
    send("create", "events", modest.clone()).unwrap();

    // Whoever labels a session does not ask for anything; whoever changes it does.
    cluster.kubectl(&["--namespace", &own, "label", "dbg", "events", "team=sre", "--as", &user]);
    cluster.apply(&session(&own, "of-somebody-else", &json!({ "target": {} })));
    cluster.kubectl(&["--namespace", &own, "label", "dbg", "of-somebody-else", "team=sre", "--as", &user]);
    let again = [
        "--namespace",
        &own,
        "annotate",
        "dbg",
        "of-somebody-else",
        "meshscope.dev/requestedAt=1",
        "--as",
        &user,
    ];
    assert!(cluster.try_kubectl(&again).unwrap_err().contains("you may not read logs"));
    let wider = r#"{"spec":{"collect":{"sources":["Logs"]}}}"#;
    let change =
        ["--namespace", &own, "patch", "dbg", "events", "--type=merge", "--patch", wider, "--as", &user];
    assert!(cluster.try_kubectl(&change).unwrap_err().contains("you may not read logs"));
}

#[test]
fn the_operator_writes_no_config_map_but_reports() {
    let Some(cluster) = Cluster::get() else { return };
    installed(cluster);
    let space = cluster.namespace("reports");
    cluster.apply(&session(&space, "checkout", &json!({ "target": {} })));
    let uid = cluster.get_json(&["--namespace", &space, "dbg", "checkout"])["metadata"]["uid"].clone();
    let operator = "system:serviceaccount:meshscope:meshscope";
    let config_map = |name: &str, owners| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": space, "name": name, "ownerReferences": owners }, "data": { "a": "b" } })
        .to_string()
    };
    let create =
        |text: &str| cluster.try_kubectl_with(&["create", "--as", operator, "--filename", "-"], text);
    let owned = json!([{ "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession", "name": "checkout", "uid": uid }]);
    create(&config_map("report", owned.clone())).unwrap();
    cluster.kubectl(&["--namespace", &space, "delete", "configmap", "report", "--as", operator]);

    let words = "may only write ConfigMaps that a DebugSession owns";
    assert!(create(&config_map("settings", json!([]))).unwrap_err().contains(words));
    cluster.apply(&config_map("settings", json!([])));
    let adopt = json!({ "metadata": { "ownerReferences": owned }, "data": { "a": "c" } }).to_string();
    for args in [
        ["delete", "configmap", "settings"].as_slice(),
        &["patch", "configmap", "settings", "--type=merge", "--patch", r#"{"data":{"a":"c"}}"#],
        &["patch", "configmap", "settings", "--type=merge", "--patch", &adopt],
    ] {
        let args = [args, &["--namespace", &space, "--as", operator]].concat();
        assert!(cluster.try_kubectl(&args).unwrap_err().contains(words), "{args:?}");
    }
    for (question, wanted) in [
        (["list", "pods"].as_slice(), "yes"),
        (&["get", "pods", "--subresource=log"], "no"),
        (&["create", "pods", "--subresource=exec"], "no"),
        (&["get", "secrets"], "no"),
        (&["update", "pods"], "no"),
    ] {
        let args = [&["--namespace", &space, "--as", operator, "auth", "can-i"], question].concat();
        // kubectl fails where the answer is no.
        let answer = cluster.try_kubectl(&args).unwrap_or_else(|_| "no".to_owned());
        assert_eq!(answer.trim(), wanted, "{question:?}");
    }
}
