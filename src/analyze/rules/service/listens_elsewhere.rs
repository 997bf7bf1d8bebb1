//! SVC118.

use crate::model::json::json;
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::app_listens_on_localhost::failing_probe;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::model::event::Event;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{EnvSource, Workload};

crate::rule! {
    /// An application listens on another port than the one that its container declares and its Service leads to.
    ///
    /// ## What it detects
    /// Connections or probes that are refused at a declared port, where the application's log names the port that it listens on, and
    /// that is another one.
    /// ## Why it matters
    /// The process runs and is well. Probes go to the declared port, so the pod never becomes ready, and a liveness probe kills it
    /// again and again, which looks like a slow start.
    /// ## Evidence
    /// The log line with the port, the declared port, refused probes or connections, and the setting that names the port.
    /// ## How to confirm
    /// `kubectl exec POD -- ss -ltn`, or a port-forward to the port that the log names.
    /// ## How to fix
    /// Set the port back in the setting, or declare the port that the application serves.
    /// ## False positives
    /// An application that logs one of its ports only: nothing is said while the declared one accepts connections.
    /// ## References
    /// <https://kubernetes.io/docs/tutorials/services/connect-applications-service/>
    ListensElsewhere {
        code: "SVC118", name: "application-listens-elsewhere", family: Network, severity: Error,
        needs: [Status, Logs], aliases: [],
    }
}

/// A server on another port.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    service: ServiceName,
    /// The port that is declared, and the one that the log names.
    declared: i64,
    said: i64,
    log: Evidence,
    seen: Seen,
    probe: Option<&'a Event>,
}

impl Check for ListensElsewhere {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut refused = None;
        let mut out: Vec<Fact<'a>> = vec![];
        for service in &snapshot.services {
            if service.selector.is_empty() || !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            for workload in snapshot.workloads_behind(service) {
                let known = |fact: &Fact<'_>| fact.workload.reference() == workload.reference();
                let ports = service.ports.iter().filter(|port| port.transport == "TCP");
                let mut declared = ports
                    .filter_map(|port| port.on(&workload.template))
                    .filter(|number| declares(workload, *number));
                let Some(declared) = declared.next() else { continue };
                let Some((said, log)) = other_port(snapshot, workload, declared) else { continue };
                let at = format!(":{declared}");
                let probe = failing_probe(snapshot, workload.reference())
                    .filter(|event| event.message.contains(&at) && event.message.contains("refused"));
                let name = service.service_name();
                let errors = refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
                let seen = seen::together(errors.get(&name));
                let serves = snapshot.endpoints(service).is_some_and(|(ready, _)| ready > 0);
                if (probe.is_some() || (seen.any() && !serves)) && !out.iter().any(known) {
                    out.push(Fact { workload, service: name, declared, said, log, seen, probe });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let (declared, said) = (fact.declared, fact.said);
        let setting = setting(fact.workload, said);
        let field = setting.as_ref().map_or_else(|| ports_of(fact.workload, declared), |s| s.path.clone());
        let by = setting.as_ref().map(|s| format!(" ({})", s.name)).unwrap_or_default();
        let refused = match (fact.probe, fact.seen.any()) {
            (Some(_), _) => "the kubelet's probes at it are refused".to_owned(),
            (None, _) => format!("{} connections to it were refused", fact.seen.count),
        };
        Finding::new(Self::META, workload.field(&field), &[&declared.to_string()])
            .title(format!("{workload} listens on port {said}{by}, and declares {declared}"))
            .message(format!(
                "The log of {workload} says that it listens on port {said}{by}. Its container declares port {declared}, where Service {} leads, and {refused}: nothing listens there.",
                fact.service
            ))
            .mechanism("the application listens on another port than it declares (connection refused, probes fail)")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .evidence(fact.log.clone())
            .evidences(setting.as_ref().map(|s| Evidence::object(&workload.field(&s.path), format!("{} = {}", s.name, s.before))))
            .evidence(Evidence::object(&workload.field(ports_of(fact.workload, declared)), format!("declares port {declared}")))
            .evidences(fact.probe.map(common::event_evidence))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset.into_iter().chain(fact.probe.and_then(|event| event.first)).min())
            .effect(Effect::requests(&fact.service, &["UF", "UH", "refused", "5xx", "timeout"]))
            .effect(Effect::pods(workload))
            .effect(Effect::calls(workload))
            .maybe_remedy(setting.as_ref().and_then(|s| {
                Remedy::patch(
                    &fact.workload.object,
                    &json!([{"op": "replace", "path": pointer(&s.path), "value": s.after}]),
                    format!("Set {} from {} to {}: the port that the container declares", s.name, s.before, s.after),
                )
            }))
            .maybe_remedy(Remedy::patch(
                &fact.workload.object,
                &json!([{"op": "replace", "path": pointer(&ports_of(fact.workload, declared)), "value": said}]),
                format!("Declare port {said}, where it listens: what names the port by its name follows"),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: start the image with the settings of the release, and connect to each port that its container declares"))
            .prevention(Prevention::alert(
                "Alert when pods are not ready",
                format!("kube_deployment_status_replicas_unavailable{{namespace=\"{}\",deployment=\"{}\"}} > 0", workload.namespace, workload.name),
            ))
    }
}

fn declares(workload: &Workload, port: i64) -> bool {
    workload.template.application_containers().any(|c| c.ports.iter().any(|own| own.number == port))
}

/// The field that declares a port.
fn ports_of(workload: &Workload, port: i64) -> String {
    let at = workload.template.application_containers().find_map(|container| {
        let index = container.ports.iter().position(|own| own.number == port)?;
        Some(format!("spec.{}.ports[{index}].containerPort", container.path()))
    });
    workload.template_path(&at.unwrap_or_else(|| "spec.containers[0].ports".to_owned()))
}

/// The port that the running containers of a workload say they listen on, where none of them says the declared one.
pub(crate) fn other_port(snapshot: &Snapshot, workload: &Workload, declared: i64) -> Option<(i64, Evidence)> {
    let (owner, mut said) = (workload.reference(), BTreeSet::new());
    let mut found = None;
    for log in snapshot.logs.iter().filter(|log| log.namespace == owner.namespace) {
        let ours = workload.template.application_containers().any(|c| c.name == log.container);
        if !ours || !snapshot.owner_by_name(&log.namespace, &log.pod).same_object(owner) {
            continue;
        }
        // Pods of a revision before say where that one listened.
        if snapshot
            .pod(&log.namespace, &log.pod)
            .is_none_or(|pod| pod.ready() || pod.object.deleted.is_some())
        {
            continue;
        }
        for line in &log.lines {
            let Some(port) = listens_on(&line.text) else { continue };
            said.insert(port);
            if !declares(workload, port) {
                let place = format!("Pod {}/{}, container {}", log.namespace, log.pod, log.container);
                let evidence =
                    Evidence::new("Log", place, format!("the server says that it listens on port {port}"));
                found = Some((port, evidence.at(line.time).excerpt(&line.text)));
            }
        }
    }
    found.filter(|_| !said.contains(&declared))
}

/// The port in a line that says where a server listens.
fn listens_on(line: &str) -> Option<i64> {
    static SAYS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r#"(?i)\b(?:listen(?:s|ing)?|serving|bound|started|running)\b[^\n]{0,60}?(?:(?:\bport(?:\(s\))?[ =:"]+|[^\d]:)(\d{2,5})|:(\d{3,5}))(?:[^\d.:]|$)"#,
        )
        .ok()
    });
    let found = SAYS.as_ref()?.captures(line)?;
    let port = found.get(1).or_else(|| found.get(2))?.as_str().parse::<u16>().ok()?;
    (port > 0).then_some(i64::from(port))
}

/// A setting that names the port.
struct Setting {
    name: String,
    path: String,
    before: String,
    after: String,
}

/// The only variable with this port in its value, as a number of its own, that is no address of something else.
fn setting(workload: &Workload, said: i64) -> Option<Setting> {
    let declared: BTreeSet<i64> =
        workload.template.application_containers().flat_map(|c| &c.ports).map(|port| port.number).collect();
    let [declared] = declared.into_iter().collect::<Vec<_>>()[..] else { return None };
    let mut found = vec![];
    for container in workload.template.application_containers() {
        for (index, var) in container.env.iter().enumerate() {
            let EnvSource::Literal(value) = &var.source else { continue };
            let host = value.rsplit_once(':').map_or("", |(host, _)| host);
            let own = host.is_empty() || matches!(host, "0.0.0.0" | "*" | "[::]" | "127.0.0.1" | "localhost");
            let port = value.rsplit_once(':').map_or(value.as_str(), |(_, port)| port);
            if own && port.trim().parse() == Ok(said) {
                let head = value.strip_suffix(port).unwrap_or_default();
                found.push(Setting {
                    name: var.name.clone(),
                    path: workload.template_path(&format!("spec.{}.env[{index}].value", container.path())),
                    before: value.clone(),
                    after: format!("{head}{declared}"),
                });
            }
        }
    }
    (found.len() == 1).then(|| found.pop()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_say_where_they_listen_in_many_ways() {
        for (line, port) in [
            ("payment v1 listens on :8081", 8081),
            ("2026 INFO Tomcat started on port(s): 9090 (http) with context path ''", 9090),
            ("{\"level\":\"info\",\"msg\":\"listening\",\"addr\":\"0.0.0.0:3000\"}", 3000),
            ("Server running at http://localhost:4000/", 4000),
            ("Listening on port 5000", 5000),
            ("Starting gunicorn; Listening at: http://0.0.0.0:8000 (7)", 8000),
        ] {
            assert_eq!(listens_on(line), Some(port), "{line}");
        }
        for line in [
            "started at 10:20:30",
            "listening for events of 10.0.0.1:6400.",
            "connected to db:5432",
            "running 3 jobs",
        ] {
            assert_eq!(listens_on(line), None, "{line}");
        }
    }
}
