//! The mesh that all configurations are applied to: three namespaces with pods that answer and ask, and gateways.
//!
//! | namespace | pods | Services |
//! | --- | --- | --- |
//! | `PREFIX-a` | `web`, `api-v1`, `api-v2`, with sidecars | `web`, `api`, `api-v2`, `many` (headless), `idle` (no pods), `named` (another name of `ext`) |
//! | `PREFIX-b` | `pay`, with a sidecar | `pay` |
//! | `PREFIX-out` | `bare`, `ext`, without | `ext` |
//! | `PREFIX-gw` | `gate` (Istio's Gateways), `front` (the Gateway API's) | of both |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, wait};
use crate::rest;

/// How often something is looked at that is waited for.
const PACE: Duration = Duration::from_millis(250);
/// What proxies give to connections of a configuration that is gone, and a little more: then none of them judges.
pub(crate) const DRAIN: Duration = Duration::from_millis(1_700);
/// What the times of objects are told in, and a little more.
const SECOND: Duration = Duration::from_millis(1_050);
/// The host whose answer tells which configuration a proxy has.
pub(crate) const MARKER: &str = "marker.pair";

/// A request, as it is asked of the twin and as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The form of `meshscope request --requests`.
    pub(crate) ask: Value,
    /// The pod that sends it.
    pub(crate) from: &'static str,
    /// What the pod is told.
    pub(crate) send: Value,
    /// The pod whose proxy is the first that decides.
    pub(crate) proxy: Option<&'static str>,
}

/// The mesh.
#[derive(Debug)]
pub(crate) struct World<'a> {
    api: &'a Api,
    /// How the namespaces' names begin.
    pub(crate) prefix: String,
    /// All that is in it, without the objects of configurations.
    pub(crate) dump: Vec<Value>,
    /// Namespace and name of the pod of each Deployment.
    pods: BTreeMap<String, (String, String)>,
    /// Addresses of pods by Deployment, and of Services as `svc/NAME`.
    pub(crate) ips: BTreeMap<String, String>,
    applied: Vec<Value>,
    /// Configurations so far; names markers and requests.
    turn: u64,
    /// Requests that were sent once more.
    again: u64,
}

fn object(version: &str, kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn service(namespace: &str, name: &str, selector: &Value, ports: &[(&str, u16, u16)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target}))
        .collect();
    object("v1", "Service", namespace, name, &json!({"selector": selector, "ports": ports}))
}

fn deployment(namespace: &str, name: &str, labels: &Value, account: &str) -> Value {
    let container = json!({
        "name": "app", "image": "localhost/pairs:1",
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"containerPort": 8080}, {"containerPort": 8443}, {"containerPort": 9090}],
    });
    let annotations = json!({
        "traffic.sidecar.istio.io/excludeInboundPorts": "9999",
        "proxy.istio.io/config": "{\"drainDuration\":\"1s\",\"concurrency\":1}",
    });
    let pod =
        json!({"serviceAccountName": account, "terminationGracePeriodSeconds": 1, "containers": [container]});
    let spec = json!({
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
    });
    object("apps/v1", "Deployment", namespace, name, &spec)
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}})
}

impl<'a> World<'a> {
    /// Makes it, or takes the one that is there, and waits until all pods are ready.
    pub(crate) fn open(api: &'a Api, prefix: &str) -> Self {
        let mut world = World {
            api,
            prefix: prefix.to_owned(),
            dump: vec![],
            pods: BTreeMap::new(),
            ips: BTreeMap::new(),
            applied: vec![],
            turn: 0,
            again: 0,
        };
        for object in world.fixed() {
            wait("an object of the world", PACE, || api.apply(&object));
        }
        let wanted = ["web", "api-v1", "api-v2", "pay", "bare", "ext", "gate", "front-istio"];
        for name in wanted {
            let namespace = world.namespace_of(name);
            wait(&format!("pod {name}"), Duration::from_secs(1), || world.find(&namespace, name));
        }
        world.take_over();
        world
    }

    fn namespace_of(&self, deployment: &str) -> String {
        let part = match deployment {
            "web" | "api-v1" | "api-v2" => "a",
            "pay" => "b",
            "bare" | "ext" => "out",
            _ => "gw",
        };
        format!("{}-{part}", self.prefix)
    }

    /// What does not change.
    fn fixed(&self) -> Vec<Value> {
        let p = &self.prefix;
        let (a, b, out, gw) = (format!("{p}-a"), format!("{p}-b"), format!("{p}-out"), format!("{p}-gw"));
        let space = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let injected = || json!({"istio-injection": "enabled"});
        let app = [("http", 80, 8080), ("http-two", 81, 8080), ("tcp-raw", 9000, 9090), ("https", 443, 8443)];
        let gate_labels = json!({"app": "gate", "istio": format!("{p}-gate")});
        let mut template_labels = gate_labels.clone();
        template_labels["sidecar.istio.io/inject"] = json!("true");
        let gate = json!({
            "selector": {"matchLabels": gate_labels},
            "template": {
                "metadata": {"labels": template_labels, "annotations": {
                    "inject.istio.io/templates": "gateway",
                    "proxy.istio.io/config": "{\"drainDuration\":\"1s\",\"concurrency\":1}",
                }},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "istio-proxy", "image": "auto", "imagePullPolicy": "IfNotPresent",
                    "securityContext": {"runAsUser": 1337, "runAsGroup": 1337, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }]},
            },
        });
        let listener = |name: &str, port: u16, hostname: &str| {
            let mut out = json!({"name": name, "port": port, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}});
            if !hostname.is_empty() {
                out["hostname"] = json!(hostname);
            }
            out
        };
        let front = json!({
            "gatewayClassName": "istio",
            "listeners": [listener("any", 80, ""), listener("some", 80, "*.example.com"), listener("other", 8080, "shop.example.com"),
                {"name": "own", "port": 8081, "protocol": "HTTP"}],
        });
        let marker_server =
            json!({"port": {"number": 8099, "name": "http-marker", "protocol": "HTTP"}, "hosts": [MARKER]});
        let ports = [("http", 8080, 8080), ("tcp-raw", 9090, 9090)];
        let mut many = service(&a, "many", &json!({"app": "api"}), &ports);
        many["spec"]["clusterIP"] = json!("None");
        let named = json!({"type": "ExternalName", "externalName": format!("ext.{out}.svc.cluster.local"),
            "ports": [{"name": "http", "port": 80}]});
        vec![
            space(&a, injected()),
            space(&b, injected()),
            space(&out, json!({"team": "out"})),
            space(&gw, json!({})),
            account(&a, "web"),
            account(&a, "api"),
            account(&b, "pay"),
            account(&out, "bare"),
            deployment(&a, "web", &json!({"app": "web"}), "web"),
            deployment(&a, "api-v1", &json!({"app": "api", "version": "v1"}), "api"),
            deployment(&a, "api-v2", &json!({"app": "api", "version": "v2"}), "api"),
            deployment(&b, "pay", &json!({"app": "pay", "version": "v1"}), "pay"),
            deployment(&out, "bare", &json!({"app": "bare"}), "bare"),
            deployment(&out, "ext", &json!({"app": "ext"}), "bare"),
            service(&a, "web", &json!({"app": "web"}), &app[..1]),
            service(&a, "api", &json!({"app": "api"}), &app),
            service(&a, "api-v2", &json!({"app": "api", "version": "v2"}), &app[..1]),
            many,
            object("v1", "Service", &a, "named", &named),
            service(&a, "idle", &json!({"app": "idle"}), &[("http", 80, 8080), ("tcp", 9000, 9090)]),
            service(&b, "pay", &json!({"app": "pay"}), &app),
            service(&out, "ext", &json!({"app": "ext"}), &app),
            object("apps/v1", "Deployment", &gw, "gate", &gate),
            service(
                &gw,
                "gate",
                &json!({"istio": format!("{p}-gate")}),
                &[
                    ("http", 80, 80),
                    ("http-alt", 8080, 8080),
                    ("http-mapped", 8090, 8091),
                    ("http-marker", 8099, 8099),
                ],
            ),
            object(
                "networking.istio.io/v1",
                "Gateway",
                &gw,
                "marker",
                &json!({"selector": {"istio": format!("{p}-gate")}, "servers": [marker_server]}),
            ),
            object("gateway.networking.k8s.io/v1", "Gateway", &gw, "front", &front),
        ]
    }

    /// The one ready pod of a Deployment.
    fn find(&mut self, namespace: &str, name: &str) -> Result<(), String> {
        let list = self.api.get(&format!("/api/v1/namespaces/{namespace}/pods"));
        let own = |pod: &&Value| {
            let full = pod["metadata"]["name"].as_str().unwrap_or_default();
            full.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-') && rest.matches('-').count() == 2)
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let pods: Vec<&Value> = list["items"].as_array().unwrap().iter().filter(own).collect();
        let [pod] = pods.as_slice() else { return Err(format!("{} pods", pods.len())) };
        let ready = pod["status"]["conditions"].as_array().is_some_and(|all| {
            all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        });
        if !ready {
            return Err(format!("{}", pod["status"]["containerStatuses"]));
        }
        let full = pod["metadata"]["name"].as_str().unwrap().to_owned();
        self.pods.insert(name.to_owned(), (namespace.to_owned(), full));
        self.ips.insert(name.to_owned(), pod["status"]["podIP"].as_str().unwrap().to_owned());
        Ok(())
    }

    /// Removes what an earlier run has left, and reads what is there.
    fn take_over(&mut self) {
        let config = [
            "networking.istio.io/v1/virtualservices",
            "networking.istio.io/v1/destinationrules",
            "networking.istio.io/v1/gateways",
            "networking.istio.io/v1/serviceentries",
            "networking.istio.io/v1/workloadentries",
            "networking.istio.io/v1/sidecars",
            "security.istio.io/v1/authorizationpolicies",
            "security.istio.io/v1/peerauthentications",
            "security.istio.io/v1/requestauthentications",
            "gateway.networking.k8s.io/v1/httproutes",
            "gateway.networking.k8s.io/v1/grpcroutes",
            "gateway.networking.k8s.io/v1beta1/referencegrants",
        ];
        let base = [
            "/api/v1/NS/services",
            "/api/v1/NS/serviceaccounts",
            "/api/v1/NS/pods",
            "/apis/apps/v1/NS/deployments",
            "/apis/apps/v1/NS/replicasets",
            "/apis/discovery.k8s.io/v1/NS/endpointslices",
        ];
        for part in ["a", "b", "out", "gw"] {
            let own = format!("namespaces/{}-{part}", self.prefix);
            for resource in config {
                let (version, plural) = resource.rsplit_once('/').unwrap();
                for found in self.items(&format!("/apis/{version}/{own}/{plural}")) {
                    if found["metadata"]["name"] == "marker" && plural == "gateways" {
                        self.dump.push(found);
                    } else {
                        self.api.delete(&found);
                    }
                }
            }
            for path in base {
                let found = self.items(&path.replace("NS", &own));
                self.dump.extend(found);
            }
            self.dump.push(self.api.get(&format!("/api/v1/{own}")));
            self.dump.extend(self.items(&format!("/apis/gateway.networking.k8s.io/v1/{own}/gateways")));
        }
        self.dump.push(self.api.get("/api/v1/namespaces/istio-system/configmaps/istio"));
        self.dump.push(self.api.get("/apis/gateway.networking.k8s.io/v1/gatewayclasses/istio"));
        for object in &mut self.dump {
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.remove("managedFields");
            if object["kind"] == "Service" && !object["spec"]["clusterIP"].is_null() {
                let name = format!("svc/{}", object["metadata"]["name"].as_str().unwrap());
                self.ips.insert(name, object["spec"]["clusterIP"].as_str().unwrap().to_owned());
            }
        }
    }

    /// What a list holds, each with its kind.
    fn items(&self, path: &str) -> Vec<Value> {
        let list = self.api.get(path);
        let kind = list["kind"].as_str().unwrap().trim_end_matches("List").to_owned();
        let items = list["items"].as_array().unwrap().clone();
        let with = |mut item: Value| {
            item["kind"] = json!(kind);
            item["apiVersion"] = list["apiVersion"].clone();
            item
        };
        items.into_iter().map(with).collect()
    }

    /// Puts a configuration in the place of the one before, and waits until every proxy has it. Objects that the API
    /// server refuses are taken out.
    pub(crate) fn apply(&mut self, objects: &mut Vec<Value>) {
        self.turn += 1;
        let name = |object: &Value| {
            (
                object["kind"].to_string(),
                object["metadata"]["namespace"].to_string(),
                object["metadata"]["name"].to_string(),
            )
        };
        let kept: BTreeSet<_> = objects.iter().map(name).collect();
        for object in self.applied.iter().filter(|object| !kept.contains(&name(object))) {
            self.api.delete(object);
        }
        // What stays under its name must not keep fields of the one before.
        for object in self.applied.iter().filter(|object| kept.contains(&name(object))) {
            self.api.delete(object);
        }
        objects.retain_mut(|object| match self.api.apply(object) {
            Ok(made) => {
                // Which one is older decides between some of them, and objects of one second have no order.
                object["metadata"]["creationTimestamp"] = made["metadata"]["creationTimestamp"].clone();
                if object["kind"] == "ServiceEntry" {
                    std::thread::sleep(SECOND);
                }
                true
            }
            Err(message) if message.starts_with("4") => {
                crate::say(&format!("left out, for the API server says {message}: {object}"));
                false
            }
            Err(message) => panic!("{message}"),
        });
        self.applied.clone_from(objects);
        let turn = format!("t{}.pair", self.turn);
        let gw = format!("{}-gw", self.prefix);
        let redirect = json!([{"name": "marker", "redirect": {"authority": turn}}]);
        let mesh = json!({"hosts": [MARKER], "gateways": ["mesh", format!("{gw}/marker")], "http": redirect});
        let route = json!({"parentRefs": [{"name": "front", "sectionName": "any"}], "hostnames": [MARKER],
            "rules": [{"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": turn, "statusCode": 302}}]}]});
        self.api.apply(&object("networking.istio.io/v1", "VirtualService", &gw, "marker", &mesh)).unwrap();
        self.api.apply(&object("gateway.networking.k8s.io/v1", "HTTPRoute", &gw, "marker", &route)).unwrap();
        let through = self.ips["svc/api"].clone();
        let (gate, front) = (self.ips["svc/gate"].clone(), self.ips["svc/front-istio"].clone());
        let asks = [
            ("web", &through, 80),
            ("api-v1", &through, 80),
            ("api-v2", &through, 80),
            ("pay", &through, 80),
            ("bare", &gate, 8099),
            ("bare", &front, 80),
        ];
        for (from, ip, port) in asks {
            let send = json!([{"name": "marker", "kind": "http", "dial": format!("{ip}:{port}"), "method": "GET", "host": MARKER, "path": "/"}]);
            wait(&format!("configuration {turn} at {from} ({ip}:{port})"), PACE, || {
                let seen = self.tell(from, &send)?;
                let location = seen[0]["headers"]["location"].as_str().unwrap_or_default();
                if location.contains(&format!("//{turn}/"))
                    || location.ends_with(&turn)
                    || location.contains(&format!("//{turn}:"))
                {
                    Ok(())
                } else {
                    Err(seen.to_string())
                }
            });
        }
        rest::wait(self.api, &self.proxies());
    }

    /// The pods whose proxies decide.
    fn proxies(&self) -> Vec<rest::Proxy> {
        let all = ["web", "api-v1", "api-v2", "pay", "gate", "front-istio"];
        let of = |name: &str| {
            let (namespace, pod) = &self.pods[name];
            // The controller that makes the last one tells it nothing of draining.
            (namespace.clone(), pod.clone(), name != "front-istio")
        };
        all.into_iter().map(of).collect()
    }

    /// Has a pod send requests.
    fn tell(&self, from: &str, requests: &Value) -> Result<Value, String> {
        let (namespace, pod) = &self.pods[from];
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:9999/proxy/ask");
        let (status, text) = self.api.call("POST", &path, Some(requests));
        if status != 200 {
            return Err(format!("{status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Sends requests, and says what came of each: the answer, and the flags with which the first proxy logged it.
    pub(crate) fn ask(&self, questions: &[Question]) -> Vec<Value> {
        let mut out = vec![Value::Null; questions.len()];
        for from in ["web", "bare"] {
            let own: Vec<usize> = (0..questions.len()).filter(|at| questions[*at].from == from).collect();
            if own.is_empty() {
                continue;
            }
            let told: Vec<Value> = own
                .iter()
                .map(|at| {
                    let mut send = questions[*at].send.clone();
                    send["headers"]["user-agent"] = json!(self.agent(*at));
                    send
                })
                .collect();
            let seen = wait(&format!("answers to {from}"), PACE, || self.tell(from, &json!(told)));
            for (at, seen) in own.iter().zip(seen.as_array().unwrap()) {
                out[*at] = seen.clone();
            }
        }
        let logged = self.logged(questions, &out);
        for (at, seen) in out.iter_mut().enumerate() {
            let map = seen.as_object_mut().unwrap();
            map.remove("name");
            map.get_mut("headers").into_iter().for_each(told);
            map.get_mut("received")
                .and_then(|received| received.get_mut("headers"))
                .into_iter()
                .for_each(told);
            if let Some((flags, cluster)) = logged.get(&self.agent(at)) {
                map.insert("flags".to_owned(), json!(flags));
                map.insert("cluster".to_owned(), json!(cluster));
            }
        }
        out
    }

    /// The same of one request once more, and whether the proxies had one configuration all the while. Where they had not, it
    /// is asked again, a few times.
    pub(crate) fn ask_again(&mut self, question: &Question) -> (Value, bool) {
        const TIMES: usize = 5;
        let proxies = self.proxies();
        let mut seen = Value::Null;
        for _ in 0..TIMES {
            rest::wait(self.api, &proxies);
            let before = rest::configuration(self.api, &proxies);
            self.again += 1;
            seen = self.ask(std::slice::from_ref(question)).remove(0);
            if before.is_ok() && before == rest::configuration(self.api, &proxies) {
                return (seen, true);
            }
        }
        (seen, false)
    }

    /// What names a request in proxies' logs.
    fn agent(&self, at: usize) -> String {
        format!("pair/{}/{}.{}/{at}", std::process::id(), self.turn, self.again)
    }

    /// The flags with which proxies logged requests, and the clusters that they chose. A log comes a second late.
    fn logged(&self, questions: &[Question], seen: &[Value]) -> BTreeMap<String, (String, String)> {
        let mut out = BTreeMap::new();
        let proxies: BTreeSet<&str> = questions.iter().filter_map(|question| question.proxy).collect();
        for proxy in proxies {
            let (namespace, pod) = &self.pods[proxy];
            let container = "istio-proxy";
            let path =
                format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&tailLines=300");
            let awaited: Vec<String> = (0..questions.len())
                .filter(|at| questions[*at].proxy == Some(proxy) && seen[*at]["status"].as_u64() > Some(0))
                .filter(|at| questions[*at].send["kind"] == "http")
                .map(|at| self.agent(at))
                .collect();
            // Requests that no listener reads as HTTP are logged as connections, or not at all: after a while that is so.
            for _ in 0..8 {
                let (_, text) = self.api.call("GET", &path, None);
                for line in text.lines().filter(|line| line.contains("\"pair/")) {
                    let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
                    let (agent, flags) = (line["user_agent"].as_str(), line["response_flags"].as_str());
                    if let (Some(agent), Some(flags)) = (agent, flags) {
                        let cluster =
                            line["upstream_cluster"].as_str().unwrap_or_default().trim_end_matches(';');
                        out.insert(agent.to_owned(), (flags.to_owned(), cluster.to_owned()));
                    }
                }
                if awaited.iter().all(|agent| out.contains_key(agent)) {
                    break;
                }
                std::thread::sleep(PACE);
            }
        }
        out
    }

    /// Ends it, unless it is to stay for the next run.
    pub(crate) fn close(&self, keep: bool) {
        for object in &self.applied {
            self.api.delete(object);
        }
        for part in ["a", "b", "out", "gw"].iter().filter(|_| !keep) {
            self.api.call("DELETE", &format!("/api/v1/namespaces/{}-{part}", self.prefix), None);
        }
    }
}

/// Leaves of headers those that configurations speak of.
fn told(headers: &mut Value) {
    const OURS: &[&str] = &["x-tier", "x-user", "x-set", "x-add", "x-from", "location", "access-control-"];
    if let Some(map) = headers.as_object_mut() {
        map.retain(|name, _| OURS.iter().any(|own| name.starts_with(own)));
    }
}
