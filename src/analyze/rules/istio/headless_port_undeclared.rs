//! ISTIO143.

use crate::model::json::json;
use std::collections::BTreeMap;

use super::support::since;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{Seen, outcomes};
use crate::analyze::traffic::text;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// Pods of a headless Service are called on a port that the Service does not declare, in plaintext.
    ///
    /// ## What it detects
    /// Failing calls through `PassthroughCluster` to the address of a pod behind a headless Service, on a port that no Service
    /// in front of it has, where the pod takes only mutual TLS.
    /// ## Why it matters
    /// Brokers and databases call each other by the pods' own addresses. For a port that no Service declares the caller's proxy
    /// knows nothing and sends plaintext, which strict mutual TLS refuses.
    /// ## Evidence
    /// `PassthroughCluster` with a flag in access logs of callers, the address that was called, the ports of the Services, the
    /// effective PeerAuthentication.
    /// ## How to confirm
    /// `istioctl proxy-config listeners POD --port PORT` has no listener for the pod's address.
    /// ## How to fix
    /// Declare the port in the headless Service, with a name that begins with `tcp-` where its protocol is not HTTP.
    /// ## False positives
    /// A port that is meant to be reached from outside of the mesh: set it PERMISSIVE instead.
    /// ## References
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/traffic-routing/>
    HeadlessPortUndeclared {
        code: "ISTIO143", name: "headless-port-undeclared", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: ["KIA0701"],
    }
}

/// A port of pods that no Service declares.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    port: i64,
    callers: Vec<ObjectRef>,
    peer: Option<ObjectRef>,
    seen: Seen,
}

impl Check for HeadlessPortUndeclared {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: BTreeMap<(ServiceName, i64), Fact<'a>> = BTreeMap::new();
        let passed = snapshot
            .traffic
            .iter()
            .filter(|e| e.reporter == Reporter::Source && e.cluster.raw == "PassthroughCluster");
        for edge in passed {
            let failing = edge.outcomes.iter().filter(|outcome| outcome.failed);
            for called in failing.flat_map(|outcome| outcome.called.keys()) {
                let Some((ip, port)) = called.rsplit_once(':') else { continue };
                let (Some(pod), Ok(port)) =
                    (snapshot.pod_by_ip(ip.trim_matches(['[', ']'])), port.parse::<i64>())
                else {
                    continue;
                };
                let before: Vec<&Service> = snapshot.services_before_pod(pod).collect();
                let declared =
                    before.iter().any(|s| s.ports.iter().any(|p| s.pod_port(p, pod) == Some(port)));
                let Some(service) = before.iter().find(|s| s.headless()).copied().filter(|_| !declared)
                else {
                    continue;
                };
                let (mode, peer) =
                    snapshot.istio.peer_mode(pod.object.namespace(), &pod.template.labels, Some(port));
                if mode != "STRICT"
                    || !snapshot.has_istio_proxy(pod)
                    || !snapshot.in_scope(pod.object.namespace())
                {
                    continue;
                }
                let name = service.service_name();
                let fact = out.entry((name, port)).or_insert_with(|| Fact {
                    service,
                    port,
                    callers: vec![],
                    peer,
                    seen: Seen::default(),
                });
                if !fact.callers.contains(&edge.workload) {
                    fact.callers.push(edge.workload.clone());
                    let own = outcomes(std::iter::once(edge), |_, o| {
                        o.failed && o.called.keys().any(|c| c.ends_with(&format!(":{port}")))
                    });
                    fact.seen = std::mem::take(&mut fact.seen).and(own);
                }
            }
        }
        out.into_values().filter(|fact| fact.seen.count > 1).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let subject = fact.service.reference().field("spec.ports");
        let callers: Vec<&str> = fact.callers.iter().take(3).map(|w| w.name.as_str()).collect();
        let callers = text::plain(&callers.join(", "), 100);
        let peer = fact.peer.as_ref().map_or("The mesh".to_owned(), |p| {
            ObjectRef { field_path: String::new(), ..p.clone() }.to_string()
        });
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.port.to_string()])
            .title(format!("Headless Service {name} lacks port {}, on which {callers} calls its pods in plaintext", fact.port))
            .message(format!(
                "{callers} calls pods of {name} at their own addresses on port {}, which no Service declares: its proxy passes the bytes on as they are (PassthroughCluster). {peer} makes the pods STRICT, and their proxies close plaintext connections. {} calls failed{}.",
                fact.port,
                text::number(fact.seen.count),
                since(fact.seen.onset)
            ))
            .mechanism("headless Service without the port: plaintext through PassthroughCluster against STRICT mTLS")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&subject, format!("no port {}", fact.port)))
            .evidences(fact.seen.evidence.clone())
            .effect(Effect::requests(&name, &["UF", "UC", "NR", "tls", "reset"]))
            .effects(fact.callers.iter().map(Effect::calls))
            .maybe_remedy(Remedy::patch(
                &fact.service.object,
                &json!([{"op": "add", "path": "/spec/ports/-", "value": {"name": format!("tcp-{}", fact.port), "port": fact.port, "targetPort": fact.port}}]),
                format!("Declare port {} as tcp-{}", fact.port, fact.port),
            ))
            .prevention(Prevention::alert(
                "Alert on traffic that no Service declares",
                "sum by (source_workload) (rate(istio_tcp_connections_opened_total{destination_service_name=\"PassthroughCluster\"}[5m])) > 0",
            ));
        if let Some(peer) = &fact.peer {
            finding = finding.related(peer.clone());
        }
        finding
    }
}
