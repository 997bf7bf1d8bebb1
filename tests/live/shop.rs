//! The shop in a namespace of its own, and what its users see.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::fault::{Entry, Felt, Setup, Step, root};
use crate::kubectl::{Kubectl, wait};

/// How long a shop may take until it is well; proxies start slowly on a busy machine.
const START: Duration = Duration::from_secs(600);

/// How long a fault may take until it is felt, and a fix until it has healed: probes and back-offs take their time.
const TURN: Duration = Duration::from_secs(300);

/// How old a pod that is not ready has to be, in seconds, before it counts as stuck instead of starting.
const STUCK: i64 = 30;

/// Requests that take longer than this make users unhappy, in milliseconds. A healthy shop takes a tenth of it.
const SLOW: u64 = 1000;

/// A line of the load generator: what its users saw in two seconds.
#[derive(Debug, Clone, Deserialize)]
struct Span {
    time: String,
    sent: u64,
    failed: u64,
    p95_ms: u64,
    max_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Shop<'a> {
    pub(crate) kubectl: &'a Kubectl,
    pub(crate) namespace: String,
}

/// The documents of a file of `examples/shop`.
fn documents(file: &str, namespace: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("examples/shop").join(file)).unwrap();
    let text = text.replace("shop.example.com", &format!("{namespace}.example.com"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

impl<'a> Shop<'a> {
    /// Opens a shop and waits until its users are well served.
    pub(crate) fn open(kubectl: &'a Kubectl, namespace: String, setup: &Setup) -> Result<Self, String> {
        let shop = Self { kubectl, namespace };
        let injection = if setup.mesh { "enabled" } else { "disabled" };
        let space = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": shop.namespace, "labels": { "istio-injection": injection, "meshscope.dev/live": "true" } } });
        shop.apply(&[space])?;
        let mut objects = documents("shop.yaml", &shop.namespace);
        if setup.mesh {
            objects.extend(documents("istio.yaml", &shop.namespace));
        }
        match setup.entry {
            Entry::Inside => {}
            Entry::Gateway => objects.extend(documents("gateway.yaml", &shop.namespace)),
            Entry::GatewayApi => objects.extend(documents("gateway-api.yaml", &shop.namespace)),
        }
        objects.retain(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let second = object["kind"] == "Deployment" && name.ends_with("-v2");
            // In the mesh a part of the traffic goes there.
            !second || setup.with.iter().any(|with| with == name) || setup.mesh && name == "checkout-v2"
        });
        for object in objects.iter_mut().filter(|object| object["kind"] == "Deployment") {
            if setup.recreate {
                object["spec"]["strategy"] = json!({ "type": "Recreate" });
            }
            if object["metadata"]["name"] == "load" {
                shop.come_in(object, setup);
            }
        }
        // Users come when the shop is open: what fails before that is another story.
        let (load, rest): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object["metadata"]["name"] == "load");
        shop.apply(&rest)?;
        wait("open doors", START, || shop.open_doors())?;
        shop.apply(&load)?;
        shop.well(START)?;
        for step in &setup.steps {
            shop.step(step)?;
        }
        if !setup.steps.is_empty() {
            wait("an end of the preparations", START, || shop.settled())?;
            shop.well(START)?;
        }
        Ok(shop)
    }

    /// Sends the load generator the way that users come.
    fn come_in(&self, load: &mut Value, setup: &Setup) {
        let template = &mut load["spec"]["template"];
        let container = &mut template["spec"]["containers"][0];
        if let Some(rate) = setup.rate {
            container["env"][0]["value"] = json!(rate.to_string());
        }
        let url = match setup.entry {
            Entry::Inside => return,
            Entry::Gateway => "http://istio-ingressgateway.istio-system",
            Entry::GatewayApi => "http://shop-istio",
        };
        container["args"] = json!(["load", url]);
        let host = json!({ "name": "HOST", "value": format!("{}.example.com", self.namespace) });
        container["env"].as_array_mut().expect("load has settings").push(host);
        template["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("false");
    }

    fn apply(&self, objects: &[Value]) -> Result<(), String> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.kubectl.with_input(&["-n", &self.namespace, "apply", "-f", "-"], &list.to_string()).map(drop)
    }

    /// Does something to the shop.
    pub(crate) fn step(&self, step: &Step) -> Result<(), String> {
        let here = ["-n", self.namespace.as_str()];
        let run = |args: &[&str]| self.kubectl.run(&[&here, args].concat()).map(drop);
        match step {
            Step::Apply(object) => self.apply(std::slice::from_ref(object)),
            Step::Patch { object, json, merge } => {
                let (kind, patch) =
                    if json.is_array() { ("--type=json", json) } else { ("--type=merge", merge) };
                run(&["patch", object, kind, "--patch", &patch.to_string()])
            }
            Step::Kubectl(args) => run(&args.iter().map(String::as_str).collect::<Vec<_>>()),
            Step::Ask { deployment, fault } => {
                run(&["exec", &format!("deployment/{deployment}"), "--", "shop", "fault", fault])
            }
        }
    }

    /// The last lines of the load generator, the oldest first.
    fn spans(&self, last: usize) -> Result<Vec<Span>, String> {
        let tail = format!("--tail={last}");
        let text = self.kubectl.run(&[
            "-n",
            &self.namespace,
            "logs",
            "--selector=app=load",
            "--container=load",
            &tail,
        ])?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits until users have been well served for some seconds on end.
    pub(crate) fn well(&self, patience: Duration) -> Result<(), String> {
        wait(&format!("a healthy shop {}", self.namespace), patience, || {
            let spans = self.spans(4)?;
            let good = |span: &Span| span.sent > 0 && span.failed == 0 && span.p95_ms < SLOW;
            if spans.len() == 4 && spans.iter().all(good) { Ok(()) } else { Err(format!("{spans:?}")) }
        })
    }

    /// The same, after a fix.
    pub(crate) fn healed(&self) -> Result<(), String> {
        self.well(TURN)
    }

    /// Waits until users feel the fault for some seconds on end, and not only the restart that came with it.
    pub(crate) fn felt(&self, felt: Felt) -> Result<(), String> {
        wait(&format!("an end of the changes in {}", self.namespace), TURN, || self.settled())?;
        let settled = self.spans(1)?.pop().map(|span| span.time).unwrap_or_default();
        let spans = |last: usize| -> Result<Vec<Span>, String> {
            // All times are of one writer, in one form.
            let spans: Vec<_> = self.spans(last)?.into_iter().filter(|span| span.time > settled).collect();
            if spans.len() < last { Err("it is too early to tell".to_owned()) } else { Ok(spans) }
        };
        wait(&format!("{felt:?} in {}", self.namespace), TURN, || match felt {
            Felt::Rollout => self.rollout_stands(),
            Felt::Errors => {
                let spans = spans(6)?;
                let (sent, failed) =
                    spans.iter().fold((0, 0), |sum, span| (sum.0 + span.sent, sum.1 + span.failed));
                let often = spans.iter().filter(|span| span.failed > 0).count() >= 4;
                if often && failed * 8 >= sent { Ok(()) } else { Err(format!("{spans:?}")) }
            }
            Felt::Slow => {
                let spans = spans(6)?;
                let slow = spans.iter().filter(|span| span.max_ms >= SLOW).count() >= 5;
                if slow { Ok(()) } else { Err(format!("{spans:?}")) }
            }
        })
    }

    /// Whether some container waits for something other than its turn, or a pod for a node.
    fn rollout_stands(&self) -> Result<(), String> {
        let pods = self.kubectl.json(&["-n", &self.namespace, "get", "pods"])?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let stands = items.iter().any(|pod| {
            let all = |field: &str| pod["status"][field].as_array().cloned().unwrap_or_default();
            all("containerStatuses").iter().chain(&all("initContainerStatuses")).any(|container| {
                let reason = container["state"]["waiting"]["reason"].as_str().unwrap_or_default();
                !matches!(reason, "" | "ContainerCreating" | "PodInitializing")
            }) || all("conditions").iter().any(|condition| condition["reason"] == "Unschedulable")
        });
        if stands { Ok(()) } else { Err(format!("{} pods get on", items.len())) }
    }

    /// Whether every pod that is there is to stay, and is ready or had the time to be.
    fn settled(&self) -> Result<(), String> {
        let pods = self.kubectl.json(&["-n", &self.namespace, "get", "pods"])?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        for pod in &items {
            let meta = &pod["metadata"];
            let ready = pod["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
            let created: jiff::Timestamp =
                meta["creationTimestamp"].as_str().unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
            let age = jiff::Timestamp::now().as_second() - created.as_second();
            if meta["deletionTimestamp"].is_string() || !ready && age < STUCK {
                return Err(format!("{} is on its way", meta["name"]));
            }
        }
        Ok(())
    }

    /// Whether every Deployment has all of its pods.
    fn open_doors(&self) -> Result<(), String> {
        let deployments = self.kubectl.json(&["-n", &self.namespace, "get", "deployments"])?;
        let items = deployments["items"].as_array().cloned().unwrap_or_default();
        let closed = items.iter().find(|one| one["status"]["readyReplicas"] != one["spec"]["replicas"]);
        closed.map_or(Ok(()), |one| Err(format!("{} is not ready", one["metadata"]["name"])))
    }

    /// Closes it. What is left ends by itself.
    pub(crate) fn close(&self) {
        if let Err(message) = self.kubectl.run(&["delete", "namespace", &self.namespace, "--wait=false"]) {
            crate::say(&message);
        }
    }
}
