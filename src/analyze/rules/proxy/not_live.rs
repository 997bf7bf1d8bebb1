//! PROXY111.

use std::collections::BTreeMap;

use super::{MAX_PROXIES, ask, evidence, restart};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::object::ObjectRef;
use crate::model::proxy::Proxy;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy is not in service: it drains, or still waits for its first configuration.
    ///
    /// ## What it detects
    /// A `/server_info` whose state is `DRAINING` while the pod is not being deleted, or `PRE_INITIALIZING` or
    /// `INITIALIZING` more than half a minute after its start.
    /// ## Why it matters
    /// A draining proxy closes connections and fails its readiness probe; one that waits for configuration has no listeners
    /// at all. Either way its pod gets no requests and cannot make any.
    /// ## Evidence
    /// The state and how long the proxy has been up.
    /// ## How to confirm
    /// `pilot-agent request GET server_info` in the proxy's container.
    /// ## How to fix
    /// Draining: somebody or something called `/drain_listeners` or `/healthcheck/fail`, or a Job's script stopped the proxy
    /// early; start the pod anew. Waiting: see whether it reaches istiod at port 15012, and whether its configuration was
    /// refused.
    /// ## False positives
    /// A pod that is being deleted drains on purpose and is left out.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/admin/v3/server_info.proto>
    NotLive {
        code: "PROXY111", name: "not-live", family: Mesh, severity: Error,
        needs: [Proxies], aliases: [],
    }
}

/// The first configuration comes within seconds.
const PATIENCE_SECONDS: f64 = 30.0;

/// The proxies of one workload that are in the same state.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: ObjectRef,
    state: &'a str,
    proxies: Vec<&'a Proxy>,
}

impl Check for NotLive {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<(ObjectRef, &str), Vec<&Proxy>> = BTreeMap::new();
        for proxy in snapshot.proxies.iter().filter(|proxy| snapshot.in_scope(&proxy.namespace)) {
            let Some(server) = &proxy.server else { continue };
            let wrong = match server.state.as_str() {
                "DRAINING" => true,
                "PRE_INITIALIZING" | "INITIALIZING" => server.uptime.is_some_and(|up| up > PATIENCE_SECONDS),
                _ => false,
            };
            let leaving =
                snapshot.pod(&proxy.namespace, &proxy.pod).is_none_or(|pod| pod.object.deleted.is_some());
            if wrong && !leaving {
                let owner = snapshot.owner_by_name(&proxy.namespace, &proxy.pod);
                found.entry((owner, server.state.as_str())).or_default().push(proxy);
            }
        }
        found.into_iter().map(|((workload, state), proxies)| Fact { workload, state, proxies }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let draining = fact.state == "DRAINING";
        let (title, message) = if draining {
            (
                "its proxy drains although the pod stays",
                "It closes connections and fails its readiness probe: the pod gets no more requests. Nobody is deleting the pod, so somebody or something told the proxy to drain.",
            )
        } else {
            (
                "its proxy still waits for its first configuration",
                "It has no listeners: the pod gets no requests and cannot make any. The control plane does not answer it, or it refused what it was sent.",
            )
        };
        let look = fact.proxies.first().map(|proxy| ask(&proxy.namespace, &proxy.pod, "server_info"));
        Finding::new(Self::META, fact.workload.clone(), &[fact.state])
            .title(format!("{}: {title}", fact.workload))
            .message(format!("The proxy of {} says {}. {message}", fact.workload, fact.state))
            .mechanism(if draining { "proxy draining" } else { "proxy without configuration" })
            .severity(Severity::Error)
            .role(Role::Symptom, Confidence::Observed)
            .evidences(fact.proxies.iter().take(MAX_PROXIES).map(|proxy| {
                let uptime = proxy.server.as_ref().and_then(|s| s.uptime).unwrap_or_default();
                evidence(
                    &proxy.namespace,
                    &proxy.pod,
                    "server_info",
                    format!("{} after {uptime:.0} s", fact.state),
                )
            }))
            .effect(Effect::pods(&fact.workload))
            .effect(Effect::calls(&fact.workload))
            .remedy(Remedy::commands("See its state", look.into_iter().collect(), vec![]))
            .maybe_remedy(restart(&fact.workload, "Start the pods anew".to_owned()))
            .prevention(Prevention::alert(
                "Alert when a proxy is not in service",
                "max by (namespace, pod) (envoy_server_state) > 0",
            ))
    }
}
