//! PROXY102.

use std::collections::BTreeMap;

use super::{MAX_PROXIES, evidence, restart};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text::clock;
use crate::model::object::ObjectRef;
use crate::model::proxy::sync::{ProxySync, SyncState};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy has not acknowledged what its control plane sent.
    ///
    /// ## What it detects
    /// In istiod's `syncz`, an update that was sent more than a minute ago and neither acknowledged nor refused: `STALE`.
    /// ## Why it matters
    /// The proxy works with older configuration: it sends requests to pods that are gone, and knows nothing of new routes
    /// or policies.
    /// ## Evidence
    /// The sort of configuration, and when it was sent.
    /// ## How to confirm
    /// `istioctl proxy-status` shows STALE for the proxy and goes on to.
    /// ## How to fix
    /// See whether the proxy has processor time and memory and its connection to port 15012 of istiod; restart the pods
    /// when it does not come back by itself. Many stale proxies at once point at an overloaded control plane.
    /// ## False positives
    /// An update of the last minute is on its way and is left out; so is an answer that does not say when it was sent.
    /// ## References
    /// <https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/>
    ConfigurationNotAcknowledged {
        code: "PROXY102", name: "configuration-not-acknowledged", family: Mesh, severity: Warning,
        needs: [Proxies], aliases: [],
    }
}

/// An update on its way takes seconds, also in large meshes.
const PATIENCE_SECONDS: i64 = 60;

/// The stale proxies of one workload.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: ObjectRef,
    stale: Vec<(&'a ProxySync, &'a SyncState)>,
}

impl Check for ConfigurationNotAcknowledged {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_workload: BTreeMap<ObjectRef, Vec<_>> = BTreeMap::new();
        for sync in snapshot.proxy_syncs.iter().filter(|sync| snapshot.in_scope(&sync.namespace)) {
            // A proxy that moved to another replica of the control plane is current there.
            let newer = |state: &SyncState| {
                snapshot.proxy_syncs.iter().any(|other| {
                    (&other.namespace, &other.pod) == (&sync.namespace, &sync.pod)
                        && other.control_plane != sync.control_plane
                        && other.states.iter().any(|s| s.kind == state.kind && s.synced())
                })
            };
            for state in sync.states.iter().filter(|state| stale(state, snapshot) && !newer(state)) {
                let owner = snapshot.owner_by_name(&sync.namespace, &sync.pod);
                by_workload.entry(owner).or_default().push((sync, state));
            }
        }
        by_workload.into_iter().map(|(workload, stale)| Fact { workload, stale }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let since = fact.stale.iter().filter_map(|(_, state)| state.sent_at).min();
        let mut kinds: Vec<&str> = fact.stale.iter().map(|(_, state)| state.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let kinds = kinds.join(", ");
        let sent = since.map(clock).unwrap_or_default();
        Finding::new(Self::META, fact.workload.clone(), &[])
            .title(format!("{}: its proxy has not taken the {kinds} sent at {sent}", fact.workload))
            .message(format!("The control plane sent {kinds} at {sent}, and the proxy has neither acknowledged nor refused them. It works with what it had before: endpoints, routes or policies that have changed since do not count there."))
            .mechanism("stale configuration: the proxy does not acknowledge xDS")
            .severity(Severity::Warning)
            .role(Role::Symptom, Confidence::Observed)
            .onset(since)
            .evidences(fact.stale.iter().take(MAX_PROXIES).map(|(sync, state)| {
                evidence(&sync.namespace, &sync.pod, "istiod's syncz", format!("{} sent and not acknowledged", state.kind.as_str())).at(state.sent_at)
            }))
            .effect(Effect::calls(&fact.workload))
            .effect(Effect::pods(&fact.workload))
            .remedy(Remedy::commands("See whether it catches up by itself", vec!["istioctl proxy-status".to_owned()], vec![]))
            .maybe_remedy(restart(&fact.workload, "Start the pods anew: their proxies ask for everything again".to_owned()))
            .prevention(Prevention::alert(
                "Alert when configuration takes long to reach proxies",
                "histogram_quantile(0.99, sum by (le) (rate(pilot_proxy_convergence_time_bucket[5m]))) > 30",
            ))
    }
}

fn stale(state: &SyncState, snapshot: &Snapshot) -> bool {
    let waited = state.sent_at.map(|at| snapshot.now.as_second() - at.as_second());
    state.error.is_empty()
        && state.sent != state.acked
        && waited.is_some_and(|seconds| seconds > PATIENCE_SECONDS)
}
