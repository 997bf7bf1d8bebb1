//! SVC106.

use crate::model::json::json;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::analyze::rules::service::served;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::network::{ServiceName, ServicePort};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, EnvSource, Workload, is_proxy_container};

crate::rule! {
    /// A server listens on the loopback address alone, so that nobody outside its pod reaches it.
    ///
    /// ## What it detects
    /// Connections to the declared port of a running workload are refused, or its probes fail, and its log says that it listens
    /// on 127.0.0.1, or a setting (environment variable, argument) tells it to.
    /// ## Why it matters
    /// The port is served, but only inside the pod. Other pods and, since Istio 1.10, the pod's own proxy connect to the
    /// pod's address and are refused. Probes that run inside the pod pass, so that the pod stays ready; those of the kubelet
    /// come from outside, and a liveness probe then kills the container again and again.
    /// ## Evidence
    /// The log line that names the listening address, the setting with 127.0.0.1, localhost or ::1, and refused connections.
    /// ## How to confirm
    /// `kubectl exec POD -- ss -ltn` shows `127.0.0.1:PORT` and no `0.0.0.0:PORT`.
    /// ## How to fix
    /// Bind to 0.0.0.0 (or ::), by the setting that names the address.
    /// ## False positives
    /// An admin port that is meant for the pod alone: only ports that a Service points at are looked at.
    /// ## References
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/network-topologies/>
    AppListensOnLocalhost {
        code: "SVC106", name: "app-listens-on-localhost", family: Network, severity: Error,
        needs: [Objects, Status], aliases: ["IST0143"],
    }
}

/// Where a setting stands that names the loopback address.
#[derive(Debug, Clone)]
struct Setting {
    /// Its path from the workload.
    path: String,
    /// What it is: `environment variable BIND`, `argument --host=127.0.0.1`.
    what: String,
    before: String,
    after: String,
}

/// A workload that keeps to itself.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    service: ServiceName,
    port: i64,
    setting: Option<Setting>,
    log: Option<Evidence>,
    seen: Seen,
    /// The kubelet's word that a probe of it fails.
    probe: Option<&'a Event>,
}

impl Check for AppListensOnLocalhost {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut refused = None;
        let mut out: Vec<Fact<'a>> = vec![];
        let mut done: BTreeSet<(&ObjectRef, i64)> = BTreeSet::new();
        for service in &snapshot.services {
            if service.selector.is_empty() || !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            let mut inbound = None;
            for workload in snapshot.workloads_behind(service) {
                for port in service.ports.iter().filter(|p| p.transport == "TCP") {
                    let Some(number) = number(port, workload) else { continue };
                    let setting = setting(workload);
                    let log = listening(snapshot, workload, number);
                    if (setting.is_none() && log.is_none()) || !done.insert((workload.reference(), number)) {
                        continue;
                    }
                    let inbound = inbound.get_or_insert_with(|| served::inbound(snapshot, service));
                    let (_, mut seen) = inbound.get(&number).cloned().unwrap_or_default();
                    let name = service.service_name();
                    if !seen.any() {
                        let errors =
                            refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
                        seen = seen::together(errors.get(&name));
                    }
                    // Of a target port that nobody declares the Service is to blame.
                    let declared = served::declared(&[&workload.template]);
                    let ours = declared.is_empty() || declared.contains(&number) || log.is_some();
                    let certain = seen.any() && ours;
                    if !certain && log.is_none() {
                        continue;
                    }
                    let probe = log.as_ref().and_then(|_| failing_probe(snapshot, workload.reference()));
                    out.push(Fact { workload, service: name, port: number, setting, log, seen, probe });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let observed = fact.seen.any() || fact.probe.is_some();
        let path = fact.setting.as_ref().map_or_else(
            || fact.workload.template_path("spec.containers[0].env"),
            |setting| setting.path.clone(),
        );
        let told = fact.setting.as_ref().map(|s| format!(" ({})", s.what)).unwrap_or_default();
        let refused = match (fact.seen.any(), fact.probe) {
            (true, _) => format!("{} connections to it were refused", fact.seen.count),
            (false, Some(_)) => "the kubelet's probes, which come from outside the pod, fail".to_owned(),
            (false, None) => "no refused connection was seen".to_owned(),
        };
        Finding::new(Self::META, workload.field(&path), &[&fact.port.to_string()])
            .title(format!("{workload} listens on 127.0.0.1:{} only{told}: other pods are refused", fact.port))
            .message(format!(
                "Service {} sends connections to port {} of the pods' own addresses. The server binds to the loopback address{told}, so only its own pod reaches it; {refused}.",
                fact.service, fact.port
            ))
            .mechanism("server binds to localhost (127.0.0.1): connection refused from outside the pod")
            .severity(if observed { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(Some(fact.service.clone()))
            .evidences(fact.log.clone())
            .evidences(fact.setting.as_ref().map(|s| Evidence::object(&workload.field(&s.path), s.what.clone())))
            .evidences(fact.seen.evidence.clone())
            .evidences(fact.probe.map(common::event_evidence))
            .onset(fact.seen.onset.into_iter().chain(fact.probe.and_then(|event| event.first)).min())
            .effect(Effect::requests(&fact.service, &["UF", "UH", "refused", "5xx"]))
            .effects(fact.probe.map(|_| Effect::pods(workload)))
            .maybe_remedy(fact.setting.as_ref().and_then(|setting| {
                Remedy::patch(
                    &fact.workload.object,
                    &json!([{"op": "replace", "path": pointer(&setting.path), "value": setting.after}]),
                    format!("Bind to 0.0.0.0: set {} from {} to {}", setting.what, setting.before, setting.after),
                )
            }))
            .remedy(Remedy::manual(format!(
                "Let {workload} bind to 0.0.0.0 (or ::) by whatever its configuration calls the listening address"
            )))
            .prevention(Prevention::of(
                "Probe",
                format!("A readiness probe of type tcpSocket or httpGet on port {}: it comes from outside the pod", fact.port),
            ))
            .prevention(Prevention::alert(
                "Alert on connections that are refused",
                format!("sum by (destination_service) (rate(istio_requests_total{{response_flags=~\".*UF.*\",destination_service_name=\"{}\"}}[1m])) > 0", fact.service.name),
            ))
    }
}

/// The pods' port behind a Service's port.
fn number(port: &ServicePort, workload: &Workload) -> Option<i64> {
    match &port.target {
        crate::model::network::TargetPort::Number(number) => Some(*number),
        crate::model::network::TargetPort::Name(name) => {
            let ports = workload.template.application_containers().flat_map(|c| &c.ports);
            ports.into_iter().find(|p| &p.name == name).map(|p| p.number)
        }
    }
}

/// Whether a text is the loopback address, alone or before a port.
fn loopback(text: &str) -> Option<&'static str> {
    let bare = text.trim().trim_start_matches("http://").trim_start_matches("tcp://");
    for (word, all) in [("127.0.0.1", "0.0.0.0"), ("localhost", "0.0.0.0"), ("[::1]", "[::]"), ("::1", "::")]
    {
        if let Some(rest) = bare.strip_prefix(word)
            && (rest.is_empty() || rest.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok()))
        {
            return Some(all);
        }
    }
    None
}

/// Names of settings that hold the address to listen on, and not one to call.
fn names_listener(name: &str) -> bool {
    let upper = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let word = upper.trim_start_matches('_');
    ["BIND", "LISTEN"].iter().any(|w| word.contains(w))
        || ["HOST", "ADDR", "ADDRESS", "SERVER_ADDRESS", "SERVER_HOST", "HTTP_HOST", "HTTP_ADDR", "APP_HOST"]
            .contains(&word)
}

/// The first setting of an application container that tells it to keep to the loopback address.
fn setting(workload: &Workload) -> Option<Setting> {
    workload.template.application_containers().find_map(|container| {
        let base = workload.template_path(&format!("spec.{}", container.path()));
        environment(container, &base).or_else(|| argument(container, &base))
    })
}

fn environment(container: &Container, base: &str) -> Option<Setting> {
    container.env.iter().enumerate().find_map(|(index, var)| {
        let EnvSource::Literal(value) = &var.source else { return None };
        let all = loopback(value).filter(|_| names_listener(&var.name))?;
        Some(Setting {
            path: format!("{base}.env[{index}].value"),
            what: format!("environment variable {}", var.name),
            before: value.clone(),
            after: replaced(value, all),
        })
    })
}

fn argument(container: &Container, base: &str) -> Option<Setting> {
    ["args", "command"].iter().find_map(|list| {
        let words = container.body.texts(list);
        words.iter().enumerate().find_map(|(index, word)| {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), value),
                None => (
                    index.checked_sub(1).and_then(|i| words.get(i)).cloned().unwrap_or_default(),
                    word.as_str(),
                ),
            };
            let flag = name.trim_start_matches('-');
            let all = loopback(value).filter(|_| names_listener(flag))?;
            Some(Setting {
                path: format!("{base}.{list}[{index}]"),
                what: format!("argument {name}"),
                before: word.clone(),
                after: replaced(word, all),
            })
        })
    })
}

fn replaced(text: &str, all: &str) -> String {
    ["127.0.0.1", "localhost", "[::1]", "::1"]
        .iter()
        .find(|word| text.contains(*word))
        .map_or_else(|| text.to_owned(), |word| text.replacen(word, all, 1))
}

/// What the kubelet says of a probe that fails in a pod of a workload.
pub(super) fn failing_probe<'a>(snapshot: &'a Snapshot, workload: &'a ObjectRef) -> Option<&'a Event> {
    snapshot.pods_of(workload).filter(|pod| !pod.ready()).find_map(|pod| {
        pod.containers().filter(|(container, _)| !is_proxy_container(&container.name)).find_map(
            |(container, _)| common::container_events(snapshot, pod, &container.name, "Unhealthy").next(),
        )
    })
}

/// A line of the application's own log that says it listens on the loopback address and this port. The last such line
/// counts, and only where no later line says that it listens on all addresses.
pub(crate) fn listening(snapshot: &Snapshot, workload: &Workload, port: i64) -> Option<Evidence> {
    let (owner, mut found) = (workload.reference(), None);
    let loops = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
    let everywhere = ["0.0.0.0", "*", "[::]", " "].map(|host| format!("{host}:{port}"));
    for log in snapshot.logs.iter().filter(|log| !log.previous && log.namespace == owner.namespace) {
        let ours = workload.template.application_containers().any(|c| c.name == log.container);
        if !ours || !snapshot.owner_by_name(&log.namespace, &log.pod).same_object(owner) {
            continue;
        }
        for line in &log.lines {
            let listens = ["isten", "bind", "Bind", "erving", "tarted", "unning on"]
                .iter()
                .any(|w| line.text.contains(w));
            if !listens {
                continue;
            }
            if loops.iter().any(|l| line.text.contains(l)) {
                let place = format!("Pod {}/{}, container {}", log.namespace, log.pod, log.container);
                let value = format!("the server says that it listens on 127.0.0.1:{port}");
                found = Some(Evidence::new("Log", place, value).at(line.time).excerpt(&line.text));
            } else if everywhere.iter().any(|l| line.text.contains(l)) {
                found = None;
            }
        }
    }
    found
}
