//! From a proxy to another one that decides on the same request: the waypoint before a host, or a gateway in the cluster through
//! which requests leave it.

use super::{Leg, Share};
use crate::analyze::twin::Twin;
use crate::analyze::twin::address::Block;
use crate::analyze::twin::answer::{Answer, Backend, Outcome, Sent};
use crate::analyze::twin::ask::{Mode, ProxyNode, ProxyType, Request, Tls};
use crate::analyze::twin::endpoints::{Behind, Endpoint};
use crate::analyze::twin::istio::envoy_filter;
use crate::analyze::twin::istio::proxy::ProxyKey;
use crate::analyze::twin::listener::Connection;
use crate::analyze::twin::party::{Party, Peer};
use crate::analyze::twin::policy::ClientTls;
use crate::analyze::twin::probe::{GATEWAY_NAME, runs_router};
use crate::analyze::twin::registry::{Host, Origin};
use crate::analyze::twin::resolve::Place;
use crate::analyze::twin::simulate;
use crate::analyze::twin::waypoint::{Target, carry};
use crate::model::network::Service;
use crate::model::selector::Labels;

impl<'a> Leg<'_, 'a, '_> {
    /// What becomes of a share that a gateway hands to the waypoint before a host; `None` where none takes it.
    pub(super) fn waypoint_share(
        &self,
        host: &Host<'a>,
        port: u16,
        backend: &Backend,
        answer: &mut Answer,
    ) -> Option<Share> {
        // The gateway has taken it out of what the client wrapped it in.
        let tls = if self.routing.is_some() { Tls::Plaintext } else { self.request.tls };
        let request = Request { tls, ..self.as_sent_on() };
        let place = match host.origin {
            Origin::Service(service) => Place::Service(service),
            Origin::Entry(_) => Place::Outside(host.name.clone()),
        };
        let ip = host.addresses.first().and_then(Block::single);
        let leg = Leg {
            twin: self.twin,
            place: &place,
            ip,
            port,
            request: &request,
            routing: None,
            scope: None,
            door: false,
            h2: false,
            expects: &[],
            ..*self
        };
        let mut inner = Answer::default();
        let taken = carry(&leg, Target::Host(host), "the gateway", &mut inner);
        if !taken {
            answer.steps.append(&mut inner.steps);
            return None;
        }
        Some(self.relayed(inner, &format!("the waypoint before {}", host.name), backend, answer))
    }

    /// What becomes of a share that a Service took: where its pods are a gateway of Istio's, that decides in its turn.
    pub(super) fn past_gateway(
        &self,
        taken: Share,
        (service, port, labels): (&Service, u16, &Labels),
        tls: (&ClientTls, String),
        answer: &mut Answer,
    ) -> Share {
        let Share::Taken(backend) = &taken else { return taken };
        let service = self.twin.snapshot.service(&service.service_name());
        let own = service
            .and_then(|service| Some(self.twin.behind(service, service.port(i64::from(port))?, labels)));
        let Some(Behind::Pods(pods)) = own.as_deref() else { return taken };
        let Some(first) = pods.first() else { return taken };
        self.gateway_share(first, tls, backend, answer).unwrap_or(taken)
    }

    /// What becomes of a share that reached a pod of a gateway of Istio's. `None` where the pod is no gateway's, or where a
    /// gateway sends it.
    fn gateway_share(
        &self,
        endpoint: &Endpoint<'_>,
        (tls, sni): (&ClientTls, String),
        backend: &Backend,
        answer: &mut Answer,
    ) -> Option<Share> {
        let party = &endpoint.party;
        if self.door || !(serves(self.twin, party) || stands_ready(party)) {
            return None;
        }
        if OWN_PORTS.contains(&endpoint.port) {
            return Some(Share::Unknown(format!(
                "port {} is the gateway's own, for its health and metrics",
                endpoint.port
            )));
        }
        let node = ProxyNode {
            namespace: party.namespace().to_owned(),
            kind: ProxyType::Router,
            labels: party.labels().clone(),
            ips: party.ips().to_vec(),
        };
        if let Some(at) = envoy_filter::changing(self.twin, &node, Mode::Gateway, endpoint.port) {
            return Some(Share::Unknown(format!(
                "{} of {at} changes the gateway's configuration",
                at.field_path
            )));
        }
        if let Some(name) = self.arriving().undecided.into_iter().flatten().next() {
            let why = format!(
                "what header {name} is on the way to the gateway {} is not modelled",
                party.reference
            );
            return Some(Share::Unknown(why));
        }
        let request = match tls {
            ClientTls::IstioMutual => Request { tls: Tls::Mtls, sni: Some(sni), ..self.as_sent_on() },
            ClientTls::Originate => Request { tls: Tls::Tls, sni: Some(sni), ..self.as_sent_on() },
            ClientTls::AsSent(_) => self.as_sent_on(),
            // A gateway's own ports take what is sent to them: no proxy chooses mutual TLS for them by itself.
            ClientTls::Auto | ClientTls::Disable if self.routing.is_some() => {
                Request { tls: Tls::Plaintext, ..self.as_sent_on() }
            }
            ClientTls::Auto | ClientTls::Disable => self.as_sent_on(),
        };
        let proxy = self.twin.proxy(ProxyKey { node: node.clone(), dns: false });
        let connection = Connection::of(&request, None, endpoint.port);
        let mut inner = Answer::default();
        let onward = simulate::enter(self.twin, &proxy, Mode::Gateway, &connection, &request, &mut inner);
        if let Some(onward) = onward {
            let from = Peer::Pod(Party { proxy: false, ..party.clone() });
            let place = Place::Outside(request.authority().0);
            let leg = Leg {
                twin: self.twin,
                from: &from,
                namespace: &node.namespace,
                labels: &node.labels,
                place: &place,
                ip: None,
                port: endpoint.port,
                request: &request,
                routing: None,
                scope: Some(&proxy.scope),
                door: true,
                h2: false,
                expects: &[],
            };
            leg.deliver(&onward, &mut inner);
        }
        Some(self.relayed(inner, &format!("the gateway {}", party.reference), backend, answer))
    }

    /// The request as this proxy sends it on.
    fn as_sent_on(&self) -> Request {
        let arriving = self.arriving();
        Request {
            method: arriving.method.to_owned(),
            host: arriving.host.to_owned(),
            path: arriving.path.to_owned(),
            headers: arriving.headers.cloned().unwrap_or_default(),
            ..self.request.clone()
        }
    }

    /// What the next proxy's answer is to this one.
    fn relayed(&self, mut inner: Answer, by: &str, backend: &Backend, answer: &mut Answer) -> Share {
        answer.steps.append(&mut inner.steps);
        answer.lost.append(&mut inner.lost);
        match inner.outcome {
            Outcome::NotModelled => Share::Unknown(inner.detail),
            Outcome::Responded if inner.status.is_some_and(|status| status < 400) => {
                Share::Unknown(format!("{by} answers by itself: {}", inner.detail))
            }
            Outcome::Responded => Share::Failed {
                status: inner.status,
                flag: "",
                why: format!("{by} answers: {}", inner.detail),
            },
            Outcome::Refused => {
                let status = self.routing.is_some().then_some(503);
                Share::Failed { status, flag: if status.is_some() { "UC" } else { "" }, why: inner.detail }
            }
            Outcome::Forwarded if inner.sent != Sent::default() || inner.backends.len() > 1 => {
                Share::Unknown(format!("{by} changes the request once more, or has several destinations"))
            }
            Outcome::Forwarded => {
                Share::Taken(inner.backends.into_iter().next().unwrap_or_else(|| backend.clone()))
            }
        }
    }
}

/// Ports on which a gateway's proxy answers for itself: health and metrics.
const OWN_PORTS: [u16; 3] = [15020, 15021, 15090];

/// Whether pods are there to serve Gateways of Istio's, though none may select them: such a proxy listens on nothing else.
fn stands_ready(party: &Party<'_>) -> bool {
    runs_router(party.template) && !party.labels().contains_key(GATEWAY_NAME)
}

/// Whether some Gateway of Istio's is served by pods with these labels.
fn serves(twin: &Twin<'_>, party: &Party<'_>) -> bool {
    twin.gateways.iter().any(|gateway| {
        !gateway.selector.is_empty()
            && gateway.selector.iter().all(|(key, value)| party.labels().get(key) == Some(value))
    })
}

#[cfg(test)]
mod tests {
    use crate::analyze::twin::Twin;
    use crate::analyze::twin::answer::Answer;
    use crate::analyze::twin::ask::{Ask, Named, Origin, Request};
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    /// A call of `bank.example.com` by a pod whose requests to it leave through gateway `egress`.
    fn asked(path: &str, server: Value, rule: Value) -> Answer {
        let mut builder = Builder::new();
        let pod = |name: &str, containers: Value| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "n"},
                "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}})
        };
        builder.object(pod("web", json!([{"name": "c"}, {"name": "istio-proxy"}])));
        builder.object(pod("egress", json!([{"name": "istio-proxy", "args": ["proxy", "router"]}])));
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "egress", "namespace": "n"}, "spec": {"selector": {"app": "egress"}, "ports": ports}}));
        let istio = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": spec});
        builder.object(istio(
            "ServiceEntry",
            "bank",
            json!({"hosts": ["bank.example.com"], "resolution": "DNS",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}),
        ));
        builder.object(istio(
            "Gateway",
            "egress",
            json!({"selector": {"app": "egress"}, "servers": [server]}),
        ));
        builder.object(istio("DestinationRule", "egress", json!({"host": "egress", "trafficPolicy": rule})));
        builder.object(istio("VirtualService", "bank", json!({"hosts": ["bank.example.com"], "gateways": ["mesh", "egress"], "http": [
            {"match": [{"gateways": ["mesh"]}], "route": [{"destination": {"host": "egress", "port": {"number": 80}}}]},
            {"match": [{"gateways": ["egress"], "uri": {"prefix": "/ok"}}], "route": [{"destination": {"host": "bank.example.com", "port": {"number": 80}}}]}]})));
        let snapshot = builder.finish();
        let from =
            Origin::Workload(Named { namespace: "n".into(), kind: "Deployment".into(), name: "web".into() });
        let request = Request { host: "bank.example.com".into(), path: path.into(), ..Request::default() };
        Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request })
    }

    #[test]
    fn a_gateway_on_the_way_out_decides_in_its_turn() {
        let plain = json!({"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["bank.example.com"]});
        let out = asked("/ok", plain.clone(), json!({}));
        assert_eq!(
            (out.label().as_str(), out.backends[0].service.as_str()),
            ("200", "bank.example.com"),
            "{out:?}"
        );
        assert_eq!(out.cluster, "outbound|80||egress.n.svc.cluster.local");
        let none = asked("/else", plain.clone(), json!({}));
        assert_eq!(none.label(), "404", "{none:?}");
        assert!(none.detail.contains("gateway"), "{none:?}");
        let elsewhere = json!({"port": {"number": 8081, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]});
        assert_eq!(asked("/ok", elsewhere, json!({})).label(), "503 UC");
        // Mutual TLS to a server that takes plaintext, and to one that takes it for the name that is sent.
        let mutual = |sni: &str| json!({"tls": {"mode": "ISTIO_MUTUAL", "sni": sni}});
        let tls = json!({"port": {"number": 8080, "name": "https", "protocol": "HTTPS"}, "hosts": ["bank.example.com"], "tls": {"mode": "ISTIO_MUTUAL"}});
        assert_eq!(asked("/ok", tls.clone(), mutual("bank.example.com")).label(), "200");
        assert_eq!(asked("/ok", tls, mutual("other.example.com")).label(), "503 UC");
        assert_eq!(asked("/ok", plain, mutual("bank.example.com")).label(), "503 UC");
    }

    #[test]
    fn a_gateway_that_no_gateway_selects_listens_on_nothing() {
        let labels = json!({"app": "edge", "istio": "edge"});
        let pod = |name: &str, labels: &Value, proxy: Value| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "n"},
                "spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c"}, proxy]}}}})
        };
        let gateway = |selector: &str| {
            json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "n"},
                "spec": {"selector": {"istio": selector}, "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}})
        };
        let asked = |selector: &str, port: u16| {
            let mut builder = Builder::new();
            builder.object(pod("web", &json!({"app": "web"}), json!({"name": "istio-proxy"})));
            builder.object(pod("edge", &labels, json!({"name": "istio-proxy", "args": ["proxy", "router"]})));
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "edge", "namespace": "n"},
                "spec": {"selector": {"app": "edge"}, "ports": [{"name": "http", "port": 80}, {"name": "status-port", "port": 15021}]}}));
            builder.object(gateway(selector));
            let snapshot = builder.finish();
            let from = Origin::Workload(Named {
                namespace: "n".into(),
                kind: "Deployment".into(),
                name: "web".into(),
            });
            let request = Request { host: format!("edge.n:{port}"), path: "/".into(), ..Request::default() };
            Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request })
        };
        assert_eq!(asked("edg", 80).label(), "503 UC");
        assert_eq!(asked("edge", 80).label(), "404");
        for selector in ["edg", "edge"] {
            let own = asked(selector, 15021);
            assert!(own.detail.contains("the gateway's own"), "{own:?}");
        }
    }
}
