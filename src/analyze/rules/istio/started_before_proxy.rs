//! ISTIO140.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::support::{annotate, services_of};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, ContainerRole, ContainerState, Pod, Termination};

crate::rule! {
    /// The application started before its proxy and gave up.
    ///
    /// ## What it detects
    /// A container beside an ordinary (not native) sidecar that ended within seconds of its start, with failed connections in
    /// its log, no later than the proxy was ready, and that has run without trouble since.
    /// ## Why it matters
    /// Every new pod fails once or twice before it serves: rollouts and scaling take longer, jobs fail.
    /// ## Evidence
    /// When the container ended, what it said last, and when its proxy was ready.
    /// ## How to confirm
    /// Times of `Envoy proxy is ready` and of the application's errors in one pod.
    /// ## How to fix
    /// `holdApplicationUntilProxyStarts`, or native sidecars, which start before the application.
    /// ## False positives
    /// An application whose dependency came up late; then the errors go on after the proxy is ready.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig>
    StartedBeforeProxy {
        code: "ISTIO140", name: "started-before-proxy", family: Mesh, severity: Warning,
        needs: [Status, Logs, Istio], aliases: [],
    }
}

const ANNOTATION: &str = "proxy.istio.io/config";
const HOLD: &str = "holdApplicationUntilProxyStarts";
/// An application that gives up for want of the network does so within this many seconds.
const AT_START_S: f64 = 30.0;
/// What fails while the proxy redirects and does not serve yet.
const NO_NETWORK: &[&str] = &[
    "onnection refused",
    "ECONNREFUSED",
    "no such host",
    "EAI_AGAIN",
    "emporary failure in name resolution",
    "onnection reset",
];

/// A container that started too early.
#[derive(Debug)]
pub struct Fact<'a> {
    owner: ObjectRef,
    container: &'a Container,
    pods: Vec<&'a Pod>,
    end: &'a Termination,
    ready: Timestamp,
    said: String,
}

impl Check for StartedBeforeProxy {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: BTreeMap<(ObjectRef, &'a str), Fact<'a>> = BTreeMap::new();
        for pod in snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace())) {
            let beside = pod.template.container("istio-proxy").is_some_and(|c| c.role == ContainerRole::Main);
            if !beside || held(snapshot, pod) {
                continue;
            }
            let Some(ready) = proxy_ready(snapshot, pod) else { continue };
            for container in pod.template.application_containers() {
                let Some(status) = pod.status(&container.name) else { continue };
                let Some(end) = status.last.as_ref().filter(|_| status.restarts <= 2) else { continue };
                let ContainerState::Running { since: Some(since) } = &status.state else { continue };
                let short = end.lifetime().is_some_and(|seconds| seconds <= AT_START_S);
                let before = end.finished.is_some_and(|finished| finished <= ready && ready <= *since);
                if !status.ready || end.exit_code == 0 || end.out_of_memory() || !short || !before {
                    continue;
                }
                let Some(said) = no_network(snapshot, pod, container) else { continue };
                out.entry((snapshot.owner(pod), container.name.as_str()))
                    .or_insert_with(|| Fact {
                        owner: snapshot.owner(pod),
                        container,
                        pods: vec![],
                        end,
                        ready,
                        said,
                    })
                    .pods
                    .push(pod);
            }
        }
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let workload = snapshot.workload(&fact.owner);
        let subject = workload
            .map_or(fact.owner.clone(), |w| w.reference().field(w.template_path("metadata.annotations")));
        let ended = fact.end.finished.map(text::clock).unwrap_or_default();
        let annotated = workload.is_some_and(|w| w.template.annotations.contains_key(ANNOTATION));
        let set = workload.filter(|_| !annotated).and_then(|w| {
            annotate(
                w,
                ANNOTATION,
                &format!("{{\"{HOLD}\": true}}"),
                format!("Set {HOLD}: containers then start when the proxy is ready"),
            )
        });
        Finding::new(Self::META, subject.clone(), &[&fact.container.name])
            .title(format!("{} starts before its proxy: {} of its pods failed once for want of a network", fact.owner, fact.pods.len()))
            .message(format!(
                "Container {} ended at {ended} with exit code {} because its connections failed; the proxy of its pod was ready only at {}. Since then it runs.",
                text::plain(&fact.container.name, 40),
                fact.end.exit_code,
                text::clock(fact.ready)
            ))
            .mechanism("startup race: application starts before the sidecar is ready")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .service(services_of(snapshot, &fact.owner).into_iter().next())
            .onset(fact.end.started)
            .evidence(Evidence::object(&subject, format!("{HOLD} is not set")))
            .evidences(fact.pods.iter().take(3).map(|pod| {
                Evidence::object(&pod.object.reference, format!("container {} ended at {ended}, proxy ready at {}", text::plain(&fact.container.name, 40), text::clock(fact.ready)))
                    .at(fact.end.finished)
                    .excerpt(&fact.said)
            }))
            .effect(Effect::pods(&fact.owner))
            .remedies(set)
            .remedy(Remedy::manual(format!("Set {HOLD}: true in the annotation {ANNOTATION} of the pods, or in meshConfig.defaultConfig for all; native sidecars need neither")))
            .prevention(Prevention::alert(
                "Alert on containers that restart in their first minute",
                "sum by (namespace, pod) (increase(kube_pod_container_status_restarts_total[5m])) > 0 and on (namespace, pod) (time() - kube_pod_start_time) < 300",
            ))
    }
}

/// Whether the pod or the mesh holds applications back already.
fn held(snapshot: &Snapshot, pod: &Pod) -> bool {
    use crate::model::fields::Fields;
    let own = pod.template.annotations.get(ANNOTATION).is_some_and(|config| config.contains(HOLD));
    own || snapshot.istio.mesh_config.flag(&format!("defaultConfig.{HOLD}"))
}

/// When the proxy said that it is ready, for the first time in its current instance.
fn proxy_ready(snapshot: &Snapshot, pod: &Pod) -> Option<Timestamp> {
    let log = snapshot.log(pod.object.namespace(), pod.object.name(), "istio-proxy", false)?;
    log.lines.iter().find(|line| line.text.contains("Envoy proxy is ready"))?.time
}

/// The last line of the ended instance that says that the network was not there.
fn no_network(snapshot: &Snapshot, pod: &Pod, container: &Container) -> Option<String> {
    let log = snapshot.log(pod.object.namespace(), pod.object.name(), &container.name, true)?;
    let says = |text: &str| NO_NETWORK.iter().any(|word| text.contains(word));
    log.lines.iter().rev().find(|line| says(&line.text)).map(|line| line.text.clone())
}
