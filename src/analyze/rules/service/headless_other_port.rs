//! SVC120.

use crate::model::json::Value;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, scope, written};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, Calls, since};
use crate::analyze::rules::seen;
use crate::model::network::{Service, ServiceName, ServicePort};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Callers ask a headless Service for its port, and its pods listen on another one.
    ///
    /// ## What it detects
    /// A headless Service with a selector whose port differs from its target port, where callers' connections to it are refused or time
    /// out and the pods are ready.
    /// ## Why it matters
    /// The name of a headless Service leads to the pods themselves, and nothing translates the port on the way: `port: 80, targetPort:
    /// 8080` works with a cluster IP and fails at the first call without one.
    /// ## Evidence
    /// `clusterIP: None`, both ports, ready pods, and the callers' lines.
    /// ## How to confirm
    /// `kubectl get service NAME -o jsonpath='{.spec.clusterIP} {.spec.ports}'`; a call to the pod's address at the target port succeeds.
    /// ## How to fix
    /// Give the Service a cluster IP (it has to be made anew), or have callers ask for the pods' port.
    /// ## False positives
    /// A StatefulSet's governing Service has ports that nobody asks for: without failing calls it is silent. Callers in a mesh go through
    /// proxies, which translate the port.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#headless-services>
    HeadlessOtherPort {
        code: "SVC120", name: "headless-port-not-translated", family: Network, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// A headless Service whose callers ask for its port.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    index: usize,
    port: &'a ServicePort,
    /// Where the pods listen.
    target: i64,
    ready: usize,
    calls: Vec<Calls>,
    /// Whether a caller's text holds a pod's address with the Service's port.
    told: bool,
}

impl Check for HeadlessOtherPort {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        let headless = |s: &&Service| s.cluster_ip == "None" && s.has_selector();
        for service in snapshot.services.iter().filter(headless) {
            if !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            let Some((ready, _)) = snapshot.endpoints(service).filter(|(ready, _)| *ready > 0) else {
                continue;
            };
            let name = service.service_name();
            let failing = calls::failing(snapshot);
            let calls: Vec<Calls> =
                failing.all.iter().filter(|calls| fits(snapshot, calls, &name)).cloned().collect();
            if calls.is_empty() {
                continue;
            }
            for (index, port) in service.ports.iter().enumerate().filter(|(_, port)| port.transport == "TCP")
            {
                let pods: Vec<_> = snapshot.pods_behind(service).collect();
                let target = pods.iter().find_map(|pod| service.pod_port(port, pod));
                let served = pods.iter().any(|pod| {
                    pod.template.containers.iter().flat_map(|c| &c.ports).any(|p| p.number == port.number)
                });
                let Some(target) = target.filter(|target| *target != port.number && !served) else {
                    continue;
                };
                let at = |ip: &String| format!("{ip}:{}", port.number);
                let told = pods.iter().flat_map(|pod| &pod.ips).any(|ip| {
                    calls.iter().flat_map(|calls| &calls.groups).any(|group| group.sample.contains(&at(ip)))
                });
                out.push(Fact { service, index, port, target, ready, calls: calls.clone(), told });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let service = fact.service.reference();
        let name = fact.service.service_name();
        let (port, target) = (fact.port.number, fact.target);
        let subject = service.field("spec.clusterIP");
        let ports = service.field(format!("spec.ports[{}].port", fact.index));
        let first = fact.calls.iter().filter_map(|calls| calls.first).min();
        let amount = fact.calls.first().map(Calls::amount).unwrap_or_default();
        let finding = Finding::new(Self::META, subject.clone(), &[&port.to_string()])
            .title(format!("{service} is headless, and its pods listen on {target}: calls to port {port} reach nobody"))
            .message(format!(
                "The name of {service} leads to its pods, for its clusterIP is None, and nothing translates port {port} to targetPort {target} on the way. {} of its pods are ready, and {amount} to it fail{}.",
                fact.ready,
                since(first)
            ))
            .mechanism("headless Service: its port is not translated to the target port (clusterIP None), connection refused")
            .severity(Severity::Error)
            .role(Role::Cause, if fact.told { Confidence::Observed } else { Confidence::Configured })
            .service(Some(name))
            .related(ports.clone())
            .evidence(Evidence::object(&subject, "None"))
            .evidence(Evidence::object(&ports, format!("port {port}, targetPort {target}")))
            .remedy(with_address(fact.service))
            .remedy(Remedy::manual(format!("Have callers ask for port {target}, on which the pods listen")))
            .prevention(Prevention::of("Test", "In the pipeline: a headless Service has the same port and targetPort (meshscope analyze on the manifests with the callers' logs)"));
        let told = fact.calls.iter().fold(finding, |finding, calls| {
            calls.told(finding, None, &["refused", "timeout", "UF", "5xx"], &["5xx"])
        });
        told.onset(first)
    }
}

/// Whether calls are to a Service and fail for want of a listener.
fn fits(snapshot: &Snapshot, calls: &Calls, name: &ServiceName) -> bool {
    let proxied = snapshot.pods_of(&calls.caller).any(|pod| snapshot.has_istio_proxy(pod));
    calls.service() == Some(name)
        && !proxied
        && calls.severity() >= Severity::Warning
        && calls
            .groups
            .iter()
            .any(|group| matches!(group.kind, Kind::Refused | Kind::ConnectTimeout | Kind::Timeout))
}

/// The same Service with a cluster IP: the field cannot be changed, so it is made anew.
fn with_address(service: &Service) -> Remedy {
    let reference = service.reference();
    let now = written(&service.object.body);
    let mut fixed = now.clone();
    if let Some(spec) = fixed.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
    }
    let replace =
        |body: &Value| format!("kubectl {}replace --force -f - <<'EOF'\n{body}\nEOF", scope(reference));
    Remedy::commands(
        format!("Make Service {} anew with a cluster IP, which translates the port", quote(&reference.name)),
        vec![replace(&fixed)],
        vec![replace(&now)],
    )
    .risk(Risk::Medium)
}
