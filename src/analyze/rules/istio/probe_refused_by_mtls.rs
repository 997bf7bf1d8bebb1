//! ISTIO139.

use std::collections::BTreeMap;

use super::support::{annotate, services_of};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, Pod};

crate::rule! {
    /// The kubelet's probes run into strict mutual TLS.
    ///
    /// ## What it detects
    /// Probes over HTTP that were not rewritten to go through the agent, of pods whose port takes only mutual TLS, with the
    /// kubelet's events: the connection was reset or ended.
    /// ## Why it matters
    /// The application is well, and its pods are restarted or never become ready.
    /// ## Evidence
    /// The probe as the running pod has it, the PeerAuthentication, the event.
    /// ## How to confirm
    /// A rewritten probe of a running pod has a path that begins with `/app-health`.
    /// ## How to fix
    /// Let the injector rewrite probes (`sidecar.istio.io/rewriteAppHTTPProbers: "true"`), or set the probe's port PERMISSIVE.
    /// ## False positives
    /// An application that resets connections by itself; then the proxy's log shows the probe arriving.
    /// ## References
    /// <https://istio.io/latest/docs/ops/configuration/mesh/app-health-check/>
    ProbeRefusedByMtls {
        code: "ISTIO139", name: "probe-refused-by-mtls", family: Mesh, severity: Error,
        needs: [Status, Events, Istio], aliases: [],
    }
}

const ANNOTATION: &str = "sidecar.istio.io/rewriteAppHTTPProbers";

/// A probe of a workload that is refused.
#[derive(Debug)]
pub struct Fact<'a> {
    owner: ObjectRef,
    container: String,
    probe: &'static str,
    port: i64,
    peer: Option<ObjectRef>,
    pods: usize,
    event: &'a Event,
}

impl Check for ProbeRefusedByMtls {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: BTreeMap<(ObjectRef, String, &'static str), Fact<'a>> = BTreeMap::new();
        let meshed = |pod: &&Pod| snapshot.in_scope(pod.object.namespace()) && snapshot.has_istio_proxy(pod);
        for pod in snapshot.pods.iter().filter(meshed) {
            for container in pod.template.application_containers() {
                for (probe, word) in [
                    ("livenessProbe", "Liveness"),
                    ("readinessProbe", "Readiness"),
                    ("startupProbe", "Startup"),
                ] {
                    let Some(port) = plain(pod, container, probe) else { continue };
                    let (mode, peer) =
                        snapshot.istio.peer_mode(pod.object.namespace(), &pod.template.labels, Some(port));
                    if mode != "STRICT" {
                        continue;
                    }
                    let cut = |event: &&Event| {
                        event.reason == "Unhealthy"
                            && event.message.starts_with(word)
                            && ["connection reset by peer", "EOF", "malformed HTTP response"]
                                .iter()
                                .any(|w| event.message.contains(w))
                    };
                    let Some(event) = snapshot.events_about(&pod.object.reference).find(cut) else {
                        continue;
                    };
                    let owner = snapshot.owner(pod);
                    let key = (owner.clone(), container.name.clone(), probe);
                    out.entry(key)
                        .or_insert(Fact {
                            owner,
                            container: container.name.clone(),
                            probe,
                            port,
                            peer,
                            pods: 0,
                            event,
                        })
                        .pods += 1;
                }
            }
        }
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let workload = snapshot.workload(&fact.owner);
        let subject = workload
            .map_or(fact.owner.clone(), |w| w.reference().field(w.template_path("metadata.annotations")));
        let peer = fact.peer.as_ref().map_or("The mesh".to_owned(), |p| {
            ObjectRef { field_path: String::new(), ..p.clone() }.to_string()
        });
        let container = text::plain(&fact.container, 40);
        let services = services_of(snapshot, &fact.owner);
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.container, fact.probe])
            .title(format!("The {} of {} is refused: port {} takes only mutual TLS, and the kubelet has none", fact.probe, fact.owner, fact.port))
            .message(format!(
                "{peer} makes port {} STRICT. The {} of container {container} goes straight to it in {} pods, because the injector did not rewrite it, and the proxy closes the kubelet's plaintext connection.",
                fact.port, fact.probe, fact.pods
            ))
            .mechanism("probe against STRICT mTLS: rewriteAppHTTPProbers is off")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .onset(fact.event.first)
            .evidence(Evidence::object(&subject, format!("{} to port {} is not rewritten", fact.probe, fact.port)))
            .evidence(Evidence::new("Event", fact.event.about.to_string(), format!("Unhealthy, {} times", fact.event.count)).at(fact.event.last).excerpt(&fact.event.message))
            .effect(Effect::pods(&fact.owner))
            .effects(services.iter().map(|service| Effect::requests(service, &["UH", "UF", "5xx", "refused"])))
            .maybe_remedy(workload.and_then(|w| annotate(w, ANNOTATION, "true", format!("Set {ANNOTATION} to true, so that the probe goes through the agent"))))
            .prevention(Prevention::alert("Alert on probes that fail", "sum by (namespace, pod) (rate(prober_probe_total{result=\"failed\"}[5m])) > 0.1"));
        if let Some(peer) = &fact.peer {
            finding = finding.related(peer.clone());
        }
        if finding.remedies.is_empty() {
            finding = finding
                .remedy(Remedy::manual(format!("Set the annotation {ANNOTATION} to true on the pods")));
        }
        finding
    }
}

/// The port of a probe over HTTP that goes straight to the application.
fn plain(pod: &Pod, container: &Container, probe: &str) -> Option<i64> {
    let get = container.probe(probe)?.at("httpGet")?;
    let rewritten = get.text("path").is_some_and(|path| path.starts_with("/app-health"));
    let port = get.int("port").or_else(|| {
        let name = get.text("port")?;
        container.ports.iter().find(|port| port.name == name).map(|port| port.number)
    })?;
    let excluded = pod.template.annotations.get("traffic.sidecar.istio.io/excludeInboundPorts");
    let excluded = excluded.is_some_and(|ports| ports.split(',').any(|p| p.trim() == port.to_string()));
    (!rewritten && !excluded && !matches!(port, 15020 | 15021)).then_some(port)
}
