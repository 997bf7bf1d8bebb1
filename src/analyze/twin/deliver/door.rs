//! At a gateway's door, of Istio or of the Gateway API: what policies say to a client outside, and the way on from there.

use std::collections::BTreeMap;

use super::Leg;
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::{Answer, ProxyError};
use crate::analyze::twin::ask::Request;
use crate::analyze::twin::http::operators::Reply;
use crate::analyze::twin::istio::scope::Scope;
use crate::analyze::twin::party::{Party, Peer};
use crate::analyze::twin::policy::{self, Arriving, Ruling};
use crate::analyze::twin::resolve::Place;
use crate::analyze::twin::simulate::Onward;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// Whether policies at the gateway admit a request. They look at it before any route answers, and after TLS: where no filter
/// chain took the connection, nobody asks them. Of the client nothing but the request is known: where its address or identity
/// decides, the twin cannot say.
/// `port` is that of the gateway's pod.
pub fn admits(
    twin: &Twin<'_>,
    gateway: &Party<'_>,
    (request, port): (&Request, u16),
    answer: &mut Answer,
) -> bool {
    let taken = !matches!(
        answer.error,
        Some(
            ProxyError::NoListener
                | ProxyError::NoFilterChain
                | ProxyError::MultipleFilterChains
                | ProxyError::ProtocolError
                | ProxyError::InvalidTLS
                | ProxyError::InvalidMTLS
        )
    );
    if !taken {
        return true;
    }
    let http = request.protocol.is_http() && !answer.route_config.is_empty();
    let arriving = http.then(|| Arriving {
        method: &request.method,
        host: &request.host,
        path: &request.path,
        headers: Some(&request.headers),
        undecided: None,
    });
    let verdict = policy::at_the_door(twin, gateway, (request, port), arriving);
    answer.steps.extend(verdict.steps);
    match verdict.ruling {
        Ruling::Allowed => true,
        Ruling::NotModelled(why) => {
            answer.give_up(format!("{why}; who asks from outside is not known"));
            false
        }
        Ruling::Refused { status, flag, detail } => {
            // What a route would have done is not what the client sees.
            answer.error = None;
            answer.location.clear();
            // The route that took the request changes the headers of this answer, too.
            let reply = Reply::own(status.unwrap_or_default(), flag);
            answer.changes.clone().make(reply, BTreeMap::new(), answer);
            answer.route.clear();
            answer.lost.clear();
            answer.cluster.clear();
            match status {
                Some(status) => answer.respond(status, flag, detail),
                None => answer.refuse(flag, detail),
            }
            false
        }
    }
}

/// Whether anything in the mesh decides by who calls.
pub fn decided(snapshot: &Snapshot) -> bool {
    !snapshot.istio.authorization_policies.is_empty() || !snapshot.network_policies.is_empty()
}

/// From a gateway's proxy to what is behind it. `party` is the gateway's pod; its namespace and labels are those that its
/// configuration was made for, and `scope` what a proxy of Istio's sees of the mesh.
pub fn send_on<'a>(
    twin: &Twin<'a>,
    party: Party<'_>,
    (namespace, labels, scope): (&str, &Labels, Option<&Scope<'a>>),
    (request, port): (&Request, u16),
    onward: &Onward,
    answer: &mut Answer,
) {
    let from = Peer::Pod(party);
    let place = Place::Outside(request.authority().0);
    let leg = Leg {
        twin,
        from: &from,
        namespace,
        labels,
        place: &place,
        ip: None,
        port,
        request,
        routing: None,
        scope,
        door: true,
        h2: false,
        expects: &[],
    };
    leg.deliver(onward, answer);
}

#[cfg(test)]
mod tests {
    use crate::analyze::twin::Twin;
    use crate::analyze::twin::answer::{Answer, Outcome};
    use crate::analyze::twin::ask::{Ask, Named, Origin, Request};
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    /// A request at a Gateway whose pods a policy with this spec guards.
    fn asked(path: &str, spec: Value) -> Answer {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"},
            "spec": {"selector": {"istio": "gw"}, "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["a.example.com"]}]}}));
        builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gw", "namespace": "n"},
            "spec": {"template": {"metadata": {"labels": {"istio": "gw"}}, "spec": {"containers": [{"name": "istio-proxy", "args": ["proxy", "router"]}]}}}}));
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "v", "namespace": "n"},
            "spec": {"hosts": ["a.example.com"], "gateways": ["g"], "http": [{"match": [{"uri": {"prefix": "/ok"}}], "directResponse": {"status": 200}}]}}));
        let mut policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        policy["spec"]["selector"] = json!({"matchLabels": {"istio": "gw"}});
        builder.object(policy);
        let snapshot = builder.finish();
        let from = Origin::Gateway(Named { namespace: "n".into(), kind: String::new(), name: "g".into() });
        let request = Request { host: "a.example.com".into(), path: path.into(), ..Request::default() };
        Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request })
    }

    #[test]
    fn a_policy_that_reads_the_request_alone_decides_before_any_route_does() {
        let allow = json!({"rules": [{"to": [{"operation": {"paths": ["/ok*"]}}]}]});
        assert_eq!(asked("/ok", allow.clone()).status, Some(200));
        let denied = asked("/else", allow);
        assert_eq!((denied.outcome, denied.status, denied.error), (Outcome::Responded, Some(403), None));
        let deny = json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]});
        assert_eq!(asked("/ok", deny).status, Some(403));
        // Nobody outside shows an identity of the mesh.
        let identity = json!({"rules": [{"from": [{"source": {"namespaces": ["n"]}}]}]});
        assert_eq!(asked("/ok", identity).status, Some(403));
    }

    #[test]
    fn where_the_clients_address_decides_nobody_can_say() {
        let block = json!({"rules": [{"from": [{"source": {"remoteIpBlocks": ["10.0.0.0/8"]}}]}]});
        let answer = asked("/ok", block);
        assert_eq!(answer.outcome, Outcome::NotModelled);
        assert!(answer.detail.contains("who asks from outside is not known"), "{}", answer.detail);
    }
}
