//! How fast is it, against a limit that the same run measures.
//!
//! - `access_log/*`: Envoy access-log lines, against a scan for their line ends (the limit) and against a regular expression
//!   of the same format (the peer).
//! - `application_log/*`: logs of applications in several styles, in bytes per second: read into lines, then summed up (joined, parsed,
//!   failed calls and errors grouped).
//! - `templates/*`: lines of eighteen kinds of logs (`tests/logs`): masked, against one regular expression that masks the same sorts of values;
//!   then all of it, joined, parsed, grouped into statements and searched for anomalies, over three decades of lines; and the whole analysis with all rules.
//! - `mesh_objects/*`: 10,000 objects of a mesh: parsing their JSON (the limit), normalising them, running all rules, and trying the
//!   fixes of one fault.
//!
//! `cargo bench --bench analysis`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use meshscope::analyze::diagnosis::{Diagnosis, Options, analyze};
use meshscope::analyze::logs::anomalies::anomalies;
use meshscope::analyze::logs::digest::Digest;
use meshscope::analyze::logs::mask::mask_into;
use meshscope::analyze::trial::Trial;
use meshscope::collect::assemble::assemble;
use meshscope::collect::material::{LogFile, Material};
use meshscope::model::json::{Value, json};
use meshscope::model::log::LogStream;
use meshscope::model::snapshot::Builder;
use std::hint::black_box;

const LINES: usize = 10_000;

fn access_log() -> Vec<u8> {
    let mut out = String::new();
    for i in 0..LINES {
        let (code, details) =
            if i % 7 == 0 { ("503 UH", "no_healthy_upstream") } else { ("200 -", "via_upstream") };
        out.push_str(&format!(
            "2026-11-22T03:04:{:02}.048231890Z [2026-11-22T03:04:12.766Z] \"GET /rewards/{i} HTTP/1.1\" {code} {details} - \"-\" 0 45 25 25 \"-\" \"shop/v2\" \
             \"ac6d851e-b092-4dba-a681-bd5ed380592b\" \"checkout\" \"10.244.4.170:8080\" outbound|80|v1|checkout.shop.svc.cluster.local 10.244.4.1:42404 \
             10.96.4.170:80 10.244.4.174:42922 - default\n",
            i % 60
        ));
    }
    out.into_bytes()
}

/// The expression that describes the same format, field by field.
fn expression() -> regex::bytes::Regex {
    regex::bytes::Regex::new(
        r#"^(\S+) \[([^\]]+)\] "(\S+) (.*?) ([^" ]+)" (\d+) (\S+) (\S+) (\S+) "([^"]*)" (\d+) (\d+) (\d+) (\S+) "([^"]*)" "([^"]*)" "([^"]*)" "([^"]*)" "([^"]*)" (\S+) (\S+) (\S+) (\S+) (\S+) (\S+)"#,
    )
    .expect("the expression is valid")
}

fn access_logs(criterion: &mut Criterion) {
    let log = access_log();
    let mut group = criterion.benchmark_group("access_log");
    group.throughput(Throughput::Elements(LINES as u64));
    group.bench_function("limit: find the line ends", |b| {
        b.iter(|| memchr::memchr_iter(b'\n', black_box(&log)).count())
    });
    let expression = expression();
    group.bench_function("peer: regular expression", |b| {
        b.iter(|| {
            log.split(|byte| *byte == b'\n')
                .filter_map(|line| expression.captures(line))
                .map(|c| c.len())
                .sum::<usize>()
        });
    });
    group.bench_function("meshscope", |b| {
        b.iter(|| LogStream::read("shop", "a", "istio-proxy", false, black_box(&log), false).access.len())
    });
    group.finish();
}

/// Lines of an application in one style, with the runtime's timestamps.
fn application_log(line: impl Fn(usize) -> String) -> Vec<u8> {
    let mut out = String::new();
    for i in 0..LINES {
        out.push_str(&format!(
            "2026-11-22T03:{:02}:{:02}.048231890Z {}\n",
            (i / 600) % 60,
            (i / 10) % 60,
            line(i)
        ));
    }
    out.into_bytes()
}

fn application_logs(criterion: &mut Criterion) {
    let styles: [(&str, Vec<u8>); 4] = [
        (
            "plain",
            application_log(|i| format!("handled order {i} of customer 4711 from basket with 3 items")),
        ),
        (
            "logfmt",
            application_log(|i| {
                format!("time=2026-11-22T03:04:12Z level=info msg=\"order handled\" order={i} items=3")
            }),
        ),
        (
            "json",
            application_log(|i| {
                format!("{{\"level\":\"info\",\"msg\":\"order handled\",\"order\":{i},\"items\":3}}")
            }),
        ),
        (
            "stack traces",
            application_log(|i| match i % 12 {
                0 => format!("2026-11-22 03:04:12.680 ERROR order {i} failed"),
                1 => "a.b.SomeException: no tariff".to_owned(),
                10 => "Caused by: java.net.ConnectException: Connection refused".to_owned(),
                n => format!("\tat com.shop.pay.Client.fetch{n}(Client.java:57)"),
            }),
        ),
    ];
    let mut group = criterion.benchmark_group("application_log");
    for (style, log) in &styles {
        let read = || LogStream::read("shop", "a", "app", false, log, false);
        group.throughput(Throughput::Bytes(log.len() as u64));
        group.bench_function(format!("{style}: read"), |b| b.iter(|| black_box(read()).lines.len()));
        group.bench_function(format!("{style}: sum up"), |b| {
            let snapshot = || {
                let mut builder = Builder::new();
                builder.log(read());
                builder.finish()
            };
            b.iter_batched(
                snapshot,
                |snapshot| snapshot.derived::<Digest>().workloads.len(),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// So many lines of all kinds of `tests/logs`, each kind in a pod of its own, with the runtime's timestamps.
fn mixed_logs(lines: usize) -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("logs").map(|entry| entry.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    let of_each = lines / files.len();
    let kinds = files.iter().enumerate().map(|(at, path)| {
        let text = std::fs::read_to_string(path).expect("text");
        let known: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('\t')?.1)).collect();
        let mut log = String::new();
        for i in 0..of_each {
            let second = i * 3600 / of_each;
            log.push_str(&format!(
                "2026-11-22T03:{:02}:{:02}.{i:09}Z {}\n",
                second / 60,
                second % 60,
                known[i % known.len()]
            ));
        }
        (format!("kind{at}-0"), log.into_bytes())
    });
    kinds.collect()
}

fn templates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("templates");
    group.sample_size(20);
    let logs = mixed_logs(LINES);
    let lines: Vec<&str> =
        logs.iter().flat_map(|(_, log)| std::str::from_utf8(log).expect("text").lines()).collect();
    group.throughput(Throughput::Elements(lines.len() as u64));
    let values = regex::Regex::new(
        r#"(?x) "[^"]*" | https?://\S+ | [\w.+-]+@[\w-]+\.\w+ | (?:/[\w.-]+)+ | [0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}
           | \d{1,3}(?:\.\d{1,3}){3}(?::\d+)? | \d{4}-\d\d-\d\d[T\ ][\d:.,]+Z? | \b[0-9a-f]{8,}\b | \d+(?:\.\d+)?(?:ms|s|µs|[KMG]B)?"#,
    )
    .expect("the expression is valid");
    group.bench_function("peer: mask with a regular expression", |b| {
        b.iter(|| lines.iter().map(|line| values.replace_all(black_box(line), "*").len()).sum::<usize>())
    });
    group.bench_function("mask", |b| {
        let mut out = String::new();
        b.iter(|| {
            let masked = lines.iter().map(|line| {
                mask_into(black_box(line), &mut out);
                out.len()
            });
            masked.sum::<usize>()
        })
    });
    for count in [1_000, 10_000, 100_000] {
        let logs = mixed_logs(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("read {count} lines and find what deviates"), |b| {
            b.iter(|| {
                let mut builder = Builder::new();
                for (pod, log) in &logs {
                    builder.log(LogStream::read("shop", pod, "app", false, black_box(log), false));
                }
                anomalies(&builder.finish(), None).len()
            })
        });
        group.bench_function(format!("read {count} lines and run the whole analysis"), |b| {
            b.iter(|| {
                let mut builder = Builder::new();
                for (pod, log) in &logs {
                    builder.log(LogStream::read("shop", pod, "app", false, black_box(log), false));
                }
                analyze(&builder.finish(), &Options::default()).findings.len()
            })
        });
    }
    group.finish();
}

/// 10,000 objects: Services, their pods, routes and subsets, in 20 namespaces.
fn objects() -> Vec<Value> {
    let mut out = vec![];
    for i in 0..2_000 {
        let (namespace, name) = (format!("team-{}", i % 20), format!("service-{i}"));
        let host = format!("{name}.{namespace}.svc.cluster.local");
        let meta = |suffix: &str| json!({"name": format!("{name}{suffix}"), "namespace": namespace, "labels": {"app": name, "version": "v1"}});
        out.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(""), "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
        out.push(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(""), "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name, "version": "v1"}}, "spec": {"containers": [{"name": "app", "image": "a:1", "ports": [{"containerPort": 8080}]}]}}}}));
        out.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("-0"), "spec": {"containers": [{"name": "app", "image": "a:1", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.{}.{}.{}", i / 65536, i / 256 % 256, i % 256), "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "state": {"running": {}}}]}}));
        out.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta(""), "spec": {"host": host, "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}}));
        out.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta(""), "spec": {"hosts": [host], "http": [{"route": [{"destination": {"host": host, "subset": "v1"}}]}]}}));
    }
    out
}

/// The same where one route leads to a subset that nothing defines, and a caller feels it.
fn broken() -> Material {
    let mut objects = objects();
    let route = objects.iter_mut().find(|object| object["kind"] == "VirtualService").expect("a route");
    *route.pointer_mut("/spec/http/0/route/0/destination/subset").expect("a subset") = json!("v9");
    let mut log = String::new();
    for i in 0..600 {
        let (time, result) = (
            format!("2026-11-22T03:{:02}:{:02}.000Z", i / 60, i % 60),
            if i > 200 { "503 NC cluster_not_found" } else { "200 - via_upstream" },
        );
        log.push_str(&format!("{time} [{time}] \"GET /x HTTP/1.1\" {result} - \"-\" 0 0 0 - \"-\" \"c\" \"id-{i}\" \"service-0.team-0\" \"-\" - - 10.96.0.1:80 10.0.0.1:42404 - default\n"));
    }
    let log = LogFile {
        namespace: "team-1".to_owned(),
        pod: "service-1-0".to_owned(),
        container: "istio-proxy".to_owned(),
        previous: false,
        bytes: log.into_bytes(),
        truncated: false,
    };
    Material { objects, logs: vec![log], ..Material::default() }
}

fn mesh_objects(criterion: &mut Criterion) {
    let text = serde_json::to_vec(&objects()).expect("JSON");
    let mut group = criterion.benchmark_group("mesh_objects");
    group.sample_size(10);
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("limit: parse their JSON", |b| {
        b.iter(|| serde_json::from_slice::<Value>(black_box(&text)).expect("JSON"))
    });
    group.bench_function("normalise", |b| {
        b.iter_batched(
            || Material { objects: objects(), ..Material::default() },
            assemble,
            BatchSize::LargeInput,
        );
    });
    let snapshot = assemble(Material { objects: objects(), ..Material::default() });
    group.bench_function("analyze with all rules", |b| {
        b.iter(|| analyze(black_box(&snapshot), &Options::default()))
    });
    let snapshot = assemble(broken());
    let tried = |diagnosis: &Diagnosis| {
        let mut remedies = diagnosis.findings.iter().flat_map(|finding| &finding.remedies);
        remedies.any(|remedy| matches!(&remedy.trial, Some(Trial::Verified(_))))
    };
    assert!(tried(&analyze(&snapshot, &Options::default())));
    group.bench_function("analyze, and try the fixes of what fails", |b| {
        b.iter(|| analyze(black_box(&snapshot), &Options::default()))
    });
    group.finish();
}

criterion_group!(benches, access_logs, application_logs, templates, mesh_objects);
criterion_main!(benches);
