//! A recording served as a Kubernetes API: what the server answers, and what the real `kubectl` makes of it.

use meshscope::collect::material::{LogFile, Material};
use meshscope::model::json::{Value, json};
use meshscope::replay::{self, Handle, Options};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// A small shop: one pod that crashes, its Service, an event about it, a route of a mesh.
fn shop() -> Material {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "checkout-1", "namespace": "shop", "uid": "pod-uid", "resourceVersion": "40", "labels": {"app": "checkout"},
            "creationTimestamp": "2026-11-21T09:55:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "app", "image": "shop/checkout:1"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{"name": "app", "ready": false, "restartCount": 3,
            "image": "shop/checkout:1", "imageID": "", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-21T09:59:00Z"}}}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"clusterIP": "10.1.0.1", "selector": {"app": "checkout"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e1", "namespace": "shop",
            "creationTimestamp": "2026-11-21T09:59:00Z"},
        "eventTime": "2026-11-21T09:59:00.000000Z", "reason": "BackOff", "type": "Warning", "note": "Back-off restarting failed container",
        "action": "x", "reportingController": "kubelet", "reportingInstance": "n1",
        "regarding": {"kind": "Pod", "namespace": "shop", "name": "checkout-1", "uid": "pod-uid"}});
    let route = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"hosts": ["checkout"]}});
    let log = |previous: bool, text: &str| LogFile {
        namespace: "shop".to_owned(),
        pod: "checkout-1".to_owned(),
        container: "app".to_owned(),
        previous,
        bytes: text.as_bytes().to_vec(),
        truncated: false,
    };
    Material {
        manifest: json!({"version": 1, "capturedAt": "2026-11-21T10:00:00Z"}).read().unwrap(),
        objects: vec![pod, service, event, route],
        logs: vec![
            log(false, "2026-11-21T09:59:58Z starting\n2026-11-21T09:59:59Z ready\n"),
            log(true, "2026-11-21T09:58:00Z panic: no config\n"),
        ],
        ..Material::default()
    }
}

async fn serve() -> Handle {
    meshscope::telemetry::install_crypto();
    let clock = || "2026-11-21T10:00:30Z".parse().unwrap();
    replay::serve(shop(), Options { port: 0, clock: Arc::new(clock) }).await.unwrap()
}

struct Api {
    client: reqwest::Client,
    base: String,
}

impl Api {
    fn of(handle: &Handle) -> Self {
        Api { client: reqwest::Client::new(), base: handle.url() }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "", "").await
    }

    async fn send(&self, method: &str, path: &str, content_type: &str, body: impl ToString) -> (u16, Value) {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.base));
        let response =
            request.header("content-type", content_type).body(body.to_string()).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::from(text)))
    }
}

const SESSIONS: &str = "/apis/meshscope.dev/v1alpha1/namespaces/shop/debugsessions";

fn session(since: &str) -> Value {
    json!({"apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession", "metadata": {"name": "a"},
           "spec": {"target": {"services": ["checkout"]}, "window": {"since": since}}})
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let handle = serve().await;
    let api = Api::of(&handle);
    let (status, pods) =
        api.get("/api/v1/pods?labelSelector=app%3Dcheckout&fieldSelector=spec.nodeName%3Dn1").await;
    assert_eq!((status, pods["items"].as_array().unwrap().len()), (200, 1));
    assert_eq!(pods["kind"], "PodList");
    let (_, none) = api.get("/api/v1/namespaces/other/pods").await;
    assert_eq!(none["items"], json!([]));
    let (status, error) = api.get("/api/v1/pods?labelSelector=a%20b").await;
    assert_eq!((status, &error["reason"]), (400, &json!("BadRequest")));

    let (mut names, mut token) = (vec![], String::new());
    loop {
        let (_, page) = api.get(&format!("/api/v1/namespaces?limit=1&continue={token}")).await;
        names.push(page["items"][0]["metadata"]["name"].as_str().unwrap().to_owned());
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["default", "shop"]);
    handle.shutdown().await;
}

#[tokio::test]
async fn both_faces_of_events_are_the_same_events() {
    let handle = serve().await;
    let api = Api::of(&handle);
    let (_, core) =
        api.get("/api/v1/namespaces/shop/events?fieldSelector=involvedObject.name=checkout-1").await;
    assert_eq!(core["items"][0]["message"], "Back-off restarting failed container");
    assert_eq!(core["items"][0]["involvedObject"]["uid"], "pod-uid");
    let (_, new) = api.get("/apis/events.k8s.io/v1/namespaces/shop/events").await;
    assert_eq!(new["items"][0]["note"], "Back-off restarting failed container");
}

#[tokio::test]
async fn strangers_are_kept_out_and_large_bodies_too() {
    let handle = serve().await;
    let api = Api::of(&handle);
    let (base, token) = handle.url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let get = async |url: String, host: &str| {
        let request = api.client.get(url).header("host", host);
        request.send().await.unwrap().status().as_u16()
    };
    let here = base.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(get(format!("{base}/api"), &here).await, 403);
    assert_eq!(get(format!("{base}/{token}x/api"), &here).await, 403);
    assert_eq!(get(format!("{base}/{token}/api"), "evil.example:80").await, 403);
    assert_eq!(get(format!("{base}/{token}/api"), &here).await, 200);
    let (status, error) = api.send("POST", SESSIONS, "application/json", "x".repeat(4 << 20)).await;
    assert_eq!((status, &error["reason"]), (413, &json!("RequestEntityTooLarge")));
}

#[tokio::test]
async fn the_recording_cannot_be_changed() {
    let handle = serve().await;
    let api = Api::of(&handle);
    for (method, path) in [
        ("DELETE", "/api/v1/namespaces/shop/pods/checkout-1"),
        ("DELETE", "/api/v1/namespaces/shop/events/e1"),
        ("PATCH", "/apis/apps/v1/namespaces/shop/deployments/x"),
        ("POST", "/api/v1/namespaces"),
    ] {
        let (status, error) = api.send(method, path, "application/merge-patch+json", "{}").await;
        assert_eq!((status, &error["reason"]), (403, &json!("Forbidden")), "{method} {path}");
        assert!(error["message"].as_str().unwrap().contains("recording"), "{error}");
    }
    let review = json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "pods"}}});
    let (_, answer) = api
        .send("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json", review)
        .await;
    assert_eq!(answer["status"]["allowed"], false);
}

#[tokio::test]
async fn a_session_lives_as_on_a_cluster() {
    let handle = serve().await;
    let api = Api::of(&handle);
    let json_type = "application/json";
    let (status, made) =
        api.send("POST", &format!("{SESSIONS}?fieldManager=me"), json_type, session("1h")).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-11-21T10:00:30Z");
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "me");
    let (status, again) = api.send("POST", SESSIONS, json_type, session("1h")).await;
    assert_eq!((status, &again["reason"]), (409, &json!("AlreadyExists")));

    let path = format!("{SESSIONS}/a");
    let merge = "application/merge-patch+json";
    let (_, changed) = api
        .send(
            "PATCH",
            &path,
            merge,
            json!({"spec": {"window": {"since": "2h"}}, "status": {"phase": "Failed"}}),
        )
        .await;
    assert_eq!(
        (&changed["metadata"]["generation"], &changed["spec"]["window"]["since"]),
        (&json!(2), &json!("2h"))
    );
    assert_ne!(changed["status"]["phase"], "Failed", "status is the subresource's alone");
    let version = changed["metadata"]["resourceVersion"].clone();
    let (_, same) = api.send("PATCH", &path, merge, json!({"spec": {"window": {"since": "2h"}}})).await;
    assert_eq!(same["metadata"]["resourceVersion"], version, "nothing changed");
    let stale = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {"suspend": true}});
    let (status, conflict) = api.send("PATCH", &path, merge, stale).await;
    assert_eq!((status, &conflict["reason"]), (409, &json!("Conflict")));
    let (status, wrong) = api.send("PATCH", &path, merge, json!({"spec": {"timeout": 7}})).await;
    assert_eq!((status, &wrong["reason"]), (422, &json!("Invalid")));
    let (status, strict) = api
        .send(
            "POST",
            &format!("{SESSIONS}?fieldValidation=Strict"),
            json_type,
            json!({"metadata": {"name": "b"}, "spec": {"nope": 1}}),
        )
        .await;
    assert_eq!(status, 400);
    assert!(strict["message"].as_str().unwrap().contains("unknown field \"spec.nope\""), "{strict}");

    let operations = json!([{"op": "test", "path": "/spec/window/since", "value": "2h"}, {"op": "add", "path": "/spec/suspend", "value": true}]);
    let (status, patched) = api.send("PATCH", &path, "application/json-patch+json", operations).await;
    assert_eq!((status, &patched["spec"]["suspend"]), (200, &json!(true)));

    let owner = json!([{"apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession", "name": "a", "uid": made["metadata"]["uid"]}]);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "r", "ownerReferences": owner}, "data": {}});
    let maps = "/api/v1/namespaces/shop/configmaps";
    assert_eq!(api.send("POST", maps, json_type, map).await.0, 201);
    assert_eq!(api.send("DELETE", &path, json_type, "").await.0, 200);
    assert_eq!(api.get(&path).await.0, 404);
    assert_eq!(api.get(&format!("{maps}/r")).await.0, 404, "what it owned goes with it");
    let elsewhere = "/api/v1/namespaces/nowhere/configmaps";
    let (status, error) = api.send("POST", elsewhere, json_type, json!({"metadata": {"name": "x"}})).await;
    assert_eq!((status, &error["message"]), (404, &json!("namespaces \"nowhere\" not found")));
}

#[tokio::test]
async fn server_side_apply_merges_lists_by_key_and_knows_who_owns_what() {
    let handle = serve().await;
    let api = Api::of(&handle);
    let apply = "application/apply-patch+yaml";
    let path = format!("{SESSIONS}/a");
    let (status, made) =
        api.send("PATCH", &format!("{path}?fieldManager=author"), apply, session("1h")).await;
    assert_eq!(status, 201, "{made}");

    let condition = |of: &str, status: &str| json!({"type": of, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-11-21T10:00:00Z"});
    let status_of = |conditions: Value| {
        json!({"apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession", "metadata": {"name": "a"},
               "status": {"observedGeneration": 1, "conditions": conditions}})
    };
    let one = status_of(json!([condition("Ready", "False"), condition("Finished", "False")]));
    let (code, after) =
        api.send("PATCH", &format!("{path}/status?fieldManager=op&force=true"), apply, one).await;
    assert_eq!(code, 200, "{after}");
    assert_eq!(after["spec"]["window"]["since"], "1h");
    assert_eq!(after["metadata"]["generation"], 1);
    let two = status_of(json!([condition("Finished", "True")]));
    let (_, after) =
        api.send("PATCH", &format!("{path}/status?fieldManager=op&force=true"), apply, two.clone()).await;
    assert!(after["status"]["conditions"].is_array(), "{after:#}");
    let left = after["status"]["conditions"].as_array().unwrap();
    assert_eq!((left.len(), &left[0]["type"], &left[0]["status"]), (1, &json!("Finished"), &json!("True")));
    let version = after["metadata"]["resourceVersion"].clone();
    let (_, again) =
        api.send("PATCH", &format!("{path}/status?fieldManager=op&force=true"), apply, two).await;
    assert_eq!(again["metadata"]["resourceVersion"], version, "the same again changes nothing");
    let entries = again["metadata"]["managedFields"].as_array().unwrap();
    let managers: Vec<_> =
        entries.iter().map(|e| (e["manager"].as_str().unwrap(), e["subresource"].as_str())).collect();
    assert_eq!(managers, [("author", None), ("op", Some("status"))]);

    let (code, refused) =
        api.send("PATCH", &format!("{path}?fieldManager=other"), apply, session("3h")).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")));
    assert!(
        refused["message"].as_str().unwrap().contains("conflict with \"author\": .spec.window.since"),
        "{refused}"
    );
    let (code, forced) =
        api.send("PATCH", &format!("{path}?fieldManager=other&force=true"), apply, session("3h")).await;
    assert_eq!((code, &forced["spec"]["window"]["since"]), (200, &json!("3h")));

    // What an author leaves out and nobody else owns goes.
    let mut bare = session("3h");
    bare["spec"].as_object_mut().unwrap().remove("window");
    let (_, kept) = api.send("PATCH", &format!("{path}?fieldManager=author"), apply, bare.clone()).await;
    assert_eq!(kept["spec"]["window"]["since"], "3h");
    let (_, gone) = api.send("PATCH", &format!("{path}?fieldManager=other"), apply, bare).await;
    assert_eq!(gone["spec"].get("window"), None);
}

#[tokio::test]
async fn watches_begin_with_what_is_there_and_tell_of_changes() {
    let handle = serve().await;
    let api = Api::of(&handle);
    let url = format!(
        "{}{SESSIONS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        handle.url()
    );
    let mut stream = api.client.get(url).send().await.unwrap();
    let mut buffer = vec![];
    let mut next = async || loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            break (event["type"].as_str().unwrap().to_owned(), event["object"].clone());
        }
        buffer.extend_from_slice(&stream.chunk().await.unwrap().unwrap());
    };
    let (what, mark) = next().await;
    assert_eq!(what, "BOOKMARK");
    assert_eq!(mark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    api.send("POST", SESSIONS, "application/json", session("1h")).await;
    api.send(
        "PATCH",
        &format!("{SESSIONS}/a"),
        "application/merge-patch+json",
        json!({"spec": {"suspend": true}}),
    )
    .await;
    api.send("DELETE", &format!("{SESSIONS}/a"), "", "").await;
    let mut versions = vec![];
    for expected in ["ADDED", "MODIFIED", "DELETED"] {
        let (what, object) = next().await;
        assert_eq!(what, expected);
        versions.push(object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
    }
    assert!(versions.is_sorted());
    // From the first version on, a new watch is told of the rest.
    let url = format!("{}{SESSIONS}?watch=1&resourceVersion={}&timeoutSeconds=1", handle.url(), versions[0]);
    let text = api.client.get(url).send().await.unwrap().text().await.unwrap();
    let kinds: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone()).collect();
    assert_eq!(kinds, ["MODIFIED", "DELETED"]);
    handle.shutdown().await;
}

/// The real kubectl: the one that the test of the real API server builds, else the one on `PATH`.
pub(crate) fn kubectl() -> Option<PathBuf> {
    let cache = std::env::var_os("MESHSCOPE_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/meshscope")));
    let built = cache.map(|cache| cache.join("bin/kubectl")).filter(|path| path.exists());
    let found = built.or_else(|| {
        let paths = std::env::var_os("PATH")?;
        std::env::split_paths(&paths).map(|folder| folder.join("kubectl")).find(|path| path.exists())
    });
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!ci, "kubectl is neither in the cache nor on PATH");
        println!("skipped: kubectl is neither in the cache nor on PATH");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_kubectl_works_with_it() {
    let Some(kubectl) = kubectl() else { return };
    let handle = serve().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, handle.kubeconfig("shop")).unwrap();
    let manifest = folder.path().join("session.yaml");
    std::fs::write(&manifest, session("1h").to_string()).unwrap();
    let manifest = manifest.to_str().unwrap().to_owned();
    let run = async |arguments: &str| {
        let mut command = Command::new(&kubectl);
        command.arg("--kubeconfig").arg(&config).env("HOME", folder.path()).args(arguments.split(' '));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let good = async |arguments: &str| {
        let (success, out, error) = run(arguments).await;
        assert!(success, "kubectl {arguments}: {error}");
        out.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        good("get pods").await,
        "NAME READY STATUS RESTARTS AGE\ncheckout-1 0/1 CrashLoopBackOff 3 (60s ago) 5m"
    );
    assert!(good("get all").await.contains("service/checkout ClusterIP 10.1.0.1 <none> 80/TCP"));
    assert_eq!(good("get vs").await, "NAME GATEWAYS HOSTS AGE\ncheckout [\"checkout\"]");
    assert!(good("get events").await.contains("60s Warning BackOff pod/checkout-1 Back-off restarting"));
    assert!(good("describe pod checkout-1").await.contains("Warning BackOff"));
    assert!(good("describe service checkout").await.contains("Selector: app=checkout"));
    assert_eq!(good("logs checkout-1").await, "starting\nready");
    assert_eq!(
        good("logs checkout-1 -c app --previous --timestamps").await,
        "2026-11-21T09:58:00Z panic: no config"
    );
    assert!(
        good("api-resources").await.contains("debugsessions dbg meshscope.dev/v1alpha1 true DebugSession")
    );
    assert_eq!(good(&format!("apply -f {manifest}")).await, "debugsession.meshscope.dev/a created");
    assert_eq!(good(&format!("apply -f {manifest}")).await, "debugsession.meshscope.dev/a unchanged");
    assert_eq!(
        good(&format!("apply --server-side -f {manifest}")).await,
        "debugsession.meshscope.dev/a serverside-applied"
    );
    assert!(good("get dbg").await.starts_with("NAME PHASE VERDICT"));
    assert!(good("explain dbg.spec.target").await.contains("services"));
    let api = Api::of(&handle);
    let finished = json!({"status": {"observedGeneration": 1, "conditions": [{"type": "Finished", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-11-21T10:00:00Z"}]}});
    api.send("PATCH", &format!("{SESSIONS}/a/status"), "application/merge-patch+json", finished).await;
    assert!(good("wait dbg/a --for=condition=Finished --timeout=30s").await.contains("condition met"));
    assert!(good("delete dbg a").await.contains("deleted"));
    let (success, out, _) = run("auth can-i delete pods").await;
    assert!(!success && out.starts_with("no"), "{out}");
    let (success, _, error) = run("delete pod checkout-1").await;
    assert!(!success && error.contains("recording"), "{error}");
    handle.shutdown().await;
}

/// `./demo` applies these and promises an answer: each bundle is one, and each session is about something in it.
#[test]
fn the_incidents_that_ship_are_whole() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/incidents");
    let mut names = vec![];
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let material = meshscope::collect::bundle::read(&[path.join("bundle.tar.gz")]).unwrap();
        assert!(material.gaps.is_empty(), "{name}: {:?}", material.gaps);
        assert!(material.manifest.captured_at.is_some(), "{name}");
        let session: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(path.join("session.yaml")).unwrap()).unwrap();
        for service in session["spec"]["target"]["services"].as_array().unwrap() {
            let known = material.objects.iter().any(|object| {
                object["kind"] == "Service"
                    && object["metadata"]["name"] == *service
                    && object["metadata"]["namespace"] == session["metadata"]["namespace"]
            });
            assert!(known, "{name}: {service}");
        }
        let readme = std::fs::read_to_string(path.join("README.md")).unwrap();
        assert!(readme.starts_with("# ") && readme.contains("## What it was"), "{name}");
        names.push(name);
    }
    names.sort();
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(names.len() >= 3 && names.iter().all(|name| list.contains(&format!("({name}/)"))), "{names:?}");
}
