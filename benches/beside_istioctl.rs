//! Meshscope beside `istioctl analyze`, on the same files in the same run: 1,000, 10,000 and 50,000 objects of a mesh, and
//! 100,000 requests asked of the twin.
//!
//! `MESHSCOPE_BENCH_ISTIOCTL=/path/istioctl cargo bench --bench beside_istioctl`. Without that variable Meshscope is measured
//! alone. GNU time counts processor time and peak memory of each process (`MESHSCOPE_BENCH_TIME`, else `/usr/bin/time`). Of several runs
//! (`MESHSCOPE_BENCH_RUNS`, 3 unless said) the one that took the least processor time counts: others disturb a run, and nothing helps it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// What one process took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
    megabytes: f64,
}

/// A mesh of so many objects, in namespaces of 100 Services: each with a Deployment, routes, settings and a policy, some with a
/// mistake that an analysis finds.
fn mesh(objects: usize) -> String {
    let mut out = String::new();
    let mut left = objects;
    let mut put = |value: Value| {
        if left > 0 {
            left -= 1;
            writeln!(out, "---\n{}", serde_saphyr::to_string(&value).unwrap()).unwrap();
        }
        left > 0
    };
    let object = |version: &str, kind: &str, namespace: &str, name: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec});
    for index in 0.. {
        let space = format!("team-{}", index / 100);
        if index % 100 == 0
            && !(put(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "labels": {"istio-injection": "enabled"}}}),
            ) && put(object(
                "networking.istio.io/v1",
                "Gateway",
                &space,
                "public",
                json!({"selector": {"istio": "ingressgateway"},
                    "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [format!("*.{space}.example.com")]}]}),
            )) && put(object(
                "networking.istio.io/v1",
                "ServiceEntry",
                &space,
                "outside",
                json!({"hosts": [format!("api.{space}.example.net")],
                    "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}], "resolution": "DNS", "location": "MESH_EXTERNAL"}),
            )))
        {
            break;
        }
        let name = format!("service-{index}");
        let host = format!("{name}.{space}.svc.cluster.local");
        let labels = json!({"app": name, "version": "v1"});
        let subset = if index % 50 == 0 { "v2" } else { "v1" };
        let container = json!({"name": "app", "image": "app:1", "ports": [{"containerPort": 8080}]});
        // Every tenth is for clients outside.
        let (public, gateway) =
            (format!("{name}.{space}.example.com"), if index % 10 == 0 { "public" } else { "mesh" });
        let hosts = json!([if gateway == "public" { &public } else { &host }]);
        let more = put(object(
            "v1",
            "Service",
            &space,
            &name,
            json!({"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
        )) && put(object(
            "apps/v1",
            "Deployment",
            &space,
            &name,
            json!({"selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}),
        )) && put(object(
            "networking.istio.io/v1",
            "DestinationRule",
            &space,
            &name,
            json!({"host": host, "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}),
        )) && put(object(
            "networking.istio.io/v1",
            "VirtualService",
            &space,
            &name,
            json!({"hosts": hosts, "gateways": [gateway],
                "http": [{"match": [{"uri": {"prefix": "/v2"}}], "timeout": "2s", "route": [{"destination": {"host": host, "subset": subset}}]},
                    {"route": [{"destination": {"host": host, "subset": "v1"}}]}]}),
        )) && put(object(
            "security.istio.io/v1",
            "AuthorizationPolicy",
            &space,
            &name,
            json!({"selector": {"matchLabels": {"app": name}},
                "rules": [{"from": [{"source": {"namespaces": [space]}}], "to": [{"operation": {"methods": ["GET", "POST"]}}]}]}),
        ));
        if !more {
            break;
        }
    }
    out
}

/// So many requests from workloads of a mesh of `objects` to others beside them.
fn requests(objects: usize, count: usize) -> String {
    let services = objects / 5 - 20;
    let asked: Vec<Value> = (0..count)
        .map(|at| {
            let from = at * 7 % services;
            let to = from / 100 * 100 + at % 100;
            let to = to.min(services - 1);
            let (own, other) = (format!("team-{}", from / 100), format!("service-{to}"));
            let path = if at % 3 == 0 { "/v2/items" } else { "/" };
            json!({"name": at.to_string(), "from": {"workload": {"namespace": own, "kind": "Deployment", "name": format!("service-{from}")}},
                "request": {"host": other, "method": "GET", "path": path}})
        })
        .collect();
    json!({"version": 1, "requests": asked}).to_string()
}

/// Runs a program and says what it took. What it exits with says what it found.
fn measure(program: &str, args: &[&str], folder: &Path) -> Cost {
    let runs = std::env::var("MESHSCOPE_BENCH_RUNS").map_or(3, |runs| runs.parse().unwrap());
    let time = std::env::var("MESHSCOPE_BENCH_TIME").unwrap_or_else(|_| "/usr/bin/time".to_owned());
    let note = folder.join("cost");
    let one = |_| {
        let output = std::fs::File::create(folder.join("output")).unwrap();
        let errors = std::fs::File::create(folder.join("errors")).unwrap();
        let mut command = Command::new(&time);
        command.args(["--quiet", "--format", "%e %U %S %M", "--output"]).arg(&note).arg(program).args(args);
        let code = command.stdout(output).stderr(errors).status().unwrap().code();
        // 79 is istioctl's word for findings.
        assert!(
            matches!(code, Some(0..=2 | 79)),
            "{program} {args:?}: {code:?}: {}",
            std::fs::read_to_string(folder.join("errors")).unwrap()
        );
        let text = std::fs::read_to_string(&note).unwrap();
        let all: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        Cost { wall: all[0], cpu: all[1] + all[2], megabytes: all[3] / 1024.0 }
    };
    (0..runs).map(one).min_by(|a, b| a.cpu.total_cmp(&b.cpu)).unwrap()
}

fn line(what: &str, cost: Cost) {
    println!("{what:<34} {:>8.2} s wall {:>8.2} s CPU {:>8.0} MB", cost.wall, cost.cpu, cost.megabytes);
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let istioctl = std::env::var("MESHSCOPE_BENCH_ISTIOCTL").ok();
    let own = env!("CARGO_BIN_EXE_meshscope");
    let mut growth: Vec<(f64, f64)> = vec![];
    for objects in [1_000, 10_000, 50_000] {
        let file = folder.path().join(format!("{objects}.yaml"));
        std::fs::write(&file, mesh(objects)).unwrap();
        let file = file.to_str().unwrap();
        let ours = measure(own, &["analyze", "-o", "json", file], folder.path());
        line(&format!("meshscope analyze, {objects} objects"), ours);
        let Some(istioctl) = &istioctl else { continue };
        let theirs = measure(
            istioctl,
            &["analyze", "--all-namespaces", "--use-kube=false", "--output", "json", file],
            folder.path(),
        );
        line(&format!("istioctl analyze, {objects} objects"), theirs);
        println!(
            "  {:.1} times the processor time, {:.1} times the memory",
            theirs.cpu / ours.cpu,
            theirs.megabytes / ours.megabytes
        );
        growth.push((ours.cpu, theirs.cpu));
    }
    if let (Some(first), Some(last)) = (growth.first(), growth.last()) {
        println!(
            "  from 1,000 to 50,000 objects: meshscope {:.0} times, istioctl {:.0} times",
            last.0 / first.0,
            last.1 / first.1
        );
    }
    let (objects, count) = (10_000, 100_000);
    let file = folder.path().join(format!("{objects}.yaml"));
    let asked = folder.path().join("requests.json");
    std::fs::write(&asked, requests(objects, count)).unwrap();
    let args = ["request", "--requests", asked.to_str().unwrap(), "-o", "json", file.to_str().unwrap()];
    line(&format!("{count} requests of {objects} objects"), measure(own, &args, folder.path()));
}
