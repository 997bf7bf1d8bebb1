//! Calls that time out because nobody answers the look-up of the callee's name.

use std::sync::Arc;

use crate::analyze::finding::Severity;
use crate::analyze::logs::digest::{Digest, percentile};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::rules::application::calls::{Calls, Failing};
use crate::analyze::rules::application::other_side::addresses;
use crate::analyze::rules::network::network_policy_blocks::blocked;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// A callee that answers within so many milliseconds is not what its callers wait for: clients that give up earlier are rare.
const QUICK_MILLIS: f64 = 250.0;

/// Calls by name of a workload with name servers of its own that time out, where nothing but the look-up explains it; empty
/// where one of its servers runs in the cluster, where a call got as far as the callee, or where the callee itself is slow.
pub fn unanswered(snapshot: &Snapshot, workload: &Workload, failing: &Failing) -> Vec<Calls> {
    let servers = workload.template.spec.texts("dnsConfig.nameservers");
    if servers.is_empty() || servers.iter().any(|address| answers(snapshot, address)) {
        return vec![];
    }
    let own: Vec<&Calls> = failing
        .all
        .iter()
        .filter(|c| c.caller.same_object(workload.reference()) && c.severity() >= Severity::Warning)
        .collect();
    let by_name = |c: &&&Calls| c.service().is_some() && addresses(c).is_empty();
    if own.iter().filter(by_name).any(|c| c.kind().is_some_and(resolved)) {
        return vec![];
    }
    let timed_out = own.into_iter().filter(|c| by_name(&c) && c.kind() == Some(Kind::Timeout));
    timed_out
        .filter(|c| {
            c.service().is_some_and(|callee| {
                reachable(snapshot, workload, callee)
                    && !others_fail(c, callee, failing)
                    && !slow(snapshot, callee, c)
            })
        })
        .cloned()
        .collect()
}

/// Whether something of the cluster answers at an address: a server that somebody runs there and that forwards.
fn answers(snapshot: &Snapshot, address: &str) -> bool {
    let service = snapshot.services.iter().find(|s| s.cluster_ips.iter().any(|ip| ip == address));
    service.is_some_and(|s| snapshot.endpoints(s).is_none_or(|(ready, _)| ready > 0))
        || snapshot.pod_by_ip(address).is_some_and(|pod| pod.ready())
        || snapshot.objects_of("Node").any(|node| {
            node.body.list("status.addresses").iter().any(|entry| entry.text("address") == Some(address))
        })
}

/// Whether a call that failed so had the callee's address before.
fn resolved(kind: Kind) -> bool {
    !matches!(kind, Kind::Timeout | Kind::NoSuchHost | Kind::Resolver | Kind::Pool)
}

/// Whether the callee has ready endpoints, and no policy keeps this workload from them.
fn reachable(snapshot: &Snapshot, workload: &Workload, callee: &ServiceName) -> bool {
    snapshot.service(callee).is_some_and(|service| {
        snapshot.endpoints(service).is_some_and(|(ready, _)| ready > 0)
            && blocked(snapshot, workload, service).is_none()
    })
}

/// Whether anybody else fails at a Service: then the fault is not this caller's.
pub fn others_fail(calls: &Calls, callee: &ServiceName, failing: &Failing) -> bool {
    failing.all.iter().any(|other| {
        !other.caller.same_object(&calls.caller)
            && other.service() == Some(callee)
            && other.severity() >= Severity::Warning
    })
}

/// Whether the callee's own log shows requests that take long.
fn slow(snapshot: &Snapshot, callee: &ServiceName, calls: &Calls) -> bool {
    let Some(first) = calls.first else { return false };
    let digest: Arc<Digest> = snapshot.derived();
    let behind = snapshot.graph.backing.get(callee);
    behind
        .into_iter()
        .flatten()
        .filter_map(|workload| digest.workloads.get(workload))
        .any(|log| percentile(&log.durations(first, true), 0.95).is_some_and(|millis| millis > QUICK_MILLIS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::rules::application::calls::failing;
    use crate::model::json::{Value, json};
    use crate::model::log::LogStream;
    use crate::model::snapshot::Builder;

    const TIMED_OUT: &str = r#"error="Get \"http://pay/a\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)""#;

    fn log(builder: &mut Builder, pod: &str, line: &str) {
        let lines: String =
            (10..20).map(|s| format!("2026-11-21T10:00:{s}Z level=error msg=x {line}\n")).collect();
        builder.log(LogStream::read("n", pod, "app", false, lines.as_bytes(), false));
    }

    fn builder(server: &str) -> Builder {
        let mut builder = Builder::new();
        let mut put = |kind: &str, version: &str, name: &str, spec: Value, status: Value| {
            builder.object(json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "n", "labels": {"app": name}}, "spec": spec, "status": status}));
        };
        let ready = |ip: &str| json!({"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]});
        let containers = json!([{"name": "app"}]);
        put(
            "Service",
            "v1",
            "pay",
            json!({"clusterIP": "10.0.0.2", "selector": {"app": "pay"}, "ports": [{"port": 80}]}),
            Value::Null,
        );
        let own = json!({"metadata": {"labels": {"app": "pay"}}, "spec": {"containers": containers}});
        put("Deployment", "apps/v1", "pay", json!({"template": own}), Value::Null);
        put("Pod", "v1", "resolver", json!({"containers": containers}), ready("10.1.0.53"));
        let template = json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": containers, "dnsPolicy": "None", "dnsConfig": {"nameservers": [server]}}});
        put("Deployment", "apps/v1", "shop", json!({"template": template}), Value::Null);
        for (name, ip) in [("shop", "10.1.0.1"), ("pay", "10.1.0.2")] {
            builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{name}-5d-x"), "namespace": "n", "labels": {"app": name, "pod-template-hash": "5d"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-5d"), "controller": true}]}, "spec": {"containers": containers}, "status": ready(ip)}));
        }
        log(&mut builder, "shop-5d-x", TIMED_OUT);
        builder
    }

    fn found(builder: Builder) -> usize {
        let snapshot = builder.finish();
        let shop = snapshot.workloads.iter().find(|w| w.object.name() == "shop").unwrap();
        unanswered(&snapshot, shop, &failing(&snapshot)).len()
    }

    #[test]
    fn time_outs_count_where_no_name_server_is_known_and_nobody_else_fails() {
        assert_eq!(found(builder("10.0.0.250")), 1);
        // A server that runs in the cluster answers, whoever keeps it.
        assert_eq!(found(builder("10.1.0.53")), 0);
        let mut all = builder("10.0.0.250");
        log(&mut all, "other", TIMED_OUT);
        assert_eq!(found(all), 0, "the callee fails for everybody");
        let mut slow = builder("10.0.0.250");
        log(&mut slow, "pay-5d-x", "path=/a status=200 ms=900");
        assert_eq!(found(slow), 0, "the callee is slow");
        let mut got_there = builder("10.0.0.250");
        log(&mut got_there, "shop-5d-x", r#"error="Get \"http://pay/a\": connection reset by peer""#);
        assert_eq!(found(got_there), 0, "a call got as far as the callee");
    }
}
