//! ISTIO128.

use crate::model::json::json;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::{blame, text};
use crate::model::fields::Fields;
use crate::model::log::LogLine;
use crate::model::mesh::istio::Policy;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// Proxies refuse the configuration that an EnvoyFilter changed.
    ///
    /// ## What it detects
    /// A proxy that answers the control plane with `ACK ERROR`, or says that its configuration was rejected, while an
    /// EnvoyFilter covers its pod.
    /// ## Why it matters
    /// The proxy keeps its last good configuration; one that starts has none, never becomes ready, and its pod gets no
    /// traffic: callers see `503 UH`.
    /// ## Evidence
    /// istiod's log names the proxy, the listener and the error; the proxy's log counts rejected updates.
    /// ## How to confirm
    /// `kubectl -n istio-system logs deployment/istiod | grep 'ACK ERROR'`; `istioctl proxy-status` shows the proxy as not synced.
    /// ## How to fix
    /// Correct the patch, or delete the EnvoyFilter.
    /// ## False positives
    /// An error that is over: the log still holds it.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/envoy-filter/>
    EnvoyFilterRejected {
        code: "ISTIO128", name: "envoy-filter-rejected", family: Mesh, severity: Error,
        needs: [Istio, Logs], aliases: [],
    }
}

/// What control plane and proxies said of one workload's configuration.
#[derive(Debug, Default)]
struct Said {
    count: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// The newest words of the control plane, or else of a proxy.
    text: String,
    by_control_plane: bool,
    pods: BTreeSet<String>,
}

/// An EnvoyFilter whose result proxies refuse.
#[derive(Debug)]
pub struct Fact<'a> {
    filter: &'a Policy,
    /// The index of the patch that the error points at.
    patch: usize,
    /// Others that cover the same pods.
    others: Vec<&'a Policy>,
    workload: ObjectRef,
    services: Vec<ServiceName>,
    ready: bool,
    said: Said,
}

impl Check for EnvoyFilterRejected {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if snapshot.istio.envoy_filters.is_empty() {
            return vec![];
        }
        let root = &snapshot.istio.root_namespace;
        rejections(snapshot)
            .into_iter()
            .filter_map(|(workload, said)| {
                let pods: Vec<&Pod> = snapshot.pods_of(&workload).collect();
                let pod = pods.first()?;
                let covers =
                    |policy: &&Policy| policy.applies_to(pod.object.namespace(), &pod.template.labels, root);
                let covering: Vec<&Policy> = snapshot.istio.envoy_filters.iter().filter(covers).collect();
                let (filter, patch) = named(&covering, &said.text).or_else(|| {
                    let objects: Vec<&ObjectRef> = covering.iter().map(|f| &f.object.reference).collect();
                    let at = blame::changed_last(snapshot, &objects, said.first).unwrap_or(0);
                    covering.get(at).map(|filter| (*filter, 0))
                })?;
                Some(Fact {
                    filter,
                    patch,
                    others: covering
                        .into_iter()
                        .filter(|other| other.object.reference != filter.object.reference)
                        .collect(),
                    services: snapshot.services_before_pod(pod).map(Service::service_name).collect(),
                    ready: pods.iter().all(|pod| pod.ready()),
                    workload,
                    said,
                })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.filter.object;
        let subject = object.reference.field(format!("spec.configPatches[{}].patch.value", fact.patch));
        let state = if fact.ready {
            "The proxies go on with their last good configuration."
        } else {
            "Proxies without an earlier configuration never become ready, so callers find no endpoint (503 UH)."
        };
        let who = if fact.said.by_control_plane { "istiod" } else { "istio-proxy" };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.workload.name])
            .title(format!("{} is rejected by the proxies of {}", object.reference, fact.workload))
            .message(format!(
                "{who} logged {} that proxies of {} refuse their configuration (NACK), and {} changes it. {state}",
                text::times(fact.said.count),
                fact.workload,
                object.reference
            ))
            .mechanism("EnvoyFilter rejected: NACK of the proxy's configuration")
            .role(Role::Cause, if fact.said.by_control_plane { Confidence::Observed } else { Confidence::Configured })
            .service(fact.services.first().cloned())
            .onset(fact.said.first)
            .evidence(
                Evidence::new(
                    "Log",
                    format!("{who}, about {}", fact.said.pods.iter().take(3).cloned().collect::<Vec<_>>().join(", ")),
                    format!("{} rejections", text::number(fact.said.count)),
                )
                .at(fact.said.last)
                .excerpt(&fact.said.text),
            )
            .evidence(Evidence::object(&subject, "this patch changes the configuration that was rejected"))
            .effect(Effect::pods(&fact.workload))
            .effects(fact.services.iter().map(|service| Effect::requests(service, &["UH", "UF", "UC", "refused"])));
        for other in fact.others.iter().take(3) {
            finding = finding.related(other.object.reference.clone());
        }
        let patches = object.body.list("spec.configPatches").len();
        if patches > 1 {
            finding = finding.maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "remove", "path": format!("/spec/configPatches/{}", fact.patch)}]),
                format!(
                    "Take the rejected patch out of EnvoyFilter {}/{}",
                    object.namespace(),
                    object.name()
                ),
            ));
        }
        finding
            .remedy(
                Remedy::delete(
                    object,
                    format!(
                        "Delete EnvoyFilter {}/{} until its patch is corrected",
                        object.namespace(),
                        object.name()
                    ),
                )
                .risk(Risk::Medium),
            )
            .prevention(Prevention::alert(
                "Alert on configuration that proxies reject",
                "sum(increase(pilot_total_xds_rejects[5m])) > 0",
            ))
            .prevention(Prevention::of(
                "Test",
                "Try an EnvoyFilter on one pod first, by its workloadSelector",
            ))
    }
}

/// What was rejected, by workload.
fn rejections(snapshot: &Snapshot) -> BTreeMap<ObjectRef, Said> {
    let mut out: BTreeMap<ObjectRef, Said> = BTreeMap::new();
    let mut add = |workload: ObjectRef, pod: &str, line: &LogLine, by_control_plane: bool| {
        let said = out.entry(workload).or_default();
        said.count += 1;
        said.first = said.first.into_iter().chain(line.time).min();
        said.last = said.last.into_iter().chain(line.time).max();
        said.pods.insert(pod.to_owned());
        if by_control_plane || !said.by_control_plane {
            said.text.clone_from(&line.text);
            said.by_control_plane |= by_control_plane;
        }
    };
    for log in &snapshot.logs {
        match log.container.as_str() {
            "discovery" => {
                for line in log.lines.iter().filter(|line| line.text.contains("ACK ERROR")) {
                    if let Some(pod) = proxy_named(snapshot, &line.text) {
                        add(snapshot.owner(pod), pod.object.name(), line, true);
                    }
                }
            }
            "istio-proxy" => {
                let rejected =
                    |line: &&LogLine| line.text.contains("was rejected") && line.text.contains("lds updates");
                for line in log.lines.iter().filter(rejected) {
                    add(snapshot.owner_by_name(&log.namespace, &log.pod), &log.pod, line, false);
                }
            }
            _ => {}
        }
    }
    out
}

/// `ADS:LDS: ACK ERROR checkout-5d8f-x.shop-12 Internal:…`: the pod whose proxy refused.
fn proxy_named<'a>(snapshot: &'a Snapshot, line: &str) -> Option<&'a Pod> {
    let (_, rest) = line.split_once("ACK ERROR ")?;
    let id = rest.split_whitespace().next()?;
    let (pod, namespace) = id.split_once('.')?;
    let namespace = namespace.rsplit_once('-').map_or(namespace, |(head, _)| head);
    snapshot.pod(namespace, pod)
}

/// The filter and the patch of it that the error names: the filter's type, its name, or Lua for a script.
fn named<'a>(covering: &[&'a Policy], error: &str) -> Option<(&'a Policy, usize)> {
    if let [only] = covering
        && only.object.body.list("spec.configPatches").len() == 1
    {
        return Some((only, 0));
    }
    for filter in covering {
        for (index, patch) in filter.object.body.list("spec.configPatches").iter().enumerate() {
            let value = patch.at("patch.value").cloned().unwrap_or_default();
            let name = value.text("name").unwrap_or_default();
            let kind = value
                .text("typed_config.@type")
                .and_then(|t| t.rsplit(['.', '/']).next())
                .unwrap_or_default();
            let script = error.contains("script load error") && kind.starts_with("Lua");
            if script || (name.len() > 5 && error.contains(name)) || (kind.len() > 5 && error.contains(kind))
            {
                return Some((filter, index));
            }
        }
    }
    None
}
