//! ISTIO129.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::support::annotate;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Workload, quantity};

crate::rule! {
    /// A sidecar proxy is killed for lack of memory.
    ///
    /// ## What it detects
    /// The container `istio-proxy` that ended with `OOMKilled`. As a native sidecar it does so with exit code 0.
    /// ## Why it matters
    /// While the proxy is away the pod neither takes nor sends requests, although the application in it is well.
    /// ## Evidence
    /// The container's last state, its restarts, its memory limit and the annotation that set it.
    /// ## How to confirm
    /// `kubectl top pods --containers` and the proxy's log: `Envoy may have been out of memory killed`.
    /// ## How to fix
    /// Raise `sidecar.istio.io/proxyMemoryLimit` in the template's annotations, or give the proxy less configuration with a
    /// Sidecar that names only the hosts it needs.
    /// ## False positives
    /// None known.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/annotations/#SidecarProxyMemoryLimit>
    ProxyOutOfMemory {
        code: "ISTIO129", name: "proxy-out-of-memory", family: Mesh, severity: Error,
        needs: [Status, Istio], aliases: [],
    }
}

const ANNOTATION: &str = "sidecar.istio.io/proxyMemoryLimit";
/// The least that is proposed: a proxy of a small mesh needs about 50 MiB, and grows with the mesh.
const LEAST_MIB: f64 = 256.0;

/// A workload whose proxies are killed.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    pods: usize,
    restarts: i64,
    /// The first and the last time that is known of.
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    exit_code: i64,
    /// The limit in bytes.
    limit: Option<f64>,
    services: Vec<ServiceName>,
}

impl Check for ProxyOutOfMemory {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: BTreeMap<ObjectRef, Fact<'a>> = BTreeMap::new();
        for pod in snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace())) {
            let Some(status) = pod.status("istio-proxy") else { continue };
            let ends: Vec<_> = [status.latest_end(), status.last.as_ref()]
                .into_iter()
                .flatten()
                .filter(|end| end.out_of_memory())
                .collect();
            let Some(end) = ends.first() else { continue };
            let owner = snapshot.owner(pod);
            let Some(workload) = snapshot.workload(&owner) else { continue };
            let fact = out.entry(owner).or_insert_with(|| Fact {
                workload,
                pods: 0,
                restarts: 0,
                first: None,
                last: None,
                exit_code: end.exit_code,
                limit: pod.template.container("istio-proxy").and_then(|c| c.resource("limits", "memory")),
                services: snapshot.services_before_pod(pod).map(Service::service_name).collect(),
            });
            fact.pods += 1;
            fact.restarts += status.restarts;
            // The first kill is no later than the start of the instance that was killed last but one.
            let started =
                ends.iter().filter_map(|end| end.started.filter(|_| status.restarts > 1).or(end.finished));
            fact.first = fact.first.into_iter().chain(started).min();
            fact.last = fact.last.into_iter().chain(ends.iter().filter_map(|end| end.finished)).max();
        }
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let subject = own.field(fact.workload.template_path("metadata.annotations"));
        let set = fact.workload.template.annotations.get(ANNOTATION);
        let limit =
            fact.limit.map_or("its memory limit".to_owned(), |bytes| format!("its limit of {}", mib(bytes)));
        let by = match set {
            Some(value) => {
                format!("The annotation {ANNOTATION} of the template sets {}.", text::plain(value, 20))
            }
            None => "The limit is the injector's default.".to_owned(),
        };
        let away = |at: &Timestamp| snapshot.now.as_second() - at.as_second() > 3600;
        let old = fact.last.as_ref().is_some_and(away);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("The sidecars of {own} are killed for lack of memory at {limit}"))
            .message(format!(
                "istio-proxy in {} of its pods ended with OOMKilled (exit code {}), {} restarts in all. {by} While the proxy is away the pod takes and sends no requests.",
                fact.pods, fact.exit_code, fact.restarts
            ))
            .mechanism("OOM: sidecar istio-proxy out of memory, memory limit too low")
            .severity(if old { Severity::Warning } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .service(fact.services.first().cloned())
            .onset(fact.first)
            .evidence(Evidence::object(own, format!("istio-proxy: OOMKilled, exit code {}, {} restarts", fact.exit_code, fact.restarts)).at(fact.last))
            .evidence(Evidence::object(&subject, by))
            .effect(Effect::pods(own))
            .effect(Effect::calls(own))
            .effects(fact.services.iter().map(|service| Effect::requests(service, &["UH", "UF", "UC", "refused", "reset"])))
            .maybe_remedy(raise(fact))
            .prevention(Prevention::alert(
                "Alert when a proxy comes near its memory limit",
                format!(
                    "max by (pod) (container_memory_working_set_bytes{{namespace=\"{}\",container=\"istio-proxy\"}} / on (namespace, pod, container) kube_pod_container_resource_limits{{resource=\"memory\"}}) > 0.9",
                    text::plain(&own.namespace, 63)
                ),
            ))
            .prevention(Prevention::of("Setting", "A Sidecar with the hosts that the workload calls: the proxy's memory grows with what it is told"))
    }
}

/// A number of bytes as `30 MiB`.
fn mib(bytes: f64) -> String {
    format!("{} MiB", (bytes / 1_048_576.0 * 10.0).round() / 10.0)
}

/// Twice the limit, and never less than [`LEAST_MIB`]. A request above the limit would be refused, so it stays below.
fn raise(fact: &Fact<'_>) -> Option<Remedy> {
    let annotations = &fact.workload.template.annotations;
    let now = annotations.get(ANNOTATION).and_then(quantity).or(fact.limit).unwrap_or(0.0);
    let raised = (now * 2.0 / 1_048_576.0).max(LEAST_MIB).ceil();
    let value = format!("{raised}Mi");
    let summary =
        format!("Raise {ANNOTATION} of {} to {value}; its pods are replaced", fact.workload.reference());
    annotate(fact.workload, ANNOTATION, &value, summary)
}
