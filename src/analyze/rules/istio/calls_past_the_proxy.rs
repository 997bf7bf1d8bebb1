//! ISTIO167.

use std::collections::BTreeSet;

use super::past_the_proxy::{Past, outbound};
use super::support::{failing, parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common::undo_last_rollout;
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, text};
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A caller's connections go past its own proxy, and the callee wants mutual TLS.
    ///
    /// ## What it detects
    /// Connections that a callee's proxy refuses as plaintext (`NR filter_chain_not_found`) while its mutual TLS is STRICT, from pods
    /// that do have a sidecar, and whose annotations leave the Service out: `excludeOutboundPorts` names its port,
    /// `excludeOutboundIPRanges` holds its address, or `includeOutboundIPRanges` does not and `includeOutboundPorts` lacks the port.
    /// ## Why it matters
    /// The caller has a proxy and looks like part of the mesh; what it sends to this port is plaintext all the same.
    /// ## Evidence
    /// The annotation on the caller's pod template, the callee's mode, and the refused connections in the callee's access log.
    /// ## How to confirm
    /// `kubectl get pod POD -o jsonpath='{.metadata.annotations}'` names the port or the range; the caller's proxy logs no such request.
    /// ## How to fix
    /// Take the port or the range out of the annotation.
    /// ## False positives
    /// A port that has to go past the proxy on purpose: then the callee's PeerAuthentication needs an exception for it.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/annotations/>
    CallsPastTheProxy {
        code: "ISTIO167", name: "calls-past-the-proxy", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// A caller whose proxy does not get its calls.
#[derive(Debug)]
pub struct Fact<'a> {
    caller: &'a Workload,
    service: &'a Service,
    past: Past<'a>,
    port: i64,
    policy: Option<ObjectRef>,
    seen: Failures,
}

impl Check for CallsPastTheProxy {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        let told = |seen: &Failures| seen.severity().is_some();
        for (seen, service) in failing(snapshot, Way::NoFilterChain).filter(|(seen, _)| told(seen)) {
            let Some(callee) = snapshot.workloads_behind(service).next() else { continue };
            let (mode, policy) =
                snapshot.istio.peer_mode(service.object.namespace(), &callee.template.labels, None);
            if mode != "STRICT" {
                continue;
            }
            let pods = seen.clients().into_keys().filter_map(|ip| snapshot.pod_by_ip(ip));
            let callers: BTreeSet<ObjectRef> =
                pods.filter(|pod| snapshot.has_istio_proxy(pod)).map(|pod| snapshot.owner(pod)).collect();
            for caller in callers.iter().filter_map(|owner| snapshot.workload(owner)) {
                let addresses = addresses(snapshot, service);
                let mut ports = service.ports.iter().map(|port| port.number);
                let past = ports.find_map(|port| Some((outbound(&caller.template, &addresses, port)?, port)));
                if let Some((past, port)) = past {
                    let (policy, seen) = (policy.clone(), seen.clone());
                    out.push(Fact { caller, service, past, port, policy, seen });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let caller = fact.caller.reference();
        let field = fact.caller.template_path(&format!("metadata.annotations.{}", fact.past.annotation));
        let name = fact.service.service_name();
        let (value, short) = (text::plain(fact.past.value, 60), fact.past.short());
        let strict = fact.policy.as_ref().map(|policy| format!(", as {policy} says")).unwrap_or_default();
        let mut finding = Finding::new(Self::META, caller.field(&field), &[&name.to_string()])
            .title(format!("{caller}: {short} takes calls of {} past its proxy, and {} wants mutual TLS", name.name, name.name))
            .message(format!(
                "{short} of {caller} is \"{value}\", so its calls to port {} of Service {name} leave as plaintext, past its proxy. The callee accepts mutual TLS alone{strict}: {} were refused{}.",
                fact.port,
                text::share(fact.seen.count, fact.seen.requests, "connections and requests"),
                since(fact.seen.onset)
            ))
            .mechanism(format!("{short}: plaintext past the sidecar to a callee with STRICT mutual TLS (mTLS)"))
            .severity(fact.seen.severity().unwrap_or(Severity::Error))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&caller.field(&field), format!("{short} \"{value}\"")))
            .evidences(parts(&fact.seen))
            .effect(Effect::requests(&name, &["NR", "tls", "reset", "5xx"]))
            .effect(Effect::calls(caller))
            .maybe_remedy(fact.past.remedy(fact.caller, fact.port))
            .maybe_remedy(undo_last_rollout(snapshot, caller, short))
            .prevention(Prevention::alert(
                "Alert when a proxy refuses plaintext",
                "sum by (pod) (rate(envoy_listener_no_filter_chain_match[5m])) > 0",
            ))
            .prevention(Prevention::of("Policy", "Refuse pod templates whose excludeOutboundPorts names a port that Services of the mesh use"));
        finding.related.extend(fact.policy.clone());
        finding
    }
}

/// Where connections to a Service go: its own addresses, or those of its pods where it is headless.
fn addresses(snapshot: &Snapshot, service: &Service) -> Vec<String> {
    let own: Vec<String> = service.cluster_ips.iter().filter(|ip| *ip != "None").cloned().collect();
    if own.is_empty() {
        snapshot.pods_behind(service).flat_map(|pod| pod.ips.iter().cloned()).collect()
    } else {
        own
    }
}
