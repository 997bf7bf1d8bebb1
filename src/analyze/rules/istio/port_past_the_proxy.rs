//! ISTIO162.

use super::past_the_proxy::{Past, inbound};
use super::support::{failing, parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, text};
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

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

/// A workload whose port its proxy does not get.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    service: &'a Service,
    past: Past<'a>,
    port: i64,
    seen: Failures,
}

impl Check for PortPastTheProxy {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for (seen, service) in failing(snapshot, Way::TlsToPlaintext) {
            for workload in snapshot.workloads_behind(service) {
                let template = &workload.template;
                let mut ports = service.ports.iter().filter_map(|port| port.on(template));
                let past = ports.find_map(|port| Some((inbound(template, port)?, port)));
                let known = |fact: &Fact<'_>| fact.workload.reference() == workload.reference();
                if let Some((past, port)) = past
                    && workload.object.owners.is_empty()
                    && !out.iter().any(known)
                {
                    out.push(Fact { workload, service, past, port, seen: seen.clone() });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let field = fact.workload.template_path(&format!("metadata.annotations.{}", fact.past.annotation));
        let name = fact.service.service_name();
        let (value, short) = (text::plain(fact.past.value, 60), fact.past.short());
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
            .maybe_remedy(fact.past.remedy(fact.workload, fact.port))
            .prevention(Prevention::alert(
                "Alert when callers' proxies cannot connect",
                format!("sum by (source_workload) (rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UF.*\",destination_service_name=\"{}\"}}[1m])) > 0", name.name),
            ))
            .prevention(Prevention::of("Policy", "Refuse pod templates whose excludeInboundPorts names a port that a Service leads to"))
    }
}
