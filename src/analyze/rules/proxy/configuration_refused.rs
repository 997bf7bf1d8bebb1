//! PROXY101.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::{MAX_PROXIES, ask, evidence};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text::plain;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy refuses what its control plane sends.
    ///
    /// ## What it detects
    /// A piece of a proxy's configuration whose last update the proxy rejected: an `error_state` in its configuration dump,
    /// or a `lastError` of it in istiod's `syncz`.
    /// ## Why it matters
    /// The proxy goes on with the configuration that it had. Whatever was changed since does not count there, and a proxy
    /// that starts afresh has nothing at all: its pod does not become ready.
    /// ## Evidence
    /// Envoy's reason, the version that it refused and since when; EnvoyFilters and Wasm plugins that apply to the workload,
    /// which are what usually makes configuration that a proxy cannot take.
    /// ## How to confirm
    /// `istioctl proxy-status` says ERROR; istiod logs `ACK ERROR` with the same reason.
    /// ## How to fix
    /// Correct or remove the object that the reason names; for a filter that the proxy's version lacks, bring proxy and
    /// control plane to one version.
    /// ## False positives
    /// An update that was refused for a moment and replaced by a good one leaves no trace here.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/admin/v3/config_dump_shared.proto#admin-v3-updatefailurestate>
    ConfigurationRefused {
        code: "PROXY101", name: "configuration-refused", family: Mesh, severity: Error,
        needs: [Proxies], aliases: [],
    }
}

/// One refusal by one proxy.
#[derive(Debug)]
struct Refused {
    namespace: String,
    pod: String,
    what: String,
    file: &'static str,
    details: String,
    at: Option<Timestamp>,
}

/// The refusals of one workload's proxies.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    refused: Vec<Refused>,
    pods: usize,
}

impl Check for ConfigurationRefused {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut by_workload: BTreeMap<ObjectRef, Vec<Refused>> = BTreeMap::new();
        for refused in in_dumps(snapshot).into_iter().chain(in_syncs(snapshot)) {
            if snapshot.in_scope(&refused.namespace) {
                by_workload
                    .entry(snapshot.owner_by_name(&refused.namespace, &refused.pod))
                    .or_default()
                    .push(refused);
            }
        }
        let fact = |(workload, refused): (ObjectRef, Vec<Refused>)| {
            let pods: std::collections::BTreeSet<_> = refused.iter().map(|r| &r.pod).collect();
            Fact { workload, pods: pods.len(), refused }
        };
        by_workload.into_iter().map(fact).collect()
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let first = fact.refused.first();
        let what = first.map(|r| plain(&r.what, 60)).unwrap_or_default();
        let (namespace, pod) = first.map(|r| (r.namespace.as_str(), r.pod.as_str())).unwrap_or_default();
        let onset = fact.refused.iter().filter_map(|r| r.at).min();
        let suspects = suspects(snapshot, fact);
        let made_by = match suspects.len() {
            0 => "No EnvoyFilter and no WasmPlugin applies to it: the proxy's version and the control plane's differ, or another object holds a value that Envoy does not take.".to_owned(),
            n => format!("{n} {} to it, and such objects change what is sent.", if n == 1 { "EnvoyFilter or WasmPlugin applies" } else { "EnvoyFilters or WasmPlugins apply" }),
        };
        let mut finding = Finding::new(Self::META, fact.workload.clone(), &[])
            .title(format!("{}: the proxies of {} refuse what the control plane sends ({what})", fact.workload, super::plural(fact.pods, "pod")))
            .message(format!("Envoy rejected the last update of {what} and keeps what it had before; a proxy that starts afresh gets no configuration and its pod does not become ready. {made_by}"))
            .mechanism("configuration rejected by the proxy: update rejected")
            .severity(Severity::Error)
            .role(Role::Symptom, Confidence::Observed)
            .onset(onset)
            .evidences(fact.refused.iter().take(MAX_PROXIES).map(|r| {
                evidence(&r.namespace, &r.pod, r.file, format!("refused {}", plain(&r.what, 80))).at(r.at).excerpt(&r.details)
            }))
            .effect(Effect::pods(&fact.workload))
            .remedy(Remedy::commands(
                "See what was refused, and by which objects it is made",
                vec![ask(namespace, pod, "config_dump"), "kubectl get envoyfilters,wasmplugins -A".to_owned()],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when any proxy refuses configuration",
                "sum by (type) (increase(pilot_total_xds_rejects[5m])) > 0",
            ));
        for suspect in suspects {
            finding = finding
                .related(suspect.clone())
                .evidence(Evidence::object(&suspect, "applies to the workload"));
        }
        finding
    }
}

fn in_dumps(snapshot: &Snapshot) -> Vec<Refused> {
    let mut out = vec![];
    for proxy in &snapshot.proxies {
        for (kind, resource) in proxy.config.iter().flat_map(|config| config.resources()) {
            if let Some(refusal) = &resource.refused {
                out.push(Refused {
                    namespace: proxy.namespace.clone(),
                    pod: proxy.pod.clone(),
                    what: format!("{kind} {}", resource.name),
                    file: "config_dump",
                    details: refusal.details.clone(),
                    at: refusal.at,
                });
            }
        }
    }
    out
}

fn in_syncs(snapshot: &Snapshot) -> Vec<Refused> {
    let mut out = vec![];
    for sync in &snapshot.proxy_syncs {
        for state in sync.states.iter().filter(|state| !state.error.is_empty()) {
            out.push(Refused {
                namespace: sync.namespace.clone(),
                pod: sync.pod.clone(),
                what: format!("the {}", state.kind.as_str()),
                file: "istiod's syncz",
                details: state.error.clone(),
                at: state.sent_at,
            });
        }
    }
    out
}

/// What puts configuration of its own making into these proxies.
fn suspects(snapshot: &Snapshot, fact: &Fact) -> Vec<ObjectRef> {
    let pod = fact.refused.iter().find_map(|r| snapshot.pod(&r.namespace, &r.pod));
    let Some(pod) = pod else { return vec![] };
    let root = &snapshot.istio.root_namespace;
    let applies = |policy: &&crate::model::mesh::istio::Policy| {
        policy.applies_to(pod.object.namespace(), &pod.object.labels, root)
    };
    let filters =
        snapshot.istio.envoy_filters.iter().filter(applies).map(|policy| policy.object.reference.clone());
    let plugins = snapshot.objects_of("WasmPlugin").cloned().map(crate::model::mesh::istio::Policy::read);
    let plugins = plugins.filter(|policy| applies(&policy)).map(|policy| policy.object.reference.clone());
    filters.chain(plugins).take(MAX_PROXIES).collect()
}
