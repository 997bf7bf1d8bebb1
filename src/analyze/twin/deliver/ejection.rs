//! Endpoints that the caller's own proxy has ejected, where its admin port was seen.

use super::Leg;
use crate::analyze::twin::answer::{Answer, Backend, Step};
use crate::analyze::twin::endpoints::Endpoint;
use crate::model::mesh::istio::CLUSTER_DOMAIN;

impl Leg<'_, '_, '_> {
    /// The endpoints that the caller's proxy has not ejected; all of them where it was not looked into. `Err`: none is left, and
    /// why. (Istio switches off the panic in which Envoy would send to ejected ones.)
    pub(super) fn not_ejected<'e>(
        &self,
        backend: &Backend,
        pods: &[Endpoint<'e>],
        answer: &mut Answer,
    ) -> Result<Vec<Endpoint<'e>>, String> {
        let Some(caller) = self.from.party().and_then(|party| party.pod) else { return Ok(pods.to_vec()) };
        let proxy = self.twin.snapshot.proxy(caller.object.namespace(), caller.object.name());
        let name = format!(
            "outbound|{}|{}|{}.{}.svc.{CLUSTER_DOMAIN}",
            backend.port, backend.subset, backend.service, backend.namespace
        );
        let Some(cluster) = proxy.and_then(|proxy| proxy.cluster(&name)) else { return Ok(pods.to_vec()) };
        let out = |endpoint: &Endpoint<'_>| {
            let ejected = cluster.hosts.iter().filter(|host| host.ejected);
            let own = endpoint.party.ips();
            ejected.into_iter().any(|host| own.iter().any(|ip| ip == host.ip()))
        };
        let left: Vec<Endpoint<'e>> = pods.iter().filter(|pod| !out(pod)).cloned().collect();
        if left.len() == pods.len() {
            return Ok(left);
        }
        let told = format!(
            "outlier detection in the proxy of {} has ejected {} of {} pods",
            self.from,
            pods.len() - left.len(),
            pods.len()
        );
        answer.steps.push(Step::plain(told.clone()));
        if left.is_empty() { Err(told) } else { Ok(left) }
    }
}

#[cfg(test)]
mod tests {
    use crate::analyze::twin::Twin;
    use crate::analyze::twin::answer::Outcome;
    use crate::analyze::twin::ask::{Ask, Named, Origin, Request};
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    /// What a caller's request comes to whose proxy has ejected these pods of two.
    fn asked(ejected: &[&str]) -> crate::analyze::twin::answer::Answer {
        let mut builder = Builder::new();
        builder.object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b", "namespace": "n"},
            "spec": {"selector": {"app": "b"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
        );
        for (name, app, ip) in [("a-1", "a", "10.0.0.1"), ("b-1", "b", "10.0.0.2"), ("b-2", "b", "10.0.0.3")]
        {
            builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": {"app": app}},
                "spec": {"containers": [{"name": "c"}, {"name": "istio-proxy"}]},
                "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}}));
        }
        let hosts: Vec<_> = ["10.0.0.2", "10.0.0.3"]
            .iter()
            .map(|ip| {
                json!({"address": {"socket_address": {"address": ip, "port_value": 8080}},
                    "health_status": {"failed_outlier_check": ejected.contains(ip), "eds_health_status": "HEALTHY"}})
            })
            .collect();
        let clusters = json!({"cluster_statuses": [{"name": "outbound|80||b.n.svc.cluster.local", "host_statuses": hosts}]});
        builder.proxy("n", "a-1", "clusters.json", clusters.to_string().as_bytes());
        let snapshot = builder.finish();
        let from = Origin::Workload(Named { namespace: "n".into(), kind: "Pod".into(), name: "a-1".into() });
        let request = Request { host: "b".into(), ..Request::default() };
        Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request })
    }

    #[test]
    fn what_the_callers_proxy_has_ejected_gets_nothing() {
        assert_eq!(asked(&[]).backends[0].pods, ["b-1", "b-2"]);
        assert_eq!(asked(&["10.0.0.2"]).backends[0].pods, ["b-2"]);
        let none = asked(&["10.0.0.2", "10.0.0.3"]);
        assert_eq!((none.outcome, none.status, none.flag.as_str()), (Outcome::Responded, Some(503), "UH"));
        assert!(none.detail.contains("ejected 2 of 2 pods"), "{}", none.detail);
    }
}
