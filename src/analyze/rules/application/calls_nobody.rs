//! APP118.

use std::collections::BTreeSet;

use super::calls::{self, Calls, service_of, since};
use super::other_side::addresses;
use super::settings::restart;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::{ServiceName, TargetPort};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A client goes on calling the address of a pod that is gone.
    ///
    /// ## What it detects
    /// Calls that fail (no route, timed out, refused) at an address of the pods' own range that no pod and no Service has any more,
    /// on the port of exactly one Service that has ready endpoints elsewhere.
    /// ## Why it matters
    /// The Service is well and everybody else reaches it: only this client holds on to an address that it resolved earlier. It ends
    /// when the client looks the name up again, which a cache without an end never does. A pod that gets the address later
    /// receives calls that are not meant for it.
    /// ## Evidence
    /// The caller's log lines with the address, the addresses that pods have, the Service's ready endpoints.
    /// ## How to confirm
    /// `kubectl get pods -A -o wide | grep ADDRESS` finds nothing; a look-up of the name in the caller's pod gives other addresses.
    /// ## How to fix
    /// Restart the caller; then bound its cache of addresses: `networkaddress.cache.ttl` of a JVM, a maximum age of connections of a
    /// gRPC server or a connection pool, `round_robin` instead of `pick_first` over a headless Service.
    /// ## False positives
    /// Addresses outside the range of pods (databases, gateways), ports of several Services, failures that ended: not reported.
    /// Within seconds of a rollout it is normal and ends by itself.
    /// ## References
    /// <https://docs.oracle.com/en/java/javase/21/core/java-networking.html>
    CallsNobody {
        code: "APP118", name: "calls-an-address-that-is-gone", family: Application, severity: Error,
        needs: [Status, Logs], aliases: [],
    }
}

/// Calls to an address that nobody has.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    address: String,
    port: u16,
    meant: ServiceName,
    ready: usize,
    caller: Option<ServiceName>,
}

/// The part of an IPv4 address that pods of one node or cluster share: its first two numbers.
fn range(address: &str) -> Option<&str> {
    let mut dots = address.match_indices('.').map(|(at, _)| at);
    address.get(..dots.nth(1)?)
}

impl Check for CallsNobody {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let ranges: BTreeSet<&str> = snapshot
            .pods
            .iter()
            .filter(|pod| !pod.template.host_network)
            .flat_map(|pod| &pod.ips)
            .filter_map(|ip| range(ip))
            .collect();
        let mut out = vec![];
        for calls in &calls::failing(snapshot).all {
            let stale =
                matches!(calls.kind(), Some(Kind::Unreachable | Kind::ConnectTimeout | Kind::Refused));
            if !stale || calls.service().is_some() || calls.severity() < Severity::Warning {
                continue;
            }
            let Some(port) = calls.main().and_then(|group| group.target.as_ref()?.port) else { continue };
            let gone = addresses(calls).into_iter().find(|ip| {
                snapshot.pod_by_ip(ip).is_none() && range(ip).is_some_and(|range| ranges.contains(range))
            });
            let Some(address) = gone else { continue };
            // Whose port it is: of the Services that the caller is known to call, else of its namespace.
            let serves = |name: &ServiceName| {
                let service = snapshot.service(name)?;
                let here = service.ports.iter().any(|p| match &p.target {
                    TargetPort::Number(number) => *number == i64::from(port),
                    TargetPort::Name(_) => p.number == i64::from(port),
                });
                let (ready, _) = snapshot.endpoints(service)?;
                (here && ready > 0).then(|| (name.clone(), ready))
            };
            let called: Vec<_> = snapshot.graph.callees(&calls.caller).filter_map(serves).collect();
            let beside = || {
                let all = snapshot.services.iter().filter(|s| s.object.namespace() == calls.caller.namespace);
                all.filter_map(|s| serves(&s.service_name())).collect::<Vec<_>>()
            };
            let candidates = if called.is_empty() { beside() } else { called };
            let [(meant, ready)] = candidates.as_slice() else { continue };
            out.push(Fact {
                caller: service_of(snapshot, &calls.caller),
                meant: meant.clone(),
                ready: *ready,
                calls: calls.clone(),
                address,
                port,
            });
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let caller = &fact.calls.caller;
        let amount = fact.calls.amount();
        let mut finding = Finding::new(Self::META, caller.clone(), &[&fact.address])
            .title(format!("{} calls {}:{}, which no pod has any more: {amount} failed", caller.name, fact.address, fact.port))
            .message(format!(
                "{caller} calls {}:{}, and no pod and no Service that was seen has this address: {amount} failed{}. The port is that of Service {}, which has {} ready \
                 endpoints elsewhere: the client holds on to an address that it looked up before.",
                fact.address,
                fact.port,
                since(fact.calls.first),
                fact.meant,
                fact.ready
            ))
            .mechanism("stale endpoint: address of a pod that is gone is cached by the client")
            .severity(fact.calls.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(Some(fact.meant.clone()))
            .related(fact.meant.reference())
            .evidences(fact.calls.evidence())
            .evidence(Evidence::object(&fact.meant.reference(), format!("{} endpoints are ready, {} is none of them", fact.ready, fact.address)))
            .onset(fact.calls.first)
            .effect(Effect::calls(caller))
            .remedy(Remedy {
                commands: vec![restart(caller)],
                ..Remedy::manual(format!("Restart {caller}: it looks the name of Service {} up again", fact.meant))
            })
            .prevention(Prevention::of(
                "Setting",
                "Bound how long clients keep addresses and connections: networkaddress.cache.ttl=30 for a JVM, a maximum connection age for gRPC and pools",
            ))
            .prevention(Prevention::alert(
                "Alert where programming of endpoints lags behind",
                "histogram_quantile(0.99, sum by (le) (rate(kubeproxy_network_programming_duration_seconds_bucket[5m]))) > 10",
            ));
        if let Some(service) = &fact.caller {
            finding = finding.effect(Effect::requests(service, &["5xx", "timeout"]));
        }
        finding
    }
}
