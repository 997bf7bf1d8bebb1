//! ISTIO155.

use std::collections::BTreeMap;

use super::support::{annotate, services_of};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::cpu_throttled::{by_container, phase};
use crate::analyze::traffic::text;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time;
use crate::model::workload::{ContainerRole, Workload, is_proxy_container, quantity};

crate::rule! {
    /// A mesh's proxy is held back by its CPU limit for much of the time.
    ///
    /// ## What it detects
    /// A proxy's container (`istio-proxy`, `linkerd-proxy`, `consul-dataplane`) of which more than a quarter of the scheduler's
    /// periods were throttled for at least a minute.
    /// ## Why it matters
    /// Every request into and out of the pod passes through the proxy. A throttled one adds tens or hundreds of milliseconds to
    /// each, on both sides of the pod, while the application looks well.
    /// ## Evidence
    /// `container_cpu_cfs_throttled_periods_total` against `container_cpu_cfs_periods_total` of the proxy's container, and its limit.
    /// ## How to confirm
    /// `rate(container_cpu_cfs_throttled_periods_total{container="istio-proxy"}[5m]) / rate(container_cpu_cfs_periods_total{container="istio-proxy"}[5m])`.
    /// ## How to fix
    /// Raise the proxy's CPU limit by the annotation of the template, give it fewer hosts by a Sidecar, or spread the load over
    /// more pods.
    /// ## False positives
    /// The first minute of a proxy, when it reads its whole configuration, is too short to be reported.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/annotations/#SidecarProxyCPULimit>
    ProxyThrottled {
        code: "ISTIO155", name: "proxy-cpu-throttled", family: Mesh, severity: Warning,
        needs: [Metrics], aliases: [],
    }
}

/// From this share of throttled periods on nearly every request waits.
const SEVERE: f64 = 0.5;
/// A limit that is raised gets this many times what it was, less what it stood still.
const ROOM: f64 = 2.0;
/// The least that is proposed, in cores.
const LEAST: f64 = 0.5;

/// A workload whose proxies are throttled.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    container: String,
    /// Whether the proxy is the workload's own container: a gateway.
    gateway: bool,
    limit: Option<f64>,
    pods: usize,
    /// Throttled periods, all periods and the beginning in Unix seconds, of the pod that is worst.
    worst: (f64, f64, f64),
    pod: String,
    services: Vec<ServiceName>,
}

impl Check for ProxyThrottled {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let throttled = by_container(snapshot, "container_cpu_cfs_throttled_periods_total");
        let periods = by_container(snapshot, "container_cpu_cfs_periods_total");
        let mut out: BTreeMap<(ObjectRef, String), Fact<'a>> = BTreeMap::new();
        for pod in
            snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace()) && !pod.ended())
        {
            let running = pod.template.containers.iter().filter(|c| c.role != ContainerRole::Init);
            for container in running.filter(|c| is_proxy_container(&c.name)) {
                let key = (pod.object.namespace(), pod.object.name(), container.name.as_str());
                let (Some(held), Some(all)) = (throttled.get(&key), periods.get(&key)) else { continue };
                let found = held.iter().find_map(|t| {
                    all.iter().filter(|p| p.label("id") == t.label("id")).find_map(|p| phase(t, p, 1.0))
                });
                let owner = snapshot.owner(pod);
                let (Some((since, held, all)), Some(workload)) = (found, snapshot.workload(&owner)) else {
                    continue;
                };
                let fact = out.entry((owner, container.name.clone())).or_insert_with(|| Fact {
                    workload,
                    container: container.name.clone(),
                    gateway: workload.template.container(&container.name).is_some(),
                    limit: container.resource("limits", "cpu"),
                    pods: 0,
                    worst: (0.0, 1.0, since),
                    pod: String::new(),
                    services: services_of(snapshot, workload.reference()),
                });
                fact.pods += 1;
                if held / all > fact.worst.0 / fact.worst.1 {
                    fact.worst = (held, all, since);
                    pod.object.name().clone_into(&mut fact.pod);
                }
            }
        }
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let (held, all, since) = fact.worst;
        let percent = held / all * 100.0;
        let onset = time::from_unix(since);
        let limit = fact
            .limit
            .map_or("its CPU limit".to_owned(), |cores| format!("its CPU limit of {}", written(cores)));
        let container = &fact.container;
        let subject = own.field(field(fact));
        Finding::new(Self::META, subject.clone(), &[container])
            .title(format!("The proxy of {own} is throttled in {percent:.0} % of its CPU periods at {limit}"))
            .message(format!(
                "{container} of {} stood still in {held:.0} of {all:.0} scheduler periods ({percent:.0} %) because it had used up {limit}; {} affected. Every request into and out of these pods waits with it, however fast the application is.",
                fact.pod,
                text::several(fact.pods as u64, "pod")
            ))
            .mechanism("proxy CPU throttling: the sidecar's CPU limit is too low (slow requests)")
            .severity(if held / all >= SEVERE { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .service(fact.services.first().cloned())
            .onset(onset)
            .evidence(
                Evidence::new(
                    "Metric",
                    format!("container_cpu_cfs_throttled_periods_total of Pod {}/{}, container {container}", own.namespace, fact.pod),
                    format!("{held:.0} of {all:.0} periods throttled ({percent:.1} %)"),
                )
                .at(onset),
            )
            .evidences(fact.limit.map(|cores| Evidence::object(&subject, format!("limit {}", written(cores)))))
            .effect(Effect::calls(own))
            .effects(fact.services.iter().map(|service| Effect::requests(service, &["slow", "UT", "timeout", "DC", "504"])))
            .maybe_remedy(raise(fact))
            .prevention(Prevention::alert(
                "Alert when a proxy is throttled",
                format!(
                    "sum by (pod) (rate(container_cpu_cfs_throttled_periods_total{{namespace=\"{0}\",container=\"{container}\"}}[5m])) / sum by (pod) (rate(container_cpu_cfs_periods_total{{namespace=\"{0}\",container=\"{container}\"}}[5m])) > 0.25",
                    text::plain(&own.namespace, 63)
                ),
            ))
            .prevention(Prevention::of("Setting", "Give proxies a CPU request that fits their traffic (about 0.35 cores for 1,000 requests a second) and a limit well above it"))
    }
}

/// The annotation by which a mesh's injector takes the limit.
fn annotation(container: &str) -> Option<&'static str> {
    match container {
        "istio-proxy" => Some("sidecar.istio.io/proxyCPULimit"),
        "linkerd-proxy" => Some("config.linkerd.io/proxy-cpu-limit"),
        "consul-dataplane" | "envoy-sidecar" => Some("consul.hashicorp.com/sidecar-proxy-cpu-limit"),
        _ => None,
    }
}

/// Where the limit is set.
fn field(fact: &Fact<'_>) -> String {
    match fact.workload.template.container(&fact.container).filter(|_| fact.gateway) {
        Some(container) => {
            fact.workload.template_path(&format!("spec.{}.resources.limits.cpu", container.path()))
        }
        None => fact.workload.template_path("metadata.annotations"),
    }
}

/// Cores as a quantity: `500m`, `2`.
fn written(cores: f64) -> String {
    if cores.fract() == 0.0 { format!("{cores:.0}") } else { format!("{:.0}m", (cores * 1000.0).ceil()) }
}

/// A limit with room for what it could not do.
fn raise(fact: &Fact<'_>) -> Option<Remedy> {
    let (held, all, _) = fact.worst;
    let set = annotation(&fact.container).and_then(|key| fact.workload.template.annotations.get(key));
    let now = set.and_then(quantity).or(fact.limit)?;
    let next = (now * ROOM / (1.0 - held / all).max(0.2)).max(LEAST);
    let next = written((next * 10.0).ceil() / 10.0);
    let summary = format!(
        "Raise the proxy's CPU limit of {} from {} to {next}; its pods are replaced",
        fact.workload.reference(),
        written(now)
    );
    if fact.gateway {
        let operations =
            crate::model::json::json!([{"op": "replace", "path": pointer(&field(fact)), "value": next}]);
        return Some(Remedy::patch(&fact.workload.object, &operations, summary)?.risk(Risk::Medium));
    }
    annotate(fact.workload, annotation(&fact.container)?, &next, summary)
}
