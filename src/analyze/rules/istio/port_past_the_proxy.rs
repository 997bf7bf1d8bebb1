//! ISTIO162.

use serde_json::json;

use super::support::{parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::network::{Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{PodTemplate, Workload};

crate::rule! {
    /// Callers' proxies speak mutual TLS to a port that is taken past the callee's proxy.
    ///
    /// ## What it detects
    /// Pods with a sidecar whose annotation `excludeInboundPorts` names the port that a Service leads to, or whose
    /// `includeInboundPorts` does not, where callers' handshakes are answered with something that is no TLS.
    /// ## Why it matters
    /// The control plane sees the sidecar and tells callers to use mutual TLS; the connection goes straight to the application, which
    /// does not speak it. Only callers without a proxy get through.
    /// ## Evidence
    /// The annotation on the pod template, the Service's port, and `WRONG_VERSION_NUMBER` in access logs of callers.
    /// ## How to confirm
    /// `kubectl get pod POD -o jsonpath='{.metadata.annotations}'` names the port.
    /// ## How to fix
    /// Take the port out of the annotation; where it has to stay, a DestinationRule with `tls.mode: DISABLE` for that port.
    /// ## False positives
    /// None while handshakes fail; without failures it is silent, since a DestinationRule may already say plaintext.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/annotations/>
    PortPastTheProxy {
        code: "ISTIO162", name: "port-past-the-proxy", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

const EXCLUDE: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
const INCLUDE: &str = "traffic.sidecar.istio.io/includeInboundPorts";

/// A workload whose port its proxy does not get.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    service: &'a Service,
    annotation: &'static str,
    value: &'a str,
    port: i64,
    seen: Failures,
}

impl Check for PortPastTheProxy {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for seen in failures(snapshot, Way::TlsToPlaintext) {
            let service = seen.callee.service.as_ref().and_then(|name| snapshot.service(name));
            let Some(service) = service else { continue };
            for workload in snapshot.workloads_behind(service) {
                let template = &workload.template;
                let past = service.ports.iter().find_map(|port| past(template, port));
                let known = |fact: &Fact<'_>| fact.workload.reference() == workload.reference();
                if let Some((annotation, value, port)) = past
                    && workload.object.owners.is_empty()
                    && !out.iter().any(known)
                {
                    out.push(Fact { workload, service, annotation, value, port, seen: seen.clone() });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let field = fact.workload.template_path(&format!("metadata.annotations.{}", fact.annotation));
        let name = fact.service.service_name();
        let value = text::plain(fact.value, 60);
        let short = fact.annotation.rsplit('/').next().unwrap_or(fact.annotation);
        Finding::new(Self::META, workload.field(&field), &[])
            .title(format!("{workload}: {short} takes port {} past its proxy, and callers speak mutual TLS to it", fact.port))
            .message(format!(
                "{short} is \"{value}\", so connections to port {}, where Service {name} leads, go straight to the application. The pods have a proxy, so callers' proxies start mutual TLS, and the application answers with plaintext: {} failed{}.",
                fact.port,
                text::share(fact.seen.count, fact.seen.requests, "requests"),
                since(fact.seen.onset)
            ))
            .mechanism(format!("{short}: mutual TLS (mTLS) to a port past the sidecar"))
            .severity(fact.seen.severity().unwrap_or(Severity::Error))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&workload.field(&field), format!("{short} \"{value}\"")))
            .evidences(parts(&fact.seen))
            .effect(Effect::requests(&name, &["UF", "tls", "URX", "5xx"]))
            .maybe_remedy(without(fact.workload, fact.annotation, fact.value, fact.port, fact.annotation == INCLUDE))
            .prevention(Prevention::alert(
                "Alert when callers' proxies cannot connect",
                format!("sum by (source_workload) (rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UF.*\",destination_service_name=\"{}\"}}[1m])) > 0", name.name),
            ))
            .prevention(Prevention::of("Policy", "Refuse pod templates whose excludeInboundPorts names a port that a Service leads to"))
    }
}

/// The annotation by which the port behind a Service's port does not reach the proxy, its value and that port.
fn past<'a>(template: &'a PodTemplate, port: &ServicePort) -> Option<(&'static str, &'a str, i64)> {
    let number = port.on(template)?;
    let names = |list: &str| list.split(',').any(|entry| entry.trim().parse() == Ok(number));
    let of = |key: &str| template.annotations.get(key).map(String::as_str);
    if let Some(value) = of(EXCLUDE).filter(|value| names(value)) {
        return Some((EXCLUDE, value, number));
    }
    let value = of(INCLUDE).filter(|value| value.trim() != "*" && !names(value))?;
    Some((INCLUDE, value, number))
}

/// The annotation of a workload's pods without a port, or with it where it lists those that the proxy takes.
pub(super) fn without(
    workload: &Workload,
    annotation: &str,
    value: &str,
    port: i64,
    includes: bool,
) -> Option<Remedy> {
    let annotations = workload.template_path("metadata.annotations");
    let path = format!("{}/{}", pointer(&annotations), pointer_segment(annotation));
    let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let port = port.to_string();
    let short = annotation.rsplit('/').next().unwrap_or(annotation);
    let (left, summary): (Vec<&str>, _) = if includes {
        (entries.chain([port.as_str()]).collect(), format!("Add port {port} to {short}"))
    } else {
        (entries.filter(|entry| *entry != port).collect(), format!("Take port {port} out of {short}"))
    };
    let operation = if left.is_empty() {
        json!([{"op": "remove", "path": path}])
    } else {
        json!([{"op": "replace", "path": path, "value": left.join(",")}])
    };
    let summary =
        format!("{summary} of {}: its pods are made anew and their proxy takes it", workload.reference());
    Remedy::patch(&workload.object, &operation, summary).map(|remedy| remedy.risk(Risk::Medium))
}
